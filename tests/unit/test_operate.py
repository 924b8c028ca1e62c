"""What happens next in a workflow, from states and time alone."""

from __future__ import annotations

import json
from typing import Any

import pytest

from headgate_pipelines import contract
from headgate_pipelines.engines.local.compile import compile_workflow
from headgate_pipelines.engines.local.operate import Decision, operate
from headgate_pipelines.engines.local.spec import Spec
from headgate_pipelines.engines.local.state import Outcome, Phase, RunState

OK, NO, AGAIN, LOST = Outcome(0), Outcome(3, "no"), Outcome(75, "later"), Outcome(None, error="cannot be run")
RETRY = {"limit": "2", "expression": contract.TRANSIENT, "backoff": {"duration": "10", "factor": "2", "cap": "15"}}


class Play:
    """A workflow whose ops end as told."""

    def __init__(self, *tasks: str, on_exit: bool = False, **more: Any) -> None:
        """`tasks`: NAME or NAME: DEPENDS; `more` is `template` and `spec` fields and `fail_fast`."""
        template = {"container": {"image": "i", "command": ["c"], "args": ["{{workflow.name}}"]}}
        output = {"outputs": {"parameters": [{"name": "v", "valueFrom": {"path": "/tmp/outputs/v"}}]}}
        calls = [
            {"name": name, "template": "op", **({"depends": depends.strip()} if depends else {})}
            for name, _, depends in (task.partition(":") for task in tasks)
        ]
        dag = {"tasks": calls, **({"failFast": False} if more.pop("fail_fast", True) is False else {})}
        bye = {
            "name": "bye",
            "container": {"image": "i", "command": ["c"], "args": ["{{workflow.status}}", "{{workflow.failures}}"]},
        }
        spec = {
            "entrypoint": "main",
            "templates": [
                {"name": "op", **template, **output, **more.pop("template", {})},
                {"name": "main", "dag": dag},
                bye,
            ],
            **({"onExit": "bye"} if on_exit else {}),
            **more,
        }
        self.spec: Spec = compile_workflow({"metadata": {"name": "w"}, "spec": spec}, {"i": {"c": ("c",)}})
        self.state = RunState(100.0)
        self.now = 100.0
        self.last: Decision = Decision(self.state)
        self.turn()

    def turn(self, stop: bool = False, **outcomes: Outcome) -> Play:
        self.last = operate(self.spec, self.state, outcomes, self.now, stop=stop)
        self.state = self.last.state
        return self

    def at(self, seconds: float, **outcomes: Outcome) -> Play:
        self.now = 100.0 + seconds
        return self.turn(**outcomes)

    @property
    def running(self) -> list[str]:
        return [f"{start.leaf.path}#{start.attempt}" for start in self.last.start]

    @property
    def stopping(self) -> list[str]:
        return [stop.leaf.path for stop in self.last.stop]

    @property
    def phases(self) -> dict[str, str]:
        return {path: str(node.phase) for path, node in self.state.nodes.items()}


def test_a_chain_runs_one_after_the_other() -> None:
    play = Play("a", "b: a")
    assert play.running == ["a#0"]
    assert play.turn(a=OK).running == ["b#0"]
    assert play.turn(b=OK).state.phase is Phase.SUCCEEDED


def test_independent_tasks_run_at_once_and_a_join_waits_for_both() -> None:
    play = Play("a", "b", "c: a && b")
    assert play.running == ["a#0", "b#0"]
    assert play.turn(a=OK).running == ["b#0"]
    assert play.turn(b=OK).running == ["c#0"]


def test_asking_twice_changes_nothing() -> None:
    play = Play("a", "b: a")
    before = play.last
    assert play.turn().last == before


def test_a_failure_omits_what_depends_on_it_and_fails_the_workflow() -> None:
    play = Play("a", "b: a", "c: b").turn(a=NO)
    assert play.state.phase is Phase.FAILED
    assert play.state.message == "a: no"
    assert play.phases == {"a": "Failed", "b": "Omitted", "c": "Omitted"}


