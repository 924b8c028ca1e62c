"""`headgate gate`: gates on evidence from a file, without a running system. Tune first, trust later."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from headgate.control import Point
from headgate.evidence import Result, Verdict
from headgate.findings import FindingsError
from headgate_console import options, plot
from headgate_console.exits import Exit
from headgate_console.options import note
from headgate_console.print import document, rfc3339, state, table
from headgate_console.views import differences, gate_info

FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
LINES = 60  # of the course, at most


@click.group(cls=options.Noun)
def gate() -> None:
    """Try gates before they are trusted."""


@gate.command()
@click.argument("rollout", metavar="ROLLOUT.YML", type=FILE)
@click.option("--trace", "trace_file", metavar="FILE", type=FILE, required=True, help="Evidence, a JSON line per look.")
@options.output("table", "json", "yaml")
def test(rollout: Path, trace_file: Path, output: str) -> Exit:
    """Judge a trace by the gates of a rollout.yml, look by look: pass (0), or not (1).

    A trace is what `headgate verdict trace ID` prints, or what you write: docs/judgement.md has the format.
    """
    from headgate import plugins
    from headgate_policies import judge, replay, trace

    process = read_process(rollout)
    with trace_file.open(encoding="utf-8", errors="replace") as lines:
        recorded = trace.read(lines, str(trace_file))
    found = plugins.load("headgate.gate")
    course = list(replay.course(recorded.under(process), found.adapters, LINES))
    last = course[-1][1] if course else ()
    result = judge.combine(last)
    body = {"result": str(result), "looks": len(recorded.looks), "verdicts": list(last)}
    options.emit(document("GateTest", body), output, lambda: told(course, recorded.looks))
    note(f"{len(recorded.looks):,} looks: {result}")
    return Exit.OK if result is Result.PASS else Exit.REFUSED


def read_process(rollout: Path) -> Any:
    """The process of a rollout.yml over the defaults of the nearest headgate.yml above it.

    Raises: FindingsError: what is wrong with either.
    """
    from headgate import settings, yamltext
    from headgate.process import Settings

    ground = next((folder / "headgate.yml" for folder in rollout.absolute().parents if has_settings(folder)), None)
    base = Settings().process
    for path, read in ((ground, settings.read_settings), (rollout, None)):
        if path is None:
            continue
        parsed = yamltext.parse(path.read_bytes(), str(path))
        if parsed.document is None:
            raise FindingsError(*parsed.findings)
        if read is not None:
            known, found = read(parsed.document)
            base = known.process
        else:
            base, found = settings.read_process(parsed.document, base)
        if found:
            raise FindingsError(*found)
    return base


def has_settings(folder: Path) -> bool:
    return (folder / "headgate.yml").is_file()


def told(course: Sequence[tuple[int, tuple[Verdict, ...]]], looks: Sequence[Any]) -> Iterator[str]:
    """Each change of a result, then every gate's plot and last words."""
    yield from table(["LOOK", "AT", "GATE", "RESULT", "SAYS"], list(changes(course, looks)))
    for gate_name, points in by_gate(course, looks).items():
        verdict = next(v for v in course[-1][1] if v.gate == gate_name)
        yield from ("", f"{gate_name}: {state(verdict.result)}  {gate_info(verdict)}", *plot.evidence(points))
        yield from differences(verdict)


def changes(course: Sequence[tuple[int, tuple[Verdict, ...]]], looks: Sequence[Any]) -> Iterator[list[str]]:
    before: dict[str, Result] = {}
    for until, verdicts in course:
        for verdict in verdicts:
            if before.get(verdict.gate) is not verdict.result:
                before[verdict.gate] = verdict.result
                at = rfc3339(looks[until - 1].at)
                yield [f"{until:,}", at, verdict.gate, state(verdict.result), gate_info(verdict)]


def by_gate(course: Sequence[tuple[int, tuple[Verdict, ...]]], looks: Sequence[Any]) -> Mapping[str, tuple[Point, ...]]:
    found: dict[str, list[Point]] = {}
    for until, verdicts in course:
        for verdict in verdicts:
            point = Point(until, looks[until - 1].at, str(verdict.result), verdict.figures)
            found.setdefault(verdict.gate, []).append(point)
    return {name: tuple(points) for name, points in found.items()}
