"""Asks the platform what there is before a rollout starts anything, and who else has a claim on it. Decides nothing:
that is `headgate.capacity`.

A platform that cannot say what it has (one machine, or no right to look) holds nobody up.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace

from headgate import capacity
from headgate.capacity import Claims, Fit, Inventory, Need, Space
from headgate.findings import HeadgateError
from headgate.phases import BUILD, DEPLOY, SMOKE
from headgate.ports import Platform
from headgate.process import Settings
from headgate.rollout import Head, Rollout
from headgate.workload import Purpose
from headgate_controllers.heads import Heads

log = logging.getLogger(__name__)


class Capacity:
    def __init__(self, heads: Heads, platform: Platform, settings: Callable[[], Settings]) -> None:
        self._heads = heads
        self._platform = platform
        self._settings = settings
        self._inventory: Callable[[], Inventory | None] | None = getattr(platform, "inventory", None)

    def room(self, verb: str, op_key: str, head: Head) -> Fit | None:
        """Whether the op may open; None: it starts nothing, is open already, or nobody knows."""
        rollout = head.active
        workflow, _, name = op_key.rpartition("/")
        if self._inventory is None or self._settings().capacity == "elastic" or rollout is None:
            return None
        if rollout.id != workflow or verb not in (BUILD, SMOKE, DEPLOY) or rollout.op(name) is not None:
            return None
        try:
            inventory = self._inventory()
            if inventory is None:
                return None
            return capacity.fit(inventory, self._needs(head, rollout), self._claims(head, rollout))
        except HeadgateError as error:  # not knowing must not hold up a rollout: the pods themselves will say
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

    def _needs(self, head: Head, rollout: Rollout) -> list[Need]:
        return [self._need(head, rollout, revision) for revision in rollout.plan.revisions]

    def _need(self, head: Head, rollout: Rollout, revision: str) -> Need:
        """Replicas of a revision that have no pod yet."""
        deployment = rollout.target.revisions[revision]
        seen = self._platform.observe(head.endpoint)
        there = sum(r.revision == revision and r.purpose is Purpose.SERVE and bool(r.address) for r in seen)
        count = max(0, deployment.run.instance_count - there)
        return capacity.need(head.endpoint, deployment, self._settings(), count)

    def _claims(self, head: Head, rollout: Rollout) -> Claims:
        others = self._others(head.endpoint, lambda other: _earlier(other, rollout))
        return replace(others, beside=self._beside(head, rollout))

    def _others(self, endpoint: str, is_ahead: Callable[[Rollout], bool]) -> Claims:
        held: list[Need] = []
        before: list[Need] = []
        position = 1
        for other in self._heads.all():
            active = other.active
            if active is None or other.endpoint == endpoint:
                continue
            if any(op.verb in (SMOKE, DEPLOY) for op in active.ops):
                held += self._needs(other, active)
            elif active.queued_at is not None and is_ahead(active):
                before += self._needs(other, active)
                position += 1
        return Claims(held, before, position=position)

    def _beside(self, head: Head, rollout: Rollout) -> Sequence[Need]:
        """What serves until the rollout's end, and what it leads to that runs already."""
        kept = {*rollout.start, *rollout.target.revisions} - set(rollout.plan.revisions)
        known = [head.revisions[r].deployment for r in sorted(kept) if r in head.revisions]
        return [capacity.need(head.endpoint, d, self._settings(), d.run.instance_count) for d in known]


def _earlier(one: Rollout, other: Rollout) -> bool:
    return other.queued_at is None or ((one.queued_at or 0.0), one.id) < (other.queued_at, other.id)
