"""A small API server for tests, over real HTTP: any kind of object, kept as a cluster would keep it.

Lists by page, watches with bookmarks and an end to their history, resource versions and generations, 409 and 410,
the `status` and `scale` subresources, merge patches, server-side apply, owners that take what is theirs along.
Switchable trouble: see `fail`, `refuse`, `drop_watches`, `forget`. It defaults, admits and schedules nothing.
"""

from __future__ import annotations

import copy
import json
import queue
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

from headgate_kit.kube import Cluster

Object = dict[str, Any]
Key = tuple[str, str, str, str]  # api, namespace, plural, name
BOOKMARK_S = 0.5
APPLY, MERGE = "application/apply-patch+yaml", "application/merge-patch+json"


class Refused(Exception):
    def __init__(self, code: int, reason: str, message: str, retry_after_s: int = 0) -> None:
        super().__init__(message)
        self.code, self.reason, self.retry_after_s = code, reason, retry_after_s

    @property
    def status(self) -> Object:
        details = {"details": {"retryAfterSeconds": self.retry_after_s}} if self.retry_after_s else {}
        return {"kind": "Status", "apiVersion": "v1", "status": "Failure", "message": str(self), "reason": self.reason,
                "code": self.code, **details}  # fmt: skip


@dataclass
class Asked:
    """One request, by what it names."""

    method: str
    api: str = ""
    namespace: str = ""
    plural: str = ""
    name: str = ""
    subresource: str = ""
    query: Mapping[str, str] = field(default_factory=dict)
    content: str = ""
    body: Any = None

    @property
    def verb(self) -> str:
        if self.method == "GET":
            return "watch" if self.query.get("watch") == "true" else "get" if self.name else "list"
        return {"POST": "create", "PUT": "update", "PATCH": "patch", "DELETE": "delete"}[self.method]


@dataclass
class Trouble:
    code: int
    times: int
    retry_after_s: int
    plural: str  # empty: any
    verb: str


