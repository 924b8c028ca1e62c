"""From a target and where the endpoint is now to a plan, or to the findings that say why there is none."""

from __future__ import annotations

from dataclasses import dataclass

from headgate import codec
from headgate.findings import Finding, Place
from headgate.plan import Plan, ops_for, seal
from headgate.rollout import Head, Release, RevisionState
from headgate.surge import SWAP
from headgate.target import Target
from headgate.traffic import grown


def known_release(head: Head, target: Target) -> Release | None:
    """The finalized target with this traffic whose revisions are all still known-good, newest first.

    Reverts are found by content, not by a commit's message: a revert of a revert, a squashed revert and an edit by
    hand all restore the same revisions.
    """
    for release in reversed(head.releases):
        if release.target.traffic == target.traffic and is_known_good(head, target):
            return release
    return None


def is_known_good(head: Head, target: Target) -> bool:
    return all(revision in head.revisions and head.revisions[revision].known_good for revision in target.traffic)


def unproven(head: Head, target: Target) -> tuple[str, ...]:
    """Revisions that must be built, smoked and made ready first: all that are not running and finalized."""
    states = head.revisions
    return tuple(sorted(r for r in target.revisions if r not in states or not _is_whole(states[r])))


def _is_whole(state: RevisionState) -> bool:
    return state.known_good and state.running and state.instances is None


@dataclass(frozen=True, slots=True)
class Planned:
    plan: Plan | None
    findings: tuple[Finding, ...] = ()
    swaps: bool = False  # what serves ends before what is asked for starts


def make_plan(head: Head, target: Target) -> Planned:
    """The rollout that leads from `head.traffic` to `target`."""
    missing = unproven(head, target)
    rising = grown(head.traffic, target.traffic)
    fresh = [r for r in rising if r in missing]
    candidates = fresh or list(rising)
    judged = bool(head.traffic and target.traffic and candidates)
    if judged and len(candidates) > 1:
        return Planned(None, (_two_candidates(target, candidates),))
    candidate = candidates[0] if judged else ""
    moves = dict(target.traffic) != dict(head.traffic)
    swaps = bool(judged and missing and target.process.capacity == SWAP and set(head.traffic) - set(target.revisions))
    mirrored = bool(
        judged
        and not swaps
        and not head.traffic.get(candidate)
        and target.process.mirror.percent > 0
        and target.process.repeatable
    )
    plan = Plan(
        endpoint=target.endpoint,
        commit=target.commit,
        target=target.digest,
        revisions=missing,
        candidate=candidate,
        traffic=target.traffic,
        ops=ops_for(target, unproven=bool(missing), moves=moves, judged=judged, mirrored=mirrored, swaps=swaps),
        process=codec.digest(target.process),
        notes=tuple(_notes(target, moves=moves, judged=judged, mirrored=mirrored, missing=missing, swaps=swaps)),
    )
    return Planned(seal(plan), swaps=swaps)


def _two_candidates(target: Target, candidates: list[str]) -> Finding:
    names = " and ".join(sorted(target.revisions[r].name for r in candidates))
    return Finding(
        code="two-candidates",
        message=f"{names} would both get new traffic in one commit",
        why="a rollout judges one candidate against the stable; with two, neither verdict could be trusted",
        fix="move traffic to one of them in this commit and to the other in the next",
        place=Place(endpoint_file(target)),
    )


def endpoint_file(target: Target) -> str:
    """The endpoint's own YAML, for findings about the whole of it."""
    folder = f"endpoints/{target.endpoint}/endpoint."
    return next((path for path in target.files if path.startswith(folder)), f"endpoints/{target.endpoint}/endpoint.yml")


def _notes(
    target: Target, *, moves: bool, judged: bool, mirrored: bool, missing: tuple[str, ...], swaps: bool
) -> list[str]:
    notes = []
    if swaps:
        notes.append(
            "swap in place: callers get 503 with Retry-After from when what serves ends until the next has passed its "
            "smoke test and is ready; it is judged at 100 % by absolute limits, and the way back takes as long"
        )
    if not judged and moves and target.traffic:
        notes.append("nothing is live to compare with: one move, after smoke test and readiness")
    if judged and not mirrored and not swaps:
        notes.append("no mirror phase: the endpoint is not repeatable, mirrors 0 %, or the candidate is live already")
    bare = [target.revisions[r].name for r in missing if target.revisions[r].smoke_request is None]
    if bare:
        notes.append(f"no sample request for {', '.join(sorted(bare))}: smoke ends at readiness")
    return notes
