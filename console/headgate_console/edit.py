"""Edits of endpoint YAML in the work tree, comments kept: what Azure's `--traffic` flags are here is a commit.

The live system is never touched from here: what is asked for goes into git, and git is what serves.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from pathlib import Path

import click

from headgate.findings import Finding, FindingsError, Place
from headgate_console import options
from headgate_console.exits import Exit
from headgate_console.options import note

PAIR = re.compile(r"([A-Za-z][-A-Za-z0-9]*)=(\d{1,3})%?")
MAX_MIRROR = 50  # percent: Azure's limit
REFUSED = ("traffic-unknown", "mirror-traffic")  # findings that only this edit can have made
MAX_BYTES = 256 * 1024  # the reader's limit: a longer file is not served anyway


@options.verb()
@options.endpoint()
@click.argument("split", metavar='"NAME=PERCENT ..."', required=False)
@click.option("--mirror", "mirrored", metavar="NAME=PERCENT", help='mirror_traffic; "" ends it.')
@click.option("--repo", "root", type=click.Path(path_type=Path), default=Path(), help="Work tree. Default: here.")
@click.option("--commit", "committed", is_flag=True, help="Commit the edit, and nothing else.")
@click.option("-m", "--message", default="", help="Subject of the commit.")
def traffic(endpoint: str, split: str | None, mirrored: str | None, root: Path, committed: bool, message: str) -> Exit:
    """Set the traffic of an endpoint in its YAML and show the diff, e.g. headgate traffic fraud "blue=90 green=10"."""
    if split is None and mirrored is None:
        raise click.UsageError('say the split as "NAME=PERCENT ...", or --mirror')
    file = endpoint_file(root, endpoint)
    before = file.read_text("utf-8")
    after = edited(before, changes(split, mirrored), file)
    if after == before:
        note("nothing to change")
        return Exit.OK
    write(root, endpoint, file, after)
    for line in diff(before, after, file.relative_to(root).as_posix()):
        click.echo(line)
    if committed:
        sha = commit(root, file, message or f"{endpoint}: traffic {split if split is not None else ''}".rstrip())
        note(f"committed {sha[:8]}; push it, or `git revert {sha[:8]}`")
    return Exit.OK


def changes(split: str | None, mirrored: str | None) -> dict[str, dict[str, int]]:
    """The keys of endpoint.yml to set. Raises: click.BadParameter; FindingsError `traffic-sum`, `mirror-percent`."""
    found: dict[str, dict[str, int]] = {}
    if split is not None:
        found["traffic"] = shares(split)
        total = sum(found["traffic"].values())
        if total not in (0, 100):
            raise FindingsError(_sum(total))
    if mirrored is not None:
        found["mirror_traffic"] = shares(mirrored)
        if len(found["mirror_traffic"]) > 1 or sum(found["mirror_traffic"].values()) > MAX_MIRROR:
            raise FindingsError(_mirror(mirrored))
    return found


def shares(text: str) -> dict[str, int]:
    """`blue=90 green=10` as Azure's command line has it; commas are spaces."""
    found: dict[str, int] = {}
    for part in text.replace(",", " ").split():
        match = PAIR.fullmatch(part)
        if match is None or match[1] in found:
            raise click.BadParameter(f'{part!r}: write "NAME=PERCENT NAME=PERCENT", each name once')
        found[match[1]] = int(match[2])
    return found


def edited(text: str, wanted: Mapping[str, Mapping[str, int]], file: Path) -> str:
    """The document with these keys set; every other byte stays as it is.

    Raises: FindingsError: the file is no YAML that is served, or cannot be edited.
    """
    from headgate.yamltext import parse
    from headgate_console.spans import with_map

    refused = [finding for finding in parse(text.encode(), str(file)).findings if finding.is_error]
    if refused:
        raise FindingsError(*refused)
    for key, value in wanted.items():
        try:
            text = with_map(text, key, value)
        except ValueError as error:
            raise FindingsError(_by_hand(file, key, str(error))) from error
    return text


