"""Templates a team imports: what each asks, and what is kept out of arguments."""

from __future__ import annotations

from typing import Any

import pytest
from hera.workflows import Container, Task, Workflow

from headgate import phases
from headgate.plan import Op, Plan, seal
from headgate_pipelines import op, ops, rollout


def template(container: Container) -> dict[str, Any]:
    with Workflow(name="w", entrypoint=str(container.name)) as workflow:
        workflow.templates = [container]
    return dict(workflow.to_dict()["spec"]["templates"][0])


ALL = {
    "build": lambda **k: ops.build("fraud", **k),
    "smoke": lambda **k: ops.smoke("fraud", **k),
    "deploy": lambda **k: ops.deploy("fraud", **k),
    "mirror": lambda **k: ops.mirror("fraud", 20, **k),
    "step-2.5": lambda **k: ops.step("fraud", 2.5, **k),
    "finalize": lambda **k: ops.finalize("fraud", **k),
}


@pytest.mark.parametrize("name", ALL)
def test_every_ops_arguments_are_understood_by_the_op(name: str) -> None:
    args = template(ALL[name]())["container"]["args"]
    given = op.arguments([a.replace("{{workflow.name}}", "ro-1") for a in args])
    assert (given.verb, given.endpoint, given.op_key) == (name.partition("-")[0], "fraud", f"ro-1/{name}")


def test_every_phase_has_a_template() -> None:
    assert {name.partition("-")[0] for name in ALL} | {phases.CLOSE} == set(phases.BY_VERB)


@pytest.mark.parametrize("name", ALL)
def test_a_joined_op_takes_rollout_and_token_and_keeps_the_token_out_of_argv(name: str) -> None:
    made = template(ALL[name](joined=True))
    assert [p["name"] for p in made["inputs"]["parameters"]] == ["rollout", "token"]
    assert f"{{{{inputs.parameters.rollout}}}}/{name}" in made["container"]["args"]
    assert not any("token" in a for a in made["container"]["args"])
    assert made["container"]["env"] == [{"name": "HEADGATE_TOKEN", "value": "{{inputs.parameters.token}}"}]


def test_a_name_takes_no_dot_but_the_key_keeps_it() -> None:
    made = template(ops.step("fraud", 2.5))
    assert made["name"] == "step-2-5"
    assert made["container"]["args"][-2:] == ["--percent", "2.5"]


def test_what_open_answers_is_handed_on() -> None:
    assert ops.of(Task(name="start", template="open")) == {
        "rollout": "{{tasks.start.outputs.parameters.rollout}}",
        "token": "{{tasks.start.outputs.parameters.token}}",
    }


def test_a_plan_becomes_a_chain_of_its_ops() -> None:
    plan = seal(
        Plan("fraud", "c" * 40, "t", ("r",), "r", {"r": 1000}, ops=(Op("build", "build"), Op("step-5", "step", 5.0)))
    )
    document = rollout.workflow(plan, "ro-1", image="registry.example/runner:1")
    spec = document["spec"]
    assert document["metadata"]["annotations"] == {"headgate.dev/plan": plan.hash}
    assert spec["templates"][-1]["dag"]["tasks"] == [
        {"name": "build", "template": "build"},
        {"name": "step-5", "template": "step-5", "depends": "build"},
    ]
    assert spec["onExit"] == "close"
    assert {t["container"]["image"] for t in spec["templates"] if "container" in t} == {"registry.example/runner:1"}