@pytest.mark.parametrize("tasks", [("sorry: a.Failed", "on: a"), ("on: a", "sorry: a.Failed")], ids=["first", "last"])
def test_a_task_that_handles_a_failure_runs_wherever_it_is_listed(tasks: tuple[str, str]) -> None:
    play = Play("a", *tasks).turn(a=NO)
    assert play.running == ["sorry#0"]
    assert play.turn(sorry=OK).state.phase is Phase.FAILED, "the branch that ends with `on` was not handled"


def test_a_failure_that_is_handled_is_none() -> None:
    play = Play("a", "sorry: a.Failed").turn(a=NO).turn(sorry=OK)
    assert play.state.phase is Phase.SUCCEEDED


def test_a_task_for_a_failure_that_did_not_happen_is_omitted_and_nothing_is_lost() -> None:
    play = Play("a", "sorry: a.Failed").turn(a=OK)
    assert play.state.phase is Phase.SUCCEEDED
    assert play.phases == {"a": "Succeeded", "sorry": "Omitted"}


def test_after_a_failure_what_runs_is_let_finish_and_nothing_new_begins() -> None:
    play = Play("a", "b", "c: b").turn(a=NO)
    assert play.state.phase is Phase.RUNNING
    assert play.running == ["b#0"]
    play.turn(b=OK)
    assert play.state.phase is Phase.FAILED
    assert play.phases["c"] == "Omitted"


def test_without_fail_fast_the_other_branches_go_on() -> None:
    play = Play("a", "b", "c: b", fail_fast=False).turn(a=NO).turn(b=OK)
    assert play.running == ["c#0"]
    assert play.turn(c=OK).state.phase is Phase.FAILED


def test_transient_failures_are_tried_again_after_a_growing_pause() -> None:
    play = Play("a", template={"retryStrategy": RETRY})
    play.turn(a=AGAIN)
    assert (play.running, play.last.wake_at) == ([], 110.0)
    assert play.at(9).running == []
    assert play.at(10).running == ["a#1"]
    assert play.turn(a=AGAIN).last.wake_at == 125.0, "20 s, capped at 15"
    assert play.at(25).running == ["a#2"]
    play.turn(a=AGAIN)
    assert play.state.phase is Phase.FAILED, "the limit is two retries"


def test_a_no_is_never_tried_again() -> None:
    assert Play("a", template={"retryStrategy": RETRY}).turn(a=NO).state.phase is Phase.FAILED


@pytest.mark.parametrize("outcome", [LOST, Outcome(contract.KILLED)], ids=["could not be run", "killed"])
def test_what_was_lost_is_tried_again(outcome: Outcome) -> None:
    assert Play("a", template={"retryStrategy": RETRY}).turn(a=outcome).last.wake_at == 110.0


def test_no_retry_begins_after_max_duration() -> None:
    retry = {"backoff": {"duration": "10", "maxDuration": "30"}}
    play = Play("a", template={"retryStrategy": retry}).at(25, a=NO)
    assert play.state.phase is Phase.FAILED


def test_an_op_without_a_retry_strategy_gets_one_attempt() -> None:
    assert Play("a").turn(a=AGAIN).state.phase is Phase.FAILED


def test_a_timeout_ends_the_op_then_fails_it_even_if_it_said_zero() -> None:
    play = Play("a", template={"timeout": "60s", "retryStrategy": RETRY})
    assert play.last.wake_at == 160.0
    assert play.at(60).stopping == ["a"]
    assert play.running == []
    assert play.turn(a=OK).state.phase is Phase.FAILED
    assert "longer than its template allows" in play.state.message


def test_a_timeout_counts_over_all_attempts_and_pauses() -> None:
    play = Play("a", template={"timeout": "12s", "retryStrategy": RETRY}).at(5, a=AGAIN)
    assert play.last.wake_at == 112.0
    assert play.at(12).state.phase is Phase.FAILED


