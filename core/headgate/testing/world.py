"""A small world to try decisions in.

`World` stands for platform, engine and routers as the kernel sees them: it does what `actions()` says, instantly or
not at all, and can lose anything. No process, no clock.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from headgate import codec
from headgate.actions import Action, AskSmoke, End, EndSmoke, Revert, Run, StartSmoke, StopWorkflow, Submit, actions
from headgate.asks import ask
from headgate.capacity import Fit
from headgate.control import OpReply, OpRequest, OpState
from headgate.decide import step
from headgate.draft import Draft, Seen
from headgate.evidence import Result, Verdict
from headgate.fault import Fault, Held
from headgate.intent import accept, forget, operate
from headgate.rollout import Event, Head, State
from headgate.routing import route, same
from headgate.table import EndpointRoute
from headgate.target import Target
from headgate.testing.values import verdict
from headgate.workload import Artifact, Purpose, Replica, ReplicaState


@dataclass
class World:
    """One endpoint's surroundings. `run()` passes until nothing changes; time moves only by `wait`."""

    head: Head = field(default_factory=lambda: Head("fraud"))
    now: float = 1_000.0
    events: list[Event] = field(default_factory=list)
    replicas: dict[tuple[str, Purpose, int], Replica] = field(default_factory=dict)
    route: EndpointRoute | None = None
    generation: int = 0
    acked: int = 0
    acking: bool = True  # routers answer at once
    workflows: dict[str, str] = field(default_factory=dict)  # name -> phase
    result: Result | None = None  # what the gates say of the running op
    smoke_result: Result = Result.PASS
    smokes: dict[tuple[str, str], Verdict] = field(default_factory=dict)
    broken: set[str] = field(default_factory=set)  # revisions whose replicas never get ready
    fault: Fault | None = None  # of the installation: whoever gets broken is so by it
    unasked: Held | None = None  # of the installation: no sample request gets through
    room: Fit | None = None  # what an op that starts replicas is told of the cluster
    pool: int = 1_000  # replicas that find a place; the others wait for one
    reverted: list[str] = field(default_factory=list)  # op keys, in order
    stuck: bool = False  # nothing that is decided is done: a controller killed between record and act

    def draft(self) -> Draft:
        return Draft(self.head, self.now)

    def keep(self, draft: Draft) -> None:
        """Records: the head survives only as what its JSON says."""
        self.head = codec.decode(Head, codec.canonical(draft.head))
        self.events += draft.events

    def seen(self) -> Seen:
        rollout = self.head.rollout
        op = rollout.running if rollout else None
        live = op is not None and op.live_at is not None
        verdicts = (verdict(self.result),) if live and self.result else ()
        return Seen(
            now=self.now,
            replicas=tuple(self.replicas.values()),
            route=self.route,
            acked=self.acked,
            workflows=dict(self.workflows),
            verdicts=verdicts,
            result=self.result if verdicts else None,
            unasked={r.revision: self.unasked for r in self.replicas.values()} if self.unasked else {},
            smokes={r: v for (ro, r), v in self.smokes.items() if rollout and ro == rollout.id},
        )

    def step(self) -> bool:
        """One pass of the controller and one ask of the workflow's next op; whether anything changed."""
        before = self._shape()
        draft = self.draft()
        step(draft, self.seen(), removal_grace_s=600)
        self.keep(draft)
        if not self.stuck:
            self._publish()
            for action in actions(self.head, replace(self.seen(), route=self.route)):
                self._do(action)
            self._place()
            self._ask_next()
        return before != self._shape()

    def _shape(self) -> tuple[object, ...]:
        return self.head, self.route, dict(self.replicas), dict(self.workflows), dict(self.smokes), self.acked

    def run(self, passes: int = 60) -> World:
        for _ in range(passes):
            if not self.step():
                return self
        raise AssertionError("the world does not come to rest")

    def commit(self, wanted: Target) -> World:
        """Git asks this from now on."""
        draft = self.draft()
        accept(draft, wanted)
        self.keep(draft)
        return self.run()

    def forget(self) -> World:
        """Its folder is gone from git."""
        draft = self.draft()
        forget(draft, "f" * 40)
        self.keep(draft)
        return self.run()

    def operate(self, action: str, *, to: str = "", full: bool = False, git_only: bool = False) -> World:
        """A person acts. Raises ValueError: it cannot be."""
        draft = self.draft()
        operate(draft, action, who="ada", why="", to=to, full=full, git_only=git_only)
        self.keep(draft)
        return self

    def wait(self, seconds: float) -> World:
        self.now += seconds
        return self.run()

    def ask(self, name: str, verb: str = "", **arguments: str) -> OpReply:
        rollout = self.head.rollout
        assert rollout is not None
        draft = self.draft()
        request = OpRequest(f"{rollout.id}/{name}", self.head.endpoint, arguments)
        reply = ask(draft, verb or name.split("-")[0], request, self.room)
        if reply.state is OpState.WORK and reply.work:
            made = {b["revision"]: codec.to_data(Artifact(b["revision"], "bundle")) for b in reply.work["builds"]}
            reply = ask(draft, "build", replace(request, result={"artifacts": made}))
        self.keep(draft)
        return reply

    def _ask_next(self) -> None:
        """The workflow: asks for each op of the plan in order, then ends."""
        rollout = self.head.rollout
        if rollout is None or self.workflows.get(rollout.id) != "Running":
            return
        for op in rollout.plan.ops:
            reply = self.ask(op.name, op.verb, percent=f"{op.percent:g}")
            if reply.state is OpState.NO:
                self.workflows[rollout.id] = "Failed"
                return
            if reply.state is not OpState.DONE:
                return
        self.workflows[rollout.id] = "Succeeded"

    def _publish(self) -> None:
        found = route(self.head, tuple(self.replicas.values()), ())
        if found is not None and (self.route is None or not same(self.route, found)):
            self.generation += 1
            self.route = replace(found, generation=self.generation)
        elif found is None:
            self.route = None
        if self.acking:
            self.acked = self.generation

    def _do(self, action: Action) -> None:
        match action:
            case Run(revision):
                self._have(revision, Purpose.SERVE, self._count(revision))
            case StartSmoke(revision):
                self._have(revision, Purpose.SMOKE, 1)
            case End(revision):
                self._have(revision, Purpose.SERVE, 0)
            case EndSmoke(revision):
                self._have(revision, Purpose.SMOKE, 0)
            case AskSmoke(revision, _):
                if self.head.rollout and self.unasked is None:
                    self.smokes[(self.head.rollout.id, revision)] = verdict(self.smoke_result, "smoke")
            case Submit(workflow):
                self.workflows.setdefault(workflow, "Running")
            case StopWorkflow(workflow):
                self.workflows[workflow] = "Failed"
            case Revert(op_key):
                self._revert(op_key)

    def _count(self, revision: str) -> int:
        return self.head.instances(revision)

    def _have(self, revision: str, purpose: Purpose, count: int) -> None:
        for index in range(count, 50):
            self.replicas.pop((revision, purpose, index), None)
        for index in range(count):
            name = self.head.revisions[revision].deployment.name
            made = Replica("fraud", name, revision, index, purpose, ReplicaState.STARTING, message="no luck")
            self.replicas.setdefault((revision, purpose, index), made)

    def _place(self) -> None:
        """Whoever has no place, and so no address, gets one of those that are free, the first come first."""
        waiting = [key for key, replica in self.replicas.items() if not replica.address]
        for key in waiting[: max(0, self.pool - (len(self.replicas) - len(waiting)))]:
            state = ReplicaState.FAILED if key[0] in self.broken else ReplicaState.READY
            fault = self.fault if state is ReplicaState.FAILED else None
            address = f"http://{key[0]}-{key[2]}"
            self.replicas[key] = replace(self.replicas[key], state=state, address=address, fault=fault)

    def _revert(self, op_key: str) -> None:
        if op_key not in self.reverted:
            self.reverted.append(op_key)
        draft = self.draft()
        if draft.head.undo:
            draft.set(undo=replace(draft.head.undo, state="done", result="revert-commit"))
        self.keep(draft)

    @property
    def state(self) -> State | None:
        return self.head.rollout.state if self.head.rollout else None

    def shares(self) -> dict[str, int]:
        """Live traffic by deployment name, per mille."""
        found: dict[str, int] = {}
        for revision, share in self.head.traffic.items():
            name = self.head.revisions[revision].deployment.name
            found[name] = found.get(name, 0) + share
        return found
