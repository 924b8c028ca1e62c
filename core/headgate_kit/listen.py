"""The listening socket, and how it outlives whoever opened it.

One process binds; workers inherit the socket; each worker offers it on a Unix socket of its own, so that a new
supervisor takes it over after the old one was killed and no caller is refused meanwhile. It is handed to processes of
the same user only.
"""

from __future__ import annotations

import os
import selectors
import socket
import struct
import sys
import tempfile
import threading
import time
from pathlib import Path

BACKLOG = 2048  # connects that wait while a worker comes back
MAX_UNIX_PATH = 100  # bytes; the systems' limits are 104 and 108
TAKE_S = 2.0
PAUSE_S = 0.05  # after a hand-over that failed, so that a broken machine is not made busy too
_LOCAL_PEERCRED = 1  # macOS, <sys/un.h>


def bind(host: str, port: int) -> socket.socket:
    """A listening TCP socket; port 0: any free one. Raises OSError: the address is taken, or not of this machine."""
    family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    sock = socket.socket(family, kind, protocol)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(address)
        sock.listen(BACKLOG)
    except OSError:
        sock.close()
        raise
    sock.setblocking(False)
    return sock


def adopt(fd: int) -> socket.socket:
    """An inherited listening socket. Raises OSError: the descriptor is not one."""
    sock = socket.socket(fileno=fd)
    sock.setblocking(False)
    return sock


class Offer:
    """Hands out a listening socket until closed."""

    def __init__(self, sock: socket.socket, path: Path) -> None:
        self._fd = os.dup(sock.fileno())  # of our own: the server closes its copy when it drains
        self._path = path
        self._address = _place(path)
        self._door = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._door.bind(self._address)
        os.chmod(self._address, 0o600)
        self._door.listen(8)
        self._door.setblocking(False)
        self._file = os.stat(self._address).st_ino
        self._woken, self._wake = socket.socketpair()
        self._thread = threading.Thread(target=self._serve, name="offer", daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        with selectors.DefaultSelector() as waiting:
            waiting.register(self._door, selectors.EVENT_READ)
            waiting.register(self._woken, selectors.EVENT_READ)
            while all(key.fileobj is self._door for key, _ in waiting.select()):
                try:
                    self._hand_out()
                except OSError:  # a peer that left before it took the descriptor, or we are out of descriptors
                    time.sleep(PAUSE_S)

    def _hand_out(self) -> None:
        peer, _ = self._door.accept()
        with peer:
            if _uid_of(peer) == os.getuid():
                socket.send_fds(peer, [b"listen"], [self._fd])

    def close(self) -> None:
        """Ends the offer; the listening socket itself is left alone, and so is a successor's offer at the same path."""
        self._wake.send(b"!")
        self._thread.join()
        for end in (self._door, self._woken, self._wake):
            end.close()
        os.close(self._fd)
        named = _address(self._path) == self._address
        if _inode(self._address) == self._file:
            os.unlink(self._address)
        if self._address != str(self._path):
            os.rmdir(os.path.dirname(self._address))
            if named:
                self._path.unlink(missing_ok=True)


def offer(sock: socket.socket, path: Path) -> Offer:
    """Hands `sock` to whoever of the same user connects to the Unix socket at `path`. Raises OSError."""
    return Offer(sock, path)


def take(path: Path) -> socket.socket | None:
    """The listening socket offered at `path`; None: nobody offers one there (any more)."""
    address = _address(path)
    if address is None:
        return None
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as door:
        door.settimeout(TAKE_S)
        try:
            door.connect(address)
            if _uid_of(door) != os.getuid():
                return None
            _, fds, _, _ = socket.recv_fds(door, 16, 1)
        except OSError:
            return None
    return adopt(fds[0]) if fds else None


def _place(path: Path) -> str:
    """Where to bind: `path`, or a short one elsewhere that a file at `path` names."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    if len(os.fsencode(path)) <= MAX_UNIX_PATH:
        return str(path)
    short = os.path.join(tempfile.mkdtemp(prefix="headgate-"), "listen.sock")
    path.write_text(short)
    path.chmod(0o600)
    return short


def _address(path: Path) -> str | None:
    try:
        if path.is_socket():
            return str(path)
        return path.read_text()[:MAX_UNIX_PATH] if path.stat().st_uid == os.getuid() else None
    except OSError:
        return None


def _inode(path: str) -> int | None:
    try:
        return os.stat(path).st_ino
    except OSError:
        return None


def _uid_of(peer: socket.socket) -> int:
    """The user at the other end of a Unix socket. Raises OSError."""
    if sys.platform == "darwin":
        credentials = peer.getsockopt(0, _LOCAL_PEERCRED, 76)
        return int(struct.unpack_from("=II", credentials)[1])
    credentials = peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    return int(struct.unpack("3i", credentials)[1])
