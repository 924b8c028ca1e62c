"""The controller's composition root: adapters by entry point, parts put together, threads started, API served.

    python -m headgate_controllers --data DIR --repo DIR|URL [--branch NAME]

Killed at any moment it comes back from its record: replicas and ops run on under their shims and are adopted.
"""

from __future__ import annotations

import logging
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import uvicorn

from headgate import secretrefs
from headgate.findings import Finding, HeadgateError
from headgate.ports import Tree
from headgate.reading import Reading, check_gates
from headgate.rollout import Event, Rollout
from headgate.table import RouteTable
from headgate_controllers import options as start
from headgate_controllers.acts import Acts
from headgate_controllers.adapters import Adapters
from headgate_controllers.api.access import Access
from headgate_controllers.api.app import application
from headgate_controllers.api.exchange import TABLE
from headgate_controllers.api.news import News
from headgate_controllers.collect import Collector
from headgate_controllers.commits import Commits
from headgate_controllers.controller import Controller
from headgate_controllers.evidence import Evidence
from headgate_controllers.heads import Heads
from headgate_controllers.judge import Judge
from headgate_controllers.leftovers import Leftovers
from headgate_controllers.options import Options
from headgate_controllers.reconcile import REPO, Reconciler
from headgate_controllers.records.sqlite import SqliteRecord
from headgate_controllers.repo import EndpointsRepo
from headgate_controllers.resolve import Outsiders
from headgate_controllers.room import room
from headgate_controllers.roster import Processes, Roster
from headgate_controllers.routes import Routes
from headgate_controllers.secrets import KeyStore
from headgate_controllers.tokens import Signers
from headgate_controllers.workers import Workers
from headgate_kit import log, telemetry
from headgate_policies import admission, idle

if TYPE_CHECKING:  # only a controller in a cluster needs the package `kubernetes`
    from headgate_controllers.leader import Leader
    from headgate_controllers.resources import Resources

logger = logging.getLogger("headgate.controller")


def main(arguments: Sequence[str] | None = None) -> int:
    options = start.parse(arguments, (__doc__ or "").partition("\n")[0])
    log.set_up("controller")
    telemetry.set_up("headgate-controller")
    try:
        return serve(options)
    except HeadgateError as error:
        print(error, file=sys.stderr)
        return 1


def serve(options: Options) -> int:
    options.data.prepare()
    adapters = Adapters()
    adapters.check(options)
    listening = start.bind(options)
    if not options.lease:
        return _control(options, adapters, start.token(options), listening, None)
    from headgate_controllers.leader import Leader, Standby, identity
    from headgate_kit.kube.client import Cluster

    signal.signal(signal.SIGTERM, _ended)  # as the first process of a container we would not hear it otherwise
    leader = Leader(Cluster.connect(), options.lease, identity())
    with Standby(listening):
        leader.wait()  # also for an API server that is away: what follows asks it
        token = start.token(options)
    try:
        return _control(options, adapters, token, listening, leader)
    finally:
        leader.close()


def _control(options: Options, adapters: Adapters, token: str, listening: socket.socket, leader: Leader | None) -> int:
    """Until it is told to stop, or is no longer the one to control."""
    news = News()
    parts = assemble(options, adapters, token, news, leader.holds if leader is not None else lambda: True)
    if leader is not None:
        leader.tell(lambda: _give_up(parts.controller))
    url = start.announce(options, listening)
    logger.info("control API at %s, following %s", url, parts.repo.shown)
    parts.start()
    try:
        _serve_api(parts.controller, news, listening)
    finally:
        parts.close()
    return 1 if leader is not None and leader.lost.is_set() else 0


def _give_up(controller: Controller) -> None:
    from headgate_controllers.leader import end_soon

    end_soon()
    controller.stopping.set()


def _ended(*_: object) -> None:
    sys.exit(128 + signal.SIGTERM)


