"""A plan as lines, as Markdown for a review, and as data. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from headgate import codec
from headgate.capacity import Answer
from headgate.phases import MIRROR, STEP
from headgate.plan import Op
from headgate.surge import PARTIAL, SWAP
from headgate.target import Target
from headgate.traffic import WHOLE
from headgate_console.plans import Change, Promise, judged
from headgate_console.print import age, bold, dim, percent, table
from headgate_policies.forecast import per_1000
from headgate_policies.wording import rounded

NOTHING = "nothing to change"
# What the default gates look at. Gates named in rollout.yml replace them, so one that is left out is easily not missed.
SEEN_BY = {"error-rate": "errors", "latency": "how long answers take", "mirror-diff": "what answers say"}


def text(changes: Sequence[Change], rate: float) -> list[str]:
    lines: list[str] = []
    for change in changes:
        lines += [*([""] if lines else []), *one(change, rate)]
    return lines or [NOTHING]


def one(change: Change, rate: float) -> list[str]:
    return [
        bold(headline(change)),
        *(f"  {line}" for line in summary(change)),
        *(f"  {line}" for line in ladder(change)),
        *(f"  {promise(p, change, rate)}" for p in change.promises if p.detection),
        *(f"  {line}" for line in room(change)),
        *(f"  {line}" for line in price(change, rate)),
        *(f"  note: {note}" for note in (*(change.plan.notes if change.plan else ()), *unseen(change))),
        *(line for finding in change.findings for line in str(finding).splitlines()),
    ]


def headline(change: Change) -> str:
    if change.removed:
        return f"{change.endpoint}: removed; it serves on for removal_grace if it has traffic"
    if change.refused:
        return f"{change.endpoint}: refused, nothing changes"
    verb = "new" if change.before is None else "changes"
    return f"{change.endpoint}: {verb}" + (f"  plan {change.plan.hash[:12]}" if change.plan else "")


def summary(change: Change) -> list[str]:
    if change.after is None:
        return []
    lines = []
    if change.before is None or dict(change.before.traffic) != dict(change.after.traffic):
        lines.append(f"traffic: {split(change.before)} → {split(change.after)}")
    if change.plan:
        lines += [f"new revision: {named(change.after, r)}: build, smoke, deploy" for r in change.plan.revisions]
    return [*lines, *(f"in place: {words}" for words in change.settings)]


def split(target: Target | None) -> str:
    """`blue@1a2b3c4d 90 %, green@5e6f7a8b 10 %`."""
    if target is None or not target.traffic:
        return "drained" if target else "nothing"
    shares = sorted(target.traffic.items(), key=lambda item: (-item[1], item[0]))
    return ", ".join(f"{named(target, revision)} {percent(share)}" for revision, share in shares)


def named(target: Target, revision: str) -> str:
    return f"{target.revisions[revision].name}@{revision[:8]}" if revision in target.revisions else revision[:8]


def ladder(change: Change) -> list[str]:
    if change.plan is None or change.after is None:
        return []
    return ["", *table(["OP", "PERCENT", "SOAK", "GATES"], [row(change, op) for op in change.plan.ops]), ""]


def row(change: Change, op: Op) -> list[str]:
    assert change.plan is not None
    assert change.after is not None
    process = change.after.process
    is_judged = op in judged(change.plan)
    soak = process.mirror.soak_s if op.verb == MIRROR else process.soak_s
    return [
        op.name,
        f"{op.percent:g} %" if op.verb in (MIRROR, STEP) else "",
        f"≥ {age(soak)}" if is_judged else "",
        ", ".join(sorted(process.gates)) if is_judged else "",
    ]


def unseen(change: Change) -> list[str]:
    """What no gate of a judged rollout looks at."""
    if change.plan is None or change.after is None or not judged(change.plan):
        return []
    gates = change.after.process.gates
    missing = [seen for kind, seen in SEEN_BY.items() if not any(g == kind or g.startswith(f"{kind}-") for g in gates)]
    return [f"no gate looks at {seen}: those of rollout.yml replace the default ones" for seen in missing]


def promise(given: Promise, change: Change, rate: float) -> str:
    """What a gate finds, and how long that takes at the first step's share of the rate to expect."""
    assert given.detection is not None
    found = given.detection
    line = f"{given.gate}: {found.effect}: found within ~{rounded(found.requests):,} candidate requests"
    line += f" with {found.power * 100:.0f} %"
    line += f"; an equal one passes within ~{rounded(found.passes):,}" if found.passes else ""
    share = first_share(change)
    if not share or rate <= 0:
        return line
    return line + dim(f": {age(found.requests / (rate * share))} at {share * 100:g} % of {rate:g} a second (--rate)")


