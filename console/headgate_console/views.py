"""Statuses as lines of text: pure, `now` is an argument. What `headgate status` and `rollout get` show."""

from __future__ import annotations

from collections.abc import Sequence

from headgate.control import EndpointStatus, OpStatus, RevisionStatus, RolloutStatus, SystemStatus
from headgate.evidence import Result, Verdict
from headgate.findings import Finding
from headgate_console.print import GAP, age, bold, dim, labelled, percent, short, state, table

BRANCH, LAST, TRUNK, BLANK = "├── ", "└── ", "│   ", "    "
LIVE_ROLES = ("stable", "candidate")
SHOWN_DIFFERENCES = 5
SHORT = 80  # characters of a message in a list of all endpoints


def system(status: SystemStatus, now: float, *, wide: bool = False) -> list[str]:
    """All endpoints, one row each, then what is wrong with the whole."""
    headers = ["NAME", "STATE", "SYNC", "STABLE", "CANDIDATE", "TRAFFIC", "READY", "REVISION", "AGE"]
    rows = [row(endpoint, now) for endpoint in status.endpoints]
    if wide:
        headers += ["COMMIT", "GENERATION", "URL"]
        rows = [[*r, *wide_cells(e)] for r, e in zip(rows, status.endpoints, strict=True)]
    headers.append("MESSAGE")
    rows = [[*r, first(e.message, None if wide else SHORT)] for r, e in zip(rows, status.endpoints, strict=True)]
    shown = table(headers, rows) if rows else [f"no endpoint on {status.branch} at {short(status.commit)} yet"]
    return [*shown, *trouble(status)]


def first(text: str, limit: int | None = None) -> str:
    """A cell's worth of a message: its first line; an installer's words would break the table."""
    line = text.partition("\n")[0]
    return line if limit is None or len(line) <= limit else line[: limit - 1] + "…"


def row(endpoint: EndpointStatus, now: float) -> list[str]:
    stable, candidate = of_role(endpoint, "stable"), of_role(endpoint, "candidate")
    newest = candidate or stable
    since = endpoint.rollout.started_at if endpoint.rollout else None
    return [
        endpoint.name,
        state(endpoint.state),
        state(endpoint.sync),
        stable.deployment if stable else "-",
        candidate.deployment if candidate else "-",
        percent(candidate.per_mille) if candidate else percent(stable.per_mille) if stable else "-",
        readiness(endpoint.revisions),
        newest.revision[:8] if newest else "-",
        age(None if since is None else now - since),
    ]


def wide_cells(endpoint: EndpointStatus) -> list[str]:
    return [short(endpoint.commit), f"{endpoint.acked}/{endpoint.generation}", endpoint.url]


def of_role(endpoint: EndpointStatus, role: str) -> RevisionStatus | None:
    """The revision of this role that has most traffic; None: there is none."""
    found = [r for r in endpoint.revisions if r.role == role]
    return max(found, key=lambda r: r.per_mille) if found else None


def readiness(revisions: Sequence[RevisionStatus]) -> str:
    live = [r for r in revisions if r.role in LIVE_ROLES]
    return f"{sum(r.ready for r in live)}/{sum(r.instances for r in live)}"


def trouble(status: SystemStatus) -> list[str]:
    """What a person must know that belongs to no endpoint; empty when all is well."""
    said = []
    if status.repo_error:
        said.append(f"the repo cannot be read, the last good state serves on: {status.repo_error}")
    if status.commit != status.handled:
        said.append(f"commit {short(status.commit)} is seen, {short(status.handled)} is acted on")
    said += [
        f"router worker {w.worker} is lost for {age(w.age_s)}" + ("; it runs, so steps wait for it" if w.waited else "")
        for w in status.workers
        if w.lost
    ]
    said += [f"drift: {text}" for text in status.drift]
    found = [*status.findings, *(f for e in status.endpoints for f in e.findings)]
    return [*([""] if said or found else []), *said, *finding_lines(found)]


def finding_lines(findings: Sequence[Finding]) -> list[str]:
    return [line for finding in findings for line in str(finding).splitlines()]


def endpoint(status: EndpointStatus, now: float) -> list[str]:
    """One endpoint: header block, then the tree of revisions and ops."""
    return [*header(status), "", *tree(status, now), *spaced(finding_lines(status.findings))]


