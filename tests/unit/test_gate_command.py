"""`headgate gate test`: gates on a file, without a running system."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from headgate_console import main
from headgate_console.exits import Exit

GOOD = {"repeat": 60, "candidate": {"ok": 100, "ms": {"20": 100}}, "stable": {"ok": 900, "ms": {"20": 900}}}
BAD = {"repeat": 60, "candidate": {"ok": 90, "failed": 10}, "stable": {"ok": 900}}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "headgate.yml").write_text("rollout:\n  false_abort: 2%\n")
    (tmp_path / "rollout.yml").write_text("gates:\n  error-rate: {max_increase: 1%}\n")
    return tmp_path


def judged(folder: Path, *looks: object, output: str = "table") -> int:
    (folder / "t.jsonl").write_text("".join(json.dumps(look) + "\n" for look in looks))
    return main.run(["gate", "test", str(folder / "rollout.yml"), "--trace", str(folder / "t.jsonl"), "-o", output])


@pytest.mark.parametrize(
    ("look", "code", "result"),
    [(GOOD, Exit.OK, "pass"), (BAD, Exit.REFUSED, "fail"), ({"repeat": 9}, Exit.REFUSED, "inconclusive")],
    ids=["good", "bad", "silence"],
)
def test_a_trace_is_judged_by_rollout_yml(
    folder: Path, capsys: pytest.CaptureFixture[str], look: object, code: Exit, result: str
) -> None:
    assert judged(folder, look, output="json") == code
    found = json.loads(capsys.readouterr().out)
    assert (found["kind"], found["result"]) == ("GateTest", result)
    (verdict,) = [v for v in found["verdicts"] if v["gate"] == "error-rate"]
    assert verdict["parameters"]["max_increase"] == 0.01
    assert verdict["alpha"] == 0.02 / 5, "headgate.yml's false_abort, over the mirror and four steps"


def test_people_see_each_change_and_the_plot(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert judged(folder, GOOD, BAD) == Exit.REFUSED
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[2:5:2] for line in lines if "error-rate " in line][-1:] == [["error-rate", "fail"]]
    assert any(line.startswith(" 100 |") for line in lines)


@pytest.mark.parametrize(
    ("rollout", "trace", "code"),
    [("steps: [5]\n", "", "rollout-steps"), ("gates: {}\n", "{\n", "trace-line"), ("a: [\n", "", "yaml-syntax")],
    ids=["a wrong rollout.yml", "a wrong trace", "no YAML"],
)
def test_what_is_wrong_with_either_file_is_a_finding(
    folder: Path, capsys: pytest.CaptureFixture[str], rollout: str, trace: str, code: str
) -> None:
    (folder / "rollout.yml").write_text(rollout)
    (folder / "t.jsonl").write_text(trace)
    asked = main.run(["gate", "test", str(folder / "rollout.yml"), "--trace", str(folder / "t.jsonl")])
    assert (asked, f"[{code}]" in capsys.readouterr().err) == (Exit.REFUSED, True)
