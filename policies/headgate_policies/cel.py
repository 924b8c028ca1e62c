"""CEL, the language of expressions: compiled and type-checked with positions, evaluated, explained branch by branch.

The library is optional (extra `cel`, 50 MB): without it nothing compiles, and `NoCel` says what to install. What a
value is worth is three-valued: an expression over a missing, NaN or infinite number is neither true nor false. Refuses
what numbers do not need: lists, maps and what iterates over them, so that an expression's cost is its length.
"""

from __future__ import annotations

import difflib
import functools
import itertools
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

MAX_LENGTH = 2_000  # characters
MOST_NAMES = 12  # shown when a name is unknown
INT, DOUBLE, STRING, MAP = "INT", "DOUBLE", "STRING", "MAP"
COMPARISONS = ("<=", ">=", "==", "!=", "<", ">")

_TOKEN = re.compile(
    r"""\s*(?:(?P<text>[rRbB]?(?:"(?:\\.|[^"\\])*"|'(?:\\.|[^'\\])*'))"""
    r"""|(?P<number>(?:\d+\.\d*|\.\d+|\d+)(?:[eE][-+]?\d+)?[uU]?)"""
    r"""|(?P<name>[A-Za-z_]\w*(?:\s*\.\s*[A-Za-z_]\w*)*)"""
    r"""|(?P<mark>&&|\|\||<=|>=|==|!=|.))""",
    re.DOTALL,
)
_ERROR = re.compile(r"<input>:(\d+):(\d+): ([^\n]*)")
_OVERLOAD = re.compile(r"found no matching overload for '(\S+)' applied to '\(([^)]*)\)'")
_UNDECLARED = re.compile(r"undeclared reference to '([^']*)'")


class NoCel(ImportError):
    """The library is not installed."""

    def __init__(self) -> None:
        super().__init__("expressions need the package `cel-expr-python`, which is not installed")


class CelError(ValueError):
    """An expression that does not compile. `line` and `column` count from 1; 0: it as a whole."""

    def __init__(self, message: str, line: int = 0, column: int = 0, fix: str = "") -> None:
        super().__init__(f"{line}:{column}: {message}" if line else message)
        self.line, self.column, self.fix = line, column, fix


@dataclass(frozen=True, slots=True)
class _Token:
    kind: str  # text | number | name | mark
    text: str
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Node:
    """A part of an expression: `all`, `any` and `not` of parts, a comparison of two sides, or anything else."""

    kind: str  # all | any | not | choose | compare | other
    text: str
    parts: tuple[Node, ...] = ()
    names: tuple[str, ...] = ()  # variables below it, each once, in the order written
    comparison: str = ""


