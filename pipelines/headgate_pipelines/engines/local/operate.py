"""What happens next in a workflow: a pure function of what is journaled, what has ended, and the time.

Called until it is finished; called twice with the same it answers the same. The order is: attempts that ended, time
limits, stop, the DAG, onExit. It follows the cluster's controller: a task is looked at only when everything it depends
on has ended, then it runs or is Omitted; how a DAG ended is told by its last tasks alone; after a failure nothing new
begins (failFast) but what runs is let finish.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from headgate_pipelines.engines.local import boolean
from headgate_pipelines.engines.local.retries import wants
from headgate_pipelines.engines.local.spec import Child, Group, Leaf, Node, Source, Spec, Text, leaves
from headgate_pipelines.engines.local.state import NodeState, Outcome, Phase, RunState

STOPPED = "Stopped"
TIMEOUT = "timeout: it ran longer than its template allows"
ATTEMPT_TIMEOUT = "this attempt ran longer than activeDeadlineSeconds"
DEADLINE = "the workflow ran longer than activeDeadlineSeconds"
MOST_FAILURES = 10  # listed in {{workflow.failures}}
LONGEST_MESSAGE = 1_000  # characters kept of an op's last words


@dataclass(frozen=True, slots=True)
class Start:
    """Have this attempt running. One that runs or has ended is left as it is."""

    leaf: Leaf
    attempt: int
    argv: tuple[str, ...]
    env: Mapping[str, str]
    script: str | None


@dataclass(frozen=True, slots=True)
class Stop:
    leaf: Leaf
    attempt: int


@dataclass(frozen=True, slots=True)
class Decision:
    state: RunState  # to be journaled before anything is done
    start: tuple[Start, ...] = ()
    stop: tuple[Stop, ...] = ()
    wake_at: float | None = None  # when time alone changes something; None: it does not


def operate(
    spec: Spec, state: RunState, outcomes: Mapping[str, Outcome], now: float, *, stop: bool = False
) -> Decision:
    """One pass.

    Args:
        outcomes: by path, of attempts that ended since they were journaled as running; others are ignored.
        stop: somebody asked for the end.
    """
    if state.phase is not Phase.RUNNING:
        return Decision(state)
    turn = _Turn(spec, state, now)
    turn.ended(outcomes)
    turn.limits(stop=stop)
    turn.advance()
    return turn.decision()


class _Turn:
    """The state while one pass changes it."""

    def __init__(self, spec: Spec, state: RunState, now: float) -> None:
        self.spec = spec
        self.state = state
        self.now = now
        self.nodes = dict(state.nodes)
        self.leaves = {leaf.path: leaf for leaf in spec.leaves()}

    def decision(self) -> Decision:
        running = [(self.leaves[path], node) for path, node in self.nodes.items() if node.running]
        starts = [self._start(leaf, node) for leaf, node in running if not node.stopping]
        stops = [Stop(leaf, node.attempt) for leaf, node in running if node.stopping]
        times = [at for at in self._times() if at is not None]
        state = replace(self.state, nodes=self.nodes)
        done = state.phase is not Phase.RUNNING
        return Decision(state, tuple(starts), tuple(stops), None if done or not times else min(times))

    # --- attempts that ended --------------------------------------------------------------------------------------

    def ended(self, outcomes: Mapping[str, Outcome]) -> None:
        for path, outcome in sorted(outcomes.items()):
            node = self.nodes.get(path)
            if node is not None and node.running:
                self.nodes[path] = self._after(self.leaves[path], node, outcome)

    def _after(self, leaf: Leaf, node: NodeState, outcome: Outcome) -> NodeState:
        good = outcome.exit_code == 0 and not outcome.error and not node.stopping
        failed = not outcome.error and (outcome.exit_code is not None or bool(node.stopping))
        phase = Phase.SUCCEEDED if good else Phase.FAILED if failed else Phase.ERROR
        message = node.stopping or outcome.error or ("" if good else outcome.message or f"exit {outcome.exit_code}")
        ended = replace(node, phase=phase, message=message[:LONGEST_MESSAGE], exit_code=outcome.exit_code, stopping="")
        if not good and self._again(leaf, node, failed=failed, exit_code=outcome.exit_code):
            pause = leaf.retry.backoff.pause_s(node.attempt) if leaf.retry else 0.0
            return replace(ended, phase=Phase.RUNNING, retry_at=self.now + pause)
        return replace(ended, ended_at=self.now, outputs=dict(outcome.outputs) if good else {})

    def _again(self, leaf: Leaf, node: NodeState, *, failed: bool, exit_code: int | None) -> bool:
        retry = leaf.retry
        if retry is None or node.stopping not in ("", ATTEMPT_TIMEOUT) or self._over(leaf):
            return False
        if retry.limit is not None and node.attempt >= retry.limit:
            return False
        longest = retry.backoff.max_s
        if longest is not None and self.now + retry.backoff.pause_s(node.attempt) > node.started_at + longest:
            return False
        return wants(retry, failed=failed, exit_code=exit_code)

    def _over(self, leaf: Leaf) -> bool:
        """A stop was asked for, and it is not for onExit."""
        return bool(self.state.stop) and leaf not in self._exit_leaves()

    def _exit_leaves(self) -> tuple[Leaf, ...]:
        return tuple(leaves(self.spec.on_exit)) if self.spec.on_exit else ()

    # --- time limits and stop -------------------------------------------------------------------------------------

    def limits(self, *, stop: bool) -> None:
        if self.state.status is None and not self.state.stop:
            deadline = self._deadline()
            late = deadline is not None and self.now >= deadline
            if stop or late:
                self.state = replace(self.state, stop=STOPPED if stop else DEADLINE)
        for path, node in list(self.nodes.items()):
            if node.phase is Phase.RUNNING:
                self.nodes[path] = self._limited(self.leaves[path], node)

    def _limited(self, leaf: Leaf, node: NodeState) -> NodeState:
        why = self.state.stop if self._over(leaf) else ""
        if not why and leaf.timeout_s is not None and self.now >= node.started_at + leaf.timeout_s:
            why = TIMEOUT
        if not why and node.running and leaf.attempt_s is not None and self.now >= node.attempt_at + leaf.attempt_s:
            why = ATTEMPT_TIMEOUT
        if node.running:
            return replace(node, stopping=node.stopping or why) if why else node
        if why:  # between two attempts: nothing runs that would have to be ended
            return replace(node, phase=Phase.FAILED, retry_at=None, ended_at=self.now, message=why)
        if node.retry_at is not None and self.now >= node.retry_at:
            return replace(node, attempt=node.attempt + 1, attempt_at=self.now, retry_at=None)
        return node

    def _deadline(self) -> float | None:
        return None if self.spec.deadline_s is None else self.state.started_at + self.spec.deadline_s

    def _times(self) -> Iterator[float | None]:
        if self.state.status is None and not self.state.stop:
            yield self._deadline()
        for path, node in self.nodes.items():
            leaf = self.leaves[path]
            if node.phase is Phase.RUNNING and not node.stopping:
                yield node.retry_at
                yield None if leaf.timeout_s is None else node.started_at + leaf.timeout_s
                yield None if leaf.attempt_s is None or not node.running else node.attempt_at + leaf.attempt_s

    # --- the DAG --------------------------------------------------------------------------------------------------

    def advance(self) -> None:
        if self.state.status is None:
            self._go(self.spec.root, blocked=bool(self.state.stop))
            found = self._result(self.spec.root)
            if found is None:
                return
            status = Phase.FAILED if self.state.stop or found is Phase.OMITTED else found
            self.state = replace(self.state, status=status, message=self.state.stop or self._why(self.spec.root))
        if self.spec.on_exit is not None:
            self._go(self.spec.on_exit, blocked=False)
            exited = self._result(self.spec.on_exit)
            if exited is None:
                return
            if exited.bad and self.state.status is Phase.SUCCEEDED:
                self.state = replace(self.state, status=exited, message=f"onExit: {self._why(self.spec.on_exit)}")
        self.state = replace(self.state, phase=self.state.status or Phase.ERROR, finished_at=self.now)

    def _go(self, node: Node, *, blocked: bool) -> None:
        """Begins what may begin in this node; omits what never will."""
        if isinstance(node, Leaf):
            if node.path not in self.nodes:
                self.nodes[node.path] = NodeState(Phase.OMITTED) if blocked else self._begun(node)
            return
        held = blocked or self._failing(node)  # as it was before this pass: the order of tasks must not matter
        for child in node.children:  # each comes after those it waits for
            if self._has_begun(child.node):
                self._go(child.node, blocked=blocked)
            elif all(self._result(self._sibling(node, name).node) for name in child.after):
                if not self._holds(node, child):
                    self._omit(child.node)
                elif not held:
                    self._go(child.node, blocked=False)
        if (blocked or self._failing(node)) and not self._is_running(node):
            self._omit(node)

    def _begun(self, leaf: Leaf) -> NodeState:
        begun = NodeState(Phase.RUNNING, started_at=self.now, attempt_at=self.now)
        missing = next((text for text in _texts(leaf) if self._filled(text) is None), None)
        if missing is None:
            return begun
        message = f"an output it reads does not exist: {_names(missing)}"
        return replace(begun, phase=Phase.ERROR, ended_at=self.now, message=message)

    def _sibling(self, group: Group, name: str) -> Child:
        return next(child for child in group.children if child.name == name)

    def _holds(self, group: Group, child: Child) -> bool:
        def holds(atom: boolean.Atom) -> bool:
            phase = self._result(self._sibling(group, atom.name).node)
            return phase is not None and phase == {"Errored": Phase.ERROR}.get(atom.test, atom.test)

        return boolean.evaluate(child.when, holds)

    def _omit(self, node: Node) -> None:
        for leaf in leaves(node):
            self.nodes.setdefault(leaf.path, NodeState(Phase.OMITTED))

    def _has_begun(self, node: Node) -> bool:
        return any(leaf.path in self.nodes for leaf in leaves(node))

    def _is_running(self, node: Node) -> bool:
        return any(leaf.path in self.nodes and self.nodes[leaf.path].phase is Phase.RUNNING for leaf in leaves(node))

    def _result(self, node: Node) -> Phase | None:
        """How it ended; None: it has not."""
        if isinstance(node, Leaf):
            phase = self.nodes[node.path].phase if node.path in self.nodes else None
            return None if phase is Phase.RUNNING else phase
        results = [self._result(child.node) for child in node.children]
        if None in results:
            return None
        if results and all(result is Phase.OMITTED for result in results):
            return Phase.OMITTED
        branches = self._branches(node)
        ended = [branches[child.name] for child in _last(node)]
        return next((bad for bad in (Phase.ERROR, Phase.FAILED) if bad in ended), Phase.SUCCEEDED)

    def _failing(self, group: Group) -> bool:
        """With failFast: one of the last tasks can only be told as failed any more."""
        if not group.fail_fast:
            return False
        branches = self._branches(group)
        return any(branches[child.name].bad for child in _last(group) if self._result(child.node) is not None)

    def _branches(self, group: Group) -> dict[str, Phase]:
        """How each branch up to and with a task ended: an omitted task passes on what those before it say."""
        found: dict[str, Phase] = {}
        for child in group.children:  # each comes after those it waits for
            result = self._result(child.node)
            before = [found[name] for name in child.after]
            inherited = next((phase for phase in before if phase.bad), Phase.SUCCEEDED)
            found[child.name] = inherited if result is Phase.OMITTED else result or Phase.RUNNING
        return found

    def _why(self, node: Node) -> str:
        bad = [(leaf.path, self.nodes[leaf.path]) for leaf in leaves(node) if leaf.path in self.nodes]
        return next((f"{path}: {n.message}" for path, n in bad if n.phase.bad), "")

    # --- texts ----------------------------------------------------------------------------------------------------

    def _start(self, leaf: Leaf, node: NodeState) -> Start:
        env = {name: self._filled(text) or "" for name, text in leaf.env.items()}
        script = None if leaf.script is None else self._filled(leaf.script) or ""
        return Start(leaf, node.attempt, tuple(self._filled(text) or "" for text in leaf.argv), env, script)

    def _filled(self, text: Text) -> str | None:
        """The text with what is known by now; None: something it names never came to be."""
        found = [part if isinstance(part, str) else self._value(part.source, part.node, part.name) for part in text]
        return None if None in found else "".join(part for part in found if part is not None)

    def _value(self, source: Source, path: str, name: str) -> str | None:
        if source is Source.STATUS:
            return str(self.state.status or Phase.RUNNING)
        if source is Source.FAILURES:
            return json.dumps(list(self._failures())[:MOST_FAILURES])
        return self.nodes[path].outputs.get(name) if path in self.nodes else None

    def _failures(self) -> Iterator[dict[str, str]]:
        for leaf in leaves(self.spec.root):
            node = self.nodes.get(leaf.path)
            if node is not None and node.phase.bad:
                words = {"displayName": leaf.path, "templateName": leaf.template, "phase": str(node.phase)}
                yield {**words, "message": node.message}


def _last(group: Group) -> list[Child]:
    """Those that nothing waits for."""
    waited_for = {name for child in group.children for name in child.after}
    return [child for child in group.children if child.name not in waited_for]


def _texts(leaf: Leaf) -> Iterator[Text]:
    yield from leaf.argv
    yield from leaf.env.values()
    if leaf.script is not None:
        yield leaf.script


def _names(text: Text) -> str:
    return ", ".join(f"{part.name} of {part.node}" for part in text if not isinstance(part, str))
