"""Exit codes: a promise to scripts, held by a test and listed in docs/cli.md."""

from __future__ import annotations

from enum import IntEnum

from headgate.codes import MISSING


class Exit(IntEnum):
    OK = 0
    REFUSED = 1  # a finding or a policy says no; nothing was changed
    USAGE = 2  # the command line itself is wrong (click's own code)
    NOT_FOUND = 3  # no such endpoint, deployment, revision, rollout
    DEGRADED = 4  # the endpoint is degraded or was rolled back
    TIMEOUT = 5  # --timeout passed while waiting
    INTERRUPTED = 130  # Ctrl-C: 128 + SIGINT, as shells say it


MEANING = {
    Exit.OK: "done; with `--watch`: healthy",
    Exit.REFUSED: "a finding or a policy says no, or nothing answers; stderr says what, why and how to fix it",
    Exit.USAGE: "the command line is wrong",
    Exit.NOT_FOUND: "no such endpoint, deployment, revision or rollout",
    Exit.DEGRADED: "the endpoint, or one of all that are shown, is degraded or was rolled back",
    Exit.TIMEOUT: "`--timeout` passed while waiting",
    Exit.INTERRUPTED: "interrupted with Ctrl-C",
}

NOT_FOUND_CODES = MISSING
