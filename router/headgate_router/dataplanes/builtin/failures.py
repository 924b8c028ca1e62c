"""Why an upstream gave no whole answer."""

from __future__ import annotations


class UpstreamError(Exception):
    """No whole answer. The text says what happened, without any of the request's content."""


class Unreachable(UpstreamError):
    """No connection: nothing was sent."""


class Untrusted(Unreachable):
    """TLS came to nothing: one of the two does not trust the other. No request was sent."""


class Broken(UpstreamError):
    """The connection ended, or spoke something else than HTTP, before the answer was whole."""


class TimedOut(UpstreamError):
    """Nothing came for too long."""


class Abandoned(UpstreamError):
    """We ended it ourselves: the caller left."""
