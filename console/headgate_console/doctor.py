"""`headgate doctor`: looks at this machine, at the controller and at the cluster, and says what has to be done."""

from __future__ import annotations

import os
from collections.abc import Iterator

import click

from headgate import codec
from headgate.findings import FindingsError, HeadgateError
from headgate_console import checkup, options
from headgate_console.checkup import FAIL, OK, SKIP, WARN, Check
from headgate_console.connect import open_control
from headgate_console.exits import Exit
from headgate_console.print import API_VERSION

MARKS = {OK: ("✔", "green"), WARN: ("!", "yellow"), FAIL: ("✖", "red"), SKIP: ("-", "bright_black")}


@options.verb()
@click.option("-n", "--namespace", default="", metavar="NAME", help="Of the installation. Default: the context's own.")
@click.option("--cluster/--no-cluster", default=None, help="Look at a cluster. Default: when $KUBECONFIG is set.")
@options.output("table", "json", "yaml")
@options.data()
def doctor(namespace: str, cluster: bool | None, output: str, data: str | None) -> Exit:
    """Find out what is wrong: git, the controller, and in a cluster rights, images, registry, node pools, Argo.

    Ends with 1 when something has to be done.
    """
    asked = bool(os.environ.get("KUBECONFIG") or os.environ.get("KUBERNETES_SERVICE_HOST") or namespace)
    checks = [
        *checkup.machine(),
        *_controller(data),
        *(_cluster(namespace) if cluster or (cluster is None and asked) else ()),
    ]
    document = {"apiVersion": API_VERSION, "kind": "Checkup", "items": codec.to_data(checks)}
    options.emit(document, output, lambda: _lines(checks))
    return Exit.REFUSED if any(check.state == FAIL for check in checks) else Exit.OK


def _controller(data: str | None) -> Iterator[Check]:
    try:
        found = open_control(data).system()
    except FindingsError as error:
        first = error.findings[0]
        near = first.code == "no-data-folder"
        yield Check("controller", SKIP if near else FAIL, first.message, "" if near else first.fix)
        return
    count = len(found.endpoints)
    yield Check("controller", OK, f"Headgate {found.version}, {count} endpoint{'s' if count != 1 else ''}")
    if found.repo_error:
        yield Check("repo", FAIL, found.repo_error, "see the finding; the last good state serves on")
    else:
        yield Check("repo", OK, f"{found.repo} at {found.commit[:10] or 'no commit yet'}")
    lost = [w.worker for w in found.workers if w.lost]
    alive = len(found.workers) - len(lost)
    yield Check(
        "router workers", OK if alive else FAIL, f"{alive} answer" + (f"; gone: {', '.join(lost)}" if lost else "")
    )
    for line in found.drift:
        yield Check("drift", WARN, line)


def _cluster(namespace: str) -> Iterator[Check]:
    try:
        from headgate_kit.kube import Cluster
    except ImportError:
        yield Check("cluster", SKIP, "the package kubernetes is not installed", "pip install 'headgate[cluster]'")
        return
    try:
        found = Cluster.connect(namespace)
        yield Check("cluster", OK, f"Kubernetes {found.version()}, namespace {found.namespace}")
        yield from checkup.cluster(found, checkup.told(found))
        found.close()
    except HeadgateError as error:
        yield Check("cluster", FAIL, str(error), "check $KUBECONFIG and the network")


def _lines(checks: list[Check]) -> Iterator[str]:
    width = max(len(check.name) for check in checks)
    for check in checks:
        mark, colour = MARKS[check.state]
        yield f"{click.style(mark, fg=colour)} {check.name:<{width}}  {check.message}"
        if check.fix:
            yield f"  {'':<{width}}  fix: {check.fix}"
