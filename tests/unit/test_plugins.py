"""Entry points of real (tiny) distributions: what importlib.metadata finds in a folder on sys.path."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from importlib.metadata import EntryPoint, distributions
from pathlib import Path

import pytest

from headgate.evidence import Counts, Look, Outcome, Result
from headgate.plugins import Loaded, load
from headgate.process import Process
from headgate_policies.judge import judge_phase

GROUP = "headgate.gate"
GATE = """
from dataclasses import dataclass
from headgate.evidence import Need, Result, Verdict

@dataclass(frozen=True)
class Params:
    most: int = 5

class Queue:
    version = "3"
    params = Params
    {extra}
    def needs(self, params):
        return (Need("counts", ("step",)),)
    def judge(self, params, looks, alpha):
        seen = sum(look.candidate.requests for look in looks)
        result = Result.FAIL if seen > params.most else Result.PASS
        return Verdict("queue", "3", "", {{}}, alpha, result, f"{{seen}} requests, at most {{params.most}}")
    def power(self, params, traffic, alpha):
        return None

gate = Queue()
"""


class Shelf:
    """A folder of installed distributions."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def install(self, distribution: str, entry: str, source: str) -> None:
        module = entry.partition("=")[2].partition(":")[0].strip()
        (self.folder / f"{module}.py").write_text(source, encoding="utf-8")
        info = self.folder / f"{distribution}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1.0\n", encoding="utf-8")
        (info / "entry_points.txt").write_text(f"[{GROUP}]\n{entry}\n", encoding="utf-8")

    def load(self) -> Loaded:
        points: list[EntryPoint] = []
        for distribution in distributions(path=[str(self.folder)]):
            points += distribution.entry_points.select(group=GROUP)
        return load(GROUP, points)


@pytest.fixture
def shelf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Shelf]:
    monkeypatch.syspath_prepend(tmp_path)
    before = set(sys.modules)
    yield Shelf(tmp_path)
    for name in set(sys.modules) - before:
        del sys.modules[name]


def test_a_gate_of_another_distribution_is_found_and_used(shelf: Shelf) -> None:
    shelf.install("acme-gates", "queue = acme_queue:gate", GATE.format(extra=""))
    loaded = shelf.load()
    assert loaded.findings == ()
    look = Look("step", 1, 0.0, 1.0, Counts({Outcome.OK: 60}), Counts({Outcome.OK: 600}))
    verdicts = judge_phase(
        Process(gates={"queue": {"most": 50}}),
        phase="step-5",
        kind="step",
        looks=[look],
        gates=loaded.adapters,
        phases_total=1,
    )
    assert [(v.gate, v.result, v.explanation) for v in verdicts[1:]] == [
        ("queue", Result.FAIL, "60 requests, at most 50")
    ]


@pytest.mark.parametrize(
    ("source", "code", "says"),
    [
        ("raise RuntimeError('no licence')", "plugin-broken", "RuntimeError: no licence"),
        ("import nothing_of_that_name", "plugin-broken", "ModuleNotFoundError"),
        ("def broken(:", "plugin-broken", "SyntaxError"),
        ("other = 1", "plugin-broken", "AttributeError"),
        ("class gate:\n    version = '1'", "plugin-incomplete", "lacks judge, needs, params, power"),
        (GATE.format(extra="port_version = 0"), "plugin-too-old", "version 0 of headgate.gate"),
        (GATE.format(extra="port_version = 7"), "plugin-too-new", "version 7 of headgate.gate"),
    ],
    ids=["raises", "no module", "no python", "no object", "incomplete", "too old", "too new"],
)
def test_a_gate_that_cannot_be_used_is_a_finding_with_its_distribution(
    shelf: Shelf, source: str, code: str, says: str
) -> None:
    shelf.install("acme-gates", "queue = acme_queue:gate", source)
    shelf.install("other-gates", "length = other_length:gate", GATE.format(extra=""))
    loaded = shelf.load()
    assert list(loaded.adapters) == ["length"]
    (finding,) = loaded.findings
    assert finding.code == code
    assert says in finding.message
    assert "acme-gates" in finding.place.file


def test_of_two_with_one_name_ours_is_used_and_the_other_is_said(shelf: Shelf) -> None:
    shelf.install("acme-gates", "queue = acme_queue:gate", GATE.format(extra=""))
    shelf.install("headgate", "queue = our_queue:gate", GATE.format(extra="ours = True"))
    loaded = shelf.load()
    assert loaded.adapters["queue"].ours
    assert [finding.code for finding in loaded.findings] == ["plugin-doubled"]


def test_our_own_gates_come_in_by_the_same_door() -> None:
    points = [
        EntryPoint(name, f"headgate_policies.gates.{module}:gate", GROUP)
        for name, module in (("error-rate", "error_rate"), ("latency", "latency"), ("mirror-diff", "mirror_diff"))
    ]
    loaded = load(GROUP, points)
    assert (sorted(loaded.adapters), loaded.findings) == (["error-rate", "latency", "mirror-diff"], ())
