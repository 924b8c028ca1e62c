from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from headgate import reading
from headgate.process import MirrorPhase, Process
from headgate_kit.worktree import WorkTree
from headgate_policies.gates.error_rate import gate as error_rate
from headgate_policies.gates.manual import gate as manual
from headgate_policies.gates.metric import gate as metric
from headgate_policies.gates.mirror_diff import gate as mirror_diff
from headgate_policies.gates.shape import gate as shape
from headgate_policies.gates.stream import gate as stream
from headgate_policies.idle import blind, check, idle, kinds, starved

GATES = {"error-rate": error_rate, "manual": manual, "metric": metric, "schema": shape}
NO_MIRROR = MirrorPhase(percent=0)


@pytest.mark.parametrize(
    ("process", "expected"),
    [
        (Process(), ("mirror", "step", "bake")),
        (Process(mirror=NO_MIRROR), ("step", "bake")),
        (Process(steps=(100,)), ("mirror", "bake")),
        (Process(capacity="swap"), ("bake",)),
    ],
    ids=["all", "no-mirror", "no-steps", "swap"],
)
def test_a_process_has_kinds_of_phases(process: Process, expected: tuple[str, ...]) -> None:
    assert kinds(process) == expected


@pytest.mark.parametrize(
    ("process", "expected"),
    [
        (Process(gates={"schema": {}, "error-rate": {}}), []),
        (Process(mirror=NO_MIRROR, gates={"schema": {}, "error-rate": {}}), [("schema", ("mirror",))]),
        (Process(mirror=NO_MIRROR, gates={"manual": {"phases": ["mirror"]}}), [("manual", ("mirror",))]),
        (Process(steps=(100,), gates={"manual": {"phases": ["step"]}}), [("manual", ("step",))]),
        (Process(mirror=NO_MIRROR, steps=(100,), gates={"metric": {"query": "up", "max_ratio": 2.0}}),
         [("metric", ("mirror", "step"))]),
        (Process(gates={"unknown": {}, "manual": {"phases": "nowhere"}}), []),
    ],
    ids=["none", "schema", "manual-mirror", "manual-step", "relative-metric", "broken-elsewhere"],
)  # fmt: skip
def test_a_gate_that_is_never_asked_is_found(process: Process, expected: list[tuple[str, tuple[str, ...]]]) -> None:
    assert list(idle(process, GATES)) == expected


def test_a_gate_that_somebody_wrote_down_is_warned_of(tmp_path: Path) -> None:
    folder = tmp_path / "endpoints/fraud"
    folder.mkdir(parents=True)
    (folder / "endpoint.yml").write_text("name: fraud\nauth_mode: key\ntraffic: {}\n")
    (folder / "rollout.yml").write_text("mirror: {percent: 0}\ngates:\n  error-rate: {}\n  schema: {}\n")
    tree = WorkTree(tmp_path)
    read = reading.read_all(tree, reading.read_settings(tree)[0])["fraud"]
    (found,) = check(read, tree, GATES)
    assert (found.code, str(found.place), found.is_error) == ("gate-idle", "endpoints/fraud/rollout.yml:4:3", False)
    (folder / "rollout.yml").write_text("mirror: {percent: 0}\n")
    read = reading.read_all(tree, reading.read_settings(tree)[0])["fraud"]
    assert check(read, tree, {"mirror-diff": shape}) == ()


@pytest.mark.parametrize(
    ("gate", "expected"),
    [
        ({"error-rate": {}}, [("error-rate", "max_rate")]),
        ({"error-rate": {"max_rate": 0.01}}, []),
        ({"manual": {}}, []),
    ],
    ids=["compares", "has a limit", "needs none"],
)
def test_a_swap_leaves_a_gate_nothing_to_compare_with(gate: dict[str, object], expected: list[object]) -> None:
    assert list(blind(Process(capacity="swap", gates=gate), GATES)) == expected  # type: ignore[arg-type]
    assert list(blind(Process(gates=gate), GATES)) == []  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ({"error-rate": {}, "manual": {}}, []),
        ({"schema": {}, "error-rate": {}, "mirror-diff": {}}, ["mirror-diff", "schema"]),
        ({"stream": {}}, ["stream"]),
        ({"unknown": {}}, []),
    ],
    ids=["counts", "answers", "events", "broken-elsewhere"],
)
def test_gates_that_judge_answers_or_events_starve_beside_envoy(
    asked: dict[str, dict[str, str]], expected: list[str]
) -> None:
    gates = {**GATES, "mirror-diff": mirror_diff, "stream": stream}
    assert list(starved(Process(gates=asked), gates)) == expected


@pytest.mark.parametrize(("dataplane", "codes"), [("envoy", ["dataplane-lacks"]), ("builtin", [])])
def test_who_says_that_routers_run_beside_envoy_is_warned_also_of_default_gates(
    tmp_path: Path, dataplane: str, codes: list[str]
) -> None:
    folder = tmp_path / "endpoints/fraud"
    folder.mkdir(parents=True)
    (folder / "endpoint.yml").write_text("name: fraud\nauth_mode: key\ntraffic: {}\n")
    (tmp_path / "headgate.yml").write_text(f"router: {{dataplane: {dataplane}}}\n")
    tree = WorkTree(tmp_path)
    read = reading.read_all(tree, reading.read_settings(tree)[0])["fraud"]
    found = check(read, tree, {**GATES, "mirror-diff": mirror_diff})
    assert [(one.code, one.is_error) for one in found] == [(code, False) for code in codes]


@pytest.mark.parametrize(("dataplane", "warned"), [("envoy", False), ("asgi", True), ("builtin", False)])
def test_who_asks_for_tunnels_is_warned_of_a_data_path_that_has_none(
    tmp_path: Path, dataplane: str, warned: bool
) -> None:
    folder = tmp_path / "endpoints/fraud"
    (folder / "deployments").mkdir(parents=True)
    (folder / "endpoint.yml").write_text("name: fraud\nauth_mode: key\ntraffic: {}\n")
    (folder / "rollout.yml").write_text("gates: {}\n")
    (tmp_path / "headgate.yml").write_text(f"router: {{dataplane: {dataplane}}}\n")
    tree = WorkTree(tmp_path)
    read = reading.read_all(tree, reading.read_settings(tree)[0])["fraud"]
    assert read.target is not None
    (folder / "rollout.yml").write_text("gates: {}\nwebsocket: [chat]\n")
    router = replace(read.target, process=replace(read.target.process, websocket=("chat",)))
    found = check(replace(read, target=router), WorkTree(tmp_path), GATES)
    said = [(one.code, str(one.place), one.is_error) for one in found]
    assert said == [("dataplane-lacks", "endpoints/fraud/rollout.yml:2:1", False)] * warned
    (folder / "rollout.yml").unlink()
    (tmp_path / "headgate.yml").write_text(
        f"router: {{dataplane: {dataplane}}}\nrollout:\n  websocket: [chat]\n"  # the default of every endpoint
    )
    found = check(replace(read, target=router, files={"headgate.yml": "id"}), WorkTree(tmp_path), GATES)
    assert [str(one.place) for one in found] == ["headgate.yml:3:3"] * warned
