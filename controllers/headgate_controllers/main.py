"""The controller's composition root: adapters by entry point, parts put together, threads started, API served.

    python -m headgate_controllers --data DIR --repo DIR|URL [--branch NAME]

Killed at any moment it comes back from its record: replicas and ops run on under their shims and are adopted.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import secrets as randomness
import socket
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import uvicorn

from headgate import plugins
from headgate.findings import Finding, HeadgateError, TerminalError
from headgate.ports import Tree
from headgate.reading import Reading, check_gates
from headgate.rollout import Event, Rollout
from headgate.table import RouteTable
from headgate_controllers.acts import Acts
from headgate_controllers.api.access import Access
from headgate_controllers.api.app import application
from headgate_controllers.api.exchange import TABLE
from headgate_controllers.api.news import News
from headgate_controllers.commits import Commits
from headgate_controllers.controller import Controller
from headgate_controllers.evidence import Evidence
from headgate_controllers.heads import Heads
from headgate_controllers.judge import Judge
from headgate_controllers.reconcile import REPO, Reconciler
from headgate_controllers.records.sqlite import SqliteRecord
from headgate_controllers.repo import EndpointsRepo
from headgate_controllers.room import room
from headgate_controllers.routes import Routes, Workers
from headgate_controllers.secrets.file import FileSecrets
from headgate_kit import log, telemetry
from headgate_kit.files import write_atomic
from headgate_kit.layout import DataFolder

logger = logging.getLogger("headgate.controller")

REPO_VARIABLE = "HEADGATE_REPO"  # a URL may hold a password, which argv would show to every user of the machine
PORTS = ("gate", "platform", "engine", "server", "pipeline")  # entry point groups, each with the prefix `headgate.`


@dataclass(frozen=True, slots=True)
class Options:
    data: DataFolder
    repo: str
    branch: str | None
    platform: str = "process"
    engine: str = "local"


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="headgate-controller", description=__doc__.partition("\n")[0])
    parser.add_argument("--data", type=Path, required=True, help="the data folder")
    parser.add_argument("--repo", help=f"the endpoints repo: a folder or a URL; default: ${REPO_VARIABLE}")
    parser.add_argument("--branch", help="the branch to follow; default: the repo's own")
    parser.add_argument("--platform", default="process", help="entry point of group headgate.platform")
    parser.add_argument("--engine", default="local", help="entry point of group headgate.engine")
    asked = parser.parse_args(arguments)
    repo = asked.repo or os.environ.get(REPO_VARIABLE)
    if not repo:
        parser.error(f"--repo or ${REPO_VARIABLE} must name the endpoints repo")
    log.set_up("controller")
    telemetry.set_up("headgate-controller")
    options = Options(DataFolder(asked.data.resolve()), repo, asked.branch, asked.platform, asked.engine)
    try:
        return serve(options)
    except HeadgateError as error:
        print(error, file=sys.stderr)
        return 1


def serve(options: Options) -> int:
    data = options.data
    data.prepare()
    token = _token(data)
    news = News()
    listening = socket.create_server(("127.0.0.1", _last_port(data)), reuse_port=False)
    url = f"http://127.0.0.1:{listening.getsockname()[1]}"
    parts = assemble(options, token, url, news)
    write_atomic(data.control, json.dumps({"url": url, "pid": os.getpid()}).encode())
    logger.info("control API at %s, following %s", url, parts.repo.shown)
    parts.start()
    try:
        _serve_api(parts.controller, news, listening)
    finally:
        parts.close()
    return 0


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

    def start(self) -> None:
        self.platform.start()
        self.engine.start()
        self.reconciler.start()
        self.repo.watch(lambda: self.reconciler.wake(REPO))

    def close(self) -> None:
        """Replicas and ops run on, unless their end was asked for: they are adopted by the next controller."""
        self.repo.close()
        self.reconciler.close()
        self.acts.close()
        self.engine.close()
        if self.controller.stop_replicas:
            for head in self.controller.heads.all():
                for revision in head.revisions:
                    self.platform.remove(head.endpoint, revision)
        self.platform.close()
        self.record.close()


def assemble(options: Options, token: str, url: str, news: News) -> Parts:
    data, clock = options.data, time.time
    loaded = {
        group: plugins.load(f"headgate.{group}") for group in ("gate", "platform", "engine", "server", "pipeline")
    }
    for group in loaded.values():
        for finding in group.findings:
            logger.error("%s", finding)
    record = SqliteRecord(data.record)
    heads = Heads(record, clock)
    routes, workers = Routes(record), Workers(clock)
    evidence = Evidence(record, heads, clock)
    repo = EndpointsRepo(options.repo, data.mirror, options.branch)
    gates = loaded["gate"].adapters
    access = Access(token)
    secrets = FileSecrets(data.secrets)
    holder: list[Reconciler] = []

    def wake(endpoint: str) -> None:
        if holder:
            holder[0].wake(endpoint)

    def checked(reading: Reading, tree: Tree) -> tuple[Finding, ...]:
        return check_gates(reading, tree, {name: gate.params for name, gate in gates.items()})

    def workflow(rollout: Rollout) -> Mapping[str, Any]:
        build = _adapter(loaded["pipeline"], "pipeline", "rollout")
        found: Mapping[str, Any] = build(rollout.plan, rollout.id)
        return found

    def op_environment(workflow_name: str) -> Mapping[str, str]:
        return {
            "HEADGATE_DATA": str(data.root),
            "HEADGATE_CONTROL_FILE": str(data.control),
            "HEADGATE_TOKEN": access.op_token(workflow_name),
        }

    platform = _adapter(loaded["platform"], "platform", options.platform)(data, on_change=wake)
    engine = _adapter(loaded["engine"], "engine", options.engine)(
        data, env=op_environment, on_change=lambda name: wake(_endpoint_of(heads, name))
    )
    commits = Commits(repo, heads, record, checked)
    acts = Acts(
        heads=heads,
        platform=platform,
        engine=engine,
        servers={name: server() for name, server in loaded["server"].adapters.items()},
        repo=repo,
        workflow=workflow,
        settings=lambda: commits.settings,
        wake=wake,
    )
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
        clock=clock,
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
        access=access,
        router_url=lambda: _router_url(data),
        room=lambda: room(data.root),
        clock=clock,
    )

    def recorded(endpoint: str, _: tuple[Event, ...]) -> None:
        news.ring(endpoint)

    def published(_: RouteTable) -> None:
        news.ring(TABLE)

    heads.listen(recorded)
    routes.listen(published)
    return Parts(controller, reconciler, repo, engine, platform, acts, record)


def _endpoint_of(heads: Heads, workflow: str) -> str:
    return next((h.endpoint for h in heads.all() if h.rollout and h.rollout.id == workflow), REPO)


def _adapter(loaded: plugins.Loaded, group: str, name: str) -> Any:
    if name not in loaded.adapters:
        raise TerminalError(f"no {group} named {name} is installed; there are: {', '.join(loaded.adapters) or 'none'}")
    return loaded.adapters[name]


def _token(data: DataFolder) -> str:
    """The operator token; made on the first start, kept over restarts so that ops and routers go on."""
    if data.token.exists():
        return data.token.read_text().strip()
    token = randomness.token_urlsafe(32)
    write_atomic(data.token, token.encode(), mode=0o600)
    return token


def _last_port(data: DataFolder) -> int:
    """The port of the last start, so that whoever talks to us need not look it up again; 0 when it is taken."""
    try:
        port = int(json.loads(data.control.read_text())["url"].rsplit(":", 1)[1])
        with socket.create_server(("127.0.0.1", port)):
            return port
    except (OSError, ValueError, KeyError, IndexError):
        return 0


def _router_url(data: DataFolder) -> str:
    try:
        return str(json.loads(data.router.read_text())["url"])
    except (OSError, ValueError, KeyError):
        return ""
