"""`kubectl headgate …`: our command line against the controller of a namespace.

Reads the control token from its Secret and opens a port-forward, both with the caller's own rights and kubectl; what
follows the namespace is a command of `headgate`. Nothing is written to disk, nothing secret is an argument.
"""

from __future__ import annotations

import base64
import binascii
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager

from headgate.findings import Finding, FindingsError, Place
from headgate_console.exits import Exit

SECRET, CONTROLLER, ROUTER = "headgate-control", "svc/headgate-controller", "svc/headgate-router"
FORWARDED = re.compile(r"Forwarding from 127\.0\.0\.1:(\d+) -> ")
OURS = ("-n", "--namespace", "--context", "--kubeconfig")  # told to kubectl; each with a value
CALLS = ("invoke",)  # verbs that call an endpoint as well
HERE = ("doctor",)  # verbs that read the cluster themselves
AGAIN_S = 0.5  # between a forward that ended and the next
END_S = 2.0  # for the last of what it prints
USAGE = "kubectl headgate [-n NAMESPACE] [--context NAME] [--kubeconfig FILE] COMMAND …: see `headgate --help`"


def main() -> None:
    from headgate_console import start

    start.heard()
    try:
        sys.exit(run(sys.argv[1:]))
    except KeyboardInterrupt:
        sys.exit(Exit.INTERRUPTED)


def run(argv: Sequence[str]) -> int:
    kubectl, command = split(argv)
    from headgate_console import main as root

    if not command or command[0] in ("-h", "--help"):
        print(USAGE, file=sys.stderr)
        return root.run(["--help"]) if command else Exit.USAGE
    with ExitStack() as stack:
        try:
            if command[0] in HERE:
                command = [*command, *_told_on(kubectl)]
            os.environ["HEADGATE_TOKEN"] = token(kubectl)
            os.environ["HEADGATE_CONTROL"] = stack.enter_context(forward(kubectl, CONTROLLER, "7070"))
            if command[0] in CALLS:
                os.environ["HEADGATE_ROUTER"] = stack.enter_context(forward(kubectl, ROUTER, "http"))
        except FindingsError as error:
            print(error, file=sys.stderr)
            if command[0] not in HERE:
                return Exit.REFUSED
        return root.run(command)


def split(argv: Sequence[str]) -> tuple[list[str], list[str]]:
    """What is kubectl's, which comes first, and our command."""
    kubectl: list[str] = []
    rest = list(argv)
    while rest and (rest[0] in OURS or rest[0].partition("=")[0] in OURS):
        kubectl.append(rest.pop(0))
        if "=" not in kubectl[-1] and rest:
            kubectl.append(rest.pop(0))
    return kubectl, rest


def _told_on(kubectl: Sequence[str]) -> list[str]:
    """`doctor` knows the namespace and reads $KUBECONFIG."""
    pairs = dict(zip(kubectl[::2], kubectl[1::2], strict=False)) if not any("=" in k for k in kubectl) else {}
    if "--kubeconfig" in pairs:
        os.environ["KUBECONFIG"] = pairs["--kubeconfig"]
    namespace = pairs.get("-n") or pairs.get("--namespace")
    return ["--namespace", namespace] if namespace else []


def token(kubectl: Sequence[str]) -> str:
    """Raises FindingsError."""
    command = ["kubectl", *kubectl, "get", "secret", SECRET, "-o", "jsonpath={.data.token}"]
    try:
        asked = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise _cannot("kubectl cannot be run", str(error)) from error
    try:
        found = base64.b64decode(asked.stdout, validate=True).decode().strip() if not asked.returncode else ""
    except (binascii.Error, UnicodeDecodeError):
        found = ""
    if not found:
        raise _cannot(f"the Secret {SECRET} cannot be read", asked.stderr.strip() or "it has no key `token`", kubectl)
    return found


@contextmanager
def forward(kubectl: Sequence[str], service: str, port: str) -> Iterator[str]:
    """A URL on this machine that leads to a Service, as long as the context lasts. Raises FindingsError."""
    way = Forward([*kubectl], service, port)
    try:
        yield f"http://127.0.0.1:{way.local}"
    finally:
        way.close()


class Forward:
    """A port-forward that is made again, on the same local port, when it ends: it leads to one pod, and a watch goes on
    when another takes its place. What it prints is read all the while; with a full pipe it would pass nothing on."""

    def __init__(self, kubectl: list[str], service: str, port: str) -> None:
        """Raises FindingsError: there is no way to the service now."""
        self._command = ["kubectl", *kubectl, "port-forward", "--address", "127.0.0.1", service]
        self._port = port
        self._closing = threading.Event()
        self._turn = threading.Lock()  # one start or one end at a time
        self.local = ""
        said = []
        self._process = self._start()
        assert self._process.stdout is not None
        for line in self._process.stdout:
            said.append(line.strip())
            if found := FORWARDED.match(line):
                self.local = found[1]
                break
        else:
            self._process.stdout.close()
            self._process.wait()
            raise _cannot(f"no way to {service}", " ".join(said) or "kubectl port-forward ended")
        self._keeper = threading.Thread(target=self._keep, name="port-forward", daemon=True)
        self._keeper.start()

    def _start(self) -> subprocess.Popen[str]:
        command = [*self._command, f"{self.local}:{self._port}"]
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)

    def _keep(self) -> None:
        while True:
            process = self._process
            with process:
                for _ in process.stdout or ():
                    continue
            if self._closing.wait(AGAIN_S):
                return
            with self._turn:
                if self._closing.is_set():
                    return
                self._process = self._start()

    def close(self) -> None:
        with self._turn:
            self._closing.set()
            self._process.terminate()
        self._process.wait()
        self._keeper.join(END_S)


def _cannot(message: str, why: str, kubectl: Sequence[str] = ()) -> FindingsError:
    fix = "check the namespace and your rights: `kubectl headgate -n NAMESPACE doctor` lists what is there"
    if not any(word.partition("=")[0] in ("-n", "--namespace") for word in kubectl):
        fix = f"say where Headgate is installed: `kubectl headgate -n NAMESPACE …`. Else {fix}"
    return FindingsError(Finding("no-cluster-access", message, why, fix, Place("kubectl headgate")))
