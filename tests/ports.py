"""A port for a process that is told where to listen. Nobody else is given it before that process has it."""

from __future__ import annotations

import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def held() -> Iterator[int]:
    """Of 127.0.0.1. On Linux it stays taken, and not listened on: whoever sets SO_REUSEADDR, as servers do, may listen
    there; the system gives it to nobody who takes any. Elsewhere it is merely free.
    """
    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(("127.0.0.1", 0))
        port = int(sock.getsockname()[1])
        if sys.platform != "linux":
            sock.close()
        yield port
