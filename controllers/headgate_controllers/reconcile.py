"""The loop: collect, decide, record, act, requeue. One thread; endpoints are independent of each other.

A pass starts from what is observed, not from what woke it, so running it twice changes nothing. Bad luck with one
endpoint (an exception) is logged, shown as a finding and tried again; the others go on.
"""

from __future__ import annotations

import heapq
import logging
import threading
import time
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace

from prometheus_client import Histogram

from headgate.actions import actions
from headgate.decide import next_at, step
from headgate.draft import Draft, Seen
from headgate.findings import HeadgateError, TransientError
from headgate.ports import Engine, Platform
from headgate.rollout import Head
from headgate.routing import Service, route
from headgate.table import EndpointRoute
from headgate_controllers.acts import Acts
from headgate_controllers.commits import Commits
from headgate_controllers.heads import Heads
from headgate_controllers.judge import Judge
from headgate_controllers.routes import Routes
from headgate_controllers.workers import Meta, Workers

log = logging.getLogger(__name__)

REPO = ""  # queue entry for "look at the repo"; no endpoint has an empty name
BUSY_S = 0.25  # between passes of an endpoint on its way, while passes change something; news wakes it sooner
CALM_S = 2.0  # and while they change nothing: for what nobody tells, such as a wait that a platform gives up
IDLE_S = 30.0  # between passes of one that has nothing to do: repairs what nobody told us of
IDLE_PASSES_PER_S = 10  # at most, however many endpoints there are: then each is looked at less often
CHUNK = 32  # endpoints between two looks at what is more urgent: about 50 ms
DELAYS_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)  # buckets
RETRY_S = 1.0
WATCHED_S = 10.0  # at most, from one pass of an endpoint on its way to the next: what is more nobody watched
NOTED_S = 2.0  # how often it is recorded that somebody watches
WATCHED = "watched-at"  # key in the record's meta
SOON_S = 0.01  # from when time changes something to the pass that finds it


