"""The control API and /metrics of a controller put together as in production, with nothing started."""

from __future__ import annotations

import asyncio
import re
import subprocess
import tarfile
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from kubernetes import config

from headgate import codec
from headgate.control import Ack, ExchangeReply, ExchangeRequest, OperatorAction, OpReply, OpRequest, OpState
from headgate.evidence import Batch
from headgate.findings import Finding, Place, Severity
from headgate.table import EndpointRoute, RouteRevision
from headgate.testing import counts
from headgate_controllers.adapters import Adapters
from headgate_controllers.api.app import application
from headgate_controllers.api.news import News
from headgate_controllers.main import assemble
from headgate_controllers.options import Options
from headgate_controllers.secrets.kubernetes import KubernetesSecrets
from headgate_kit.layout import DataFolder
from kubeserver import KubeServer

TOKEN = "operator-token"
FILES = {
    "endpoint.yml": "name: fraud\nauth_mode: key\ntraffic: {blue: 100}\n",
    "deployments/blue.yml": (
        "name: blue\nmodel: {path: ../code/m.pkl}\ncode_configuration: {code: ../code, scoring_script: score.py}\n"
        "environment: {conda_file: ../code/conda.yml}\ninstance_type: small\n"
    ),
    "code/score.py": "def init(): ...\n",
    "code/m.pkl": "weights",
    "code/conda.yml": "dependencies: [python=3.11]\n",
}


class System:
    def __init__(self, folder: Path, secrets: str = "file", *, look: bool = True) -> None:
        repo = folder / "repo"
        for name, text in FILES.items():
            file = repo / "endpoints/fraud" / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text)
        self.repo = repo
        self.git("init", "-q", "-b", "main")
        self.git("add", ".")
        self.git("commit", "-q", "-m", "first")
        data = DataFolder(folder / "data")
        data.prepare()
        self.parts = assemble(Options(data, str(repo), None, secrets=secrets), Adapters(), TOKEN, News())
        self.controller = self.parts.controller
        if look:
            self.controller.commits.look()
        self.app = application(self.controller, News())

    def git(self, *command: str) -> None:
        git = ("git", "-C", str(self.repo), "-c", "user.name=Ada", "-c", "user.email=ada@example.org")
        subprocess.run([*git, *command], check=True)

    def commit(self, name: str, text: str) -> None:
        (self.repo / "endpoints/fraud" / name).write_text(text)
        self.git("commit", "-q", "-a", "-m", name)
        self.controller.commits.look()

    def ask(self, method: str, path: str, body: Any = None, token: str = TOKEN) -> httpx.Response:
        content = body if isinstance(body, bytes) else codec.canonical(body) if body is not None else None

        async def send() -> httpx.Response:
            transport = httpx.ASGITransport(self.app)
            headers = {"Authorization": f"Bearer {token}"} if token else {}
            async with httpx.AsyncClient(transport=transport, base_url="http://control", headers=headers) as client:
                return await client.request(method, path, content=content)

        return asyncio.run(send())

    @property
    def rollout(self) -> str:
        active = self.controller.heads.get("fraud").active
        assert active
        return active.id

    def close(self) -> None:
        for part in (self.parts.acts, self.parts.engine, self.parts.platform, self.parts.repo, self.parts.record):
            part.close()


@pytest.fixture
def system(tmp_path: Path) -> Iterator[System]:
    made = System(tmp_path)
    yield made
    made.close()


def test_no_page_of_the_control_api_loads_anything_from_elsewhere(system: System) -> None:
    document = system.ask("GET", "/openapi.json")
    assert "/healthz" in document.json()["paths"]
    assert not re.search(r"https?://", document.text)
    assert [system.ask("GET", path).status_code for path in ("/docs", "/redoc")] == [404, 404]


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/status"),
        ("GET", "/endpoints/fraud"),
        ("GET", "/endpoints/fraud/keys"),
        ("GET", "/endpoints/fraud/capacity"),
        ("GET", "/endpoints/fraud/verdicts"),
        ("GET", "/verdicts/a/b/c"),
        ("GET", "/replays/a/b/c"),
        ("GET", "/rollouts/a/ops/b/trace"),
        ("GET", "/events"),
        ("POST", "/endpoints/fraud/abort"),
        ("POST", "/endpoints/fraud/keys/rotate"),
        ("POST", "/exchange"),
        ("POST", "/sync"),
        ("POST", "/shutdown"),
        ("POST", "/ops/open/fraud"),
    ],
)
@pytest.mark.parametrize("token", ["", "wrong"])
def test_nothing_is_said_or_done_without_the_operators_token(
    system: System, method: str, path: str, token: str
) -> None:
    answer = system.ask(method, path, token=token)
    assert (answer.status_code, answer.json()["findings"][0]["code"]) == (401, "unauthorized")
    assert TOKEN not in answer.text
    assert not system.controller.stopping.is_set()


