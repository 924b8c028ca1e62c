"""Where replicas run: one adapter per platform."""
