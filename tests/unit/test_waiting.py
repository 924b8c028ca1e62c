"""Waiting for an endpoint: how a wait ends, and that a revert in git does not hide what fell."""

from __future__ import annotations

from dataclasses import replace

import pytest

from controlstub import ControlStub
from headgate import codec
from headgate.control import EndpointStatus, RolloutStatus, SystemStatus
from headgate.findings import Finding, FindingsError, Place
from headgate.version import __version__
from headgate_console import main
from headgate_console.exits import Exit
from headgate_console.watch import Printed, Watch, outcome

SHA = "02ac7fd516" + "0" * 30


def rollout(state: str, *, name: str = "ro-churn-02ac7fd516-1", reverted_by: str = "") -> RolloutStatus:
    ended = None if state == "running" else 9.0
    return RolloutStatus(
        id=name,
        endpoint="churn",
        commit=SHA,
        attempt=1,
        state=state,
        candidate="",
        started_at=1.0,
        ended_at=ended,
        message="smoke: blue does not start" if state == "failed" else "",
        ops=(),
        reverted_by=reverted_by,
    )


def endpoint(state: str, sync: str, last: RolloutStatus | None) -> EndpointStatus:
    return EndpointStatus(
        name="churn",
        url="",
        state=state,
        sync=sync,
        commit=SHA,
        generation=1,
        acked=1,
        message="",
        revisions=(),
        rollout=last,
        findings=(),
    )


RUNNING = endpoint("Progressing", "OutOfSync", rollout("running"))
REVERTED = endpoint("Healthy", "Synced", rollout("failed", reverted_by="0adfdf8cbc"))


@pytest.mark.parametrize(
    ("status", "mine", "code"),
    [
        pytest.param(REVERTED, None, Exit.OK, id="nobody waited for what fell"),
        pytest.param(REVERTED, rollout("failed"), Exit.DEGRADED, id="it fell and is reverted"),
        pytest.param(REVERTED, rollout("aborted"), Exit.DEGRADED, id="a person aborted it"),
        pytest.param(RUNNING, rollout("failed"), Exit.DEGRADED, id="it fell and a newer one runs"),
        pytest.param(RUNNING, rollout("superseded"), None, id="a newer one took over and runs"),
        pytest.param(endpoint("Healthy", "Rejected", None), None, Exit.REFUSED, id="refused"),
        pytest.param(endpoint("RolledBack", "OutOfSync", rollout("failed")), None, Exit.DEGRADED, id="rolled back"),
    ],
)
def test_a_wait_ends_by_what_became_of_what_it_waits_for(
    status: EndpointStatus, mine: RolloutStatus | None, code: Exit | None
) -> None:
    assert outcome(status, mine) is code


def watched(looks: list[EndpointStatus], **more: object) -> Watch:
    answers = iter(looks)
    return Watch(lambda: next(answers), lambda status, now: [], every_s=0.0, **more)  # type: ignore[arg-type]


