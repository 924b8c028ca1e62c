"""What a person sees while the story is told: lines that stay, and on a terminal one line that moves."""

from __future__ import annotations

import sys
import time

import click

from headgate_console.print import bold, dim, width

CLEAR = "\r\033[K"


class Screen:
    """Everything goes to stderr; stdout is for the closing table. `quiet`: nothing is said."""

    def __init__(self, quiet: bool = False) -> None:
        self._quiet = quiet
        self._moves = sys.stderr.isatty() and not quiet
        self._start = time.monotonic()

    def chapter(self, number: int, title: str) -> None:
        self._print("")
        self._print(bold(f"{number}  {title}"))

    def line(self, text: str) -> None:
        for part in text.splitlines():
            self._print(f"{dim(f'{time.monotonic() - self._start:6.1f}s')}  {part}")

    def tick(self, text: str) -> None:
        """What is true just now; replaced by whatever is said next."""
        if self._moves:
            columns = _columns()
            shown = text if width(text) < columns else click.unstyle(text)[: columns - 1]
            click.echo(f"{CLEAR}{shown}", err=True, nl=False)

    def _print(self, text: str) -> None:
        if not self._quiet:
            click.echo(f"{CLEAR if self._moves else ''}{text}", err=True)


def _columns() -> int:
    import shutil

    return shutil.get_terminal_size().columns
