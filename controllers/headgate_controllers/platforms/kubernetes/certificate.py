"""Whether the controller can meet replicas that ask for mutual TLS, said before a smoke test finds out.

Refuses to read a Secret: what is looked at are the files it is mounted as.
"""

from __future__ import annotations

from pathlib import Path

from headgate.findings import Finding, FindingsError, Place
from headgate_kit import identity


def lacks(secret: str, folder: str) -> tuple[Finding, ...]:
    """Args:
    secret: what new replicas speak TLS by; empty: they speak plain HTTP.
    folder: where the controller's own certificate is.
    """
    if not secret:
        return ()
    if not folder:
        return (
            Finding(
                "models-tls",
                f"replicas ask for mutual TLS (Secret {secret}), and the controller has no certificate to show",
                "no smoke test is answered, so no rollout goes on",
                "set the chart's `models.tls.clientSecret` beside `serverSecret`",
                Place("controller"),
            ),
        )
    try:
        identity.client(Path(folder))
    except FindingsError as error:
        return tuple(error.findings)
    return ()