def header(status: EndpointStatus) -> list[str]:
    lines = [
        labelled("Name", status.name),
        labelled("URL", status.url),
        labelled("Status", state(status.state)),
        labelled("Message", novel(status)) if status.message else "",
        labelled("Sync", f"{state(status.sync)} {short(status.commit)}"),
        labelled("Generation", f"{status.generation} (every router worker: {status.acked})"),
        *step_lines(status),
        labelled("Replicas", ""),
        labelled("  Desired", str(sum(r.instances for r in status.revisions if r.role in LIVE_ROLES))),
        labelled("  Ready", str(sum(r.ready for r in status.revisions if r.role in LIVE_ROLES))),
    ]
    return [line for line in lines if line]


def novel(status: EndpointStatus) -> str:
    """The message without what the findings below it say again."""
    told = {line.strip() for line in finding_lines(status.findings)}
    return "\n".join(line for line in status.message.splitlines() if line.strip() not in told)


def step_lines(status: EndpointStatus) -> list[str]:
    """`Step: 5/8 step-25`, the candidate's traffic asked and counted; nothing without a rollout that moves."""
    rollout = status.rollout
    if rollout is None or rollout.ended_at is not None:
        return []
    done = sum(op.state == "passed" for op in rollout.ops)
    current = running(rollout)
    lines = [labelled("Step", f"{done}/{len(rollout.ops)}" + (f" {current.name}" if current else ""))]
    candidate = of_role(status, "candidate")
    if candidate:
        lines.append(labelled("  Asked", percent(candidate.per_mille)))
        lines.append(labelled("  Counted", observed(candidate)))
        if candidate.mirror_per_mille:
            lines.append(labelled("  Mirror", percent(candidate.mirror_per_mille)))
    return lines


def observed(revision: RevisionStatus) -> str:
    return "no requests" if revision.observed is None else f"{revision.observed * 100:.3g} %"


def tree(status: EndpointStatus, now: float) -> list[str]:
    rows = [[f"⟳ {status.name}", "Endpoint", state(status.state), "", ""]]
    parts: list[list[list[str]]] = [revision_rows(r) for r in status.revisions]
    if status.rollout:
        parts.append(rollout_rows(status.rollout, now))
    for index, part in enumerate(parts):
        last = index == len(parts) - 1
        rows += [[(LAST if last else BRANCH) + part[0][0], *part[0][1:]]]
        rows += [[(BLANK if last else TRUNK) + line[0], *line[1:]] for line in part[1:]]
    return table(["NAME", "KIND", "STATUS", "AGE", "INFO"], rows)


def revision_rows(revision: RevisionStatus) -> list[list[str]]:
    info = [revision.role, f"ready:{revision.ready}/{revision.instances}"]
    if revision.role in LIVE_ROLES:
        info.insert(1, f"traffic:{percent(revision.per_mille)}")
    if revision.mirror_per_mille:
        info.append(f"mirror:{percent(revision.mirror_per_mille)}")
    if revision.observed is not None:
        info.append(f"seen:{observed(revision)}")
    if revision.known_good:
        info.append("known-good")
    if revision.message:
        info.append(revision.message)
    health = "Healthy" if revision.ready >= revision.instances else "Degraded" if revision.known_good else "Progressing"
    return [[f"# {revision.deployment}@{revision.revision[:8]}", "Revision", state(health), "", ",".join(info)]]


def rollout_rows(rollout: RolloutStatus, now: float) -> list[list[str]]:
    spent = (rollout.ended_at or now) - rollout.started_at
    rows = [[f"Σ {rollout.id}", "Rollout", state(rollout.state), age(spent), first(rollout.message)]]
    for index, op in enumerate(rollout.ops):
        last = index == len(rollout.ops) - 1
        rows.append([(LAST if last else BRANCH) + op.name, "Op", state(op.state), op_age(op, now), op_info(op)])
        stem = BLANK if last else TRUNK
        rows += [[stem + f"α {gate_name(v)}", "Gate", state(v.result), "", gate_info(v)] for v in op.verdicts]
    return rows


def op_age(op: OpStatus, now: float) -> str:
    return age((op.ended_at or now) - op.started_at) if op.started_at is not None else "-"


def op_info(op: OpStatus) -> str:
    parts = [f"{op.percent:g} %"] if op.percent else []
    said = own_words(op)
    return " ".join([*parts, said] if said else parts)


def gate_name(verdict: Verdict) -> str:
    """The gate; where one op asks it of several revisions, also whose verdict it is."""
    revision = str(verdict.parameters.get("revision", ""))
    return f"{verdict.gate} {revision[:8]}".rstrip()


