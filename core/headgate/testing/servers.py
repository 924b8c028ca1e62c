"""What every server promises: it is pure, and what it launches tells no secret in argv. Subject: a `ServerCase`."""

from __future__ import annotations

import sys
from dataclasses import dataclass, replace

from headgate.ports import Server
from headgate.target import DeploymentTarget
from headgate.testing.suite import Suite
from headgate.workload import IMAGE_BUNDLE, IMAGE_ENVIRONMENT, Artifact, Launch


@dataclass(frozen=True, slots=True)
class ServerCase:
    server: Server
    deployment: DeploymentTarget  # one it claims
    artifact: Artifact = Artifact("d" * 64, "bundles/d", "environments/e")


SERVER: Suite[ServerCase] = Suite()


def _launch(case: ServerCase, **variables: str) -> Launch:
    source = replace(case.deployment.source, variables=variables)
    return case.server.launch(replace(case.deployment, source=source), case.artifact)


@SERVER
def _it_claims_its_own_and_nobody_elses(case: ServerCase) -> None:
    assert case.server.claims(case.deployment)
    source = replace(case.deployment.source, server="no-such-server")
    assert not case.server.claims(replace(case.deployment, source=source))


@SERVER
def _the_same_deployment_is_launched_in_the_same_way(case: ServerCase) -> None:
    assert _launch(case, A="1") == _launch(case, A="1"), "a launch that differs restarts every replica"


@SERVER
def _a_launch_is_a_command_of_texts(case: ServerCase) -> None:
    launch = _launch(case)
    assert launch.argv, "there is something to run"
    assert all(isinstance(part, str) for part in launch.argv)
    assert all(isinstance(text, str) for item in launch.env.items() for text in item)


@SERVER
def _another_bundle_is_another_launch(case: ServerCase) -> None:
    other = replace(case.artifact, location="bundles/other")
    assert case.server.launch(case.deployment, other) != case.server.launch(case.deployment, case.artifact)


@SERVER
def _environment_variables_reach_the_model_and_never_argv(case: ServerCase) -> None:
    launch = _launch(case, PASSWORD="hunter2")
    assert "hunter2" not in " ".join(launch.argv), "every user of the machine can read argv"
    assert any("hunter2" in value for value in launch.env.values())


@SERVER
def _in_an_image_nothing_of_this_machine_is_named(case: ServerCase) -> None:
    image = Artifact("d" * 64, IMAGE_BUNDLE, IMAGE_ENVIRONMENT, "registry.example/models@sha256:" + "d" * 64)
    launch = case.server.launch(case.deployment, image)
    said = " ".join((*launch.argv, *launch.env.values()))
    for place in {sys.executable, sys.prefix, sys.base_prefix} - {"/usr", "/usr/local"}:
        assert place not in said, "the image has an interpreter of its own"
