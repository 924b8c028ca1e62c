"""A suite: named checks of what a port promises, each run on one fresh subject. Any test framework can drive it.

    @pytest.mark.parametrize("check", testing.RECORD, ids=str)
    def test_my_record_keeps_its_promises(check, tmp_path):
        check(MyRecord(tmp_path))

A check fails with an AssertionError that says what was promised. What a subject needs (folders, patience) the caller
brings along: nothing here waits, writes or looks at a clock by itself.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from typing import Generic, TypeVar

S = TypeVar("S")
Wait = Callable[[Callable[[], bool]], None]  # returns once the condition holds; raises when its patience ends


@dataclass(frozen=True, slots=True)
class Check(Generic[S]):
    name: str  # a sentence
    run: Callable[[S], None]

    def __call__(self, subject: S) -> None:
        self.run(subject)

    def __str__(self) -> str:
        return self.name


class Suite(Collection[Check[S]]):
    """The checks of one port, in the order they are written. As a decorator it takes a function up as a check."""

    def __init__(self) -> None:
        self._checks: list[Check[S]] = []

    def __call__(self, function: Callable[[S], None]) -> Callable[[S], None]:
        self._checks.append(Check(function.__name__.strip("_").replace("_", " "), function))
        return function

    def __iter__(self) -> Iterator[Check[S]]:
        return iter(self._checks)

    def __contains__(self, check: object) -> bool:
        return check in self._checks

    def __len__(self) -> int:
        return len(self._checks)


def raises(expected: type[Exception], call: Callable[[], object], promise: str) -> Exception:
    """The exception that `call` raises; another one goes through, and none at all breaks the promise."""
    try:
        call()
    except expected as error:
        return error
    raise AssertionError(f"{promise}: {expected.__name__} was expected")
