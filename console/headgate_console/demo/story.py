"""The story itself: seven chapters, each checked while it is told, and the table at the end.

It is a user of Headgate: commits, waits, reads, calls. What does not hold is collected and ends the demo with 1; the
story goes on, so that one problem does not hide the next.
"""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import click

from headgate import codec
from headgate.control import EndpointStatus, RolloutStatus
from headgate.findings import HeadgateError
from headgate_console.demo import audit, models, table
from headgate_console.demo.audit import Phase, Split
from headgate_console.demo.caller import Answered, Load
from headgate_console.demo.follow import Follower, failing
from headgate_console.demo.models import Model, Recipe
from headgate_console.demo.say import Screen
from headgate_console.demo.system import Calling, System
from headgate_console.demo.workdir import ENDPOINT, WorkTree
from headgate_kit import child

AFTER_REVERT_S = 2.0  # the caller goes on this long, to see that nothing comes late
SHOWN_OF_COMMIT = 12  # lines


@dataclass(frozen=True, slots=True)
class Options:
    rate: float = 300.0  # requests per second
    keep: Path | None = None  # a folder for everything, kept; None: a temporary one
    quiet: bool = False
    json: Path | None = None  # where the outcome is written as data
    revert_goal_s: float = 1.0  # from the branch's update to the last answer of the revision that was left


@dataclass(frozen=True, slots=True)
class Mistake:
    recipe: Recipe
    title: str
    message: str  # of the commit
    phases: tuple[str, ...]  # that it must be stopped in one of
    gate: str  # by which


MISTAKES = (
    Mistake(
        models.WRONG,
        "A model that answers 200, fast, and wrong: its target is not scaled back",
        "diabetes: retrain on a scaled target",
        ("mirror",),
        "mirror-diff",
    ),
    Mistake(
        models.FLAKY,
        "A model that fails one request in ten",
        "diabetes: look the patient up first",
        ("mirror",),
        "error-rate",
    ),
    Mistake(
        models.SLOW,
        "A model that is right, and fast on copies, but slow on every second live request",
        "diabetes: write an audit line",
        ("step-5", "step-25", "step-50"),  # the first, unless the machine is so busy that the stable is slow as well
        "latency-p99",
    ),
)


def main(options: Options, system: Callable[[Path], System] = System) -> int:
    """Tells the story. 0: everything held; 1: something did not.

    Args:
        system: where Headgate runs, made from the story's folder: this machine, unless somebody brings a cluster.
    """
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # ends as Ctrl-C does: what was started is stopped
    child.allow_open_files()
    screen = Screen(options.quiet)
    with workplace(options.keep) as place:
        outcome = told(Story(place.folder, options, screen, system(place.folder)), place, screen)
        if options.json:
            options.json.write_bytes(codec.canonical(outcome) + b"\n")
        for line in table.lines(outcome):
            click.echo(line)
    return 1 if outcome.problems else 0


def told(story: Story, place: Workplace, screen: Screen) -> table.Outcome:
    """The story from beginning to end; what it started is stopped whatever happens. Trouble keeps the logs."""
    try:
        outcome = story.tell()
    except HeadgateError:
        place.keep = True
        screen.line(f"the story broke off; repo, data and logs: {place.folder}")
        raise
    finally:
        screen.line("stopping what this demo started")
        story.close()
    place.keep = place.keep or bool(outcome.problems)
    return outcome


@dataclass
class Workplace:
    folder: Path
    keep: bool


@contextmanager
def workplace(asked: Path | None) -> Iterator[Workplace]:
    """A folder for repo, data and logs; removed at the end unless somebody wants it kept."""
    if asked is not None:
        asked.mkdir(parents=True, exist_ok=True)
    # Not $TMPDIR: on macOS its path is so long that the Unix sockets below it would not fit.
    short = "/tmp" if os.path.isdir("/tmp") else None
    folder = asked if asked is not None else Path(tempfile.mkdtemp(prefix="headgate-demo-", dir=short))
    place = Workplace(folder.resolve(), keep=asked is not None)
    try:
        yield place
    finally:
        if not place.keep:
            shutil.rmtree(place.folder, ignore_errors=True)


