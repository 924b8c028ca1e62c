"""The user's side of the story: a work tree of the endpoints repo, Azure ML YAML written into it, commits, pushes."""

from __future__ import annotations

import platform
import subprocess
from pathlib import Path

from headgate.findings import HeadgateError
from headgate_console.demo import models
from headgate_console.demo.models import Model

ENDPOINT = "diabetes"
BRANCH = "main"
IDENTITY = ("-c", "user.name=Demo", "-c", "user.email=demo@localhost")

ENDPOINT_YML = """\
$schema: https://azuremlschemas.azureedge.net/latest/managedOnlineEndpoint.schema.json
name: {endpoint}
auth_mode: key
traffic:
  {traffic}: 100
"""

DEPLOYMENT_YML = """\
$schema: https://azuremlschemas.azureedge.net/latest/managedOnlineDeployment.schema.json
name: {name}
endpoint_name: {endpoint}
model:
  path: ../models/{name}/model
code_configuration:
  code: ../code/{name}
  scoring_script: score.py
environment:
  image: mcr.microsoft.com/azureml/openmpi4.1.0-ubuntu22.04:latest
  conda_file: ../conda.yml
environment_variables:
  OMP_NUM_THREADS: "1"
  OPENBLAS_NUM_THREADS: "1"
  WORKER_COUNT: "{workers}"
  WORKER_PRELOAD: "true"
instance_type: small
instance_count: 1
request_settings:
  request_timeout_ms: 30000
  max_concurrent_requests_per_instance: 1000
  max_queue_wait_ms: 10000
"""

CONDA_YML = """\
name: diabetes
channels: [conda-forge]
dependencies:
  - python={python}
  - pip
  - pip:
{requirements}
"""

ROLLOUT_YML = """\
# The demo's own profile, made to tell its story in two minutes on two cores. These are not production defaults:
# leave this file out and Headgate uses its own, which soak for minutes and tolerate less.
smoke: {request: sample-request.json}
mirror: {percent: 50, soak: 2s}
steps: [5, 25, 50, 100]
soak: 2s
max_soak: 3m
gates:
  error-rate: {max_increase: 4%}
  # A laptop that also runs the caller has slow moments: one request in five may be slow before this is a failure.
  latency-p99: {max_increase: 0%, slack_ms: 100, max_extra: 20%}
  # The better model differs from the first one by design: nearly always by less than half.
  mirror-diff: {rel: 0.5, max_share: 10%}
keep_warm: 10m
"""

SLOW_WORKERS = 10  # of a model that sleeps: its requests wait for the audit, not for each other
WORKERS = 1


class GitError(HeadgateError):
    """git said no; the text is its own."""


class WorkTree:
    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @property
    def endpoint(self) -> Path:
        return self.folder / "endpoints" / ENDPOINT

    @property
    def origin(self) -> str:
        return self.git("remote", "get-url", "origin")

    def git(self, *arguments: str) -> str:
        done = subprocess.run(
            ["git", "-C", str(self.folder), *IDENTITY, *arguments], capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise GitError(f"git {' '.join(arguments)}: {(done.stderr or done.stdout).strip()}")
        return done.stdout.strip()

    def release(self, model: Model, message: str) -> str:
        """Writes a deployment, gives it all traffic, commits and pushes; answers the commit."""
        if not self.endpoint.exists():
            self._ground()
        self._deployment(model)
        self.endpoint.joinpath("endpoint.yml").write_text(
            ENDPOINT_YML.format(endpoint=ENDPOINT, traffic=model.recipe.name)
        )
        self.git("add", "-A")
        self.git("commit", "-q", "-m", message)
        return self.push()

    def revert(self, commit: str) -> str:
        """`git revert` of one commit, pushed; answers the new commit."""
        self.git("revert", "--no-edit", commit)
        return self.push()

    def push(self) -> str:
        self.git("push", "-q", "origin", f"HEAD:{BRANCH}")
        return self.git("rev-parse", "HEAD")

    def pull(self) -> None:
        """Takes up what others committed, as the bot did."""
        self.git("pull", "-q", "--ff-only", "origin", BRANCH)

    def pushed_at(self) -> float:
        """When the branch was last updated in the origin, in seconds since the epoch, by the file system's clock."""
        ref = Path(self.origin.removeprefix("file://")) / "refs" / "heads" / BRANCH
        return ref.stat().st_mtime_ns / 1e9

    def _ground(self) -> None:
        """What all deployments of the endpoint share."""
        (self.endpoint / "deployments").mkdir(parents=True)
        python = ".".join(platform.python_version_tuple()[:2])
        lines = "\n".join(f"      - {line}" for line in models.requirements())
        self.endpoint.joinpath("conda.yml").write_text(CONDA_YML.format(python=python, requirements=lines))
        self.endpoint.joinpath("rollout.yml").write_text(ROLLOUT_YML)
        sample = models.bodies(models.requests(1))[0]
        self.endpoint.joinpath("deployments", "sample-request.json").write_bytes(sample)

    def _deployment(self, model: Model) -> None:
        recipe = model.recipe
        models.save(model, self.endpoint / "models" / recipe.name / "model")
        code = self.endpoint / "code" / recipe.name
        code.mkdir(parents=True)
        code.joinpath("score.py").write_text(models.scoring_script(recipe), "utf-8")
        workers = SLOW_WORKERS if recipe is models.SLOW else WORKERS
        text = DEPLOYMENT_YML.format(name=recipe.name, endpoint=ENDPOINT, workers=workers)
        self.endpoint.joinpath("deployments", f"{recipe.name}.yml").write_text(text)
