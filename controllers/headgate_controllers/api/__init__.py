"""The control API: FastAPI on loopback. Routers exchange, ops ask, people act; each with its own token."""
