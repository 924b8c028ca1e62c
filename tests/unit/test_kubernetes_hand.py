"""Writing to a cluster: tried again, one endpoint at a time, and no endpoint waits for another."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from headgate.findings import ConflictError, TerminalError, TransientError
from headgate_controllers.platforms.kubernetes import hand as module
from headgate_controllers.platforms.kubernetes.hand import Hand, Trouble
from kubeserver import wait_for

Key = tuple[str, int]


class Work:
    """Notes what is done; `fail` says how often a key fails first, `held` endpoints block until they are let go."""

    def __init__(self) -> None:
        self.done: list[Key] = []
        self.told: list[Key] = []
        self.fail: dict[Key, list[Exception]] = {}
        self.held: dict[str, threading.Event] = {}
        self.inside: set[str] = set()
        self.troubles: list[Trouble | None] = []
        self.hand: Hand[Key] = Hand(self, self.tell, lane=lambda key: key[0])

    def tell(self, key: Key) -> None:
        self.told.append(key)
        self.troubles.append(self.hand.trouble(key))

    def __call__(self, key: Key) -> None:
        assert key[0] not in self.inside, "two threads work on one endpoint"
        self.inside.add(key[0])
        try:
            if key[0] in self.held:
                self.held[key[0]].wait(10)
            if self.fail.get(key):
                raise self.fail[key].pop()
            self.done.append(key)
        finally:
            self.inside.discard(key[0])


@pytest.fixture
def work(monkeypatch: pytest.MonkeyPatch) -> Iterator[Work]:
    monkeypatch.setattr(module, "BACKOFF_S", (0.01, 0.05))
    made = Work()
    made.hand.start()
    yield made
    for held in made.held.values():
        held.set()
    made.hand.close()


def test_one_endpoint_that_waits_holds_up_no_other(work: Work) -> None:
    work.held["slow"] = threading.Event()
    for i in range(10):
        work.hand.ask(("slow", i))
        work.hand.ask((f"e{i}", 0))
    wait_for(lambda: len(work.done) == 10)
    assert {key[0] for key in work.done} == {f"e{i}" for i in range(10)}
    work.held["slow"].set()
    wait_for(lambda: len(work.done) == 20)


def test_what_fails_is_tried_again_and_said_once(work: Work) -> None:
    work.fail["a", 1] = [TransientError("away"), TransientError("away"), TransientError("away")]
    work.hand.ask(("a", 1))
    wait_for(lambda: work.done == [("a", 1)])
    wait_for(lambda: work.hand.trouble(("a", 1)) is None)
    assert work.told == [("a", 1), ("a", 1)], "into trouble, and out of it"


@pytest.mark.parametrize(
    ("error", "refused"),
    [
        pytest.param(TransientError("away"), False, id="away"),
        pytest.param(ConflictError("another was first"), False, id="somebody was first"),
        pytest.param(RuntimeError("a bug"), False, id="our own"),
        pytest.param(TerminalError("no"), True, id="refused"),
    ],
)
def test_a_refusal_is_told_from_what_could_not_be_asked(work: Work, error: Exception, refused: bool) -> None:
    work.fail["a", 1] = [error]
    work.hand.ask(("a", 1))
    wait_for(lambda: work.done == [("a", 1)])
    assert work.troubles[0] is not None
    assert work.troubles[0].refused is refused


def test_closing_does_what_is_due_and_leaves_what_waits(work: Work) -> None:
    work.hand.ask(("later", 1), after_s=1_000)
    for i in range(20):
        work.hand.ask((f"e{i}", 0))
    work.hand.close()
    assert len(work.done) == 20
