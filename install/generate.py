"""Writes what is made from code and from the chart: `make manifests`.

    chart/templates/rbac.yaml   from headgate_kit.kube.rights
    install.yaml                from the chart, by helm ($HELM, else on the PATH), when there is one

A test compares both. `install.yaml` is for `kubectl apply`: its header says what to change first.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterable, Mapping
from itertools import groupby
from pathlib import Path

from headgate_kit.kube.rights import CONTROLLER, RIGHTS, ROUTER, WORKFLOW, Right

HERE = Path(__file__).parent
CONDITIONS: Mapping[str, str] = {
    "": "",
    "engine=pods": 'eq .Values.engine "pods"',
    "engine=argo": 'eq .Values.engine "argo"',
    "resources.enabled=true": ".Values.resources.enabled",
    "nodes.read=true": ".Values.nodes.read",
    "keda.enabled=true": ".Values.keda.enabled",
}
SETTINGS = {
    "repo.url": "https://git.example/endpoints.git",
    "registry.url": "registry.example/team",
}
NAMESPACE = "headgate"
HEADER = """\
# Made by `helm template` from install/chart; `make manifests` makes it again.
#
#   kubectl create namespace headgate
#   kubectl apply -k install          (or: -f install/crds -f install/install.yaml)
#
# Change first: git.example (the endpoints repo), registry.example (where images of revisions go), and the three images
# headgate-controller, -router and -runner. For another namespace use the chart: a kustomize `namespace:` does not
# reach the URLs in arguments.
"""


def rbac() -> str:
    """The chart's template: one Role per part, one ClusterRole for nodes."""
    blocks = ["{{- /* Made from headgate_kit.kube.rights by `make manifests`. */ -}}", "{{- if .Values.rbac.create }}"]
    for part in (CONTROLLER, ROUTER):
        own = [right for right in RIGHTS if right.part == part and not right.cluster]
        blocks += [
            _role("Role", f"headgate-{part}", part, own),
            "---",
            _binding("Role", f"headgate-{part}", part),
            "---",
        ]
    workflow = [right for right in RIGHTS if right.part == WORKFLOW]
    blocks += [
        f"{{{{- if {CONDITIONS['engine=argo']} }}}}",
        _role("Role", "headgate-workflow", WORKFLOW, workflow, conditions=False),
        "---",
        _binding("Role", "headgate-workflow", WORKFLOW),
        "---",
        "{{- end }}",
    ]
    nodes = [right for right in RIGHTS if right.cluster]
    name = "headgate-nodes-{{ .Release.Namespace }}"
    blocks += [
        "{{- if .Values.nodes.read }}",
        _role("ClusterRole", name, CONTROLLER, nodes, conditions=False),
        "---",
        _binding("ClusterRole", name, CONTROLLER),
        "{{- end }}",
        "{{- end }}",
    ]
    return "\n".join(blocks) + "\n"


def _role(kind: str, name: str, part: str, rights: Iterable[Right], *, conditions: bool = True) -> str:
    lines = ["apiVersion: rbac.authorization.k8s.io/v1", f"kind: {kind}", _metadata(name, part), "rules:"]
    for when, group in groupby(rights, key=lambda right: right.when):
        rules = [_rule(right) for right in group]
        if conditions and when:
            rules = [f"  {{{{- if {CONDITIONS[when]} }}}}", *rules, "  {{- end }}"]
        lines += rules
    return "\n".join(lines)


def _rule(right: Right) -> str:
    group, verbs = right.group or '""', ", ".join(right.verbs)
    return f"  - apiGroups: [{group}]\n    resources: [{right.resource}]\n    verbs: [{verbs}]  # {right.why}"


def _binding(kind: str, name: str, part: str) -> str:
    return "\n".join(
        [
            "apiVersion: rbac.authorization.k8s.io/v1",
            f"kind: {kind}Binding",
            _metadata(name, part),
            f"roleRef: {{apiGroup: rbac.authorization.k8s.io, kind: {kind}, name: {name}}}",
            "subjects:",
            f"  - {{kind: ServiceAccount, name: headgate-{part}, namespace: {{{{ .Release.Namespace }}}}}}",
        ]
    )


def _metadata(name: str, part: str) -> str:
    labels = f'{{{{- include "headgate.labels" (dict "root" . "part" "{part}") | nindent 4 }}}}'
    return f"metadata:\n  name: {name}\n  labels: {labels}"


def manifest(helm: str, more: Mapping[str, str] | None = None) -> str:
    """The chart with `SETTINGS`, and more of them, rendered."""
    given = {**SETTINGS, **(more or {})}
    sets = [word for key, value in given.items() for word in ("--set", f"{key}={value}")]
    command = [
        helm,
        "template",
        "headgate",
        str(HERE / "chart"),
        "--namespace",
        NAMESPACE,
        "--kube-version",
        "1.30.0",
        *sets,
    ]
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return HEADER + text.replace("app.kubernetes.io/managed-by: Helm", "app.kubernetes.io/managed-by: kubectl")


def find_helm() -> str | None:
    return os.environ.get("HELM") or shutil.which("helm")


def main() -> int:
    (HERE / "chart" / "templates" / "rbac.yaml").write_text(rbac())
    helm = find_helm()
    if helm is None:
        print("helm is not on the PATH, and $HELM does not name it: install.yaml is left as it is", file=sys.stderr)
        return 1
    (HERE / "install.yaml").write_text(manifest(helm))
    return 0


if __name__ == "__main__":
    sys.exit(main())
