"""A random walk of everything that can happen to an endpoint: the invariants hold after every single pass."""

from __future__ import annotations

import contextlib
from dataclasses import replace

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from headgate.capacity import Answer, Fit
from headgate.decide import next_at, step
from headgate.draft import Draft
from headgate.evidence import Result
from headgate.intent import accept, forget, operate
from headgate.rollout import OpEnd, State
from headgate.surge import PARALLEL, PARTIAL, SLACK, SWAP
from headgate.table import RouteTable, problems, seal
from headgate.target import Target
from headgate.testing import FAST, World, deployment, target
from headgate.workload import Purpose, ReplicaState

NAMES = ("blue", "green", "teal")


def _targets() -> st.SearchStrategy[Target]:
    contents = st.fixed_dictionaries({n: st.sampled_from(["1", "2"]) for n in NAMES})
    splits = st.sampled_from(
        [{"blue": 100}, {"green": 100}, {"teal": 100}, {"blue": 90, "green": 10}, {"blue": 50, "teal": 50}, {}]
    )
    commits = st.text("0123456789abcdef", min_size=12, max_size=12)
    kept = st.sets(st.sampled_from(NAMES))
    ways = st.sampled_from([PARALLEL, PARTIAL, SWAP])

    def made(commit: str, of: dict[str, str], split: dict[str, int], more: set[str], way: str) -> Target:
        deployments = [deployment(n, of[n], instances=4) for n in NAMES if n in split or n in more]
        return target(commit, deployments or [deployment("blue")], split, process=replace(FAST, capacity=way))

    return st.builds(made, commits, contents, splits, kept, ways)


