"""Mutual TLS between routers and models: a folder with `tls.crt`, `tls.key` and `ca.crt`, as a mounted Secret has them.

Each side shows a certificate of that authority and asks the other one for its own: a router for one in the name
`models.headgate`, because replicas are dialled by address; a model for any whose use may be that of a client. TLS 1.3
alone, and no session is resumed, so that a certificate no longer trusted opens nothing. Files that changed count from
the next handshake on; open connections go on. Refuses to make certificates, and files that do not load: the last good
ones serve on.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable
from pathlib import Path

from headgate.findings import Finding, FindingsError, Place
from headgate_kit.followed import Followed, why

NAME = "models.headgate"  # what every model's certificate is for
CHAIN, KEY, AUTHORITY = "tls.crt", "tls.key", "ca.crt"

Make = Callable[[Path], ssl.SSLContext]


def client(folder: Path) -> ssl.SSLContext:
    """To dial models with: `server_hostname` is NAME. Raises FindingsError: the files cannot be used."""
    return _loaded(ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT), folder)


def server(folder: Path) -> ssl.SSLContext:
    """To answer routers with. Raises FindingsError: the files cannot be used."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.verify_mode = ssl.CERT_REQUIRED
    context.num_tickets = 0
    return _loaded(context, folder)


def _loaded(context: ssl.SSLContext, folder: Path) -> ssl.SSLContext:
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    file = folder / CHAIN
    try:
        context.load_cert_chain(file, folder / KEY, password="")  # of a locked key the terminal would be asked
        file = folder / AUTHORITY
        context.load_verify_locations(file)
    except (OSError, ValueError) as error:
        raise FindingsError(_unusable(folder, file, error)) from error
    return context


def _unusable(folder: Path, file: Path, error: Exception) -> Finding:
    lacking = [name for name in (CHAIN, KEY, AUTHORITY) if not (folder / name).is_file()]
    what = f"has no {', '.join(lacking)}" if lacking else f"has a {file.name} that does not load: {why(error)}"
    return Finding(
        code="models-tls",
        message=f"{folder} {what}",
        why="routers and models are to meet by mutual TLS, and neither goes on without it",
        fix=f"make the Secret with {CHAIN}, {KEY} (PEM, no password) and {AUTHORITY}: docs/cluster.md shows how",
        place=Place(str(folder)),
    )


class Identity(Followed):
    """The files of one side.

    Args:
        make: `client` or `server`.
    """

    def __init__(self, folder: Path, make: Make) -> None:
        """Raises FindingsError: the files cannot be used."""
        super().__init__(lambda: make(folder), folder, tuple(folder / name for name in (CHAIN, KEY, AUTHORITY)))
        self.folder = folder

    def door(self) -> ssl.SSLContext:
        """For a listening socket: each handshake goes by the files of its own time."""
        context = self._make()
        context.sni_callback = self._greet
        return context

    def _greet(self, opened: ssl.SSLObject, _name: str | None, _context: ssl.SSLContext) -> None:
        opened.context = self.context
