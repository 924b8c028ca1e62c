"""The command line's root: which verb lives in which module, and how every failure becomes an exit code.

A verb's module is imported when the verb is used; none imports hera, git, yaml, fastapi or kubernetes at its top, so
that `headgate status` starts in a time no person notices (a test holds it).
"""

from __future__ import annotations

import errno
import importlib
import logging
import os
import shutil
import sys
from collections.abc import Sequence

import click

from headgate.findings import Finding, FindingsError, HeadgateError, Place
from headgate.version import __version__
from headgate_console import options, start
from headgate_console.exits import NOT_FOUND_CODES, Exit
from headgate_console.print import wants_colour

# verb -> module of this package that has it; in the order of a user's first day.
VERBS = {
    "init": "init",
    "validate": "desk",
    "plan": "desk",
    "workflow": "desk",
    "templates": "templates",
    "up": "up",
    "down": "up",
    "status": "live",
    "routes": "routes",
    "rollout": "live",
    "rollback": "live",
    "verdict": "verdicts",
    "gate": "gates",
    "events": "live",
    "sync": "live",
    "invoke": "calls",
    "keys": "calls",
    "logs": "calls",
    "traffic": "edit",
    "doctor": "doctor",
    "demo": "demo",
    "version": "about",
    "completion": "about",
}

REMEDIES = {
    errno.ENOSPC: "make room on its disk, or name another folder",
    errno.EROFS: "name a folder that can be written to",
    errno.EACCES: "name a folder that you may use, or ask its owner",
    errno.EEXIST: "name a folder; this is a file",
    errno.ENOTDIR: "name a folder; there is a file in its path",
}


class Root(options.Noun):
    """Knows the names of its verbs, imports them one by one."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        module = VERBS.get(cmd_name)
        if module is None:
            return None
        command: click.Command = getattr(importlib.import_module(f"headgate_console.{module}"), cmd_name)
        return command


@click.group(cls=Root, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120})
@click.version_option(__version__, prog_name="headgate")
def cli() -> None:
    """A commit becomes live traffic, carefully; `git revert` takes it back.

    \b
    headgate init endpoints      make an endpoints repo
    headgate up                  serve it on this machine
    headgate status --watch NAME see a commit become live

    Exit codes: 0 ok, 1 refused by a finding or policy, 2 usage, 3 not found, 4 degraded or rolled back, 5 timeout
    while waiting, 130 interrupted.
    """


cli.params += options.common()


def run(argv: Sequence[str]) -> int:
    """One command, to its exit code. Nothing but a bug leaves here as an exception."""
    try:
        code = cli.main(list(argv), prog_name="headgate", standalone_mode=False, color=wants_colour(True))
        return int(code) if isinstance(code, int) else Exit.OK
    except click.exceptions.Abort:
        return Exit.INTERRUPTED
    except KeyboardInterrupt:
        return Exit.INTERRUPTED
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except FindingsError as error:
        click.echo(str(error), err=True)
        missing = all(finding.code in NOT_FOUND_CODES for finding in error.findings)
        return Exit.NOT_FOUND if missing and error.findings else Exit.REFUSED
    except HeadgateError as error:
        click.echo(f"error: {error}", err=True)
        return Exit.REFUSED
    except BrokenPipeError:
        # The reader (`head`, a closed pager) has enough. Python would complain again while it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return Exit.REFUSED
    except OSError as error:
        click.echo(str(of_the_machine(error)), err=True)
        logging.getLogger(__name__).info("where it failed", exc_info=True)  # -v
        return Exit.REFUSED


def of_the_machine(error: OSError) -> Finding:
    """A full disk, a folder that is not ours: the machine says no, and that is no bug."""
    found = error.args[0][0][2] if isinstance(error, shutil.Error) else str(error.strerror or error)
    place = str(error.filename or "this machine")
    return Finding(
        code="machine-refuses",
        message=str(found),
        why="a file or folder could not be read or written",
        fix=REMEDIES.get(error.errno or 0, "look at its disk, its owner and its rights; -v says where it failed"),
        place=Place(place),
    )


def main() -> None:
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr, format="%(levelname)s %(name)s: %(message)s")
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")  # an icon must not end a command on an old terminal
    start.heard()
    sys.exit(run(sys.argv[1:]))


if __name__ == "__main__":
    main()
