"""The command line as Markdown, made from the commands themselves: docs/cli.md cannot say anything else."""

from __future__ import annotations

import inspect
from collections.abc import Iterator

import click

from headgate_console.exits import MEANING
from headgate_console.main import VERBS, cli


def markdown() -> str:
    """Exit codes, the options every command has, then every command."""
    return "\n".join([*exit_codes(), *common(), *commands()]) + "\n"


def exit_codes() -> Iterator[str]:
    yield from ("## Exit codes", "", "| code | means |", "|---|---|")
    yield from (f"| {code.value} | {meaning} |" for code, meaning in MEANING.items())
    yield ""


def common() -> Iterator[str]:
    yield from ("## Options of every command", "", "| option | |", "|---|---|")
    yield from (row(option) for option in options(cli) if option.name in ("no_color", "quiet", "verbose"))
    yield ""


def commands() -> Iterator[str]:
    context = click.Context(cli, info_name="headgate")
    for name in VERBS:
        command = cli.get_command(context, name)
        assert command is not None, f"{name} is listed, so its module has it"
        yield from one(command, f"headgate {name}")


def one(command: click.Command, path: str) -> Iterator[str]:
    yield from (f"## {path}", "", *explained(command), "")
    if isinstance(command, click.Group):
        for name, sub in command.commands.items():
            yield from one(sub, f"{path} {name}")
        return
    yield from ("```", usage(command, path), "```", "")
    own = [option for option in options(command) if option.name not in ("no_color", "quiet", "verbose")]
    if own:
        yield from ("| option | |", "|---|---|", *(row(option) for option in own), "")


def explained(command: click.Command) -> list[str]:
    text = inspect.cleandoc(command.help or "")
    return [line for line in text.splitlines() if line.strip() != "\b"]


def usage(command: click.Command, path: str) -> str:
    parts = command.collect_usage_pieces(click.Context(command, info_name=path))
    return " ".join([path, *parts])


def options(command: click.Command) -> list[click.Option]:
    return [p for p in command.params if isinstance(p, click.Option) and p.name not in ("help", "version")]


def row(option: click.Option) -> str:
    names = ", ".join(f"`{name}`" for name in option.opts)
    value = option.make_metavar(click.Context(cli)) if not (option.is_flag or option.count) else ""
    cells = (f"{names} `{value}`" if value else names, text_of(option))
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def text_of(option: click.Option) -> str:
    shown = option.show_default and option.default not in (None, "", False, ())
    return (option.help or "") + (f" Default: `{option.default}`." if shown else "")
