"""What every resolver promises. Subject: a `ResolverCase`: a resolver, replicas that can be set, its loop, patience."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from headgate.ports import Resolver
from headgate.table import RouteRevision
from headgate.testing.suite import Suite, Wait

ONE, TWO, THREE = (f"http://10.1.0.{number}:8081" for number in (1, 2, 3))  # clusters refuse loopback addresses


@dataclass(frozen=True, slots=True)
class ResolverCase:
    resolver: Resolver
    replicas: Callable[[Sequence[str]], RouteRevision]  # makes exactly these the ready ones; the row that finds them
    call: Callable[[Callable[[], Any]], Any]  # runs a function on the resolver's event loop, answers its result
    wait: Wait

    def follow(self, revision: RouteRevision) -> tuple[list[tuple[str, ...]], Callable[[], None]]:
        """Everything told so far, oldest first; and what ends it."""
        heard: list[tuple[str, ...]] = []
        end = self.call(lambda: self.resolver.follow(revision, heard.append))
        return heard, lambda: self.call(end)

    def told(self, heard: Sequence[tuple[str, ...]], *addresses: str) -> None:
        self.wait(lambda: bool(heard) and heard[-1] == addresses)


RESOLVER: Suite[ResolverCase] = Suite()


@RESOLVER
def _ready_replicas_are_told_sorted(case: ResolverCase) -> None:
    heard, _ = case.follow(case.replicas([TWO, ONE]))
    case.told(heard, ONE, TWO)


@RESOLVER
def _no_replica_is_told_as_none(case: ResolverCase) -> None:
    heard, _ = case.follow(case.replicas([]))
    case.told(heard)


@RESOLVER
def _a_replica_listed_twice_is_one(case: ResolverCase) -> None:
    heard, _ = case.follow(case.replicas([ONE, TWO, ONE]))
    case.told(heard, ONE, TWO)


@RESOLVER
def _replicas_that_come_and_go_are_told(case: ResolverCase) -> None:
    row = case.replicas([ONE])
    heard, _ = case.follow(row)
    case.told(heard, ONE)
    for now in ((ONE, TWO), (TWO, THREE), (), (THREE,)):
        later = case.replicas(now)
        if later != row:  # the row itself says where they are: another row is followed anew
            row = later
            heard, _ = case.follow(row)
        case.told(heard, *now)


@RESOLVER
def _what_is_told_changes_each_time(case: ResolverCase) -> None:
    heard, _ = case.follow(case.replicas([ONE]))
    case.told(heard, ONE)
    case.replicas([ONE])
    again, _ = case.follow(case.replicas([ONE]))
    case.told(again, ONE)
    assert len(heard) == len(again) == 1, "the same addresses are told once"


@RESOLVER
def _two_who_follow_one_revision_are_both_told(case: ResolverCase) -> None:
    row = case.replicas([ONE, TWO])
    first, _ = case.follow(row)
    second, _ = case.follow(row)
    case.told(first, ONE, TWO)
    case.told(second, ONE, TWO)


@RESOLVER
def _whoever_ended_is_told_nothing_more_and_others_are(case: ResolverCase) -> None:
    row = case.replicas([ONE])
    ended, end = case.follow(row)
    case.told(ended, ONE)
    end()
    end()
    later = case.replicas([TWO])
    heard, _ = case.follow(later)
    case.told(heard, TWO)
    assert ended == [(ONE,)]
