"""Git's credentials from a mounted folder: read by git when it is asked, so that a rotated Secret counts at once.

Names of the files are those of Kubernetes' own Secret types: `username` and `password` (basic-auth), `ssh-privatekey`
(ssh-auth) with `known_hosts` beside it. Nothing of them enters an argument list, our memory or the mirror's config.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path

from headgate.findings import Finding, Place
from headgate_controllers.repo.gitdir import RepoError

USER, PASSWORD = "username", "password"
KEY, HOSTS = "ssh-privatekey", "known_hosts"
ANYBODY = "git"  # forges that take a token as password want some user name


def from_folder(folder: Path) -> Mapping[str, str]:
    """Git settings that read this folder. Raises RepoError: nothing usable is in it."""
    if (folder / PASSWORD).is_file():
        return {"credential.helper": _helper(folder)}
    if (folder / KEY).is_file():
        if not (folder / HOSTS).is_file():
            raise RepoError(_unusable(folder, f"`{KEY}` is there, `{HOSTS}` is not", f"add `{HOSTS}`: {SCAN}"))
        return {"core.sshCommand": _ssh(folder)}
    raise RepoError(_unusable(folder, f"neither `{PASSWORD}` nor `{KEY}` is in it", "mount the Secret that has them"))


SCAN = "`ssh-keyscan HOST` prints it; compare it with what the forge publishes"


def _helper(folder: Path) -> str:
    """A helper that git runs by `sh`: only the names of files are in its argument list."""
    user, password = (shlex.quote(str(folder / name)) for name in (USER, PASSWORD))
    name = f'"$(cat {user})"' if (folder / USER).is_file() else ANYBODY
    return (
        f'!f() {{ test "$1" = get || exit 0; printf "username=%s\\n" {name}; '
        f'printf "password=%s\\n" "$(cat {password})"; }}; f'
    )


def _ssh(folder: Path) -> str:
    key, hosts = (shlex.quote(str(folder / name)) for name in (KEY, HOSTS))
    return (
        f"ssh -F /dev/null -i {key} -o IdentitiesOnly=yes -o BatchMode=yes -o StrictHostKeyChecking=yes "
        f"-o UserKnownHostsFile={hosts} -o ConnectTimeout=10"
    )


def _unusable(folder: Path, why: str, fix: str) -> Finding:
    return Finding("git-credentials", f"{folder} holds no git credentials", why, fix, Place("repo"))
