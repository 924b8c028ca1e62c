"""Asks the platform what there is before a rollout starts anything, and who else has a claim on it. Decides nothing:
that is `headgate.capacity`.

A platform that cannot say what it has (one machine, or no right to look) holds nobody up.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable, Sequence

from headgate import capacity, handover
from headgate.capacity import Answer, Claims, Fit, Inventory, Need, Space, Way
from headgate.findings import HeadgateError
from headgate.phases import BUILD, DEPLOY, SMOKE
from headgate.ports import Platform
from headgate.process import Settings
from headgate.rollout import Head, Rollout
from headgate.surge import PARALLEL
from headgate.workload import Purpose
from headgate_controllers.heads import Heads

log = logging.getLogger(__name__)

SHARED_S = 2.0  # how old what was seen may be for one who waits in line and would go on waiting


class Capacity:
    def __init__(
        self,
        heads: Heads,
        platform: Platform,
        settings: Callable[[], Settings],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._heads = heads
        self._platform = platform
        self._settings = settings
        self._clock = clock
        self._last: tuple[float, Inventory | None] = (-math.inf, None)  # when it was asked for, what was seen
        self.admitting = threading.Lock()  # from `room` until its answer is recorded
        self._inventory: Callable[[], Inventory | None] | None = getattr(platform, "inventory", None)

    def look(self, verb: str, op_key: str, head: Head) -> Inventory | None:
        """What there is for an op that starts replicas; None: it starts none, is open already, or nobody knows."""
        rollout = head.active
        workflow, _, name = op_key.rpartition("/")
        if self._inventory is None or self._settings().capacity == "elastic" or rollout is None:
            return None
        if rollout.id != workflow or verb not in (BUILD, SMOKE, DEPLOY) or rollout.op(name) is not None:
            return None
        if rollout.queued_at is not None and (known := self._still_full(head)) is not None:
            return known
        try:
            at = self._clock()
            found = self._inventory()
            self._last = (at, found)
            return found
        except HeadgateError as error:  # not knowing must not hold up a rollout: the pods themselves will say
            log.warning("%s: capacity is not known: %s", head.endpoint, error)
            return None

    def _still_full(self, head: Head) -> Inventory | None:
        """What was seen a moment ago, where it says that the op waits on. A hundred in line each ask again and again;
        only who may start needs to know what there is now.
        """
        at, known = self._last
        if known is None or self._clock() - at > SHARED_S:
            return None
        room = self.room(known, head)
        return known if room is not None and room.answer is Answer.WAIT else None

    def room(self, inventory: Inventory, head: Head) -> Fit | None:
        """Whether the op may open, beside what others hold; None: it has nothing to open any more.

        What is decided by it is recorded before the next one is asked (`admitting`), or two would take one place.
        """
        rollout = head.active
        if rollout is None:
            return None
        try:
            others = self._others(head.endpoint, lambda other: _earlier(other, rollout))
            return capacity.choose(inventory, self._ways(head, rollout), others)
        except HeadgateError as error:
            log.warning("%s: capacity is not known: %s", head.endpoint, error)
            return None

    def space(self, endpoint: str) -> Space:
        """For a preview: a rollout of it would come last in line."""
        try:
            inventory = self._inventory() if self._inventory is not None else None
            return Space(inventory, self._others(endpoint, lambda other: True)) if inventory else Space(None)
        except HeadgateError as error:
            log.warning("%s: capacity is not known: %s", endpoint, error)
            return Space(None)

    def _ways(self, head: Head, rollout: Rollout) -> list[Way]:
        """The gentlest first; one, once the rollout has begun by it."""
        turns = self._by_turns(head, rollout)
        if turns is not None and rollout.way:
            return [turns]
        beside = Way(PARALLEL, self._needs(head, rollout), self._beside(head, rollout))
        return [beside, turns] if turns is not None and not _starts(rollout) else [beside]

    def _by_turns(self, head: Head, rollout: Rollout) -> Way | None:
        gone = handover.leaves(rollout.start, rollout.target)
        there = sum(self._there(head, revision) for revision in (*gone, *rollout.plan.revisions))
        return handover.turns(head, rollout, self._settings(), there)

    def _needs(self, head: Head, rollout: Rollout) -> list[Need]:
        """Of its revisions, the replicas that have no pod yet."""
        return [self._missing(head, revision) for revision in rollout.plan.revisions]

    def _missing(self, head: Head, revision: str) -> Need:
        return self._asks(head, revision, max(0, head.instances(revision) - self._there(head, revision)))

    def _there(self, head: Head, revision: str) -> int:
        seen = self._platform.observe(head.endpoint)
        return sum(r.revision == revision and r.purpose is Purpose.SERVE and bool(r.address) for r in seen)

    def _asks(self, head: Head, revision: str, count: int) -> Need:
        return capacity.need(head.endpoint, head.revisions[revision].deployment, self._settings(), count)

    def _others(self, endpoint: str, is_ahead: Callable[[Rollout], bool]) -> Claims:
        held: list[Need] = []
        before: list[Need] = []
        position = 1
        for other in self._heads.all():
            active = other.active
            if other.endpoint == endpoint:
                continue
            if active is None:
                held += self._returning(other)
            elif _starts(active):
                held += [asked for way in self._ways(other, active) for asked in way.needs]
            elif active.queued_at is not None and is_ahead(active):
                before += self._ways(other, active)[0].needs
                position += 1
        return Claims(held, before, position=position)

    def _returning(self, head: Head) -> list[Need]:
        """What made room in vain gets it back before others take it."""
        if head.rollout is None or not head.rollout.way:
            return []
        return [self._missing(head, revision) for revision in head.traffic]

    def _beside(self, head: Head, rollout: Rollout) -> Sequence[Need]:
        return [self._asks(head, r, head.instances(r)) for r in handover.kept(head, rollout)]


def _starts(rollout: Rollout) -> bool:
    """Whether it was let start replicas."""
    return any(op.verb in (SMOKE, DEPLOY) for op in rollout.ops)


def _earlier(one: Rollout, other: Rollout) -> bool:
    return other.queued_at is None or ((one.queued_at or 0.0), one.id) < (other.queued_at, other.id)
