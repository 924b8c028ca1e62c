"""Each phase of a rollout as a Hera template, for our own workflow and for a team's.

    from headgate_pipelines import ops

    with Workflow(name="train-and-launch", entrypoint="main") as w:
        train = Container(name="train", ...)                      # the team's own work
        opened, build = ops.open_rollout("fraud"), ops.build("fraud", joined=True)
        with DAG(name="main"):
            start = Task(name="open", template=opened)
            Task(name="train", template=train) >> start
            start >> Task(name="build", template=build, arguments=ops.of(start))

A template only asks; what an op may do and when it has ended is decided by the controller's record, so a pipeline that
leaves a phase out or turns two around is told no. No template here uses `when`, items, expressions or locks.
"""

from __future__ import annotations

from hera.workflows import Container, Env, Parameter, RetryStrategy, Task, models

from headgate import phases
from headgate.plan import JUDGED_TIMEOUT_S
from headgate_pipelines import contract

IMAGE = contract.IMAGE
WORKFLOW_NAME = "{{workflow.name}}"

# A controller that is away: 120 s inside the op, a pause of at most a minute, thirty times: an hour and a half.
RETRY = RetryStrategy(
    limit="30",
    retry_policy="Always",
    expression=contract.TRANSIENT,
    backoff=models.Backoff(duration="1s", factor="2", cap="1m"),  # type: ignore[arg-type]
)


def open_rollout(endpoint: str, commit: str = "", *, image: str = IMAGE, timeout_s: float = 600.0) -> Container:
    """Finds the running rollout of a commit, for a team's own pipeline.

    Args:
        endpoint: its name.
        commit: the id, or how it begins; may hold references such as `{{workflow.parameters.commit}}`. Empty: any.
    Returns:
        A template with the output parameters `rollout` and `token`; `of(task)` hands both to the ops that follow.
    """
    args = ["open", endpoint, *(["--commit", commit] if commit else [])]
    return _container("open", args, image=image, timeout_s=timeout_s, outputs=[_output("rollout"), _output("token")])


def launched(endpoint: str, commit: str, *, image: str = IMAGE, timeout_s: float = JUDGED_TIMEOUT_S) -> Container:
    """Waits until the rollout of a commit has ended; fails when it did not succeed.

    The controller runs the rollout by itself: this is for what a pipeline does afterwards.

    Args:
        commit: the id, or how it begins; may hold references.
    Returns:
        A template with the output parameters `rollout`, `state` and `message`.
    """
    outputs = [_output("rollout", default=""), _output("state", default=""), _output("message", default="")]
    return _container(
        "rollout", ["rollout", endpoint, "--commit", commit], image=image, timeout_s=timeout_s, outputs=outputs
    )


def joined(verb: str, *, image: str = IMAGE, timeout_s: float = JUDGED_TIMEOUT_S) -> Container:
    """A verb whose endpoint, rollout, token and percent are all input parameters: for a `WorkflowTemplate`."""
    percent = "{{inputs.parameters.percent}}"
    takes = verb in (phases.MIRROR, phases.STEP)
    op = f"{verb}-{percent}" if verb == phases.STEP else verb
    more = ("--percent", percent) if takes else ()
    found = _ask(verb, op, "{{inputs.parameters.endpoint}}", True, image, timeout_s, *more)
    found.name = verb
    given = [Parameter(name="endpoint"), *([Parameter(name="percent")] if takes else [])]
    found.inputs = [*given, Parameter(name="rollout"), Parameter(name="token")]
    return found


def build(endpoint: str, *, joined: bool = False, image: str = IMAGE, timeout_s: float = 2_700.0) -> Container:
    """Builds what is not built yet. The one op that works itself."""
    return _ask(phases.BUILD, phases.BUILD, endpoint, joined, image, timeout_s)


