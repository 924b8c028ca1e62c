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
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager

from headgate.findings import Finding, FindingsError, Place
from headgate_console.exits import Exit

SECRET, CONTROLLER, ROUTER = "headgate-control", "svc/headgate-controller", "svc/headgate-router"
FORWARDED = re.compile(r"Forwarding from 127\.0\.0\.1:(\d+) -> ")
OURS = ("-n", "--namespace", "--context", "--kubeconfig")  # told to kubectl; each with a value
CALLS = ("invoke",)  # verbs that call an endpoint as well
HERE = ("doctor",)  # verbs that read the cluster themselves
USAGE = "kubectl headgate [-n NAMESPACE] [--context NAME] [--kubeconfig FILE] COMMAND …: see `headgate --help`"


def main() -> None:
    sys.exit(run(sys.argv[1:]))


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
        raise _cannot(f"the Secret {SECRET} cannot be read", asked.stderr.strip() or "it has no key `token`")
    return found


@contextmanager
def forward(kubectl: Sequence[str], service: str, port: str) -> Iterator[str]:
    """A URL on this machine that leads to a Service, as long as the context lasts. Raises FindingsError."""
    command = ["kubectl", *kubectl, "port-forward", "--address", "127.0.0.1", service, f":{port}"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        assert process.stdout is not None
        said = []
        for line in process.stdout:
            said.append(line.strip())
            if found := FORWARDED.match(line):
                break
        else:
            raise _cannot(f"no way to {service}", " ".join(said) or "kubectl port-forward ended")
        yield f"http://127.0.0.1:{found[1]}"
    finally:
        process.terminate()
        process.wait()
        if process.stdout is not None:
            process.stdout.close()


def _cannot(message: str, why: str) -> FindingsError:
    fix = "check the namespace (-n) and your rights: `kubectl headgate doctor` lists what is there"
    return FindingsError(Finding("no-cluster-access", message, why, fix, Place("kubectl headgate")))
