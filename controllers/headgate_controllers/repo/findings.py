"""What can be wrong with the endpoints repo itself, in words. Each says what to do; none shows a credential."""

from __future__ import annotations

from collections.abc import Sequence

from headgate.findings import Finding, Place
from headgate_controllers.repo.gitdir import without_credentials


def _finding(code: str, message: str, why: str, fix: str, place: str = "repo") -> Finding:
    return Finding(code, message, why, fix, Place(place))


def bad_branch(branch: str) -> Finding:
    return _finding(
        "repo-branch-name",
        f"{branch!r} is not a branch name that is taken",
        "a name may hold letters, digits, and . _ + - between slashes, and may not start with a dash or a dot",
        "give another branch",
    )


def no_branch(shown: str, branch: str, names: Sequence[str]) -> Finding:
    known = ", ".join(sorted(names)[:10])
    return _finding(
        "repo-no-branch",
        f"{shown} has no branch {branch}",
        "what should serve is read from that branch",
        f"push it, or follow another with --branch (there: {known})",
    )


def no_default_branch(shown: str) -> Finding:
    return _finding(
        "repo-no-branch",
        f"{shown} does not say which branch to follow",
        "its HEAD names no branch (detached, or a name that is not taken)",
        "name one with --branch",
    )


def empty(shown: str, branch: str) -> Finding:
    return _finding(
        "repo-empty",
        f"{shown} has no commit yet",
        "there is nothing that should serve",
        f"commit an endpoint and push it to {branch} (`headgate init` shows how one looks)",
    )


def unreachable(shown: str, output: str) -> Finding:
    words = [line for line in without_credentials(output).splitlines() if line.strip()][-3:]
    return _finding(
        "repo-unreachable",
        f"{shown} cannot be read now",
        f"git says: {' / '.join(words)[:500]}" if words else "git did not answer in time",
        "check the address and the credentials; it is tried again, and what is live serves on",
    )


def unknown_commit(commit: str) -> Finding:
    return _finding(
        "repo-unknown-commit",
        f"there is no commit {commit[:40]} here",
        "it was never on the branch that is followed, or is no 40-digit id",
        "give the full id of a commit on that branch",
    )


def push_refused(shown: str, branch: str, output: str) -> Finding:
    said = [line.removeprefix("remote: ") for line in output.splitlines() if line.startswith(("remote:", "!"))]
    why = " / ".join(line.strip("! \t") for line in said if line.strip()) or output
    if "checked out" in output:
        fix = (
            f"merge the branch by hand, or let pushes update the work tree: "
            f"git -C {shown} config receive.denyCurrentBranch updateInstead"
        )
    else:
        fix = f"merge the branch by hand, or allow the controller's account to push to {branch}"
    return _finding("repo-push-refused", f"{shown} does not take a push to {branch}", why[:500], fix)


def lfs_pointer(path: str) -> Finding:
    return _finding(
        "lfs-pointer",
        "the file is a Git LFS pointer, not its content",
        "large-file storage is not fetched",
        "commit the file itself (`git lfs migrate export` turns pointers back into files)",
        place=path,
    )
