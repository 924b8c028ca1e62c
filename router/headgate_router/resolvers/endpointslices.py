"""Replicas from a cluster's EndpointSlices, by list and watch over plain HTTP: read-only, and with no controller.

One watch per namespace serves every revision in it. What is known stays while the API server is away, and is replaced
whole by the next list. Refuses to import a Kubernetes client: a router image has none, and three requests need none.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import random
import ssl
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from headgate.table import RouteRevision
from headgate_router.resolvers import slices
from headgate_router.resolvers.slices import SERVICE_LABEL, Slice

log = logging.getLogger("headgate.router")

SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
PAGE = 500  # slices per answer of a list
WATCH_S = 270  # the server ends a watch after this long; spread, so that routers do not come back in step
SILENT_S = 90.0  # bookmarks come every minute: a watch that is silent for longer hangs
CONNECT_S = 5.0
WORDS = 4_096  # characters of a refusal that are read
PAUSE_S = (0.2, 10.0)  # between tries to reach the API server: first, most

Heard = Callable[[tuple[str, ...]], None]


class Gone(Exception):
    """The version to watch from is too old: list again."""


class Away(Exception):
    """The API server did not answer, or not as one."""


@dataclass(frozen=True, slots=True)
class Cluster:
    """How the API server is reached."""

    url: str
    token_file: Path  # read again for every request: the cluster renews it
    ca_file: Path | None  # None: the machine's own authorities
    zone: str = ""  # ours; empty: found in the slices by `ip`
    ip: str = ""  # this pod's

    @classmethod
    def here(cls, environment: Mapping[str, str]) -> Cluster:
        """In a pod nothing is set; elsewhere HEADGATE_KUBE_URL, _TOKEN_FILE and _CA_FILE say it all."""
        host = environment.get("KUBERNETES_SERVICE_HOST", "kubernetes.default.svc")
        port = environment.get("KUBERNETES_SERVICE_PORT", "443")
        ca = environment.get("HEADGATE_KUBE_CA_FILE", "")
        in_pod = "HEADGATE_KUBE_URL" not in environment
        return cls(
            url=environment.get("HEADGATE_KUBE_URL", f"https://{f'[{host}]' if ':' in host else host}:{port}"),
            token_file=Path(environment.get("HEADGATE_KUBE_TOKEN_FILE", str(SERVICE_ACCOUNT / "token"))),
            ca_file=Path(ca) if ca else SERVICE_ACCOUNT / "ca.crt" if in_pod else None,
            zone=environment.get("HEADGATE_ZONE", ""),
            ip=environment.get("HEADGATE_POD_IP", ""),
        )


@dataclass(slots=True)
class _Follower:
    port: str
    heard: Heard
    told: tuple[str, ...] | None = None  # None: nothing yet


@dataclass(slots=True)
class _Namespace:
    """What is known of one namespace, and who wants to hear of it."""

    slices: dict[str, Slice] = field(default_factory=dict)  # by the slice's name
    of: dict[str, set[str]] = field(default_factory=dict)  # service -> names of its slices
    followers: dict[str, list[_Follower]] = field(default_factory=dict)  # by service
    listed: bool = False
    client: httpx.AsyncClient | None = None
    task: asyncio.Task[None] | None = None

    def put(self, one: Slice) -> set[str]:
        """The services whose replicas may have changed."""
        name, service = _name(one), _service(one)
        moved = self.drop(name)
        if name and service:
            self.slices[name] = one
            self.of.setdefault(service, set()).add(name)
            moved.add(service)
        return moved

    def drop(self, name: str) -> set[str]:
        before = self.slices.pop(name, None)
        if before is None:
            return set()
        service = _service(before)
        self.of[service].discard(name)
        if not self.of[service]:
            del self.of[service]
        return {service}


class EndpointSlices:
    """`headgate.ports.Resolver`. Not thread-safe: one event loop."""

    def __init__(self, cluster: Cluster | None = None) -> None:
        self._cluster = cluster or Cluster.here(os.environ)
        self._namespaces: dict[str, _Namespace] = {}
        self._zone = self._cluster.zone
        self.trouble = ""  # why the slices cannot be kept up to date just now; empty: they can

    def follow(self, revision: RouteRevision, heard: Heard) -> Callable[[], None]:
        """Tells the addresses once they are known, and when they change. Raises ValueError: not such a service."""
        asked = slices.parse(revision.service)
        space = self._namespaces.setdefault(asked.namespace, _Namespace())
        follower = _Follower(asked.port, heard)
        space.followers.setdefault(asked.name, []).append(follower)
        if space.task is None:
            space.task = asyncio.get_running_loop().create_task(self._keep(asked.namespace, space))
        elif space.listed:
            self._tell(space, asked.name)

        def end() -> None:
            followers = space.followers.get(asked.name, [])
            if follower in followers:
                followers.remove(follower)
            if not followers:
                space.followers.pop(asked.name, None)
            if not space.followers and self._namespaces.get(asked.namespace) is space:
                del self._namespaces[asked.namespace]
                if space.task is not None:
                    space.task.cancel()

        return end

    async def close(self) -> None:
        tasks = [space.task for space in self._namespaces.values() if space.task is not None]
        self._namespaces.clear()
        for task in tasks:
            task.cancel()
        for task in tasks:
            with suppress(asyncio.CancelledError):
                await task

    # Keeping up.

    async def _keep(self, namespace: str, space: _Namespace) -> None:
        """Until cancelled: lists, watches, lists again when the watch cannot carry on."""
        version, pause = "", PAUSE_S[0]
        try:
            while True:
                began = time.monotonic()
                try:
                    version = await (self._watch if version else self._list)(namespace, space, version)
                except Gone:
                    version = ""
                except (Away, KeyError, TypeError, AttributeError) as error:  # the latter: an answer of another shape
                    await self._failed(namespace, space, error)
                    await asyncio.sleep(pause * random.uniform(0.7, 1.3))
                    pause = min(pause * 2, PAUSE_S[1])
                    continue
                pause = PAUSE_S[0]
                if time.monotonic() - began < PAUSE_S[0]:
                    await asyncio.sleep(PAUSE_S[0])  # a server that ends every watch at once is not asked in a loop
        finally:
            if space.client is not None:
                await space.client.aclose()

    async def _failed(self, namespace: str, space: _Namespace, error: Exception) -> None:
        if not self.trouble:
            log.warning("endpointslices of %s: %r; the last known addresses serve on", namespace, error)
        self.trouble = str(error) or type(error).__name__
        if space.client is not None:  # the next one reads the authority's file again
            await space.client.aclose()
            space.client = None

    async def _list(self, namespace: str, space: _Namespace, _: str) -> str:
        """Replaces what is known, and answers the version to watch from."""
        found: list[Slice] = []
        page: dict[str, Any] = {}
        token = ""
        while True:
            query = {"limit": str(PAGE), **({"continue": token} if token else {})}
            async with self._answer(namespace, space, query) as lines:
                page = _object("".join([line async for line in lines]))
            found += page.get("items") or []
            token = page.get("metadata", {}).get("continue") or ""
            if not token:
                break
        names = {_name(one) for one in found}
        for name in space.slices.keys() - names:
            space.drop(name)
        for one in found:
            space.put(one)
        space.listed = True
        self._well(namespace)
        self._place(space)
        for service in list(space.followers):
            self._tell(space, service)
        return str(page.get("metadata", {}).get("resourceVersion", ""))

    async def _watch(self, namespace: str, space: _Namespace, version: str) -> str:
        """Until the server ends it; the version to go on from."""
        query = {
            "watch": "true",
            "resourceVersion": version,
            "allowWatchBookmarks": "true",
            "timeoutSeconds": str(int(WATCH_S * random.uniform(0.8, 1.2))),
        }
        async with self._answer(namespace, space, query) as lines:
            self._well(namespace)
            async for line in lines:
                if line:
                    version = self._event(space, _object(line)) or version
        return version

    def _event(self, space: _Namespace, event: Mapping[str, Any]) -> str:
        """Takes one event in; the version it brings."""
        kind, one = event.get("type"), event.get("object") or {}
        if kind == "ERROR":
            if one.get("code") == 410:
                raise Gone(str(one.get("message", "")))
            raise Away(f"the watch ended with {one.get('code')}: {str(one.get('message', ''))[:200]}")
        meta = one.get("metadata") or {}
        if kind in ("ADDED", "MODIFIED"):
            moved = space.put(one)
        elif kind == "DELETED":
            moved = space.drop(str(meta.get("name", "")))
        else:
            moved = set()
        if moved and not self._zone:
            self._place(space)
        for service in moved & space.followers.keys():
            self._tell(space, service)
        return str(meta.get("resourceVersion") or "")

    def _tell(self, space: _Namespace, service: str) -> None:
        known = [space.slices[name] for name in sorted(space.of.get(service, ()))]
        for follower in list(space.followers.get(service, ())):
            now = slices.addresses(known, follower.port, self._zone)
            if not now and follower.told:
                now = slices.remaining(known, follower.port, follower.told)
            if now != follower.told:
                follower.told = now
                follower.heard(now)

    def _place(self, space: _Namespace) -> None:
        """Our own zone, from the slice of the Service we are behind ourselves."""
        if not self._zone and self._cluster.ip:
            self._zone = slices.zone_of(space.slices.values(), self._cluster.ip)
            for service in list(space.followers) if self._zone else ():
                self._tell(space, service)

    def _well(self, namespace: str) -> None:
        if self.trouble:
            log.warning("endpointslices of %s: followed again", namespace)
        self.trouble = ""

    # The wire.

    def _answer(self, namespace: str, space: _Namespace, query: Mapping[str, str]) -> _Answer:
        if space.client is None:
            space.client = _client(self._cluster)
        url = f"{self._cluster.url}/apis/discovery.k8s.io/v1/namespaces/{namespace}/endpointslices"
        return _Answer(space.client, url, query, self._cluster.token_file)


class _Answer:
    """One GET, answered line by line. Raises Gone, Away."""

    def __init__(self, client: httpx.AsyncClient, url: str, query: Mapping[str, str], token_file: Path) -> None:
        self._client = client
        self._url = url
        self._query = query
        self._token_file = token_file
        self._response: httpx.Response | None = None

    async def __aenter__(self) -> AsyncIterator[str]:
        try:
            token = self._token_file.read_text().strip()
            request = self._client.build_request(
                "GET",
                self._url,
                params=dict(self._query),
                headers={"authorization": f"Bearer {token}", "accept": "application/json"},
                timeout=httpx.Timeout(CONNECT_S, read=SILENT_S),
            )
            self._response = await self._client.send(request, stream=True)
        except (OSError, httpx.HTTPError, ssl.SSLError) as error:
            raise Away(f"{type(error).__name__}: {error}" if str(error) else type(error).__name__) from error
        status = self._response.status_code
        if status == 410:
            raise Gone(self._url)
        if status != 200:
            why = await self._why(self._response)
            await self._response.aclose()
            raise Away(f"the API server answered {status}{why and f': {why}'}")
        return self._lines(self._response)

    @staticmethod
    async def _why(response: httpx.Response) -> str:
        """In the server's own words, which name the right that is missing; empty: it has none."""
        if response.status_code == 401:
            return "its token file holds no valid token"
        with suppress(httpx.HTTPError, Away):
            async for text in response.aiter_text(WORDS):
                return str(_object(text).get("message", ""))
        return ""

    @staticmethod
    async def _lines(response: httpx.Response) -> AsyncIterator[str]:
        try:
            async for line in response.aiter_lines():
                yield line
        except httpx.ReadTimeout:
            return  # silent for too long: as if the server had ended it
        except httpx.HTTPError as error:
            raise Away(f"{type(error).__name__}: {error}") from error

    async def __aexit__(self, *_: object) -> None:
        if self._response is not None:
            await self._response.aclose()


def _client(cluster: Cluster) -> httpx.AsyncClient:
    try:
        context: ssl.SSLContext | bool = (
            ssl.create_default_context(cafile=str(cluster.ca_file)) if cluster.url.startswith("https") else False
        )
    except OSError as error:
        raise Away(f"the API server's authority cannot be read from {cluster.ca_file}: {error.strerror}") from error
    return httpx.AsyncClient(verify=context, trust_env=False)


def _object(text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except ValueError as error:
        raise Away("the API server's answer is not JSON") from error
    if not isinstance(value, dict):
        raise Away("the API server's answer is not an object")
    return value


def _name(one: Slice) -> str:
    return str((one.get("metadata") or {}).get("name") or "")


def _service(one: Slice) -> str:
    return str(((one.get("metadata") or {}).get("labels") or {}).get(SERVICE_LABEL) or "")
