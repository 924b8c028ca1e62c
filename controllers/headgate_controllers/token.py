"""The control API's token in a cluster: one Secret that routers mount, made by the first controller that starts.

Not in the chart's values, so that it is in no git repo and no release history; never logged. A Secret that is there
already is used as it is: whoever brings their own keeps it.
"""

from __future__ import annotations

import base64
import binascii

from headgate.findings import ConflictError, TerminalError
from headgate_controllers.options import new_token
from headgate_kit.kube.client import Cluster
from headgate_kit.kube.kinds import SECRET

KEY = "token"


def secret_token(name: str, cluster: Cluster | None = None) -> str:
    """Reads the token, or makes it. Raises TransientError: no answer; TerminalError: not allowed, or it holds none."""
    found = cluster or Cluster.connect()
    try:
        return _read(found, name) or _make(found, name)
    except ConflictError:  # another controller was faster
        return _read(found, name)
    finally:
        if cluster is None:
            found.close()


def _read(cluster: Cluster, name: str) -> str:
    """Empty: there is no such Secret."""
    secret = cluster.get(SECRET, name)
    if secret is None:
        return ""
    try:
        value = base64.b64decode((secret.get("data") or {}).get(KEY, ""), validate=True).decode().strip()
    except (binascii.Error, UnicodeDecodeError):
        value = ""
    if not value:
        raise TerminalError(f"Secret {name} has no usable key `{KEY}`: delete it, and it is made again")
    return value


def _make(cluster: Cluster, name: str) -> str:
    made = new_token()
    labels = {"headgate.dev/part": "controller", "app.kubernetes.io/part-of": "headgate"}
    data = {KEY: base64.b64encode(made.encode()).decode()}
    cluster.create(
        SECRET, {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name, "labels": labels}, "data": data}
    )
    return made