def room(change: Change) -> list[str]:
    """Whether its new replicas find a place; nothing when nobody knows."""
    if change.fit is None:
        return []
    match change.fit.answer:
        case Answer.START:
            if change.fit.way == PARTIAL:
                return [f"capacity: fits now by parts: {change.fit.text}"]
            if change.fit.way == SWAP:
                return ["capacity: fits in the place of what serves"]
            return [f"capacity: fits now: {change.fit.at_once} more start beside what runs"]
        case Answer.WAIT:
            return [f"capacity: waits, number {change.fit.position} in line: {change.fit.text}"]
        case Answer.REFUSE:
            return [f"capacity: will be refused: {change.fit.text}"]


def price(change: Change, rate: float) -> list[str]:
    """What its instances cost; nothing when headgate.yml has no price for one of them."""
    found = change.price
    if found is None:
        return []
    now = "" if found.before is None else f" (now {found.before:g})"
    both = f", {found.during:g} while both run" if found.during > max(found.after, found.before or 0.0) else ""
    line = f"price: {found.after:g} an hour{now}{both}"
    if rate > 0:
        was = "" if found.before is None else f" (now {per_1000(found.before, rate):.3g})"
        line += f"; at {rate:g} requests a second {per_1000(found.after, rate):.3g} per 1,000 requests{was}"
    return [line]


def first_share(change: Change) -> float:
    """The candidate's share of live requests at the first step, 0 to 1."""
    plan, before = change.plan, change.before
    first = next((op for op in plan.ops if op.verb == STEP), None) if plan else None
    if plan is None or first is None:
        return 0.0
    start = before.traffic.get(plan.candidate, 0) if before else 0
    return (start + (plan.traffic.get(plan.candidate, 0) - start) * first.percent / 100) / WHOLE


def markdown(changes: Sequence[Change], rate: float) -> list[str]:
    """For a pull request: the same, foldable."""
    lines = ["### Headgate plan", ""]
    if not changes:
        return [*lines, NOTHING]
    for change in changes:
        body = [line for part in (summary(change), bullets(change, rate)) for line in part]
        lines += [f"**{headline(change)}**", "", *(f"- {line}" for line in body), *grid(change), ""]
        if change.findings:
            lines += ["```", *(line for f in change.findings for line in str(f).splitlines()), "```", ""]
    return lines


def bullets(change: Change, rate: float) -> list[str]:
    import click

    said = [click.unstyle(promise(p, change, rate)) for p in change.promises if p.detection]
    return [*said, *room(change), *price(change, rate), *(change.plan.notes if change.plan else ()), *unseen(change)]


def grid(change: Change) -> list[str]:
    if change.plan is None:
        return []
    rows = [row(change, op) for op in change.plan.ops]
    head = ["", "| op | percent | soak | gates |", "|---|---|---|---|"]
    return [*head, *("| " + " | ".join(cells) + " |" for cells in rows)]


def data(changes: Sequence[Change]) -> list[dict[str, Any]]:
    return [
        {
            "endpoint": change.endpoint,
            "removed": change.removed,
            "refused": change.refused,
            "before": shares(change.before),
            "after": shares(change.after),
            "in_place": list(change.settings),
            "plan": codec.to_data(change.plan) if change.plan else None,
            "gates": [{"gate": p.gate, "detection": codec.to_data(p.detection)} for p in change.promises],
            "unseen": unseen(change),
            "capacity": codec.to_data(change.fit) if change.fit else None,
            "price": codec.to_data(change.price) if change.price else None,
            "findings": codec.to_data(list(change.findings)),
        }
        for change in changes
    ]


def shares(target: Target | None) -> dict[str, int]:
    return {f"{named(target, revision)}": share for revision, share in target.traffic.items()} if target else {}