class Expression:
    """A true-or-false expression over declared variables."""

    def __init__(self, text: str, variables: Mapping[str, str]) -> None:
        """
        Args:
            variables: dotted name -> INT, DOUBLE or STRING.
        Raises:
            CelError: it does not compile, or is not true or false. NoCel: the library is missing.
        """
        if len(text) > MAX_LENGTH:
            raise CelError(f"the expression has {len(text):,} characters, more than {MAX_LENGTH:,}")
        self._environment, self._error = _environment(tuple(sorted(variables.items())))
        tokens = _tokens(text)
        _refuse_iteration(text, tokens)
        program = _compiled(self._environment, text, variables)
        kind = str(program.return_type())
        if kind != "BOOL":
            raise CelError(
                f"the expression is {_a(kind.lower())}, not true or false", 1, 1, "compare it with something"
            )
        self._programs: dict[str, Any] = {text: program}
        self.tree = _parse(text, tokens)

    def evaluate(self, values: Mapping[str, Any]) -> Value:
        """What it is worth for these values; a variable that is not in them is missing."""
        return self._node(self.tree, values)

    def _node(self, node: Node, values: Mapping[str, Any]) -> Value:
        parts = tuple(self._node(part, values) for part in node.parts if node.kind in ("all", "any", "not"))
        known = [part.holds for part in parts]
        if node.kind == "all":
            return Value(node, False if False in known else None if None in known else True, parts)
        if node.kind == "any":
            return Value(node, True if True in known else None if None in known else False, parts)
        if node.kind == "not":
            return Value(node, None if known[0] is None else not known[0], parts)
        if node.kind == "choose":
            return self._choose(node, values)
        sides = tuple(self._side(part, values) for part in node.parts)
        if any(side is None for side in sides):
            return Value(node, None, sides=sides, values=_used(node, values))
        holds = self._run(node.text, values)
        return Value(node, holds if isinstance(holds, bool) else None, sides=sides, values=_used(node, values))

    def _side(self, node: Node, values: Mapping[str, Any]) -> Any:
        """The value of one side of a comparison; None: missing."""
        if node.kind == "choose":
            condition = self._node(node.parts[0], values).holds
            return None if condition is None else self._side(node.parts[1 if condition else 2], values)
        return self._run(node.text, values) if node.kind == "other" else self._node(node, values).holds

    def _choose(self, node: Node, values: Mapping[str, Any]) -> Value:
        condition = self._node(node.parts[0], values)
        if condition.holds is None:
            return Value(node, None, (condition,))
        taken = self._node(node.parts[1 if condition.holds else 2], values)
        return Value(node, taken.holds, (condition, taken))

    def _run(self, text: str, values: Mapping[str, Any]) -> Any:
        """The value of a part; None: missing, or no finite number."""
        program = self._programs.get(text)
        if program is None:
            program = self._programs[text] = self._environment.compile(text)
        try:
            result = program.eval(data=dict(values))
        except RuntimeError:  # a budget or a value it cannot take
            return None
        value = result.value() if result.type() != self._error else None
        if isinstance(value, bool | str):
            return value
        return value if isinstance(value, int | float) and math.isfinite(value) else None


class Condition:
    """A true-or-false expression over documents. Lists, maps and macros are taken; the library bounds their work."""

    def __init__(self, text: str, variables: Mapping[str, str]) -> None:
        """Raises CelError: it does not compile, or is not true or false. NoCel: the library is missing."""
        if len(text) > MAX_LENGTH:
            raise CelError(f"the expression has {len(text):,} characters, more than {MAX_LENGTH:,}")
        environment, self._error = _environment(tuple(sorted(variables.items())))
        self._program = _compiled(environment, text, variables)
        kind = str(self._program.return_type())
        if kind not in ("BOOL", "DYN"):
            raise CelError(
                f"the expression is {_a(kind.lower())}, not true or false", 1, 1, "compare it with something"
            )

    def holds(self, values: Mapping[str, Any]) -> bool:
        """Raises CelError: it cannot be said, e.g. a field it reads is not there."""
        try:
            result = self._program.eval(data=dict(values))
        except (RuntimeError, OverflowError, TypeError, ValueError) as error:  # a budget, or a value it cannot take
            raise CelError(str(error).splitlines()[0][:200]) from error
        value = result.value() if result.type() != self._error else None
        if isinstance(value, bool):
            return value
        said = str(result.value()).removeprefix("NOT_FOUND: ").removeprefix("INVALID_ARGUMENT: ").splitlines()
        raise CelError(said[0][:200] if said and result.type() == self._error else "it is neither true nor false")


