"""What an endpoints repo may ask for at its edges, on one running system: each test starts from a healthy endpoint.

One file although it is long: its last test judges every answer and every look at `drift` of all tests before it.
"""

from __future__ import annotations

import http.client
import json
import os
import shutil
import stat
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest
from prometheus_client.parser import text_string_to_metric_families

if TYPE_CHECKING:
    from tests.faults.conftest import System

pytestmark = pytest.mark.faults

QUICK = "mirror: {percent: 0}\nsteps: [100]\nsoak: 0s\nmin_requests: 1\ngates: {}\n"
ECHO_MODEL = """
import json, os
def init():
    pass
def run(raw):
    folder = os.environ["AZUREML_MODEL_DIR"]
    files = [os.path.relpath(os.path.join(at, name), folder) for at, _, names in os.walk(folder) for name in names]
    texts = {name: open(os.path.join(folder, name)).read() for name in files}
    return {"value": json.loads(raw)["x"] * 2, "folder": folder, "files": texts}
"""
RAISES = "def init():\n    raise RuntimeError('no weights')\n\ndef run(raw):\n    return 1\n"


class Drifts(threading.Thread):
    """Looks at `drift` all the time: a false alarm anywhere in this module fails its last test."""

    def __init__(self, system: System) -> None:
        super().__init__(daemon=True)
        self._system = system
        self._ended = threading.Event()
        self.looks = 0
        self.seen: Counter[str] = Counter()

    def run(self) -> None:
        while not self._ended.wait(0.2):
            try:
                self.seen.update(self._system.api("/status")["drift"])
                self.looks += 1
            except (OSError, http.client.HTTPException, ValueError, KeyError):
                continue

    def end(self) -> None:
        self._ended.set()
        if self.is_alive():
            self.join(10)


@pytest.fixture(scope="module")
def drifts(shared: System) -> Iterator[Drifts]:
    made = Drifts(shared)
    yield made
    made.end()


@pytest.fixture(scope="module")
def calls() -> list[Any]:
    """The caller that asks all the time, once there is one."""
    return []


