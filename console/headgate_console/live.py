"""The verbs on the live system: see, pause, promote, abort, roll back. All through the control API, all recorded."""

from __future__ import annotations

import json
import re
import time
from typing import Any

import click

from headgate.control import EndpointStatus, OperatorAction, RolloutStatus
from headgate.findings import Finding, FindingsError, Place, Severity
from headgate.version import __version__
from headgate_console import options, views, watch
from headgate_console.connect import Control, open_control
from headgate_console.durations import Duration
from headgate_console.exits import Exit
from headgate_console.options import note
from headgate_console.person import who
from headgate_console.print import document, rfc3339
from headgate_console.watch import FELL

FOLLOW_EVERY_S = 0.5
SHA = re.compile(r"[0-9a-f]{7,64}")


def _sha(_: click.Context, __: click.Parameter, value: str) -> str:
    if value and not SHA.fullmatch(value):
        raise click.BadParameter(f"{value!r} is no commit id; `git rev-parse {value}` prints it")
    return value


@options.verb()
@options.endpoint(required=False)
@click.option("-w", "--watch", "watched", is_flag=True, help="Follow until healthy (0), degraded or rolled back (4).")
@click.option(
    "--commit",
    default="",
    metavar="SHA",
    callback=_sha,
    help="With --watch: of this commit. Waits until it is acted on; 4 when its rollout fell, also if reverted since.",
)
@click.option("--timeout", "timeout_s", type=Duration(), help="With --watch: give up after this long (5), e.g. 10m.")
@options.output()
@options.data()
def status(
    endpoint: str | None, watched: bool, commit: str, timeout_s: float | None, output: str, data: str | None
) -> Exit:
    """Show all endpoints, or one with its revisions and its rollout."""
    control = open_control(data)
    if watched and not endpoint:
        raise click.UsageError("--watch needs an ENDPOINT")
    if endpoint is None:
        return show_system(control, output)
    if watched and output in ("table", "wide"):
        return follow(control, endpoint, commit, timeout_s, views.endpoint)
    if watched:
        code = follow(control, endpoint, commit, timeout_s, views.endpoint, watch.Silent())
        show_endpoint(control.endpoint(endpoint), output)
        return code
    found = control.endpoint(endpoint)
    show_endpoint(found, output)
    return standing(found)


def standing(found: EndpointStatus) -> Exit:
    """4 where callers or git are not as asked: degraded, or rolled back. A commit that was refused changes neither."""
    return Exit.DEGRADED if found.state in ("Degraded", "RolledBack") else Exit.OK


def show_system(control: Control, output: str) -> Exit:
    found = control.system()
    names = [f"endpoint/{e.name}" for e in found.endpoints]
    people = lambda: views.system(found, time.time(), wide=output == "wide")  # noqa: E731
    options.emit(document("SystemStatus", found), output, people, names)
    return max((standing(one) for one in found.endpoints), default=Exit.OK)


def show_endpoint(found: EndpointStatus, output: str) -> None:
    people = lambda: views.endpoint(found, time.time())  # noqa: E731
    options.emit(document("EndpointStatus", found), output, people, [f"endpoint/{found.name}"])


def follow(
    control: Control,
    endpoint: str,
    commit: str,
    timeout_s: float | None,
    draw: Any,
    screen: watch.Screen | None = None,
) -> Exit:
    said: list[str] = []

    def arrived() -> bool:
        there = not commit or control.reached(commit)
        if control.version not in ("", __version__, *said):
            said.append(control.version)
            click.echo(str(_skew(control.version)), err=True)
        return there

    def own(status: EndpointStatus) -> RolloutStatus | None:
        if not commit:
            return None
        if status.rollout and status.rollout.commit.startswith(commit):
            return status.rollout
        return next(iter(control.rollouts(endpoint, commit)), None)

    colour = click.get_current_context().color
    looked = watch.Watch(lambda: control.endpoint(endpoint), draw, arrived, own, timeout_s)
    return looked.run(screen or watch.screen(colour))


def _skew(version: str) -> Finding:
    return Finding(
        code="version-skew",
        message=f"the controller is headgate {version}, this is {__version__}",
        why="what one of them says the other may not know",
        fix="install the controller's version where you wait for it",
        place=Place("control API"),
        severity=Severity.WARNING,
    )


@click.group(cls=options.Noun)
def rollout() -> None:
    """See and steer the rollout of an endpoint."""


@rollout.command()
@options.endpoint()
@click.option("--id", "rollout_id", default="", metavar="ROLLOUT", help="An earlier one. Default: the running or last.")
@click.option("-w", "--watch", "watched", is_flag=True, help="Follow until it ends.")
@click.option("--timeout", "timeout_s", type=Duration(), help="With --watch: give up after this long (5).")
@options.output()
@options.data()
def get(endpoint: str, rollout_id: str, watched: bool, timeout_s: float | None, output: str, data: str | None) -> Exit:
    """Show the ladder of ops: state, percent, time, each gate's verdict and what it still needs."""
    control = open_control(data)
    if watched:
        return follow(control, endpoint, "", timeout_s, draw_rollout)
    found = control.endpoint(endpoint)
    shown = pick(control, found, rollout_id)
    people = lambda: views.rollout(found, shown, time.time())  # noqa: E731
    options.emit(document("RolloutStatus", shown), output, people, [f"rollout/{shown.id}"])
    return Exit.DEGRADED if shown.state in FELL else Exit.OK


