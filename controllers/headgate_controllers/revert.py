"""A verdict becomes a commit: the files the failed target read go back to what they were at the last release.

The one kind of commit Headgate makes. It decides nothing (traffic is back already), forces nothing, and touches no file
that another endpoint reads: then, or when the branch takes no push, the commit goes to a branch of its own and a person
merges it. Made once: the commit carries its op-key, and is looked for before it is made.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from headgate.evidence import Result, Verdict
from headgate.findings import ConflictError, Finding, Place, Severity, TransientError
from headgate.rollout import Undo
from headgate_controllers.repo import Commit, EndpointsRepo, PushRefused
from headgate_controllers.repo.gitdir import RepoError

OP_KEY, ENDPOINT, VERDICT, UNDOES = "Headgate-Op-Key", "Headgate-Endpoint", "Headgate-Verdict", "Headgate-Undoes"
ATTEMPTS = 10  # on a branch that keeps moving
SEARCHED = 500  # commits since the failed one that are looked through for our own
UNDONE = 50  # commits named in one message
EXAMPLES = 3  # of answers that differ, in one message
CUT = 120  # characters of a line that quotes somebody else's text


@dataclass(frozen=True, slots=True)
class RevertPlan:
    """What to put back. Files and folders are meant alike: an id is content."""

    changes: Mapping[str, str | None]  # path -> object id it had; None: it did not exist
    expect: Mapping[str, str | None]  # what each must still be for the revert to be right; None: absent
    shared: tuple[str, ...] = ()  # `path (read by a, b)`: other endpoints would change too


@dataclass(frozen=True, slots=True)
class Reverted:
    """What became of a revert that was owed."""

    result: str  # the commit, or the branch it went to; empty: there is none, `message` says why
    message: str
    findings: tuple[Finding, ...] = ()
    pushed: bool = False  # by this call


def plan_revert(
    failed: Mapping[str, str | None], good: Mapping[str, str | None], others: Mapping[str, Collection[str]]
) -> RevertPlan:
    """What leads from the failed content back to the good one. Pure.

    Args:
        failed: every path that either target read -> its id in the failed commit; None or no entry: absent.
        good: the same paths -> ids in the last release's commit.
        others: other endpoints -> the paths they read now.
    """
    paths = sorted({*failed, *good})
    differing = [path for path in paths if failed.get(path) != good.get(path)]
    top = [path for path in differing if not any(inside(path, folder) for folder in differing)]
    return RevertPlan(
        changes={path: good.get(path) for path in top},
        expect={path: failed.get(path) for path in top},
        shared=tuple(_shared(top, others)),
    )


def inside(path: str, folder: str) -> bool:
    return path.startswith(f"{folder}/")


def _shared(paths: Iterable[str], others: Mapping[str, Collection[str]]) -> Iterable[str]:
    for path in paths:
        readers = [
            endpoint
            for endpoint, read in sorted(others.items())
            if any(path == other or inside(path, other) or inside(other, path) for other in read)
        ]
        if readers:
            yield f"{path} (read by {', '.join(readers)})"


def undo(
    repo: EndpointsRepo, owed: Undo, others: Mapping[str, Collection[str]], *, clock: Callable[[], float] = time.time
) -> Reverted:
    """Makes and pushes the revert that is owed; called again it answers what was done.

    Args:
        others: other endpoints -> the paths their targets read.
    Raises:
        TransientError: the origin cannot be reached, or its branch moved too often.
    """
    for _ in range(ATTEMPTS):
        try:
            repo.fetch()
        except RepoError as error:
            raise TransientError(str(error), retry_after_s=5.0) from error
        try:
            return _attempt(repo, owed, others, clock())
        except ConflictError:
            continue
        except RepoError as error:  # a commit that the record names is not here
            return Reverted("", f"not reverted: {error.findings[0].message}", _said(error.findings))
    raise TransientError(f"{repo.branch} moved {ATTEMPTS} times while the revert was made", retry_after_s=5.0)


def _attempt(repo: EndpointsRepo, owed: Undo, others: Mapping[str, Collection[str]], at: float) -> Reverted:
    head = repo.head()
    made = _made_before(repo, owed, head)
    if made:
        return Reverted(made, f"reverted by {made[:10]}")
    plan = _plan(repo, owed, others)
    tree = repo.tree(head)
    now = {path: tree.object_id(path) for path in plan.changes}
    if all(now[path] == plan.changes[path] for path in now):
        return Reverted(head, f"nothing to revert: {head[:10]} has the files as they were")
    newer = [path for path in now if now[path] not in (plan.expect[path], plan.changes[path])]
    if newer:
        return Reverted("", f"not reverted: superseded by a newer change of {newer[0]}", (_newer_finding(owed, newer),))
    undone = _undone(repo, plan, owed, head)
    good = repo.tree(owed.good.commit) if owed.good else None
    entries = {path: good.entry(path) if good else None for path in plan.changes}
    commit = repo.commit_files(head, entries, message(owed, undone), at=at)
    if plan.shared:
        return _to_branch(repo, owed, commit, _shared_finding(owed, plan))
    if owed.mode == "revert-pr":
        return _to_branch(repo, owed, commit, _asked_finding(owed))
    try:
        repo.push(commit, repo.branch, head)
    except PushRefused as refused:
        return _to_branch(repo, owed, commit, refused.findings[0])
    return Reverted(commit, f"reverted by {commit[:10]} on {repo.branch}", pushed=True)


def _plan(repo: EndpointsRepo, owed: Undo, others: Mapping[str, Collection[str]]) -> RevertPlan:
    failed = repo.tree(owed.failed.commit)
    if owed.good is None:  # its first release failed: as if the endpoint had never been there
        folder = f"endpoints/{owed.failed.endpoint}"
        return plan_revert({folder: failed.object_id(folder)}, {}, others)
    good = repo.tree(owed.good.commit)
    paths = {*owed.failed.files, *owed.good.files}
    return plan_revert(
        {path: failed.object_id(path) for path in paths}, {path: good.object_id(path) for path in paths}, others
    )


def _made_before(repo: EndpointsRepo, owed: Undo, head: str) -> str:
    for commit in repo.log(head, after=owed.failed.commit, limit=SEARCHED):
        key, endpoint = commit.trailers.get(OP_KEY, ()), commit.trailers.get(ENDPOINT, ())
        if owed.op_key in key and owed.failed.endpoint in endpoint:
            return commit.id
    return ""


def _undone(repo: EndpointsRepo, plan: RevertPlan, owed: Undo, head: str) -> list[Commit]:
    """The commits whose changes go, newest first: those since the files were last as they will be."""
    found = []
    after = owed.good.commit if owed.good else ""
    for commit in repo.log(head, after=after, paths=plan.changes, limit=UNDONE):
        tree = repo.tree(commit.id)
        if all(tree.object_id(path) == object_id for path, object_id in plan.changes.items()):
            break
        found.append(commit)
    return found


def _to_branch(repo: EndpointsRepo, owed: Undo, commit: str, why: Finding) -> Reverted:
    """Puts the commit where a person can merge it. The branch's name follows from the op-key: it is made once."""
    branch = branch_name(owed)
    there = repo.branch_head(branch)
    findings = (_merge_finding(repo, owed, branch, why),)
    if there:
        return Reverted(branch, f"the revert is on branch {branch}", findings)
    try:
        repo.push(commit, branch, "")
    except PushRefused as refused:
        return Reverted("", f"not reverted: {refused.findings[0].message}", _said(refused.findings))
    return Reverted(branch, f"the revert is on branch {branch}", findings, pushed=True)