@pytest.fixture(scope="module")
def serving(shared: System, drifts: Drifts, calls: list[Any]) -> System:
    """Up, traced, and called all the time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HEADGATE_TRACE_FILE", str(shared.folder / "traces.jsonl"))
        baseline(shared)
        first = shared.push("blue")
        shared.up()
        shared.settled(first)
        shared.ready()
    drifts.start()
    calls.append(shared.caller(40))
    return shared


@pytest.fixture
def live(serving: System) -> System:
    """Whatever the test before did: blue has all traffic, and git has nothing else."""
    serving._git(serving.work, "fetch", "-q")
    serving._git(serving.work, "checkout", "-q", "-f", "main")
    if serving.log("%H")[0] != serving._git(serving.work, "rev-parse", "HEAD").strip():
        serving._git(serving.work, "reset", "-q", "--hard", "origin/main")
    baseline(serving)
    if serving._git(serving.work, "status", "--porcelain"):
        serving.settled(serving.push("blue again"), seconds=30)
    return serving


def baseline(system: System) -> None:
    shutil.rmtree(system.work / "endpoints", ignore_errors=True)
    system.write("headgate.yml", "catalogue: models\nremoval_grace: 1s\n")
    blue(system, 0)
    split(system, blue=100)


def split(system: System, endpoint: str = "", process: str = QUICK, **percent: int) -> None:
    shares = ", ".join(f"{name}: {share}" for name, share in percent.items())
    system.write("endpoints/adder/endpoint.yml", f"name: adder\nauth_mode: key\ntraffic: {{{shares}}}\n{endpoint}")
    system.write("endpoints/adder/rollout.yml", process)


def ask(
    system: System, headers: Mapping[str, str] | None = None, path: str = "/endpoints/adder/score", key: str = ""
) -> tuple[int, Mapping[str, str], Any]:
    where = urlsplit(system.url)
    connection = http.client.HTTPConnection(where.hostname or "", where.port or 0, timeout=30)
    try:
        given = {"authorization": f"Bearer {key or system.key}", "content-type": "application/json", **(headers or {})}
        connection.request("POST", path, json.dumps({"x": 3}), given)
        answer = connection.getresponse()
        return answer.status, answer.headers, json.loads(answer.read())
    finally:
        connection.close()


def deployments(system: System, requests: int = 20, headers: Mapping[str, str] | None = None) -> Counter[str]:
    return Counter(ask(system, headers)[1]["azureml-model-deployment"] for _ in range(requests))


def events(system: System, kind: str, endpoint: str = "adder") -> list[dict[str, Any]]:
    found = system.api(f"/events?endpoint={endpoint}&limit=5000")["events"]
    return [event for event in found if event["kind"] == kind]


def rollout_of(system: System, commit: str, state: str = "failed") -> dict[str, Any] | None:
    found = system.api("/endpoints/adder/rollouts")
    return next((dict(r) for r in found if r["commit"] == commit and r["state"] == state), None)


# --- models and environments -----------------------------------------------------------------------------------------


def with_model(system: System, name: str, model: str) -> None:
    system.deployment(name, 2, count=1, score=ECHO_MODEL)
    path = f"endpoints/adder/deployments/{name}.yml"
    system.write(path, (system.work / path).read_text() + f"model: {model}\n")
    split(system, **{name: 100})


def test_models_come_from_the_catalogue_by_version_and_label_and_from_a_path(live: System) -> None:
    for version in ("1", "2", "10"):
        live.write(f"models/adder/{version}/weights.json", f"[{version}]")
    live.write("endpoints/adder/local/weights.json", "[0]")
    asked = {
        "azureml:adder:2": ("adder/2", {"weights.json": "[2]"}),
        "azureml:adder@latest": ("adder/10", {"weights.json": "[10]"}),
        "{path: ../local}": ("local/1", {"local/weights.json": "[0]"}),
    }
    for number, (model, (folder, files)) in enumerate(asked.items()):
        with_model(live, f"model{number}", model)
        live.settled(live.push(model))
        _, _, answer = ask(live)
        assert answer["folder"].endswith(f"/models/{folder}"), answer
        assert answer["files"] == files


def test_a_model_the_catalogue_lacks_is_refused_with_what_it_has(live: System) -> None:
    for version in ("1", "2", "10"):
        live.write(f"models/adder/{version}/weights.json", f"[{version}]")
    with_model(live, "absent", "azureml:adder:3")
    commit = live.push("a version nobody registered")
    found = live.until("the finding", lambda: live.endpoint() if live.endpoint()["sync"] == "Rejected" else None)
    finding = next(f for f in found["findings"] if f["code"] == "model-unknown")
    assert found["commit"] == commit
    assert "1, 2, 10" in finding["why"]
    assert finding["place"]["file"] == "endpoints/adder/deployments/absent.yml"
    assert finding["place"]["line"] == 8


def test_a_label_of_a_catalogue_outside_moves_with_its_file_and_a_revert_takes_it_back(live: System) -> None:
    lake = live.folder / "lake"

    def register(version: str) -> None:
        (lake / "adder" / version).mkdir(parents=True)
        (lake / "adder" / version / "weights.json").write_text(f"[{version}]")

    def served() -> str:
        return str(ask(live)[2]["folder"]).rpartition("/")[2]

    register("1")
    live.write("headgate.yml", f"catalogues: {{lake: {{kind: folder, url: {lake}}}}}\nremoval_grace: 1s\n")
    with_model(live, "outside", "azureml:adder@latest")
    live.settled(live.push("the latest of the lake"))
    assert served() == "1"
    register("2")
    split(live, endpoint="tags: {unrelated: change}\n", outside=100)
    live.settled(live.push("an unrelated change"))
    assert served() == "1"
    path = "endpoints/adder/deployments/outside.yml"
    live.write(path, (live.work / path).read_text() + "tags: {model: newer}\n")
    live.settled(live.push("what is the latest now"))
    assert served() == "2"
    live.settled(live.revert())
    assert served() == "1"
    (lake / "adder/2/weights.json").write_text("[3]")
    with_model(live, "changed", "azureml:adder:2")
    commit = live.push("a version that was pinned before it changed would be refused; this one is pinned as it is")
    live.settled(commit)
    assert ask(live)[2]["files"] == {"weights.json": "[3]"}


def test_a_catalogue_that_is_away_is_said_and_nobody_has_to_push_again(live: System) -> None:
    lake = live.folder / "far-lake"
    live.write("headgate.yml", f"catalogues: {{lake: {{kind: folder, url: {lake}}}}}\nremoval_grace: 1s\n")
    with_model(live, "late", "azureml:adder:1")
    commit = live.push("a lake that is not there yet")
    codes = [f["code"] for f in live.until("the finding", lambda: live.endpoint()["findings"])]
    assert "catalogue-unreachable" in codes
    assert ask(live)[0] == 200, "what serves, serves on"
    (lake / "adder/1").mkdir(parents=True)
    (lake / "adder/1/weights.json").write_text("[1]")
    live.until("its answers", lambda: ask(live)[2].get("files") == {"weights.json": "[1]"})
    assert live.settled(commit)["sync"] == "Synced"


ENVIRONMENTS = {
    "a package that cannot be resolved": ("{dependencies: [pip: [six==999.0]]}", "six==999.0"),
    "an interpreter that is not here": ("{dependencies: [python=3.6]}", "3.6"),
}


def test_an_environment_that_cannot_be_made_is_said_in_the_installers_words(live: System) -> None:
    for number, (what, (conda, words)) in enumerate(ENVIRONMENTS.items()):
        name = f"packages{number}"
        live.deployment(name, 2, count=1)
        path = live.work / f"endpoints/adder/deployments/{name}.yml"
        path.write_text(path.read_text().replace('image: "python:3.11"', f"image: x, conda_file: {conda}"))
        split(live, **{name: 100})
        commit = live.push(what)
        failed = live.until(what, lambda commit=commit: rollout_of(live, commit))
        assert words in failed["message"], failed["message"]
        shown = live.headgate("status", "adder", check=False)
        assert words in shown.stdout, shown.stdout
        assert deployments(live, 2) == {"blue": 2}
        live.until("its revert", lambda what=what: [s for s in live.log() if s.startswith(f'Revert "{what}')])
        live.pull()


def test_deployments_that_share_an_environment_build_it_once(live: System) -> None:
    for name in ("one", "two"):
        live.deployment(name, 2, count=1)
        path = live.work / f"endpoints/adder/deployments/{name}.yml"
        conda = "{dependencies: [pip: [iniconfig]]}"
        path.write_text(path.read_text().replace('image: "python:3.11"', f"image: x, conda_file: {conda}"))
    split(live, blue=100, one=0, two=0)
    live.settled(live.push("one environment, two deployments"))
    assert len(list((live.data / "environments").glob("*/headgate.json"))) == 1
    assert deployments(live, 2, {"azureml-model-deployment": "two"}) == {"two": 2}


# --- keys and secrets ------------------------------------------------------------------------------------------------


def test_a_rotation_refuses_no_request_with_the_other_key_and_then_the_old_one(live: System) -> None:
    secondary = live.api("/endpoints/adder/keys")["secondary"]
    old, live.key = live.key, secondary
    caller = live.caller(100)
    live.headgate("keys", "rotate", "adder")
    live.until("the old key is refused", lambda: ask(live, key=old)[0] == 401)
    assert caller.end().bad == []
    primary = live.api("/endpoints/adder/keys")["primary"]
    assert primary not in (old, secondary)
    live.until("the new key is taken", lambda: ask(live, key=primary)[0] == 200)


def test_no_secret_is_anywhere_but_in_its_own_file(live: System) -> None:
    keys = live.api("/endpoints/adder/keys")
    token = (live.data / "control.token").read_text().strip()
    secrets = {name: value.encode() for name, value in {**keys, "token": token}.items()}
    assert all(len(value) > 20 for value in secrets.values())
    leaks = [
        f"{name} in {file.relative_to(live.folder)}"
        for file in live.folder.rglob("*")
        if file.is_file() and file.name not in ("secrets.json", "control.token")
        for name, value in secrets.items()
        if value in file.read_bytes()
    ]
    for argv in Path("/proc").glob("[0-9]*/cmdline"):
        text = _read(argv)
        leaks += [f"{name} in the arguments of {argv.parent.name}" for name, value in secrets.items() if value in text]
    assert leaks == []
    private = [live.data / "secrets.json", live.data / "control.token", *live.data.rglob("command.json")]
    assert [file for file in private if stat.S_IMODE(file.stat().st_mode) != 0o600] == []


def _read(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError:  # the process ended
        return b""


# --- who gets what ---------------------------------------------------------------------------------------------------


def test_a_header_reaches_what_the_split_does_not(live: System) -> None:
    live.deployment("green", 2, offset=1, count=1)
    split(live, blue=100, green=0)
    live.settled(live.push("green beside it, at 0 %"))
    assert deployments(live) == {"blue": 20}
    assert deployments(live, 5, {"azureml-model-deployment": "green"}) == {"green": 5}
    revision = ask(live, {"azureml-model-deployment": "green"})[1]["headgate-revision"]
    assert ask(live, {"azureml-model-deployment": f"green@{revision}"})[1]["headgate-revision"] == revision
    assert ask(live, {"azureml-model-deployment": "green@0123456789abcdef"})[0] == 404
    assert ask(live, {"azureml-model-deployment": "grey"})[0] == 404


def test_an_endpoint_answers_by_host_name(live: System) -> None:
    assert ask(live, {"host": "adder.localhost"}, "/score")[0] == 200
    assert ask(live, {"host": "nobody.localhost"}, "/score")[0] == 404


def test_mirror_traffic_copies_requests_and_changes_no_answer(live: System) -> None:
    live.deployment("green", 2, offset=1, count=1)
    split(live, "mirror_traffic: {green: 50}\n", blue=100, green=0)
    live.settled(live.push("green gets copies"))
    caller = live.caller(100)
    live.until("copies", lambda: _sample(live, "headgate_router_mirrored_total", deployment="green") > 5)
    seen = caller.end()
    assert seen.bad == []
    assert len(seen.revisions) == 1


def test_drained_is_404_and_a_revert_serves_again(live: System) -> None:
    split(live, blue=0)
    live.push("drain it")
    live.until("drained", lambda: ask(live)[0] == 404)
    status, _, body = ask(live)
    assert (status, body["error"]["code"]) == (404, "no-deployment")
    live.settled(live.revert())
    assert deployments(live) == {"blue": 20}


def test_a_deployment_edited_in_place_is_two_revisions_of_one_name(live: System) -> None:
    before = ask(live)[1]["headgate-revision"]
    blue(live, 5)
    split(live, process=QUICK.replace("[100]", "[50, 100]").replace("soak: 0s", "soak: 10m"), blue=100)
    commit = live.push("blue: an offset")
    live.until(
        "half of it", lambda: [r["per_mille"] for r in live.endpoint()["revisions"] if r["per_mille"]] == [500, 500]
    )
    by_name = Counter(ask(live, {"azureml-model-deployment": "blue"})[1]["headgate-revision"] for _ in range(20))
    assert len(by_name) == 2
    assert min(by_name.values()) >= 4
    for revision in by_name:
        one = {ask(live, {"azureml-model-deployment": f"blue@{revision}"})[1]["headgate-revision"] for _ in range(5)}
        assert one == {revision}
    live.headgate("rollout", "promote", "adder", "--full", "--why", "seen enough")
    live.settled(commit)
    assert ask(live)[1]["headgate-revision"] != before
    assert "seen enough" in events(live, "operator.promote")[-1]["message"]


def blue(system: System, offset: int) -> None:
    """Edited in place. The caller gets answers of every blue there was."""
    system.deployment("blue", 2, offset=offset, count=1)
    system.models[f"blue adds {offset}"] = (2, offset)


def release(system: System, offset: int) -> str:
    """Blue with another offset, live."""
    blue(system, offset)
    commit = system.push(f"blue adds {offset}")
    system.settled(commit)
    return commit


def test_a_revert_is_at_once_and_a_revert_of_it_passes_the_gates_again(live: System) -> None:
    release(live, 6)
    started = len(events(live, "rollout.started"))
    revisions = [ask(live)[1]["headgate-revision"]]
    for rollouts in (0, 1):  # what was rolled away from has to prove itself again
        live.settled(live.revert())
        revisions.append(ask(live)[1]["headgate-revision"])
        assert len(events(live, "rollout.started")) == started + rollouts
    assert revisions[0] == revisions[2] != revisions[1]


# --- people ----------------------------------------------------------------------------------------------------------


def test_an_operator_rolls_back_and_the_commit_follows(live: System) -> None:
    release(live, 7)
    before, head = ask(live)[1]["headgate-revision"], live.log("%H")[0]
    live.headgate("rollback", "adder", "--why", "it smells")
    live.until("another revision", lambda: ask(live)[1]["headgate-revision"] != before)
    live.until("the commit", lambda: live.log("%H")[0] != head)
    assert "it smells" in "\n".join(live.log("%B")[:20])
    live.settled(live.log("%H")[0])
    live.pull()
    said = events(live, "operator.rollback")[-1]["message"]
    assert "it smells" in said
    assert "by " in said


def test_git_only_makes_the_commit_and_traffic_follows_from_it(live: System) -> None:
    there = ask(live)[1]["headgate-revision"]
    head = release(live, 8)
    live.headgate("rollback", "adder", "--git-only", "--to", there[:8])
    live.until("the commit", lambda: live.log("%H")[0] != head)
    live.settled(live.log("%H")[0])
    assert ask(live)[1]["headgate-revision"] == there
    live.pull()


def test_what_an_operator_cannot_do_is_refused_with_its_code(live: System) -> None:
    assert live.headgate("rollout", "pause", "adder", check=False).returncode == 1
    assert live.headgate("rollout", "abort", "nobody", check=False).returncode == 3
    refused = live.headgate("rollback", "adder", "--to", "0123456789", check=False)
    assert refused.returncode == 1
    assert "no known-good state" in refused.stderr


# --- git -------------------------------------------------------------------------------------------------------------


def fail(system: System, name: str, on_failure: str) -> str:
    """Commits a deployment that cannot start; answers once its rollout has failed."""
    system.deployment(name, 2, count=1, score=RAISES)
    split(system, process=QUICK + f"on_failure: {on_failure}\n", **{name: 100})
    commit = system.push(f"{name} is broken")
    system.until(name, lambda: rollout_of(system, commit))
    return commit


def branches(system: System) -> list[str]:
    return system._git(system.origin, "branch", "--format=%(refname:short)", "--list", "headgate/*").split()


def test_hold_leaves_git_to_people(live: System) -> None:
    commit = fail(live, "held", "hold")
    assert ask(live)[1]["azureml-model-deployment"] == "blue"
    time.sleep(1)
    assert live.log("%H")[0] == commit
    assert branches(live) == []
    assert live.headgate("status", "adder", check=False).returncode == 4
    live.settled(live.revert())


def test_revert_pr_makes_a_branch_and_leaves_main_alone(live: System) -> None:
    commit = fail(live, "proposed", "revert-pr")
    (branch,) = live.until("the branch", lambda: branches(live))
    assert branch.startswith("headgate/revert-")
    assert live.log("%H")[0] == commit
    assert live.until("said", lambda: rollout_of(live, commit)["reverted_by"] or None) == branch  # type: ignore[index]
    live._git(live.work, "fetch", "-q")
    live._git(live.work, "merge", "-q", "--ff-only", f"origin/{branch}")
    live._git(live.work, "push", "-q", "origin", "main", f":{branch}")
    live.settled(live.log("%H")[0])
    assert ask(live)[0] == 200


def test_a_protected_branch_gets_no_push_and_a_finding_says_where_the_revert_is(live: System) -> None:
    hook = live.origin / "hooks/pre-receive"
    hook.write_text(
        '#!/bin/sh\nwhile read old new ref; do case "$ref:$HUMAN" in refs/heads/main:) exit 1;; esac; done\n'
    )
    hook.chmod(0o755)
    os.environ["HUMAN"] = "1"
    try:
        commit = fail(live, "protected", "revert")
        (branch,) = live.until("the branch", lambda: branches(live))
        found = live.until("the finding", lambda: live.endpoint()["findings"])
        assert "revert-on-branch" in [f["code"] for f in found]
        assert branch in str(found)
        assert live.log("%H")[0] == commit
        live.settled(live.revert())
    finally:
        del os.environ["HUMAN"]
        hook.unlink()
    live._git(live.work, "push", "-q", "origin", f":{branch}")


def test_a_force_push_back_is_taken_up_when_it_is_accepted(live: System) -> None:
    before = live.log("%H")[0]
    live.deployment("green", 2, offset=9, count=1)
    split(live, green=100)
    live.settled(live.push("green, to be taken away"))
    live._git(live.work, "reset", "-q", "--hard", before)
    live._git(live.work, "push", "-qf", "origin", "main")
    (finding,) = live.until("the finding", lambda: live.api("/status")["findings"])
    assert finding["code"] == "history-rewritten"
    assert deployments(live, 5) == {"green": 5}
    live.headgate("sync", "--accept", before)
    live.until("blue", lambda: deployments(live, 2) == {"blue": 2})
    live.until("no finding", lambda: not live.api("/status")["findings"])


def test_a_commit_to_one_endpoint_starts_nothing_for_another(live: System) -> None:
    for file in (live.work / "endpoints/adder").rglob("*.*"):
        if file.is_file() and ("blue" in str(file) or file.parent.name in ("adder", "deployments")):
            text = file.read_text().replace("adder", "other")
            live.write(str(file.relative_to(live.work)).replace("/adder/", "/other/"), text)
    commit = live.push("another endpoint")
    live.until("it serves", lambda: live.api("/endpoints/other").get("commit") == commit)
    live.until("it is done", lambda: events(live, "workflow.closed", "other"))
    before = live.api("/events?endpoint=other&limit=5000")["events"]
    live.deployment("green", 2, offset=10, count=1)
    split(live, green=100)
    live.settled(live.push("green, of the first one"))
    assert live.api("/events?endpoint=other&limit=5000")["events"] == before


def test_a_broken_headgate_yml_stops_nothing_that_serves(live: System) -> None:
    good = (live.work / "headgate.yml").read_text()
    live.write("headgate.yml", "catalogue: [models\n")
    live.push("broken settings")
    found = live.until("the finding", lambda: live.api("/status")["findings"])
    assert found[0]["place"]["file"] == "headgate.yml"
    assert "headgate.yml:" in live.headgate("status").stdout
    live.write("headgate.yml", good)
    again = live.push("settings again")
    live.until("taken up", lambda: live.api("/status")["handled"] == again)
    assert not live.api("/status")["findings"]


# --- what is measured ------------------------------------------------------------------------------------------------


def _metrics(url: str, headers: Mapping[str, str] | None = None) -> dict[str, Any]:
    where = urlsplit(url)
    connection = http.client.HTTPConnection(where.hostname or "", where.port or 0, timeout=30)
    try:
        connection.request("GET", "/metrics", headers=dict(headers or {}))
        text = connection.getresponse().read().decode()
    finally:
        connection.close()
    return {family.name: family for family in text_string_to_metric_families(text)}


def _sample(system: System, name: str, **labels: str) -> float:
    """Of whichever worker answers."""
    families = _metrics(system.url).values()
    found = [s for f in families for s in f.samples if s.name == name]
    return sum(s.value for s in found if labels.items() <= s.labels.items())


def test_metrics_are_prometheus_text_with_the_documented_names(live: System) -> None:
    page = (Path(__file__).parents[2] / "docs/router.md").read_text().partition("## Metrics")[2].partition("\n## ")[0]
    cells = [line.split("|")[1] for line in page.splitlines() if line.startswith("| `")]
    names = [name.removesuffix("_total") for cell in cells for name in cell.split("`")[1::2]]
    assert len(names) > 10
    caller = live.caller(200)
    live.until("counted", lambda: _sample(live, "headgate_router_requests_total", deployment="blue", code="200") > 10)
    caller.end()
    shown = _metrics(live.url)
    assert [name for name in names if f"headgate_router_{name}" not in shown] == []
    control = _metrics(json.loads((live.data / "control.json").read_text())["url"])
    assert control["headgate_rollout_weight"].samples
    assert control["headgate_drift"].samples[0].value == 0
    passes = {s.name: s.value for s in control["headgate_reconcile_seconds"].samples}
    assert passes["headgate_reconcile_seconds_count"] > 0
    states = {s.labels["endpoint"]: s.labels["state"] for s in control["headgate_endpoint_state"].samples}
    assert states["adder"] == "Healthy"


def _spans(system: System) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (system.folder / "traces.jsonl").read_text().splitlines()]


def _roots(system: System) -> dict[str, str]:
    """Trace -> rollout. Exported every five seconds."""
    whole = [span for span in _spans(system) if not span["parent_id"]]
    return {span["context"]["trace_id"]: span["attributes"]["headgate.rollout"] for span in whole}


def test_each_rollout_is_one_trace_with_a_span_per_op(live: System) -> None:
    started = {e["rollout"] for e in events(live, "rollout.started")}
    spans = live.until("every trace", lambda: _spans(live) if started <= set(_roots(live).values()) else None)
    roots = _roots(live)
    for trace_id in roots:
        ops = [s["name"] for s in spans if s["context"]["trace_id"] == trace_id and s["parent_id"]]
        assert ops[0] == "build"
        assert len(ops) == len(set(ops))


def test_all_the_time_every_answer_was_right_and_git_record_table_and_counters_agreed(
    live: System, drifts: Drifts, calls: list[Any]
) -> None:
    seen = calls[0].end()
    drifts.end()
    assert [bad for bad in seen.bad if "no-deployment" not in bad] == []  # one test drains the endpoint
    assert seen.ok > 500
    assert drifts.looks > 50
    assert dict(drifts.seen) == {}