def draw_rollout(found: EndpointStatus, now: float) -> list[str]:
    return views.rollout(found, found.rollout, now) if found.rollout else views.endpoint(found, now)


def pick(control: Control, found: EndpointStatus, rollout_id: str) -> RolloutStatus:
    """Raises: FindingsError `unknown-rollout`."""
    known = [found.rollout] if found.rollout else []
    if rollout_id:
        known = [r for r in control.rollouts(found.name) if r.id == rollout_id]
    if known:
        return known[0]
    raise FindingsError(
        Finding(
            code="unknown-rollout",
            message=f"{found.name} has no rollout {rollout_id}".rstrip(),
            why="" if rollout_id else "no commit has asked for a change that needs one yet",
            fix=f"`headgate events {found.name}` shows what happened",
            place=Place(f"endpoint {found.name}"),
        )
    )


def act(data: str | None, endpoint: str, verb: str, action: OperatorAction) -> Exit:
    message = open_control(data).act(endpoint, verb, action)
    note(message or f"{endpoint}: {verb} recorded")
    return Exit.OK


def why_option(function: Any) -> Any:
    return click.option("--why", default="", metavar="TEXT", help="Kept in the record beside your name.")(function)


@rollout.command()
@options.endpoint()
@why_option
@options.data()
def pause(endpoint: str, why: str, data: str | None) -> Exit:
    """Hold the running op: traffic stays as it is."""
    return act(data, endpoint, "pause", OperatorAction(who(), why))


@rollout.command()
@options.endpoint()
@why_option
@options.data()
def resume(endpoint: str, why: str, data: str | None) -> Exit:
    """Go on after a pause."""
    return act(data, endpoint, "resume", OperatorAction(who(), why))


@rollout.command()
@options.endpoint()
@click.option("--full", is_flag=True, help="No op of this rollout soaks any longer.")
@why_option
@options.data()
def promote(endpoint: str, full: bool, why: str, data: str | None) -> Exit:
    """End the soak of the running op. Its gates must still pass."""
    return act(data, endpoint, "promote", OperatorAction(who(), why, full=full))


def gate_option(function: Any) -> Any:
    return click.option("--gate", default="", metavar="NAME", help="Default: the one that waits.")(function)


@rollout.command()
@options.endpoint()
@gate_option
@why_option
@options.data()
def approve(endpoint: str, gate: str, why: str, data: str | None) -> Exit:
    """Say yes for a gate `manual` of the running op. Other gates must still pass."""
    return act(data, endpoint, "approve", OperatorAction(who(), why, gate=gate))


@rollout.command()
@options.endpoint()
@gate_option
@why_option
@options.data()
def reject(endpoint: str, gate: str, why: str, data: str | None) -> Exit:
    """Say no for a gate `manual` of the running op: the rollout fails and goes back."""
    return act(data, endpoint, "reject", OperatorAction(who(), why, gate=gate))


@rollout.command()
@options.endpoint()
@why_option
@options.data()
def abort(endpoint: str, why: str, data: str | None) -> Exit:
    """Move traffic back now, then undo the commit in git."""
    return act(data, endpoint, "abort", OperatorAction(who(), why))


@options.verb()
@options.endpoint()
@click.option("--to", default="", metavar="REVISION", help="A known-good revision or commit. Default: the last one.")
@click.option("--git-only", is_flag=True, help="Only make the commit; traffic follows from it.")
@why_option
@options.data()
def rollback(endpoint: str, to: str, git_only: bool, why: str, data: str | None) -> Exit:
    """Go back to a known-good state: traffic now, the commit follows."""
    return act(data, endpoint, "rollback", OperatorAction(who(), why, to=to, git_only=git_only))


@options.verb()
@click.option("--accept", required=True, metavar="SHA", callback=_sha, help="The commit to go on from.")
@options.data()
def sync(accept: str, data: str | None) -> Exit:
    """Accept a rewritten branch: one that does not descend from what serves."""
    note(open_control(data).sync(accept))
    return Exit.OK


@options.verb()
@options.endpoint(required=False, default="")
@click.option("-f", "--follow", is_flag=True, help="Go on as they happen.")
@click.option("--after", default=0, metavar="ID", help="Only events after this id.")
@options.output("table", "json")
@options.data()
def events(endpoint: str, follow: bool, after: int, output: str, data: str | None) -> Exit:
    """Show what happened and why: commits, ops, verdicts, moves of traffic, actions of people. JSON: one a line."""
    control = open_control(data)
    while True:
        found, newest = control.events(endpoint, after)
        show_events(found, output)
        if not found or newest == after:
            if not follow:
                return Exit.OK
            time.sleep(FOLLOW_EVERY_S)
        after = newest


def show_events(found: list[dict[str, Any]], output: str) -> None:
    for event in found:
        if output == "table":
            click.echo(event_line(event))
        else:
            click.echo(json.dumps(event_document(event), ensure_ascii=False))


def event_document(event: dict[str, Any]) -> dict[str, Any]:
    """What the record calls a kind is `type` here: `kind` says what a document is."""
    return document("Event", {"type" if key == "kind" else key: value for key, value in event.items()})


def event_line(event: dict[str, Any]) -> str:
    """One line; what a model or an installer said in several stays below it, indented."""
    where = "/".join(str(event[key]) for key in ("endpoint", "op") if event.get(key))
    message = str(event["message"]).replace("\n", "\n    ")
    return f"{rfc3339(float(event['at']))}  {where:<24}  {event['kind']:<20}  {message}"