class Reconciler:
    def __init__(
        self,
        *,
        commits: Commits,
        heads: Heads,
        routes: Routes,
        workers: Workers,
        judge: Judge,
        platform: Platform,
        engine: Engine,
        acts: Acts,
        keys: Callable[[str], Sequence[str]],
        signers: Callable[[str], Sequence[str]],
        record: Meta,
        clock: Callable[[], float],
        may: Callable[[], bool] = lambda: True,
    ) -> None:
        """`may`: whether this controller is the one to act; asked before each pass, and before each thing it does."""
        self._commits = commits
        self._heads = heads
        self._routes = routes
        self._workers = workers
        self._judge = judge
        self._platform = platform
        self._service: Service | None = getattr(platform, "service", None)  # optional in the port
        self._engine = engine
        self._acts = acts
        self._keys = keys
        self._signers = signers
        self._record = record
        self._clock = clock
        self._may = may
        self._watched_at = _time(record.meta_get(WATCHED))  # as recorded last; None: never
        self._passed_at: dict[str, float] = {}  # endpoint on its way -> its last pass
        self._news = threading.Condition()
        self._due: list[tuple[float, str]] = []
        self._next: dict[str, float] = {}
        self._closing = False
        self._calm: dict[str, tuple[int, float]] = {}  # endpoint on its way -> version of its head, the pause before
        self._unsaid: list[tuple[str, int, Mapping[str, int]]] = []  # published, not recorded yet
        self.delay = Histogram(
            "headgate_reconcile_seconds",
            "from when an endpoint was due to the end of its pass",
            buckets=DELAYS_S,
            registry=None,
        )
        self._thread = threading.Thread(target=self._run, name="reconcile", daemon=True)

    def start(self) -> None:
        for name in (REPO, *self._heads.names()):
            self.wake(name)
        self._thread.start()

    def close(self) -> None:
        with self._news:
            self._closing = True
            self._news.notify()
        self._thread.join(timeout=30)

    def wake(self, endpoint: str, after_s: float = 0.0) -> None:
        """Asks for a pass of this endpoint (or `REPO`) after so many seconds, at the latest."""
        at = time.monotonic() + after_s
        with self._news:
            known = self._next.get(endpoint)
            if known is not None and known <= at:
                return
            self._next[endpoint] = at
            heapq.heappush(self._due, (at, endpoint))
            self._news.notify()

    def _run(self) -> None:
        while True:
            due = self._take()
            if due is None:
                return
            if not self._may():
                for name in due:
                    self.wake(name, RETRY_S)
                continue
            if REPO in due:
                del due[REPO]
                self._guarded_passes(tuple(self._guarded_look()))  # a revert waits for nobody's routine pass
            self._guarded_passes(tuple(due))
            ended = time.monotonic()
            for at in due.values():
                self.delay.observe(ended - at)

    def _take(self) -> dict[str, float] | None:
        """Waits for what is due, `REPO` and at most `CHUNK` endpoints, and answers since when; None when closing."""
        with self._news:
            while not self._closing:
                now = time.monotonic()
                due: dict[str, float] = {}
                if (at := self._next.get(REPO, now + 1)) <= now:
                    del self._next[REPO]
                    due[REPO] = at
                while self._due and self._due[0][0] <= now and len(due) < CHUNK:
                    at, endpoint = heapq.heappop(self._due)
                    if self._next.get(endpoint) == at:
                        del self._next[endpoint]
                        due[endpoint] = at
                if due:
                    return due
                self._news.wait(self._due[0][0] - now if self._due else None)
            return None

    def _guarded_look(self) -> Iterable[str]:
        try:
            touched = self._commits.look()
            if self._commits.error:
                self.wake(REPO, RETRY_S)
            elif self._commits.again_s is not None:
                self.wake(REPO, self._commits.again_s)
            return touched
        except TransientError as error:
            log.warning("the newest commit cannot be taken up now; the last good state serves on: %s", error)
        except Exception:  # one bad commit must not end the loop; it is logged whole and looked at again
            log.exception("the newest commit could not be taken up; the last good state serves on")
        self.wake(REPO, RETRY_S)
        return ()

    def _guarded_passes(self, endpoints: Sequence[str]) -> None:
        try:
            self._passes(endpoints)
        except Exception:  # whatever it was, the loop lives on, and looks again
            log.exception("the passes broke off")
            for endpoint in endpoints:
                self.wake(endpoint, RETRY_S)

    def _route(self, head: Head, seen: Seen) -> EndpointRoute | None:
        mode = head.asked.router.auth_mode if head.asked else ""
        keys = self._keys(head.endpoint) if mode == "key" else ()
        signers = self._signers(head.endpoint) if mode == "aml_token" else ()
        return route(head, seen.replicas, keys, self._service, signers)

    def _passes(self, endpoints: Sequence[str]) -> None:
        """Decide for all, publish once, then act: traffic moves before anything slow is done."""
        decided: list[tuple[Head, Seen]] = []
        changed: dict[str, EndpointRoute | None] = {}
        for endpoint in endpoints:
            try:
                head, seen = self._decide(endpoint)
                changed[endpoint] = self._route(head, seen)
                decided.append((head, seen))
            except TransientError as error:
                log.warning("%s: the pass broke off and is tried again: %s", endpoint, error)
                self.wake(endpoint, RETRY_S)
            except Exception:  # one endpoint's trouble is not the others'; logged whole, tried again
                log.exception("%s: the pass broke off", endpoint)
                self.wake(endpoint, RETRY_S)
        if not self._may():
            for endpoint in endpoints:
                self.wake(endpoint, RETRY_S)
            return
        try:
            moved = self._routes.publish(changed, self._commits.handled)
        except HeadgateError as error:
            log.warning("the route table cannot be recorded, the last one serves on: %s", error)
            for endpoint in endpoints:
                self.wake(endpoint, RETRY_S)
            return
        self._unsaid += [self._split(name) for name in moved]
        self._say()
        if any(head.active for head, _ in decided):
            self._note_watch()
        for head, seen in decided:
            try:
                self._act(head, replace(seen, route=self._routes.table.endpoints.get(head.endpoint)))
                self.wake(head.endpoint, 0.0 if head.endpoint in moved else self._requeue_s(head))
            except Exception:  # an adapter may be anybody's; the others have their actions all the same
                log.exception("%s: what is decided could not be done, and is tried again", head.endpoint)
                self.wake(head.endpoint, RETRY_S)

    def _decide(self, endpoint: str) -> tuple[Head, Seen]:
        seen = self._collect(endpoint)
        grace = self._commits.settings.removal_grace_s

        def decide(draft: Draft) -> None:
            step(draft, seen, removal_grace_s=grace)

        self._heads.change(endpoint, decide)
        head = self._heads.get(endpoint)
        if head.active:
            self._passed_at[endpoint] = seen.now
        else:
            self._passed_at.pop(endpoint, None)
        return head, seen

    def _unseen_s(self, head: Head, now: float) -> float:
        """Of the time since the last pass, what nobody watched: this process was stopped, another one had not begun,
        the machine slept, or somebody set the clock."""
        last = self._passed_at.get(head.endpoint, self._watched_at)
        if head.active is None or last is None:
            return 0.0
        passed_s = now - last
        return passed_s - min(max(passed_s, 0.0), WATCHED_S)

    def _note_watch(self) -> None:
        now = self._clock()
        if self._watched_at is not None and 0.0 <= now - self._watched_at < NOTED_S:
            return
        try:
            self._record.meta_set(WATCHED, repr(now))
            self._watched_at = now
        except HeadgateError as error:  # then a controller that begins holds what runs for longer
            log.debug("that somebody watches is not recorded: %s", error)

    def _collect(self, endpoint: str) -> Seen:
        head = self._heads.get(endpoint)
        names = {*head.stopping, *([head.active.id] if head.active else [])}
        runs = {name: run for name in names if (run := self._engine.status(name)) is not None}
        current = runs.get(head.active.id) if head.active else None
        verdicts, result = self._judge.verdicts(head)
        now = self._clock()
        return Seen(
            now=now,
            unseen_s=self._unseen_s(head, now),
            replicas=tuple(self._platform.observe(endpoint)),
            route=self._routes.table.endpoints.get(endpoint),
            acked=self._workers.acked(),
            workflows={name: run.phase for name, run in runs.items()},
            workflow_message=current.message if current else "",
            verdicts=verdicts,
            result=result,
            smokes=self._acts.smokes(head.rollout),
            unasked=self._acts.unasked(head.rollout),
        )

    def _act(self, head: Head, seen: Seen) -> None:
        for action in actions(head, seen):
            if self._may():
                self._acts.perform(head, action)

    def _split(self, endpoint: str) -> tuple[str, int, Mapping[str, int]]:
        """Which generation splits how: what an answer's `headgate-generation` can be checked against."""
        found = self._routes.table.endpoints.get(endpoint)
        shares = {r.revision: r.per_mille for r in found.revisions} if found else {}
        return endpoint, found.generation if found else self._routes.table.generation, shares

    def _say(self) -> None:
        """Records the splits that were published; what the disk has no room for now is recorded later, in order."""
        while self._unsaid:
            endpoint, generation, shares = self._unsaid[0]

            def note(draft: Draft, generation: int = generation, shares: Mapping[str, int] = shares) -> None:
                draft.say("route.published", f"generation {generation}", generation=generation, revisions=shares)

            try:
                self._heads.change(endpoint, note)
            except HeadgateError as error:
                log.warning("generation %d of %s is not recorded yet: %s", generation, endpoint, error)
                self.wake(endpoint, RETRY_S)
                return
            del self._unsaid[0]

    def _requeue_s(self, head: Head) -> float:
        now = self._clock()
        soonest = next_at(head, now, removal_grace_s=self._commits.settings.removal_grace_s)
        busy = head.active or head.switch or head.stopping or (head.undo and head.undo.state == "wanted")
        pause_s = self._busy_s(head) if busy else self._idle_s(head)
        return pause_s if soonest is None else min(pause_s, max(SOON_S, soonest - now))

    def _busy_s(self, head: Head) -> float:
        """Longer each time while nothing changes. Where router workers or a way back are waited for it stays short:
        that a worker's lease ran out is told by nobody."""
        version = self._heads.version(head.endpoint)
        known, pause_s = self._calm.get(head.endpoint, (0, 0.0))
        op = head.active.running if head.active else None
        waits = head.active is None or (op is not None and bool(op.percent) and op.live_at is None)
        pause_s = BUSY_S if waits or known != version else min(2 * pause_s, CALM_S)
        self._calm[head.endpoint] = version, pause_s
        return pause_s

    def _idle_s(self, head: Head) -> float:
        """Spread by name, so that passes of many endpoints do not come all at once."""
        self._calm.pop(head.endpoint, None)
        idle_s = max(IDLE_S, self._heads.count() / IDLE_PASSES_PER_S)
        return idle_s * (0.75 + zlib.crc32(head.endpoint.encode()) % 1000 / 2000)


def _time(stored: str | None) -> float | None:
    try:
        return None if stored is None else float(stored)
    except ValueError:
        return None