def smoke(endpoint: str, *, joined: bool = False, image: str = IMAGE, timeout_s: float = 1_800.0) -> Container:
    """Starts each new revision alone and asks its sample request."""
    return _ask(phases.SMOKE, phases.SMOKE, endpoint, joined, image, timeout_s)


def deploy(endpoint: str, *, joined: bool = False, image: str = IMAGE, timeout_s: float = 1_800.0) -> Container:
    """Starts the replicas and waits until they are ready."""
    return _ask(phases.DEPLOY, phases.DEPLOY, endpoint, joined, image, timeout_s)


def mirror(
    endpoint: str,
    percent: float,
    *,
    joined: bool = False,
    image: str = IMAGE,
    timeout_s: float = JUDGED_TIMEOUT_S,
) -> Container:
    """Copies `percent` of live requests to the candidate until the gates have judged."""
    return _ask(phases.MIRROR, phases.MIRROR, endpoint, joined, image, timeout_s, "--percent", f"{percent:g}")


def step(
    endpoint: str,
    percent: float,
    *,
    joined: bool = False,
    image: str = IMAGE,
    timeout_s: float = JUDGED_TIMEOUT_S,
) -> Container:
    """Moves traffic `percent` of the way and waits until the gates have judged."""
    name = step_name(percent)
    return _ask(phases.STEP, name, endpoint, joined, image, timeout_s, "--percent", f"{percent:g}")


def finalize(endpoint: str, *, joined: bool = False, image: str = IMAGE, timeout_s: float = 600.0) -> Container:
    """Records the candidate as the new stable."""
    return _ask(phases.FINALIZE, phases.FINALIZE, endpoint, joined, image, timeout_s)


def close(endpoint: str, *, image: str = IMAGE, timeout_s: float = 600.0) -> Container:
    """For `onExit` of a workflow that is a rollout: reports how it ended. Moves nothing."""
    return _ask(phases.CLOSE, phases.CLOSE, endpoint, False, image, timeout_s, "--status", "{{workflow.status}}")


def of(opened: Task) -> dict[str, str]:
    """The arguments of a joined op: which rollout, and the right to ask for it."""
    return {name: f"{{{{tasks.{opened.name}.outputs.parameters.{name}}}}}" for name in ("rollout", "token")}


def step_name(percent: float) -> str:
    """As the plan names the op. Template names take no dot: 2.5 % is `step-2-5`; the op-key keeps the dot."""
    return f"{phases.STEP}-{percent:g}"


def _ask(verb: str, op: str, endpoint: str, joined: bool, image: str, timeout_s: float, *more: str) -> Container:
    """One verb as a template.

    Args:
        joined: part of a team's own pipeline: rollout and token are input parameters (`of`). Otherwise the
            workflow's name is the rollout and the engine gives the token.
    """
    rollout = "{{inputs.parameters.rollout}}" if joined else WORKFLOW_NAME
    args = [verb, "--endpoint", endpoint, "--op-key", f"{rollout}/{op}", *more]
    name = op.replace(".", "-")
    container = _container(name, args, image=image, timeout_s=timeout_s, outputs=[_output("message", default="")])
    if not joined:
        return container
    container.inputs = [Parameter(name="rollout"), Parameter(name="token")]
    # By environment, not by argument: arguments are seen by everybody who may list processes.
    container.env = [Env(name=contract.ENV_TOKEN, value="{{inputs.parameters.token}}")]
    return container


def _container(name: str, args: list[str], *, image: str, timeout_s: float, outputs: list[Parameter]) -> Container:
    return Container(
        name=name,
        image=image,
        command=list(contract.COMMAND),  # always set: without it the cluster asks the image registry for it
        args=args,
        outputs=outputs,
        retry_strategy=RETRY,
        timeout=f"{timeout_s:g}s",
    )


def _output(name: str, default: str | None = None) -> Parameter:
    place = f"{contract.OUTPUTS}/{name}"
    return Parameter(name=name, value_from=models.ValueFrom(path=place, default=default))