@dataclass(frozen=True, slots=True)
class Value:
    """What a part is worth: true, false, or None: something it needs is missing."""

    node: Node
    holds: bool | None
    parts: tuple[Value, ...] = ()
    sides: tuple[Any, ...] = ()  # of a comparison
    values: Mapping[str, Any] | None = None  # of the variables below it; None: it has parts that say

    def leaves(self, *, that: Sequence[bool | None] = (True, False, None)) -> Iterator[Value]:
        """The comparisons below that decide it, and hold, do not, or cannot be said."""
        if not self.parts:
            if self.holds in that:
                yield self
            return
        flipped = [None if holds is None else not holds for holds in that] if self.node.kind == "not" else that
        for part in self.parts:
            yield from part.leaves(that=flipped)

    def sentence(self) -> str:
        """`candidate.error_rate 0.031 is not <= 0.0075 (= stable.error_rate * 1.5; stable.error_rate 0.005)`."""
        values = self.values or {}
        absent = [name for name in self.node.names if name not in values]
        if absent:
            return f"`{self.node.text}`: {', '.join(absent)} missing"
        if self.node.kind != "compare":
            return f"`{self.node.text}` is {'unknown' if self.holds is None else str(self.holds).lower()}"
        left, right = (_side(part, side, values) for part, side in zip(self.node.parts, self.sides, strict=True))
        verb = {True: "is", False: "is not", None: "against"}[self.holds]
        return f"{left} {verb} {self.node.comparison} {right}"


def _side(node: Node, value: Any, values: Mapping[str, Any]) -> str:
    if value is None:
        return f"`{node.text}` (not a number)"
    if node.text in values:
        return f"{node.text} {shown(value)}"
    if not node.names:
        return shown(value)
    rest = ", ".join(f"{name} {shown(values[name])}" for name in node.names)
    return f"{shown(value)} (= {node.text}; {rest})"


def shown(value: Any) -> str:
    if isinstance(value, bool | str):
        return str(value).lower() if isinstance(value, bool) else f"'{value}'"
    return f"{value:,}" if isinstance(value, int) else f"{value:.4g}"


def _used(node: Node, values: Mapping[str, Any]) -> Mapping[str, Any]:
    return {name: values[name] for name in node.names if name in values}


@functools.lru_cache(maxsize=32)
def _environment(variables: tuple[tuple[str, str], ...]) -> tuple[Any, Any]:
    """An environment of these variables, and the type of what cannot be computed."""
    try:
        from cel_expr_python import cel
    except ImportError as error:
        raise NoCel from error
    environment = cel.NewEnv(variables={name: getattr(cel.Type, kind) for name, kind in variables})
    return environment, cel.Type.ERROR


def _compiled(environment: Any, text: str, variables: Mapping[str, str]) -> Any:
    try:
        return environment.compile(text)
    except RuntimeError as error:
        raise _plain(str(error), text, variables) from error


def _plain(said: str, text: str, variables: Mapping[str, str]) -> CelError:
    """The compiler's first error, in words for the author of a rollout.yml."""
    found = _ERROR.search(said)
    if found is None:
        return CelError(said.splitlines()[0][:200])
    line, column, message = int(found[1]), int(found[2]), found[3].replace(" (in container '')", "").strip()
    undeclared, overload = _UNDECLARED.match(message), _OVERLOAD.match(message)
    if undeclared:
        return _undeclared(undeclared[1], text, line, column, variables)
    if overload:
        kinds = [kind.strip() for kind in overload[2].split(",")]
        fix = "give both sides one type"
        if set(kinds) == {"double", "int"}:
            fix = "write a whole number beside a double as 2.0, and a count as double(candidate.requests)"
        sign = overload[1].strip("_@")
        return CelError(f"`{sign}` does not go with {' and '.join(map(_a, kinds))}", line, column, fix)
    return CelError(message.split(" expecting ")[0], line, column)


def _undeclared(name: str, text: str, line: int, column: int, variables: Mapping[str, str]) -> CelError:
    """CEL points at the last dot of a name; a person looks for its beginning."""
    lines = text.splitlines() or [""]
    here = lines[min(line, len(lines)) - 1]
    start = here.rfind(name, 0, column + len(name))
    near = difflib.get_close_matches(name, variables, n=1, cutoff=0.5)
    more = ", ..." if len(variables) > MOST_NAMES else ""
    fix = f"did you mean `{near[0]}`?" if near else f"known are {', '.join(sorted(variables)[:MOST_NAMES])}{more}"
    return CelError(f"undeclared reference '{name}'", line, start + 1 if start >= 0 else column, fix)


def _a(kind: str) -> str:
    return f"an {kind}" if kind[:1] in "aeiou" else f"a {kind}"


