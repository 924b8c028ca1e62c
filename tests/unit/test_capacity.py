"""Does it fit: started, made to wait in line, or refused with the arithmetic, before anything starts."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headgate import capacity
from headgate.asks import ask
from headgate.capacity import Answer, Claims, Fit, Inventory, Need, Node, Quota, Way
from headgate.control import OpReply, OpRequest, OpState
from headgate.draft import Draft
from headgate.intent import accept
from headgate.process import InstanceType, Settings
from headgate.rollout import OpEnd, OpRecord, State
from headgate.testing import World, deployment, target

GPU = "nvidia.com/gpu"


def node(name: str, *, gpus: float = 4, used: float = 0, ready: bool = True, pool: str = "gpu") -> Node:
    holds = {"cpu": 16.0, "memory_mb": 64_000.0, "pods": 100.0} | ({GPU: gpus} if gpus else {})
    free = holds | ({GPU: gpus - used} if gpus else {})
    return Node(name, pool, holds, free, ready, reserved=bool(gpus))


def asks(count: int, gpus: float = 1, *, pool: str = "gpu", what: str = "fraud/green") -> Need:
    return Need(what, count, {"cpu": 2.0, GPU: gpus} if gpus else {"cpu": 2.0}, pool)


def test_what_fits_starts_at_once() -> None:
    found = capacity.fit(Inventory((node("a", used=1), node("b"))), [asks(7)])
    assert found == Fit(Answer.START, at_once=7)


def test_what_others_use_is_waited_for_and_the_figures_are_said() -> None:
    found = capacity.fit(Inventory((node("a", used=3),)), [asks(2)], Claims(position=2))
    assert (found.answer, found.at_once, found.position) == (Answer.WAIT, 1, 2)
    assert found.text == (
        "fraud/green asks for 2 × (2 cores, 1 nvidia.com/gpu) in pool gpu; 1 of them fit now: "
        "a has free 16 cores, 1 nvidia.com/gpu"
    )


def test_what_an_empty_pool_could_not_take_is_refused_with_the_arithmetic() -> None:
    beside = asks(3, what="fraud/blue")
    found = capacity.fit(Inventory((node("a", used=3),)), [asks(2)], Claims(beside=[beside]))
    assert found.answer is Answer.REFUSE
    assert found.text == (
        "fraud/green asks for 2 × (2 cores, 1 nvidia.com/gpu) in pool gpu; an empty pool would take 1 beside "
        "3 of fraud/blue, which serve on until the end: a has 16 cores, 4 nvidia.com/gpu"
    )


def test_a_replica_is_not_spread_over_nodes() -> None:
    assert capacity.fit(Inventory((node("a", used=3), node("b", used=3))), [asks(1, 2)]).answer is Answer.WAIT
    assert capacity.fit(Inventory((node("a"), node("b"))), [asks(1, 5)]).answer is Answer.REFUSE


@pytest.mark.parametrize(
    ("pool", "words"),
    [
        pytest.param("nowhere", "no node has the label headgate.dev/pool=nowhere", id="no such pool"),
        pytest.param("system", "an empty pool would take 0", id="no GPU in the pool"),
    ],
)
def test_a_pool_that_never_could_is_refused(pool: str, words: str) -> None:
    nodes = Inventory((node("a"), node("c", gpus=0, pool="system")))
    found = capacity.fit(nodes, [asks(1, pool=pool)])
    assert (found.answer, words in found.text) == (Answer.REFUSE, True)


def test_a_node_that_is_away_is_waited_for() -> None:
    found = capacity.fit(Inventory((node("a", ready=False),)), [asks(1)])
    assert (found.answer, "(not ready)" in found.text) == (Answer.WAIT, True)


def test_nodes_with_gpus_take_only_what_asks_for_one() -> None:
    found = capacity.fit(Inventory((node("a"),)), [asks(1, 0, pool="")])
    assert (found.answer, "no node takes it" in found.text) == (Answer.REFUSE, True)


def test_what_is_held_and_what_is_further_up_in_line_counts() -> None:
    nodes = Inventory((node("a"),))
    assert capacity.fit(nodes, [asks(2)], Claims(held=[asks(2)])).answer is Answer.START
    assert capacity.fit(nodes, [asks(2)], Claims(held=[asks(2)], before=[asks(1)])).answer is Answer.WAIT


@pytest.mark.parametrize(
    ("free", "expected"), [(2.0, Answer.START), (1.0, Answer.WAIT)], ids=["leaves enough", "leaves too little"]
)
def test_a_quota_bounds_as_nodes_do(free: float, expected: Answer) -> None:
    found = capacity.fit(Inventory((node("a"),), (Quota("team", {GPU: 2.0}, {GPU: free}),)), [asks(2)])
    assert found.answer is expected
    assert ("quota team leaves 1 nvidia.com/gpu" in found.text) == (expected is Answer.WAIT)


def test_a_quota_that_never_could_refuses() -> None:
    found = capacity.fit(Inventory((node("a"),), (Quota("team", {GPU: 1.0}, {GPU: 1.0}),)), [asks(2)])
    assert (found.answer, "quota team allows 1 nvidia.com/gpu" in found.text) == (Answer.REFUSE, True)


def test_what_an_instance_type_asks_for() -> None:
    green = deployment("green")
    green = replace(green, source=replace(green.source, instance_type="Big"))
    known = Settings(instance_types={"big": InstanceType(4.0, 14.0, 2, "nvidia.com/mig-1g.5gb", "a100")})
    assert capacity.need("fraud", green, known, 3) == Need(
        "fraud/green", 3, {"pods": 1.0, "cpu": 4.0, "memory_mb": 14_336, "nvidia.com/mig-1g.5gb": 2.0}, "a100"
    )
    assert capacity.need("fraud", green, Settings(), 3) == Need("fraud/green", 3, {"pods": 1.0})


BESIDE = Way("parallel", [asks(4)], [asks(4, what="fraud/blue")])
BY_TURNS = Way("partial", [asks(1)], [asks(4, what="fraud/blue")], "4 + 1")


@pytest.mark.parametrize(
    ("gpus", "used", "expected"),
    [
        pytest.param(8, 4, (Answer.START, "parallel", ""), id="the gentlest that fits"),
        pytest.param(5, 4, (Answer.START, "partial", "4 + 1"), id="by parts when there is no room for both"),
        pytest.param(8, 7, (Answer.START, "partial", "4 + 1"), id="by parts rather than to wait"),
    ],
)
def test_the_gentlest_way_that_fits_now_is_taken(gpus: float, used: float, expected: tuple[object, ...]) -> None:
    found = capacity.choose(Inventory((node("a", gpus=gpus, used=used),)), [BESIDE, BY_TURNS])
    assert (found.answer, found.way, found.text) == expected


def test_when_none_fits_now_it_waits_for_the_least_room_and_is_refused_when_none_ever_could() -> None:
    waits = capacity.choose(Inventory((node("a", gpus=5, used=5),)), [BESIDE, BY_TURNS])
    assert (waits.answer, waits.way) == (Answer.WAIT, "partial")
    never = capacity.choose(Inventory((node("a", gpus=4, used=4),)), [BESIDE, BY_TURNS])
    assert (never.answer, never.way) == (Answer.REFUSE, "partial")


def test_only_what_asks_for_the_same_can_take_its_place() -> None:
    same = capacity.by_turns("partial", [asks(4, what="fraud/blue")], [asks(4)], 5, 3, [])
    assert same is not None
    assert (same.needs[0].count, same.beside[0].count) == (2, 3)
    assert capacity.by_turns("partial", [asks(4, 2)], [asks(4)], 5, 4, []) is None
    assert capacity.by_turns("partial", [asks(4, pool="old")], [asks(4)], 5, 4, []) is None


SIZES = st.integers(0, 6)


@given(st.lists(SIZES, min_size=1, max_size=5), st.integers(1, 8), st.integers(1, 3))
def test_what_starts_fits_and_more_nodes_never_make_it_worse(used: list[int], count: int, gpus: int) -> None:
    nodes = tuple(node(f"n{i}", gpus=6, used=u) for i, u in enumerate(used))
    found = capacity.fit(Inventory(nodes), [asks(count, gpus)])
    holes = sum((6 - u) // gpus for u in used)
    assert (found.answer is Answer.START) == (holes >= count)
    order = [Answer.START, Answer.WAIT, Answer.REFUSE]
    more = capacity.fit(Inventory((*nodes, node("more", gpus=6))), [asks(count, gpus)])
    assert order.index(more.answer) <= order.index(found.answer)


# --- what an op is told ---------------------------------------------------------------------------------------------


def beginning() -> Draft:
    draft = World().commit(target("b1", [deployment("blue")], {"blue": 100})).draft()
    accept(draft, target("a2", [deployment("blue"), deployment("green", instances=2)], {"green": 100}))
    draft.events.clear()
    return draft


def at_smoke() -> Draft:
    draft = beginning()
    draft.rollout(ops=(OpRecord("build", "build", 0.0, "", 1_000.0, OpEnd.PASSED),))
    return draft


def asked(draft: Draft, verb: str, room: Fit | None) -> OpReply:
    assert draft.head.rollout is not None
    return ask(draft, verb, OpRequest(f"{draft.head.rollout.id}/{verb}", "fraud"), room)


def test_an_op_that_starts_replicas_waits_in_line_and_opens_when_there_is_room() -> None:
    draft = at_smoke()
    full = Fit(Answer.WAIT, "2 fit", position=3)
    reply = asked(draft, "smoke", full)
    assert (reply.state, reply.message) == (OpState.WAIT, "waits for room, number 3 in line: 2 fit")
    assert asked(draft, "smoke", full) == reply
    assert [e.kind for e in draft.events] == ["rollout.queued"], "said once"
    assert draft.head.rollout is not None
    assert (draft.head.rollout.queued_at, draft.head.rollout.running) == (1_000.0, None)
    assert asked(draft, "smoke", Fit(Answer.START)).state is OpState.WAIT
    assert (draft.head.rollout.queued_at, draft.head.rollout.message) == (None, "")
    assert draft.head.rollout.running is not None


def test_a_refused_rollout_ends_with_a_finding_and_starts_nothing() -> None:
    draft = at_smoke()
    before = dict(draft.head.traffic)
    reply = asked(draft, "smoke", Fit(Answer.REFUSE, "9 asked, 4 there"))
    assert (reply.state, reply.message) == (OpState.NO, "9 asked, 4 there")
    assert draft.head.rollout is not None
    assert (draft.head.rollout.state, dict(draft.head.traffic)) == (State.FAILED, before)
    assert [f.code for f in draft.head.findings] == ["capacity"]


def test_a_build_needs_no_room_but_is_not_made_for_what_can_never_run() -> None:
    draft = beginning()
    assert asked(draft, "build", Fit(Answer.WAIT, "full", position=1)).state is not OpState.NO
    draft = beginning()
    assert asked(draft, "build", Fit(Answer.REFUSE, "too large")).state is OpState.NO
