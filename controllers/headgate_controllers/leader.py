"""One controller at a time: a Lease that is held, renewed, given back. Who waits touches neither record nor cluster.

Clocks of two machines are never compared: a Lease is over when it was not renewed for its whole time by the clock of
whoever waits. Whoever holds it gives up earlier than that, so that two never act at once. A controller that loses it
ends; its platform starts it again, and it waits.
"""

from __future__ import annotations

import logging
import os
import socket
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from headgate.findings import ConflictError, HeadgateError
from headgate_kit.kube.client import Cluster
from headgate_kit.kube.kinds import LEASE

log = logging.getLogger("headgate.controller")

HELD_S = 15  # a Lease not renewed for this long is anybody's
GIVE_UP_S = 10.0  # the holder stops acting when it could not renew for this long: well before another may start
RENEW_S = 2.0
END_S = 4.0  # for a controller that lost its Lease to end by itself; then the process is ended


def identity() -> str:
    """A container that is restarted in its pod is the same holder, and goes on at once: the one before it is dead."""
    return os.environ.get("POD_NAME") or socket.gethostname()


@dataclass(slots=True)
class _Seen:
    """A renewal by somebody else, and when we first saw it on our own clock."""

    renewal: str
    at: float


class Leader:
    """Whoever wants to control."""

    def __init__(
        self, cluster: Cluster, name: str, holder: str, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._cluster = cluster
        self._name = name
        self._holder = holder
        self._on_lost: Callable[[], None] | None = None
        self.lost = threading.Event()
        self._clock = clock
        self._seen: _Seen | None = None
        self._renewed_at = 0.0
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._renew, name="lease", daemon=True)

    def acquire(self) -> bool:
        """One try. False: somebody else holds it, or the API server does not answer."""
        began = self._clock()
        try:
            found = self._cluster.get(LEASE, self._name)
            if found is None:
                self._cluster.create(LEASE, self._lease({}))
            elif self._free(found):
                self._take(found)
            else:
                return False
        except HeadgateError as error:
            log.warning("the Lease %s: %s", self._name, error)
            return False
        self._renewed_at = began
        return True

    def wait(self, every_s: float = RENEW_S) -> None:
        """Until it is ours; renewed from then on."""
        said = False
        while not self.acquire():
            if not said:
                log.info("another controller holds the Lease %s: waiting", self._name)
                said = True
            self._closing.wait(every_s)
        log.info("the Lease %s is ours, as %s", self._name, self._holder)
        self._thread.start()

    def holds(self) -> bool:
        """Whether nobody else may have it by now: asked before each thing that is done. A process that was stopped for
        longer than the Lease goes on where it was, before any thread of it has looked."""
        return not self.lost.is_set() and self._clock() - self._renewed_at <= GIVE_UP_S

    def tell(self, stop: Callable[[], None]) -> None:
        """`stop` is called when the Lease is no longer ours, on another thread; at once when it is lost already."""
        self._on_lost = stop
        if self.lost.is_set():
            stop()

    def close(self) -> None:
        """Gives it back, so that nobody waits for it to run out."""
        self._closing.set()
        if self._thread.is_alive() and self._thread is not threading.current_thread():
            self._thread.join(timeout=RENEW_S)
        try:
            found = self._cluster.get(LEASE, self._name)
            if found is not None and _holder(found) == self._holder:
                self._patch(found, {"holderIdentity": ""})
        except HeadgateError as error:
            log.info("the Lease %s is not given back, it runs out: %s", self._name, error)

    # --- the Lease ------------------------------------------------------------------------------------------------

    def _free(self, lease: Mapping[str, Any]) -> bool:
        if _holder(lease) in ("", self._holder):
            return True
        renewal = f"{_holder(lease)} {(lease.get('spec') or {}).get('renewTime')}"
        if self._seen is None or self._seen.renewal != renewal:
            self._seen = _Seen(renewal, self._clock())
        return self._clock() - self._seen.at > HELD_S

    def _take(self, found: Mapping[str, Any]) -> None:
        spec = found.get("spec") or {}
        ours = _holder(found) == self._holder
        self._patch(found, {"renewTime": _now()} if ours else self._lease(spec)["spec"])

    def _lease(self, before: Mapping[str, Any]) -> dict[str, Any]:
        spec = {
            "holderIdentity": self._holder,
            "leaseDurationSeconds": HELD_S,
            "acquireTime": _now(),
            "renewTime": _now(),
            "leaseTransitions": int(before.get("leaseTransitions") or 0) + bool(before),
        }
        return {"apiVersion": LEASE.api, "kind": LEASE.name, "metadata": {"name": self._name}, "spec": spec}

    def _patch(self, found: Mapping[str, Any], spec: Mapping[str, Any]) -> None:
        """Raises ConflictError: somebody wrote in between."""
        version = found["metadata"]["resourceVersion"]
        if self._cluster.patch(LEASE, self._name, {"metadata": {"resourceVersion": version}, "spec": spec}) is None:
            raise ConflictError(f"the Lease {self._name} was deleted")

    # --- its thread -----------------------------------------------------------------------------------------------

    def _renew(self) -> None:
        while not self._closing.wait(RENEW_S):
            if self.acquire():
                continue
            if self._taken() or self._clock() - self._renewed_at > GIVE_UP_S:
                log.error("the Lease %s is lost: this controller stops", self._name)
                self.lost.set()
                if self._on_lost is not None:
                    self._on_lost()
                return

    def _taken(self) -> bool:
        return self._seen is not None and self._seen.at >= self._renewed_at


def _holder(lease: Mapping[str, Any]) -> str:
    return str((lease.get("spec") or {}).get("holderIdentity") or "")


def _now() -> str:
    """For people who read the object; nothing is decided by it."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def end_soon() -> None:
    """Ends this process if it does not end by itself: who lost its Lease must not act any more."""
    timer = threading.Timer(END_S, os._exit, args=(1,))
    timer.daemon = True
    timer.start()


class _Standby(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        lives = self.path == "/healthz"
        body = b'{"status": "standby"}'
        self.send_response(200 if lives else 503)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Probes are not worth a line."""


class Standby:
    """Answers probes while we wait: alive, not ready, so that no Service sends anybody here. A context manager."""

    def __init__(self, listening: socket.socket) -> None:
        self._server = ThreadingHTTPServer(("", 0), _Standby, bind_and_activate=False)
        self._server.socket.close()
        self._server.socket = listening.dup()
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.1}, daemon=True)

    def __enter__(self) -> Standby:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