def test_status_is_the_whole_system(system: System) -> None:
    status = system.ask("GET", "/status").json()
    assert [e["name"] for e in status["endpoints"]] == ["fraud"]
    assert status["handled"] == status["commit"] == system.controller.commits.handled
    assert system.ask("GET", "/endpoints/fraud").json()["rollout"]["id"] == system.rollout
    assert system.ask("GET", f"/rollouts/{system.rollout}").json()["endpoint"] == "fraud"
    assert [r["id"] for r in system.ask("GET", "/endpoints/fraud/rollouts").json()] == [system.rollout]


def test_of_all_rollouts_only_that_of_the_commit_waited_for_is_answered(system: System) -> None:
    first, started = system.controller.commits.handled, system.rollout
    system.commit("code/score.py", "def init(): pass\n")
    assert len(system.ask("GET", "/endpoints/fraud/rollouts").json()) == 2
    for commit, found in (
        (first[:8], [started]),
        (system.controller.commits.handled, [system.rollout]),
        ("0000000", []),
    ):
        answer = system.ask("GET", f"/endpoints/fraud/rollouts?commit={commit}").json()
        assert [r["id"] for r in answer] == found


@pytest.mark.parametrize(
    "path",
    [
        "/endpoints/nobody",
        "/rollouts/none",
        "/endpoints/nobody/keys",
        "/endpoints/fraud/logs",
        "/events?endpoint=nobody",
    ],
)
def test_what_is_not_there_is_a_404_that_says_so(system: System, path: str) -> None:
    answer = system.ask("GET", path)
    assert (answer.status_code, answer.json()["findings"][0]["code"]) == (404, "not-found")


def test_before_the_first_commit_is_read_no_endpoint_is_said_not_to_be_there(tmp_path: Path) -> None:
    system = System(tmp_path, look=False)
    answer = system.ask("GET", "/endpoints/fraud")
    assert (answer.status_code, answer.json()["findings"][0]["code"]) == (503, "try-again")
    system.controller.commits.look()
    assert system.ask("GET", "/endpoints/fraud").status_code == 200
    system.close()


@pytest.mark.parametrize("path", ["/verdicts/{}/build/error-rate", "/replays/none/a/b", "/rollouts/{}/ops/b/trace"])
def test_a_verdict_that_is_not_there_is_a_404_that_says_which_there_are(system: System, path: str) -> None:
    answer = system.ask("GET", path.format(system.rollout))
    assert (answer.status_code, answer.json()["findings"][0]["code"]) == (404, "unknown-verdict")
    assert system.ask("GET", "/endpoints/fraud/verdicts").json() == []
    assert system.ask("GET", "/endpoints/nobody/verdicts").status_code == 404


def test_events_are_read_on_from_where_one_was(system: System) -> None:
    first = system.ask("GET", "/events").json()
    assert "rollout.started" in [e["kind"] for e in first["events"]]
    assert system.ask("GET", f"/events?after={first['next']}").json() == {"events": [], "next": first["next"]}


def test_an_op_is_let_in_by_its_own_rollouts_token_only(system: System) -> None:
    opened = system.ask("POST", "/ops/open/fraud").json()
    assert opened["rollout"] == system.rollout
    request = OpRequest(f"{system.rollout}/build", "fraud", {"percent": "0"}, wait_s=0)
    reply = codec.decode(OpReply, system.ask("POST", "/ops/build", request, opened["token"]).content)
    assert reply.state is OpState.WORK
    other = system.controller.access.op_token("ro-another-1")
    assert system.ask("POST", "/ops/build", request, other).status_code == 401
    assert system.ask("POST", "/endpoints/fraud/abort", OperatorAction("x"), opened["token"]).status_code == 401
    assert reply.work
    files = system.ask("GET", reply.work["builds"][0]["files_url"], token=opened["token"])
    assert b"def init(): ..." in files.content


