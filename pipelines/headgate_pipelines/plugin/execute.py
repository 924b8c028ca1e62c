"""Headgate's verbs as an Argo executor plugin: one template in, one node's result out.

    plugin:
      headgate: {verb: step, endpoint: fraud, opKey: "{{workflow.name}}/step-5", percent: "5"}

Decides nothing and remembers nothing: it asks the record once, and says what to tell Argo. Asking again is safe, so a
front end that restarts, hears an event twice or is there twice changes nothing. Refuses `build`: its work takes longer
than a call may, and belongs in a pod.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from headgate import phases
from headgate.control import OpReply, OpRequest, OpState
from headgate.findings import HeadgateError, TransientError

KEY = "headgate"  # of `plugin:` in a template
LIGHT = (phases.SMOKE, phases.DEPLOY, phases.MIRROR, phases.STEP, phases.FINALIZE, phases.CLOSE)
FIELDS = {"verb", "endpoint", "opKey", "percent", "status", "token"}
REQUEUE_S = 1.0  # an op that still runs is asked again after this, unless its record changes before
LATER_S = 5.0  # one that may not begin yet
LONGEST = 1_000  # characters of a message: Argo keeps all of them in one object

Ask = Callable[[str, OpRequest], OpReply]  # verb, request


@dataclass(frozen=True, slots=True)
class NodeResult:
    """What Argo is told of one node."""

    phase: str  # Running | Succeeded | Failed | Error
    message: str = ""
    outputs: Mapping[str, str] = field(default_factory=dict)
    requeue_s: float | None = None  # ask again after this; None: it is over

    def document(self) -> dict[str, Any]:
        """As Argo reads it."""
        found: dict[str, Any] = {"phase": self.phase, "message": self.message}
        if self.outputs:
            found["outputs"] = {"parameters": [{"name": k, "value": v} for k, v in sorted(self.outputs.items())]}
        return found


def body_of(template: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """Our part of a template; None: it is not ours to answer."""
    plugin = template.get("plugin")
    found = plugin.get(KEY) if isinstance(plugin, Mapping) else None
    return found if isinstance(found, Mapping) else None


def rollout_of(body: Mapping[str, Any]) -> str:
    return str(body.get("opKey", "")).rpartition("/")[0]


def execute(template: Mapping[str, Any], ask: Ask, *, wait_s: float = 0.0) -> NodeResult | None:
    """Asks once; None: the template is not ours.

    Args:
        template: as Argo hands it over, references replaced.
        ask: raises TransientError when nobody answers just now.
        wait_s: how long the question may be held.
    """
    body = body_of(template)
    if body is None:
        return None
    wrong = _wrong(body)
    if wrong:
        return NodeResult("Error", f"plugin headgate: {wrong}")
    given = {name: str(body[name]) for name in ("percent", "status") if body.get(name)}
    request = OpRequest(str(body["opKey"]), str(body["endpoint"]), given, wait_s)
    try:
        reply = ask(str(body["verb"]), request)
    except TransientError as error:
        return NodeResult("Running", _short(error), requeue_s=max(error.retry_after_s, REQUEUE_S))
    except HeadgateError as error:
        return NodeResult("Error", _short(error))
    return _result(reply)


def _wrong(body: Mapping[str, Any]) -> str:
    unknown = sorted(str(name) for name in body.keys() - FIELDS)
    if unknown:
        return f"unknown field {', '.join(unknown)}; there are {', '.join(sorted(FIELDS))}"
    missing = [name for name in ("verb", "endpoint", "opKey") if not body.get(name)]
    if missing:
        return f"{', '.join(missing)} is missing"
    if body["verb"] not in LIGHT:
        return f"verb `{body['verb']}` is not one of {', '.join(LIGHT)}; build runs in a pod"
    if "/" not in str(body["opKey"]):
        return "opKey is not ROLLOUT/OP"
    return ""


def _result(reply: OpReply) -> NodeResult:
    message = _short(reply.message)
    if reply.state is OpState.DONE:
        return NodeResult("Succeeded", message, {"message": message})
    if reply.state is OpState.NO:
        return NodeResult("Failed", message)
    if reply.state is OpState.WAIT:
        return NodeResult("Running", message, requeue_s=REQUEUE_S)
    if reply.state is OpState.LATER:
        return NodeResult("Running", message, requeue_s=LATER_S)
    return NodeResult("Error", f"the record asks for {reply.state}, which a plugin cannot do")


def _short(said: object) -> str:
    return str(said)[:LONGEST]
