"""A new connection to a model: by TCP, or by mutual TLS with somebody who has shown that both sides trust each other.

Refuses to tell what cannot be an address from an address where nobody is: either way no request was sent.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable
from typing import Final, TypeVar, cast

from headgate_router.dataplanes.builtin.client import Connection
from headgate_router.dataplanes.builtin.failures import TimedOut, Unreachable, Untrusted, UpstreamError

_GREETING: Final = (
    b"GET / HTTP/1.1\r\nhost: %b\r\n\r\n"  # liveness: answered by every model server, and by none of its models
)

C = TypeVar("C", bound=Connection)


async def connect(
    host: str,
    port: int,
    timeout_s: float,
    made: Callable[[asyncio.AbstractEventLoop], C],
    context: ssl.SSLContext | None = None,
    name: str | None = None,
) -> C:
    """A new connection, of the kind `made`; `context`: by TLS, to a server of that name.

    Raises: Unreachable; Untrusted: the server's certificate was refused.
    """
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(timeout_s):
            _, opened = await loop.create_connection(
                lambda: cast(asyncio.Protocol, made(loop)), host, port, ssl=context, server_hostname=name
            )
    except TimeoutError as error:
        raise Unreachable(f"no connection within {timeout_s:g} s") from error
    except ssl.SSLError as error:
        why = getattr(error, "verify_message", "") or error.reason or "no TLS"
        raise Untrusted(f"its certificate was refused: {why}") from error
    except OSError as error:
        raise Unreachable(f"no connection: {error.strerror or 'refused'}") from error
    except (ValueError, OverflowError) as error:  # a name that DNS cannot hold, a port that is none
        raise Unreachable("no connection: nobody has such an address") from error
    return cast(C, opened)


async def meet(
    host: str,
    port: int,
    timeout_s: float,
    made: Callable[[asyncio.AbstractEventLoop], C],
    context: ssl.SSLContext,
    name: str,
) -> C:
    """The same by TLS, to a server that has shown a certificate of that name and has taken ours.

    The latter is known by its first answer alone: in TLS 1.3 the client's side of a handshake ends before the server
    has looked at its certificate. So it is greeted; a request after that was refused by nobody's TLS.

    Raises: Unreachable; Untrusted: one of the two does not trust the other.
    """
    connection = await connect(host, port, timeout_s, made, context, name)
    if await _greeted(connection, name, timeout_s):
        return connection
    return await connect(host, port, timeout_s, made, context, name)  # it answers once a connection, and knows us now


async def _greeted(connection: Connection, name: str, timeout_s: float) -> bool:
    """Whether it can be used on."""
    connection.start(_GREETING % name.encode(), b"", timeout_s=timeout_s)
    try:
        async with asyncio.timeout(timeout_s):
            while await connection.read():
                pass
    except (TimedOut, TimeoutError) as error:
        raise Unreachable(f"no greeting within {timeout_s:g} s") from error
    except UpstreamError as error:
        raise Untrusted("it ended the handshake: it does not take this router's certificate, or it ends") from error
    finally:
        if not connection.reusable:
            connection.abort()
    if not connection.reusable:
        return False
    connection.finish(0.0)
    connection.used = 0
    return True