def _tokens(text: str) -> list[_Token]:
    found = []
    for match in _TOKEN.finditer(text):
        kind = match.lastgroup or "mark"
        word = match.group(kind)
        if word:
            found.append(
                _Token(kind, re.sub(r"\s", "", word) if kind == "name" else word, match.start(kind), match.end())
            )
    return found


def _refuse_iteration(text: str, tokens: Sequence[_Token]) -> None:
    for token in tokens:
        if token.kind == "mark" and token.text in "[]{}":
            line, column = _line_column(text, token.start)
            raise CelError(
                f"`{token.text}`: lists and maps are not taken", line, column, "write `||` between alternatives"
            )


# The true-or-false structure of an expression that is known to compile


def _parse(text: str, tokens: Sequence[_Token]) -> Node:
    while len(tokens) > 2 and tokens[0].text == "(" and _closing(tokens, 0) == len(tokens) - 1:
        tokens = tokens[1:-1]
    own = text[tokens[0].start : tokens[-1].end] if tokens else ""
    own = " ".join(own.split()) if "'" not in own and '"' not in own else own
    names = tuple(dict.fromkeys(name for index in range(len(tokens)) if (name := _variable(tokens, index))))
    if len(_top(tokens, ("?",))) == 1 and len(_top(tokens, (":",))) == 1:
        question, colon = _top(tokens, ("?",))[0], _top(tokens, (":",))[0]
        branches = (tokens[:question], tokens[question + 1 : colon], tokens[colon + 1 :])
        return Node("choose", own, tuple(_parse(text, branch) for branch in branches), names)
    for mark, kind in (("||", "any"), ("&&", "all")):
        at = _top(tokens, (mark,))
        if at:
            edges = [-1, *at, len(tokens)]
            pieces = tuple(tokens[a + 1 : b] for a, b in itertools.pairwise(edges))
            return Node(kind, own, tuple(_parse(text, piece) for piece in pieces), names)
    compared = _top(tokens, COMPARISONS)
    if len(compared) == 1:
        middle = compared[0]
        sides = tuple(_parse(text, side) for side in (tokens[:middle], tokens[middle + 1 :]))
        return Node("compare", own, sides, names, tokens[middle].text)
    if tokens and tokens[0].text == "!" and not compared:
        return Node("not", own, (_parse(text, tokens[1:]),), names)
    hidden = next((t for t in tokens if t.kind == "mark" and t.text in (*COMPARISONS, "&&", "||", "?")), None)
    if hidden is not None:  # what NaN does inside of it could not be seen
        line, column = _line_column(text, hidden.start)
        raise CelError(f"`{hidden.text}` inside of arithmetic or a call", line, column, "compare once, in parentheses")
    return Node("other", own, (), names)


def _line_column(text: str, at: int) -> tuple[int, int]:
    before = text[:at]
    return before.count("\n") + 1, at - before.rfind("\n")


def _variable(tokens: Sequence[_Token], index: int) -> str:
    """The variable a token names, the receiver of a method included; empty: none."""
    token = tokens[index]
    if token.kind != "name" or token.text in ("true", "false", "null"):
        return ""
    called = index + 1 < len(tokens) and tokens[index + 1].text == "("
    return token.text.rpartition(".")[0] if called else token.text


def _closing(tokens: Sequence[_Token], start: int) -> int:
    depth = 0
    for index in range(start, len(tokens)):
        depth += {"(": 1, ")": -1}.get(tokens[index].text, 0) if tokens[index].kind == "mark" else 0
        if depth == 0:
            return index
    return -1


def _top(tokens: Sequence[_Token], marks: Sequence[str]) -> list[int]:
    """Indices of marks outside every parenthesis."""
    depth, found = 0, []
    for index, token in enumerate(tokens):
        if token.kind != "mark":
            continue
        depth += {"(": 1, ")": -1}.get(token.text, 0)
        if depth == 0 and token.text in marks:
            found.append(index)
    return found