def test_the_deadline_of_an_attempt_may_be_tried_again() -> None:
    retry = {"limit": "1", "backoff": {"duration": "1"}}
    play = Play("a", template={"activeDeadlineSeconds": 10, "retryStrategy": retry})
    assert play.at(10).stopping == ["a"]
    assert play.turn(a=Outcome(143)).last.wake_at == 111.0
    assert play.at(11).running == ["a#1"]
    assert play.turn(a=OK).state.phase is Phase.SUCCEEDED


def test_the_workflows_deadline_stops_it() -> None:
    play = Play("a", "b: a", activeDeadlineSeconds=30)
    assert play.last.wake_at == 130.0
    assert play.at(30).stopping == ["a"]
    play.turn(a=Outcome(143))
    assert play.state.phase is Phase.FAILED
    assert "activeDeadlineSeconds" in play.state.message


def test_a_stop_ends_what_runs_omits_the_rest_and_runs_on_exit() -> None:
    play = Play("a", "b: a", on_exit=True, template={"retryStrategy": RETRY}).turn(stop=True)
    assert play.stopping == ["a"]
    play.turn(stop=True, a=AGAIN)
    assert play.phases == {"a": "Failed", "b": "Omitted", "onExit": "Running"}
    play.turn(stop=True, onExit=OK)
    assert (play.state.phase, play.state.message) == (Phase.FAILED, "Stopped")


def test_a_stop_between_two_attempts_needs_nothing_to_be_ended() -> None:
    play = Play("a", template={"retryStrategy": RETRY}).turn(a=AGAIN).turn(stop=True)
    assert (play.stopping, play.state.phase) == ([], Phase.FAILED)


def test_a_stop_after_the_end_changes_nothing() -> None:
    play = Play("a", on_exit=True).turn(a=OK).turn(stop=True)
    assert play.running == ["onExit#0"]
    assert play.turn(stop=True, onExit=OK).state.phase is Phase.SUCCEEDED


def test_on_exit_is_told_how_it_ended_and_what_failed() -> None:
    play = Play("a", on_exit=True).turn(a=NO)
    (start,) = play.last.start
    assert start.argv[1] == "Failed"
    assert json.loads(start.argv[2]) == [{"displayName": "a", "templateName": "op", "phase": "Failed", "message": "no"}]


def test_an_on_exit_that_fails_fails_the_workflow() -> None:
    play = Play("a", on_exit=True).turn(a=OK).turn(onExit=NO)
    assert (play.state.phase, play.state.message) == (Phase.FAILED, "onExit: onExit: no")


def test_a_finished_workflow_does_nothing_more() -> None:
    play = Play("a").turn(a=OK)
    ended = play.state
    assert play.at(1_000, a=NO).turn(stop=True).state == ended
    assert play.last.wake_at is None


def test_an_outcome_of_what_does_not_run_is_ignored() -> None:
    play = Play("a", "b: a").turn(b=OK)
    assert play.running == ["a#0"]


def test_an_output_that_never_came_to_be_is_an_error_of_who_reads_it() -> None:
    call = {"name": "b", "template": "read", "depends": "a || a.Failed"}
    call["arguments"] = {"parameters": [{"name": "i", "value": "{{tasks.a.outputs.parameters.v}}"}]}  # type: ignore[assignment]
    container = {"image": "i", "command": ["c"], "args": ["{{inputs.parameters.i}}"]}
    templates = [
        {"name": "op", "container": container | {"args": []},
         "outputs": {"parameters": [{"name": "v", "valueFrom": {"path": "/tmp/outputs/v"}}]}},
        {"name": "read", "container": container, "inputs": {"parameters": [{"name": "i"}]}},
        {"name": "main", "dag": {"tasks": [{"name": "a", "template": "op"}, call]}},
    ]  # fmt: skip
    document = {"metadata": {"name": "w"}, "spec": {"entrypoint": "main", "templates": templates}}
    spec = compile_workflow(document, {"i": {"c": ("c",)}})
    state = operate(spec, RunState(0.0), {}, 0.0).state
    state = operate(spec, state, {"a": NO}, 1.0).state
    assert state.phase is Phase.ERROR
    assert state.message == "a: no"
    assert state.nodes["b"].message == "an output it reads does not exist: v of a"
    assert state.finished_at == 1.0