def _serve_api(controller: Controller, news: News, listening: socket.socket) -> None:
    config = uvicorn.Config(
        application(controller, news), access_log=False, log_config=None, timeout_graceful_shutdown=2, ws="none"
    )
    server = uvicorn.Server(config)
    watcher = threading.Thread(target=_stop_when_asked, args=(controller, server, news), daemon=True)
    watcher.start()
    server.run(sockets=[listening])
    controller.stopping.set()


def _stop_when_asked(controller: Controller, server: uvicorn.Server, news: News) -> None:
    controller.stopping.wait()
    server.should_exit = True
    for topic in (TABLE, *controller.heads.names()):
        news.ring(topic)  # nobody's long poll holds up the end


@dataclass
class Parts:
    controller: Controller
    reconciler: Reconciler
    repo: EndpointsRepo
    engine: Any
    platform: Any
    acts: Acts
    record: SqliteRecord
    collector: Collector
    outsiders: Outsiders
    leftovers: Leftovers
    roster: Roster
    resources: Resources | None = None  # None: the record is shown nowhere else

    def start(self) -> None:
        self.platform.start()
        self.engine.start()
        self.reconciler.start()
        self.collector.start()
        self.leftovers.start()
        self.repo.watch(lambda: self.reconciler.wake(REPO))
        if self.resources is not None:
            self.resources.start()

    def close(self) -> None:
        """Replicas and ops run on, unless their end was asked for: they are adopted by the next controller."""
        if self.resources is not None:
            self.resources.close()
        self.repo.close()
        self.leftovers.close()
        self.collector.close()
        self.outsiders.close()
        self.reconciler.close()
        self.acts.close()
        self.engine.close()
        if self.controller.stop_replicas:
            for head in self.controller.heads.all():
                for revision in head.revisions:
                    self.platform.remove(head.endpoint, revision)
        self.platform.close()
        self.roster.close()
        self.record.close()


