"""The one conversation with the controller: table in, acknowledgement, counts and pairs out; and the table on disk.

Each worker dials: `POST /exchange`, answered at once when there is a newer table, else within a second. The last good
table is on disk, so that a worker serves without a controller. Refuses a table that does not add up, says why in the
next exchange, and serves on. While the controller is away counts go on in the open batch; nothing grows without end.
"""

from __future__ import annotations

import asyncio
import json
import logging
import secrets
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from random import Random
from typing import Any, Protocol

from headgate import codec
from headgate.control import EXCHANGE_HOLD_S, Ack, ExchangeReply, ExchangeRequest
from headgate.evidence import Batch
from headgate.findings import TransientError
from headgate.table import RouteTable, keeping, problems, received
from headgate_kit.files import write_atomic
from headgate_kit.layout import DataFolder
from headgate_router.count import Book
from headgate_router.dataplanes.builtin.failures import UpstreamError
from headgate_router.routes import Routes
from headgate_router.upstream import CONNECT_TIMEOUT_S, Ask, Message, NoReplica, Replica, Replicas

log = logging.getLogger("headgate.router")

ANSWER_S = EXCHANGE_HOLD_S + 4.0  # a controller that is silent for longer is gone
RETRY_S = 0.1  # plus as much again at random, so that workers do not dial in step
MAX_REPLY = 256 * 1024 * 1024  # bytes
SERVED_S = 1.0  # a table's acknowledgement is waited for, before the next exchange goes out without it
MANY = 200  # endpoints of a table that is read beside the event loop
SAVED_S = 1.0  # for a table to be on disk; below what a worker's lease can spare
MAX_REASONS = 20  # of a refused table that are reported


class Away(Exception):
    """The controller cannot be reached, or does not answer as one."""


class Announced:
    """Where the controller is, and our token for it. Read again before each dial that follows a failure.

    Args:
        control: its URL; empty: what the data folder says, for it may come back elsewhere.
        token_file: None: the data folder's.
    """

    def __init__(self, data: DataFolder, control: str = "", token_file: Path | None = None) -> None:
        self._file = data.control
        self._control = control
        self._token_file = token_file or data.token

    def read(self) -> tuple[str, bytes]:
        """URL and token. Raises Away: nobody is announced."""
        try:
            url = self._control or str(json.loads(self._file.read_bytes())["url"])
            return url.rstrip("/"), self._token_file.read_bytes().strip()
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise Away(f"no controller is announced: {type(error).__name__}") from error


class Plane(Protocol):
    """Serves by this worker's table in its place."""

    @property
    def acked(self) -> RouteTable | None:
        """All of it serves by this one; None: by none yet."""
        ...

    @property
    def refused(self) -> str:
        """Why it did not take the last table; empty: it did, or has not said."""
        ...

    def problems(self, table: RouteTable) -> tuple[str, ...]:
        """Why it could not serve by this table; empty: it could."""
        ...

    async def served(self, seconds: float) -> None:
        """Waits until it serves by the worker's table, or for so long."""
        ...


