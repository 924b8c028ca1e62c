"""Files that a plan of the work tree read and git does not have: what is committed may be another plan.

Asks git; changes nothing. What .gitignore keeps out is named first: `git add` will not take it.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterable, Sequence
from pathlib import Path

from headgate_console.plans import Change

SHOWN = 5  # names in one note
AT_ONCE = 500  # paths in one command line
ALWAYS = ("headgate.yml", "policies")


def said(root: Path, changes: Iterable[Change]) -> str:
    """One line that names them; empty: git has every file that was read."""
    read = sorted({path for change in changes if change.after for path in change.after.files} | set(ALWAYS))
    new = listed(root, read)
    if not new:
        return ""
    ignored = set(listed(root, read, "--ignored", "--exclude-standard"))
    new.sort(key=lambda path: (path not in ignored, path))
    names = ", ".join(f"{path} (in .gitignore)" if path in ignored else path for path in new[:SHOWN])
    more = f" and {len(new) - SHOWN} more" if len(new) > SHOWN else ""
    return f"planned with files that git does not have; commit them too: {names}{more}"


def listed(root: Path, paths: Sequence[str], *options: str) -> list[str]:
    """Those of these paths, or below them, that are not in git's index."""
    found: list[str] = []
    for some in (paths[start : start + AT_ONCE] for start in range(0, len(paths), AT_ONCE)):
        command = ["git", "--literal-pathspecs", "-C", str(root), "ls-files", "-z", "--others", *options, "--", *some]
        asked = subprocess.run(command, capture_output=True, check=True)
        names = asked.stdout.decode("utf-8", "replace").split("\0")  # a name may be any bytes
        found += [path for path in names if path and "__pycache__" not in path]
    return found
