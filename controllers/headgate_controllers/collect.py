"""Asks metric sources what the gates of running ops need, and makes evidence of the answers.

One thread looks what is due; a few others ask, so that a source that hangs holds up only its own questions. A question
that is still open is not asked again. An answer that comes when its op has ended is dropped. Refuses to judge.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from headgate.evidence import INSTANCE, Need, Sample
from headgate.findings import TransientError
from headgate.params import parse
from headgate.ports import EvidenceSource, Window
from headgate.process import InstanceType, MetricSource, Process
from headgate.rollout import Head, kind_of
from headgate_controllers.evidence import Evidence
from headgate_controllers.heads import Heads
from headgate_controllers.instances import fact
from headgate_policies.judge import resolve

log = logging.getLogger(__name__)

ASKING = 4  # questions at once
TICK_S = 0.5
MAX_TOKEN = 16 * 1024
Key = tuple[str, str, str, str]  # rollout, op, source, query


class Collector:
    def __init__(
        self,
        *,
        heads: Heads,
        evidence: Evidence,
        gates: Mapping[str, Any],
        kinds: Mapping[str, Any],
        sources: Callable[[], Mapping[str, MetricSource]],
        instances: Callable[[], Mapping[str, InstanceType]],
        tokens: Path,
        clock: Callable[[], float],
        wake: Callable[[str], None],
    ) -> None:
        """
        Args:
            kinds: adapters of `headgate.source`, by name.
            sources: headgate.yml's `metrics`, as they are now.
            instances: its `instance_types`, by lower-case name.
            tokens: a folder of files named host or host:port, each with the token for that host.
        """
        self._heads = heads
        self._evidence = evidence
        self._gates = gates
        self._kinds = kinds
        self._sources = sources
        self._instances = instances
        self._tokens = tokens
        self._clock = clock
        self._wake = wake
        self._asked: dict[Key, float] = {}  # when, by a clock that only goes forward
        self._open: set[Key] = set()
        self._needs: dict[str, Sequence[Need]] = {}  # rollout -> what its gates need: reading them takes a millisecond
        self._made: dict[tuple[MetricSource, str], EvidenceSource] = {}  # (source, token) -> adapter
        self._closing = threading.Event()
        self._pool = ThreadPoolExecutor(ASKING, thread_name_prefix="metric")
        self._thread = threading.Thread(target=self._run, name="collect", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        self._closing.set()
        if self._thread.is_alive():
            self._thread.join(timeout=10)
        self._pool.shutdown(wait=False, cancel_futures=True)
        for made in self._made.values():
            made.close()

    def _run(self) -> None:
        while not self._closing.wait(TICK_S):
            try:
                self.tick(time.monotonic())
            except Exception:  # the loop lives on; whatever it was is logged whole
                log.exception("metric sources could not be asked")

    def tick(self, now: float) -> None:
        """Asks everything that is due. `now` is a monotonic clock's."""
        wanted: set[Key] = set()
        for head in self._heads.all():
            for key, need in self._questions(head):
                wanted.add(key)
                due = self._asked.get(key, -need.every_s) + need.every_s
                if key not in self._open and now >= due:
                    self._asked[key] = now
                    self._open.add(key)
                    self._pool.submit(self._ask, head.endpoint, key, need)
        self._asked = {key: at for key, at in self._asked.items() if key in wanted}
        rollouts = {head.active.id for head in self._heads.all() if head.active}
        self._needs = {rollout: found for rollout, found in self._needs.items() if rollout in rollouts}

    def _questions(self, head: Head) -> Iterator[tuple[Key, Need]]:
        rollout = head.active
        if rollout is None:
            return iter(())
        found = self._needs.get(rollout.id)
        if found is None:
            found = self._needs[rollout.id] = needs(rollout.target.process, self._gates)
        return questions(head, found)

    def _ask(self, endpoint: str, key: Key, need: Need) -> None:
        try:
            head = self._heads.get(endpoint)
            samples = [self._sample(head, need, window) for window in windows(head, need, self._clock())]
            head = self._heads.get(endpoint)
            if samples and any(known == key for known, _ in self._questions(head)):
                self._evidence.note(head, samples=samples)
                self._wake(endpoint)
        except TransientError as error:
            log.warning("%s: what %s answered cannot be stored now: %s", endpoint, need.source, error)
        except Exception:  # a source may be anybody's
            log.exception("%s: asking %s broke off", endpoint, need.source)
        finally:
            self._open.discard(key)

    def _sample(self, head: Head, need: Need, window: Window) -> Sample:
        if need.source == INSTANCE:
            return fact(head, self._instances(), need, window)
        source = self._sources().get(need.source)
        adapter = self._kinds.get(source.kind) if source else None
        if source is None or adapter is None:
            said = f"there is no kind of source `{source.kind}`" if source else "headgate.yml has no such source"
            return Sample(need.source, need.query, window.arm, None, "refused", said)
        try:
            token = token_of(self._tokens, source.url)
            if (source, token) not in self._made:
                self._made[(source, token)] = adapter(source, token)
            return self._made[(source, token)].collect(need, window)
        except Exception as error:  # noqa: BLE001  a source may be anybody's: what it raises is no value
            return Sample(need.source, need.query, window.arm, None, "refused", f"it broke: {type(error).__name__}")