class Story:
    def __init__(self, folder: Path, options: Options, screen: Screen, system: System) -> None:
        self._folder = folder
        self._options = options
        self._screen = screen
        self._system = system
        self._tree = WorkTree(folder / "endpoints")
        self._asked = models.requests()
        self._follow = Follower(self._system.control, ENDPOINT, screen, self._glance)
        self._calling: Calling | None = None
        self._models: dict[str, Model] = {}  # by deployment
        self._revisions: dict[str, str] = {}  # revision -> deployment, of this story's deployments
        self._lines: list[Answered] = []
        self._failed = 0
        self._rollouts: dict[str, RolloutStatus] = {}
        self._phases: list[Phase] = []
        self._commits: dict[str, str] = {}
        self._problems: list[str] = []
        self._started = time.monotonic()

    def tell(self) -> table.Outcome:
        self._repo()
        self._first()
        good = self._better()
        for number, mistake in enumerate(MISTAKES, 4):
            self._mistake(number, mistake)
        revert = self._back(good)
        return self._close(revert)

    def close(self) -> None:
        """Ends everything this story started; called whatever happened."""
        if self._calling is not None:
            self._calling.kill()
        self._system.down()

    # --- the chapters ----------------------------------------------------------------------------------------------

    def _repo(self) -> None:
        self._screen.chapter(1, "An endpoints repo, as `headgate init` makes it, and Headgate on it")
        self._screen.line(self._system.begin(self._tree))

    def _first(self) -> None:
        self._screen.chapter(2, "The first commit: endpoint `diabetes`, deployment `blue`")
        rollout, _ = self._release(models.BLUE, "diabetes: a first model")
        self._expect(rollout.state == "succeeded", f"blue: {rollout.state}: {rollout.message}")
        url = self._system.url(self._system.control.endpoint(ENDPOINT))
        key = self._system.control.keys(ENDPOINT)["primary"]
        bodies = tuple(body.decode() for body in models.bodies(self._asked))
        self._calling = Calling(Load(url, key, self._options.rate, str(self._folder / "caller.log"), bodies))
        for revision in self._revisions:
            self._teach(revision)
        self._screen.line(f"{url} answers; a caller sends {self._options.rate:g} requests a second from here on")
        self._follow.until("the first answers", lambda _: self._lines[0] if self._lines else None)

    def _better(self) -> str:
        self._screen.chapter(3, "A better model, `green`: copied to, compared, then 5, 25, 50, 100 %")
        rollout, commit = self._release(models.GREEN, "diabetes: all ten features")
        self._expect(rollout.state == "succeeded", f"green: {rollout.state}: {rollout.message}")
        self._settled(commit)
        return commit

    def _mistake(self, number: int, mistake: Mistake) -> None:
        self._screen.chapter(number, mistake.title)
        name = mistake.recipe.name
        rollout, commit = self._release(mistake.recipe, mistake.message)
        phase, gates = failing(rollout)
        self._expect(
            phase in mistake.phases and mistake.gate in gates,
            f"{name}: expected to be stopped in {mistake.phases[0]} by {mistake.gate}; was: {rollout.state} "
            f"in {phase or 'no phase'} by {', '.join(gates) or 'no gate'}: {rollout.message}",
        )
        for op in rollout.ops:
            for text in (op.message, *table.differences(op.verdicts)) if op.state == "failed" else ():
                self._screen.line(f"          {shortened(text, 240)}")
        if rollout.state != "failed":
            return
        reverted = self._follow.until(f"the revert of {commit[:10]}", _reverted(rollout.id))
        self._commits[name] = reverted
        self._rollouts[name] = self._system.control.endpoint(ENDPOINT).rollout or rollout
        self._tree.pull()
        said = self._tree.git("log", "-1", "--format=%h %an: %s%n%n%b", reverted)
        self._expect(mistake.gate in said, f"{name}: the revert commit {reverted[:10]} does not name {mistake.gate}")
        self._screen.line(f"git log -1 {reverted[:10]}")
        self._screen.line("\n".join(f"    {shortened(text)}" for text in said.splitlines()[:SHOWN_OF_COMMIT]))
        self._settled(reverted)

    def _back(self, good: str) -> table.Revert:
        self._screen.chapter(7, "`git revert` of the good release, pushed")
        left = self._revision_of("green")
        first = self._revision_of("blue")
        self._phases.append(Phase("reverted", time.time()))
        commit = self._tree.revert(good)
        pushed_at = self._system.pushed_at(self._tree)
        self._follow.until("blue to answer again", lambda seen: _serves(seen, first))
        until = time.monotonic() + AFTER_REVERT_S
        self._follow.until("the caller to see it", lambda _: True if time.monotonic() > until else None)
        assert self._calling is not None
        self._screen.line("the caller stops")
        self._calling.end()
        self._take(self._calling.new())
        sent, answered = audit.last_answered_by(self._lines, left)
        revert = table.Revert(round(sent - pushed_at, 4), round(answered - pushed_at, 4), commit)
        self._screen.line(
            f"green's last answer came {revert.answered_s * 1e3:.0f} ms after the branch was updated "
            f"(to a request sent after {revert.sent_s * 1e3:.0f} ms)"
        )
        self._expect(sent > 0, "green never answered a request")
        goal_s = self._options.revert_goal_s
        self._expect(revert.answered_s < goal_s, f"the revert took {revert.answered_s:.3f} s, {goal_s:g} s is promised")
        return revert

    def _close(self, revert: table.Revert) -> table.Outcome:
        splits = [
            Split(int(route["generation"]), float(route["at"]), route["revisions"])
            for route in self._system.control.get(f"/endpoints/{ENDPOINT}/routes")
        ]
        found = audit.audit(self._lines, splits, self._phases)
        self._expect(found.requests > 0, "no request was sent")
        self._expect(found.failures == 0, f"{found.failures} requests failed, none may")
        self._expect(found.strangers == 0, f"{found.strangers} answers match no revision then allowed")
        return table.Outcome(
            audit=found,
            rollouts=self._rollouts,
            revert=revert,
            deployments=self._revisions,
            seconds=round(time.monotonic() - self._started, 1),
            problems=tuple(self._problems),
            folder=str(self._folder),
            commits=self._commits,
            revert_goal_s=self._options.revert_goal_s,
        )

    # --- what every chapter does -----------------------------------------------------------------------------------

    def _release(self, recipe: Recipe, message: str) -> tuple[RolloutStatus, str]:
        """Trains, commits, pushes, and waits until the rollout has ended. Answers it and the commit."""
        model = models.train(recipe)
        self._models[recipe.name] = model
        self._phases.append(Phase(f"{recipe.name} prepared", time.time()))
        commit = self._tree.release(model, message)
        self._screen.line(f"git push  {commit[:10]} {message} (explains {model.r2:.0%} of the variance)")
        rollout = self._follow.rollout(commit)
        self._rollouts[recipe.name] = rollout
        self._note_phases(recipe.name, rollout)
        return rollout, commit

    def _note_phases(self, name: str, rollout: RolloutStatus) -> None:
        for op in rollout.ops:
            if op.started_at is not None and (op.verdicts or op.name.startswith(("mirror", "step"))):
                self._phases.append(Phase(f"{name} {op.name}", op.started_at))
        if rollout.ended_at is not None:
            ended = "live" if rollout.state == "succeeded" else "taken back"
            self._phases.append(Phase(f"{name} {ended}", rollout.ended_at))

    def _settled(self, commit: str) -> None:
        def settled(seen: EndpointStatus) -> bool | None:
            return True if seen.sync == "Synced" and seen.commit == commit else None

        self._follow.until(f"{commit[:10]} to be taken up", settled)

    def _glance(self, seen: EndpointStatus) -> None:
        """At every look: new revisions are told to the caller, its new answers are read, the moving line moves."""
        for revision in seen.revisions:
            if revision.revision not in self._revisions and revision.deployment in self._models:
                self._revisions[revision.revision] = revision.deployment
                self._teach(revision.revision)
        if self._calling is not None:
            self._take(self._calling.new())
        self._screen.tick(self._now(seen))

    def _take(self, lines: list[Answered]) -> None:
        self._lines += lines
        self._failed += sum(line.status != 200 for line in lines)

    def _teach(self, revision: str) -> None:
        if self._calling is not None:
            model = self._models[self._revisions[revision]]
            self._calling.tell(revision, models.answers(model, self._asked))

    def _now(self, seen: EndpointStatus) -> str:
        running = next((op for op in seen.rollout.ops if op.state == "running"), None) if seen.rollout else None
        doing = (running.message if running else seen.message) or seen.state
        if not self._lines:
            return doing
        latest = self._lines[-2_000:]
        recent = [line for line in latest if line.answered >= latest[-1].answered - 1.0]
        served = Counter(self._revisions.get(line.revision, "?") for line in recent if line.status == 200)
        shares = " ".join(f"{name} {100 * n / len(recent):.0f} %" for name, n in served.most_common())
        return f"{len(recent)}/s {shares}, failed {self._failed}   {doing}"

    def _revision_of(self, deployment: str) -> str:
        return next((r for r, name in self._revisions.items() if name == deployment), "")

    def _expect(self, holds: bool, otherwise: str) -> None:
        if not holds:
            self._problems.append(otherwise)
            self._screen.line(f"NOT AS PROMISED: {otherwise}")


def shortened(text: str, most: int = 140) -> str:
    return text if len(text) <= most else f"{text[: most - 1]}…"


def _reverted(rollout_id: str) -> Callable[[EndpointStatus], str | None]:
    def found(seen: EndpointStatus) -> str | None:
        return seen.rollout.reverted_by or None if seen.rollout and seen.rollout.id == rollout_id else None

    return found


def _serves(seen: EndpointStatus, revision: str) -> bool | None:
    """Whether all traffic goes to this revision, on every router worker."""
    whole = any(r.revision == revision and r.per_mille == 1_000 for r in seen.revisions)
    return True if whole and seen.acked >= seen.generation else None
