"""Which endpoint a raw path is for, before anything is decoded; the endpoint need not be there."""

from __future__ import annotations

from typing import Final

ENDPOINTS: Final = b"/endpoints/"
SWAGGER = b"swagger.json"  # below an endpoint: a document, not a question to the model


def suffix(domain: str) -> bytes:
    """What the host of an endpoint ends with, for `place`."""
    return f".{domain.lower().strip('.')}".encode() if domain else b""


def place(path: bytes, host: bytes, ending: bytes) -> tuple[str, bytes]:
    """The endpoint a raw path is for, and the path below it; ("", b""): it is not for scoring.

    Args:
        ending: `.DOMAIN`, under which endpoints are names of hosts; empty: by path only.
    """
    if path.startswith(ENDPOINTS):
        name, slash, rest = path[len(ENDPOINTS) :].partition(b"/")
        return (name.decode("latin-1"), rest) if slash else ("", b"")
    if ending:
        host = host.partition(b":")[0].lower()
        if host.endswith(ending):
            return host[: -len(ending)].decode("latin-1"), path[1:]
    return "", b""
