"""The controller as its API sees it: what can be asked of it and what it answers. `main.py` puts the parts together."""

from __future__ import annotations

import logging
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import IO, Any

from headgate import asks, codec, intent
from headgate.control import (
    EndpointStatus,
    ExchangeRequest,
    OperatorAction,
    OpReply,
    OpRequest,
    RolloutStatus,
    SystemStatus,
    TableStatus,
    VerdictStatus,
)
from headgate.draft import Draft
from headgate.findings import Finding, FindingsError, HeadgateError, TransientError
from headgate.ports import Platform
from headgate.rollout import Event, Head, Rollout
from headgate.table import EndpointRoute
from headgate.version import __version__
from headgate_controllers.api.access import Access
from headgate_controllers.approvals import Approvals
from headgate_controllers.capacity import Capacity
from headgate_controllers.commits import Commits
from headgate_controllers.evidence import Evidence
from headgate_controllers.heads import Heads
from headgate_controllers.reconcile import REPO, Reconciler
from headgate_controllers.records.sqlite import SqliteRecord
from headgate_controllers.repo import EndpointsRepo
from headgate_controllers.routes import Routes
from headgate_controllers.routes import status as table_status
from headgate_controllers.secrets import KeyStore
from headgate_controllers.status import agrees_with_git, endpoint_status, rollout_status
from headgate_controllers.tokens import Issued, Signers, wrong_mode
from headgate_controllers.traces import emit
from headgate_controllers.verdicts import Verdicts
from headgate_controllers.verify import drift
from headgate_controllers.workers import Workers
from headgate_kit.files import FULL, DiskFull

log = logging.getLogger(__name__)

SETTLE_S = 0.3  # longer than any pass between recording and publishing
KEPT_ROLLOUTS = 20  # of an endpoint, answered by GET /endpoints/NAME/rollouts


class NotFoundError(HeadgateError):
    """There is no such thing; the text says what."""


