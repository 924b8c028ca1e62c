"""Waiting for an endpoint: when it ends, with which code, and what a restarting controller does to it."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from headgate.control import EndpointStatus, RolloutStatus
from headgate.findings import Finding, FindingsError, Place
from headgate_console.connect import refusals
from headgate_console.exits import Exit
from headgate_console.watch import Printed, Watch, outcome


def endpoint(state: str, sync: str = "Synced", rollout: RolloutStatus | None = None) -> EndpointStatus:
    return EndpointStatus("e", "http://x", state, sync, "abc", 1, 1, "", (), rollout)


def rollout(ended_at: float | None) -> RolloutStatus:
    return RolloutStatus("ro", "e", "abc", 1, "running", "c", 0.0, ended_at, "", ())


@pytest.mark.parametrize(
    ("status", "code"),
    [
        (endpoint("Healthy"), Exit.OK),
        (endpoint("Drained"), Exit.OK),
        (endpoint("Degraded"), Exit.DEGRADED),
        (endpoint("RolledBack"), Exit.DEGRADED),
        (endpoint("Healthy", "Rejected"), Exit.REFUSED),
        (endpoint("Progressing"), None),
        (endpoint("Paused"), None),
        (endpoint("Pending"), None),
        (endpoint("Healthy", rollout=rollout(None)), None),
        (endpoint("Degraded", rollout=rollout(None)), None),
        (endpoint("Healthy", rollout=rollout(5.0)), Exit.OK),
    ],
)
def test_a_wait_ends_when_the_endpoint_has_settled(status: EndpointStatus, code: Exit | None) -> None:
    assert outcome(status) is code


def error(code: str) -> FindingsError:
    return FindingsError(Finding(code, "m", "", "", Place("x")))


def answers(*given: EndpointStatus | FindingsError) -> Callable[[], EndpointStatus]:
    left: Iterator[EndpointStatus | FindingsError] = iter(given)

    def ask() -> EndpointStatus:
        answer = next(left)
        if isinstance(answer, FindingsError):
            raise answer
        return answer

    return ask


def watch(*given: EndpointStatus | FindingsError, arrived: Callable[[], bool] = lambda: True) -> Exit:
    return Watch(answers(*given), lambda *_: [], arrived, every_s=0).run(Printed())


def test_a_controller_that_restarts_is_waited_for() -> None:
    assert watch(endpoint("Progressing"), error("not-running"), endpoint("Healthy")) is Exit.OK


def test_an_endpoint_that_is_not_there_ends_the_wait() -> None:
    with pytest.raises(FindingsError, match="not-found"):
        watch(error("not-found"), endpoint("Healthy"))


def test_until_the_commit_is_acted_on_nothing_else_counts() -> None:
    looks = iter([False, False, True])
    given = (error("not-found"), endpoint("Degraded"), endpoint("Healthy"))
    assert watch(*given, arrived=lambda: next(looks)) is Exit.OK


def test_a_timeout_has_its_own_code() -> None:
    waits = Watch(lambda: endpoint("Progressing"), lambda *_: [], timeout_s=0.0, every_s=0)
    assert waits.run(Printed()) is Exit.TIMEOUT


def test_without_a_terminal_only_changes_are_printed(capsys: pytest.CaptureFixture[str]) -> None:
    watch(endpoint("Progressing"), endpoint("Progressing"), endpoint("Healthy"))
    assert len(capsys.readouterr().out.splitlines()) == 2


def test_findings_of_the_controller_are_passed_on() -> None:
    body = b'{"findings":[{"code":"gate-closed","message":"m","why":"w","fix":"f","place":{"file":"x"}}]}'
    assert [f.code for f in refusals("/status", 409, body)] == ["gate-closed"]


@pytest.mark.parametrize(("status", "code"), [(404, "not-found"), (500, "control-refused")])
@pytest.mark.parametrize("body", [b"", b"<html>", b"[]", b'{"findings": 3}', b'{"findings": []}', b"\xff"])
def test_an_answer_that_says_nothing_readable_is_a_finding_too(status: int, code: str, body: bytes) -> None:
    assert [f.code for f in refusals("/endpoints/x?y=1", status, body)] == [code]
