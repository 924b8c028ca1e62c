"""One cluster's API server: get, list, watch, create, apply, patch, delete, logs.

Errors say what to do next: `TransientError` (away, overloaded), `ConflictError` (somebody wrote in between, or it is
there already), `TerminalError` (refused, with the server's words). Reads its configuration as `kubectl` does:
$KUBECONFIG, else the pod's own service account. Thread-safe.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import msgspec
import urllib3
from kubernetes import client, config

from headgate.findings import ConflictError, HeadgateError, TerminalError, TransientError
from headgate_kit.counts import CLUSTER_REFUSED, CLUSTER_REQUESTS
from headgate_kit.kube.kinds import POD, Kind

TIMEOUT_S = 15.0  # of a single request; a webhook of the cluster may take 10
WATCH_S = 300  # the server ends a watch after this long; a new one carries on where it stopped
QUIET_S = 150.0  # a watch without a byte for this long is dead: bookmarks come every minute
MOST_PATIENCE_S = 30.0  # a server that asks for more is asked again all the same
PAGE = 500  # objects of one page of a list
CREATED = 201
FORBIDDEN = 403
# How a missing right is told from a quota or an admission rule that says no, with the same status.
NO_RIGHT = re.compile(r'cannot (\w+) resource "([^"]+)" in API group "[^"]*" (in the namespace|at the cluster scope)')
VERBS = {"POST": "create", "PUT": "update"}  # of HTTP, as Roles call them; the others are called the same
MANAGER = "headgate"  # our field manager: fields of others are left alone
POD_NAMESPACE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")

Object = dict[str, Any]


class Gone(HeadgateError):
    """A watch cannot carry on: list again."""


class Forbidden(TerminalError):
    """A right is missing, which is not what a quota or an admission rule says no for."""


@dataclass(frozen=True, slots=True)
class Event:
    type: str  # ADDED | MODIFIED | DELETED | BOOKMARK
    object: Object


class Watch:
    """Events as they come, until the server ends the watch or `close` is called, from any thread.

    Iterating raises Gone: list again; TransientError: the connection broke, or was silent for too long.
    """

    def __init__(self, kind: Kind, stream: Any) -> None:
        self._kind = kind
        self._stream = stream
        self._closed = False

    def __iter__(self) -> Iterator[Event]:
        try:
            for line in _lines(self._stream):
                event = msgspec.json.decode(line)
                if event["type"] == "ERROR":
                    raise _error(int(event["object"].get("code", 500)), event["object"], "watch")
                yield Event(event["type"], event["object"])
        except (urllib3.exceptions.HTTPError, OSError, ValueError, msgspec.DecodeError) as error:
            if not self._closed:
                raise TransientError(f"the watch of {self._kind.plural} broke: {error}") from error
        finally:
            self._stream.close()

    def close(self) -> None:
        """Who iterates is woken and ends."""
        self._closed = True
        try:
            self._stream.shutdown()
        except (RuntimeError, ValueError, OSError):
            return  # it has ended already


class Cluster:
    def __init__(self, api: client.ApiClient, namespace: str) -> None:
        self._api = api
        self.namespace = namespace

    @classmethod
    def connect(cls, namespace: str = "") -> Cluster:
        """By $KUBECONFIG, else from inside a pod. Raises TerminalError: neither is there.

        Args:
            namespace: empty: the context's or the pod's own.
        """
        found = client.Configuration()
        try:
            if POD_NAMESPACE.exists() and not os.environ.get("KUBECONFIG"):
                config.load_incluster_config(client_configuration=found)
                own = POD_NAMESPACE.read_text().strip()
            else:
                config.load_kube_config(client_configuration=found)
                own = config.list_kube_config_contexts()[1]["context"].get("namespace", "default")
        except (config.ConfigException, OSError) as error:
            raise TerminalError(f"no cluster to talk to: {error}; set KUBECONFIG, or run inside a pod") from error
        found.connection_pool_maxsize = 32  # watches hold one each
        found.retries = 0  # who calls us tries again, and says so
        return cls(client.ApiClient(found), namespace or own)

    def close(self) -> None:
        self._api.close()

    # --- reading --------------------------------------------------------------------------------------------------

    def get(self, kind: Kind, name: str, *, namespace: str = "") -> Object | None:
        """None: there is none."""
        try:
            return self._json("GET", self._path(kind, name, namespace))
        except _Missing:
            return None

    def list(
        self,
        kind: Kind,
        *,
        selector: str = "",
        fields: str = "",
        namespace: str = "",
        keep: Callable[[Object], Object] | None = None,
        shape: Any = Any,
    ) -> tuple[list[Object], str]:
        """All of them, page by page, and the resource version to watch from. Raises Gone: a page came too late.

        Args:
            fields: a field selector; which fields it may name depends on the kind.
            keep: what of an object is held in memory; None: all.
            shape: a TypedDict of a page, `metadata` and `items`, with what is read of an object at all: a page of 500
                pods is 3 MB, and making dicts of all of it is most of what a list costs.
        """
        query = {"limit": str(PAGE)} | ({"labelSelector": selector} if selector else {})
        query |= {"fieldSelector": fields} if fields else {}
        found: list[Object] = []
        while True:
            page = self._json("GET", self._path(kind, "", namespace), query, shape=shape)
            # Lists leave these two out of their items; with them an item is what `get` answers.
            items = ({"apiVersion": kind.api, "kind": kind.name, **item} for item in page.get("items") or ())
            found += map(keep, items) if keep else items
            meta = page.get("metadata") or {}
            if not meta.get("continue"):
                return found, meta.get("resourceVersion", "")
            query["continue"] = meta["continue"]

    def watch(self, kind: Kind, version: str, *, selector: str = "", namespace: str = "") -> Watch:
        """What changes after `version`. Raises Gone: list again."""
        query = {
            "watch": "true",
            "resourceVersion": version,
            "allowWatchBookmarks": "true",
            "timeoutSeconds": str(WATCH_S),
        } | ({"labelSelector": selector} if selector else {})
        return Watch(kind, self._open("GET", self._path(kind, "", namespace), query, timeout_s=QUIET_S))

    def logs(self, pod: str, container: str = "", *, follow: bool = False, tail: int = 0) -> Iterator[bytes]:
        """Line by line. Empty: it has none, or is gone."""
        query = {"follow": str(follow).lower()} | ({"container": container} if container else {})
        if tail:
            query["tailLines"] = str(tail)
        try:
            stream = self._open("GET", self._path(POD, pod, "", "log"), query, timeout_s=None if follow else TIMEOUT_S)
        except (_Missing, TerminalError):  # a container that has not started has no log: 400
            return
        try:
            yield from _lines(stream)
        except (urllib3.exceptions.HTTPError, OSError) as error:
            raise TransientError(f"the log of {pod} broke off: {error}") from error
        finally:
            stream.close()

    # --- writing --------------------------------------------------------------------------------------------------

    def create(self, kind: Kind, body: Mapping[str, Any], *, namespace: str = "") -> Object:
        """Raises ConflictError: one of that name is there."""
        return self._json("POST", self._path(kind, "", namespace), {"fieldManager": MANAGER}, body)

    def apply(
        self,
        kind: Kind,
        body: Mapping[str, Any],
        *,
        namespace: str = "",
        subresource: str = "",
        manager: str = MANAGER,
    ) -> Object:
        """Server-side apply as `manager`: what it names is its own, what others own stays."""
        full = {"apiVersion": kind.api, "kind": kind.name, **body}
        path = self._path(kind, full["metadata"]["name"], namespace, subresource)
        query = {"fieldManager": manager, "force": "true"}
        return self._json("PATCH", path, query, full, "application/apply-patch+yaml")

    def patch(
        self, kind: Kind, name: str, body: Mapping[str, Any], *, subresource: str = "", namespace: str = ""
    ) -> Object | None:
        """A JSON merge patch; with `metadata.resourceVersion` in it a compare-and-swap. None: there is none."""
        path = self._path(kind, name, namespace, subresource)
        try:
            return self._json("PATCH", path, {"fieldManager": MANAGER}, body, "application/merge-patch+json")
        except _Missing:
            return None

    def replace(
        self, kind: Kind, body: Mapping[str, Any], *, subresource: str = "", namespace: str = ""
    ) -> Object | None:
        """The whole object, compared by its `metadata.resourceVersion`. None: there is none. Raises ConflictError."""
        path = self._path(kind, body["metadata"]["name"], namespace, subresource)
        try:
            return self._json("PUT", path, {"fieldManager": MANAGER}, body)
        except _Missing:
            return None

    def delete(self, kind: Kind, name: str, *, grace_s: int | None = None, namespace: str = "") -> bool:
        """False: there was none. What it owns goes with it, afterwards."""
        options: Object = {"propagationPolicy": "Background"}
        if grace_s is not None:
            options["gracePeriodSeconds"] = grace_s
        try:
            self._json("DELETE", self._path(kind, name, namespace), {}, options)
        except _Missing:
            return False
        return True

    def may(self, verb: str, kind: Kind, *, subresource: str = "") -> bool:
        """Whether who we are may do that in our namespace."""
        from headgate_kit.kube.kinds import ACCESS_REVIEW

        group = kind.api.rpartition("/")[0]
        asked = {"namespace": self.namespace, "verb": verb, "group": group, "resource": kind.plural}
        if subresource:
            asked["subresource"] = subresource
        review = self.create(ACCESS_REVIEW, {"spec": {"resourceAttributes": asked}})
        return bool(review["status"].get("allowed"))

    def version(self) -> str:
        """Of the API server, e.g. `v1.34.1`."""
        return str(self._json("GET", "/version")["gitVersion"])

    # --- the wire -------------------------------------------------------------------------------------------------

    def _path(self, kind: Kind, name: str, namespace: str, subresource: str = "") -> str:
        return kind.path(namespace or self.namespace, quote(name, safe=""), subresource)

    def _json(
        self,
        method: str,
        path: str,
        query: Mapping[str, str] | None = None,
        body: Mapping[str, Any] | None = None,
        content: str = "application/json",
        shape: Any = Any,
    ) -> Object:
        stream = self._open(method, path, query, body, content)
        try:
            found: Object = msgspec.json.decode(stream.read(), type=shape)
        except (urllib3.exceptions.HTTPError, OSError, ValueError, msgspec.DecodeError) as error:
            raise TransientError(f"the API server's answer broke off: {error}") from error
        finally:
            stream.release_conn()
        return found

    def _open(
        self,
        method: str,
        path: str,
        query: Mapping[str, str] | None = None,
        body: Mapping[str, Any] | None = None,
        content: str = "application/json",
        *,
        timeout_s: float | None = TIMEOUT_S,
    ) -> Any:
        headers = {"Accept": "application/json", "Content-Type": content}
        request = self._api.param_serialize(
            method,
            path,
            query_params=list((query or {}).items()),
            header_params=headers,
            body=dict(body) if body else None,
            auth_settings=["BearerToken"],
        )
        try:
            answer = self._api.call_api(*request, _request_timeout=timeout_s).response
        except client.ApiException as error:
            raise TransientError(f"{method} {path}: {error.reason}") from error
        except (urllib3.exceptions.HTTPError, OSError) as error:
            _count(method, path, query or {}, 0)
            raise TransientError(f"the API server does not answer: {error}") from error
        _count(method, path, query or {}, answer.status)
        if answer.status >= 300:
            raise _refusal(answer, f"{method} {path}")
        return answer


def _count(method: str, path: str, query: Mapping[str, str], status: int) -> None:
    """As a Role names it: verb, resource with its subresource, and where it holds. An apply may create."""
    parts = path.strip("/").split("/")[3 if path.startswith("/apis/") else 2 :]
    scope = "cluster"
    if parts[:1] == ["namespaces"] and len(parts) > 2:
        parts, scope = parts[2:], "namespace"
    verb = "create" if status == CREATED else VERBS.get(method, method.lower())
    if verb == "get" and len(parts) == 1:
        verb = "watch" if "watch" in query else "list"
    resource = "/".join([*parts[:1], *parts[2:]]) or "server"
    CLUSTER_REQUESTS.labels(verb, resource, scope).inc()


class _Missing(TerminalError):
    """404."""


def _refusal(answer: Any, doing: str) -> HeadgateError:
    after = answer.headers.get("Retry-After", "")
    try:
        status = _status(answer.read())
    except (urllib3.exceptions.HTTPError, OSError) as error:
        status = {"message": f"its answer broke off: {error}"}
    finally:
        answer.release_conn()
    if answer.status == FORBIDDEN:
        _count_missing(str(status.get("message")))
    return _error(answer.status, status, doing, float(after) if after.isdigit() else 0.0)


def _count_missing(said: str) -> None:
    """By the server's own words: an apply that had to create is refused as a create."""
    found = NO_RIGHT.search(said)
    if found:
        verb, resource, where = found.groups()
        CLUSTER_REFUSED.labels(verb, resource, "namespace" if where == "in the namespace" else "cluster").inc()