def assemble(
    options: Options, adapters: Adapters, token: str, news: News, may: Callable[[], bool] = lambda: True
) -> Parts:
    """`may`: see `Reconciler`."""
    data, clock = options.data, time.time
    record = SqliteRecord(data.record)
    secrets: KeyStore = adapters.one("secrets", options.secrets)(data)
    if options.platform == "kubernetes":
        _restore(record, secrets)
    heads = Heads(record, clock)
    roster = _roster(options)
    routes, workers = Routes(record, time.monotonic), Workers(time.monotonic, record, roster)
    evidence = Evidence(record, heads, clock)
    repo = EndpointsRepo(options.repo, data.mirror, options.branch, options.credentials)
    gates = adapters.gates()
    access = Access(token)
    holder: list[Reconciler] = []

    def wake(endpoint: str) -> None:
        if holder:
            holder[0].wake(endpoint)

    def checked(reading: Reading, tree: Tree) -> tuple[Finding, ...]:
        found = check_gates(reading, tree, {name: gate.params for name, gate in gates.items()})
        found = (*found, *idle.check(reading, tree, gates))
        found = (*found, *(admission.check(tree, [reading.target.endpoint]) if reading.target else ()))
        folders = getattr(platform, "runs", "folder") == "folder"
        return (*found, *secretrefs.unsupported(reading.target, tree)) if folders else found

    def workflow(rollout: Rollout) -> Mapping[str, Any]:
        build = adapters.one("pipeline", "rollout")
        found: Mapping[str, Any] = build(rollout.plan, rollout.id)
        return found

    def op_environment(workflow_name: str) -> Mapping[str, str]:
        return start.op_environment(options, access.op_token(workflow_name))

    platform = adapters.one("platform", options.platform)(data, on_change=wake)
    engine = adapters.one("engine", options.engine)(
        data, env=op_environment, on_change=lambda name: wake(_endpoint_of(heads, name))
    )
    outsiders = Outsiders(record, data.catalogues)
    on_cluster = getattr(platform, "runs", "folder") == "image"
    moot = frozenset({"clusters-only"}) if on_cluster else frozenset[str]()
    commits = Commits(repo, heads, record, checked, outsiders, moot)
    acts = Acts(
        heads=heads,
        platform=platform,
        engine=engine,
        servers={name: server() for name, server in adapters.all("server").items()},
        repo=repo,
        workflow=workflow,
        settings=commits.ground,
        keep=record.add_looks,
        wake=wake,
        certificate=start.certificate(),
    )
    signers = Signers(secrets, time.time)
    reconciler = Reconciler(
        commits=commits,
        heads=heads,
        routes=routes,
        workers=workers,
        judge=Judge(evidence, gates),
        platform=platform,
        engine=engine,
        acts=acts,
        keys=secrets.digests,
        signers=signers.public,
        record=record,
        clock=clock,
        may=may,
    )
    holder.append(reconciler)
    controller = Controller(
        record=record,
        heads=heads,
        routes=routes,
        workers=workers,
        evidence=evidence,
        commits=commits,
        reconciler=reconciler,
        platform=platform,
        repo=repo,
        secrets=secrets,
        signers=signers,
        access=access,
        router_url=lambda: start.router_url(options),
        room=lambda: room(data.root),
        clock=clock,
        gates=gates,
        scratch=data.sources,
    )

    def recorded(endpoint: str, _: tuple[Event, ...]) -> None:
        news.ring(endpoint)

    def published(_: RouteTable) -> None:
        news.ring(TABLE)

    attend = getattr(engine, "attend", None)
    if attend is not None:  # it asks for its ops itself, with no process of theirs
        answered = attend(controller.ask, access.is_op_token)
        heads.listen(lambda endpoint, _: answered(endpoint))

    soon = getattr(engine, "soon", None)
    if soon is not None:  # it would poll for what we know: an op that was answered ends
        heads.listen(lambda endpoint, events: _tell_ends(soon, events))
    heads.listen(recorded)
    routes.listen(published)
    shown = _resources(controller) if options.resources else None
    collector = Collector(
        heads=heads,
        evidence=evidence,
        gates=gates,
        kinds=adapters.all("source"),
        sources=lambda: commits.settings.metrics,
        instances=lambda: commits.settings.instance_types,
        tokens=data.metrics,
        clock=clock,
        wake=wake,
    )
    leftovers = Leftovers(data, heads.all, clock)
    return Parts(
        controller=controller,
        reconciler=reconciler,
        repo=repo,
        engine=engine,
        platform=platform,
        acts=acts,
        record=record,
        collector=collector,
        outsiders=outsiders,
        leftovers=leftovers,
        roster=roster,
        resources=shown,
    )


def _roster(options: Options) -> Roster:
    if options.platform != "kubernetes":
        return Processes(options.data)
    from headgate_controllers.platforms.kubernetes.routers import Pods
    from headgate_kit.kube.client import Cluster

    return Pods(Cluster.connect())


def _restore(record: SqliteRecord, secrets: KeyStore) -> None:
    """What this record is behind of, from the cluster."""
    from headgate_controllers.records.customresource import restore
    from headgate_kit.kube.client import Cluster

    cluster = Cluster.connect()
    try:
        restore(record, cluster, secrets.digests)
    finally:
        cluster.close()


def _resources(controller: Controller) -> Resources:
    from headgate_controllers.records.customresource import Copies
    from headgate_controllers.resources import Resources
    from headgate_kit.kube.client import Cluster

    copies = Copies(lambda: controller.routes.table, lambda: controller.commits.taken)
    made = Resources(Cluster.connect(), controller, lambda: bool(controller.commits.handled), copies=copies)
    controller.edited = made.drift
    return made


def _tell_ends(soon: Callable[[str], None], events: Iterable[Event]) -> None:
    for event in events:
        if event.kind == "op.passed" or event.kind.startswith("rollout."):
            soon(event.rollout)


def _endpoint_of(heads: Heads, workflow: str) -> str:
    return heads.endpoint_of(workflow) or REPO
