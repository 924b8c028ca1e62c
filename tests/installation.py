"""Headgate installed on a real cluster, with an endpoints repo beside it: the world of the tests in e2e/cluster.

Drives `kubectl`, `helm` and `git` as a person does. Makes a namespace of its own and leaves none.
"""

from __future__ import annotations

import base64
import http.client
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from headgate_kit.kube import Kind

ROOT = Path(__file__).resolve().parents[1]
IMAGES = ROOT / "dist" / "images.json"
PARTS = ("router", "runner", "controller")  # of the chart, with images of their own
POOL = os.environ.get("HEADGATE_E2E_POOL", "")  # value of headgate.dev/pool of the nodes to use; empty: any
CLAIMS = os.environ.get("HEADGATE_E2E_CLAIMS") == "1"  # this cluster binds volume claims
GPU_POOL = os.environ.get("HEADGATE_E2E_GPU_POOL", "gpu")
REGISTRY = os.environ.get("HEADGATE_E2E_REGISTRY", "")
RUNNER = os.environ.get("HEADGATE_E2E_RUNNER", "")
NAMESPACE = Kind("v1", "Namespace", "namespaces", namespaced=False)
FORWARDED = re.compile(r"Forwarding from 127\.0\.0\.1:(\d+) -> ")
SCORE = """
import json, os

def init():
    global word
    word = os.environ.get("WORD", "hello")

def run(data):
    return {"said": word, "to": json.loads(data)["name"]}
"""
GIT = (
    "git init -q --bare -b main /srv/endpoints.git && "
    "exec git daemon --reuseaddr --base-path=/srv --export-all --enable=receive-pack --port=9418 /srv"
)


def helm() -> str | None:
    return os.environ.get("HELM") or shutil.which("helm")


def needs(*variables: str) -> pytest.MarkDecorator:
    """Skips where there is no cluster, or one of these variables does not say what is needed besides."""
    wanted = ("KUBECONFIG", *variables)
    there = os.environ.get("HEADGATE_E2E") == "cluster" and all(os.environ.get(name) for name in wanted)
    reason = f"a real cluster is needed: set {', '.join(('HEADGATE_E2E=cluster', *wanted))}"
    return pytest.mark.skipif(not there, reason=reason)


def missing() -> str:
    """What is not there for an installation; empty: it can be tried."""
    lacks = []
    if os.environ.get("HEADGATE_E2E") != "cluster" or not os.environ.get("KUBECONFIG"):
        lacks.append("HEADGATE_E2E=cluster and KUBECONFIG")
    if not shutil.which("kubectl") or not helm():
        lacks.append("kubectl and helm on the PATH")
    if not IMAGES.exists():
        lacks.append("dist/images.json (`make images PUSH=1`)")
    if not REGISTRY:
        lacks.append("HEADGATE_E2E_REGISTRY")
    return "a real cluster is needed: give " + ", ".join(lacks) if lacks else ""


def within(seconds: float, condition: Callable[[], Any], what: str) -> Any:
    """The first truth the condition answers. Polls; says what it waited for."""
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, f"{what}: not within {seconds:g} s"
        time.sleep(0.2)
    return found


