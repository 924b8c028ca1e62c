"""TLS at the door: the certificate, taken up anew when its files change, and the socket that only TLS comes through.

Connections that are open keep the certificate they were greeted with. Who speaks plain HTTP is told so in plain HTTP
and sent away: a request that arrived unencrypted has already shown its credential. Refuses a certificate that does not
load: the last good one serves on.
"""

from __future__ import annotations

import asyncio
import json
import logging
import socket
import ssl
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from headgate.findings import Finding, FindingsError, Place
from headgate_kit.followed import Followed, why

log = logging.getLogger("headgate.router")

FIRST_BYTE_S = 10.0  # for a connection to begin its handshake
HANDSHAKE_S = 30.0  # to end it: on a machine that is short of CPU both sides are slow
MOST_GREETED = 1024  # handshakes at once; more connections wait in the backlog
_HANDSHAKE = 0x16  # the first byte of a TLS record that greets
_LINGER_S = 1.0

_BODY = json.dumps({"error": {"code": "tls-needed", "message": "this port speaks HTTPS only: write https://"}}).encode()
PLAIN = (
    b"HTTP/1.1 400 Bad Request\r\ncontent-type: application/json\r\nconnection: close\r\ncontent-length: %d\r\n\r\n%b"
    % (len(_BODY), _BODY)
)


class Certificate(Followed):
    """One certificate chain and its key."""

    def __init__(self, chain: Path, key: Path) -> None:
        """Raises FindingsError: they cannot be used."""
        super().__init__(lambda: _context(chain, key), chain, (chain, key))


def _context(chain: Path, key: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    try:
        context.load_cert_chain(chain, key, password="")  # of a locked key the terminal would be asked
    except (OSError, ValueError) as error:
        raise FindingsError(_unusable(chain, key, error)) from error
    return context


def _unusable(chain: Path, key: Path, error: Exception) -> Finding:
    return Finding(
        code="tls-files",
        message=f"{chain} and {key} are no certificate and its key: {why(error)}",
        why="callers could not be greeted with TLS",
        fix="give the whole chain as PEM with --tls-cert, and its key, without a password, with --tls-key",
        place=Place(str(chain)),
    )


class Entrance:
    """Accepts on a listening socket, and lets in what begins a handshake. To its server it is a server."""

    def __init__(self, sock: socket.socket, certificate: Certificate, protocol: Callable[[], asyncio.Protocol]) -> None:
        self._sock = sock.dup()  # of our own: the server closes its copy before the last accept has ended
        self._certificate = certificate
        self._protocol = protocol
        self._greeting: set[asyncio.Task[None]] = set()
        self._room = asyncio.Semaphore(MOST_GREETED)
        self._accepting = asyncio.get_running_loop().create_task(self._accept())
        self.refused = 0  # connections that began with something else, or never ended their handshake

    def close(self) -> None:
        """No new connection; those that are greeted go on."""
        self._accepting.cancel()

    async def wait_closed(self) -> None:
        with suppress(asyncio.CancelledError):
            await self._accepting
        if self._greeting:
            await asyncio.wait(self._greeting)

    async def _accept(self) -> None:
        try:
            await self._accept_all()
        finally:
            self._sock.close()

    async def _accept_all(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await self._room.acquire()
            try:
                connection = await self._accepted()
            except OSError as error:  # the caller has left already, or this process has no descriptor left
                self._room.release()
                log.debug("a connection was not accepted: %s", error)
                await asyncio.sleep(0.01)
                continue
            except asyncio.CancelledError:
                self._room.release()
                raise
            task = loop.create_task(self._greet(connection))
            self._greeting.add(task)
            task.add_done_callback(self._greeted)

    async def _accepted(self) -> socket.socket:
        """Taken in the step that hands it on: one that is ended while it waits takes none along with it."""
        while True:
            with _watched(self._sock) as readable:
                await readable
            with suppress(BlockingIOError):  # another worker was faster
                return self._sock.accept()[0]

    def _greeted(self, task: asyncio.Task[None]) -> None:
        self._greeting.discard(task)
        self._room.release()

    async def _greet(self, connection: socket.socket) -> None:
        connection.setblocking(False)
        with suppress(OSError):  # a socket that is not TCP
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            first = await _peeked(connection)
            if first == _HANDSHAKE:
                await asyncio.get_running_loop().connect_accepted_socket(
                    self._protocol, connection, ssl=self._certificate.context, ssl_handshake_timeout=HANDSHAKE_S
                )
                return
        except (OSError, TimeoutError, ssl.SSLError) as error:
            self.refused += 1
            log.debug("a handshake failed: %s", type(error).__name__)
            connection.close()
            return
        self.refused += 1
        if first is not None:
            await _turn_away(connection)
        connection.close()


async def _peeked(connection: socket.socket) -> int | None:
    """The first byte, left where it is; None: the caller left. Raises BlockingIOError: it did not come in time.

    Looked for once more when the time is over: a loop that was held up finds time and byte at once.
    """
    with _watched(connection) as readable:
        await asyncio.wait([readable], timeout=FIRST_BYTE_S)
    first = connection.recv(1, socket.MSG_PEEK)
    return first[0] if first else None


@contextmanager
def _watched(sock: socket.socket) -> Iterator[asyncio.Future[None]]:
    """Done when there is something to read, or to accept."""
    loop = asyncio.get_running_loop()
    readable: asyncio.Future[None] = loop.create_future()

    def ready() -> None:
        loop.remove_reader(sock)
        if not readable.done():
            readable.set_result(None)

    loop.add_reader(sock, ready)
    try:
        yield readable
    finally:
        loop.remove_reader(sock)


async def _turn_away(connection: socket.socket) -> None:
    """Says why, and takes what is on its way: a connection closed with unread bytes would lose the answer."""
    loop = asyncio.get_running_loop()
    with suppress(OSError, TimeoutError):
        async with asyncio.timeout(_LINGER_S):
            await loop.sock_sendall(connection, PLAIN)
            connection.shutdown(socket.SHUT_WR)
            while await loop.sock_recv(connection, 65536):
                pass
