"""Doing what the head says: each action safe to repeat. The only place that touches platform, engine and git.

Quick ones run on the reconciler's thread; what waits for a network (the smoke request, a push) runs beside it and
wakes the endpoint when it is done. An action that fails is logged and comes again with the next pass.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from headgate import codec, secretrefs
from headgate.actions import Action, AskSmoke, End, EndSmoke, Revert, Run, StartSmoke, StopWorkflow, Submit
from headgate.draft import Draft
from headgate.evidence import Look, Verdict
from headgate.fault import Held
from headgate.findings import HeadgateError, TransientError
from headgate.ports import Engine, Platform, Server
from headgate.process import InstanceType, Settings
from headgate.rollout import Head, Rollout, State
from headgate.target import DeploymentTarget, Order, catalogue_of
from headgate.workload import Artifact, Load, Purpose, Workload
from headgate_controllers import smoke
from headgate_controllers.heads import Heads
from headgate_controllers.repo import EndpointsRepo
from headgate_controllers.revert import Reverted, undo

log = logging.getLogger(__name__)

N = TypeVar("N")
RETRY_S = 1.0


class Acts:
    def __init__(
        self,
        *,
        heads: Heads,
        platform: Platform,
        engine: Engine,
        servers: Mapping[str, Server],
        repo: EndpointsRepo,
        workflow: Callable[[Rollout], Mapping[str, Any]],
        settings: Callable[[], Settings],
        keep: Callable[[str, str, Sequence[Look]], None],
        wake: Callable[[str], None],
        certificate: Path | None = None,
    ) -> None:
        """`keep`: stores looks of a rollout's op as evidence. `certificate`: see `smoke.ask`."""
        self._certificate = certificate
        self._heads = heads
        self._platform = platform
        self._engine = engine
        self._servers = servers
        self._repo = repo
        self._workflow = workflow
        self._settings = settings
        self._keep = keep
        self._wake = wake
        self._beside = ThreadPoolExecutor(max_workers=4, thread_name_prefix="act")
        self._lock = threading.Lock()
        self._running: set[Hashable] = set()
        self._not_before: dict[Hashable, float] = {}  # monotonic clock
        self._applied: dict[tuple[str, str, Purpose], str] = {}
        self._smokes: dict[tuple[str, str], Verdict] = {}  # (rollout, revision) -> answer
        self._unasked: dict[tuple[str, str], Held] = {}  # (rollout, revision) -> why there is none yet

    def close(self) -> None:
        self._beside.shutdown(wait=True, cancel_futures=True)

    def perform(self, head: Head, action: Action) -> None:
        try:
            self._perform(head, action)
        except (HeadgateError, OSError) as error:
            log.warning("%s: %s: %s; tried again with the next pass", head.endpoint, type(action).__name__, error)

    def _perform(self, head: Head, action: Action) -> None:
        match action:
            case Run(revision):
                self._apply(head, revision, Purpose.SERVE)
            case StartSmoke(revision):
                self._apply(head, revision, Purpose.SMOKE)
            case End(revision):
                self._applied.pop((head.endpoint, revision, Purpose.SERVE), None)
                self._platform.remove(head.endpoint, revision)
            case EndSmoke(revision):
                self._applied.pop((head.endpoint, revision, Purpose.SMOKE), None)
                self._platform.apply(self._workload(head, revision, Purpose.SMOKE, replicas=0))
            case AskSmoke(revision, address):
                rollout = head.active
                if rollout is not None:
                    self._alongside(("smoke", rollout.id, revision), self._smoke, head, rollout, revision, address)
            case Submit():
                if head.active is not None:
                    self._engine.submit(self._workflow(head.active))
            case StopWorkflow(workflow):
                self._engine.stop(workflow)
            case Revert(op_key):
                self._alongside(("revert", op_key), self._revert, head)

    def _apply(self, head: Head, revision: str, purpose: Purpose) -> None:
        workload = self._workload(head, revision, purpose)
        key, value = (head.endpoint, revision, purpose), codec.digest(workload)
        if self._applied.get(key) != value:
            self._platform.apply(workload)
            self._applied[key] = value

    def _workload(self, head: Head, revision: str, purpose: Purpose, replicas: int | None = None) -> Workload:
        state = head.revisions[revision]
        asked = head.asked.revisions if head.asked else {}
        deployment = asked.get(revision, state.deployment)
        artifact = state.artifact
        assert artifact is not None  # actions() asks for nothing that is not built
        server = next((s for s in self._servers.values() if s.claims(deployment)), None)
        if server is None:
            raise HeadgateError(f"nothing here can serve a `{deployment.source.server}` deployment")
        plain, secrets = secretrefs.split(deployment.source.variables)
        launched = replace(deployment, source=replace(deployment.source, variables=plain)) if secrets else deployment
        kind = self._settings().instance_types.get(deployment.source.instance_type.lower())
        count = 1 if purpose is Purpose.SMOKE else head.instances(revision)
        scales = getattr(self._platform, "runs", "") == "image" and purpose is Purpose.SERVE and replicas is None
        scaling = deployment.run.scaling if scales and count else None
        return Workload(
            endpoint=head.endpoint,
            deployment=deployment.name,
            revision=revision,
            replicas=count if replicas is None else replicas,
            launch=server.launch(launched, artifact),
            purpose=purpose,
            liveness=deployment.run.liveness,
            readiness=deployment.run.readiness,
            memory_mb=round(kind.memory_gb * 1024) if kind else 0,
            cpus=kind.cpus if kind else 0.0,
            scoring_path=deployment.source.scoring_path,
            image=artifact.image,
            instance_type=deployment.source.instance_type.lower(),
            gpus=kind.gpus if kind else 0,
            gpu_resource=(kind or InstanceType()).gpu_resource,
            node_pool=kind.node_pool if kind else "",
            secrets=secrets,
            scaling=scaling,
            load=self._load(deployment) if scaling else None,
            fetch=self._order(deployment, artifact),
            # Going back at once needs what served before, as much of it as served.
            only_up=scaling is not None and (head.active is not None or state.warm_until is not None),
        )

    def _load(self, deployment: DeploymentTarget) -> Load | None:
        """None: its replicas are scaled by their cores."""
        settings = self._settings()
        source = settings.metrics.get(settings.keda)
        return Load(source.url, deployment.run.max_concurrent_per_instance) if source else None

    def _order(self, deployment: DeploymentTarget, artifact: Artifact) -> str:
        """What a replica fetches before it starts; empty: nothing."""
        pin = deployment.source.model
        if not artifact.apart or pin is None:
            return ""
        place = f"{artifact.location}/models/{pin.name}/{pin.version}"
        return codec.canonical(Order(pin, self._settings().catalogues.get(catalogue_of(pin)), place)).decode()

    # --- beside the reconciler's thread ---------------------------------------------------------------------------

    def _alongside(self, key: Hashable, work: Callable[..., None], head: Head, *arguments: Any) -> None:
        """Runs `work` once at a time per key and wakes the endpoint after it; what failed is left alone for a while."""
        with self._lock:
            if key in self._running or time.monotonic() < self._not_before.get(key, 0.0):
                return
            self._running.add(key)

        def run() -> None:
            try:
                work(head, *arguments)
            except (HeadgateError, OSError) as error:
                again_s = error.retry_after_s if isinstance(error, TransientError) else RETRY_S
                log.warning("%s: %s: %s; tried again in %g s", head.endpoint, key, error, again_s)
                self._leave_alone(key, again_s)
            except Exception:  # nobody waits for this: what is not said here is said nowhere, and asked again at once
                log.exception("%s: %s broke off; tried again in %g s", head.endpoint, key, RETRY_S)
                self._leave_alone(key, RETRY_S)
            finally:
                with self._lock:
                    self._running.discard(key)
                self._wake(head.endpoint)

        self._beside.submit(run)

    def _leave_alone(self, key: Hashable, seconds: float) -> None:
        """What is over by now holds nobody up, and nobody may ask for it again: it is not kept."""
        now = time.monotonic()
        with self._lock:
            self._not_before = {k: at for k, at in self._not_before.items() if at > now} | {key: now + seconds}

    def _smoke(self, head: Head, rollout: Rollout, revision: str, address: str) -> None:
        deployment = rollout.target.revisions[revision]
        sample = None
        if deployment.smoke_request is not None:
            tree = self._repo.tree(rollout.commit)
            sample = tree.read(deployment.smoke_request.path, smoke.REQUEST_LIMIT)
        quoted = not rollout.target.process.redact
        try:
            verdict, look = smoke.ask(address, deployment, sample, quoted=quoted, certificate=self._certificate)
        except smoke.NotAsked as error:
            self._note(self._unasked, rollout, revision, error.held)
            raise
        if look is not None:
            self._keep(rollout.id, smoke.PHASE, [look])
        self._note(self._smokes, rollout, revision, verdict)

    def _note(self, notes: dict[tuple[str, str], N], rollout: Rollout, revision: str, note: N) -> None:
        with self._lock:
            self._unasked.pop((rollout.id, revision), None)
            notes[(rollout.id, revision)] = note
            for key in [k for k in notes if k[0] != rollout.id and not self._heads.endpoint_of(k[0])]:
                del notes[key]  # its rollout ended while it was asked, and another came

    def smokes(self, rollout: Rollout | None) -> Mapping[str, Verdict]:
        """Revision -> answer to the sample request, of a running rollout; those of one that ended are forgotten."""
        return self._noted(self._smokes, rollout)

    def unasked(self, rollout: Rollout | None) -> Mapping[str, Held]:
        """Revision -> why its sample request cannot be asked now, of a running rollout."""
        return self._noted(self._unasked, rollout)

    def _noted(self, notes: dict[tuple[str, str], N], rollout: Rollout | None) -> Mapping[str, N]:
        if rollout is None:
            return {}
        with self._lock:
            found = {revision: note for (of, revision), note in notes.items() if of == rollout.id}
            if rollout.state is not State.RUNNING:
                for revision in found:
                    del notes[(rollout.id, revision)]
        return found

    def _revert(self, head: Head) -> None:
        owed = head.undo
        if owed is None:
            return
        others = {h.endpoint: set(h.asked.files) for h in self._heads.all() if h.asked and h.endpoint != head.endpoint}
        done = undo(self._repo, owed, others)

        def record(draft: Draft) -> None:
            note_undo(draft, owed.op_key, done)

        self._heads.change(head.endpoint, record)


def note_undo(draft: Draft, op_key: str, done: Reverted) -> None:
    """Records what became of the revert that was owed."""
    owed = draft.head.undo
    if owed is None or owed.op_key != op_key or owed.state != "wanted":
        return
    state = "done" if done.result else "refused"
    draft.set(undo=replace(owed, state=state, result=done.result or done.message))
    if done.findings:
        draft.set(findings=(*draft.head.findings, *done.findings))
    draft.say(f"revert.{state}", done.message, result=done.result)