def diff(before: str, after: str, path: str) -> list[str]:
    lines = difflib.unified_diff(before.splitlines(), after.splitlines(), f"a/{path}", f"b/{path}", lineterm="")
    colours = {"+": "green", "-": "red", "@": "cyan"}
    return [click.style(line, fg=colours.get(line[:1])) for line in lines]


def write(root: Path, endpoint: str, file: Path, after: str) -> None:
    """Leaves the file as it was when anything goes wrong. Raises: FindingsError: it names what is not there."""
    before = file.read_bytes()
    file.write_text(after, "utf-8")
    try:
        refused = [finding for finding in read(root, endpoint) if finding.code in REFUSED]
        if refused:
            raise FindingsError(*refused)
    except BaseException:
        file.write_bytes(before)
        raise


def read(root: Path, endpoint: str) -> tuple[Finding, ...]:
    """What the controller would say of this endpoint as it lies here."""
    from headgate import reading
    from headgate_kit.worktree import WorkTree

    tree = WorkTree(root)
    settings, _ = reading.read_settings(tree)
    return reading.read_endpoint(tree, endpoint, settings).findings


def endpoint_file(root: Path, endpoint: str) -> Path:
    """Raises: FindingsError `unknown-endpoint`, `too-large`."""
    if not re.fullmatch(r"[A-Za-z][-A-Za-z0-9]*", endpoint):
        raise click.BadParameter(f"{endpoint!r} is no endpoint's name", param_hint="ENDPOINT")
    for suffix in ("yml", "yaml"):
        file = root / "endpoints" / endpoint / f"endpoint.{suffix}"
        if file.is_file() and file.resolve().is_relative_to(root.resolve()):
            if file.stat().st_size > MAX_BYTES:
                raise FindingsError(_too_large(file))
            return file
    raise FindingsError(_unknown(root, endpoint))


def commit(root: Path, file: Path, message: str) -> str:
    """Commits this file and nothing else that may be staged. Answers the commit's id."""
    import git

    with git.Repo(root, search_parent_directories=True) as repo:
        repo.git.commit("--quiet", "--only", "--message", message, "--", str(file.resolve()))
        return repo.head.commit.hexsha


def _sum(total: int) -> Finding:
    return Finding(
        code="traffic-sum",
        message=f"traffic adds up to {total}, expected 100 (or 0: drained)",
        why=f"{abs(100 - total)} % of live requests would have "
        + ("no deployment" if total < 100 else "two deployments"),
        fix="name every deployment that gets traffic, with percents that add up to 100",
        place=Place("the split"),
    )


def _mirror(text: str) -> Finding:
    return Finding(
        code="mirror-percent",
        message=f"mirror_traffic {text}: one deployment, at most {MAX_MIRROR} %",
        why="Azure mirrors to one deployment only, and copies cost what live requests cost",
        fix=f"name one deployment with 1 to {MAX_MIRROR}",
        place=Place("--mirror"),
    )


def _by_hand(file: Path, key: str, why: str) -> Finding:
    return Finding(
        code="cannot-edit",
        message=f"{key} cannot be set without touching what is around it",
        why=why,
        fix="edit the file by hand",
        place=Place(str(file)),
    )


def _too_large(file: Path) -> Finding:
    return Finding(
        code="too-large",
        message=f"{file.stat().st_size} bytes of YAML, at most {MAX_BYTES} are read",
        why="a file like that is refused when it is served too",
        fix="keep data out of endpoint.yml",
        place=Place(str(file)),
    )


def _unknown(root: Path, endpoint: str) -> Finding:
    known = sorted(path.parent.name for path in root.glob("endpoints/*/endpoint.y*ml"))
    return Finding(
        code="unknown-endpoint",
        message=f"there is no endpoints/{endpoint}/endpoint.yml",
        why=f"known here: {', '.join(known) or 'none'}",
        fix="run it in the endpoints repo's root, or name that with --repo",
        place=Place(str(root)),
    )
