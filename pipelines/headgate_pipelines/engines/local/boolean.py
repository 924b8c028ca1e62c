"""Boolean expressions as Argo writes them in `depends` and in a retry's `expression`: `&& || ! ( )` over atoms.

What an atom is, its reader decides. Everything else of govaluate and expr-lang is refused by name.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

DEEPEST = 50  # nested brackets: more is nobody's intent


@dataclass(frozen=True, slots=True)
class Atom:
    name: str  # e.g. a task
    test: str  # e.g. Succeeded, or `==`
    value: str = ""


@dataclass(frozen=True, slots=True)
class Not:
    of: Expression


@dataclass(frozen=True, slots=True)
class All:
    of: tuple[Expression, ...]


@dataclass(frozen=True, slots=True)
class AnyOf:
    of: tuple[Expression, ...]


Expression = Atom | Not | All | AnyOf
ALWAYS = All(())


class Unreadable(ValueError):
    """Not an expression we can evaluate; the text says at what."""


def evaluate(expression: Expression, holds: Callable[[Atom], bool]) -> bool:
    match expression:
        case Atom():
            return holds(expression)
        case Not(of):
            return not evaluate(of, holds)
        case All(parts):
            return all(evaluate(part, holds) for part in parts)
        case AnyOf(parts):
            return any(evaluate(part, holds) for part in parts)


def atoms(expression: Expression) -> Iterator[Atom]:
    match expression:
        case Atom():
            yield expression
        case Not(of):
            yield from atoms(of)
        case All(parts) | AnyOf(parts):
            for part in parts:
                yield from atoms(part)


def parse(text: str, atom: re.Pattern[str], read: Callable[[re.Match[str]], Expression]) -> Expression:
    """The expression in `text`.

    Args:
        atom: what an atom looks like; tried where neither operator nor bracket stands.
        read: makes it an expression; may raise Unreadable.
    Raises:
        Unreadable: names what is not understood.
    """
    tokens = list(_tokens(text, atom))
    reader = _Reader(tokens, read)
    found = reader.any_of(0)
    if reader.at < len(tokens):
        raise Unreadable(f"`{_text(tokens[reader.at])}` was not expected there")
    return found


Token = str | re.Match[str]


def _tokens(text: str, atom: re.Pattern[str]) -> Iterator[Token]:
    at = 0
    while at < len(text):
        if text[at].isspace():
            at += 1
            continue
        operator = re.compile(r"&&|\|\||!(?!=)|\(|\)").match(text, at)
        if operator:
            yield operator.group()
            at = operator.end()
            continue
        found = atom.match(text, at)
        if found is None or found.end() == at:
            raise Unreadable(f"`{text[at : at + 30]}` is not supported")
        yield found
        at = found.end()


def _text(token: Token) -> str:
    return token if isinstance(token, str) else token.group()


class _Reader:
    """Recursive descent: `||` binds weakest, then `&&`, then `!`."""

    def __init__(self, tokens: list[Token], read: Callable[[re.Match[str]], Expression]) -> None:
        self.tokens = tokens
        self.read = read
        self.at = 0

    def any_of(self, depth: int) -> Expression:
        parts = [self.all_of(depth)]
        while self.take("||"):
            parts.append(self.all_of(depth))
        return parts[0] if len(parts) == 1 else AnyOf(tuple(parts))

    def all_of(self, depth: int) -> Expression:
        parts = [self.one(depth)]
        while self.take("&&"):
            parts.append(self.one(depth))
        return parts[0] if len(parts) == 1 else All(tuple(parts))

    def one(self, depth: int) -> Expression:
        if depth > DEEPEST:
            raise Unreadable(f"more than {DEEPEST} levels deep")
        if self.take("!"):
            return Not(self.one(depth + 1))
        if self.take("("):
            inner = self.any_of(depth + 1)
            if not self.take(")"):
                raise Unreadable("a bracket is not closed")
            return inner
        if self.at == len(self.tokens):
            raise Unreadable("it ends too early")
        token = self.tokens[self.at]
        if isinstance(token, str):
            raise Unreadable(f"`{token}` was not expected there")
        self.at += 1
        return self.read(token)

    def take(self, operator: str) -> bool:
        if self.at < len(self.tokens) and self.tokens[self.at] == operator:
            self.at += 1
            return True
        return False
