"""EndpointSlices in the API server for tests, and a resolver's event loop in a thread, for tests of several folders."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

from headgate_router.resolvers.endpointslices import Cluster
from kubeserver import KubeServer

T = TypeVar("T")
API, PLURAL, NAMESPACE = "discovery.k8s.io/v1", "endpointslices", "ml"


def ready(*addresses: str) -> list[dict[str, Any]]:
    """Endpoints of a slice, ready to be asked."""
    return [{"addresses": [urlsplit(a).hostname or a], "conditions": {"ready": True}} for a in addresses]


def put(
    server: KubeServer, service: str, endpoints: Sequence[Mapping[str, Any]], port: int = 8081, name: str = ""
) -> None:
    """The slice of a service, created or replaced."""
    body = {
        "metadata": {"name": name or f"{service}-x1", "labels": {"kubernetes.io/service-name": service}},
        "addressType": "IPv4",
        "endpoints": list(endpoints),
        "ports": [{"name": "http", "port": port, "protocol": "TCP"}],
    }
    server.put(API, PLURAL, body, NAMESPACE)


def cluster(server: KubeServer, folder: Path, **more: str) -> Cluster:
    token = folder / "token"
    token.write_text("a-token\n")
    return Cluster(server.url, token, None, **more)


@contextmanager
def running_loop() -> Iterator[Callable[[Callable[[], Any]], Any]]:
    """An event loop in a thread; runs functions and coroutines on it and answers their result."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="loop")
    thread.start()

    async def called(function: Callable[[], Any]) -> Any:
        result = function()
        return await result if asyncio.iscoroutine(result) else result

    try:
        yield lambda function: asyncio.run_coroutine_threadsafe(called(function), loop).result(20)
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()
