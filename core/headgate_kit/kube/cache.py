"""The objects of one kind, kept up to date by one watch. Reading it costs no request."""

from __future__ import annotations

import logging
import random
import threading
from collections.abc import Callable

from headgate.findings import HeadgateError
from headgate_kit.kube.client import Cluster, Gone, Object
from headgate_kit.kube.kinds import Kind

log = logging.getLogger(__name__)

PAUSE_S = (0.2, 10.0)  # between tries to reach the API server: first, most

Changed = Callable[[Object, bool], None]


class Cache:
    """Lists once, then watches; lists again when the watch cannot carry on. Never empty because the server is away.

    Args:
        on_change: told each object that is new, changed or (second argument True) gone; on the cache's thread.
    """

    def __init__(self, cluster: Cluster, kind: Kind, *, selector: str = "", on_change: Changed | None = None) -> None:
        self._cluster = cluster
        self._kind = kind
        self._selector = selector
        self._on_change = on_change
        self._objects: dict[str, Object] = {}
        self._ready = threading.Event()
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"watch-{kind.plural}", daemon=True)
        self.trouble = ""  # why it cannot be kept up to date just now; empty: it can

    def start(self, wait_s: float = 0.0) -> bool:
        """True once it holds what the server has; waits that long for it."""
        self._thread.start()
        return self._ready.wait(wait_s)

    def close(self) -> None:
        """Its thread ends with the next event or the watch's end; it holds nothing that must be given back."""
        self._closing.set()

    @property
    def ready(self) -> bool:
        return self._ready.is_set()

    def objects(self) -> list[Object]:
        """A moment's view. Do not change what is in it."""
        return list(self._objects.values())

    def get(self, name: str) -> Object | None:
        return self._objects.get(name)

    # --- its thread -----------------------------------------------------------------------------------------------

    def _run(self) -> None:
        version, pause = "", PAUSE_S[0]
        while not self._closing.is_set():
            try:
                version = self._follow(version) if version else self._list()
                self.trouble, pause = "", PAUSE_S[0]
            except Gone:
                version = ""
            except HeadgateError as error:
                self.trouble = str(error)
                log.warning("%s: %s; tried again in %.1f s", self._kind.plural, error, pause)
                self._closing.wait(pause * random.uniform(0.7, 1.3))
                version, pause = "", min(pause * 2, PAUSE_S[1])

    def _list(self) -> str:
        found, version = self._cluster.list(self._kind, selector=self._selector)
        fresh = {item["metadata"]["name"]: item for item in found}
        known, self._objects = self._objects, fresh
        self._ready.set()
        for name, item in fresh.items():
            before = known.get(name)
            if before is None or _version(before) != _version(item):
                self._tell(item, gone=False)
        for name in known.keys() - fresh.keys():
            self._tell(known[name], gone=True)
        return version

    def _follow(self, version: str) -> str:
        """Until the server ends the watch; the version to go on from."""
        for event in self._cluster.watch(self._kind, version, selector=self._selector):
            if self._closing.is_set():
                break
            version = _version(event.object) or version
            if event.type == "BOOKMARK":
                continue
            name = event.object["metadata"]["name"]
            gone = event.type == "DELETED"
            if gone:
                self._objects.pop(name, None)
            else:
                self._objects[name] = event.object
            self._tell(event.object, gone=gone)
        return version

    def _tell(self, item: Object, *, gone: bool) -> None:
        if self._on_change is not None:
            try:
                self._on_change(item, gone)
            except Exception:  # a listener's bug must not end the watch
                log.exception("%s %s: a listener failed", self._kind.name, item["metadata"]["name"])


def _version(item: Object) -> str:
    return str(item["metadata"].get("resourceVersion", ""))
