"""The end of a dead replica's log, as its message shows it: pure, the same on every platform."""

from __future__ import annotations

LAST_LINES = 12  # in a message
MARK = "headgate: "  # how our front begins the line that says why it ends


def told(text: str) -> list[str]:
    """The last lines that say something."""
    return [line for line in text.splitlines() if line.strip()][-LAST_LINES:]


def message(how: str, lines: list[str]) -> str:
    """`how` it ended with its last line, then the lines before that, of its last start."""
    if not lines:
        return how
    return "\n".join([f"{how}: {lines[-1].removeprefix(MARK)}", *own_words(lines)])


def own_words(lines: list[str]) -> list[str]:
    """What the last of several starts said: the front ends each with a line of its own, and the last one is known."""
    ends = [index for index, line in enumerate(lines[:-1]) if line.startswith(MARK)]
    return lines[ends[-1] + 1 if ends else 0 : -1]
