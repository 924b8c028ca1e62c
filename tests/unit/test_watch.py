"""Looking until told to stop, whatever breaks while looking."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from headgate_controllers.repo.watch import Watch

DEADLINE_S = 60.0


class World:
    def __init__(self) -> None:
        self.state = "a"
        self.told: list[str] = []
        self.tidied: list[str] = []
        self.broken = False
        self.looks = 0

    def look(self) -> str:
        self.looks += 1
        if self.broken:
            raise OSError("no such device")
        return self.state

    def tell(self) -> None:
        self.told.append(self.state)

    def tidy(self) -> None:
        self.tidied.append(self.state)


@contextmanager
def watching(world: World, poll_s: float = 0.01) -> Iterator[Watch]:
    watch = Watch(world.look, world.tell, poll_s=poll_s, quiet=world.tidy)
    yield watch
    watch.close()


def until(what: Callable[[], bool]) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not what():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.005)


def test_it_tells_at_once_and_then_only_of_changes() -> None:
    world = World()
    with watching(world):
        until(lambda: world.looks > 5)
        assert world.told == ["a"]
        world.state = "b"
        until(lambda: world.told == ["a", "b"])


def test_waking_looks_before_the_interval_is_over() -> None:
    world = World()
    with watching(world, poll_s=3600.0) as watch:
        until(lambda: world.told == ["a"])
        world.state = "b"
        watch.wake()
        until(lambda: world.told == ["a", "b"])


def test_it_tidies_once_after_each_change_when_it_is_quiet() -> None:
    world = World()
    with watching(world):
        until(lambda: world.tidied == ["a"])
        looks = world.looks
        until(lambda: world.looks > looks + 5)
        assert world.tidied == ["a"]


def test_a_look_that_fails_is_logged_and_tried_again(caplog: pytest.LogCaptureFixture) -> None:
    world = World()
    with watching(world):
        until(lambda: world.told == ["a"])
        world.broken = True
        looks = world.looks
        until(lambda: world.looks > looks + 2)
        world.broken, world.state = False, "b"
        until(lambda: world.told == ["a", "b"])
    assert "no such device" in caplog.text