def gate_info(verdict: Verdict) -> str:
    """What a verdict says; for one that holds, what it still needs."""
    if verdict.result is Result.INCONCLUSIVE and verdict.missing:
        return f"needs {verdict.missing}"
    return verdict.explanation


def running(rollout: RolloutStatus) -> OpStatus | None:
    return next((op for op in rollout.ops if op.state == "running"), None)


def rollout(status: EndpointStatus, shown: RolloutStatus, now: float) -> list[str]:
    """One rollout: where it is going, the ladder of ops, and every gate with its figures."""
    lines = [
        labelled("Name", shown.id),
        labelled("Endpoint", shown.endpoint),
        labelled("Status", state(shown.state)),
        labelled("Message", shown.message) if shown.message else "",
        labelled("Commit", f"{short(shown.commit)} (attempt {shown.attempt})"),
        labelled("Candidate", candidate_name(status, shown.candidate)),
        labelled("Plan", shown.plan_hash[:12]) if shown.plan_hash else "",
        labelled("Reverted by", shown.reverted_by) if shown.reverted_by else "",
        *(step_lines(status) if status.rollout and status.rollout.id == shown.id else []),
    ]
    return [*(line for line in lines if line), "", *ladder(shown, now), *held(shown), *failures(shown)]


def candidate_name(status: EndpointStatus, revision: str) -> str:
    named = next((r.deployment for r in status.revisions if r.revision == revision), "")
    return f"{named}@{revision[:8]}" if named else revision[:8] or "none: nothing is judged"


def ladder(shown: RolloutStatus, now: float) -> list[str]:
    rows = []
    for op in shown.ops:
        moved = f"{op.percent:g} %" if op.percent else ""
        rows.append([op.name, state(op.state), moved, op_age(op, now), own_words(op)])
        rows += [[f"  α {gate_name(v)}", state(v.result), "", "", verdict_line(v)] for v in op.verdicts]
    return table(["OP", "STATUS", "PERCENT", "TIME", "INFO"], rows)


def verdict_line(verdict: Verdict) -> str:
    figures = " ".join(f"{name}={value:.4g}" for name, value in verdict.figures.items())
    return " ".join(part for part in (gate_info(verdict), dim(f"[{figures}]") if figures else "") if part)


def held(shown: RolloutStatus) -> list[str]:
    """Why the running op does not end yet."""
    op = running(shown)
    return spaced([f"held at {op.message}"] if op and held_by(op) else [])


def held_by(op: OpStatus) -> list[Verdict]:
    """The verdicts a running op waits for."""
    return [v for v in op.verdicts if op.state == "running" and v.result in (Result.INCONCLUSIVE, Result.ERROR)]


def own_words(op: OpStatus) -> str:
    """A cell's worth of what an op says; nothing where the gates below it say the same in full."""
    told = held_by(op) or any(v.result is Result.FAIL for v in op.verdicts)
    return "" if told else first(op.message)


def failures(shown: RolloutStatus) -> list[str]:
    """What each failing verdict found to differ; why it failed is said with the gate."""
    lines: list[str] = []
    for op in shown.ops:
        for verdict in op.verdicts:
            if verdict.result is Result.FAIL and verdict.differences:
                lines += [bold(f"{verdict.gate} at {op.name}: what differs"), *differences(verdict)]
    return spaced(lines)


def differences(verdict: Verdict) -> list[str]:
    rows = [
        [f"  {d.path}", d.kind, f"{d.share * 100:.3g} %", d.stable, d.candidate, d.effect]
        for d in verdict.differences[:SHOWN_DIFFERENCES]
    ]
    return table(["  FIELD", "KIND", "PAIRS", "STABLE", "CANDIDATE", "EFFECT"], rows) if rows else []


def fall(shown: RolloutStatus) -> list[str]:
    """How a rollout that fell ended: why, and what became of its commit in git when that is known."""
    reverted = [f"{short(shown.commit)} is reverted by {short(shown.reverted_by)}"] if shown.reverted_by else []
    return [f"{state(shown.state)} {short(shown.commit)}: {shown.message}", *reverted]


def spaced(lines: list[str]) -> list[str]:
    return ["", *lines] if lines else []


def summary(status: EndpointStatus) -> str:
    """One line of a log: state, what runs, why it waits."""
    current = running(status.rollout) if status.rollout and status.rollout.ended_at is None else None
    message = first(status.message)
    named = current.name if current and not message.startswith(f"{current.name}:") else ""
    refused = f"{state(status.sync)} {short(status.commit)}" if status.sync == "Rejected" else ""
    return GAP.join(part for part in (state(status.state), named, message, refused) if part)
