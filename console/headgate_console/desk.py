"""The verbs that need no running system: validate, plan, workflow. They read; they run nothing of the repo."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from headgate.findings import Finding, FindingsError, Place, in_order
from headgate_console import options
from headgate_console.exits import Exit
from headgate_console.options import note

if TYPE_CHECKING:
    from headgate.ports import Tree
    from headgate_console.plans import Change
    from headgate_controllers.repo.gitdir import GitDir

ROOM_S = 5.0  # longest wait for a controller that a plan can do without
FORMATS = ("text", "json", "sarif", "github", "gitlab", "junit", "markdown")


@options.verb()
@click.argument(
    "folder", metavar="[DIR]", type=click.Path(exists=True, file_okay=False, path_type=Path), default=Path()
)
@click.option("--format", "form", type=click.Choice(FORMATS), default="text", show_default=True, help="Of the report.")
@click.option("--warnings", is_flag=True, help="Warnings fail too (1).")
def validate(folder: Path, form: str, warnings: bool) -> Exit:
    """Check every file of an endpoints repo; every finding has file, line, why and how to fix it."""
    done = check(folder)
    click.echo(rendered(done, form), nl=False)
    note(f"{done.endpoints} endpoint{'s' if done.endpoints != 1 else ''} read")
    refused = any(finding.is_error for finding in done.findings)
    return Exit.REFUSED if refused or (warnings and done.findings) else Exit.OK


@dataclass(frozen=True)
class Checked:
    tree: Tree
    findings: tuple[Finding, ...]  # in order
    endpoints: int
    files: tuple[str, ...]  # YAML that was read


def check(folder: Path) -> Checked:
    from headgate import plugins, reading
    from headgate.gateblocks import SETTINGS
    from headgate_console.plans import parameters
    from headgate_policies import admission, idle

    tree = work_tree(folder)
    if not any(tree.object_id(path) for path in (SETTINGS, reading.ROOT)):
        raise FindingsError(_no_endpoints(folder))
    settings, found = reading.read_settings(tree)
    loaded = plugins.load("headgate.gate")
    gates = parameters(loaded.adapters)
    gc.disable()  # everything read is kept until the end: looking for garbage in it takes a sixth of the time
    try:
        readings = reading.read_all(tree, settings, catalogue(tree, settings))
        found = (*found, *(f for one in readings.values() for f in one.findings))
        found = (*found, *(f for one in readings.values() for f in reading.check_gates(one, tree, gates)))
        found = (*found, *(f for one in readings.values() for f in idle.check(one, tree, loaded.adapters)))
        found = (*found, *admission.check(tree, [name for name, one in readings.items() if one.target]))
    finally:
        gc.enable()
    files = sorted({path for one in readings.values() for path in one.files if path.endswith(reading.SUFFIXES)})
    return Checked(tree, in_order((*found, *loaded.findings)), len(readings), tuple(files))


def rendered(done: Checked, form: str) -> str:
    from headgate import report

    if form == "text":
        return report.text(done.findings, sources(done))
    if form == "junit":
        return report.junit(done.findings, done.files)
    return report.FORMATS[form](done.findings)


def sources(done: Checked) -> dict[str, str]:
    """The texts of the files that findings are in, as far as they can be shown."""
    from headgate.yamltext import MAX_BYTES

    texts = {}
    for file in {finding.place.file for finding in done.findings}:
        with suppress(OSError, ValueError):  # not a file, too large, or not text: the finding says so
            texts[file] = done.tree.read(file, MAX_BYTES).decode("utf-8")
    return texts


@options.verb()
@click.argument("span", metavar="[BASE..HEAD]", default="")
@click.option("--repo", "root", type=click.Path(path_type=Path), default=Path(), help="Work tree. Default: here.")
@click.option("--rate", type=float, default=10.0, show_default=True, help="Live requests a second to expect.")
@options.data()
@options.output("table", "json", "yaml", "markdown")
def plan(span: str, root: Path, rate: float, data: str | None, output: str) -> Exit:
    """Show what a change would do to each endpoint: traffic, ops, soaks, what its gates can find.

    Without BASE..HEAD: the files as they are now, against what was pushed last (or, without an origin, committed);
    files that git does not have are planned too, and named.
    Where a controller answers and its platform knows what it has: whether the new replicas find room now.
    """
    from headgate_console import planview, untracked
    from headgate_console.print import API_VERSION

    changes = with_room(plan_changes(root, span, rate), data)
    if output == "markdown":
        for line in planview.markdown(changes, rate):
            click.echo(line)
    else:
        document = {"apiVersion": API_VERSION, "kind": "PlanList", "items": planview.data(changes)}
        options.emit(document, output, lambda: planview.text(changes, rate))
    if not span and (text := untracked.said(root, changes)):
        note(text)
    for name in tried_again(changes, data):
        note(f"{name}: git still asks for what failed there last; any commit of this endpoint begins another attempt")
    return Exit.REFUSED if any(change.refused for change in changes) else Exit.OK


def plan_changes(root: Path, span: str, rate: float) -> list[Change]:
    from headgate import plugins
    from headgate_console import plans

    gates = plugins.load("headgate.gate").adapters
    cache: dict[Any, Any] = {}
    with trees(root, span) as (base, head):
        sides = [plans.read_side(tree, cache, catalogue) for tree in (base, head)]
        return list(plans.changes(sides[0], sides[1], gates, rate))


def with_room(changes: list[Change], data: str | None) -> list[Change]:
    """Asks the controller; as they are when none answers, for a plan needs no running system."""
    from headgate_console import plans
    from headgate_console.connect import open_control

    if not any(change.ways for change in changes):
        return changes
    try:
        control = open_control(data)
        control.timeout_s = ROOM_S
        return [plans.fitted(change, control.space(change.endpoint)) if change.ways else change for change in changes]
    except FindingsError as error:
        if data or options.remote()[0]:  # it was asked for
            note(f"capacity is not known: {error.findings[0].message}")
        return changes


def tried_again(changes: list[Change], data: str | None) -> list[str]:
    """Endpoints that this change gives settings only, and that the controller would roll out all the same."""
    from headgate_console.connect import open_control

    settings = [change.endpoint for change in changes if change.settings and not change.plan and not change.refused]
    if not settings:
        return []
    try:
        control = open_control(data)
        control.timeout_s = ROOM_S
        failed = {one.name for one in control.system().endpoints if one.state == "RolledBack"}
    except FindingsError:  # none answers, and a plan needs no running system
        return []
    return [name for name in settings if name in failed]


@options.verb()
@options.endpoint()
@click.argument("span", metavar="[BASE..HEAD]", default="")
@click.option("--repo", "root", type=click.Path(path_type=Path), default=Path(), help="Work tree. Default: here.")
def workflow(endpoint: str, span: str, root: Path) -> Exit:
    """Print the Argo Workflow that one endpoint's change would run; every engine runs this very document."""
    from headgate.plan import workflow_name
    from headgate_console.print import machine
    from headgate_pipelines.rollout import workflow as document

    change = next((c for c in plan_changes(root, span, 0.0) if c.endpoint == endpoint), None)
    if change is None or change.plan is None:
        raise FindingsError(*(change.findings if change and change.refused else [_no_rollout(endpoint)]))
    name = workflow_name(endpoint, change.plan.commit or "work-tree", 1)
    click.echo(machine(document(change.plan, name), "yaml"))
    return Exit.OK


