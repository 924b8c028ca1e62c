"""`headgate verdict`: which verdicts there are, why each is what it is, and the same one again from its evidence."""

from __future__ import annotations

import sys

import click

from headgate.control import Replay, VerdictReport, VerdictStatus
from headgate.findings import Finding, FindingsError, Place
from headgate_console import options, plot
from headgate_console.connect import open_control
from headgate_console.exits import Exit
from headgate_console.options import note
from headgate_console.print import bold, document, labelled, rfc3339, state, table
from headgate_console.views import differences

WIDEST = 100  # characters of an explanation in a list


@click.group(cls=options.Noun)
def verdict() -> None:
    """See what gates said and why, and compute it again."""


@verdict.command("list")
@options.endpoint()
@click.option("--rollout", "rollout_id", default="", metavar="ROLLOUT", help="Only of this one. Default: all kept.")
@options.output()
@options.data()
def list_(endpoint: str, rollout_id: str, output: str, data: str | None) -> Exit:
    """List the verdicts of an endpoint's rollouts, the newest rollout first."""
    found = [v for v in open_control(data).verdicts(endpoint) if rollout_id in ("", v.rollout)]
    options.emit(
        document("VerdictStatus", found),
        output,
        lambda: listed(found, wide=output == "wide"),
        [f"verdict/{status.id}" for status in found],
    )
    return Exit.OK


def listed(found: list[VerdictStatus], *, wide: bool = False) -> list[str]:
    if not found:
        return ["no verdict yet: nothing was judged"]
    headers = ["ID", "RESULT", "LOOKS", "WHEN", *(["VERSION", "ALPHA", "EVIDENCE"] if wide else []), "SAYS"]
    return table(headers, [row(status, wide) for status in found])


def row(status: VerdictStatus, wide: bool) -> list[str]:
    given = status.verdict
    says = (given.missing and f"needs {given.missing}") or given.explanation
    more = [given.version, f"{given.alpha * 100:.3g} %", given.evidence[:12]] if wide else []
    short = says if wide or len(says) <= WIDEST else says[: WIDEST - 1] + "…"
    when = rfc3339(status.at) if status.at is not None else "runs"
    return [status.id, state(given.result), f"{given.looks:,}", when, *more, short]


@verdict.command()
@click.argument("verdict_id", metavar="ID")
@options.output()
@options.data()
def show(verdict_id: str, output: str, data: str | None) -> Exit:
    """Explain one verdict: what was seen, what was tolerated, how the evidence grew."""
    found = open_control(data).verdict(verdict_id)
    options.emit(document("VerdictReport", found), output, lambda: shown(found), [f"verdict/{verdict_id}"])
    return Exit.OK


def shown(found: VerdictReport) -> list[str]:
    status, given = found.status, found.status.verdict
    parameters = " ".join(f"{name}={value}" for name, value in sorted(given.parameters.items()) if value is not None)
    lines = [
        bold(f"{given.gate} at {status.op}: ") + state(given.result),
        given.explanation,
        f"needs {given.missing}" if given.missing else "",
        "",
        labelled("ID", status.id),
        labelled("Endpoint", status.endpoint),
        labelled("When", rfc3339(status.at) if status.at is not None else "its op still runs"),
        labelled("Gate", f"version {given.version}" if given.version else "none"),
        labelled("Parameters", parameters or "none"),
        labelled("False alarm", f"at most {given.alpha * 100:.3g} %, over any number of looks") if given.alpha else "",
        labelled("Evidence", evidence(found)),
    ]
    figures = [f"  {name} = {value:.6g}" for name, value in given.figures.items()]
    kept = [line for index, line in enumerate(lines) if line or index == 3]
    parts = [plot.evidence(found.course), ["figures", *figures] if figures else [], differences(given)]
    return [*kept, *(line for part in parts if part for line in ("", *part))]


def evidence(found: VerdictReport) -> str:
    given = found.status.verdict
    if not given.evidence:
        return "an answer that is not kept"
    kept = "kept" if found.kept >= given.looks else "collected"
    return f"{given.looks:,} looks, {kept}, sha256 {given.evidence[:16]}"


@verdict.command()
@click.argument("verdict_id", metavar="ID")
@options.output("table", "json", "yaml")
@options.data()
def replay(verdict_id: str, output: str, data: str | None) -> Exit:
    """Compute a verdict again from the evidence that is kept: the same bytes (0), or what differs (1)."""
    found = open_control(data).replay(verdict_id)
    options.emit(document("Replay", found), output, lambda: replayed(found))
    if not found.same:
        raise FindingsError(_differs(found))
    return Exit.OK


def replayed(found: Replay) -> list[str]:
    if found.same:
        digest = found.recorded.evidence[:16]
        return [f"{state(found.recorded.result)}  the same bytes again, looks: {found.looks:,} (sha256 {digest})"]
    return [f"{found.id}: not the same", *(f"  {line}" for line in found.differences)]


@verdict.command()
@click.argument("verdict_id", metavar="ID")
@options.data()
def trace(verdict_id: str, data: str | None) -> Exit:
    """Print the evidence of a verdict's op as a trace, a line per look: `headgate gate test --trace` reads it."""
    rollout, _, rest = verdict_id.partition("/")
    size = 0
    for chunk in open_control(data).trace(rollout, rest.partition("/")[0]):
        sys.stdout.buffer.write(chunk)
        size += len(chunk)
    sys.stdout.buffer.flush()
    note(f"{size:,} bytes")
    return Exit.OK


def _differs(found: Replay) -> Finding:
    versions = {found.recorded.version, found.recomputed.version}
    why = (
        f"it was given by version {found.recorded.version}, this is version {found.recomputed.version}"
        if len(versions) > 1
        else "gate, version and looks are the same, so the bytes had to be"
    )
    fix = f"keep the evidence: `headgate verdict trace {found.id} > trace.jsonl`, and report it"
    return Finding("verdict-differs", f"{found.id} is not what was recorded", why, fix, Place(f"verdict {found.id}"))
