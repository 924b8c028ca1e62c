"""The HTTP server of a worker: uvicorn, less its handling of signals, with a door of our own for TLS.

Refuses to read requests: its protocol, which is given with the configuration, does.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Generator
from typing import Any, cast

import uvicorn

from headgate_router.tls import Certificate, Entrance


class Server(uvicorn.Server):
    """uvicorn's handling of signals would end the process before the last counts are delivered."""

    def __init__(self, config: uvicorn.Config, certificate: Certificate | None) -> None:
        super().__init__(config)
        self._certificate = certificate
        self._entrances: list[Entrance] = []

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        if self._certificate is None:
            return await super().startup(sockets)
        await super().startup([])
        for sock in sockets or []:
            # It closes, and is waited for, like the servers that uvicorn makes.
            self._entrances.append(Entrance(sock, self._certificate, self._protocol))
            self.servers.append(cast(Any, self._entrances[-1]))
        return None

    @property
    def unknown(self) -> int:
        """Connections that TLS did not let in."""
        return sum(entrance.refused for entrance in self._entrances)

    def _protocol(self) -> asyncio.Protocol:
        made: asyncio.Protocol = cast(Any, self.config.http_protocol_class)(
            config=self.config, server_state=self.server_state, app_state=self.lifespan.state
        )
        return made

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        yield
