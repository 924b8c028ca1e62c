"""Looks of one second as one look, so that many router workers cost a gate what one does.

Looks are joined until one of another second comes, or until they are much beside what was handed on before: early in a
phase nothing waits. Which looks are joined depends on times and sizes, never on outcomes, so a test that is valid for
any blocks is valid for these. Loses nothing but the last second, which is handed on with the next.
"""

from __future__ import annotations

from collections.abc import Iterator

from headgate.evidence import Look, add

WINDOW_S = 1.0  # looks of several router workers that come within it are of one second; a clock set back opens one
MUCH = 16  # joined looks are handed on at once when they hold one request for each so many handed on before

Heard = tuple[Look, str]  # a look, and what is wrong with it; empty: nothing


class Seconds:
    def __init__(self) -> None:
        self._open: list[Look] = []
        self._requests = 0  # of the candidate, in the looks that wait
        self._given = 0  # and in those handed on

    def take(self, look: Look, fault: str) -> Iterator[Heard]:
        """What is handed on now that this look came, in order. A look that is broken, or that a person or a source
        spoke in, waits for nothing."""
        if self._open and (fault or not self._same_second(look)):
            yield self._close()
        if fault:
            yield look, fault
            return
        self._open.append(look)
        self._requests += look.candidate.requests
        if look.approvals or look.samples or self._requests * MUCH >= self._given:
            yield self._close()

    def _same_second(self, look: Look) -> bool:
        first = self._open[0]
        return first.at <= look.at < first.at + WINDOW_S and look.phase == first.phase

    def _close(self) -> Heard:
        looks, self._open = self._open, []
        self._given += self._requests
        self._requests = 0
        return (looks[0] if len(looks) == 1 else _joined(looks)), ""


def _joined(looks: list[Look]) -> Look:
    """At the time of the first, so that a second begins where its first look does."""
    first = looks[0]
    return Look(
        first.phase,
        first.generation,
        first.at,
        first.seconds,
        candidate=add([look.candidate for look in looks]),
        stable=add([look.stable for look in looks]),
        reference=first.reference,
        pairs=tuple([pair for look in looks for pair in look.pairs]),
        approvals=tuple([said for look in looks for said in look.approvals]),
        samples=tuple([sample for look in looks for sample in look.samples]),
    )
