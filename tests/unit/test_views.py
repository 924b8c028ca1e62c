"""Messages of several lines: whole where there is room, one line where there is a table or a log."""

from __future__ import annotations

from dataclasses import replace

from headgate.control import EndpointStatus, OpStatus, RolloutStatus, SystemStatus
from headgate.findings import Finding, Place
from headgate_console import live, views

FINDING = Finding(
    "environment-unresolved", "the packages cannot be installed", "no such version", "correct it", Place("environment")
)
MESSAGE = f"build: blue: the packages cannot be installed\n{FINDING}\nTraceback"
ROLLOUT = RolloutStatus(
    id="ro-churn-1",
    endpoint="churn",
    commit="a" * 40,
    attempt=1,
    state="failed",
    candidate="",
    started_at=0.0,
    ended_at=9.0,
    message=MESSAGE,
    ops=(OpStatus("build", "failed", 0.0, 0.0, 9.0, MESSAGE, ()),),
)
STATUS = EndpointStatus(
    name="churn",
    url="",
    state="RolledBack",
    sync="Rejected",
    commit="a" * 40,
    generation=1,
    acked=1,
    message=MESSAGE,
    revisions=(),
    rollout=ROLLOUT,
    findings=(FINDING,),
)


def test_an_endpoint_says_every_line_of_its_message_once() -> None:
    shown = "\n".join(views.endpoint(STATUS, 10.0))
    assert shown.count("why: no such version") == 1
    assert shown.count("Traceback") == 1


def test_tables_and_logs_take_the_first_line_only() -> None:
    system = SystemStatus("0", "repo", "main", "a" * 40, "a" * 40, "", (replace(STATUS, findings=()),), ())
    rows = [line for line in views.system(system, 10.0) if "the packages" in line]
    assert rows == [views.system(system, 10.0)[1]]
    assert len(views.system(system, 10.0)) == 2
    assert "\n" not in views.summary(STATUS)
    ladder = views.ladder(ROLLOUT, 10.0)
    assert len(ladder) == 2


def test_a_long_message_is_cut_in_a_list_and_whole_in_a_wide_one() -> None:
    long = replace(STATUS, message="x" * 200, findings=())
    system = SystemStatus("0", "repo", "main", "a" * 40, "a" * 40, "", (long,), ())
    assert views.system(system, 10.0)[1].endswith("x…")
    assert views.system(system, 10.0, wide=True)[1].endswith("x" * 200)


def test_an_op_is_named_once_in_a_line_of_a_log() -> None:
    op = OpStatus("mirror", "running", 20.0, 0.0, None, "mirror: soaking", ())
    running = replace(ROLLOUT, state="running", ended_at=None, message="", ops=(op,))
    status = replace(STATUS, state="Mirroring", sync="OutOfSync", message="mirror: soaking", rollout=running)
    assert views.summary(status).endswith("Mirroring\x1b[0m  mirror: soaking")


def test_what_a_model_said_in_several_lines_stays_below_its_event() -> None:
    event = {"at": 0, "endpoint": "churn", "op": "", "kind": "rollout.failed", "message": "smoke: no\nTraceback"}
    assert live.event_line(event).splitlines()[1] == "    Traceback"
