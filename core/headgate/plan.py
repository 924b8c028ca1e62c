"""What it takes to lead an endpoint from where it is to a target: a list of ops, hashed, so that apply equals plan.

The hash covers target digests, process and pins, never where the traffic is now: the same commit planned in a pull
request and an hour later is the same plan.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from headgate import codec
from headgate.phases import BUILD, DEPLOY, FINALIZE, MIRROR, SMOKE, STEP
from headgate.target import Target

# Soak, pause and max_soak live in the record; the engine's own limit only catches a controller that is gone for good.
JUDGED_TIMEOUT_S = 7 * 86_400.0


@dataclass(frozen=True, slots=True)
class Op:
    """One unit of a workflow: one phase's verb. Named after the phase; a step carries its percent."""

    name: str  # build, smoke, deploy, mirror, step-5 ... step-100, finalize
    verb: str  # of `phases.PHASES`
    percent: float = 0.0  # of the way from live to asked; mirror: of live requests copied
    timeout_s: float = 3_600.0


@dataclass(frozen=True, slots=True)
class Plan:
    endpoint: str
    commit: str
    target: str  # digest
    revisions: tuple[str, ...]  # to be built, smoked and made ready; empty: only traffic moves
    candidate: str  # the one revision that is judged; empty: no traffic moves to anything unproven
    traffic: Mapping[str, int]  # where it ends: revision -> per-mille
    ops: tuple[Op, ...] = ()
    process: str = ""  # digest of rollout.yml's values
    notes: tuple[str, ...] = ()  # said to a person, e.g. why there is no mirror phase
    hash: str = field(default="")


def workflow_name(endpoint: str, commit: str, attempt: int) -> str:
    """Deterministic, so that a second submit of the same attempt is the same workflow; at most 63 characters."""
    return f"ro-{endpoint.lower()[:40]}-{commit[:10]}-{attempt}"


def seal(plan: Plan) -> Plan:
    return replace(plan, hash=codec.digest(replace(plan, hash="", commit="")))


def ops_for(
    target: Target, *, unproven: bool, moves: bool, judged: bool, mirrored: bool, swaps: bool = False
) -> tuple[Op, ...]:
    """The ops of one rollout, in order.

    Args:
        unproven: some revision must be built, smoked and made ready.
        moves: traffic changes at all.
        judged: traffic moves from a live stable to a candidate: step by step. Otherwise in one move.
        mirrored: live requests may be copied to the candidate first.
        swaps: the two are never there at once: in one move.
    """
    process = target.process
    ops: list[Op] = []
    if unproven:
        ops += [Op(BUILD, BUILD, timeout_s=2_700.0), Op(SMOKE, SMOKE, timeout_s=1_800.0)]
        ops += [Op(DEPLOY, DEPLOY, timeout_s=1_800.0)]
    if mirrored:
        ops.append(Op(MIRROR, MIRROR, process.mirror.percent, JUDGED_TIMEOUT_S))
    if moves:
        steps = process.steps if judged and not swaps else (100.0,)
        ops += [Op(f"{STEP}-{percent:g}", STEP, percent, JUDGED_TIMEOUT_S) for percent in steps]
    return (*ops, Op(FINALIZE, FINALIZE, timeout_s=600.0))
