"""What this worker saw, in plain slots: no lock, no label look-up, no export on the way of a request.

A request is counted once, when its answer ends, under the generation of the route that chose its revision. Slots are
sealed into batches for the controller; what is sealed is added to the totals that `/metrics` shows, so that nothing
is counted in two places. Refuses to grow without end: pairs are a bounded sample, and every one left out is counted
with its reason.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, TypeVar

from headgate.evidence import BUCKET_ENDS, SIZE_ENDS, STREAM_TIMES, Batch, Counts, Outcome, Pair, bucket
from headgate.table import RouteTable
from headgate_router.streams import Stream
from headgate_router.tunnels import Tunnels

K = TypeVar("K")

# What members of an enumeration, and their values, cost to be asked for is worth to be spared on most requests.
_OK: Final = Outcome.OK
_OK_VALUE: Final[str] = Outcome.OK.value
_CLIENT_GONE: Final = Outcome.CLIENT_GONE
_NONE: Final = -1  # in a tally: not known

MAX_TALLIES: Final = 1_000  # of one revision, before they are told apart
MAX_PAIRS: Final = 200  # per endpoint and batch
MAX_PAIR_BYTES: Final = 16 * 1024 * 1024  # of all pairs that wait for the controller


class Slots:
    """One revision under one generation.

    What is alike is counted together first, in one step a request, and told apart when somebody looks.
    """

    __slots__ = ("_tallies", "finishes", "first_byte", "latency", "outcomes", "sizes", "statuses", "streams")

    def __init__(self) -> None:
        # (outcome, status, bucket of the whole answer, of its first byte, size class) -> requests
        self._tallies: dict[tuple[str, int, int, int, int], int] = {}
        self.outcomes: dict[str, int] = {}
        self.latency: dict[int, int] = {}
        self.first_byte: dict[int, int] = {}
        self.sizes: dict[int, dict[int, int]] = {}
        self.streams: dict[str, dict[int, int]] = {}
        self.finishes: dict[str, int] = {}
        self.statuses: dict[int, int] = {}

    def add(
        self,
        outcome: Outcome,
        status: int,
        whole_ms: float | None,
        first_ms: float | None,
        size: int | None = None,
        stream: Stream | None = None,
    ) -> None:
        """Counts one request that ended. None: it did not get that far; `size`: bytes of its body, None: not known."""
        # As `bucket` and `size_class` say, less the calls of them.
        said = _OK_VALUE if outcome is _OK else outcome.value
        whole = _NONE if whole_ms is None else bisect_left(BUCKET_ENDS, whole_ms)
        first = _NONE if first_ms is None else whole if first_ms == whole_ms else bisect_left(BUCKET_ENDS, first_ms)
        tally = (said, status, whole, first, _NONE if size is None else bisect_left(SIZE_ENDS, size))
        n = self._tallies.get(tally, 0)
        if not n and len(self._tallies) >= MAX_TALLIES:
            self._tell_apart()
        self._tallies[tally] = n + 1
        if stream is not None and outcome is not _CLIENT_GONE:
            self._add_stream(outcome, stream)

    def _tell_apart(self) -> None:
        tallies, self._tallies = self._tallies, {}
        for (outcome, status, whole, first, size), n in tallies.items():
            _more(self.outcomes, outcome, n)
            _more(self.statuses, status, n)
            if whole != _NONE:
                _more(self.latency, whole, n)
                if size != _NONE:
                    _more(self.sizes.setdefault(size, {}), whole, n)
            if first != _NONE:
                _more(self.first_byte, first, n)

    def _add_stream(self, outcome: Outcome, stream: Stream) -> None:
        finish = stream.finish if outcome is _OK else "broken"
        self.finishes[finish] = self.finishes.get(finish, 0) + 1
        for name, ms in zip(STREAM_TIMES, (stream.first, stream.gap, stream.pace), strict=True):
            if ms is not None:
                found = self.streams.setdefault(name, {})
                _more(found, bucket(ms), 1)

    def merge(self, other: Slots) -> None:
        other._tell_apart()
        _add(self.outcomes, other.outcomes)
        _add(self.latency, other.latency)
        _add(self.first_byte, other.first_byte)
        _add(self.statuses, other.statuses)
        for index, found in other.sizes.items():
            _add(self.sizes.setdefault(index, {}), found)
        for name, found in other.streams.items():
            _add(self.streams.setdefault(name, {}), found)
        _add(self.finishes, other.finishes)

    def counts(self) -> Counts:
        self._tell_apart()
        return Counts(self.outcomes, self.latency, self.first_byte, self.sizes, self.streams, self.finishes)


def _add(into: dict[K, int], more: Mapping[K, int]) -> None:
    for key, n in more.items():
        into[key] = into.get(key, 0) + n


def _more(of: dict[K, int], key: K, n: int) -> None:
    of[key] = of.get(key, 0) + n


@dataclass(slots=True)
class _Page:
    """One endpoint under one generation since the last seal."""

    opened: float
    live: dict[str, Slots] = field(default_factory=dict)
    mirrored: dict[str, Slots] = field(default_factory=dict)
    pairs: list[Pair] = field(default_factory=list)
    dropped: dict[str, int] = field(default_factory=dict)
    chosen: dict[str, int] = field(default_factory=dict)
    statuses: dict[int, int] = field(default_factory=dict)  # of answers that reached no revision

    def batch(self, endpoint: str, generation: int, now: float) -> Batch:
        live = {name: slots.counts() for name, slots in self.live.items()}
        statuses = dict(self.statuses)
        for slots in self.live.values():
            _add(statuses, slots.statuses)
        return Batch(
            endpoint=endpoint,
            generation=generation,
            seconds=max(0.0, now - self.opened),
            live=live,
            mirrored={name: slots.counts() for name, slots in self.mirrored.items()},
            pairs=tuple(self.pairs),
            dropped=self.dropped,
            chosen=self.chosen,
            statuses={str(status): n for status, n in statuses.items()},
        )


@dataclass(slots=True)
class Totals:
    """Since this worker started, whatever the generation: what `/metrics` shows."""

    live: dict[tuple[str, str], Slots] = field(default_factory=dict)  # (endpoint, revision)
    mirrored: dict[tuple[str, str], Slots] = field(default_factory=dict)
    dropped: dict[tuple[str, str], int] = field(default_factory=dict)  # (endpoint, why)
    refused: dict[tuple[str, int], int] = field(default_factory=dict)  # (endpoint, status): reached no revision


class Book:
    """Every count of this worker. `now` is the caller's monotonic clock, in seconds."""

    def __init__(self, now: float = 0.0) -> None:
        self._pages: dict[tuple[str, int], _Page] = {}
        self._now = now
        self._totals = Totals()
        self._pair_bytes = 0
        self.in_flight = 0
        self.tunnels = Tunnels()
        self.unrouted: dict[int, int] = {}  # status -> requests that named no endpoint of ours

    def live(
        self,
        endpoint: str,
        generation: int,
        revision: str,
        outcome: Outcome,
        status: int,
        whole_ms: float | None,
        first_ms: float | None,
        *,
        chosen: bool = False,
        size: int | None = None,
        stream: Stream | None = None,
    ) -> None:
        """A caller's request to a revision has ended. `chosen`: by the caller's header, not by the split."""
        page = self._page(endpoint, generation)
        if chosen:
            page.chosen[revision] = page.chosen.get(revision, 0) + 1
        slots = page.live.get(revision)
        if slots is None:
            slots = page.live[revision] = Slots()
        slots.add(outcome, status, whole_ms, first_ms, size, stream)

    def refused(self, endpoint: str, generation: int, status: int) -> None:
        """A request to a known endpoint was answered by us, without a revision."""
        statuses = self._page(endpoint, generation).statuses
        statuses[status] = statuses.get(status, 0) + 1
        key = (endpoint, status)
        self._totals.refused[key] = self._totals.refused.get(key, 0) + 1

    def no_endpoint(self, status: int) -> None:
        self.unrouted[status] = self.unrouted.get(status, 0) + 1

    def mirrored(
        self,
        endpoint: str,
        generation: int,
        revision: str,
        outcome: Outcome,
        status: int,
        whole_ms: float | None,
        first_ms: float | None,
        *,
        size: int | None = None,
        stream: Stream | None = None,
    ) -> None:
        """A compare copy has ended."""
        page = self._page(endpoint, generation)
        slots = page.mirrored.setdefault(revision, Slots())
        slots.add(outcome, status, whole_ms, first_ms, size, stream)

    def dropped(self, endpoint: str, generation: int, why: str, n: int = 1) -> None:
        """A copy was not sent, or not paired."""
        dropped = self._page(endpoint, generation).dropped
        dropped[why] = dropped.get(why, 0) + n

    def wants_pair(self, endpoint: str, generation: int) -> bool:
        """Whether the sample has room for one more; asked before an answer is read and blanked for it."""
        page = self._pages.get((endpoint, generation))
        return self._pair_bytes < MAX_PAIR_BYTES and (page is None or len(page.pairs) < MAX_PAIRS)

    def pair(self, endpoint: str, generation: int, pair: Pair) -> None:
        """Keeps the pair if there is room for it."""
        page = self._page(endpoint, generation)
        size = len(pair.live.body) + len(pair.copy.body)
        if len(page.pairs) >= MAX_PAIRS or self._pair_bytes + size > MAX_PAIR_BYTES:
            self.dropped(endpoint, generation, "not_sampled")
            return
        page.pairs.append(pair)
        self._pair_bytes += size

    def _page(self, endpoint: str, generation: int) -> _Page:
        key = (endpoint, generation)
        page = self._pages.get(key)
        if page is None:
            page = self._pages[key] = _Page(self._now)
        return page

    def seal(self, now: float) -> tuple[Batch, ...]:
        """Closes what was counted since the last call. A request that has not ended is in a later batch."""
        batches = tuple(page.batch(*key, now) for key, page in self._pages.items())
        for (endpoint, _), page in self._pages.items():
            _fold(self._totals, endpoint, page)
        self._pages = {}
        self._pair_bytes = 0
        self._now = now
        return batches

    @property
    def empty(self) -> bool:
        """Nothing was counted since the last seal."""
        return not self._pages

    def totals(self) -> Totals:
        """Everything since the start, open pages included."""
        whole = Totals(refused=dict(self._totals.refused))
        _merge(whole, self._totals)
        for (endpoint, _), page in self._pages.items():
            _fold(whole, endpoint, page)
        return whole

    def forget(self, table: RouteTable) -> None:
        """Drops the totals of endpoints and revisions that are in the table no more: labels stay bounded."""
        known = {(name, r.revision) for name, route in table.endpoints.items() for r in route.revisions}
        totals = self._totals
        totals.live = {key: slots for key, slots in totals.live.items() if key in known}
        totals.mirrored = {key: slots for key, slots in totals.mirrored.items() if key in known}
        totals.dropped = {key: n for key, n in totals.dropped.items() if key[0] in table.endpoints}
        totals.refused = {key: n for key, n in totals.refused.items() if key[0] in table.endpoints}


def _fold(totals: Totals, endpoint: str, page: _Page) -> None:
    for revision, slots in page.live.items():
        totals.live.setdefault((endpoint, revision), Slots()).merge(slots)
    for revision, slots in page.mirrored.items():
        totals.mirrored.setdefault((endpoint, revision), Slots()).merge(slots)
    for why, n in page.dropped.items():
        totals.dropped[endpoint, why] = totals.dropped.get((endpoint, why), 0) + n


def _merge(into: Totals, more: Totals) -> None:
    for key, slots in more.live.items():
        into.live.setdefault(key, Slots()).merge(slots)
    for key, slots in more.mirrored.items():
        into.mirrored.setdefault(key, Slots()).merge(slots)
    _add(into.dropped, more.dropped)
