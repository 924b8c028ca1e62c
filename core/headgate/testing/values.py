"""Values of the kernel, built in a line: deployments, targets, counts, looks, pairs. For tests, ours and yours."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from headgate import codec
from headgate.evidence import Answer, Counts, Look, Outcome, Pair, PairKind, Result, Verdict, bucket
from headgate.process import MirrorPhase, Process
from headgate.revision import revision_id
from headgate.target import DeploymentTarget, EnvironmentPin, RouterSettings, RunSettings, Source, SourcePath, Target
from headgate.traffic import per_mille

FAST = Process(mirror=MirrorPhase(percent=50, soak_s=10), steps=(5, 50, 100), soak_s=10, max_soak_s=100, keep_warm_s=60)


def deployment(name: str, content: str = "1", *, instances: int = 1, endpoint: str = "fraud") -> DeploymentTarget:
    """A deployment whose answers depend on `content`."""
    source = Source(
        server="score",
        model=None,
        code=SourcePath(f"endpoints/{endpoint}/{name}", codec.digest(content)[:40]),
        scoring_script="score.py",
        environment=EnvironmentPin("", ()),
        variables={},
        scoring_path="/score",
        instance_type="small",
    )
    return DeploymentTarget(name, revision_id(endpoint, name, source), source, RunSettings(instance_count=instances))


def target(
    commit: str,
    deployments: Iterable[DeploymentTarget],
    traffic: Mapping[str, float],
    *,
    process: Process = FAST,
    endpoint: str = "fraud",
    router: RouterSettings | None = None,
) -> Target:
    """What `commit` asks: `traffic` is percent by deployment name."""
    named = {d.name: d for d in deployments}
    shares = per_mille({named[name].revision: share for name, share in traffic.items()})
    files = {f"endpoints/{endpoint}/endpoint.yml": codec.digest(commit)[:40]}
    return Target(endpoint, commit.ljust(40, "0"), named, shares, router or RouterSettings(), process, files)


def verdict(result: Result, gate: str = "error-rate") -> Verdict:
    return Verdict(gate, "1", "step", {}, 0.01, result, f"{gate} says {result}", missing="more requests")


def counts(ok: int, bad: int = 0, *, ms: float = 20.0, gone: int = 0) -> Counts:
    """Requests of one revision, each answered after `ms`; `gone`: callers who left first."""
    outcomes = {Outcome.OK: ok, Outcome.MODEL_ERROR: bad, Outcome.CLIENT_GONE: gone}
    return Counts({outcome: n for outcome, n in outcomes.items() if n}, {bucket(ms): ok + bad} if ok + bad else {})


def pair(stable: Any, candidate: Any, *, kind: PairKind = PairKind.COMPARE, request: str = "r") -> Pair:
    """A live answer and the answer to its copy, as JSON bodies."""
    live = Answer("stable", 200, "application/json", json.dumps(stable))
    return Pair(kind, request, live, Answer("candidate", 200, "application/json", json.dumps(candidate)))


def look(candidate: Counts, stable: Counts, *pairs: Pair, phase: str = "step", at: float = 0.0) -> Look:
    """One second of both arms."""
    return Look(phase, 1, at, 1.0, candidate, stable, pairs=pairs)
