"""What the local engine takes, and what it refuses by name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from headgate.findings import SpecError
from headgate_pipelines.engines.local.boolean import All, AnyOf, Atom, Not
from headgate_pipelines.engines.local.compile import compile_workflow
from headgate_pipelines.engines.local.fields import duration_s
from headgate_pipelines.engines.local.spec import Group, Leaf, Ref, Source, Spec

IMAGES = {"img": {"run": ("/bin/run", "-x")}}


def leaf(name: str = "a", **more: Any) -> dict[str, Any]:
    return {"name": name, "container": {"image": "img", "command": ["run"]}, **more}


def saying(name: str, *args: str, **more: Any) -> dict[str, Any]:
    return {"name": name, "container": {"image": "img", "command": ["run"], "args": list(args)}, **more}


def task(name: str, depends: str = "", template: str = "a", **more: Any) -> dict[str, Any]:
    return {"name": name, "template": template, **({"depends": depends} if depends else {}), **more}


def dag(*tasks: Mapping[str, Any], name: str = "main", **more: Any) -> dict[str, Any]:
    return {"name": name, "dag": {"tasks": list(tasks)}, **more}


def document(*templates: Mapping[str, Any], entrypoint: str = "main", **spec: Any) -> dict[str, Any]:
    return {"metadata": {"name": "w"}, "spec": {"entrypoint": entrypoint, "templates": list(templates), **spec}}


def compiled(*templates: Mapping[str, Any], entrypoint: str = "main", **spec: Any) -> Spec:
    return compile_workflow(document(*templates, entrypoint=entrypoint, **spec), IMAGES)


def refusals(*templates: Mapping[str, Any], entrypoint: str = "main", **spec: Any) -> list[str]:
    with pytest.raises(SpecError) as caught:
        compiled(*templates, entrypoint=entrypoint, **spec)
    assert all(finding.code == "workflow-unsupported" for finding in caught.value.findings)
    return [f"{finding.place}: {finding.message}" for finding in caught.value.findings]


def only_leaf(spec: Spec) -> Leaf:
    (found,) = spec.leaves()
    return found


def when(depends: str) -> Any:
    spec = compiled(leaf(), dag(task("x"), task("y"), task("z", depends)))
    assert isinstance(spec.root, Group)
    return spec.root.children[-1].when


REFUSED = {
    "when": dag(task("t", when="1 == 1")),
    "withItems": dag(task("t", withItems=[1])),
    "hooks": dag(task("t", hooks={})),
    "continueOn": dag(task("t", continueOn={"failed": True})),
    "synchronization": dag(task("t"), synchronization={}),
    "parallelism": dag(task("t"), parallelism=1),
    "retryStrategy": dag(task("t"), retryStrategy={}),
    "suspend": {"name": "main", "suspend": {}},
    "volumes": saying("main", volumes=[]),
    "memoize": saying("main", memoize={}),
    "artifacts": saying("main", inputs={"artifacts": []}),
    "globalName": saying("main", outputs={"parameters": [{"name": "o", "globalName": "g"}]}),
    "envFrom": {"name": "main", "container": {"image": "img", "command": ["run"], "envFrom": []}},
    "expression": saying("main", outputs={"parameters": [{"name": "o", "valueFrom": {"expression": "1"}}]}),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_not_supported_is_refused_by_name(name: str) -> None:
    assert any(f"`{name}` is not supported" in line for line in refusals(leaf(), REFUSED[name]))


def test_every_reason_is_reported_at_once_with_its_place() -> None:
    found = refusals(leaf(), dag(task("t", when="x"), task("u", "nobody"), task("v", template="gone")), hooks={})
    assert any(line.startswith("Workflow w: spec.hooks:") for line in found)
    assert any("it depends on `nobody`" in line for line in found)
    assert any("there is no template `gone`" in line for line in found)
    assert any("templates.main.t.when" in line for line in found)


def test_where_a_pod_runs_is_ignored_because_there_is_no_pod() -> None:
    template = saying("main", nodeSelector={"gpu": "yes"}, tolerations=[], metadata={"labels": {}})
    template["container"]["resources"] = {"limits": {"cpu": "1"}}
    assert only_leaf(compiled(template, podGC={"strategy": "x"}, ttlStrategy={}, priority=3)).path == "main"


def test_a_command_is_what_the_image_map_says() -> None:
    assert only_leaf(compiled(saying("main", "--n", "3"))).argv == (("/bin/run",), ("-x",), ("--n",), ("3",))


@pytest.mark.parametrize(
    ("container", "says"),
    [
        ({"image": "img"}, "`command` is not set"),
        ({"image": "img", "command": ["sh"]}, "`sh` of image `img` is not known here"),
        ({"image": "other", "command": ["run"]}, "`run` of image `other` is not known here"),
    ],
    ids=["no command", "unknown command", "unknown image"],
)
def test_a_command_nobody_mapped_is_refused(container: dict[str, Any], says: str) -> None:
    assert any(says in line for line in refusals({"name": "main", "container": container}))


def test_references_known_before_the_start_are_filled_in() -> None:
    template = saying("main", "{{workflow.name}}/{{ workflow.parameters.p }}-{{inputs.parameters.d}}")
    template["inputs"] = {"parameters": [{"name": "d", "default": "{{workflow.name}}"}]}
    spec = compiled(template, arguments={"parameters": [{"name": "p", "value": True}]})
    assert only_leaf(spec).argv[-1] == ("w/true-w",)


def test_an_output_of_an_earlier_task_stays_a_reference() -> None:
    made = saying("make", outputs={"parameters": [{"name": "v", "valueFrom": {"path": "/tmp/outputs/v"}}]})
    used = saying("use", "v={{inputs.parameters.i}}", inputs={"parameters": [{"name": "i"}]})
    arguments = {"parameters": [{"name": "i", "value": "{{tasks.m.outputs.parameters.v}}"}]}
    spec = compiled(made, used, dag(task("m", template="make"), task("u", "m", "use", arguments=arguments)))
    assert next(n for n in spec.leaves() if n.path == "u").argv[-1] == ("v=", Ref(Source.OUTPUT, "m", "v"))


@pytest.mark.parametrize(
    "text",
    [
        "{{workflow.uid}}",
        "{{inputs.parameters.none}}",
        "{{workflow.status}}",
        "{{=1 + 1}}",
        "{{tasks.a.outputs.result}}",
        "{{pod.name}}",
    ],
)
def test_a_reference_that_means_nothing_here_is_refused(text: str) -> None:
    assert any("means nothing here" in line for line in refusals(saying("main", text)))


def test_an_output_may_be_read_only_by_who_waits_for_it() -> None:
    made = saying("make", outputs={"parameters": [{"name": "v", "valueFrom": {"path": "/tmp/outputs/v"}}]})
    used = saying("use", inputs={"parameters": [{"name": "i"}]})
    arguments = {"parameters": [{"name": "i", "value": "{{tasks.m.outputs.parameters.v}}"}]}
    found = refusals(made, used, dag(task("m", template="make"), task("u", "", "use", arguments=arguments)))
    assert any("`{{tasks.m.outputs.parameters.v}}` means nothing here" in line for line in found)


def test_the_status_can_be_read_when_exiting() -> None:
    spec = compiled(leaf("main"), saying("bye", "{{workflow.status}}", "{{workflow.failures}}"), onExit="bye")
    assert isinstance(spec.on_exit, Leaf)
    assert spec.on_exit.path == "onExit"
    assert spec.on_exit.argv[-2:] == ((Ref(Source.STATUS),), (Ref(Source.FAILURES),))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("x", Atom("x", "Succeeded")),
        ("x.Failed", Atom("x", "Failed")),
        ("!x && y", All((Not(Atom("x", "Succeeded")), Atom("y", "Succeeded")))),
        ("x || y && x.Errored", AnyOf((Atom("x", "Succeeded"), All((Atom("y", "Succeeded"), Atom("x", "Errored")))))),
        ("(x || y) && x", All((AnyOf((Atom("x", "Succeeded"), Atom("y", "Succeeded"))), Atom("x", "Succeeded")))),
    ],
)
def test_depends_is_read_with_its_precedence(text: str, expected: Any) -> None:
    assert when(text) == expected


@pytest.mark.parametrize(
    "text", ["x.AnySucceeded", "x &&", "(x", "x y", "x == y", "&& x", "x)", "!" * 60 + "x", "x.Daemoned"]
)
def test_a_depends_that_cannot_be_evaluated_is_refused(text: str) -> None:
    assert any("depends" in line for line in refusals(leaf(), dag(task("x"), task("y"), task("z", text))))


def test_dependencies_are_all_needed() -> None:
    spec = compiled(leaf(), dag(task("x"), task("y"), {"name": "z", "template": "a", "dependencies": ["x", "y"]}))
    assert isinstance(spec.root, Group)
    assert spec.root.children[-1].after == ("x", "y")


def test_tasks_that_wait_for_each_other_are_refused() -> None:
    assert any("x, y wait for each other" in line for line in refusals(leaf(), dag(task("x", "y"), task("y", "x"))))


def test_a_template_that_calls_itself_is_refused() -> None:
    assert any("recursion" in line for line in refusals(dag(task("t", template="main"))))


def test_a_row_of_steps_waits_for_the_row_before() -> None:
    steps = {"name": "main", "steps": [[{"name": "x", "template": "a"}, {"name": "y", "template": "a"}],
                                       [{"name": "z", "template": "a"}]]}  # fmt: skip
    spec = compiled(leaf(), steps)
    assert isinstance(spec.root, Group)
    assert [child.after for child in spec.root.children] == [(), (), ("x", "y")]


def test_a_parameter_that_nobody_gives_is_refused() -> None:
    template = saying("use", inputs={"parameters": [{"name": "i"}]})
    assert any(
        "input parameter `i` of `use` is not given" in line
        for line in refusals(template, dag(task("u", template="use")))
    )


def test_an_argument_that_nobody_takes_is_refused() -> None:
    call = task("t", arguments={"parameters": [{"name": "typo", "value": "1"}]})
    assert any("has no input parameter `typo`" in line for line in refusals(leaf(), dag(call)))


@pytest.mark.parametrize("path", ["/etc/passwd", "relative", "/tmp/outputs/../x", "/tmp/v"])
def test_an_output_file_elsewhere_is_refused(path: str) -> None:
    template = saying("main", outputs={"parameters": [{"name": "v", "valueFrom": {"path": path}}]})
    assert any("is not below /tmp/outputs" in line for line in refusals(template))


@pytest.mark.parametrize(
    ("retry", "says"),
    [
        ({"limit": "many"}, "limit `many`"),
        ({"retryPolicy": "OnTransientError"}, "retryPolicy `OnTransientError`"),
        ({"expression": "lastRetry.duration > 3"}, "expression `lastRetry.duration > 3`"),
        ({"backoff": {"duration": "soon"}}, "`soon` is not a duration"),
        ({"backoff": {"factor": "x"}}, "factor `x`"),
    ],
)
def test_a_retry_that_would_differ_from_the_cluster_is_refused(retry: dict[str, Any], says: str) -> None:
    assert any(says in line for line in refusals(saying("main", retryStrategy=retry)))


def test_an_expression_without_a_policy_means_always() -> None:
    retry = only_leaf(compiled(saying("main", retryStrategy={"expression": "asInt(lastRetry.exitCode) == 75"}))).retry
    assert retry is not None
    assert (retry.on_failure, retry.on_error, retry.limit) == (True, True, None)


@pytest.mark.parametrize("name", ["", "Upper", "a" * 64, "../x", "a/b"])
def test_a_workflow_needs_a_name_that_can_be_a_folder(name: str) -> None:
    broken = document(leaf("main"))
    broken["metadata"]["name"] = name
    with pytest.raises(SpecError, match="a name is needed"):
        compile_workflow(broken, IMAGES)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90", 90), ("90s", 90), ("1h30m", 5400), ("250ms", 0.25), (600, 600), ("1d", 86_400), ("x", None), ("", None)],
)
def test_durations_are_read_as_the_cluster_reads_them(text: Any, seconds: float | None) -> None:
    assert duration_s(text) == seconds
