"""What is wrong, where, why, and how to fix it: as data.

Every failure a user can cause is a `Finding`. Text, JSON and review notes are renderers of it (`report.py`);
nothing here prints. Exceptions carry findings upward; their type says who must act next.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum

QUOTED = 80  # characters


class Severity(StrEnum):
    ERROR = "error"  # the commit is not acted on; the last good state serves on
    WARNING = "warning"  # said once, acted on all the same


@dataclass(frozen=True, slots=True, order=True)
class Place:
    """A position in a file, or a live object. Lines and columns count from 1; 0 means the whole file."""

    file: str  # path relative to the repository root, or `kind name @ revision` for a live object
    line: int = 0
    column: int = 0

    def __post_init__(self) -> None:
        if not is_text(self.file):
            object.__setattr__(self, "file", shown(self.file))

    def __str__(self) -> str:
        return f"{self.file}:{self.line}:{self.column}" if self.line else self.file


@dataclass(frozen=True, slots=True)
class Finding:
    code: str  # stable: a heading in docs/findings.md and a metric label
    message: str
    why: str
    fix: str
    place: Place
    severity: Severity = Severity.ERROR

    def __post_init__(self) -> None:
        for name in ("message", "why", "fix"):
            if not is_text(text := getattr(self, name)):
                object.__setattr__(self, name, shown(text))

    @property
    def is_error(self) -> bool:
        return self.severity is Severity.ERROR

    def __str__(self) -> str:
        head = f"{self.place}: {self.severity}[{self.code}]: {self.message}"
        rest = [f"  {label}: {text}" for label, text in (("why", self.why), ("fix", self.fix)) if text]
        return "\n".join([head, *rest])


def is_text(text: str) -> bool:
    """Whether it can be written down: names in git may be bytes that are no UTF-8, here half of a surrogate pair."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def shown(text: str) -> str:
    """With what is no text as escapes: it can be stored, sent and printed."""
    try:
        return text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    except UnicodeEncodeError:
        return text.encode("utf-8", "backslashreplace").decode()


def cut(text: str) -> str:
    """What an author wrote, as a message quotes it."""
    return text if len(text) <= QUOTED else text[: QUOTED - 1] + "…"


def in_order(findings: Iterable[Finding]) -> tuple[Finding, ...]:
    """Sorted by position, exact repeats removed: the order a person reads a file in."""
    unique = dict.fromkeys(findings)
    return tuple(sorted(unique, key=lambda f: (f.place, f.code, f.message)))


class HeadgateError(Exception):
    """Everything we raise on purpose."""


class FindingsError(HeadgateError):
    """Carries findings. `str()` of it is what a person reads."""

    def __init__(self, *findings: Finding) -> None:
        self.findings: Sequence[Finding] = in_order(findings)
        super().__init__("\n".join(str(f) for f in self.findings))


class SpecError(FindingsError):
    """The author of the file must act."""


class PolicyDenied(FindingsError):
    """A gate or an admission rule is closed."""


class TransientError(HeadgateError):
    """Worth trying again by itself."""

    def __init__(self, message: str, retry_after_s: float = 1.0) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class TerminalError(HeadgateError):
    """Trying again changes nothing; somebody must look."""


class ConflictError(HeadgateError):
    """Somebody else wrote first: read again, decide again."""
