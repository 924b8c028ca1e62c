"""Endpoint keys and other secrets as Secrets of our own namespace. Values never leave by a log or an error.

    headgate-keys-<endpoint>      an endpoint's two keys: `primary`, `secondary`
    headgate-value-<digest>       one other secret; its reference is an annotation

Read from a watch, so that a pass costs no request; written by compare-and-swap. A key that somebody replaces by hand
(or an operator that syncs a vault) counts within a second.
"""

from __future__ import annotations

import base64
import hashlib
import secrets as randomness
import threading
from typing import Any

from headgate.findings import ConflictError, TerminalError, TransientError
from headgate_controllers.secrets.file import KEY_BYTES, PREFIX, WHICH, Keys
from headgate_kit.kube import Cache, Cluster
from headgate_kit.kube.kinds import SECRET
from headgate_kit.layout import DataFolder

Object = dict[str, Any]

PART, ENDPOINT, REF = "headgate.dev/part", "headgate.dev/endpoint", "headgate.dev/ref"
KEPT = "secrets"  # value of PART
NAME_LENGTH = 253
START_S = 20.0
TRIES = 5  # of a write that somebody else was quicker with


class KubernetesSecrets:
    """`headgate.ports.Secrets`, and the endpoints' keys. Safe to use from several threads and several controllers."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._lock = threading.Lock()
        self._known: dict[str, Object] = {}
        self._cache = Cache(cluster, SECRET, selector=f"{PART}={KEPT}", on_change=self._changed)

    def start(self) -> None:
        self._cache.start(START_S)

    def close(self) -> None:
        self._cache.close()
        self._cluster.close()

    def __repr__(self) -> str:
        return f"KubernetesSecrets({self._cluster.namespace})"

    # --- the port ---------------------------------------------------------------------------------------------------

    def get(self, ref: str) -> str:
        """Raises LookupError when there is no such secret; its text names the reference only."""
        found = self._find(_value_name(ref))
        if found is None:
            raise LookupError(f"there is no secret {ref}")
        return _text(found, "value")

    def put(self, ref: str, value: str) -> None:
        self._write(_value_name(ref), {"value": value}, annotations={REF: ref})

    # --- keys of endpoints ------------------------------------------------------------------------------------------

    def keys(self, endpoint: str) -> Keys:
        """The endpoint's keys, made the first time. Raises TransientError: the cluster does not answer."""
        name = _keys_name(endpoint)
        found = self._find(name)
        if found is None:
            fresh = {which: _new_key() for which in WHICH}
            found = self._write(name, fresh, labels={ENDPOINT: endpoint}, replace=False)
        return _keys(found)

    def rotate(self, endpoint: str, which: str) -> Keys:
        """Replaces one key; the other stays valid. Raises ValueError: no such kind of key."""
        if which not in WHICH:
            raise ValueError(f"a key is {' or '.join(WHICH)}, not {which[:40]!r}")
        self.keys(endpoint)
        return _keys(self._write(_keys_name(endpoint), {which: _new_key()}))

    def digests(self, endpoint: str) -> tuple[str, str]:
        """sha256 of each key, as 64 hex digits: what a router compares with."""
        keys = self.keys(endpoint)
        return _digest(keys.primary), _digest(keys.secondary)

    # --- what the cluster has ---------------------------------------------------------------------------------------

    def _changed(self, item: Object, gone: bool) -> None:
        with self._lock:
            if gone:
                self._known.pop(item["metadata"]["name"], None)
            else:
                self._known[item["metadata"]["name"]] = item

    def _find(self, name: str) -> Object | None:
        if not self._cache.ready:
            raise TransientError(f"the cluster's secrets are not seen yet: {self._cache.trouble or 'just begun'}")
        with self._lock:
            return self._known.get(name)

    def _write(
        self,
        name: str,
        values: dict[str, str],
        *,
        labels: dict[str, str] | None = None,
        annotations: dict[str, str] | None = None,
        replace: bool = True,
    ) -> Object:
        """Creates it, or changes these values of it; `replace=False`: what is there counts."""
        data = {key: base64.b64encode(value.encode()).decode() for key, value in values.items()}
        meta = {"name": name, "labels": {PART: KEPT, **(labels or {})}, "annotations": annotations or {}}
        for _ in range(TRIES):
            known = self._cluster.get(SECRET, name)
            try:
                if known is None:
                    made = self._cluster.create(SECRET, {"metadata": meta, "type": "Opaque", "data": data})
                elif replace:
                    read = {"resourceVersion": known["metadata"]["resourceVersion"]}
                    answered = self._cluster.patch(SECRET, name, {"metadata": read, "data": data})
                    if answered is None:
                        continue
                    made = answered
                else:
                    made = known
            except ConflictError:
                continue
            with self._lock:
                self._known[name] = made
            return made
        raise TransientError(f"Secret {name} is changed by others again and again")


def open_secrets(data: DataFolder) -> KubernetesSecrets:
    """Entry point `kubernetes` of group `headgate.secrets`; nothing of it lies in the data folder."""
    found = KubernetesSecrets(Cluster.connect())
    found.start()
    return found


def _keys_name(endpoint: str) -> str:
    return f"headgate-keys-{endpoint.lower()}"[:NAME_LENGTH]


def _value_name(ref: str) -> str:
    return f"headgate-value-{hashlib.sha256(ref.encode()).hexdigest()[:24]}"


def _keys(item: Object) -> Keys:
    return Keys(**{which: _text(item, which) for which in WHICH})


def _text(item: Object, key: str) -> str:
    """Raises TerminalError: somebody took it out; the text names the Secret only."""
    data = item.get("data") or {}
    if key not in data:
        name = item["metadata"]["name"]
        raise TerminalError(f"Secret {name} has no `{key}`: restore it, or delete the Secret and new ones are made")
    return base64.b64decode(data[key]).decode()


def _new_key() -> str:
    return PREFIX + randomness.token_urlsafe(KEY_BYTES)


def _digest(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()
