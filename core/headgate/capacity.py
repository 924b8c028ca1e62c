"""Does it fit, before anything starts: what a cluster has, what is held, what a rollout needs. Pure.

A rollout needs its revisions beside what serves now, or it could only wait for ever. So: start it; wait in line for
room that others hold; or refuse it, with the arithmetic, because even an empty pool could not take it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum

from headgate.findings import Finding, Place
from headgate.process import Settings
from headgate.surge import PARALLEL
from headgate.target import DeploymentTarget

CPU, MEMORY, PODS = "cpu", "memory_mb", "pods"  # cores, MiB, count; every other name is a GPU resource, counted
SLACK = 1e-6  # of sums of fractions of cores


@dataclass(frozen=True, slots=True)
class Node:
    name: str
    pool: str  # value of its label headgate.dev/pool; empty: in no pool
    holds: Mapping[str, float]  # resource -> what its pods may ask for in all
    free: Mapping[str, float]  # and what is not asked for yet
    ready: bool = True  # False: away or cordoned just now
    reserved: bool = False  # tainted for GPUs: takes only what asks for one


@dataclass(frozen=True, slots=True)
class Quota:
    name: str
    holds: Mapping[str, float]
    free: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Inventory:
    nodes: tuple[Node, ...]
    quotas: tuple[Quota, ...] = ()


@dataclass(frozen=True, slots=True)
class Need:
    what: str  # for a person: endpoint/deployment
    count: int
    each: Mapping[str, float]  # resource -> of one replica
    pool: str = ""


def need(endpoint: str, deployment: DeploymentTarget, settings: Settings, count: int) -> Need:
    """What so many replicas ask for. A deployment without an instance type asks for a place on a node, no more."""
    kind = settings.instance_types.get(deployment.source.instance_type.lower())
    each: dict[str, float] = {PODS: 1.0}
    if kind is not None:
        sizes = {CPU: kind.cpus, MEMORY: round(kind.memory_gb * 1024.0), kind.gpu_resource: float(kind.gpus)}
        each |= {name: amount for name, amount in sizes.items() if amount}
    return Need(f"{endpoint}/{deployment.name}", count, each, kind.node_pool if kind else "")


class Answer(StrEnum):
    START = "start"
    WAIT = "wait"
    REFUSE = "refuse"


@dataclass(frozen=True, slots=True)
class Fit:
    answer: Answer
    text: str = ""  # why not now, with the arithmetic
    at_once: int = 0  # replicas asked for that could start now
    position: int = 0  # in line, from 1; 0: it does not wait
    way: str = PARALLEL  # of `surge.py`: which it is about


@dataclass(frozen=True, slots=True)
class Claims:
    """Whose replicas count, beside the rollout's own. `held` and `before` have no pods yet."""

    held: Sequence[Need] = ()  # of rollouts that were let start
    before: Sequence[Need] = ()  # of rollouts further up in line
    beside: Sequence[Need] = ()  # what the endpoint runs now and needs on: it is in the inventory too
    position: int = 1


NOBODY = Claims()


@dataclass(frozen=True, slots=True)
class Space:
    """What a rollout would find if it began now."""

    inventory: Inventory | None  # None: nobody knows, so nothing is held up
    claims: Claims = NOBODY  # of others


@dataclass(frozen=True, slots=True)
class Way:
    """One way for a rollout to get its replicas."""

    name: str  # of `surge.py`
    needs: Sequence[Need]  # beside what runs
    beside: Sequence[Need]  # what runs and goes on to
    says: str = ""  # to a person: who has how many, op by op


def choose(inventory: Inventory, ways: Sequence[Way], claims: Claims = NOBODY) -> Fit:
    """The first way that fits now, the gentlest being first; else the last that may be waited for; else why not."""
    found = [replace(fit(inventory, way.needs, replace(claims, beside=way.beside)), way=way.name) for way in ways]
    for way, answer in zip(ways, found, strict=True):
        if answer.answer is Answer.START:
            return replace(answer, text=way.says)
    return next((answer for answer in reversed(found) if answer.answer is Answer.WAIT), found[-1])


def fit(inventory: Inventory, needs: Sequence[Need], claims: Claims = NOBODY) -> Fit:
    """Whether the rollout's replicas can start now, beside everything that runs and is held."""
    now = _Room(inventory, free=True)
    for claim in (*claims.held, *claims.before):
        now.place(claim)
    started = [now.place(asked) for asked in needs]
    at_once = sum(started)
    if all(count == asked.count for count, asked in zip(started, needs, strict=True)):
        return Fit(Answer.START, at_once=at_once)
    short, could = next((a, c) for a, c in zip(needs, started, strict=True) if c < a.count)
    empty = _Room(inventory, free=False)
    for claim in claims.beside:
        empty.place(claim)
    most = [empty.place(asked) for asked in needs]
    if any(count < asked.count for count, asked in zip(most, needs, strict=True)):
        short, could = next((a, c) for a, c in zip(needs, most, strict=True) if c < a.count)
        return Fit(Answer.REFUSE, _refusal(inventory, short, could, claims.beside), at_once)
    text = f"{_asks(short)}; {could} of them fit now: {_says(inventory, short, free=True)}"
    return Fit(Answer.WAIT, text, at_once, claims.position)


