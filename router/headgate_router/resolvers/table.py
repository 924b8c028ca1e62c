"""Replicas as the route table lists them: for platforms whose controller tells routers each change."""

from __future__ import annotations

from collections.abc import Callable

from headgate.table import RouteRevision


class Table:
    def follow(self, revision: RouteRevision, heard: Callable[[tuple[str, ...]], None]) -> Callable[[], None]:
        """Tells what the row says, once: other addresses are another row."""
        heard(tuple(sorted(set(revision.upstreams))))
        return _nothing_to_end

    async def close(self) -> None:
        """Nothing is held."""


def _nothing_to_end() -> None:
    return
