"""Any DAG, any outcomes, in any order, with the engine killed at any moment: the same end, and nothing run twice."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from headgate import codec
from headgate_pipelines.engines.local.compile import compile_workflow
from headgate_pipelines.engines.local.operate import operate
from headgate_pipelines.engines.local.spec import Spec
from headgate_pipelines.engines.local.state import Outcome, Phase, RunState

CODES = (0, 3, 75)


@dataclass(frozen=True)
class Case:
    tasks: tuple[tuple[str, str], ...]  # name, depends; each only on earlier ones
    codes: tuple[tuple[int, ...], ...]  # of each task: its attempts' exit codes, the last one repeats
    fail_fast: bool
    limit: int
    stop_after: int | None

    def document(self) -> dict[str, Any]:
        calls = [{"name": n, "template": "op", **({"depends": d} if d else {})} for n, d in self.tasks]
        op = {
            "name": "op",
            "container": {"image": "i", "command": ["c"]},
            "retryStrategy": {"limit": str(self.limit), "expression": "asInt(lastRetry.exitCode) == 75"},
        }
        main = {"name": "main", "dag": {"tasks": calls, "failFast": self.fail_fast}}
        bye = {"name": "bye", "container": {"image": "i", "command": ["c"]}}
        spec = {"entrypoint": "main", "onExit": "bye", "templates": [op, main, bye]}
        return {"metadata": {"name": "w"}, "spec": spec}

    def code(self, path: str, attempt: int) -> int:
        if path == "onExit":
            return 0
        codes = self.codes[int(path[1:])]
        return codes[min(attempt, len(codes) - 1)]


@st.composite
def cases(draw: st.DrawFn) -> Case:
    tasks = []
    for index in range(draw(st.integers(1, 7))):
        names = draw(st.lists(st.integers(0, index - 1), max_size=3, unique=True)) if index else []
        atoms = [
            draw(st.sampled_from(("", "!"))) + f"t{n}" + draw(st.sampled_from(("", ".Failed", ".Omitted")))
            for n in names
        ]
        tasks.append((f"t{index}", draw(st.sampled_from((" && ", " || "))).join(atoms)))
    codes = tuple(tuple(draw(st.lists(st.sampled_from(CODES), min_size=1, max_size=3))) for _ in tasks)
    stop_after = draw(st.none() | st.integers(0, 6))
    return Case(tuple(tasks), codes, draw(st.booleans()), draw(st.integers(0, 2)), stop_after)


def play(case: Case, choose: st.DataObject | None) -> tuple[RunState, list[str]]:
    """Runs it to its end; every pass starts from what the journal's JSON says. With `choose`, ops end in any order."""
    spec: Spec = compile_workflow(case.document(), {"i": {"c": ("c",)}})
    state, now, started, stop = RunState(0.0), 0.0, list[str](), False
    for turn in range(200):
        decision = operate(spec, state, {}, now, stop=stop)
        assert operate(spec, decision.state, {}, now, stop=stop).state == decision.state
        state = codec.decode(RunState, codec.canonical(decision.state))
        started += [key for s in decision.start if (key := f"{s.leaf.path}#{s.attempt}") not in started]
        if state.phase is not Phase.RUNNING:
            return state, started
        running = [(s.leaf.path, s.attempt) for s in (*decision.start, *decision.stop)]
        now += 1.0
        if running:
            path, attempt = choose.draw(st.sampled_from(running)) if choose else running[0]
            decision = operate(spec, state, {path: Outcome(case.code(path, attempt))}, now, stop=stop)
            state, begun = decision.state, [f"{s.leaf.path}#{s.attempt}" for s in decision.start]
            started += [key for key in begun if key not in started]
        stop = case.stop_after is not None and turn >= case.stop_after
    raise AssertionError(f"it does not end: {state}")


@settings(max_examples=60, deadline=None)
@given(cases(), st.data())
def test_every_workflow_ends_and_every_task_ended_or_was_omitted(case: Case, data: st.DataObject) -> None:
    state, started = play(case, data)
    assert set(state.nodes) == {name for name, _ in case.tasks} | {"onExit"}
    assert all(node.phase is not Phase.RUNNING for node in state.nodes.values())
    assert state.nodes["onExit"].phase is Phase.SUCCEEDED, "onExit runs however it ended"
    assert len(started) == len(set(started))
    for path, node in state.nodes.items():
        assert (f"{path}#0" in started) == (node.phase is not Phase.OMITTED)
        assert f"{path}#{case.limit + 1}" not in started, "the limit of retries holds"


@settings(max_examples=60, deadline=None)
@given(cases(), st.data())
def test_without_fail_fast_the_order_in_which_ops_end_changes_nothing(case: Case, data: st.DataObject) -> None:
    calm = Case(case.tasks, case.codes, False, case.limit, None)
    one, other = play(calm, None)[0], play(calm, data)[0]
    assert one.phase == other.phase
    assert {p: n.phase for p, n in one.nodes.items()} == {p: n.phase for p, n in other.nodes.items()}


@settings(max_examples=60, deadline=None)
@given(cases(), st.data())
def test_a_task_runs_only_when_what_it_depends_on_has_ended(case: Case, data: st.DataObject) -> None:
    state, _ = play(case, data)
    for name, depends in case.tasks:
        node = state.nodes[name]
        if node.phase is Phase.OMITTED:
            continue
        for other, _ in case.tasks:
            if other in depends:
                ended = state.nodes[other].ended_at
                assert ended is None or ended <= node.started_at
