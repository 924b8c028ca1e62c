"""The closing table says what was promised, what was measured, and what did not hold."""

from __future__ import annotations

import click

from headgate.control import OpStatus, RolloutStatus
from headgate.evidence import Difference, Result, Verdict
from headgate_console.demo.audit import Audit, Share
from headgate_console.demo.follow import failing
from headgate_console.demo.table import Outcome, Revert, differences, lines

VERDICT = Verdict(
    gate="mirror-diff",
    version="1",
    phase="mirror",
    parameters={},
    alpha=0.003,
    result=Result.FAIL,
    explanation="100 % of 250 pairs differ",
    differences=(Difference("$.predictions[*]", "number", 1.0, "151.3", "-0.05", "-100 % on average"),),
)
ROLLOUT = RolloutStatus(
    id="ro-diabetes-abc-1",
    endpoint="diabetes",
    commit="abc",
    attempt=1,
    state="failed",
    candidate="r-wrong",
    started_at=10.0,
    ended_at=20.0,
    message="stopped",
    ops=(
        OpStatus("smoke", "passed", started_at=11.0, ended_at=12.5, message="answered"),
        OpStatus("mirror", "failed", 50.0, 13.0, 15.25, "mirror-diff", (VERDICT,)),
        OpStatus("step-5", "waiting", 5.0),
    ),
)


def outcome(problems: tuple[str, ...] = ()) -> Outcome:
    share = Share("green step-5", 200, {"r-blue": (950,), "r-green": (50,)}, {"r-blue": 190, "r-green": 10})
    audit = Audit(30_000, 100.0, 0, 0, 3.1, 22.4, 180.0, (share,), ("424 after 9 ms: oops",) if problems else ())
    names = {"r-blue": "blue", "r-green": "green"}
    return Outcome(audit, {"wrong": ROLLOUT}, Revert(0.12, 0.15), names, 101.0, problems, "FOLDER")


def printed(outcome: Outcome) -> str:
    return click.unstyle("\n".join(lines(outcome)))


def test_promises_stand_beside_what_was_measured() -> None:
    text = printed(outcome())
    assert "30,000 in 100 s (300 a second)" in text
    assert "150 ms" in text  # the careful figure: the answer, not the sending
    assert "120 ms" not in text


def test_shares_show_what_was_asked_and_what_was_served() -> None:
    row = next(line for line in printed(outcome()).splitlines() if line.startswith("green step-5"))
    assert "blue 95 %, green 5 %" in row
    assert "blue 95.0 %, green 5.0 %" in row


def test_each_phase_shows_its_time_and_the_evidence_of_its_gates() -> None:
    text = printed(outcome())
    mirror = next(line for line in text.splitlines() if "100 % of 250 pairs differ" in line)
    assert "2.2 s" in mirror
    assert "✖ fail mirror-diff" in mirror
    assert "step-5    " not in text.split("EVIDENCE")[1]  # it never started


def test_what_did_not_hold_is_listed_with_an_example_and_the_logs() -> None:
    text = printed(outcome(("3 requests failed, none may",)))
    assert "3 requests failed, none may" in text
    assert "424 after 9 ms: oops" in text
    assert "logs: FOLDER" in text


def test_when_everything_held_no_trouble_is_shown() -> None:
    assert "did not hold" not in printed(outcome())


def test_differences_say_which_field_how_and_by_how_much() -> None:
    assert list(differences([VERDICT])) == [
        "$.predictions[*] (number) in 100% of pairs, -100 % on average: stable 151.3, candidate -0.05"
    ]


def test_failing_names_the_phase_and_the_gates_that_said_no() -> None:
    assert failing(ROLLOUT) == ("mirror", ("mirror-diff",))