class Controller:
    """Owns nothing but the wiring between its parts; every answer is computed from the record and what is observed."""

    def __init__(
        self,
        *,
        record: SqliteRecord,
        heads: Heads,
        routes: Routes,
        workers: Workers,
        evidence: Evidence,
        commits: Commits,
        reconciler: Reconciler,
        platform: Platform,
        repo: EndpointsRepo,
        secrets: KeyStore,
        signers: Signers,
        access: Access,
        router_url: Callable[[], str],
        room: Callable[[], tuple[Finding, ...]],
        clock: Callable[[], float],
        gates: Mapping[str, Any],
        scratch: Path,
    ) -> None:
        """`scratch`: a folder for files on their way."""
        self.record = record
        self.heads = heads
        self.routes = routes
        self.workers = workers
        self.evidence = evidence
        self.commits = commits
        self.reconciler = reconciler
        self.access = access
        self._platform = platform
        self._repo = repo
        self._secrets = secrets
        self._signers = signers
        self._router_url = router_url
        self._room = room
        self._clock = clock
        self._scratch = scratch
        self._approvals = Approvals(evidence, gates)
        self.verdicts = Verdicts(record, gates, self._kept)
        self.capacity = Capacity(heads, platform, lambda: commits.settings)
        self.stopping = threading.Event()
        self.stop_replicas = False
        self.edited: Callable[[], tuple[str, ...]] = (
            tuple  # what a hand changed where the record is shown, and was put back
        )
        heads.listen(self._heard)
        heads.listen_ends(self._ended)

    # --- routers and ops ------------------------------------------------------------------------------------------

    def exchanged(self, message: ExchangeRequest) -> None:
        """One exchange of a router worker: stores its batches, and wakes whoever waited for it."""
        changed = self.workers.heard(message, self.routes.table.generation)
        touched = set(self.evidence.receive(message))
        if changed:
            touched |= {head.endpoint for head in self.heads.all() if head.active}
        for endpoint in touched:
            self.reconciler.wake(endpoint)

    def ask(self, verb: str, request: OpRequest) -> OpReply:
        reply = self._asked(verb, request)
        if reply.work is not None:
            return OpReply(reply.state, reply.message, {**reply.work, **self._ground()})
        return reply

    def _asked(self, verb: str, request: OpRequest) -> OpReply:
        found = self.capacity.look(verb, request.op_key, self.heads.get(request.endpoint))
        if found is None:
            return self.heads.change(request.endpoint, lambda draft: asks.ask(draft, verb, request))
        with self.capacity.admitting:
            room = self.capacity.room(found, self.heads.get(request.endpoint))
            return self.heads.change(request.endpoint, lambda draft: asks.ask(draft, verb, request, room))

    def _ground(self) -> Mapping[str, Any]:
        """What of headgate.yml a build needs."""
        settings = self.commits.settings
        return {
            "interpreters": dict(settings.interpreters),
            "catalogues": codec.to_data(settings.catalogues),
            "models": settings.models,
        }

    def source(self, endpoint: str, revision: str) -> IO[bytes]:
        """The files of one revision as a tar archive, paths as in the repo: an open file that is nowhere else, for a
        model may be larger than our memory. At its beginning; whoever asks closes it."""
        state = self.heads.get(endpoint).revisions.get(revision)
        if state is None:
            raise NotFoundError(f"{endpoint} has no revision {revision}")
        source = state.deployment.source
        paths = [source.code.path] if source.code else []
        if source.model and source.model.source:
            paths.append(source.model.source.path)  # a model of a catalogue outside the repo is the build's to fetch
        self._scratch.mkdir(mode=0o700, parents=True, exist_ok=True)
        out = tempfile.TemporaryFile(dir=self._scratch)  # noqa: SIM115  handed on
        try:
            self._repo.archive(state.commit, paths, out)
            out.seek(0)
        except OSError as error:
            out.close()
            if error.errno in FULL:
                raise DiskFull(self._scratch) from error
            raise
        except BaseException:
            out.close()
            raise
        return out

    def _heard(self, endpoint: str, _: tuple[Event, ...]) -> None:
        self.reconciler.wake(endpoint)

    def _ended(self, rollout: Rollout) -> None:
        emit(rollout)
        try:
            self.record.meta_set(f"rollout:{rollout.id}", codec.canonical(rollout).decode())
            self.record.collect()
        except TransientError as error:  # its end is recorded; only the look back at it is lost
            log.warning("%s is not kept for later: %s", rollout.id, error)

    # --- what people read ------------------------------------------------------------------------------------------

    def status(self) -> SystemStatus:
        url, acked = self._router_url(), self.workers.acked()  # once: both look at files
        endpoints = tuple(self._status_of(head, url, acked) for head in self.heads.all() if head.commit)
        return SystemStatus(
            version=__version__,
            repo=self._repo.shown,
            branch=self._repo.branch,
            commit=self.commits.seen or self.commits.handled,
            handled=self.commits.handled,
            repo_error=self.commits.error,
            endpoints=tuple(sorted(endpoints, key=lambda e: e.name)),
            workers=self.workers.status(),
            findings=(*self.commits.findings, *self._room(), *self._lacks()),
            drift=(*self._drift(), *self.edited()),
        )

    def _lacks(self) -> tuple[Finding, ...]:
        found: Callable[[], Iterable[Finding]] = getattr(self._platform, "findings", tuple)  # optional in the port
        return tuple(found())

    def endpoint_status(self, name: str) -> EndpointStatus:
        return self._status_of(self._head(name), self._router_url(), self.workers.acked())

    def _head(self, name: str) -> Head:
        head = self.heads.get(name)
        if not head.commit and not self.commits.handled:
            raise TransientError(f"no commit of {self._repo.shown} was read yet", retry_after_s=1.0)
        if not head.commit:
            known = ", ".join(h.endpoint for h in self.heads.all() if h.commit) or "none yet"
            raise NotFoundError(f"there is no endpoint {name}; known: {known}")
        return head

    def _status_of(self, head: Head, url: str, acked: int) -> EndpointStatus:
        name = head.endpoint
        route = self.routes.table.endpoints.get(name)
        return endpoint_status(
            head,
            url=f"{url}/endpoints/{name}/score",
            route=route,
            acked=acked,
            replicas=self._platform.observe(name),
            observed=self.evidence.observed(name, route.generation if route else 0),
        )

    def table(self, endpoint: str = "") -> TableStatus:
        """The live table, or one endpoint's part of it."""
        table = self.routes.table
        if endpoint:
            self._head(endpoint)
            kept = {name: route for name, route in table.endpoints.items() if name == endpoint}
            table = replace(table, endpoints=kept)
        return table_status(table, self.workers.acked(), self.workers.status(), self.evidence.observed)

    def rollout(self, rollout_id: str) -> RolloutStatus:
        found = self._kept(rollout_id)
        if found is None:
            raise NotFoundError(f"there is no rollout {rollout_id}")
        return self._shown(found)

    def _shown(self, rollout: Rollout) -> RolloutStatus:
        head = self.heads.get(rollout.target.endpoint)
        return rollout_status(rollout, head if head.rollout and head.rollout.id == rollout.id else None)

    def _kept(self, rollout_id: str) -> Rollout | None:
        """A rollout that runs, was the last of its endpoint, or is stored; None: there is none of that id."""
        last = self.heads.get(self.heads.endpoint_of(rollout_id)).rollout
        if last is not None and last.id == rollout_id:
            return last
        stored = self.record.meta_get(f"rollout:{rollout_id}")
        return codec.decode(Rollout, stored) if stored is not None else None

    def rollouts(self, name: str, commit: str = "") -> list[RolloutStatus]:
        """Newest first. With a commit, or the beginning of its id: the newest one that it asked for, if any."""
        found = (rollout for rollout in self._newest(name) if rollout.commit.startswith(commit))
        return [self._shown(rollout) for rollout in islice(found, 1 if commit else None)]

    def verdicts_of(self, name: str) -> list[VerdictStatus]:
        """Of every rollout that is kept, the newest first."""
        return self.verdicts.of(self._newest(name))

    def _newest(self, name: str) -> Iterator[Rollout]:
        head = self._head(name)
        started = [e.rollout for _, e in self.record.events(name, kind="rollout.started")]
        ids = list(dict.fromkeys(reversed(started)))[:KEPT_ROLLOUTS]
        if head.rollout and head.rollout.id not in ids:
            ids.insert(0, head.rollout.id)
        kept = (self._kept(rollout_id) for rollout_id in ids)
        return (found for found in kept if found is not None)  # None: collected since

    def events(self, name: str, after: int, limit: int) -> list[tuple[int, Event]]:
        """Oldest first, with their ids; of all endpoints without a name. One that is gone still has its events."""
        found = self.record.events(name or None, after=after, limit=limit)
        if name and not found and not after:
            self._head(name)
        return list(found)

    def generations(self, name: str) -> list[dict[str, Any]]:
        self._head(name)
        published = self.record.events(name, kind="route.published")
        return [{"at": e.at, **e.data} for _, e in published]

    def _drift(self) -> tuple[str, ...]:
        """Where git, record, table and counters disagree. Looked at twice: a record is published a moment later."""
        found = self._disagreements()
        if not found:
            return ()
        time.sleep(SETTLE_S)
        about = {line.partition(":")[0] for line in found}  # who: the numbers in a line move on
        return tuple(line for line in self._disagreements() if line.partition(":")[0] in about)

    def _disagreements(self) -> tuple[str, ...]:
        table, acked = self.routes.table, self.workers.acked()
        lines: list[str] = list(self.workers.refusals())
        for head in self.heads.all():
            route = table.endpoints.get(head.endpoint)
            lines += drift(
                endpoint=head.endpoint,
                asked=head.asked.traffic if head.asked and agrees_with_git(head) else None,
                decided=head.traffic,
                routed=route.split if route else {},
                generation=route.generation if route else 0,
                acked=acked if self.routes.settled(head.endpoint) else 0,
                observed=self._split_counts(route),
            )
        return tuple(lines)

    def _split_counts(self, route: EndpointRoute | None) -> Mapping[str, int]:
        """What the split sent where since this route is live; a sticky caller follows a point, not a share."""
        return self.evidence.split(route.name, route.generation) if route and route.sticky == "none" else {}

    # --- what people do --------------------------------------------------------------------------------------------

    def operate(self, name: str, action: str, body: OperatorAction) -> str:
        head = self._head(name)
        if action in ("approve", "reject"):
            said, op = self._approvals.sign(head, body, approved=action == "approve")
            self.heads.change(name, lambda draft: draft.say(f"operator.{action}", said, op=op))
            self.reconciler.wake(name)
            return said

        def act(draft: Draft) -> str:
            return intent.operate(
                draft, action, who=body.who, why=body.why, to=body.to, full=body.full, git_only=body.git_only
            )

        message = self.heads.change(name, act)
        self.reconciler.wake(name)
        return message

    def keys(self, name: str) -> Mapping[str, str]:
        """Raises FindingsError: the endpoint takes no keys."""
        self._takes(name, "key")
        keys = self._secrets.keys(name)
        return {"primary": keys.primary, "secondary": keys.secondary}

    def token(self, name: str, ttl_s: int, who: str) -> Issued:
        """Raises FindingsError: the endpoint takes no tokens of ours. ValueError: it may not live so long."""
        self._takes(name, "aml_token")
        issued = self._signers.issue(name, ttl_s, who)
        self.heads.change(name, lambda draft: draft.say("token.issued", f"to {who}, for {ttl_s} s"))
        return issued

    def rotate(self, name: str, which: str) -> Mapping[str, str]:
        """A new key; `signing`: a new key pair, which takes back every token. Raises FindingsError, as those two."""
        signing = which == "signing"
        self._takes(name, "aml_token" if signing else "key")
        if signing:
            self._signers.replace(name)
        else:
            self._secrets.rotate(name, which)
        self.reconciler.wake(name)
        self.heads.change(name, lambda draft: draft.say("keys.rotated", f"{which} key"))
        return {} if signing else self.keys(name)

    def _takes(self, name: str, mode: str) -> None:
        head = self._head(name)
        target = head.asked or (head.stable.target if head.stable else None)
        asked = target.router.auth_mode if target else "key"
        if asked != mode:
            raise FindingsError(wrong_mode(name, asked))

    def logs(self, name: str, deployment: str, kind: str, follow: bool) -> Iterator[bytes]:
        self._head(name)
        known = self._platform.observe(name)
        replicas = [r for r in known if not deployment or r.deployment == deployment]
        if not replicas:
            there = ", ".join(sorted({r.deployment for r in known})) or "none"
            raise NotFoundError(
                f"{name} has no replica{f' of {deployment}' if deployment else ''} here; known: {there}"
            )
        return self._log_lines(replicas, kind, follow)

    def _log_lines(self, replicas: list[Any], kind: str, follow: bool) -> Iterator[bytes]:
        for replica in replicas:
            if len(replicas) > 1:
                yield f"==> {replica.deployment}@{replica.revision[:10]} #{replica.index}\n".encode()
            yield from self._platform.logs(replica, follow=follow and replica is replicas[-1], kind=kind)

    def sync(self, accepted: str) -> None:
        if accepted:
            self.commits.accept_rewrite(accepted)
        self.reconciler.wake(REPO)

    def shut_down(self, replicas: bool) -> None:
        self.stop_replicas = replicas
        self.stopping.set()
