"""What a change would do, worked out without a running system: two trees in, one `Change` per endpoint out.

The base tree is taken as live and known-good. That is a preview: the controller plans against its record, which also
knows what was finalized before, so a return to a known-good state is a switch there and not a rollout.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from headgate import capacity, handover, params, reading
from headgate.assets import Pin
from headgate.capacity import Fit, Need, Space, Way
from headgate.draft import Draft
from headgate.evidence import Detection, Traffic
from headgate.findings import Finding, in_order
from headgate.intent import adopt
from headgate.outcome import start
from headgate.phases import BY_VERB
from headgate.plan import Op, Plan
from headgate.planning import make_plan
from headgate.ports import Tree
from headgate.process import Settings
from headgate.reading import Reading
from headgate.rollout import Head, Release, RevisionState
from headgate.surge import PARALLEL, SWAP
from headgate.target import DeploymentTarget, Target
from headgate_policies import admission, forecast, idle
from headgate_policies.forecast import Price
from headgate_policies.judge import alpha_share, resolve

Gates = Mapping[str, Any]  # by entry point


@dataclass(frozen=True)
class Promise:
    """What one gate can find, before a rollout starts."""

    gate: str
    detection: Detection | None  # None: it does not say


@dataclass(frozen=True)
class Change:
    endpoint: str
    before: Target | None  # None: new, or not readable at the base
    after: Target | None  # None: removed, or refused
    plan: Plan | None = None  # None: nothing to roll out
    findings: tuple[Finding, ...] = ()
    promises: tuple[Promise, ...] = ()
    removed: bool = False
    settings: tuple[str, ...] = field(default=())  # applied in place, in words
    ways: tuple[Way, ...] = ()  # how its new revisions may find room, the gentlest first; none: nodes come as needed
    fit: Fit | None = None  # None: nobody was asked, or knows
    price: Price | None = None  # None: headgate.yml does not say

    @property
    def refused(self) -> bool:
        return any(finding.is_error for finding in self.findings)


@dataclass(frozen=True)
class Side:
    """One of the two trees, read."""

    tree: Tree
    settings: Settings
    findings: tuple[Finding, ...]
    readings: Mapping[str, Reading]


def read_side(tree: Tree, cache: dict[Any, Any], catalogue: Callable[[Tree, Settings], Pin]) -> Side:
    """Args:
    catalogue: what looks registered models up by these settings.
    """
    settings, found = reading.read_settings(tree)
    return Side(tree, settings, found, reading.read_all(tree, settings, catalogue(tree, settings), cache))


def changes(base: Side, head: Side, gates: Gates, rate: float) -> Iterator[Change]:
    """Every endpoint that the head asks something else of than the base, by name.

    Args:
        rate: live requests per second to expect of each, for what the gates can promise.
    """
    for name in sorted({*base.readings, *head.readings}):
        before = base.readings[name].target if name in base.readings else None
        if name not in head.readings:
            yield Change(name, before, None, removed=True)
            continue
        asked = head.readings[name]
        gated = reading.check_gates(asked, head.tree, parameters(gates))
        admitted = admission.check(head.tree, [name]) if asked.target else ()
        found = in_order((*asked.findings, *gated, *idle.check(asked, head.tree, gates), *admitted))
        if any(f.is_error for f in found) or asked.target is None:
            yield Change(name, before, None, findings=found)
        elif before is None or asks_more(before, asked.target):
            made = planned(name, before, asked.target, found, gates, rate)
            made = replace(made, price=forecast.price(before, asked.target, base.settings, head.settings))
            yield made if head.settings.capacity == "elastic" else sized(made, head.settings)


def asks_more(before: Target, after: Target) -> bool:
    return before.digest != after.digest or before.process != after.process


def planned(
    name: str, before: Target | None, after: Target, found: tuple[Finding, ...], gates: Gates, rate: float
) -> Change:
    made = make_plan(live_at(name, before), after)
    moves = made.plan if made.plan is not None and (made.plan.revisions or differs(before, after)) else None
    promises = tuple(promised(made.plan, after, gates, rate)) if made.plan else ()
    return Change(
        name, before, after, moves, in_order((*found, *made.findings)), promises, False, in_place(before, after)
    )


def sized(change: Change, settings: Settings) -> Change:
    """With the ways in which its replicas may find room; without a rollout as it is."""
    plan, after, before = change.plan, change.after, change.before
    if plan is None or after is None or not plan.revisions:
        return change

    def asked(deployment: DeploymentTarget) -> Need:
        return capacity.need(change.endpoint, deployment, settings, deployment.run.instance_count)

    live = {r: d for r, d in (before.revisions if before else {}).items() if before and before.traffic.get(r)}
    kept = {r: d for r, d in {**live, **after.revisions}.items() if r not in plan.revisions}
    needs = [asked(after.revisions[revision]) for revision in plan.revisions]
    beside = Way(PARALLEL, needs, [asked(d) for _, d in sorted(kept.items())])
    turns = _by_turns(change.endpoint, before, after, settings) if before else None
    if turns is not None and turns.name == SWAP:
        return replace(change, ways=(turns,))
    return replace(change, ways=(beside, turns) if turns is not None else (beside,))


def _by_turns(endpoint: str, before: Target, after: Target, settings: Settings) -> Way | None:
    """As the controller would have it, with what the base asks for running."""
    draft = Draft(live_at(endpoint, before), 0.0)
    adopt(draft, after)
    start(draft, after)
    rollout = draft.head.active
    assert rollout is not None
    there = sum(draft.head.instances(revision) for revision in handover.leaves(rollout.start, after))
    return handover.turns(draft.head, rollout, settings, there)


def fitted(change: Change, space: Space) -> Change:
    """With whether its rollout could start now."""
    if space.inventory is None or not change.ways:
        return change
    return replace(change, fit=capacity.choose(space.inventory, change.ways, space.claims))


def differs(before: Target | None, after: Target) -> bool:
    return dict(before.traffic if before else {}) != dict(after.traffic)


def live_at(name: str, target: Target | None) -> Head:
    """The record of an endpoint on which this target was finalized."""
    if target is None:
        return Head(name)
    states = {
        revision: RevisionState(deployment, target.commit, running=True, smoked=True, known_good=True)
        for revision, deployment in target.revisions.items()
    }
    return Head(
        name,
        target.commit,
        target,
        traffic=target.traffic,
        revisions=states,
        releases=(Release(target, 0.0),),
    )


def in_place(before: Target | None, after: Target) -> tuple[str, ...]:
    """What changes without a new revision, in words."""
    if before is None:
        return ()
    said = []
    for name, deployment in after.deployments.items():
        was = before.deployments.get(name)
        if was is not None and was.run != deployment.run and was.revision == deployment.revision:
            said.append(f"{name}: run settings" + count_change(was.run.instance_count, deployment.run.instance_count))
    if before.router != after.router:
        said.append("router settings")
    if before.process != after.process:
        said.append("the process, for rollouts from now on")
    said += [f"{name}: removed" for name in before.deployments.keys() - after.deployments.keys()]
    return tuple(said)


def count_change(before: int, after: int) -> str:
    return f", instances {before} → {after}" if before != after else ""


def promised(plan: Plan, target: Target, gates: Gates, rate: float) -> Iterator[Promise]:
    if not plan.candidate:
        return
    alpha = alpha_share(target.process, len(judged(plan)))
    for name, data in sorted(target.process.gates.items()):
        found = resolve(name, gates)
        if found is None:
            continue  # a finding says so already
        gate, implied = found
        values, _ = params.parse(gate.params, {**implied, **data})
        yield Promise(name, gate.power(values, Traffic(rate), alpha) if values is not None else None)


def judged(plan: Plan) -> tuple[Op, ...]:
    return tuple(op for op in plan.ops if plan.candidate and BY_VERB[op.verb].judged)


def parameters(gates: Gates) -> dict[str, Any]:
    return {name: gate.params for name, gate in gates.items()}