def questions(head: Head, wanted: Sequence[Need]) -> Iterator[tuple[Key, Need]]:
    """What is to be asked for the endpoint's running op; gates that ask the same share the answer."""
    rollout = head.active
    op = rollout.running if rollout else None
    if rollout is None or op is None or op.live_at is None:
        return
    kind = kind_of(rollout, op, head.traffic)
    shared: dict[Key, Need] = {}
    for need in wanted:
        if kind and kind in need.phases:
            key = (rollout.id, op.name, need.source, need.query)
            known = shared.get(key)
            shared[key] = need if known is None else _both(known, need)
    yield from shared.items()


def _both(one: Need, other: Need) -> Need:
    arms = tuple(arm for arm in ("candidate", "stable") if arm in (*one.arms, *other.arms))
    often, oldest = min(one.every_s, other.every_s), min(one.max_age_s, other.max_age_s)
    return Need("sample", one.phases, one.source, one.query, arms, often, oldest)


def needs(process: Process, gates: Mapping[str, Any]) -> Sequence[Need]:
    """The samples that the gates of a process need."""
    found: list[Need] = []
    for name, data in sorted(process.gates.items()):
        resolved = resolve(name, gates)
        params = parse(resolved[0].params, {**resolved[1], **data})[0] if resolved else None
        if resolved and params is not None:
            found += [need for need in resolved[0].needs(params) if need.kind == "sample" and need.query]
    return found


def windows(head: Head, need: Need, now: float) -> Iterator[Window]:
    """Whom to ask about: the candidate, and of the stable revisions the one with the most traffic."""
    rollout = head.active
    if rollout is None:
        return
    candidate = rollout.plan.candidate
    others = {r: share for r, share in (head.traffic or rollout.start).items() if r != candidate}
    others = others or {r: share for r, share in rollout.start.items() if r != candidate}
    stable = min(others, key=lambda r: (-others[r], r), default="")
    for arm, revision in (("candidate", candidate), ("stable", stable)):
        if arm in need.arms and revision:
            state = head.revisions.get(revision)
            yield Window(head.endpoint, state.deployment.name if state else "", revision, arm, now)


def token_of(folder: Path, url: str) -> str:
    """The token for a URL's host; empty: there is none. By host, so that a changed URL takes no token elsewhere."""
    parts = urlsplit(url)
    host = (parts.hostname or "").lower()
    names = [f"{host}:{parts.port}", host] if parts.port else [host]
    for name in names:
        file = folder / name
        if host and "/" not in name and name not in (".", "..") and file.is_file():
            with file.open("rb") as opened:
                return opened.read(MAX_TOKEN).decode(errors="replace").strip()
    return ""
