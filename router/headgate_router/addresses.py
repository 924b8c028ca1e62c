"""Where every revision of the table is asked: what its resolver said last.

Followed from the moment a table is offered, so that addresses are there when the first request is. Refuses to forget
what it knows because a source is away: a replica that is gone is found out by asking it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from headgate import codec, plugins
from headgate.findings import TransientError
from headgate.ports import Resolver
from headgate.table import RouteRevision, RouteTable, dialled
from headgate_kit.files import write_atomic
from headgate_router.resolvers.table import Table

log = logging.getLogger("headgate.router")

TABLE = "table"  # the adapter of rows that list their addresses
GROUP = "headgate.resolver"
SAVE_S = 1.0  # after a change
FIRST_S = 2.0  # a table waits so long for the addresses of what it gives traffic

Key = str | tuple[str, ...]  # a service, or the addresses themselves


@dataclass(slots=True)
class _Followed:
    service: str
    addresses: tuple[str, ...] | None = None  # None: not known yet
    end: Callable[[], None] | None = None


class Addresses:
    """Not thread-safe: one event loop.

    Args:
        moved: told the service whose addresses are others now; never for rows that list theirs.
        file: keeps the last known addresses of services, for a start while their source is away; None: they are not.
        resolvers: scheme -> adapter, beside `table`; None: those installed, made when first needed.
    """

    def __init__(
        self, moved: Callable[[str], None], resolvers: Mapping[str, Resolver] | None = None, file: Path | None = None
    ) -> None:
        self._moved = moved
        self._resolvers: dict[str, Resolver] = {TABLE: Table(), **(resolvers or {})}
        self._installed = resolvers is None
        self._followed: dict[Key, _Followed] = {}
        self._news = asyncio.Event()
        self._file = file
        self._last = _read(file)
        self._saving: asyncio.TimerHandle | None = None

    def of(self, revision: RouteRevision) -> tuple[str, ...]:
        """What is known, or was when this worker last ran; (): no replica, or not known yet."""
        known = self._follow(revision).addresses
        return known if known is not None else self._last.get(revision.service, ())

    def last(self, revision: RouteRevision) -> tuple[str, ...]:
        """The same, without beginning to look."""
        followed = self._followed.get(_key(revision))
        return revision.upstreams if followed is None else followed.addresses or ()

    def problems(self, table: RouteTable) -> tuple[str, ...]:
        """Why replicas of this table cannot be found; empty: they can be looked for."""
        found = []
        for name, revision in _services(table):
            try:
                self._follow(revision)
            except (ValueError, LookupError) as error:
                found.append(f"{name}: {revision.service[:100]!r} cannot be resolved: {error}")
        return tuple(found)

    async def known(self, table: RouteTable, seconds: float = FIRST_S) -> bool:
        """Waits until the addresses of all revisions with traffic are known. False: not in time; serve all the same."""
        missing = [revision for _, revision in _services(table) if revision.per_mille]
        try:
            async with asyncio.timeout(seconds):
                while missing := [r for r in missing if self._follow(r).addresses is None]:
                    self._news.clear()
                    await self._news.wait()
        except TimeoutError:
            log.warning("table %d: no addresses yet of %d revisions", table.generation, len(missing))
            return False
        return True

    def keep(self, table: RouteTable) -> None:
        """Ends what the table holds no more."""
        wanted = {_key(r) for route in table.endpoints.values() for r in route.revisions}
        for key in self._followed.keys() - wanted:
            self._end(self._followed.pop(key))
        self._last = {service: known for service, known in self._last.items() if service in wanted}

    def every(self) -> Iterator[str]:
        for followed in self._followed.values():
            known = followed.addresses
            yield from known if known is not None else self._last.get(followed.service, ())

    async def close(self) -> None:
        for followed in self._followed.values():
            self._end(followed)
        self._followed.clear()
        if self._saving is not None:
            self._saving.cancel()
            self._saving = None
            await asyncio.to_thread(_write, self._file, dict(self._last))
        for resolver in self._resolvers.values():
            await resolver.close()

    def _follow(self, revision: RouteRevision) -> _Followed:
        """Raises LookupError: no adapter of that scheme is installed. ValueError: the adapter cannot read it."""
        key = _key(revision)
        followed = self._followed.get(key)
        if followed is None:
            resolver = self._resolver(revision.service.partition(":")[0] if revision.service else TABLE)
            followed = _Followed(revision.service)
            followed.end = resolver.follow(revision, partial(self._heard, followed))
            self._followed[key] = followed
        return followed

    def _heard(self, followed: _Followed, addresses: tuple[str, ...]) -> None:
        able = tuple(address for address in addresses if dialled(address))
        before, followed.addresses = followed.addresses, able
        self._news.set()
        if followed.service and before != able:
            if able != addresses:
                odd = next(address for address in addresses if address not in able)
                log.error("%s: no replica can be dialled at %.100r, and it is left out", followed.service, odd)
            self._last[followed.service] = able
            self._save()
            self._moved(followed.service)

    def _save(self) -> None:
        """Soon, and once for many changes."""
        if self._file is not None and self._saving is None:
            self._saving = asyncio.get_running_loop().call_later(SAVE_S, self._write)

    def _write(self) -> None:
        self._saving = None
        asyncio.get_running_loop().run_in_executor(None, _write, self._file, dict(self._last))

    def _resolver(self, scheme: str) -> Resolver:
        if scheme not in self._resolvers and self._installed:
            self._installed = False
            loaded = plugins.load(GROUP)
            for finding in loaded.findings:
                log.error("%s", finding)
            self._resolvers |= {name: adapter() for name, adapter in loaded.adapters.items() if name != TABLE}
        if scheme not in self._resolvers:
            raise LookupError(f"no resolver {scheme[:40]!r} is installed: {', '.join(sorted(self._resolvers))}")
        return self._resolvers[scheme]

    @staticmethod
    def _end(followed: _Followed) -> None:
        if followed.end is not None:
            followed.end()


def _read(file: Path | None) -> dict[str, tuple[str, ...]]:
    """Nothing when there is nothing that can be read: a resolver will say."""
    if file is None or not file.exists():
        return {}
    try:
        known = codec.decode(dict[str, tuple[str, ...]], file.read_bytes())
    except (OSError, codec.CodecError) as error:
        log.warning("the addresses on disk cannot be read: %s", error)
        return {}
    return {service: tuple(filter(dialled, found)) for service, found in known.items()}


def _write(file: Path | None, known: Mapping[str, tuple[str, ...]]) -> None:
    if file is None:
        return
    try:
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_atomic(file, codec.canonical(known))
    except (OSError, TransientError) as error:  # serving goes on; only a start without a source suffers
        log.error("the addresses known were not saved: %s", error)


def _key(revision: RouteRevision) -> Key:
    return revision.service or revision.upstreams


def _services(table: RouteTable) -> Iterable[tuple[str, RouteRevision]]:
    return ((name, r) for name, route in table.endpoints.items() for r in route.revisions if r.service)