def branch_name(owed: Undo) -> str:
    workflow, endpoint = owed.op_key.partition("/")[0], owed.failed.endpoint
    return f"headgate/revert-{workflow}" if endpoint.lower() in workflow else f"headgate/revert-{endpoint}-{workflow}"


def _merge_finding(repo: EndpointsRepo, owed: Undo, branch: str, why: Finding) -> Finding:
    return replace(
        why,
        code="revert-on-branch",
        message=f"the revert of {owed.failed.commit[:10]} waits on branch {branch}: {why.message}",
        fix=f"{why.fix}; until then {repo.branch} asks for what has failed, and the last good state serves on",
        place=Place(f"endpoints/{owed.failed.endpoint}"),
        severity=Severity.WARNING,
    )


def _asked_finding(owed: Undo) -> Finding:
    return Finding(
        code="revert-on-branch",
        message="`on_failure: revert-pr` leaves it to a person",
        why="rollout.yml asks for a proposal instead of a commit",
        fix="look at it and merge it",
        place=Place(f"endpoints/{owed.failed.endpoint}"),
    )


def _shared_finding(owed: Undo, plan: RevertPlan) -> Finding:
    return Finding(
        code="revert-on-branch",
        message="other endpoints read the files it restores",
        why=f"{'; '.join(plan.shared)[:500]}: putting them back for {owed.failed.endpoint} would change those too",
        fix="look at it and merge it",
        place=Place(f"endpoints/{owed.failed.endpoint}"),
    )


