"""All gates of one phase over its looks: resolve names, share alpha, run each guarded, combine.

`judge_phase` judges looks at once. `Analysis` is the same, look by look, for a controller that judges every second:
its verdicts after n looks are those of `judge_phase` over the n looks, byte for byte. Whatever a gate raises or
returns, the outcome is a verdict; nothing but a sound pass of every gate is a pass.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from headgate.codec import canonical, to_data
from headgate.evidence import Look, Result, Verdict, significant
from headgate.params import parse, resolve_name
from headgate.process import Process
from headgate_policies.gates.minimum import Minimum, MinimumParams
from headgate_policies.seconds import Heard, Seconds
from headgate_policies.sitting import Sitting, broken


@dataclass(frozen=True, slots=True)
class _Seat:
    """A gate in one phase: how to hear looks, and what the verdict is now."""

    name: str
    version: str
    parameters: Mapping[str, Any]
    alpha: float
    hear: Callable[[Sequence[Heard]], Any]
    verdict: Callable[[], Any]
    result: Callable[[], Any] | None = None  # the verdict's, where it can be told with less work


def resolve(name: str, gates: Mapping[str, Any]) -> tuple[Any, Mapping[str, Any]] | None:
    """The gate that a name in rollout.yml means, and the parameters the name implies: `latency-p99` is `latency`
    with quantile 0.99. None: there is no such gate."""
    near = {known: gate.params for known, gate in gates.items() if name == known or name.startswith(f"{known}-")}
    found = resolve_name(name, near)
    return None if found is None else (gates[found[0]], found[1])


def alpha_share(process: Process, phases_total: int) -> float:
    """One judgement's share of false_abort: equal parts for every gate in every judged phase of the rollout.

    Bonferroni: the chance that any of them fails a good candidate is at most the sum of the shares, however they
    depend on each other. A gate that does not judge in a phase leaves its share there unused.
    """
    return process.false_abort / max(1, len(process.gates) * phases_total)


class Analysis:
    """The gates of one phase, hearing looks as they come."""

    def __init__(
        self,
        process: Process,
        *,
        phase: str,
        kind: str,
        gates: Mapping[str, Any],
        phases_total: int,
        only: str | None = None,
    ) -> None:
        """
        Args:
            phase: the op's name, e.g. step-5; `kind`: mirror, step or bake.
            gates: the gates there are, by entry point.
            phases_total: judged phases of the whole rollout.
            only: the one gate to judge by; its share of false_abort stays what it is beside the others. None: all.
        """
        self._phase = phase
        self._looks = 0
        self._evidence = hashlib.sha256()
        self._seconds = Seconds()
        self._results: tuple[Result, ...] = ()  # empty: not asked since a look was heard
        least = MinimumParams(process.min_requests)
        minimum = Minimum(least)
        seats = [_Seat("minimum-evidence", "1", to_data(least), 0.0, minimum.take, minimum.verdict, minimum.result)]
        alpha = alpha_share(process, phases_total)
        for name, data in sorted(process.gates.items()):
            seat = _seat(name, data, kind, gates, alpha) if only in (None, name) else None
            if seat is not None:
                seats.append(seat)
        self._seats = [seat for seat in seats if only in (None, seat.name)]
        self._broken: dict[str, str] = {}  # gate -> what it raised: it hears nothing any more

    def hear(self, looks: Iterable[Look]) -> Analysis:
        """What comes within a second is heard together: `Seconds`."""
        ready: list[Heard] = []
        for each in looks:
            look = _in_order(each)
            self._looks += 1
            self._evidence.update(_sealed(look))
            ready += self._seconds.take(look, broken(look))
        for seat in self._seats if ready else ():
            if seat.name not in self._broken:
                self._guard(seat, lambda seat=seat: seat.hear(ready))  # type: ignore[misc]
        self._results = () if ready else self._results
        return self

    def verdicts(self) -> tuple[Verdict, ...]:
        """One of each gate that judges in this phase, the minimum of evidence first."""
        return tuple(self._verdict(seat) for seat in self._seats)

    def results(self) -> tuple[Result, ...]:
        """Those of `verdicts()`, for who asks after every look and wants the words only when something is new."""
        self._results = self._results or tuple([self._result(seat) for seat in self._seats])
        return self._results

    def _result(self, seat: _Seat) -> Result:
        if seat.result is None or seat.name in self._broken:
            return self._verdict(seat).result
        given = self._guard(seat, seat.result)
        return given if isinstance(given, Result) else Result.ERROR

    def _verdict(self, seat: _Seat) -> Verdict:
        given = None
        if seat.name not in self._broken:
            given = self._guard(seat, seat.verdict)
        reason = self._broken.get(seat.name) or unsound(given)
        if reason or not isinstance(given, Verdict):
            given = Verdict(seat.name, seat.version, self._phase, {}, seat.alpha, Result.ERROR, reason)
        return replace(
            given,
            gate=seat.name,
            version=seat.version,
            phase=self._phase,
            parameters=seat.parameters,
            alpha=significant(seat.alpha),
            figures=given.figures if seat.result else _rounded(given.figures),  # ours are rounded
            looks=self._looks,
            evidence=self._evidence.hexdigest(),
        )

    def _guard(self, seat: _Seat, call: Callable[[], Any]) -> Any:
        try:
            return call()
        except Exception as error:  # noqa: BLE001  a gate may be anybody's: what it raises is its verdict
            self._broken[seat.name] = f"the gate broke: {type(error).__name__}: {error}"
            return None


def judge_phase(
    process: Process, *, phase: str, kind: str, looks: Sequence[Look], gates: Mapping[str, Any], phases_total: int
) -> tuple[Verdict, ...]:
    """The verdicts over all looks of a phase. Depends on nothing else: the same looks give the same bytes."""
    return Analysis(process, phase=phase, kind=kind, gates=gates, phases_total=phases_total).hear(looks).verdicts()


def combine(verdicts: Sequence[Verdict]) -> Result:
    """Fail wins; then error, then inconclusive hold; pass only when there is a verdict and every one passes."""
    results = {verdict.result for verdict in verdicts}
    for result in (Result.FAIL, Result.ERROR, Result.INCONCLUSIVE):
        if result in results:
            return result
    return Result.PASS if results else Result.INCONCLUSIVE


def _rounded(figures: Mapping[str, float]) -> dict[str, float]:
    return {name: significant(value) for name, value in sorted(figures.items())}


def unsound(given: Any) -> str:
    """Why what a gate returned is no verdict; empty: it is one."""
    if not isinstance(given, Verdict):
        return f"the gate returned {type(given).__name__}, not a verdict"
    if given.result not in set(Result):
        return f"the gate returned the unknown result {given.result!r}"
    odd = sorted(name for name, value in given.figures.items() if not math.isfinite(value))
    return f"the gate returned figures that are not numbers: {', '.join(odd)}" if odd else ""


def _seat(name: str, data: Mapping[str, Any], kind: str, gates: Mapping[str, Any], alpha: float) -> _Seat | None:
    """None: the gate does not judge in this kind of phase."""
    try:
        return _found_seat(name, data, kind, gates, alpha)
    except Exception as error:  # noqa: BLE001  as above
        return _closed(name, alpha, f"the gate broke: {type(error).__name__}: {error}")


def _found_seat(name: str, data: Mapping[str, Any], kind: str, gates: Mapping[str, Any], alpha: float) -> _Seat | None:
    found = resolve(name, gates)
    if found is None:
        known = ", ".join(sorted(gates)) or "none"
        return _closed(name, alpha, f"there is no gate `{name}`; known are {known}")
    gate, implied = found
    params, faults = parse(gate.params, {**implied, **data})
    if params is None:
        return _closed(name, alpha, "; ".join(map(str, faults)))
    if not any(kind in need.phases for need in gate.needs(params)):
        return None
    return _open(name, gate, params, alpha)


def _open(name: str, gate: Any, params: Any, alpha: float) -> _Seat:
    """Ours keep what they heard; another gate is given all looks each time."""
    parameters = to_data(params)
    if hasattr(gate, "sitting"):
        sitting = gate.sitting(params, alpha)
        if isinstance(sitting, Sitting):
            return _Seat(name, gate.version, parameters, alpha, sitting.take, sitting.verdict, sitting.result)
        return _Seat(
            name,
            gate.version,
            parameters,
            alpha,
            lambda found: sitting.hear([look for look, _ in found]),
            sitting.verdict,
        )
    heard: list[Look] = []
    return _Seat(
        name,
        gate.version,
        parameters,
        alpha,
        lambda found: heard.extend(look for look, _ in found),
        lambda: gate.judge(params, tuple(heard), alpha),
    )


def _closed(name: str, alpha: float, reason: str) -> _Seat:
    verdict = Verdict(name, "", "", {}, alpha, Result.ERROR, reason)
    return _Seat(name, "", {}, alpha, lambda looks: None, lambda: verdict)


def _in_order(look: Look) -> Look:
    """Pairs in an order of their own, so that the one in which a router reported them changes nothing."""
    if len(look.pairs) < 2:
        return look
    return replace(look, pairs=tuple(sorted(look.pairs, key=canonical)))


def _sealed(look: Look) -> bytes:
    try:
        return canonical(look) + b"\n"
    except (TypeError, ValueError):  # text that is no UTF-8: still the same bytes for the same look
        return repr(look).encode(errors="backslashreplace") + b"\n"