def test_a_rollout_that_was_seen_running_fails_the_wait_also_when_git_is_healthy_again(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert watched([RUNNING, REVERTED]).run(Printed()) is Exit.DEGRADED
    said = capsys.readouterr().out
    assert "✖ failed 02ac7fd5: smoke: blue does not start" in said
    assert "02ac7fd5 is reverted by 0adfdf8c" in said


def test_a_commit_is_waited_for_until_it_is_acted_on_and_then_by_its_own_rollout() -> None:
    arrived = iter([False, True])
    watch = watched(
        [REVERTED, RUNNING],
        arrived=lambda: next(arrived),
        own=lambda status: rollout("failed", name="ro-churn-1111111111-1") if status is RUNNING else None,
    )
    assert watch.run(Printed()) is Exit.DEGRADED


def test_a_commit_whose_rollout_is_the_endpoints_own_is_not_asked_for_again(monkeypatch: pytest.MonkeyPatch) -> None:
    other = rollout("failed", name="ro-churn-02ac7fd516-1")
    newer = endpoint("Healthy", "Synced", replace(rollout("succeeded"), commit="f" * 40))
    monkeypatch.setenv("HEADGATE_TOKEN", "t")
    for status, more in ((RUNNING, []), (REVERTED, []), (newer, [("/endpoints/churn/rollouts", "Bearer t")])):
        with ControlStub() as control:
            monkeypatch.setenv("HEADGATE_CONTROL", control.url)
            control.scripted = {
                f"/commits/{SHA}": [(200, {"commit": SHA, "reached": True, "version": __version__})],
                "/endpoints/churn": [(200, codec.to_data(status))] * 2,
                "/endpoints/churn/rollouts": [(200, codec.to_data([other]))],
            }
            code = main.run(["status", "churn", "--watch", "--commit", SHA, "--timeout", "0s"])
            assert code == (Exit.TIMEOUT if status is RUNNING else Exit.DEGRADED)
            asked = [(f"/commits/{SHA}", "Bearer t"), ("/endpoints/churn", "Bearer t"), *more]
            assert control.asked == asked


LACKING = {k: v for k, v in codec.to_data(endpoint("Healthy", "Synced", None)).items() if k != "sync"}
HEALTHY = codec.to_data(endpoint("Healthy", "Synced", None))


@pytest.mark.parametrize(
    ("reached", "answer", "says"),
    [
        pytest.param({"commit": SHA, "reached": True}, HEALTHY, "`version`", id="which version it is"),
        pytest.param({"commit": SHA, "version": "0.0.1"}, HEALTHY, "`reached`", id="whether it was acted on"),
        pytest.param({"commit": SHA, "reached": True, "version": "0.0.1"}, LACKING, "`sync`", id="how it stands"),
    ],
)
def test_an_answer_that_lacks_a_field_is_a_finding_and_no_end_of_the_wait(
    reached: object, answer: object, says: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HEADGATE_TOKEN", "t")
    with ControlStub() as control:
        monkeypatch.setenv("HEADGATE_CONTROL", control.url)
        control.scripted = {
            f"/commits/{SHA}": [(200, reached)],
            "/endpoints/churn": [(200, answer)],
            "/endpoints/churn/rollouts": [(200, [])],
        }
        assert main.run(["status", "churn", "--watch", "--commit", SHA]) == Exit.REFUSED
    said = capsys.readouterr().err
    assert "[version-skew]" in said
    assert says in said


def test_another_version_is_said_once_and_its_rollouts_of_other_commits_are_not_taken_for_the_commits(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A controller that knows no `commit` answers every rollout it keeps."""
    fell, newer = rollout("failed"), replace(rollout("succeeded", name="ro-churn-f-1"), commit="f" * 40)
    settled = endpoint("Healthy", "Synced", newer)
    monkeypatch.setenv("HEADGATE_TOKEN", "t")
    with ControlStub() as control:
        monkeypatch.setenv("HEADGATE_CONTROL", control.url)
        control.scripted = {
            f"/commits/{SHA}": [(200, {"commit": SHA, "reached": r, "version": "0.0.1"}) for r in (False, True)],
            "/endpoints/churn": [(200, codec.to_data(one)) for one in (RUNNING, settled)],
            "/endpoints/churn/rollouts": [(200, codec.to_data([newer, fell]))],
        }
        assert main.run(["status", "churn", "--watch", "--commit", SHA]) == Exit.DEGRADED
    assert capsys.readouterr().err.count("[version-skew]") == 1


@pytest.mark.parametrize(("state", "code"), [("Healthy", Exit.OK), ("RolledBack", Exit.DEGRADED)])
def test_a_look_at_all_endpoints_ends_with_the_worst_of_them(
    state: str, code: Exit, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = (endpoint("Healthy", "Synced", None), endpoint(state, "OutOfSync", None))
    monkeypatch.setenv("HEADGATE_TOKEN", "t")
    with ControlStub() as control:
        monkeypatch.setenv("HEADGATE_CONTROL", control.url)
        control.scripted["/status"] = [(200, codec.to_data(SystemStatus("0", "r", "main", "c", "c", "", found, ())))]
        assert main.run(["status"]) == code


@pytest.mark.parametrize("code", ["not-running", "try-again"])
def test_a_controller_that_starts_is_waited_for(code: str) -> None:
    answers = iter([FindingsError(Finding(code, "", "", "", Place("control API"))), RUNNING, REVERTED])

    def ask() -> EndpointStatus:
        found = next(answers)
        if isinstance(found, FindingsError):
            raise found
        return found

    assert Watch(ask, lambda status, now: [], every_s=0.0).run(Printed()) is Exit.DEGRADED


def test_a_wait_for_an_endpoint_at_rest_ends_well() -> None:
    assert watched([endpoint("Healthy", "Synced", rollout("succeeded"))]).run(Printed()) is Exit.OK