@pytest.mark.parametrize(("verb", "key"), [("explode", "{}/build"), ("build", "nothing"), ("build", "{}/")])
def test_an_op_that_does_not_exist_is_a_404(system: System, verb: str, key: str) -> None:
    request = OpRequest(key.format(system.rollout), "fraud")
    assert system.ask("POST", f"/ops/{verb}", request).status_code == 404


@pytest.mark.parametrize("path", ["/ops/build", "/exchange", "/endpoints/fraud/pause"])
@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"{}"])
def test_a_message_that_cannot_be_read_is_a_422(system: System, path: str, body: bytes) -> None:
    assert system.ask("POST", path, body).status_code == 422


def test_the_files_of_a_build_come_whole_with_their_length_and_are_never_held_in_memory(system: System) -> None:
    weights = bytes(range(256)) * 80_000  # 20 MB
    (system.repo / "endpoints/fraud/code/m.pkl").write_bytes(weights)
    system.commit("code/score.py", "def init(): return 2\n")
    active = system.controller.heads.get("fraud").active
    assert active
    (revision,) = active.plan.revisions
    tracemalloc.start()
    with system.controller.source("fraud", revision) as file:
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        with tarfile.open(fileobj=file) as tar:
            held = tar.extractfile("endpoints/fraud/code/m.pkl")
            assert held is not None
            assert held.read() == weights
    assert most < len(weights) / 4
    answer = system.ask("GET", f"/sources/fraud/{revision}.tar")
    assert answer.status_code == 200
    assert int(answer.headers["content-length"]) == len(answer.content) > len(weights)
    assert list(system.parts.repo._git.folder.parent.glob("sources/*")) == []


def test_a_person_acts_and_is_named(system: System) -> None:
    answer = system.ask("POST", "/endpoints/fraud/pause", OperatorAction("ada", "lunch"))
    assert answer.json() == {"message": "pause by ada: lunch"}
    assert system.ask("GET", "/endpoints/fraud").json()["state"] == "Paused"
    refused = system.ask("POST", "/endpoints/fraud/rollback", OperatorAction("ada"))
    assert refused.status_code == 409
    assert "no known-good state" in refused.json()["findings"][0]["message"]
    assert "headgate events fraud" in refused.json()["findings"][0]["fix"]
    assert system.ask("POST", "/endpoints/fraud/explode", OperatorAction("ada")).status_code == 404


def test_an_approval_that_nothing_waits_for_is_refused_and_says_so(system: System) -> None:
    refused = system.ask("POST", "/endpoints/fraud/approve", OperatorAction("ada", gate="manual"))
    assert refused.status_code == 409
    assert "nothing of fraud is judged just now" in refused.json()["findings"][0]["message"]


def test_what_the_cluster_refuses_is_told_in_its_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with KubeServer() as server:
        path = server.kubeconfig(tmp_path / "kubeconfig")
        monkeypatch.setattr(config.kube_config, "KUBE_CONFIG_DEFAULT_LOCATION", str(path))  # read once, at import
        system = System(tmp_path, secrets="kubernetes")
        server.denied.add(("get", "secrets"))
        found = system.ask("POST", "/endpoints/fraud/keys/rotate", {"which": "primary"})
        (finding,) = found.json()["findings"]
        assert (found.status_code, finding["code"]) == (502, "refused-behind")
        assert 'cannot get resource "secrets"' in finding["message"]
        kept = system.controller._secrets
        assert isinstance(kept, KubernetesSecrets)
        kept.close()  # before the server: its watch would ask for it on and on
        system.close()


def test_an_endpoint_with_tokens_issues_them_and_has_no_keys(system: System) -> None:
    issued = system.ask("POST", "/endpoints/fraud/token", {"ttl_s": 600, "who": "ada"})
    assert (issued.status_code, issued.json()["findings"][0]["code"]) == (409, "auth-mode")
    system.commit("endpoint.yml", FILES["endpoint.yml"].replace("key", "aml_token"))
    given = system.ask("POST", "/endpoints/fraud/token", {"ttl_s": 600, "who": "ada"}).json()
    assert set(given) == {"token", "expires_at"}
    keys = system.ask("GET", "/endpoints/fraud/keys")
    assert (keys.status_code, keys.json()["findings"][0]["message"]) == (409, "fraud takes signed tokens")
    assert system.ask("POST", "/endpoints/fraud/token", {"ttl_s": 5}).status_code == 422
    assert system.ask("POST", "/endpoints/fraud/token", {"ttl_s": "long"}).status_code == 422
    assert system.ask("POST", "/endpoints/fraud/keys/rotate", {"which": "signing"}).json() == {}
    assert system.ask("POST", "/endpoints/fraud/keys/rotate", {"which": "primary"}).status_code == 409
    kinds = [e["kind"] for e in system.ask("GET", "/events").json()["events"]]
    assert {"token.issued", "keys.rotated"} <= set(kinds)
    assert given["token"] not in system.ask("GET", "/events").text


