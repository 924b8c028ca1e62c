"""`headgate init`: an endpoints repo from the template, with its first commit and, if asked, a bare origin.

Refuses a folder that holds something. Writes no secret and no setting of this machine.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import click

from headgate.findings import Finding, FindingsError, Place
from headgate_console import options
from headgate_console.exits import Exit
from headgate_console.ground import DEFAULT_BRANCH
from headgate_console.options import note

FIRST_SUBJECT = "endpoints: start from the Headgate template"


@options.verb()
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path))
@click.option("--bare-origin", is_flag=True, help="Also make DIR.git, a bare repo to push to, as its origin.")
@click.option("--branch", default=DEFAULT_BRANCH, show_default=True, help="The branch that will say what serves.")
def init(folder: Path, bare_origin: bool, branch: str) -> Exit:
    """Make an endpoints repo: README, settings, schemas for your editor, an example, CI."""
    origin = create(folder, branch, bare_origin)
    note(f"made {folder}" + (f", pushed to {origin}" if origin else ""))
    for line in following(folder, origin):
        click.echo(line)
    return Exit.OK


def create(folder: Path, branch: str = DEFAULT_BRANCH, bare_origin: bool = False) -> Path | None:
    """The work tree with its first commit; answers its bare origin, None when none was asked for.

    Raises: FindingsError `not-empty`; OSError: a full disk, a folder that cannot be written to.
    """
    import git

    folder = folder.absolute()
    origin = folder.with_name(folder.name + ".git") if bare_origin else None
    for place in (folder, origin):
        if place is not None and place.exists() and (not place.is_dir() or any(place.iterdir())):
            raise FindingsError(_not_empty(place))
    try:
        shutil.copytree(template_dir(), folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__"))
    except OSError:
        shutil.rmtree(folder, ignore_errors=True)  # whole or not at all: it was empty, or not there
        raise
    with git.Repo.init(folder, initial_branch=branch) as repo:
        repo.git.add("--all")
        # A revert by Headgate is a push to this branch: let it update the work tree too, when nothing is uncommitted.
        repo.git.config("receive.denyCurrentBranch", "updateInstead")
        repo.index.commit(FIRST_SUBJECT)  # needs no user.name: a fresh machine has none
        if origin is not None:
            git.Repo.init(origin, bare=True, initial_branch=branch).close()
            repo.create_remote("origin", str(origin))
            repo.git.push("--set-upstream", "origin", branch)
    return origin


def template_dir() -> Path:
    """The template: in the package when it is installed, in the repo's root when it runs from a checkout."""
    packaged = Path(__file__).parent / "template"
    return packaged if packaged.is_dir() else Path(__file__).parents[2] / "repo-template"


def following(folder: Path, origin: Path | None) -> list[str]:
    """What to type next; `cd` first, the rest can be pasted."""
    push = " && git push" if origin else ""
    served = f" --repo {origin}" if origin else ""
    return [
        f"cd {folder}",
        f"headgate up --detach{served}",
        "cp -r examples/hello endpoints/hello",
        f'git add endpoints && git commit -m "hello: first deployment"{push}',
        "headgate status hello --watch --commit $(git rev-parse HEAD)",
        "headgate invoke hello -f endpoints/hello/deployments/sample-request.json",
    ]


def _not_empty(place: Path) -> Finding:
    return Finding(
        code="not-empty",
        message=f"{place} exists and is not an empty folder",
        why="what is there would be mixed with the template",
        fix="name a new folder",
        place=Place(str(place)),
    )