class Walk(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.world = World()
        self.ready_before: set[str] = set()
        self.traffic_before: dict[str, int] = {}

    def change(self, draft: Draft) -> None:
        self.world.keep(draft)

    @rule(wanted=_targets())
    def commit(self, wanted: Target) -> None:
        draft = self.world.draft()
        accept(draft, wanted)
        self.change(draft)

    @rule()
    def remove_from_git(self) -> None:
        draft = self.world.draft()
        forget(draft, "9" * 40)
        self.change(draft)

    @rule(times=st.integers(1, 6))
    def passes(self, times: int) -> None:
        for _ in range(times):
            self.world.step()

    @rule()
    def killed_between_record_and_act(self) -> None:
        self.world.stuck = True
        self.world.step()
        self.world.stuck = False

    @rule(seconds=st.sampled_from([1.0, 5.0, 11.0, 61.0, 101.0, 700.0]))
    def time_passes(self, seconds: float) -> None:
        self.world.now += seconds
        self.world.step()

    @rule(result=st.sampled_from([None, *Result]))
    def gates_say(self, result: Result | None) -> None:
        self.world.result = result

    @rule(way=st.sampled_from([None, PARALLEL, PARTIAL]), answer=st.sampled_from(Answer))
    def the_cluster_says(self, way: str | None, answer: Answer) -> None:
        self.world.room = Fit(answer, "4 of 5", way=way) if way else None

    @rule(acking=st.booleans())
    def routers(self, acking: bool) -> None:
        self.world.acking = acking

    @rule(action=st.sampled_from(["pause", "resume", "promote", "abort", "rollback"]), full=st.booleans())
    def operator(self, action: str, full: bool) -> None:
        draft = self.world.draft()
        with contextlib.suppress(ValueError):  # nothing to pause, nowhere to go back to: said to the person
            operate(draft, action, who="ada", why="", full=full)
        self.change(draft)

    @rule(data=st.data(), state=st.sampled_from([ReplicaState.READY, ReplicaState.RESTARTING, ReplicaState.FAILED]))
    @precondition(lambda self: self.world.replicas)
    def a_replica_changes(self, data: st.DataObject, state: ReplicaState) -> None:
        key = data.draw(st.sampled_from(sorted(self.world.replicas)))
        self.world.replicas[key] = replace(self.world.replicas[key], state=state)

    @rule()
    @precondition(lambda self: self.world.workflows)
    def the_engine_forgets_or_ends_a_workflow(self) -> None:
        name = sorted(self.world.workflows)[-1]
        self.world.workflows[name] = "Failed"

    @invariant()
    def percents_add_up_to_the_whole_or_nothing(self) -> None:
        assert sum(self.world.head.traffic.values()) in (0, 1000)
        assert all(share > 0 for share in self.world.head.traffic.values())

    @invariant()
    def every_published_table_is_one_a_router_accepts(self) -> None:
        if self.world.route:
            table = seal(RouteTable(self.world.generation, "", {"fraud": self.world.route}))
            assert problems(table) == ()

    @invariant()
    def a_revision_with_live_traffic_is_never_ended(self) -> None:
        head = self.world.head
        assert all(head.revisions[revision].running for revision in head.traffic)

    @invariant()
    def what_is_let_go_on_with_fewer_has_its_share(self) -> None:
        head = self.world.head
        rollout = head.active
        if rollout and rollout.way == PARTIAL:
            for revision, share in head.traffic.items():
                whole = max(rollout.start.get(revision, 0), rollout.plan.traffic.get(revision, 0))
                size = rollout.sizes.get(revision, 4) if revision in rollout.start else 4
                assert head.instances(revision) + SLACK >= size * share / whole

    @invariant()
    def only_a_swap_leaves_callers_without_a_replica(self) -> None:
        head = self.world.head
        if any(head.instances(revision) == 0 for revision in head.traffic):
            assert head.switch is not None or (head.active and head.active.way == SWAP)

    @invariant()
    def no_step_opens_without_a_recorded_pass_of_the_op_before(self) -> None:
        rollout = self.world.head.rollout
        for before, op in zip(rollout.ops, rollout.ops[1:], strict=False) if rollout else ():
            assert before.state is OpEnd.PASSED, (before, op)
            if rollout and rollout.judged and before.verb in ("mirror", "step"):
                assert before.verdicts
                assert all(v.result is Result.PASS for v in before.verdicts)

    @invariant()
    def new_traffic_goes_only_to_what_was_ready(self) -> None:
        traffic = dict(self.world.head.traffic)
        rollout = self.world.head.rollout
        back = dict(rollout.start) if rollout else {}
        if traffic not in (self.traffic_before, back):
            rising = {r for r in traffic if traffic[r] > self.traffic_before.get(r, 0)}
            known = {r for r, s in self.world.head.revisions.items() if s.known_good or s.smoked}
            assert rising <= known
        self.traffic_before = traffic

    @invariant()
    def an_ended_rollout_mirrors_nothing(self) -> None:
        if not self.world.head.active:
            assert self.world.head.mirrors == ()

    @invariant()
    def deciding_twice_is_deciding_once(self) -> None:
        draft = self.world.draft()
        step(draft, self.world.seen())
        once = draft.head
        again = Draft(once, self.world.now)
        step(again, self.world.seen())
        third = Draft(again.head, self.world.now)
        step(third, self.world.seen())
        assert third.head == again.head

    @invariant()
    def time_alone_changes_nothing_before_it_was_foretold(self) -> None:
        seen, head = self.world.seen(), self.world.head
        for _ in range(2):
            draft = Draft(head, self.world.now)
            step(draft, seen)
            head = draft.head
        at = next_at(head, self.world.now)
        later = Draft(head, (at if at is not None else self.world.now + 1e6) - 1e-3)
        step(later, replace(seen, now=later.now))
        assert later.head == head

    @invariant()
    def each_revert_is_made_once(self) -> None:
        assert len(set(self.world.reverted)) == len(self.world.reverted)

    def teardown(self) -> None:
        """Left alone with healthy replicas it comes to rest."""
        world = self.world
        world.acking = True
        world.result = Result.PASS
        world.broken.clear()
        world.room = None
        draft = world.draft()
        if world.head.active and world.head.active.paused:
            operate(draft, "resume", who="ada", why="")
            world.keep(draft)
        world.replicas = {k: replace(r, state=ReplicaState.READY) for k, r in world.replicas.items()}
        for _ in range(12):
            world.wait(100)
        assert world.state is not State.RUNNING
        assert all(world.head.revisions[r].instances is None for r in world.head.traffic)
        assert not [k for k in world.replicas if k[1] is Purpose.SMOKE]
        serving = {r for r, purpose, _ in world.replicas if purpose is Purpose.SERVE}
        assert set(world.head.traffic) <= serving


Walk.TestCase.settings = settings(
    max_examples=60, stateful_step_count=40, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
TestWalk = Walk.TestCase
