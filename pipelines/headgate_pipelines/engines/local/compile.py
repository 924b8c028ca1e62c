"""An Argo Workflow document (Hera's `to_dict()`) to the `Spec` the local engine runs, or findings that say why not.

Supported: container and script templates, DAG with `depends` or `dependencies`, steps, nested; parameters in and out;
retryStrategy; timeouts; onExit. Refused by name: everything else that would change what runs (`when`, items, artifacts,
volumes, hooks, suspend, expressions, locks, plugins). References are resolved here, so that a typo is found before
anything has run.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from headgate.findings import Finding, Place, SpecError
from headgate_pipelines.contract import COMMAND, OUTPUTS
from headgate_pipelines.engines.local import boolean, fields
from headgate_pipelines.engines.local.retries import read_retry
from headgate_pipelines.engines.local.spec import Child, Group, Leaf, Node, Output, Ref, Source, Spec, Text
from headgate_pipelines.engines.local.texts import Scope, read_text

Images = Mapping[str, Mapping[str, Sequence[str]]]  # image -> its command -> what runs here instead

NAME = re.compile(r"[a-z0-9]([a-z0-9.-]{0,61}[a-z0-9])?")
PART_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_-]{0,127}")
TASK_RESULT = re.compile(r"([A-Za-z0-9_][\w-]*)(?:\.([A-Za-z]+))?")
RESULTS = ("Succeeded", "Failed", "Errored", "Omitted")
ON_EXIT = "onExit"
DEEPEST = 20  # groups in groups
MOST_NODES = 2_000


def compile_workflow(document: Mapping[str, Any], images: Images | None) -> Spec:
    """The document as a spec.

    Args:
        images: what a container's command means on this machine; any other image or command is refused.
            None: containers run as they are.
    Raises:
        SpecError: every reason why it cannot run here.
    """
    compiler = _Compiler(document, images)
    spec = compiler.run()
    if compiler.findings or spec is None:
        raise SpecError(*compiler.findings)
    return spec


def label(document: Mapping[str, Any], name: str) -> str:
    """A label of the workflow; empty: it has none."""
    return str(((document.get("metadata") or {}).get("labels") or {}).get(name, ""))


@dataclass
class _Compiler:
    document: Mapping[str, Any]
    images: Images | None
    findings: list[Finding] = field(default_factory=list)
    templates: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    globals: dict[str, str] = field(default_factory=dict)
    name: str = ""
    nodes: int = 0

    # --- the whole ------------------------------------------------------------------------------------------------

    def run(self) -> Spec | None:
        self.known("", "workflow", self.document, fields.WORKFLOW | {"status"})
        self.name = str((self.document.get("metadata") or {}).get("name") or "")
        if not NAME.fullmatch(self.name):
            self.refuse(
                "metadata.name", "a name is needed", "the name is what makes a second submit the same", "set it"
            )
            return None
        spec = self.document.get("spec") or {}
        self.known("spec", "spec", spec, fields.SPEC)
        self.templates = {str(t.get("name")): t for t in spec.get("templates") or ()}
        self.globals = {"workflow.name": self.name, **self.arguments(spec)}
        root = self.entry(spec, "entrypoint", path="")
        on_exit = self.entry(spec, "onExit", path=ON_EXIT) if spec.get("onExit") else None
        deadline = self.seconds("spec.activeDeadlineSeconds", spec.get("activeDeadlineSeconds"))
        labels = {str(k): str(v) for k, v in ((self.document.get("metadata") or {}).get("labels") or {}).items()}
        return Spec(self.name, root, on_exit, deadline, labels) if root is not None else None

    def arguments(self, spec: Mapping[str, Any]) -> dict[str, str]:
        found = {}
        block = spec.get("arguments") or {}
        self.known("spec.arguments", "arguments", block, {"parameters"})
        for parameter in block.get("parameters") or ():
            where = f"spec.arguments.{parameter.get('name')}"
            self.known(where, "parameter", parameter, fields.PARAMETER)
            value = parameter.get("value", parameter.get("default"))
            if value is None:
                self.refuse(where, "it has no value", "nothing asks for it later", "give it a `value`")
            found[f"workflow.parameters.{parameter.get('name')}"] = fields.text_of(value)
        return found

    def entry(self, spec: Mapping[str, Any], key: str, path: str) -> Node | None:
        template = str(spec.get(key) or "")
        scope = Scope(f"spec.{key}", exiting=key == ON_EXIT)
        found = self.node(template, path, {}, scope, ())
        return found[0] if found else None

    # --- one template ---------------------------------------------------------------------------------------------

    def node(
        self, name: str, path: str, arguments: Mapping[str, Text], caller: Scope, above: tuple[str, ...]
    ) -> tuple[Node, dict[str, Text]] | None:
        """The template called with these arguments, and what its output parameters are to its caller."""
        template = self.templates.get(name)
        if template is None:
            known = ", ".join(sorted(self.templates)) or "none"
            self.refuse(caller.where, f"there is no template `{name}`", f"there are: {known}", "correct the name")
            return None
        self.nodes += 1
        if name in above or len(above) >= DEEPEST or self.nodes > MOST_NODES:
            why = "a workflow here is unrolled when it starts, so it has to end"
            self.refuse(caller.where, f"recursion or too many nodes at `{name}`", why, "unroll it in Python")
            return None
        scope = Scope(f"templates.{name}", self.inputs(template, arguments, caller), exiting=caller.exiting)
        if "dag" in template or "steps" in template:
            return self.group(template, path, scope, (*above, name))
        return self.leaf(template, path or name, scope)

    def inputs(self, template: Mapping[str, Any], given: Mapping[str, Text], caller: Scope) -> dict[str, Text]:
        where = f"templates.{template.get('name')}.inputs"
        block = template.get("inputs") or {}
        self.known(where, "inputs", block, {"parameters"})
        found: dict[str, Text] = {}
        for parameter in block.get("parameters") or ():
            name = str(parameter.get("name"))
            self.known(f"{where}.{name}", "parameter", parameter, fields.PARAMETER)
            default = parameter.get("value", parameter.get("default"))
            if name in given:
                found[name] = given[name]
            elif default is not None:
                found[name] = self.text(fields.text_of(default), Scope(f"{where}.{name}"))
            else:
                message = f"input parameter `{name}` of `{template.get('name')}` is not given and has no default"
                self.refuse(caller.where, message, "", f"pass `{name}` in its arguments")
                found[name] = ("",)
        for extra in sorted(given.keys() - found.keys()):
            fix = "declare it in the template's inputs, or leave it out"
            self.refuse(caller.where, f"`{template.get('name')}` has no input parameter `{extra}`", "", fix)
        return found

    def leaf(self, template: Mapping[str, Any], path: str, scope: Scope) -> tuple[Node, dict[str, Text]] | None:
        self.known(scope.where, "template", template, fields.LEAF)
        block = template.get("container") or template.get("script")
        if not isinstance(block, Mapping):
            fix = "use a container, a script, a DAG or steps; run the rest on Argo Workflows"
            self.refuse(scope.where, "this kind of template is not supported here", "", fix)
            return None
        self.known(scope.where, "container", block, fields.CONTAINER)
        outputs = self.outputs(template, scope)
        node = Leaf(
            path=path,
            template=str(template.get("name")),
            argv=self.argv(block, scope),
            env=self.env(block, scope),
            script=self.text(str(block.get("source") or ""), scope) if "script" in template else None,
            outputs=outputs,
            retry=read_retry(template.get("retryStrategy"), scope.where, self),
            timeout_s=self.seconds(f"{scope.where}.timeout", template.get("timeout")),
            attempt_s=self.seconds(f"{scope.where}.activeDeadlineSeconds", template.get("activeDeadlineSeconds")),
            image=str(block.get("image") or ""),
            pod={**{name: at[name] for at, name in _places(template, block) if at.get(name)}, **_from_elsewhere(block)},
        )
        if self.images is None:
            self.fits_a_pod(node, scope)
        return node, {o.name: (Ref(Source.OUTPUT, path, o.name),) for o in outputs}

    def fits_a_pod(self, leaf: Leaf, scope: Scope) -> None:
        """What only a folder or Argo's own executor can do is refused."""
        fix = "run this workflow on Argo Workflows"
        if leaf.script is not None:
            self.refuse(scope.where, "a script has no file in a pod", "nothing stages it there", f"use args, or {fix}")
        ours = tuple(word for text in leaf.argv[: len(COMMAND)] for word in text) == COMMAND
        if not ours and any(output.default is None for output in leaf.outputs):
            why = "a pod's files cannot be read from outside; only Headgate's own ops hand their outputs over"
            self.refuse(scope.where, "its output parameters cannot be read here", why, f"give defaults, or {fix}")

    def argv(self, block: Mapping[str, Any], scope: Scope) -> tuple[Text, ...]:
        image, command = str(block.get("image") or ""), [str(c) for c in block.get("command") or ()]
        if not command:
            why = "without it a cluster asks the image registry for the entrypoint; here there is no image"
            self.refuse(scope.where, "`command` is not set", why, "set it")
            return ()
        args = [fields.text_of(a) for a in block.get("args") or ()]
        if self.images is None:
            if not image:
                self.refuse(scope.where, "`image` is not set", "", "set it")
            return tuple(self.text(word, scope) for word in (*command, *args))
        here = self.images.get(image)
        if here is None or command[0] not in here:
            known = "; ".join(f"{i}: {', '.join(commands)}" for i, commands in sorted(self.images.items()))
            message = f"`{command[0]}` of image `{image}` is not known here"
            self.refuse(scope.where, message, f"no container runs locally; known are {known}", "use one of these")
            return ()
        words = (*command[1:], *args)
        return (*((str(part),) for part in here[command[0]]), *(self.text(word, scope) for word in words))

    def env(self, block: Mapping[str, Any], scope: Scope) -> dict[str, Text]:
        found = {}
        for variable in block.get("env") or ():
            if self.images is None and "valueFrom" in variable:
                continue  # the pod's: `_from_elsewhere`
            self.known(f"{scope.where}.env.{variable.get('name')}", "env", variable, fields.ENV)
            found[str(variable.get("name"))] = self.text(fields.text_of(variable.get("value", "")), scope)
        return found

    def outputs(self, template: Mapping[str, Any], scope: Scope) -> tuple[Output, ...]:
        found = []
        for name, source, where in self.output_blocks(template, scope, {"path", "default"}):
            path = str(source.get("path") or "")
            if not path.startswith(f"{OUTPUTS}/") or ".." in path.split("/"):
                why = "only that folder is each attempt's own; elsewhere two ops would overwrite each other's files"
                self.refuse(where, f"output file `{path}` is not below {OUTPUTS}", why, f"write it to {OUTPUTS}/{name}")
            default = source.get("default")
            found.append(Output(name, path, None if default is None else fields.text_of(default)))
        return tuple(found)

    def output_blocks(
        self, template: Mapping[str, Any], scope: Scope, known: set[str]
    ) -> list[tuple[str, Mapping[str, Any], str]]:
        block = template.get("outputs") or {}
        self.known(f"{scope.where}.outputs", "outputs", block, {"parameters"})
        found = []
        for parameter in block.get("parameters") or ():
            where = f"{scope.where}.outputs.{parameter.get('name')}"
            self.known(where, "output", parameter, fields.OUTPUT)
            source = parameter.get("valueFrom") or {}
            self.known(f"{where}.valueFrom", "valueFrom", source, known)
            found.append((str(parameter.get("name")), source, where))
        return found

    # --- DAG and steps --------------------------------------------------------------------------------------------

    def group(
        self, template: Mapping[str, Any], path: str, scope: Scope, above: tuple[str, ...]
    ) -> tuple[Node, dict[str, Text]]:
        self.known(scope.where, "template", template, fields.GROUP)
        scope.kind = "tasks" if "dag" in template else "steps"
        dag = template.get("dag") or {}
        self.known(f"{scope.where}.dag", "dag", dag, fields.DAG)
        calls = self.tasks(dag.get("tasks") or (), scope) if dag else self.steps(template.get("steps") or (), scope)
        children = [c for call in calls if (c := self.child(call, path, scope, above)) is not None]
        scope.before = frozenset(scope.outputs)
        node = Group(path, str(template.get("name")), tuple(children), fail_fast=dag.get("failFast") is not False)
        outputs = self.output_blocks(template, scope, {"parameter"})
        return node, {name: self.text(str(source.get("parameter") or ""), scope) for name, source, _ in outputs}

    def tasks(self, tasks: Sequence[Mapping[str, Any]], scope: Scope) -> list[_Call]:
        """In an order in which each comes after those it waits for."""
        calls: dict[str, _Call] = {}
        for task in tasks:
            name = str(task.get("name"))
            where = f"{scope.where}.{name}"
            self.known(where, "task", task, fields.TASK)
            if name in calls or not PART_NAME.fullmatch(name):
                self.refuse(where, f"task name `{name}` is used twice or not a name", "", "rename it")
            when = self.depends(task, where)
            calls[name] = _Call(name, where, task, tuple(dict.fromkeys(a.name for a in boolean.atoms(when))), when)
        return self.sorted(calls)

    def depends(self, task: Mapping[str, Any], where: str) -> boolean.Expression:
        text = str(task.get("depends") or " && ".join(str(d) for d in task.get("dependencies") or ()))
        if "depends" in task and "dependencies" in task:
            self.refuse(where, "both `depends` and `dependencies`", "they may contradict each other", "keep `depends`")
        if not text:
            return boolean.ALWAYS
        try:
            return boolean.parse(text, TASK_RESULT, _task_result)
        except boolean.Unreadable as error:
            fix = f"use task names, {', '.join('.' + r for r in RESULTS)}, && || ! and brackets"
            self.refuse(where, f"depends `{text[:100]}`: {error}", "", fix)
            return boolean.ALWAYS

    def sorted(self, calls: Mapping[str, _Call]) -> list[_Call]:
        done: dict[str, _Call] = {}
        for call in calls.values():
            for name in sorted(set(call.after) - calls.keys()):
                known = ", ".join(calls)
                self.refuse(call.where, f"it depends on `{name}`, which is no task here", f"there are: {known}", "")
        waiting = dict(calls)
        while waiting:
            ready = [c for c in waiting.values() if all(n in done or n not in calls for n in c.after)]
            if not ready:
                where = next(iter(waiting.values())).where
                self.refuse(where, f"{', '.join(sorted(waiting))} wait for each other", "", "break the cycle")
                break
            for call in ready:
                before = frozenset().union(*(done[n].before | {n} for n in call.after if n in done))
                done[call.name] = replace(call, before=before)
                del waiting[call.name]
        return list(done.values())

    def steps(self, rows: Sequence[Any], scope: Scope) -> list[_Call]:
        """A row waits for the whole row before it."""
        found: list[_Call] = []
        before: tuple[str, ...] = ()
        earlier: frozenset[str] = frozenset()
        for row in rows:
            calls = row if isinstance(row, list) else [row]
            for step in calls:
                name = str(step.get("name"))
                where = f"{scope.where}.{name}"
                self.known(where, "step", step, fields.STEP)
                if not PART_NAME.fullmatch(name) or name in {c.name for c in found}:
                    self.refuse(where, f"step name `{name}` is used twice or not a name", "", "rename it")
                when = boolean.All(tuple(boolean.Atom(n, "Succeeded") for n in before))
                found.append(_Call(name, where, step, before, when, earlier))
            before = tuple(str(step.get("name")) for step in calls)
            earlier |= frozenset(before)
        return found

    def child(self, call: _Call, path: str, scope: Scope, above: tuple[str, ...]) -> Child | None:
        here = replace(scope, where=call.where, before=call.before)
        block = call.block.get("arguments") or {}
        self.known(f"{call.where}.arguments", "arguments", block, {"parameters"})
        arguments = {}
        for parameter in block.get("parameters") or ():
            self.known(f"{call.where}.arguments.{parameter.get('name')}", "parameter", parameter, {"name", "value"})
            arguments[str(parameter.get("name"))] = self.text(fields.text_of(parameter.get("value", "")), here)
        at = f"{path}.{call.name}" if path else call.name
        found = self.node(str(call.block.get("template") or ""), at, arguments, here, above)
        if found is None:
            return None
        scope.outputs[call.name] = found[1]
        return Child(call.name, found[0], call.after, call.when)

    def text(self, value: str, scope: Scope) -> Text:
        """The value with every reference replaced, or kept as a `Ref`; one that means nothing is refused."""
        found, unknown = read_text(value, scope, self.globals)
        for name in unknown:
            why = "only {{workflow.name}}, parameters and outputs of what has ended before can be read here"
            self.refuse(scope.where, f"`{{{{{name}}}}}` means nothing here", why, "correct it, or depend on its task")
        return found

    # --- findings -------------------------------------------------------------------------------------------------

    def seconds(self, where: str, value: Any) -> float | None:
        if value is None:
            return None
        found = fields.duration_s(value)
        if found is None:
            self.refuse(where, f"`{value}` is not a duration", "", "write 90s, 10m or 1h30m")
        return found

    def known(self, where: str, kind: str, block: Any, allowed: set[str]) -> None:
        """Refuses every field of the block that is not allowed and may not be ignored."""
        if not isinstance(block, Mapping):
            self.refuse(where, f"{kind} is not a mapping", "", "see Argo's field reference")
            return
        for name in sorted(block.keys() - allowed - fields.IGNORED.get(kind, set())):
            why = "ignoring it would run something else here than on the cluster"
            fix = "leave it out, or run this workflow on Argo Workflows"
            self.refuse(f"{where}.{name}".lstrip("."), f"`{name}` is not supported by the local engine", why, fix)

    def refuse(self, where: str, message: str, why: str, fix: str) -> None:
        place = Place(f"Workflow {self.name or '?'}: {where}")
        finding = Finding("workflow-unsupported", message, why, fix, place)
        if finding not in self.findings:
            self.findings.append(finding)


@dataclass(frozen=True, slots=True)
class _Call:
    """A task or step before its template is known."""

    name: str
    where: str
    block: Mapping[str, Any]
    after: tuple[str, ...]
    when: boolean.Expression
    before: frozenset[str] = frozenset()


def _places(template: Mapping[str, Any], block: Mapping[str, Any]) -> tuple[tuple[Mapping[str, Any], str], ...]:
    """Where a template says on what a pod runs."""
    return (block, "resources"), (template, "nodeSelector"), (template, "tolerations")


def _from_elsewhere(block: Mapping[str, Any]) -> dict[str, Any]:
    """Variables whose values the cluster looks up, such as a Secret's."""
    found = [variable for variable in block.get("env") or () if "valueFrom" in variable]
    return {"env": found} if found else {}


def _task_result(match: re.Match[str]) -> boolean.Expression:
    result = match[2] or "Succeeded"
    if result not in RESULTS:
        raise boolean.Unreadable(f"`.{result}` is not supported")
    return boolean.Atom(match[1], result)