def test_the_live_table_is_shown_whole_or_of_one_endpoint(system: System) -> None:
    shown = system.ask("GET", "/routes").json()
    assert (shown["generation"], shown["hash"], shown["acked"]) == (0, system.controller.routes.table.hash, 0)
    row = RouteRevision("blue-1", "blue", 1000, ())
    routes = {name: EndpointRoute(name, 0, "c", (row,)) for name in ("fraud", "other")}
    system.controller.routes.publish(routes, "c")
    assert [r["endpoint"] for r in system.ask("GET", "/routes").json()["routes"]] == ["fraud", "other"]
    assert [r["endpoint"] for r in system.ask("GET", "/routes?endpoint=fraud").json()["routes"]] == ["fraud"]
    assert system.ask("GET", "/routes?endpoint=nobody").status_code == 404
    assert system.ask("GET", "/routes", token="").status_code == 401


def test_keys_are_shown_and_rotated_apart(system: System) -> None:
    before = system.ask("GET", "/endpoints/fraud/keys").json()
    after = system.ask("POST", "/endpoints/fraud/keys/rotate", {"which": "primary"}).json()
    assert (after["secondary"], after["primary"] == before["primary"]) == (before["secondary"], False)
    assert system.ask("POST", "/endpoints/fraud/keys/rotate", {"which": "third"}).status_code == 422


def test_a_router_is_given_the_table_and_its_batches_are_received(system: System) -> None:
    row = EndpointRoute("fraud", 0, "c", (RouteRevision("r1", "blue", 1000, ()),))
    system.controller.routes.publish({"fraud": row}, "c")
    batch = Batch("fraud", 1, 1.0, {"r1": counts(8, 2)})
    sent = ExchangeRequest("router-0", "boot", 1, None, (batch,))
    reply = codec.decode(ExchangeReply, system.ask("POST", "/exchange", sent).content)
    assert (reply.received, reply.table) == (1, system.controller.routes.table)
    acked = ExchangeRequest("router-0", "boot", 1, Ack(1, "h"))
    assert codec.decode(ExchangeReply, system.ask("POST", "/exchange", acked).content).table is None
    assert system.controller.workers.acked() == 1

    metrics = system.ask("GET", "/metrics", token="").text.splitlines()
    for line in (
        "headgate_table_generation 1.0",
        "headgate_repo_readable 1.0",
        'headgate_router_acked_generation{lost="false",worker="router-0"} 1.0',
        'headgate_endpoint_state{endpoint="fraud",state="Progressing"} 1.0',
        'headgate_evidence_requests_total{endpoint="fraud",outcome="ok",revision="r1"} 8.0',
        'headgate_evidence_requests_total{endpoint="fraud",outcome="model_error",revision="r1"} 2.0',
    ):
        assert line in metrics


def test_liveness_needs_no_token_and_shutdown_is_asked_for(system: System) -> None:
    assert system.ask("GET", "/healthz", token="").json() == {"status": "ok"}
    system.ask("POST", "/shutdown", {"replicas": True})
    assert (system.controller.stopping.is_set(), system.controller.stop_replicas) == (True, True)


def test_what_the_platform_cannot_do_is_said_with_the_state(system: System, monkeypatch: pytest.MonkeyPatch) -> None:
    """`findings` is optional in the port: one machine has none."""
    assert system.ask("GET", "/status").json()["findings"] == []
    lacks = Finding("keda-missing", "KEDA does not scale fraud", "w", "f", Place("headgate.yml"), Severity.WARNING)
    monkeypatch.setattr(type(system.parts.platform), "findings", lambda self: (lacks,), raising=False)
    assert [f["code"] for f in system.ask("GET", "/status").json()["findings"]] == ["keda-missing"]