@contextmanager
def trees(root: Path, span: str) -> Iterator[tuple[Tree, Tree]]:
    """The two sides of a change.

    Raises: FindingsError `unknown-commit`, `no-repo`, `no-work-tree`.
    """
    import git

    from headgate_console.ground import locate
    from headgate_controllers.repo.gitdir import GitDir

    base, _, head = span.partition("..")
    with git.Repo(locate(str(root))) as repo:
        place, bare = Path(repo.git_dir), repo.bare
        base = base or default_base(repo)
    if bare and not span:
        raise FindingsError(_bare(root))
    opened = GitDir(place)
    try:
        before = commit_tree(opened, base)
        yield before, commit_tree(opened, head or "HEAD") if span else work_tree(root)
    finally:
        opened.close()


def commit_tree(opened: GitDir, name: str) -> Tree:
    """A commit's files, by anything git understands as a name of it."""
    from headgate_controllers.repo.committree import CommitTree, TreeCache

    plain = name and not name.startswith("-") and name.isprintable() and " " not in name
    commit = opened.header(f"{name}^{{commit}}") if plain else None
    root = opened.header(f"{commit[0]}^{{tree}}") if commit else None
    if commit is None or root is None:
        raise FindingsError(_no_commit(name))
    return CommitTree(TreeCache(opened), commit[0], root[0])


def work_tree(root: Path) -> Tree:
    from headgate_kit.worktree import WorkTree

    return WorkTree(root)


def catalogue(tree: Tree, settings: Any) -> Any:
    """Looks models up as the controller does."""
    from headgate_controllers.resolve import reader

    return reader(tree, settings)


def default_base(repo: Any) -> str:
    """What was pushed last; what was committed last, when nothing says where to push."""
    tracked = None if repo.head.is_detached else repo.active_branch.tracking_branch()
    return str(tracked.path) if tracked is not None and tracked.is_valid() else "HEAD"


def _no_endpoints(folder: Path) -> Finding:
    from headgate_console.ground import above

    top = above(folder.absolute(), "headgate.yml") or above(folder.absolute(), "endpoints")
    return Finding(
        code="no-endpoints",
        message=f"{folder.absolute()} has neither headgate.yml nor endpoints/",
        why="a check that reads nothing must not look like one that finds nothing",
        fix=f"run it in {top}" if top else "name the root of your endpoints repo; `headgate init DIR` makes one",
        place=Place(str(folder)),
    )


def _no_commit(name: str) -> Finding:
    return Finding(
        code="unknown-commit",
        message=f"{name!r} names no commit here",
        why="a plan compares two commits, or a commit with the files as they are",
        fix="write BASE..HEAD as git does, e.g. origin/main..HEAD; in CI fetch the whole history",
        place=Place("BASE..HEAD"),
    )


def _bare(root: Path) -> Finding:
    return Finding(
        code="no-work-tree",
        message=f"{root} is a bare repo: there are no files to compare with a commit",
        why="without BASE..HEAD a plan is of the files as they are now",
        fix="name two commits, e.g. HEAD~1..HEAD",
        place=Place(str(root)),
    )


def _no_rollout(endpoint: str) -> Finding:
    return Finding(
        code="unknown-rollout",
        message=f"this change starts no rollout of {endpoint}",
        why="it asks for what is there already, or there is no such endpoint",
        fix=f"`headgate workflow {endpoint} HEAD~1..HEAD` is of the last commit; `headgate plan` shows what changes",
        place=Place(f"endpoints/{endpoint}"),
    )
