"""A gate of somebody else, whatever it does: installed as a distribution, asked through a process of its own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from headgate import codec, plugins
from headgate.evidence import Look, Result, Verdict
from headgate.process import Process
from headgate.testing import counts, look
from headgate_kit import foreign
from headgate_kit.foreign import STRIKES, ForeignGate, contained
from headgate_policies.judge import Analysis, combine, judge_phase

WITHIN_S = 30.0
MODULE = """
import os, time
from dataclasses import dataclass
from headgate import Need, Result, Verdict

@dataclass(frozen=True)
class Params:
    does: str = "judges"

class Gate:
    version = "7"
    params = Params

    def needs(self, params):
        return (Need("counts", ("step",)),)

    def judge(self, params, looks, alpha):
        print("a gate may print", flush=True)
        if params.does == "hangs":
            open(os.environ.get("HUNG", os.devnull), "w").write(str(os.getpid()))
            while True:
                time.sleep(0.01)
        if params.does == "crashes":
            os._exit(3)
        if params.does == "raises":
            raise RuntimeError("no luck")
        if params.does == "returns text":
            return "pass"
        figures = {"looks": float(len(looks)), "pid": float(os.getpid())}
        if params.does == "says nan":
            figures["odd"] = float("nan")
        said = Result.PASS if any(look.candidate.requests for look in looks) else Result.INCONCLUSIVE
        words = "x" * (2_000_000 if params.does == "talks" else 4)
        return Verdict("odd", self.version, "", {}, alpha, said, words, figures)

    def power(self, params, traffic, alpha):
        return None

gate = Gate()
"""
LOOKS = [look(counts(10), counts(90), at=float(at)) for at in range(4)]


@pytest.fixture
def gate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ForeignGate]:
    info = tmp_path / "acme_odd-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: acme-odd\nVersion: 1\n")
    (info / "entry_points.txt").write_text("[headgate.gate]\nodd = acme_odd:gate\n")
    (tmp_path / "acme_odd.py").write_text(MODULE)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "acme_odd", raising=False)
    found = contained(plugins.load("headgate.gate"))["odd"]
    assert isinstance(found, ForeignGate)
    monkeypatch.setattr(foreign, "START_S", 120.0)
    found = ForeignGate("odd", plugins.load("headgate.gate").adapters["odd"], budget_s=60.0)  # of a busy machine
    yield found
    found.close()


def judged(gate: ForeignGate, does: str, looks: Sequence[Look] = LOOKS) -> Verdict:
    return gate.judge(gate.params(does), looks, 0.001)


def test_ours_are_asked_directly_and_others_through_a_process(gate: ForeignGate) -> None:
    loaded = plugins.load("headgate.gate")
    behind = {name for name, found in contained(loaded).items() if isinstance(found, ForeignGate)}
    assert behind == {"odd"}
    assert loaded.owners["error-rate"] == "headgate"


def test_it_judges_in_another_process_with_the_looks_it_was_told(gate: ForeignGate) -> None:
    found = judged(gate, "judges")
    assert (found.result, found.version, found.figures["looks"]) == (Result.PASS, "7", 4.0)
    assert found.figures["pid"] != os.getpid()


def test_each_look_is_told_once_and_a_new_process_is_told_all_of_them(gate: ForeignGate) -> None:
    sitting = gate.sitting(gate.params(), 0.001)
    first = sitting.hear(LOOKS[:1]).verdict()
    second = sitting.hear(LOOKS[1:]).verdict()
    assert (first.figures["looks"], second.figures["looks"]) == (1.0, 4.0)
    assert first.figures["pid"] == second.figures["pid"]
    os.kill(int(first.figures["pid"]), signal.SIGKILL)
    assert sitting.verdict().result is Result.ERROR
    again = sitting.verdict()
    assert (again.result, again.figures["looks"]) == (Result.PASS, 4.0)
    assert again.figures["pid"] != first.figures["pid"]


@pytest.mark.parametrize(
    ("does", "says"),
    [
        ("crashes", "its process ended"),
        ("raises", "RuntimeError: no luck"),
        ("returns text", "returned str, not a verdict"),
        ("says nan", "Verdict"),
        ("talks", "an answer of more than"),
    ],
)
def test_whatever_it_does_is_an_error_and_the_next_question_is_answered(
    gate: ForeignGate, does: str, says: str
) -> None:
    found = judged(gate, does)
    assert found.result is Result.ERROR
    assert says in found.explanation
    assert judged(gate, "judges").result is Result.PASS


def test_a_gate_that_hangs_is_an_error_and_its_process_is_ended(
    gate: ForeignGate, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HUNG", str(tmp_path / "hung"))
    monkeypatch.setattr(gate, "_budget_s", 5.0)
    found = judged(gate, "hangs")
    assert found.result is Result.ERROR
    assert found.explanation.startswith("no answer within")
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "hung").read_text()), 0)


def test_one_that_fails_again_and_again_is_left_alone_for_a_while(gate: ForeignGate) -> None:
    for _ in range(STRIKES):
        assert judged(gate, "crashes").result is Result.ERROR
    assert "asked again in a while" in judged(gate, "judges").explanation


def test_among_our_gates_it_holds_the_step_and_says_the_same_bytes(gate: ForeignGate) -> None:
    def verdicts(does: str, *parts: Sequence[Look]) -> tuple[Verdict, ...]:
        process = Process(gates={"odd": {"does": does}}, min_requests=1)
        analysis = Analysis(process, phase="step-5", kind="step", gates={"odd": gate}, phases_total=3)
        for part in parts:
            analysis.hear(part)
        return analysis.verdicts()

    assert combine(verdicts("raises", LOOKS)) is Result.ERROR
    assert combine(verdicts("judges", LOOKS)) is Result.PASS
    process = Process(gates={"odd": {}}, min_requests=1)
    whole = judge_phase(process, phase="step-5", kind="step", looks=LOOKS, gates={"odd": gate}, phases_total=3)
    assert codec.canonical(verdicts("judges", LOOKS[:1], LOOKS[1:])) == codec.canonical(whole)


def test_it_ends_when_whoever_asked_is_killed_even_while_it_hangs(gate: ForeignGate, tmp_path: Path) -> None:
    hung = tmp_path / "hung"
    program = (
        "from headgate import plugins\n"
        "from headgate_kit.foreign import ForeignGate\n"
        "gate = plugins.load('headgate.gate').adapters['odd']\n"
        "ForeignGate('odd', gate, 600).judge(gate.params('hangs'), [], 0.1)\n"
    )
    with subprocess.Popen([sys.executable, "-c", program], env={**os.environ, "HUNG": str(hung)}) as asker:
        child = int(until(lambda: hung.exists() and hung.read_text()))
        asker.kill()
    until(lambda: not alive(child))


def until(met: Any) -> Any:
    deadline = time.monotonic() + WITHIN_S
    while not (found := met()):
        assert time.monotonic() < deadline, "it did not come"
        time.sleep(0.02)
    return found


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
