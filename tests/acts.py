"""The smallest things that make a part of Headgate ask for its rights: what the tests of rights take away is missed by
these. `ACTS` has every verb on every resource once.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from headgate_kit.kube.rights import CONTROLLER, ROUTER
from installation import Installation, Recorder, within
from world import PATIENCE_S

Verb = tuple[str, str, str]  # resource, verb, namespace | cluster

RUN_SETTINGS = ("instance_count", "scale_settings", "type")
SCALING = "{type: target_utilization, min_instances: 2, max_instances: %d, target_utilization_percentage: 70}"
FORGOTTEN = {
    "apiVersion": "headgate.dev/v1alpha1",
    "kind": "EndpointRollout",
    "metadata": {"name": "ro-forgotten"},
    "spec": {"endpoint": "greet", "commit": "0" * 40, "attempt": 1, "candidate": "", "planHash": "", "ops": []},
}
# What its gate asks for is no matter here: it shall pass soon.
ROLLOUT = "mirror: {percent: 0}\nsteps: [100]\nsoak: 1s\nmax_soak: 3m\ngates: {error-rate: {max_rate: 20%}}\n"
EDIT = ("patch", "onlineendpoint", "greet", "--type=merge", "-p", '{"spec": {"authMode": "none"}}')
MODELS = "headgate.dev/part=model"


def catch_up(installed: Installation) -> None:
    """With what the bot reverted."""
    installed.git("fetch", "-q", "origin")
    installed.git("reset", "-q", "--hard", "origin/main")


def set_run(installed: Installation, **fields: str) -> None:
    """Run settings of the deployment, which are applied in place."""
    file = installed.work / "endpoints/greet/deployments/blue.yml"
    kept = [line for line in file.read_text().splitlines() if line.partition(":")[0] not in RUN_SETTINGS]
    lines = [*kept, "type: kubernetes", *(f"{name}: {value}" for name, value in fields.items())]
    file.write_text("\n".join(lines) + "\n")
    installed.push(f"run {fields}")


def there(installed: Installation, kind: str) -> int:
    return len(installed.get(kind, selector=MODELS)["items"])


def scaled_to(installed: Installation, most: int) -> None:
    set_run(installed, instance_count="2", scale_settings=SCALING % most)

    def found() -> bool:
        items = installed.get("horizontalpodautoscalers", selector=MODELS)["items"]
        return [item["spec"]["maxReplicas"] for item in items] == [most]

    within(PATIENCE_S, found, "it is scaled")


def remove(installed: Installation) -> None:
    shutil.rmtree(installed.work / "endpoints/greet")
    file = installed.work / "headgate.yml"
    file.write_text(file.read_text() + "removal_grace: 1s\n")
    installed.push("no more greetings")


def _nothing(installed: Installation) -> None: ...


@dataclass(frozen=True)
class Act:
    """The smallest thing that makes a part ask for these.

    Args:
        rights: resource -> verbs.
        do: once they are taken away; `again`: at each look whether they are missed.
        before: what has to be so first.
    """

    rights: Mapping[str, str]
    do: Callable[[Installation], None] = _nothing
    again: Callable[[Installation], None] = _nothing
    before: Callable[[Installation], None] = _nothing
    part: str = CONTROLLER

    @property
    def verbs(self) -> set[Verb]:
        scopes = {"nodes": "cluster"}
        return {
            (what, verb, scopes.get(what, "namespace")) for what, verbs in self.rights.items() for verb in verbs.split()
        }


def restart(part: str) -> Callable[[Installation], None]:
    def delete(installed: Installation) -> None:
        installed.kubectl("delete", "pod", "-l", f"headgate.dev/part={part}", "--wait=false")

    return delete


def lose(*words: str) -> Callable[[Installation], None]:
    def delete(installed: Installation) -> None:
        installed.kubectl("delete", *words, "--wait=false")

    return delete


def lose_all_that_stands(installed: Installation) -> None:
    kinds = "horizontalpodautoscalers,poddisruptionbudgets,networkpolicies,services,serviceaccounts,deployments"
    lose(kinds, "-l", MODELS)(installed)
    lose("endpointrollouts,onlineendpoints", "--all")(installed)


def roll(word: str) -> Callable[[Installation], None]:
    def push(installed: Installation) -> None:
        catch_up(installed)
        installed.write(word)
        (installed.work / "endpoints/greet/rollout.yml").write_text(ROLLOUT)
        installed.push(word)

    return push


def call(installed: Installation) -> None:
    """All the while: without calls a step holds until it is given up."""
    Recorder(installed, installed.key()).start()


def leave_something_behind(installed: Installation) -> None:
    installed.kubectl("apply", "-f", "-", stdin=json.dumps(FORGOTTEN))


def edit(installed: Installation) -> None:
    installed.kubectl(*EDIT, check=False)


def rotate(installed: Installation) -> None:
    installed.headgate("keys", "rotate", "greet")


def show_log(installed: Installation) -> None:
    installed.headgate("logs", "greet")


CHANGE = "patch create"
ACTS = {
    "it comes back": Act(
        {
            "pods": "list watch",
            "endpointslices": "list watch",
            "deployments": "list watch",
            "secrets": "list watch",
            "onlineendpoints": "list watch",
            "endpointrollouts": "list watch",
        },
        do=restart(CONTROLLER),
    ),
    "its Lease is deleted": Act({"leases": "get patch create"}, do=lose("lease", "headgate-controller")),
    "its keys are deleted": Act(
        {"secrets": "get patch create"}, do=lose("secret", "headgate-keys-greet"), again=rotate
    ),
    "a log is asked for": Act({"pods/log": "get"}, again=show_log),
    "all is deleted": Act(
        {
            "deployments": "get patch create",
            "serviceaccounts": CHANGE,
            "services": CHANGE,
            "networkpolicies": CHANGE,
            "poddisruptionbudgets": CHANGE,
            "horizontalpodautoscalers": CHANGE,
            "onlineendpoints": CHANGE,
            "onlineendpoints/status": "patch",
            "endpointrollouts": CHANGE,
            "endpointrollouts/status": "patch",
        },
        before=lambda installed: scaled_to(installed, 3),
        do=lose_all_that_stands,
    ),
    "a hand edits": Act(
        {"events": "create", "endpointrollouts": "delete"}, do=leave_something_behind, again=edit
    ),
    "it shrinks": Act(
        {"poddisruptionbudgets": "delete", "horizontalpodautoscalers": "delete", "pods": "patch"},
        do=lambda installed: set_run(installed, instance_count="1"),
    ),
    "a rollout ends": Act(
        {"resourcequotas": "list", "pods": "delete", "secrets": "delete", "deployments": "delete"},
        before=call,
        do=roll("one"),
    ),
    "a rollout begins": Act({"nodes": "list", "pods": "create"}, before=call, do=roll("two")),
    "routers come back": Act({"endpointslices": "list watch"}, do=restart(ROUTER), part=ROUTER),
    "the endpoint is removed": Act(
        {"serviceaccounts": "delete", "onlineendpoints": "delete"}, do=remove, before=catch_up
    ),
}  # fmt: skip
