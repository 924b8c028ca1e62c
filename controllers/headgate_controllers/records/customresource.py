"""What a lost volume does not take along: each endpoint's head and route, a second time, in its OnlineEndpoint.

The record stays the one that is asked: a copy is written after it (`resources.py`) and read only when a controller
starts and its own record is empty or behind, as on another node or after a backup was put back. History and evidence
have no copy. Refuses to start on an empty record where revisions run that no copy tells of: they would be ended.
"""

from __future__ import annotations

import base64
import binascii
import logging
import time
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from headgate import codec
from headgate.findings import Finding, FindingsError, Place, TerminalError
from headgate.rollout import Head
from headgate.table import EndpointRoute, RouteTable, seal
from headgate_controllers.commits import HANDLED, TAKEN
from headgate_controllers.records.sqlite import SqliteRecord
from headgate_controllers.routes import TABLE
from headgate_kit.kube.client import Cluster
from headgate_kit.kube.kinds import DEPLOYMENT, ONLINE_ENDPOINT

log = logging.getLogger("headgate.controller")

FIELD = "record"  # of the status
MOST = 8 << 20  # bytes of one copy when it is read, 300 kB when it is written: an object may hold 1.5 MB
WRITTEN = 300_000
# Between the last copy and the loss more may have been recorded and published: those versions are not used again.
LEAP = 10_000
MODELS = "headgate.dev/part=model"


@dataclass(frozen=True, slots=True)
class Copy:
    """One endpoint, as it was recorded."""

    version: int  # of its head in the record
    at: float
    head: Head
    route: EndpointRoute | None
    generation: int  # of the table
    handled: str  # the newest commit that was taken up


def text(copy: Copy) -> str:
    """For the status. Empty: it is larger than an object may be."""
    packed = base64.b85encode(zlib.compress(codec.canonical(copy), 9)).decode()
    return packed if len(packed) <= WRITTEN else ""


def read(packed: str) -> Copy:
    """Raises CodecError: it is no copy of ours."""
    try:
        unpacker = zlib.decompressobj()
        data = unpacker.decompress(base64.b85decode(packed), MOST)
    except (ValueError, zlib.error, binascii.Error) as error:
        raise codec.CodecError(f"it cannot be unpacked: {error}") from error
    if unpacker.unconsumed_tail or not unpacker.eof:
        raise codec.CodecError("it is too large, or cut off")
    return codec.decode(Copy, data)


def restore(record: SqliteRecord, cluster: Cluster, keys: Callable[[str], Sequence[str]]) -> tuple[str, ...]:
    """Takes what the record is behind of from the cluster; the endpoints that were.

    Args:
        keys: digests of an endpoint's keys, which no copy holds: more people may read it than may read Secrets.
    Raises:
        TransientError: the API server does not answer. FindingsError `record-lost`: nothing tells what may be ended.
    """
    known = {endpoint: version for endpoint, _, version in record.heads()}
    ahead = [copy for copy in _copies(cluster) if copy.version > known.get(copy.head.endpoint, 0)]
    if ahead:
        _take(record, ahead, keys)
    elif not known:
        _refuse_strangers(cluster)
    return tuple(copy.head.endpoint for copy in ahead)


def _copies(cluster: Cluster) -> list[Copy]:
    try:
        shown, _ = cluster.list(ONLINE_ENDPOINT)
    except TerminalError as error:  # no such definitions, or no right to read them
        log.info("no copy of the record is read: %s", error)
        return []
    found = []
    for item in shown:
        packed = (item.get("status") or {}).get(FIELD)
        if packed:
            try:
                found.append(read(packed))
            except codec.CodecError as error:
                log.warning("the copy in OnlineEndpoint %s is not used: %s", item["metadata"]["name"], error)
    return found


def _take(record: SqliteRecord, copies: Sequence[Copy], keys: Callable[[str], Sequence[str]]) -> None:
    newest = max(copies, key=lambda copy: copy.at)
    stored = record.meta_get(TABLE)
    table = codec.decode(RouteTable, stored) if stored else RouteTable(0, "")
    routes = {**table.endpoints, **{c.head.endpoint: _opened(c.route, keys) for c in copies if c.route is not None}}
    generation = max(table.generation, *(copy.generation for copy in copies)) + LEAP
    with record.transaction():
        for copy in copies:
            record.adopt(copy.head.endpoint, copy.head, copy.version + LEAP)
        record.meta_set(TABLE, codec.canonical(seal(RouteTable(generation, newest.handled, routes))).decode())
        record.meta_set(HANDLED, newest.handled)
        record.meta_set(TAKEN, newest.handled)
    names = ", ".join(copy.head.endpoint for copy in copies[:10])
    log.warning("this record was empty or behind: %d endpoints are as the cluster has them: %s", len(copies), names)


def _opened(route: EndpointRoute, keys: Callable[[str], Sequence[str]]) -> EndpointRoute:
    return replace(route, keys=tuple(keys(route.name))) if route.auth_mode == "key" else route


def _refuse_strangers(cluster: Cluster) -> None:
    running, _ = cluster.list(DEPLOYMENT, selector=MODELS)
    if not running:
        return
    names = ", ".join(item["metadata"]["name"] for item in running[:3])
    raise FindingsError(
        Finding(
            code="record-lost",
            message=f"the record is empty, and {len(running)} revisions run here: {names}",
            why="no OnlineEndpoint tells what they serve; to begin anew would end them under their callers",
            fix="give the controller its volume, or a backup of it, back; or delete these Deployments to begin anew",
            place=Place("data folder"),
        )
    )


def _lean(head: Head) -> Head:
    """Without verdicts: they change with every look, are found again while an op runs, and are history after it."""
    if head.rollout is None:
        return head
    ops = tuple(replace(op, verdicts=()) for op in head.rollout.ops)
    return replace(head, rollout=replace(head.rollout, ops=ops))


class Copies:
    """Makes the copies of a running controller, anew only when head or route say something else.

    Args:
        table: what is published now. handled: the newest commit that was taken up. clock: seconds since the epoch.
    """

    def __init__(
        self, table: Callable[[], RouteTable], handled: Callable[[], str], clock: Callable[[], float] = time.time
    ) -> None:
        self._table = table
        self._handled = handled
        self._clock = clock
        self._made: dict[str, tuple[Head, EndpointRoute | None, str]] = {}

    def of(self, head: Head, version: int, before: str) -> str:
        """Args:
        before: what the status holds.
        """
        table = self._table()
        route, lean = table.endpoints.get(head.endpoint), _lean(head)
        route = replace(route, keys=()) if route is not None else None
        known, routed, packed = self._made.get(head.endpoint) or self._found(before)
        if known != lean or routed != route:
            packed = text(Copy(version, self._clock(), lean, route, table.generation, self._handled()))
        self._made[head.endpoint] = lean, route, packed
        return packed

    def _found(self, before: str) -> tuple[Head | None, EndpointRoute | None, str]:
        if before:
            try:
                copy = read(before)
            except codec.CodecError as error:
                log.info("a copy is made anew: %s", error)
            else:
                return copy.head, copy.route, before
        return None, None, ""
