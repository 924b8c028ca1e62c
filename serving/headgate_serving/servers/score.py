"""The server of Azure's scoring scripts: how a replica's front is started. Pure: reads no file, starts nothing."""

from __future__ import annotations

import sys

from headgate import codec
from headgate.target import DeploymentTarget
from headgate.workload import IMAGE_PYTHON, Artifact, Launch
from headgate_serving.settings import SERVE, ServeSettings


class ScoreServer:
    """Claims deployments with a scoring script.

    Args:
        python: the interpreter Headgate itself runs on: it runs the front, where the artifact is folders of this
            machine. An image has its own.
    """

    def __init__(self, python: str = sys.executable) -> None:
        self._python = python

    def claims(self, deployment: DeploymentTarget) -> bool:
        return deployment.source.server == "score"

    def launch(self, deployment: DeploymentTarget, artifact: Artifact) -> Launch:
        python = IMAGE_PYTHON if artifact.image else self._python
        settings = ServeSettings(
            bundle=artifact.location,
            interpreter=f"{artifact.environment}/bin/python" if artifact.environment else python,
            environment=artifact.environment,
            variables=deployment.source.variables,
            scoring_path=deployment.source.scoring_path,
        )
        return Launch(
            argv=(python, "-P", "-m", "headgate_serving.front"),  # -P: no module of the current folder gets in
            env={SERVE: codec.canonical(settings).decode()},
        )