@dataclass(slots=True)
class _Room:
    """What is left while needs are placed one by one, fullest node first, so that large holes stay."""

    inventory: Inventory
    free: bool  # False: as if nothing ran
    _left: dict[str, dict[str, float]] = field(init=False)
    _quotas: list[dict[str, float]] = field(init=False)

    def __post_init__(self) -> None:
        usable = [n for n in self.inventory.nodes if n.ready or not self.free]
        self._left = {n.name: dict(n.free if self.free else n.holds) for n in usable}
        self._quotas = [dict(q.free if self.free else q.holds) for q in self.inventory.quotas]

    def place(self, asked: Need) -> int:
        """How many of its replicas find room; they keep it."""
        placed = 0
        names = [n.name for n in _fitting(self.inventory.nodes, asked) if n.name in self._left]
        while placed < asked.count and self._within_quotas(asked.each):
            holes = [name for name in names if _covers(self._left[name], asked.each)]
            if not holes:
                break
            tightest = min(holes, key=lambda name: (self._left[name].get(CPU, 0.0), name))
            for left in (self._left[tightest], *self._quotas):
                _take(left, asked.each)
            placed += 1
        return placed

    def _within_quotas(self, each: Mapping[str, float]) -> bool:
        return all(_covers(left, {k: v for k, v in each.items() if k in left}) for left in self._quotas)


def _fitting(nodes: Iterable[Node], asked: Need) -> list[Node]:
    gpus = any(name not in (CPU, MEMORY, PODS) for name in asked.each)
    return [n for n in nodes if asked.pool in ("", n.pool) and (gpus or not n.reserved)]


def _covers(left: Mapping[str, float], each: Mapping[str, float]) -> bool:
    return all(left.get(name, 0.0) + SLACK >= amount for name, amount in each.items())


def _take(left: dict[str, float], each: Mapping[str, float]) -> None:
    for name, amount in each.items():
        if name in left:
            left[name] -= amount


def _refusal(inventory: Inventory, short: Need, could: int, beside: Sequence[Need]) -> str:
    nodes = _fitting(inventory.nodes, short)
    if not nodes:
        where = f"no node has the label headgate.dev/pool={short.pool}" if short.pool else "no node takes it"
        return f"{_asks(short)}; {where}"
    serves = [f"{n.count} of {n.what}" for n in beside if n.count]
    after = f" beside {' and '.join(serves)}, which serve on until the end" if serves else ""
    return f"{_asks(short)}; an empty pool would take {could}{after}: {_says(inventory, short, free=False)}"


def _asks(n: Need) -> str:
    where = f" in pool {n.pool}" if n.pool else ""
    return f"{n.what} asks for {n.count} × ({_amounts(n.each)}){where}"


def _amounts(each: Mapping[str, float]) -> str:
    unit = {CPU: "cores", MEMORY: "MiB"}
    shown = [(name, amount) for name, amount in each.items() if name != PODS] or [(PODS, each.get(PODS, 0.0))]
    return ", ".join(f"{amount:g} {unit.get(name, name)}" for name, amount in shown)


def _says(inventory: Inventory, asked: Need, *, free: bool) -> str:
    """Node by node, then the quotas: the figures that decide."""
    names = [name for name in asked.each if name != PODS] or [PODS]
    parts = []
    for node in _fitting(inventory.nodes, asked):
        amounts = node.free if free else node.holds
        has = _amounts({name: round(amounts.get(name, 0.0), 3) for name in names})
        parts.append(f"{node.name} {'has free' if free else 'has'} {has}" + ("" if node.ready else " (not ready)"))
    for quota in inventory.quotas:
        amounts = quota.free if free else quota.holds
        limits = {name: amounts[name] for name in (*names, PODS) if name in amounts}
        if limits:
            parts.append(f"quota {quota.name} {'leaves' if free else 'allows'} {_amounts(limits)}")
    return "; ".join(parts)


def by_turns(
    name: str, leaving: Sequence[Need], coming: Sequence[Need], most: int, there: int, kept: Sequence[Need]
) -> Way | None:
    """Replicas that take each other's places: no more than `most` at once, `there` of them are there now.

    None: they ask for different things, so none fits into another's place.
    """
    shapes = {(tuple(sorted(n.each.items())), n.pool) for n in (*leaving, *coming)}
    if len(shapes) != 1:
        return None
    one = coming[0]
    names = sorted({n.what for n in (*leaving, *coming)})
    what = f"{' and '.join(names)} by turns"
    asked = replace(one, what=what, count=max(0, most - there))
    return Way(name, [asked], [*kept, replace(one, what=what, count=min(there, most))])


def finding(endpoint: str, found: Fit) -> Finding:
    return Finding(
        code="capacity",
        message=found.text,
        why="a rollout that can only wait would block the endpoint, and the traffic stays where it is",
        fix="ask for fewer or smaller instances, add nodes to the pool, or raise the quota; let what leaves make room "
        "with `capacity: partial` in rollout.yml, or `swap`, which takes callers' answers away in between; where nodes "
        "come by themselves write `capacity: elastic` in headgate.yml",
        place=Place(f"endpoints/{endpoint}/endpoint.yml"),
    )
