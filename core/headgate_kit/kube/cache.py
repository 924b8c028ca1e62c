"""The objects of one kind, kept up to date by one watch. Reading it costs no request."""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable

from headgate.findings import HeadgateError, TransientError
from headgate_kit.kube.client import Cluster, Gone, Object, Watch
from headgate_kit.kube.kinds import Kind

log = logging.getLogger(__name__)

PAUSE_S = (0.2, 10.0)  # between tries to reach the API server: first, most
RESUMES = 3  # a watch that breaks this often without one event is not resumed: a list shows where we are
STOOD_S = 10.0  # a watch that ends sooner, and brought nothing, did not work
CLOSE_S = 5.0

Changed = Callable[[Object, bool], None]


class Cache:
    """Lists once, then watches; lists again when the watch cannot carry on. Never empty because the server is away.

    Args:
        on_change: told each object that is new, changed or (second argument True) gone; on the cache's thread.
        keep: what of an object is held in memory, `metadata.name` and `.resourceVersion` at least; None: all.
    """

    def __init__(
        self,
        cluster: Cluster,
        kind: Kind,
        *,
        selector: str = "",
        on_change: Changed | None = None,
        keep: Callable[[Object], Object] | None = None,
    ) -> None:
        self._cluster = cluster
        self._kind = kind
        self._selector = selector
        self._on_change = on_change
        self._keep = keep
        self._objects: dict[str, Object] = {}
        self._ready = threading.Event()
        self._closing = threading.Event()
        self._random = random.Random()  # drawn from in its thread: whoever seeds the common one is left alone
        self._seen = ""  # the version up to which we have followed
        self._watch: Watch | None = None
        self._thread = threading.Thread(target=self._run, name=f"watch-{kind.plural}", daemon=True)
        self.trouble = ""  # why it cannot be kept up to date just now; empty: it can

    def start(self, wait_s: float = 0.0) -> bool:
        """True once it holds what the server has; waits that long for it."""
        self._thread.start()
        return self.wait(wait_s)

    def wait(self, wait_s: float) -> bool:
        """True once it holds what the server has."""
        return self._ready.wait(max(0.0, wait_s))

    def close(self) -> None:
        """Its thread ends. What it holds stays readable."""
        self._closing.set()
        if self._watch is not None:
            self._watch.close()
        if self._thread.is_alive() and self._thread is not threading.current_thread():
            self._thread.join(CLOSE_S)

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
        version, pause, broken, gone = "", PAUSE_S[0], 0, 0
        while not self._closing.is_set():
            try:
                if version:
                    version, pause, broken, gone = self._follow(version), PAUSE_S[0], 0, 0
                else:
                    version = self._list()  # where this is allowed and watching is not, the pauses still grow
                self.trouble = ""
            except Gone as error:
                if self._brought(version):
                    pause, broken, gone = PAUSE_S[0], 0, 0
                gone += 1
                if gone == 1 and version:  # one list shows where we are; what is too old at once again is not the past
                    log.info("%s: listed again: %s", self._kind.plural, error)
                else:
                    self._rest_after_gone(error, pause, first=gone == 2)
                    pause = min(pause * 2, PAUSE_S[1])
                version = ""
            except HeadgateError as error:
                if self._closing.is_set():
                    return
                if self._brought(version):
                    pause, broken, gone = PAUSE_S[0], 0, 0
                told = error.retry_after_s if isinstance(error, TransientError) else 0.0
                rest = max(self._some(pause), told if told > 1.0 else 0.0)
                self.trouble, broken = str(error), broken + 1
                log.warning("%s: %s; tried again in %.1f s", self._kind.plural, error, rest)
                self._closing.wait(rest)
                version = self._seen if broken < RESUMES else ""
                pause = min(pause * 2, PAUSE_S[1])

    def _brought(self, version: str) -> bool:
        """Whether the watch from this version told anything before it ended."""
        return bool(version) and self._seen != version

    def _some(self, pause: float) -> float:
        return pause * self._random.uniform(0.7, 1.3)

    def _rest_after_gone(self, error: Gone, pause: float, *, first: bool) -> None:
        """Each round is a whole list: a server that refuses every watch is not asked for all without a pause."""
        self.trouble, rest = str(error), self._some(pause)
        level = logging.WARNING if first else logging.DEBUG
        words = "%s: no watch stands, listed again and again, more and more rarely: %s; in %.2f s"
        log.log(level, words, self._kind.plural, error, rest)
        self._closing.wait(rest)

    def _list(self) -> str:
        found, version = self._cluster.list(self._kind, selector=self._selector, keep=self._lean)
        fresh = {item["metadata"]["name"]: item for item in found}
        known, self._objects = self._objects, fresh
        self._ready.set()
        for name, item in fresh.items():
            before = known.get(name)
            if before is None or _version(before) != _version(item):
                self._tell(item, gone=False)
        for name in known.keys() - fresh.keys():
            self._tell(known[name], gone=True)
        self._seen = version
        return version

    def _follow(self, version: str) -> str:
        """Until the server ends the watch; the version to go on from. Raises TransientError: it ended at once."""
        began = time.monotonic()
        self._watch = watch = self._cluster.watch(self._kind, version, selector=self._selector)
        if self._closing.is_set():
            watch.close()
        for event in watch:
            self._seen = _version(event.object) or self._seen
            if event.type != "BOOKMARK":
                self._take(self._lean(event.object), gone=event.type == "DELETED")
            self.trouble = ""
        if self._seen == version and time.monotonic() - began < STOOD_S and not self._closing.is_set():
            raise TransientError(f"the watch of {self._kind.plural} was ended at once")
        return self._seen

    def _lean(self, item: Object) -> Object:
        """Without what only the server needs: it is half of a small object."""
        item["metadata"].pop("managedFields", None)
        return self._keep(item) if self._keep else item

    def _take(self, item: Object, *, gone: bool) -> None:
        name = item["metadata"]["name"]
        if gone:
            self._objects.pop(name, None)
        else:
            self._objects[name] = item
        self._tell(item, gone=gone)

    def _tell(self, item: Object, *, gone: bool) -> None:
        if self._on_change is not None:
            try:
                self._on_change(item, gone)
            except Exception:  # a listener's bug must not end the watch
                log.exception("%s %s: a listener failed", self._kind.name, item["metadata"]["name"])


def _version(item: Object) -> str:
    return str(item["metadata"].get("resourceVersion", ""))