class Installation:
    """Headgate in a namespace of its own, an endpoints repo that a pod serves, and somebody who pushes to it."""

    def __init__(self, folder: Path, stack: ExitStack, namespace: str = "") -> None:
        self.namespace = namespace or f"hg-install-{uuid.uuid4().hex[:6]}"
        self.folder = folder
        self.work = folder / "endpoints"
        self.images: Mapping[str, Mapping[str, str]] = json.loads(IMAGES.read_text())
        self.figures: dict[str, float] = {}
        self._stack = stack

    def note(self, what: str, value: float) -> None:
        """A figure for whoever reads the run."""
        self.figures[what] = value
        print(f"\n{what}: {value:.1f}")

    # --- tools ----------------------------------------------------------------------------------------------------

    def kubectl(self, *arguments: str, stdin: str = "", check: bool = True) -> str:
        command = ["kubectl", "-n", self.namespace, *arguments]
        done = subprocess.run(command, input=stdin, capture_output=True, text=True, timeout=120, check=False)
        assert not check or done.returncode == 0, f"kubectl {' '.join(arguments)}: {done.stderr}"
        return done.stdout

    def get(self, kind: str, name: str = "", selector: str = "") -> Any:
        words = [kind, *([name] if name else []), *(["-l", selector] if selector else []), "-o", "json"]
        text = self.kubectl("get", *words, check=False)
        return json.loads(text) if text else None

    def headgate(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """`kubectl headgate`, as a person types it."""
        program = Path(sys.executable).with_name("kubectl-headgate")
        command = [str(program), "-n", self.namespace, *arguments]
        return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)

    def git(self, *arguments: str) -> str:
        who = ("-c", "user.name=Ada", "-c", "user.email=ada@example.org")
        done = subprocess.run(["git", *who, *arguments], cwd=self.work, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    @contextmanager
    def forward(self, service: str, port: str) -> Iterator[int]:
        command = ["kubectl", "-n", self.namespace, "port-forward", "--address", "127.0.0.1", service, f":{port}"]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        try:
            assert process.stdout is not None
            found = next((m for line in process.stdout if (m := FORWARDED.match(line))), None)
            assert found is not None, f"no way to {service}"
            yield int(found[1])
        finally:
            process.terminate()
            process.wait()
            assert process.stdout is not None
            process.stdout.close()

    def door(self, service: str, port: int) -> str:
        """A Service's URL from here: its own address where this machine reaches it, else a forwarded port."""
        address = self.get("service", service)["spec"]["clusterIP"]
        with suppress(OSError), socket.create_connection((address, port), timeout=2):
            return f"http://{address}:{port}"
        return f"http://127.0.0.1:{self._stack.enter_context(self.forward(f'svc/{service}', str(port)))}"

    # --- the namespace --------------------------------------------------------------------------------------------

    def prepare(self) -> None:
        """Namespace, definitions, a git server with an empty repo."""
        subprocess.run(["kubectl", "create", "namespace", self.namespace], check=True, capture_output=True)
        self._stack.callback(self.remove)
        subprocess.run(
            ["kubectl", "apply", "--server-side", "-f", str(ROOT / "install/crds")], check=True, capture_output=True
        )
        within(60, lambda: self.get("serviceaccount", "default"), "the namespace has its account")
        self.kubectl("apply", "-f", "-", stdin=json.dumps(self._git_server()))
        self.kubectl("wait", "--for=condition=Ready", "pod/git", "--timeout=90s")
        self.work.mkdir(parents=True)
        self.git("init", "-q", "-b", "main")
        port = self._stack.enter_context(self.forward("pod/git", "9418"))
        self.git("remote", "add", "origin", f"git://127.0.0.1:{port}/endpoints.git")

    def _git_server(self) -> dict[str, Any]:
        security = {"runAsNonRoot": True, "runAsUser": 10001, "seccompProfile": {"type": "RuntimeDefault"}}
        container = {
            "name": "git",
            "image": self.images["controller"]["image"],
            "command": ["sh", "-c", GIT],
            "env": [{"name": "HOME", "value": "/srv"}],
            "volumeMounts": [{"name": "srv", "mountPath": "/srv"}],
            "readinessProbe": {"tcpSocket": {"port": 9418}, "periodSeconds": 1},
        }
        spec = {"containers": [container], "volumes": [{"name": "srv", "emptyDir": {}}], "securityContext": security}
        if POOL:
            spec["nodeSelector"] = {"headgate.dev/pool": POOL}
        pod = {"kind": "Pod", "apiVersion": "v1", "metadata": {"name": "git", "labels": {"app": "git"}}, "spec": spec}
        ports = [{"port": 9418}]
        service = {"selector": {"app": "git"}, "ports": ports}
        return {
            "kind": "List",
            "apiVersion": "v1",
            "items": [pod, {"kind": "Service", "apiVersion": "v1", "metadata": {"name": "git"}, "spec": service}],
        }

    def helm(self, *arguments: str) -> str:
        program = helm()
        assert program is not None
        command = [program, "-n", self.namespace, *arguments]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def install(self, **sets: str) -> None:
        values = {
            "repo.url": f"git://git.{self.namespace}:9418/endpoints.git",
            "registry.url": f"{REGISTRY}/{self.namespace}",
            "registry.insecure": "true",
            "registry.address": self.registry_address(),
            "controller.persistence.enabled": str(CLAIMS).lower(),
            "controller.persistence.size": "100Mi",
            "builds.memory": "512Mi",
            "builds.cpus": "50m",
            "controller.resources.requests.cpu": "20m",  # small nodes are enough, and others may be there too
            "router.resources.requests.cpu": "20m",
            "router.drainSeconds": "2",
            **{f"{part}.image.repository": self._name(part) for part in PARTS},
            **{f"{part}.image.digest": self.images[part]["digest"] for part in PARTS},
            **({f"{part}.nodeSelector.headgate\\.dev/pool": POOL for part in ("controller", "router")} if POOL else {}),
            **({"builds.nodePool": POOL} if POOL else {}),
            **sets,
        }
        words = [
            word
            for key, value in values.items()
            for word in ("--set-string" if "digest" in key else "--set", f"{key}={value}")
        ]
        self.helm("upgrade", "--install", "headgate", str(ROOT / "install/chart"), *words)

    def _name(self, part: str) -> str:
        return self.images[part]["image"].partition("@")[0]

    def registry_address(self) -> str:
        """A registry on this machine's loopback is not reached from pods: then a forwarder stands for it."""
        host, _, port = REGISTRY.partition("/")[0].partition(":")
        if host not in ("127.0.0.1", "localhost"):
            return ""
        node = self.get("nodes")["items"][0]
        address = next(a["address"] for a in node["status"]["addresses"] if a["type"] == "InternalIP")
        return f"{address}:{self._stack.enter_context(forwarder(address, host, int(port or 80)))}"

    def remove(self) -> None:
        subprocess.run(
            ["kubectl", "delete", "namespace", self.namespace, "--wait=false"], capture_output=True, check=False
        )
        subprocess.run(
            ["kubectl", "delete", "clusterrole,clusterrolebinding", f"headgate-nodes-{self.namespace}"],
            capture_output=True,
            check=False,
        )

    # --- an endpoints repo ----------------------------------------------------------------------------------------

    def write(self, word: str = "hello", deployment: str = "blue") -> None:
        folder = self.work / "endpoints" / "greet"
        texts = {
            "endpoint.yml": f"name: greet\nauth_mode: key\ntraffic: {{{deployment}: 100}}\n",
            f"deployments/{deployment}.yml": (
                f"name: {deployment}\nmodel: {{path: ../model}}\n"
                "code_configuration: {code: ../code, scoring_script: score.py}\n"
                "environment: {conda_file: ../code/conda.yml}\n"
                f"environment_variables: {{WORD: {word}}}\ninstance_type: small\ninstance_count: 1\n"
            ),
            "deployments/sample-request.json": '{"name": "ada"}\n',
            "rollout.yml": "mirror: {percent: 0}\nsteps: [50, 100]\nsoak: 1s\nmax_soak: 3m\ngates: {error-rate: {}}\n",
            "code/score.py": SCORE,
            "code/conda.yml": "dependencies: [python]\n",
            "model/weights.txt": "1\n",
        }
        for name, text in texts.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(text)
        pool = f", node_pool: {POOL}" if POOL else ""
        (self.work / "headgate.yml").write_text(f"instance_types:\n  small: {{cpus: 0.1, memory_gb: 0.25{pool}}}\n")

    def push(self, message: str) -> str:
        self.git("add", "-A")
        self.git("commit", "-q", "-m", message)
        self.git("push", "-q", "origin", "HEAD:main")
        return self.git("rev-parse", "HEAD")

    # --- callers --------------------------------------------------------------------------------------------------

    def key(self, endpoint: str = "greet") -> str:
        found = self.headgate("keys", "show", endpoint, "-o", "json")
        return str(json.loads(found.stdout)["primary"]) if found.returncode == 0 else ""

    def token(self) -> str:
        secret = self.get("secret", "headgate-control")
        return base64.b64decode(secret["data"]["token"]).decode() if secret else ""

    def say(self) -> str:
        """What was happening, for whoever reads that a test failed."""
        parts = []
        for words in (
            ("get", "all,onlineendpoints,endpointrollouts", "-o", "wide"),
            ("get", "events", "--sort-by=.lastTimestamp"),
            ("logs", "deployment/headgate-controller", "--tail=60"),
            ("logs", "deployment/headgate-router", "--tail=20"),
        ):
            with suppress(subprocess.SubprocessError):
                parts.append(f"$ kubectl {' '.join(words)}\n{self.kubectl(*words, check=False)}")
        return "\n".join(parts)


PATH, BODY = "/endpoints/greet/score", b'{"name": "ada"}'


def ask(port: int, key: str, host: str = "127.0.0.1") -> tuple[int, bytes]:
    """(0, b""): nobody answered."""
    connection = http.client.HTTPConnection(host, port, timeout=10)
    try:
        headers = {"Content-Type": "application/json", "Authorization": f"Bearer {key}"}
        connection.request("POST", PATH, BODY, headers)
        answer = connection.getresponse()
        return answer.status, answer.read()
    except (OSError, http.client.HTTPException):
        return 0, b""
    finally:
        connection.close()


# Calls the router's Service by its name, a new connection every 20 requests. What came back is its termination message,
# which the API server keeps whatever becomes of its node.
# A connection that is refused or ends before an answer is asked again on a new one, and counted: any client does so.
CALLER = """
import collections, http.client, json, os, pathlib, signal, time
seen, again, failures, going = collections.Counter(), 0, [], [True]
signal.signal(signal.SIGTERM, lambda *_: going.clear())
doors = list(json.loads(os.environ["KEYS"]).items())
connection, used, tries, calls = None, 0, 0, 0
while going:
    name, key = doors[calls % len(doors)]
    headers = {"Content-Type": "application/json", "Authorization": "Bearer " + key}
    try:
        if connection is None or used >= 20:
            connection, used = http.client.HTTPConnection(os.environ["ROUTER"], timeout=10), 0
        connection.request("POST", f"/endpoints/{name}/score", b'{"name": "ada"}', headers)
        answer = connection.getresponse()
        said = answer.read()
        seen[answer.status] += 1
        if answer.status != 200:
            failures = [*failures, f"{time.time():.1f} {name} {answer.status} {said[:200]}"][:10]
        used, tries, calls = used + 1, 0, calls + 1
        if answer.will_close:
            connection = None
    except (OSError, http.client.HTTPException) as error:
        closed = isinstance(error, (http.client.RemoteDisconnected, ConnectionResetError, BrokenPipeError))
        connection, idle = None, used > 0
        if tries < 5 and (closed or isinstance(error, ConnectionRefusedError)):
            tries += 1
            if not (idle and tries == 1):  # one that lay idle may be closed at any time
                again += 1
                time.sleep(0.05 * tries)
            continue
        failures = [*failures, f"{time.time():.1f} {name} {error!r:.200}"][:10]
        seen[0] += 1
        tries, calls = 0, calls + 1
    time.sleep(0.02)
told = json.dumps({"seen": seen, "again": again, "failures": failures})
pathlib.Path("/dev/termination-log").write_text(told)
"""


class Recorder:
    """A caller in a pod of its own, who calls `greet`, or those of whom keys are given in turn."""

    def __init__(self, world: Installation, key: str | Mapping[str, str]) -> None:
        self._world = world
        self._keys = {"greet": key} if isinstance(key, str) else dict(key)
        self._name = f"caller-{uuid.uuid4().hex[:6]}"
        self.again = 0  # connections that had to be made anew for the same request

    def start(self) -> None:
        container = {
            "name": "caller",
            "image": self._world.images["controller"]["image"],
            "command": ["python", "-c", CALLER],
            "env": [
                {"name": "KEYS", "value": json.dumps(self._keys)},
                {"name": "ROUTER", "value": f"headgate-router.{self._world.namespace}"},
            ],
        }
        spec: dict[str, Any] = {"restartPolicy": "Never", "containers": [container]}
        if POOL:
            spec["nodeSelector"] = {"headgate.dev/pool": POOL}
        pod = {"kind": "Pod", "apiVersion": "v1", "metadata": {"name": self._name}, "spec": spec}
        self._world.kubectl("apply", "-f", "-", stdin=json.dumps(pod))
        self._world.kubectl("wait", "--for=condition=Ready", f"pod/{self._name}", "--timeout=60s")

    def _told(self) -> bool:
        words = ["kubectl", "-n", self._world.namespace, "exec", self._name, "--", "sh", "-c", "kill -TERM 1"]
        return subprocess.run(words, capture_output=True, timeout=60, check=False).returncode == 0

    def stop(self) -> dict[int, int]:
        """Answers by status; 0: there was none."""
        within(60, self._told, "the caller is told to end")  # a kubelet that was just started knows no pods yet
        self._world.kubectl(
            "wait", "--for=jsonpath={.status.phase}=Succeeded", f"pod/{self._name}", "--timeout=60s", check=False
        )
        status = self._world.get("pod", self._name)["status"]["containerStatuses"][0]["state"]
        self._world.kubectl("delete", "pod", self._name, "--wait=false")
        told = json.loads(status["terminated"]["message"])
        for failure in told["failures"]:
            print("FAILED", failure)
        self.again = told["again"]
        return {int(code): count for code, count in told["seen"].items()}


@contextmanager
def forwarder(address: str, host: str, port: int) -> Iterator[int]:
    """A port of an address of this machine that leads to one on its loopback."""

    def pipe(source: socket.socket, sink: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(65_536):
                sink.sendall(data)
        with suppress(OSError):
            sink.shutdown(socket.SHUT_WR)

    def lead(caller: socket.socket) -> None:
        with caller, suppress(OSError), socket.create_connection((host, port)) as called:
            back = threading.Thread(target=pipe, args=(called, caller), daemon=True)
            back.start()
            pipe(caller, called)
            back.join()

    def accept(listening: socket.socket) -> None:
        with suppress(OSError):
            while True:
                threading.Thread(target=lead, args=(listening.accept()[0],), daemon=True).start()

    with socket.create_server((address, 0)) as listening:
        threading.Thread(target=accept, args=(listening,), daemon=True).start()
        yield int(listening.getsockname()[1])