class KubeServer:
    """`with KubeServer() as server: server.cluster(\"ns\")`."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.objects: dict[Key, Object] = {}
        self.history: list[tuple[int, str, Key, Object]] = []
        self.version, self.oldest = 100, 0
        self.requests: list[Asked] = []
        self.denied: set[tuple[str, str]] = set()  # (verb, plural): answered 403
        self.logs: dict[tuple[str, str], bytes] = {}  # (namespace, pod) -> its log
        self._applied: dict[tuple[Key, str, str], Object] = {}
        self._troubles: list[Trouble] = []
        self._watches: dict[queue.Queue[tuple[str, Object] | None], Asked] = {}
        self._serve(0)

    # --- its life ---------------------------------------------------------------------------------------------------

    def _serve(self, port: int) -> None:
        self._http = _Http(("127.0.0.1", port), _Handler)
        self._http.kube = self
        self.port = self._http.server_address[1]
        threading.Thread(target=self._http.serve_forever, args=(0.02,), name="kubeserver", daemon=True).start()

    def __enter__(self) -> KubeServer:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self.drop_watches()
        self._http.shutdown()
        self._http.server_close()
        self._http.end_connections()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def cluster(self, namespace: str = "default") -> Cluster:
        """Give it back with `close()`."""
        from kubernetes import client

        found = client.Configuration(host=self.url)
        found.connection_pool_maxsize, found.retries = 32, 0
        return Cluster(client.ApiClient(found), namespace)

    def kubeconfig(self, path: Path, namespace: str = "default") -> Path:
        content = {
            "apiVersion": "v1", "kind": "Config", "current-context": "test",
            "clusters": [{"name": "test", "cluster": {"server": self.url}}],
            "users": [{"name": "test", "user": {"token": "test"}}],
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test", "namespace": namespace}}],
        }  # fmt: skip
        path.write_text(json.dumps(content))
        return path

    # --- trouble ----------------------------------------------------------------------------------------------------

    def fail(self, code: int, times: int = 1, *, retry_after_s: int = 0, plural: str = "", verb: str = "") -> None:
        """The next so many requests of that kind are answered with this code."""
        with self.lock:
            self._troubles.append(Trouble(code, times, retry_after_s, plural, verb))

    def calm(self) -> None:
        """No request fails any more."""
        with self.lock:
            self._troubles.clear()

    @contextmanager
    def refuse(self) -> Iterator[None]:
        """Nobody listens, and every connection ends."""
        self.close()
        try:
            yield
        finally:
            self._serve(self.port)

    def drop_watches(self) -> None:
        """Every watch that is open breaks off."""
        with self.lock:
            for waiting in list(self._watches):
                waiting.put(None)

    def watching(self, plural: str) -> int:
        with self.lock:
            return sum(asked.plural == plural for asked in self._watches.values())

    def forget(self) -> None:
        """The history is compacted: a watch from before is told 410, and those open now break off."""
        with self.lock:
            self._bump()
            self.oldest = self.version
            self.history.clear()
        self.drop_watches()

    # --- for tests, without a request -------------------------------------------------------------------------------

    def find(self, plural: str, name: str, namespace: str = "default") -> Object | None:
        with self.lock:
            found = [o for key, o in self.objects.items() if key[1:] == (namespace, plural, name)]
            return copy.deepcopy(found[0]) if found else None

    def all(self, plural: str) -> list[Object]:
        with self.lock:
            return [copy.deepcopy(o) for key, o in sorted(self.objects.items()) if key[2] == plural]

    def put(self, api: str, plural: str, body: Mapping[str, Any], namespace: str = "default") -> Object:
        """Creates or replaces it, its status too."""
        with self.lock:
            body = copy.deepcopy(dict(body))
            key = (api, namespace, plural, body["metadata"]["name"])
            known = self.objects.get(key)
            return self._store(key, known, {"apiVersion": api, **body}, status=True)

    def drop(self, plural: str, name: str, namespace: str = "default") -> None:
        with self.lock:
            for key in [k for k in self.objects if k[1:] == (namespace, plural, name)]:
                self._remove(key)

    # --- answering --------------------------------------------------------------------------------------------------

    def answer(self, asked: Asked) -> tuple[int, Object]:
        with self.lock:
            self._check(asked)
            if asked.plural in ("selfsubjectaccessreviews", "subjectaccessreviews"):
                return 201, self._review(asked.body)
            match asked.verb:
                case "get":
                    return 200, self._view(asked)
                case "list":
                    return 200, self._list(asked)
                case "create":
                    return 201, self._create(asked)
                case "update" | "patch":
                    return self._change(asked)
                case "delete":
                    return 200, self._delete(asked)
            raise Refused(405, "MethodNotAllowed", asked.method)

    def _check(self, asked: Asked) -> None:
        self.requests.append(asked)
        if (asked.verb, asked.plural) in self.denied:
            what = f"{asked.plural}/{asked.subresource}" if asked.subresource else asked.plural
            where = f'in the namespace "{asked.namespace}"' if asked.namespace else "at the cluster scope"
            said = f'{asked.plural} is forbidden: cannot {asked.verb} resource "{what}" in API group "" {where}'
            raise Refused(403, "Forbidden", said)
        for trouble in self._troubles:
            if trouble.plural in ("", asked.plural) and trouble.verb in ("", asked.verb):
                trouble.times -= 1
                if not trouble.times:
                    self._troubles.remove(trouble)
                reason = {429: "TooManyRequests", 409: "Conflict", 410: "Expired"}.get(trouble.code, "InternalError")
                raise Refused(trouble.code, reason, "asked to fail", trouble.retry_after_s)

    def _review(self, body: Object) -> Object:
        wanted = body["spec"]["resourceAttributes"]
        return {**body, "status": {"allowed": (wanted["verb"], wanted["resource"]) not in self.denied}}

    def _known(self, asked: Asked) -> tuple[Key, Object]:
        key = (asked.api, asked.namespace, asked.plural, asked.name)
        if key not in self.objects:
            raise Refused(404, "NotFound", f'{asked.plural} "{asked.name}" not found')
        return key, self.objects[key]

    def _view(self, asked: Asked) -> Object:
        _, found = self._known(asked)
        return _scale(found) if asked.subresource == "scale" else found

    def _list(self, asked: Asked) -> Object:
        selects = _selector(asked.query.get("labelSelector", ""))
        after, _, at = asked.query.get("continue", "").partition("@")
        if at and int(at) < self.oldest:
            raise Refused(410, "Expired", "The provided continue parameter is too old")
        fits = [(k, o) for k, o in sorted(self.objects.items()) if _covers(asked, k) and selects(o)]
        fields = [part for part in asked.query.get("fieldSelector", "").split(",") if part]
        fits = [(k, o) for k, o in fits if "/".join(k) > after and all(_has(o, part) for part in fields)]
        limit = int(asked.query.get("limit", "0")) or len(fits)
        meta = {"resourceVersion": at or str(self.version)}
        if len(fits) > limit:
            meta["continue"] = "/".join(fits[limit - 1][0]) + f"@{at or self.version}"
        items = [{k: v for k, v in o.items() if k not in ("apiVersion", "kind")} for _, o in fits[:limit]]
        return {"kind": "List", "apiVersion": asked.api, "metadata": meta, "items": items}

    def _create(self, asked: Asked) -> Object:
        body = copy.deepcopy(asked.body)
        meta = body.setdefault("metadata", {})
        if "name" not in meta:
            meta["name"] = meta["generateName"] + uuid.uuid4().hex[:5]
        key = (asked.api, asked.namespace, asked.plural, meta["name"])
        if key in self.objects:
            raise Refused(409, "AlreadyExists", f'{asked.plural} "{meta["name"]}" already exists')
        return self._store(key, None, {"apiVersion": asked.api, **body})

    def _change(self, asked: Asked) -> tuple[int, Object]:
        if asked.content == APPLY:
            return self._apply(asked)
        key, known = self._known(asked)
        if asked.subresource == "scale":
            replicas = asked.body.get("spec", {}).get("replicas", 0)
            changed = _merged(known, {"spec": {"replicas": replicas}})
            return 200, _scale(self._store(key, known, changed))
        expected = (asked.body.get("metadata") or {}).get("resourceVersion")
        if expected and expected != known["metadata"]["resourceVersion"]:
            raise Refused(409, "Conflict", "the object has been modified; please apply your changes to the latest")
        if asked.method == "PATCH" and asked.content != MERGE:
            raise Refused(415, "UnsupportedMediaType", asked.content)
        whole = copy.deepcopy(asked.body) if asked.method == "PUT" else _merged(known, asked.body)
        return 200, self._write(key, known, whole, asked.subresource)

    def _apply(self, asked: Asked) -> tuple[int, Object]:
        key = (asked.api, asked.namespace, asked.plural, asked.name)
        known = self.objects.get(key)
        if known is None and asked.subresource:
            raise Refused(404, "NotFound", f'{asked.plural} "{asked.name}" not found')
        owner = (key, asked.query.get("fieldManager", ""), asked.subresource)
        kept: Any = {}  # by anybody who applied it: it goes with the last of them
        for other, body in self._applied.items():
            kept = _laid_over(kept, body) if other[0] == key and other != owner else kept
        base = _without(known or {}, self._applied.get(owner, {}), _laid_over(kept, asked.body))
        self._applied[owner] = copy.deepcopy(asked.body)
        whole = _laid_over(base, asked.body)
        for name, value in (whole.get("spec") or {}).items():
            if value == [] and _named(((known or {}).get("spec") or {}).get(name)):
                raise Refused(422, "Invalid", f"spec.{name}: Required value, <nil>: Invalid value: null")
        return (200 if known else 201), self._write(key, known, whole, asked.subresource)

    def _write(self, key: Key, known: Object | None, whole: Object, subresource: str) -> Object:
        if subresource == "status" and known is not None:
            whole = {**copy.deepcopy(known), "status": whole.get("status", {})}
        return self._store(key, known, whole, status=subresource == "status")

    def _store(self, key: Key, known: Object | None, body: Object, *, status: bool = False) -> Object:
        """Only the status subresource changes a status; an unchanged object keeps its version."""
        meta = body.setdefault("metadata", {})
        was = known["metadata"] if known else {}
        if key[1]:
            meta["namespace"] = key[1]
        meta["uid"] = was.get("uid") or str(uuid.uuid4())
        meta["creationTimestamp"] = was.get("creationTimestamp") or now()
        meta["resourceVersion"] = was.get("resourceVersion", "")
        meta["generation"] = was.get("generation", 1)
        if not status and "spec" in body:
            body.pop("status", None)
            if known and "status" in known:
                body["status"] = copy.deepcopy(known["status"])
        if known and _asks(known) != _asks(body):
            meta["generation"] += 1
        if known == body:
            return known
        self._bump()
        meta["resourceVersion"] = str(self.version)
        self.objects[key] = body
        self._tell("MODIFIED" if known else "ADDED", key, body)
        if meta.get("deletionTimestamp") and not meta.get("finalizers"):
            self._remove(key)
        return body

    def _delete(self, asked: Asked) -> Object:
        key, known = self._known(asked)
        if known["metadata"].get("finalizers"):
            body = copy.deepcopy(known)
            body["metadata"]["deletionTimestamp"] = now()
            return self._store(key, known, body)
        self._remove(key)
        return {"kind": "Status", "apiVersion": "v1", "status": "Success"}

    def _remove(self, key: Key) -> None:
        gone = self.objects.pop(key, None)
        if gone is None:
            return
        self._bump()
        gone = copy.deepcopy(gone)
        gone["metadata"]["resourceVersion"] = str(self.version)
        for owner in [o for o in self._applied if o[0] == key]:
            del self._applied[owner]
        self._tell("DELETED", key, gone)
        uid = gone["metadata"]["uid"]
        for other, body in list(self.objects.items()):
            if any(o.get("uid") == uid for o in body["metadata"].get("ownerReferences") or ()):
                self._remove(other)

    # --- watches ----------------------------------------------------------------------------------------------------

    def _bump(self) -> None:
        self.version += 1

    def _tell(self, type_: str, key: Key, body: Object) -> None:
        body = copy.deepcopy(body)
        self.history.append((self.version, type_, key, body))
        for waiting, asked in self._watches.items():
            if _covers(asked, key) and _selector(asked.query.get("labelSelector", ""))(body):
                waiting.put((type_, body))

    @contextmanager
    def watch(self, asked: Asked) -> Iterator[queue.Queue[tuple[str, Object] | None]]:
        """A queue of events; None: the watch breaks off."""
        waiting: queue.Queue[tuple[str, Object] | None] = queue.Queue()
        with self.lock:
            self._check(asked)
            since = int(asked.query.get("resourceVersion") or self.version)
            if since < self.oldest:
                raise Refused(410, "Expired", f"too old resource version: {since}")
            selects = _selector(asked.query.get("labelSelector", ""))
            for version, type_, key, body in self.history:
                if version > since and _covers(asked, key) and selects(body):
                    waiting.put((type_, body))
            self._watches[waiting] = asked
        try:
            yield waiting
        finally:
            with self.lock:
                del self._watches[waiting]


class _Http(ThreadingHTTPServer):
    daemon_threads = True
    kube: KubeServer

    def __init__(self, *arguments: Any) -> None:
        self._open: set[socket.socket] = set()
        super().__init__(*arguments)

    def process_request(self, request: Any, client_address: Any) -> None:
        self._open.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        self._open.discard(request)
        super().shutdown_request(request)

    def end_connections(self) -> None:
        for connection in list(self._open):
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A caller that went away is no error."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: _Http

    def log_message(self, *_: object) -> None: ...

    def _answer(self) -> None:
        asked = _asked(self.command, self.path, self.headers.get("Content-Type", ""), self._body())
        try:
            if self.path == "/version":
                self._send(200, {"gitVersion": "v1.34.1"})
            elif asked.subresource == "log":
                self._send_log(asked)
            elif asked.verb == "watch":
                self._watch(asked)
            else:
                self._send(*self.server.kube.answer(asked))
        except Refused as no:
            self._send(no.code, no.status, {"Retry-After": str(no.retry_after_s)} if no.retry_after_s else {})

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = _answer

    def _body(self) -> Any:
        text = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        return json.loads(text) if text else None

    def _send(self, code: int, body: Object, headers: Mapping[str, str] | None = None) -> None:
        self._send_bytes(code, json.dumps(body).encode(), "application/json", headers)

    def _send_bytes(self, code: int, text: bytes, kind: str, headers: Mapping[str, str] | None = None) -> None:
        self.send_response(code)
        for name, value in {"Content-Type": kind, "Content-Length": str(len(text)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(text)

    def _send_log(self, asked: Asked) -> None:
        kube = self.server.kube
        with kube.lock:
            kube.requests.append(asked)
            if kube.find("pods", asked.name, asked.namespace) is None:
                raise Refused(404, "NotFound", f'pods "{asked.name}" not found')
            text = kube.logs.get((asked.namespace, asked.name), b"")
        lines = text.splitlines(keepends=True)
        tail = int(asked.query.get("tailLines", len(lines)) or 0)
        self._send_bytes(200, b"".join(lines[len(lines) - min(tail, len(lines)) :]), "text/plain")

    def _watch(self, asked: Asked) -> None:
        ends = time.monotonic() + float(asked.query.get("timeoutSeconds", "300"))
        with self.server.kube.watch(asked) as waiting:
            self.send_response(200)
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            while time.monotonic() < ends:
                try:
                    event = waiting.get(timeout=BOOKMARK_S)
                except queue.Empty:
                    meta = {"resourceVersion": str(self.server.kube.version), "creationTimestamp": None}
                    event = ("BOOKMARK", {"kind": "Bookmark", "apiVersion": asked.api, "metadata": meta})
                if event is None:
                    self.close_connection = True
                    return  # without the last chunk: it broke off
                self._chunk(json.dumps({"type": event[0], "object": event[1]}).encode() + b"\n")
            self._chunk(b"")

    def _chunk(self, text: bytes) -> None:
        self.wfile.write(b"%x\r\n%s\r\n" % (len(text), text))


# --- what objects are, without a server -----------------------------------------------------------------------------


def _asked(method: str, target: str, content: str, body: Any) -> Asked:
    """/api/v1/… and /apis/GROUP/VERSION/…, then [namespaces/NAME/]PLURAL[/NAME[/SUBRESOURCE]]."""
    parts = urlsplit(target)
    path = [unquote(part) for part in parts.path.strip("/").split("/")]
    api, rest = (path[1], path[2:]) if path[0] == "api" else ("/".join(path[1:3]), path[3:])
    namespace = ""
    if len(rest) > 2 and rest[0] == "namespaces":
        namespace, rest = rest[1], rest[2:]
    plural, name, subresource = (*rest, "", "", "")[:3]
    return Asked(method, api, namespace, plural, name, subresource, dict(parse_qsl(parts.query)), content, body)


def _covers(asked: Asked, key: Key) -> bool:
    return (asked.api, asked.plural) == (key[0], key[2]) and asked.namespace in ("", key[1])


def _selector(text: str) -> Any:
    """`a=b`, `a!=b`, `a in (b,c)`, `a`, `!a`, with commas between."""
    wanted = [part.strip() for part in _split(text) if part.strip()]

    def selects(item: Object) -> bool:
        labels = item["metadata"].get("labels") or {}
        return all(_fits(part, labels) for part in wanted)

    return selects


def _has(item: Any, part: str) -> bool:
    """`a.b=c`, `a.b!=c`; a field that is not there is empty."""
    path, _, wanted = part.partition("!=" if "!=" in part else "=")
    for name in path.split("."):
        item = (item or {}).get(name)
    return (str(item or "") == wanted) is ("!=" not in part)


def _split(text: str) -> list[str]:
    parts, depth = [""], 0
    for letter in text:
        depth += {"(": 1, ")": -1}.get(letter, 0)
        if letter == "," and not depth:
            parts.append("")
        else:
            parts[-1] += letter
    return parts


def _fits(part: str, labels: Mapping[str, str]) -> bool:
    if " in " in part:
        key, _, values = part.partition(" in ")
        return labels.get(key.strip()) in [v.strip() for v in values.strip(" ()").split(",")]
    if "!=" in part:
        key, _, value = part.partition("!=")
        return labels.get(key.strip()) != value.strip()
    if "=" in part:
        key, _, value = part.replace("==", "=").partition("=")
        return labels.get(key.strip()) == value.strip()
    return part[1:] not in labels if part.startswith("!") else part in labels


def _scale(item: Object) -> Object:
    replicas = item.get("spec", {}).get("replicas", 0)
    meta = {key: item["metadata"].get(key) for key in ("name", "namespace", "uid", "resourceVersion")}
    return {"apiVersion": "autoscaling/v1", "kind": "Scale", "metadata": meta, "spec": {"replicas": replicas},
            "status": {"replicas": item.get("status", {}).get("replicas", 0)}}  # fmt: skip


def _asks(item: Object) -> Object:
    return {key: value for key, value in item.items() if key not in ("metadata", "status")}


def _merged(base: Any, change: Any) -> Any:
    """RFC 7396."""
    if not isinstance(change, dict):
        return copy.deepcopy(change)
    found = dict(copy.deepcopy(base)) if isinstance(base, dict) else {}
    for key, value in change.items():
        if value is None:
            found.pop(key, None)
        else:
            found[key] = _merged(found.get(key), value)
    return found


def _laid_over(base: Any, over: Any) -> Any:
    """Server-side apply: mappings go into each other, lists of named items too, all else is replaced."""
    if isinstance(base, dict) and isinstance(over, dict):
        return {**base, **{key: _laid_over(base.get(key), value) for key, value in over.items()}}
    if _named(base) and _named(over):
        merged = {item["name"]: item for item in base}
        for item in over:
            merged[item["name"]] = _laid_over(merged.get(item["name"]), item)
        return list(merged.values())
    return copy.deepcopy(over)


def _without(base: Any, before: Any, after: Any) -> Any:
    """What the manager applied before and does not any more is taken out."""
    if isinstance(base, dict) and isinstance(before, dict):
        after = after if isinstance(after, dict) else {}
        kept = {k: v for k, v in base.items() if k not in before or k in after}
        return {k: _without(v, before[k], after[k]) if k in before else copy.deepcopy(v) for k, v in kept.items()}
    if _named(base) and _named(before) and _named(after):
        was, will = ({item["name"]: item for item in items} for items in (before, after))
        kept = [item for item in base if item["name"] not in was or item["name"] in will]
        return [_without(i, was.get(i["name"], {}), will.get(i["name"], {})) for i in kept]
    return copy.deepcopy(base)


def _named(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(i, dict) and "name" in i for i in value)


def now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


def wait_for(condition: Callable[[], bool], within_s: float = 60.0) -> None:
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.01)
