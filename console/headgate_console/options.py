"""What every command has in common: its options, its output formats, and how it fails. One place, so all agree."""

from __future__ import annotations

import difflib
import logging
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import click

from headgate_console import print as out

F = TypeVar("F", bound=Callable[..., Any])
QUIET, VERBOSE = "headgate.quiet", "headgate.verbose"
COMPLETE_WITHIN_S = 1.0  # a person waits with a half-typed name
CONTROL, TOKEN_FILE = "headgate.control", "headgate.token-file"


def _colour(ctx: click.Context, _: click.Parameter, off: bool) -> None:
    if off:
        ctx.find_root().color = ctx.color = False


def _flag(key: str) -> Callable[[click.Context, click.Parameter, int], None]:
    def keep(ctx: click.Context, _: click.Parameter, value: int) -> None:
        ctx.meta[key] = max(int(value), ctx.meta.get(key, 0))
        if key == VERBOSE and value:
            logging.getLogger().setLevel(logging.DEBUG if value > 1 else logging.INFO)

    return keep


def common() -> list[click.Parameter]:
    """Understood before and after the verb, as people type them."""
    return [
        click.Option(
            ["--no-color"],
            is_flag=True,
            expose_value=False,
            callback=_colour,
            help="Plain text. NO_COLOR does the same.",
        ),
        click.Option(
            ["-q", "--quiet"], is_flag=True, expose_value=False, callback=_flag(QUIET), help="Only results and errors."
        ),
        click.Option(
            ["-v", "--verbose"],
            count=True,
            expose_value=False,
            callback=_flag(VERBOSE),
            help="Say more; twice for most.",
        ),
    ]


def first_clause(text: str, limit: int) -> str:
    """What fits in a list of commands: the first sentence, or as much of it as stands alone."""
    first = " ".join(text.partition("\n\n")[0].split())
    for end in (r"\.(?: |$)", r"[:;](?: |$)", r",(?: |$)"):
        first = re.split(end, first)[0]
        if len(first) <= limit:
            return first
    return first[: limit - 1] + "…"


class Verb(click.Command):
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.params += common()

    def get_short_help_str(self, limit: int = 45) -> str:
        return first_clause(self.help or "", limit)


class Noun(click.Group):
    command_class = Verb

    def get_short_help_str(self, limit: int = 45) -> str:
        return first_clause(self.help or "", limit)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError as error:
            near = difflib.get_close_matches(args[0], self.list_commands(ctx), n=1)
            if not near:
                raise
            raise click.UsageError(f"{error.message} Did you mean {near[0]!r}?", ctx) from error


def verb(name: str | None = None) -> Callable[[Callable[..., Any]], Verb]:
    return click.command(name, cls=Verb)


def endpoint(**more: Any) -> Callable[[F], F]:
    """The ENDPOINT of a verb; a shell completes its name."""
    return click.argument("endpoint", shell_complete=_names, **more)


def _names(ctx: click.Context, _: click.Parameter, incomplete: str) -> list[str]:
    """What the controller serves; where none answers, what lies in the nearest endpoints/."""
    from headgate.findings import FindingsError
    from headgate_console.connect import open_control
    from headgate_console.ground import above

    try:
        control = open_control(ctx.params.get("data"))
        control.timeout_s = COMPLETE_WITHIN_S
        known = [one.name for one in control.system().endpoints]
    except FindingsError:
        root = above(Path.cwd(), "endpoints")
        known = [folder.name for folder in root.glob("endpoints/*/")] if root else []
    return sorted(name for name in known if name.startswith(incomplete))


def output(*formats: str, default: str = "table") -> Callable[[F], F]:
    return click.option(
        "-o", "--output", type=click.Choice(formats or out.OUTPUTS), default=default, show_default=True, help="Format."
    )


def data() -> Callable[[F], F]:
    """Which Headgate: the function gets `data`; `remote()` tells the rest."""

    def decorated(function: F) -> F:
        for option in reversed(_DOORS):
            function = option(function)
        return function

    return decorated


def _kept(key: str) -> Callable[[click.Context, click.Parameter, str], None]:
    def keep(ctx: click.Context, _: click.Parameter, value: str) -> None:
        ctx.meta[key] = value

    return keep


_DOORS = (
    click.option(
        "--data",
        metavar="DIR",
        help="Data folder of the running Headgate. Default: $HEADGATE_DATA, else the nearest .headgate from here up.",
    ),
    click.option(
        "--control",
        metavar="URL",
        default="",
        expose_value=False,
        callback=_kept(CONTROL),
        help="Control API instead of a data folder. Default: $HEADGATE_CONTROL.",
    ),
    click.option(
        "--token-file",
        metavar="FILE",
        default="",
        expose_value=False,
        callback=_kept(TOKEN_FILE),
        help="With --control: its token. Default: $HEADGATE_TOKEN_FILE.",
    ),
)


def remote() -> tuple[str, str]:
    """--control and --token-file of the command that runs; empty: not given."""
    context = click.get_current_context(silent=True)
    return (context.meta.get(CONTROL, ""), context.meta.get(TOKEN_FILE, "")) if context else ("", "")


def quiet() -> bool:
    context = click.get_current_context(silent=True)
    return bool(context and context.meta.get(QUIET))


def verbose() -> bool:
    context = click.get_current_context(silent=True)
    return bool(context and context.meta.get(VERBOSE))


def note(text: str) -> None:
    """To stderr: progress and what was done; silenced by -q."""
    if not quiet():
        click.echo(text, err=True)


def emit(
    document: Mapping[str, Any],
    output: str,
    people: Callable[[], Iterable[str]],
    names: Iterable[str] = (),
) -> None:
    """One result in the format asked for. stdout gets this and nothing else.

    Args:
        people: the lines of `table` and `wide`; not called for the others.
        names: the lines of `-o name`, as `kind/name`.
    """
    if output == "name":
        lines: Iterable[str] = names
    elif output in ("json", "yaml"):
        lines = [out.machine(document, output)]
    else:
        lines = people()
    for line in lines:
        click.echo(line)