class Feed:
    """One worker's conversation. Not thread-safe: one event loop."""

    def __init__(
        self,
        data: DataFolder,
        worker: str,
        routes: Routes,
        book: Book,
        random: Random,
        clock: Callable[[], float] = time.monotonic,
        announced: Announced | None = None,
        plane: Plane | None = None,
    ) -> None:
        """`plane`: who serves by the table, when it is not this process; its word is what is acknowledged."""
        self._data = data
        self._announcement = announced or Announced(data)
        self._worker = worker
        self._routes = routes
        self._book = book
        self._random = random
        self._clock = clock
        self._plane = plane
        self._boot = secrets.token_hex(8)
        self._sequence = 0
        self._pending: tuple[Batch, ...] = ()
        self._refused: tuple[str, ...] = ()
        self._controller: Replica | None = None
        self._prefix = ""  # of the control API's paths
        self._token = b""
        self._saving: asyncio.Task[None] | None = None
        self._unsaved: Mapping[str, Any] | None = None
        self.reached_at: float | None = None  # on `clock`; None: never
        self.tables_refused = 0
        self.fields_unknown = 0  # of a newer controller, ignored
        self.saves_failed = 0

    @property
    def boot(self) -> str:
        return self._boot

    @property
    def file(self) -> Path:
        """Where the last good table is kept."""
        return self._data.tables / f"{self._worker}.json"

    # The table.

    def load(self) -> bool:
        """Serves by the table on disk. False: there is none that can be served; the reason is logged."""
        try:
            table = received(codec.decode(dict, self.file.read_bytes()))
        except FileNotFoundError:
            return False
        except (OSError, codec.CodecError) as error:
            log.warning("the table on disk cannot be read: %s", error)
            return False
        found = problems(table) or self._routes.addresses.problems(table)
        if found:
            log.warning("the table on disk is refused: %s", "; ".join(found[:MAX_REASONS]))
            return False
        self._routes.swap(table)
        return True

    async def take(self, sent: Mapping[str, Any]) -> bool:
        """Serves by a new table from the next request on, or refuses it, and says so in the next exchange.

        Args:
            sent: the table's decoded JSON.
        """
        try:
            table, unknown = await self._read(sent)
        except codec.CodecError as error:
            return self._refuse(str(error))
        if self._plane is not None and self._routes.table is not None and table.hash == self._routes.table.hash:
            await self._plane.served(SERVED_S)  # offered again, for it is not acknowledged yet
            return False
        addresses = self._routes.addresses
        found = problems(table, self._routes.table) or addresses.problems(table)
        if not found and self._plane is not None:
            found = self._plane.problems(table)
        if found:
            return self._refuse(*(f"table {table.generation}: {text}" for text in found))
        await addresses.known(table)  # no request is to meet a revision before its replicas
        self._refused = ()
        self.fields_unknown += unknown
        self._routes.swap(table)
        self._book.forget(table)
        for (endpoint, _, revision), n in self._book.tunnels.left_behind(table):
            log.warning("%s: %d tunnels stay with %s, which this table lists no more", endpoint, n, revision)
        await self._save(sent)
        if self._plane is not None:
            await self._plane.served(SERVED_S)
        return True

    async def _read(self, sent: Mapping[str, Any]) -> tuple[RouteTable, int]:
        """The table, and how many fields of it are not understood here. Raises CodecError.

        A table of thousands of endpoints is read beside the event loop: callers do not wait.
        """
        endpoints = sent.get("endpoints")
        serving = self._routes.table
        if isinstance(endpoints, Mapping) and len(endpoints) > MANY:
            return await asyncio.to_thread(_understood, sent, serving)
        return _understood(sent, serving)

    def _refuse(self, *reasons: str) -> bool:
        self.tables_refused += 1
        if reasons[:MAX_REASONS] != self._refused:
            log.warning("a table is refused: %s", "; ".join(reasons[:MAX_REASONS]))
        self._refused = reasons[:MAX_REASONS]
        return False

    async def _save(self, sent: Mapping[str, Any]) -> None:
        """Writes beside the event loop, and waits for it: what is acked must be what the worker comes back with when it
        is killed. A disk that hangs holds an ack up only so long; of tables that come meanwhile, it gets the last one.
        """
        self._unsaved = sent
        if self._saving is None or self._saving.done():
            self._saving = asyncio.get_running_loop().create_task(self._write_all())
        await asyncio.wait((self._saving,), timeout=SAVED_S)

    async def _write_all(self) -> None:
        while self._unsaved is not None:
            sent, self._unsaved = self._unsaved, None
            try:
                await asyncio.to_thread(self._write, sent)
            except (OSError, TransientError) as error:  # serving goes on; the worker only boots with an older table
                self.saves_failed += 1
                log.error("table %s was not saved: %s", sent["generation"], error)

    def _write(self, sent: Mapping[str, Any]) -> None:
        """As it came: its hash is over that."""
        self.file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_atomic(self.file, codec.canonical(sent))

    # The conversation.

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            began = self._clock()
            try:
                news = await self.exchange()
            except Away as error:
                log.debug("controller away: %s", error)
                await asyncio.sleep(RETRY_S * (1 + self._random.random()))
                continue
            if not news and (self._refused or self._clock() - began < RETRY_S):
                await asyncio.sleep(RETRY_S)  # a controller that does not hold, or offers the same bad table again

    async def exchange(self) -> bool:
        """One round. True: serves by a new table. Raises Away."""
        controller, token = await self._dial()
        # Only now is anything sealed: with nobody there, counts go on in the open batch, and nothing is encoded.
        reply, table = await self._post(controller, token, codec.canonical(self._message()))
        self.reached_at = self._clock()
        if reply.received >= self._sequence:
            self._pending = ()
        return table is not None and await self.take(table)

    def _message(self) -> ExchangeRequest:
        if not self._pending:
            self._pending = self._book.seal(self._clock())
            self._sequence += bool(self._pending)
        table = self._routes.table if self._plane is None else self._plane.acked
        return ExchangeRequest(
            worker=self._worker,
            boot=self._boot,
            sequence=self._sequence,
            acked=Ack(table.generation, table.hash) if table is not None else None,
            batches=self._pending,
            refused=self._refused or self._not_taken(),
            in_flight=self._book.in_flight,
        )

    def _not_taken(self) -> tuple[str, ...]:
        return (self._plane.refused,) if self._plane is not None and self._plane.refused else ()

    async def flush(self, seconds: float) -> bool:
        """Delivers what is left before the worker ends. False: it was not all taken in time."""
        with suppress(TimeoutError, Away):
            async with asyncio.timeout(seconds):
                await self.exchange()  # what was pending
                if self._pending or not self._book.empty:
                    await self.exchange()
        if self._saving is not None:
            await self._saving
        return not self._pending and self._book.empty

    async def _post(
        self, controller: Replica, token: bytes, body: bytes
    ) -> tuple[ExchangeReply, Mapping[str, Any] | None]:
        """What was answered, and the table in it as it was sent."""
        fields = (
            b"authorization: Bearer %b\r\ncontent-type: application/json\r\naccept: application/json\r\n"
            b"content-length: %d\r\n" % (token, len(body))
        )
        start = f"POST {self._prefix}/exchange HTTP/1.1\r\n".encode()
        ask = Ask(Replicas([controller], self._random), Message(start, fields, body), may_repeat=True)
        try:
            status, answer = await _whole(ask)
        except UpstreamError as error:
            self._hang_up()
            raise Away(str(error)) from error
        if status != 200:
            self._hang_up()
            raise Away(f"the controller answered {status}")
        try:
            sent = codec.decode(dict, answer)
            table = sent.pop("table", None)
            return codec.decode(ExchangeReply, sent), table
        except codec.CodecError as error:
            raise Away(f"the controller's answer cannot be read: {error}") from error

    async def _dial(self) -> tuple[Replica, bytes]:
        """The controller, with a connection to it. Raises Away."""
        controller, token = self._announced()
        try:
            await controller.warm(CONNECT_TIMEOUT_S)
        except UpstreamError as error:
            self._hang_up()
            raise Away(str(error)) from error
        return controller, token

    def _announced(self) -> tuple[Replica, bytes]:
        """Where the controller is now: read again after each failure, for it may come back elsewhere."""
        if self._controller is None:
            url, self._token = self._announcement.read()
            try:
                self._controller = Replica(url)
            except ValueError as error:
                raise Away(f"nobody can be dialled where the controller is announced: {error}") from error
            self._prefix = url.partition("://")[2].partition("/")[2]
            self._prefix = f"/{self._prefix}" if self._prefix else ""
        return self._controller, self._token

    def _hang_up(self) -> None:
        if self._controller is not None:
            self._controller.retire()
        self._controller = None


async def _whole(ask: Ask) -> tuple[int, bytes]:
    answering = await ask.answer(ANSWER_S)
    try:
        parts: list[bytes] = []
        size = 0
        while chunk := await answering.connection.read():
            parts.append(chunk)
            size += len(chunk)
            if size > MAX_REPLY:
                raise NoReplica("the controller's answer is too long")
        return answering.connection.status, b"".join(parts)
    finally:
        answering.close()


def _understood(sent: Mapping[str, Any], serving: RouteTable | None) -> tuple[RouteTable, int]:
    table = received(sent)
    return keeping(table, serving), _unknown(sent, table)


def _unknown(sent: Mapping[str, Any], table: RouteTable) -> int:
    """How many fields were dropped. Equal sizes, the common case, need no second look."""
    return 0 if codec.size(sent) == codec.size(table) else len(codec.unknown_fields(sent, table))