def _newer_finding(owed: Undo, newer: Sequence[str]) -> Finding:
    return Finding(
        code="revert-superseded",
        message=f"{owed.failed.commit[:10]} failed and is not reverted: {newer[0]} was changed since",
        why="putting back what was there before would undo the newer change too",
        fix=f"push what should serve, or `git revert` what came after {owed.failed.commit[:10]} and it, by hand",
        place=Place(f"endpoints/{owed.failed.endpoint}"),
        severity=Severity.WARNING,
    )


def _said(findings: Sequence[Finding]) -> tuple[Finding, ...]:
    return tuple(replace(finding, severity=Severity.WARNING) for finding in findings)


# --- the message -------------------------------------------------------------------------------------------------


def message(owed: Undo, undone: Sequence[Commit]) -> str:
    """Subject, the evidence in words and numbers, what is undone, and trailers that programs read."""
    failing = [verdict for verdict in owed.verdicts if verdict.result is Result.FAIL]
    subject = _line(undone[0].subject) if undone else owed.failed.commit[:10]
    says = owed.reason
    if failing:
        says = f"{owed.failed.endpoint} {failing[0].gate} failed at {failing[0].phase}"
    blocks = [f'Revert "{subject}": {_line(says)}', _line(owed.reason)]
    blocks += ["\n".join(_evidence(verdict)) for verdict in failing]
    blocks += ["\n".join(f"This reverts commit {commit.id}." for commit in undone)]
    trailers = [f"{OP_KEY}: {owed.op_key}", f"{ENDPOINT}: {owed.failed.endpoint}"]
    trailers += [f"{VERDICT}: {v.gate} {v.result} {v.phase} {v.evidence}".rstrip() for v in failing]
    trailers += [f"{UNDOES}: {commit.id}" for commit in undone]
    return "\n\n".join(block for block in [*blocks, "\n".join(trailers)] if block) + "\n"


def _evidence(verdict: Verdict) -> list[str]:
    figures = ", ".join(f"{name} {value:.9g}" for name, value in sorted(verdict.figures.items()))
    lines = [f"{verdict.gate} at {verdict.phase}: {' '.join(verdict.explanation.split())}"]
    if figures:
        lines.append(f"  figures: {figures}")
    shown = verdict.differences[:EXAMPLES]
    spare = EXAMPLES - len(shown)  # where fewer places differ, there are more examples of each
    for difference in shown:
        effect = f", {_line(difference.effect)}" if difference.effect else ""
        lines.append(
            f"  {_line(difference.path)}: {difference.kind} differs in {difference.share:.1%} of pairs{effect}"
        )
        further = difference.more[:spare]
        spare -= len(further)
        for stable, candidate in ((difference.stable, difference.candidate), *further):
            lines.append(f"    e.g. stable {_line(stable)}, candidate {_line(candidate)}")
    return lines


def _line(text: str) -> str:
    """One line, whatever somebody else wrote: nothing quoted can pass for a trailer."""
    flat = " ".join(text.split())
    return flat if len(flat) <= CUT else f"{flat[: CUT - 1]}…"
