"""THE TABLE of a rollout: phase = verb = op. What may follow what, who does the work, and what ends each.

The workflow only asks, op by op; the record's state machine (`rollout.py`) accepts an op when `may_follow` says so.
Moving traffic without judging it cannot be written: a step ends only by a verdict, and the next opens only after it.
"""

from __future__ import annotations

from dataclasses import dataclass

BUILD, SMOKE, DEPLOY, MIRROR, STEP, FINALIZE, CLOSE = "build", "smoke", "deploy", "mirror", "step", "finalize", "close"


@dataclass(frozen=True, slots=True)
class Phase:
    verb: str
    after: tuple[str, ...]  # verbs whose end lets this one open; () = the start of a rollout
    judged: bool  # ended by gates over evidence of its own generations
    says: str  # what a person reads while it runs


PHASES = (
    Phase(BUILD, (), False, "building {revisions}"),
    Phase(SMOKE, (BUILD,), False, "starting {revisions} alone and asking the sample request"),
    Phase(DEPLOY, (SMOKE,), False, "starting the replicas of {revisions}"),
    Phase(MIRROR, (DEPLOY,), True, "copying {percent:g} % of live requests to {candidate}"),
    Phase(STEP, (DEPLOY, MIRROR, STEP), True, "{percent:g} % of the way to the traffic asked for"),
    Phase(FINALIZE, (DEPLOY, STEP), False, "recording the new stable"),
    Phase(CLOSE, (), False, "workflow ended: {status}"),
)
BY_VERB = {phase.verb: phase for phase in PHASES}


def may_follow(verb: str, ended: tuple[str, ...], *, unproven: bool) -> bool:
    """Whether an op of this verb may open when ops of the verbs `ended` have passed, last one last.

    Without an unproven revision there is nothing to build, so what comes after the build may come first.
    """
    phase = BY_VERB[verb]
    if not ended:
        return not phase.after or (not unproven and verb in (MIRROR, STEP, FINALIZE))
    return ended[-1] in phase.after