def _status(text: bytes) -> Mapping[str, Any]:
    try:
        found = msgspec.json.decode(text)
    except (ValueError, msgspec.DecodeError):
        found = None
    return found if isinstance(found, dict) else {"message": text[:200].decode(errors="replace")}


def _error(code: int, status: Mapping[str, Any], doing: str, after_s: float = 0.0) -> HeadgateError:
    said = f"{doing}: {status.get('message') or status.get('reason') or code}"
    if code == 404:
        return _Missing(said)
    if code == 409:
        return ConflictError(said)
    if code == 410:
        return Gone(said)
    if code == 429 or code >= 500:
        told = (status.get("details") or {}).get("retryAfterSeconds") or after_s or 1.0
        return TransientError(said, retry_after_s=min(float(told), MOST_PATIENCE_S))
    return Forbidden(said) if code == FORBIDDEN and NO_RIGHT.search(said) else TerminalError(said)


def _lines(stream: Any) -> Iterator[bytes]:
    """Lines as they come; a broken last one is not passed on."""
    rest = b""
    for chunk in stream.stream(amt=None, decode_content=False) if stream.chunked else iter(lambda: stream.read1(), b""):
        *whole, rest = (rest + chunk).split(b"\n")
        yield from (line for line in whole if line)
    if rest:
        yield rest
