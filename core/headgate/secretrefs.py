"""`${{secretref:SECRET/KEY}}` as the value of an environment variable: a Secret of the cluster, by reference.

Only the reference is in git, in the record and in a workload; the value is put into the container by the cluster.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from headgate.findings import Finding, Place
from headgate.paths import read_text
from headgate.ports import Tree
from headgate.target import Target
from headgate.workload import SecretKey
from headgate.yamltext import parse

OURS = "headgate-"  # Secrets with this prefix are Headgate's own: its token, endpoints' keys
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")  # what every version of a cluster takes as a name
_REFERENCE = re.compile(
    r"\$\{\{\s*secretref:(?P<secret>[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?)(/(?P<key>[-._a-zA-Z0-9]{1,253}))?\s*\}\}"
)


def parse_reference(variable: str, text: str) -> SecretKey | None:
    """Without a key the variable's own name is the key. None: not a reference, or not one that is taken."""
    match = _REFERENCE.fullmatch(text)
    named = _VARIABLE.fullmatch(variable) and not variable.startswith("HEADGATE_")
    if match is None or not named or match["secret"].startswith(OURS):
        return None
    return SecretKey(match["secret"], match["key"] or variable)


def split(variables: Mapping[str, str]) -> tuple[dict[str, str], dict[str, SecretKey]]:
    """Those with a value, and those whose value the cluster knows."""
    found = {name: key for name, text in variables.items() if (key := parse_reference(name, text))}
    return {name: text for name, text in variables.items() if name not in found}, found


def unsupported(target: Target | None, tree: Tree) -> tuple[Finding, ...]:
    """For a platform that has no Secrets: a finding for each reference."""
    if target is None:
        return ()
    return tuple(
        Finding(
            code="secret-reference",
            message=f"`environment_variables.{name}` refers to a Secret of a cluster",
            why="replicas run on this machine, which has none, and a value in git would be no secret",
            fix="have the scoring script read the secret from a file on the machine",
            place=_place(target.endpoint, deployment.name, name, tree),
        )
        for deployment in target.deployments.values()
        for name in split(deployment.source.variables)[1]
    )


def _place(endpoint: str, deployment: str, variable: str, tree: Tree) -> Place:
    folder = f"endpoints/{endpoint}/deployments/"
    for path in sorted(tree.files(folder)):
        data = read_text(tree, path) if path.endswith((".yml", ".yaml")) else None
        document = parse(data, path).document if isinstance(data, bytes) else None
        if document and isinstance(document.value, dict) and document.value.get("name") == deployment:
            return document.place(("environment_variables", variable))
    return Place(folder)
