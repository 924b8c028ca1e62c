"""What every engine promises. Subject: an `EngineCase`: an engine that runs, three workflows, and patience."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from headgate.draft import ENDED
from headgate.ports import Engine, Run
from headgate.testing.suite import Suite, Wait

Workflow = Callable[[str], Mapping[str, Any]]  # name -> an Argo Workflow of that name


@dataclass(frozen=True, slots=True)
class EngineCase:
    engine: Engine  # that knows no workflow yet
    good: Workflow  # ends well, soon
    bad: Workflow  # its op fails for good, soon
    endless: Workflow  # runs until it is stopped
    wait: Wait

    def phase(self, name: str) -> str:
        run = self.engine.status(name)
        return run.phase if run else ""

    def ended(self, name: str) -> Run:
        self.wait(lambda: self.phase(name) in ENDED)
        run = self.engine.status(name)
        assert run is not None
        return run


ENGINE: Suite[EngineCase] = Suite()


@ENGINE
def _an_unknown_workflow_has_no_status_and_can_be_stopped(case: EngineCase) -> None:
    assert case.engine.status("no-such") is None
    case.engine.stop("no-such")
    assert case.engine.status("no-such") is None


@ENGINE
def _a_workflow_whose_ops_end_well_succeeds(case: EngineCase) -> None:
    case.engine.submit(case.good("ro-good-1"))
    run = case.ended("ro-good-1")
    assert (run.name, run.phase) == ("ro-good-1", "Succeeded")
    assert run.started_at is not None
    assert run.finished_at is not None
    assert run.started_at <= run.finished_at


@ENGINE
def _a_workflow_is_known_as_soon_as_it_is_submitted(case: EngineCase) -> None:
    case.engine.submit(case.endless("ro-known-1"))
    assert case.phase("ro-known-1") in ("Pending", "Running"), "else the controller would submit it again"
    case.engine.stop("ro-known-1")
    case.ended("ro-known-1")


@ENGINE
def _submitting_a_name_again_starts_nothing(case: EngineCase) -> None:
    case.engine.submit(case.good("ro-twice-1"))
    first = case.ended("ro-twice-1")
    case.engine.submit(case.good("ro-twice-1"))
    case.engine.submit(case.endless("ro-twice-1"))
    assert case.engine.status("ro-twice-1") == first


@ENGINE
def _an_op_that_fails_for_good_fails_the_workflow(case: EngineCase) -> None:
    case.engine.submit(case.bad("ro-bad-1"))
    run = case.ended("ro-bad-1")
    assert run.phase in ("Failed", "Error")
    assert run.message, "it says why"


@ENGINE
def _a_workflow_that_is_stopped_ends_and_never_well(case: EngineCase) -> None:
    case.engine.submit(case.endless("ro-endless-1"))
    case.wait(lambda: case.phase("ro-endless-1") == "Running")
    case.engine.stop("ro-endless-1")
    case.engine.stop("ro-endless-1")
    assert case.ended("ro-endless-1").phase in ("Failed", "Error")


@ENGINE
def _stopping_one_that_ended_changes_nothing(case: EngineCase) -> None:
    case.engine.submit(case.good("ro-over-1"))
    first = case.ended("ro-over-1")
    case.engine.stop("ro-over-1")
    assert case.engine.status("ro-over-1") == first
