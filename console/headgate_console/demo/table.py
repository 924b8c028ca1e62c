"""The closing table: what was promised, what was measured, whether it held. Reads nothing, decides nothing."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from headgate.control import OpStatus, RolloutStatus
from headgate.evidence import Verdict
from headgate_console.demo.audit import Audit, Share
from headgate_console.print import bold, percent, state, table, width

EVIDENCE_WIDTH = 100  # columns; with those to its left the table fits a wide terminal


@dataclass(frozen=True, slots=True)
class Revert:
    """The way back, in seconds from the update of the branch in the origin."""

    sent_s: float  # to the last request sent that the left revision answered
    answered_s: float  # to the last answer of the left revision: the careful figure
    commit: str = ""


@dataclass(frozen=True, slots=True)
class Outcome:
    """The whole story, as data: what `--json` writes."""

    audit: Audit
    rollouts: Mapping[str, RolloutStatus]  # model -> its rollout, in the order of the story
    revert: Revert
    deployments: Mapping[str, str]  # revision -> deployment
    seconds: float  # the whole story, set-up of this repo included
    problems: tuple[str, ...] = ()  # what did not hold; empty: everything did
    folder: str = ""  # where the logs are
    commits: Mapping[str, str] = field(default_factory=dict)  # model -> the revert that took it back
    revert_goal_s: float = 1.0


def lines(outcome: Outcome) -> Iterator[str]:
    yield ""
    yield from table(("WHAT", "MEASURED", "GOAL"), _promises(outcome))
    yield ""
    yield bold("Where requests went: share per revision and phase, as counted from every answer")
    yield from table(("PHASE", "REQUESTS", "ASKED", "SERVED"), _shares(outcome))
    yield ""
    yield bold("What each gate needed and got, and how long each phase took")
    yield from table(("ROLLOUT", "PHASE", "TIME", "RESULT", "EVIDENCE"), _phases(outcome.rollouts))
    if outcome.problems:
        yield ""
        yield state("failed") + ": what did not hold"
        yield from (f"  - {problem}" for problem in outcome.problems)
        yield from (f"  - e.g. {example}" for example in outcome.audit.examples)
        yield f"  logs: {outcome.folder}"


def _promises(outcome: Outcome) -> Iterator[tuple[str, str, str]]:
    audit, revert = outcome.audit, outcome.revert
    rate = audit.requests / audit.seconds if audit.seconds else 0.0
    goal = f"< {outcome.revert_goal_s * 1e3:,.0f} ms"
    yield "requests sent", f"{audit.requests:,} in {audit.seconds:.0f} s ({rate:.0f} a second)", ""
    yield "failures we made", f"{audit.failures}", "0"
    yield "answers that match no revision then allowed", f"{audit.strangers}", "0"
    yield "git revert to the last answer of the left revision", f"{revert.answered_s * 1e3:.0f} ms", goal
    yield "latency p50 / p99 / longest", f"{audit.p50_ms:.1f} / {audit.p99_ms:.1f} / {audit.longest_ms:.0f} ms", ""
    yield "the whole story", f"{outcome.seconds:.0f} s", ""


def _shares(outcome: Outcome) -> Iterator[tuple[str, str, str, str]]:
    for share in outcome.audit.shares:
        yield (
            share.phase,
            f"{share.requests:,}",
            _asked(share, outcome.deployments),
            _served(share, outcome.deployments),
        )


def _asked(share: Share, names: Mapping[str, str]) -> str:
    parts = [
        f"{names.get(revision, revision[:10])} {' then '.join(percent(p) for p in shares)}"
        for revision, shares in share.asked.items()
    ]
    return ", ".join(parts)


def _served(share: Share, names: Mapping[str, str]) -> str:
    observed = sorted(share.observed.items(), key=lambda item: -item[1])
    return ", ".join(f"{names.get(r, r[:10] or 'nobody')} {100 * n / share.requests:.1f} %" for r, n in observed)


def _phases(rollouts: Mapping[str, RolloutStatus]) -> Iterator[tuple[str, str, str, str, str]]:
    for name, rollout in rollouts.items():
        for op in rollout.ops:
            if op.started_at is None:
                continue
            evidence = [text for verdict in op.verdicts for text in _evidence(verdict)]
            evidence = evidence or op.message.splitlines()[:1] or [""]
            yield name, op.name, took(op), state(op.state), evidence[0]
            yield from (("", "", "", "", text) for text in evidence[1:])


def took(op: OpStatus) -> str:
    return f"{op.ended_at - op.started_at:.1f} s" if op.ended_at and op.started_at else ""


def _evidence(verdict: Verdict) -> list[str]:
    """What a gate said, folded to lines that stand beside the other columns."""
    head = f"{state(str(verdict.result))} {verdict.gate}: "
    text = f"{verdict.explanation}; missing: {verdict.missing}" if verdict.missing else verdict.explanation
    folded = textwrap.wrap(text, EVIDENCE_WIDTH, initial_indent=" " * width(head), subsequent_indent="    ")
    return [head + folded[0].lstrip(), *folded[1:]] if folded else [head]


def differences(verdicts: Sequence[Verdict]) -> Iterator[str]:
    """Which fields differ, how, by how much."""
    for verdict in verdicts:
        for found in verdict.differences:
            effect = f", {found.effect}" if found.effect else ""
            where = f"{found.path} ({found.kind}) in {found.share:.0%} of pairs{effect}"
            yield f"{where}: stable {found.stable}, candidate {found.candidate}"
