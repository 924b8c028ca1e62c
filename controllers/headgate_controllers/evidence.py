"""Evidence as it comes in: batches of router workers become looks of the running op, and shares of the last minute.

A batch is received once (worker, boot, sequence) and stored before it is acknowledged, so that neither a lost answer
nor a killed controller loses or doubles evidence. What belongs to no running judged op is only counted.
"""

from __future__ import annotations

import threading
from collections import defaultdict, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from headgate.control import ExchangeRequest
from headgate.evidence import NOTHING, Approval, Batch, Counts, Look, Outcome, PairKind, Sample, add
from headgate.rollout import Event, Head, OpRecord, Rollout, kind_of
from headgate_controllers.heads import Heads
from headgate_controllers.records.sqlite import SqliteRecord

WINDOW_S = 60.0  # shares shown beside the shares asked for


@dataclass(slots=True)
class _Unheard:
    """The looks of a running op that its judge has yet to hear. What was heard is in the record alone."""

    start: int  # how many came before
    looks: list[Look]


class Evidence:
    def __init__(self, record: SqliteRecord, heads: Heads, clock: Callable[[], float]) -> None:
        self._record = record
        self._heads = heads
        self._clock = clock
        self._lock = threading.Lock()  # of the counters, which status and checks ask for: never held over a disk
        self._storing = threading.Lock()  # of looks: stored and kept as one, or a reader in between has them twice
        self._references: dict[
            str, tuple[tuple[str, str], Counts]
        ] = {}  # endpoint -> its op at the bake, what was before
        self._unheard: dict[tuple[str, str], _Unheard] = {}  # by rollout and op: one running op an endpoint
        self._recent: dict[str, deque[tuple[float, int, dict[str, int]]]] = defaultdict(deque)
        self._totals: dict[str, dict[tuple[str, str], int]] = {}  # endpoint -> (revision, outcome), for /metrics
        self._split: dict[str, tuple[int, dict[str, int]]] = {}  # endpoint -> (generation, revision -> requests)
        heads.listen(self._changed)
        heads.listen_ends(lambda rollout: self.forget(rollout.id))

    def receive(self, request: ExchangeRequest) -> tuple[str, ...]:
        """Stores what is new; answers the endpoints whose running op got a look.

        Raises:
            TransientError: it cannot be stored now; the worker keeps it and sends it again.
        """
        with self._storing:  # from the look at what was received: it may be sent again while it is stored
            if request.sequence <= self._record.received(request.worker, request.boot):
                return ()
            looks = self._looks(request)
            self._record.receive(request.worker, request.boot, request.sequence, looks)
            for key, found in looks.items():
                self._keep(key, found)
        known = [batch for batch in request.batches if self._heads.get(batch.endpoint).revisions]
        with self._lock:
            for batch in known:
                self._count(batch)
        return tuple(self._heads.endpoint_of(rollout) for rollout, _ in looks)

    def _looks(self, request: ExchangeRequest) -> dict[tuple[str, str], list[Look]]:
        """By rollout and op."""
        looks: dict[tuple[str, str], list[Look]] = defaultdict(list)
        for batch in request.batches:
            head = self._heads.get(batch.endpoint)
            op = self._running(head, batch)
            if op is not None and head.active is not None:
                looks[(head.active.id, op.name)].append(self._look(head, head.active, op, batch))
        return looks

    def note(self, head: Head, *, approvals: Sequence[Approval] = (), samples: Sequence[Sample] = ()) -> bool:
        """Evidence that no router brings, as a look of the running op. False: nothing is judged just now.

        Raises:
            TransientError: it cannot be stored now.
        """
        rollout = head.active
        op = rollout.running if rollout else None
        kind = kind_of(rollout, op, head.traffic) if rollout and op and op.live_at is not None else ""
        if rollout is None or op is None or not kind:
            return False
        look = Look(
            kind,
            op.generation,
            self._clock(),
            0.0,
            reference=self._reference(rollout, op) if kind == "bake" else NOTHING,
            approvals=tuple(approvals),
            samples=tuple(samples),
        )
        key = (rollout.id, op.name)
        with self._storing:
            self._record.add_looks(*key, [look])
            self._keep(key, [look])
        return True

    def looks(self, rollout: str, op: str, start: int = 0) -> list[Look]:
        """The looks of an op from the `start`th on, in the order received. Those before are let go: a soak of hours
        would fill the memory with them. Asked for again, as after a restart, they are read from the record.
        """
        key = (rollout, op)
        with self._storing:
            found = self._unheard.get(key)
            if found is None or start < found.start:
                for old in [k for k in self._unheard if k[0] == rollout]:
                    del self._unheard[old]
                found = self._unheard[key] = _Unheard(0, list(self._record.looks(rollout, op)))
            del found.looks[: start - found.start]
            found.start = start
            return list(found.looks)

    def _keep(self, key: tuple[str, str], looks: Sequence[Look]) -> None:
        """Only where a judge has asked; else they are read from the record when one does."""
        if key in self._unheard:
            self._unheard[key].looks += looks

    def forget(self, rollout: str) -> None:
        """Nobody judges it any more, nor those before it."""
        with self._storing:
            for key in [k for k in self._unheard if k[0] == rollout or not self._heads.endpoint_of(k[0])]:
                del self._unheard[key]

    def _changed(self, endpoint: str, _: Sequence[Event]) -> None:
        known = self._heads.get(endpoint).revisions
        with self._lock:
            totals = self._totals.get(endpoint, {})
            for key in [k for k in totals if k[0] not in known]:
                del totals[key]
            if not known:
                for kept in (self._recent, self._split, self._totals, self._references):
                    kept.pop(endpoint, None)

    def observed(self, endpoint: str, since: int = 0) -> Mapping[str, int]:
        """Live requests of the last minute by revision; of this generation of the route and newer ones only."""
        oldest = self._clock() - WINDOW_S
        totals: dict[str, int] = defaultdict(int)
        with self._lock:
            recent = self._recent.get(endpoint, deque())
            while recent and recent[0][0] < oldest:
                recent.popleft()
            for _, generation, counts in recent:
                for revision, n in counts.items() if generation >= since else ():
                    totals[revision] += n
        return totals

    def split(self, endpoint: str, generation: int) -> Mapping[str, int]:
        """Requests that the split of this generation sent to each revision; those that chose by header left out."""
        with self._lock:
            known, counts = self._split.get(endpoint, (0, {}))
            return dict(counts) if known == generation else {}

    def totals(self) -> Mapping[tuple[str, str, str], int]:
        """(endpoint, revision, outcome) -> live requests since this controller began."""
        with self._lock:
            return {(name, *key): n for name, of in self._totals.items() for key, n in of.items()}

    def _running(self, head: Head, batch: Batch) -> OpRecord | None:
        """The op this batch is evidence for: judged, live, and of a generation not older than its own."""
        rollout = head.active
        op = rollout.running if rollout else None
        if rollout is None or op is None or op.live_at is None or batch.generation < op.generation:
            return None
        return op if kind_of(rollout, op, head.traffic) else None

    def _look(self, head: Head, rollout: Rollout, op: OpRecord, batch: Batch) -> Look:
        kind = kind_of(rollout, op, head.traffic)
        candidate = rollout.plan.candidate
        others = [c for revision, c in batch.live.items() if revision != candidate and revision in head.traffic]
        source = batch.mirrored if kind == "mirror" else batch.live
        return Look(
            phase=kind,
            generation=batch.generation,
            at=self._clock(),
            seconds=batch.seconds,
            candidate=source.get(candidate, NOTHING),
            stable=add(others) if others else NOTHING,
            reference=self._reference(rollout, op) if kind == "bake" else NOTHING,
            pairs=tuple(p for p in batch.pairs if p.kind is PairKind.ECHO or p.copy.revision == candidate),
        )

    def _reference(self, rollout: Rollout, op: OpRecord) -> Counts:
        """The stable's counts of every op before this one: all that is left to compare with, and the longer the better.

        Those ops are over, so it is read once.
        """
        key = (rollout.id, op.name)
        known = self._references.get(rollout.target.endpoint)
        if known is None or known[0] != key:
            names = [o.name for o in rollout.ops]
            looks = [look for name in names[: names.index(op.name)] for look in self._record.looks(rollout.id, name)]
            stable = [look.stable for look in looks if look.stable.requests]
            known = self._references[rollout.target.endpoint] = (key, add(stable) if stable else NOTHING)
        return known[1]

    def _count(self, batch: Batch) -> None:
        now = self._clock()
        live = {revision: counts.requests for revision, counts in batch.live.items()}
        self._recent[batch.endpoint].append((now, batch.generation, live))
        while self._recent[batch.endpoint][0][0] < now - WINDOW_S:
            self._recent[batch.endpoint].popleft()
        known, split = self._split.get(batch.endpoint, (0, {}))
        if batch.generation >= known:
            split = split if batch.generation == known else {}
            for revision, counts in batch.live.items():
                sent = sum(counts.outcomes.values()) - batch.chosen.get(revision, 0)
                split[revision] = split.get(revision, 0) + sent
            self._split[batch.endpoint] = (batch.generation, split)
        totals = self._totals.setdefault(batch.endpoint, defaultdict(int))
        for revision, counts in batch.live.items():
            for outcome, n in counts.outcomes.items():
                totals[(revision, str(Outcome(outcome)))] += n
