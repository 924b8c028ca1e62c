"""Mutual TLS between routers and models: switched on, renewed and half missing, with somebody calling all the while."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest

from certificates import CLIENT, SERVER, Authority
from headgate.workload import object_name
from installation import Installation, Recorder, within

RENEWED_S = 180.0  # a kubelet takes up to a minute and its cache's delay to show a pod a changed Secret
ROLLED_S = 420.0  # a machine that is busy with other things
# What is said there to who has no certificate, in plain HTTP and by TLS; then the certificate that is shown.
KNOCK = """
import json, socket, ssl, sys
said = []
shown = ""
context = ssl.create_default_context()
context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
for secure in (False, True):
    with socket.create_connection((sys.argv[1], 8080), 10) as sock:
        try:
            if secure:
                sock = context.wrap_socket(sock)
                shown = ssl.DER_cert_to_PEM_cert(sock.getpeercert(binary_form=True))
            sock.sendall(b'POST /score HTTP/1.1\\r\\nhost: x\\r\\ncontent-length: 15\\r\\n\\r\\n{"name": "ada"}')
            said.append(sock.recv(100).decode("latin-1"))
        except (ssl.SSLError, ConnectionError) as error:
            said.append(type(error).__name__)
        finally:
            sock.close()
print(json.dumps([said, shown]))
"""


US = Authority("us")
ROUTERS = {"models.tls.clientSecret": "models-client"}


@pytest.fixture(scope="module")
def installed(installation: Installation, tmp_path_factory: pytest.TempPathFactory) -> Installation:
    """Headgate whose routers have a certificate, and an endpoint that is ready and asks for none."""
    give(installation, "models-client", US.issue(tmp_path_factory.mktemp("client"), CLIENT))
    write(installation, "plain")
    installation.push("first")
    installation.install(**ROUTERS)
    within(ROLLED_S, lambda: ready(installation), "the endpoint is ready")
    return installation


def write(world: Installation, word: str) -> None:
    """With gates that need little: what is looked at here is who answers."""
    world.write(word)
    rollout = "steps: [50, 100]\nsoak: 2s\nmax_soak: 3m\ngates: {error-rate: {max_increase: 10%}}\n"
    (world.work / "endpoints/greet/rollout.yml").write_text(f"mirror: {{percent: 0}}\n{rollout}")


def ready(world: Installation) -> bool:
    """Served, with no rollout on its way."""
    found = world.get("onlineendpoint", "greet") or {}
    conditions = {c["type"]: c["status"] for c in found.get("status", {}).get("conditions", ())}
    return conditions.get("Ready") == "True" and conditions.get("Reconciling") != "True"


def give(world: Installation, name: str, folder: Path) -> None:
    """The Secret, made or replaced."""
    data = {file.name: base64.b64encode(file.read_bytes()).decode() for file in folder.iterdir()}
    secret = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "type": "kubernetes.io/tls"}
    world.kubectl("apply", "-f", "-", stdin=json.dumps({**secret, "data": data}))


def acts(world: Installation) -> None:
    """Until the controller that was told last is the one that acts."""

    def new() -> bool:
        found = world.get("deployment", "headgate-controller")
        status = found["status"]
        seen = status.get("observedGeneration", 0) >= found["metadata"]["generation"]
        return seen and status.get("updatedReplicas") == status.get("availableReplicas") == 1

    within(ROLLED_S, new, "the new controller acts")


def pods(world: Installation) -> dict[str, Any]:
    found = world.get("pods", selector="headgate.dev/part=model,headgate.dev/purpose=serve")["items"]
    return {pod["metadata"]["name"]: pod for pod in found if not pod["metadata"].get("deletionTimestamp")}


def knock(world: Installation, ip: str) -> tuple[list[str], str]:
    """From a pod that has no certificate."""
    said, shown = json.loads(world.kubectl("exec", "git", "--", "python", "-c", KNOCK, ip))
    return said, shown


def spoken(world: Installation, revision: str) -> str:
    service = world.get("service", object_name("greet", revision))
    return str(service["spec"]["ports"][0].get("appProtocol", ""))


def answers(world: Installation, key: str, word: str) -> bool:
    done = world.headgate("invoke", "greet", "-f", str(world.work / "endpoints/greet/deployments/sample-request.json"))
    return word in done.stdout


def rolled(world: Installation, commit: str) -> bool:
    """Whether this commit is what serves."""
    return ready(world) and commit in world.headgate("status", "greet", "-o", "json").stdout


def test_new_revisions_speak_it_old_ones_stay_and_no_caller_sees_a_renewal(
    installed: Installation, tmp_path: Path
) -> None:
    give(installed, "models-server", US.issue(tmp_path / "server", SERVER))
    caller = Recorder(installed, installed.key())
    caller.start()
    before = pods(installed)

    installed.install(**ROUTERS, **{"models.tls.serverSecret": "models-server"})
    acts(installed)
    assert "0 of 1 revisions are met by mutual TLS; not yet: greet-" in installed.headgate("doctor").stdout
    assert pods(installed).keys() == before.keys(), "no pod that runs is changed"

    write(installed, "secured")
    commit = installed.push("second")
    within(ROLLED_S, lambda: pods(installed).keys() - before.keys(), "the new revision has a pod")
    name = (pods(installed).keys() - before.keys()).pop()
    within(ROLLED_S, lambda: rolled(installed, commit), "the new revision serves")
    pod = pods(installed)[name]
    labels = pod["metadata"]["labels"]
    assert spoken(installed, labels["headgate.dev/revision"]) == "https"
    for one in before.values():
        if one["metadata"]["name"] in pods(installed):
            assert spoken(installed, one["metadata"]["labels"]["headgate.dev/revision"]) == ""
    assert answers(installed, installed.key(), "secured")

    said, shown = knock(installed, pod["status"]["podIP"])
    assert not any("HTTP" in one for one in said), said
    give(installed, "models-server", US.issue(tmp_path / "server", SERVER))
    give(installed, "models-client", US.issue(tmp_path / "client", CLIENT))
    within(RENEWED_S, lambda: knock(installed, pod["status"]["podIP"])[1] != shown, "the new certificate is shown")
    assert pods(installed)[name]["status"]["containerStatuses"][0]["restartCount"] == 0
    seen = caller.stop()
    installed.note("answers while it was switched on and renewed", sum(seen.values()))
    assert set(seen) == {200}


def test_a_secret_that_is_missing_holds_the_rollout_until_it_is_there_and_no_caller_sees_it(
    installed: Installation, tmp_path: Path
) -> None:
    caller = Recorder(installed, installed.key())
    caller.start()
    installed.install(**ROUTERS, **{"models.tls.serverSecret": "models-absent"})
    acts(installed)
    write(installed, "third")
    commit = installed.push("third")

    def said() -> str:
        done = installed.headgate("status", "greet")
        return done.stdout if "installation-fault" in done.stdout else ""

    assert "has no tls.crt, tls.key, ca.crt" in within(ROLLED_S, said, "the rollout says what is missing")
    assert answers(installed, installed.key(), "secured")
    give(installed, "models-absent", US.issue(tmp_path / "server", SERVER))
    within(ROLLED_S, lambda: rolled(installed, commit), "it goes on by itself once the Secret is there")
    assert answers(installed, installed.key(), "third")
    assert installed.git("ls-remote", "origin", "main").startswith(commit), "no commit was reverted"
    assert set(caller.stop()) == {200}
