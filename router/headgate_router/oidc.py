"""The public keys of token issuers: fetched beside the requests, kept while the issuer is away.

A request never waits for an issuer. A token that names an unknown key is refused and hurries the next fetch, for keys
change; how often is bounded, for callers can make names up. Refuses plain HTTP but to this machine.
"""

from __future__ import annotations

import asyncio
import json
import logging
import random
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import httpx

from headgate.process import Issuer
from headgate_router.keyfile import KeyFile
from headgate_router.tokens import key_set

if TYPE_CHECKING:
    from joserfc.jwk import KeySet

log = logging.getLogger("headgate.router")

REFRESH_S = 300.0  # issuers show a key for hours before they sign with it
HURRY_S = 10.0  # least time between two fetches
PAUSE_S = (0.5, 60.0)  # after a failed one: first, most
TIMEOUT_S = 5.0
MAX_BYTES = 1024 * 1024  # of an answer
DISCOVERY = "/.well-known/openid-configuration"


class IssuerError(Exception):
    """Its keys could not be had; the text is for the log."""


@dataclass(slots=True)
class _Followed:
    task: asyncio.Task[None]
    hurry: asyncio.Event
    keys: KeySet | None = None  # None: not known yet


class Issuers:
    """Not thread-safe: one event loop."""

    def __init__(self, file: Path | None = None, clock: Callable[[], float] = time.time) -> None:
        """`file`: keeps the last keys for the next start; None: they are not. `clock`: wall clock."""
        self._clock = clock
        self._file = KeyFile(file)
        self._followed: dict[tuple[str, str], _Followed] = {}

    def keep(self, wanted: Iterable[Issuer]) -> None:
        """Follows these, and no others any more."""
        by_key = {_key(issuer): issuer for issuer in wanted}
        for key in self._followed.keys() - by_key.keys():
            self._followed.pop(key).task.cancel()
        for key in by_key.keys() - self._followed.keys():
            hurry = asyncio.Event()
            task = asyncio.get_running_loop().create_task(self._follow(by_key[key], hurry))
            kept = self._file.keys(" ".join(key), self._clock())
            self._followed[key] = _Followed(task, hurry, key_set(kept) if kept else None)

    def keys(self, issuer: Issuer) -> KeySet | None:
        """None: not known yet."""
        followed = self._followed.get(_key(issuer))
        return followed.keys if followed is not None else None

    def strange(self, issuer: Issuer) -> None:
        """A token named a key of it that is not known here."""
        followed = self._followed.get(_key(issuer))
        if followed is not None:
            followed.hurry.set()

    async def close(self) -> None:
        tasks = [followed.task for followed in self._followed.values()]
        self._followed.clear()
        for task in tasks:
            task.cancel()
        for task in tasks:
            with suppress(asyncio.CancelledError):
                await task

    async def _follow(self, issuer: Issuer, hurry: asyncio.Event) -> None:
        """Until cancelled."""
        pause = PAUSE_S[0]
        async with httpx.AsyncClient(timeout=TIMEOUT_S) as client:
            while True:
                try:
                    keys = await fetch(client, issuer)
                except IssuerError as error:
                    log.warning("the keys of %s: %s; those known stay", issuer.issuer, error)
                    await asyncio.sleep(pause * random.uniform(0.7, 1.3))
                    pause = min(pause * 2, PAUSE_S[1])
                    continue
                self._take(issuer, keys)
                public = keys.as_dict(private=False)["keys"]
                known = [" ".join(key) for key in self._followed]
                await self._file.keep(" ".join(_key(issuer)), public, self._clock(), known)
                pause = PAUSE_S[0]
                await asyncio.sleep(HURRY_S)
                with suppress(TimeoutError):
                    await asyncio.wait_for(hurry.wait(), REFRESH_S - HURRY_S)
                hurry.clear()

    def _take(self, issuer: Issuer, keys: KeySet) -> None:
        followed = self._followed.get(_key(issuer))
        # The same keys stay the same object: verified tokens are remembered by it.
        if followed is not None and (followed.keys is None or _names(followed.keys) != _names(keys)):
            followed.keys = keys
            log.info("%s signs with %d keys", issuer.issuer, len(keys.keys))


async def fetch(client: httpx.AsyncClient, issuer: Issuer) -> KeySet:
    """Raises IssuerError."""
    where = issuer.jwks
    if not where:
        said = await _json(client, issuer.issuer.rstrip("/") + DISCOVERY)
        if said.get("issuer") != issuer.issuer:
            raise IssuerError("its openid-configuration is of another issuer")
        where = str(said.get("jwks_uri", ""))
    listed = (await _json(client, where)).get("keys")
    if not isinstance(listed, list):
        raise IssuerError(f"{where} holds no keys")
    keys = key_set([entry for entry in listed if isinstance(entry, dict)])
    if not keys.keys:
        raise IssuerError(f"{where} holds no key that can be used")
    return keys


async def _json(client: httpx.AsyncClient, url: str) -> dict[str, Any]:
    try:
        parts = urlsplit(url)
        if parts.scheme != "https" and not (parts.scheme == "http" and parts.hostname in ("127.0.0.1", "localhost")):
            raise IssuerError(f"{url[:200]!r} is not https")
        async with client.stream("GET", url, headers={"accept": "application/json"}) as answer:
            if answer.status_code != 200:
                raise IssuerError(f"{url} answered {answer.status_code}")
            body = b""
            async for chunk in answer.aiter_bytes():
                body += chunk
                if len(body) > MAX_BYTES:
                    raise IssuerError(f"{url} answered too much")
        value = json.loads(body)
    except (httpx.HTTPError, httpx.InvalidURL, ValueError, RecursionError) as error:
        raise IssuerError(f"{url}: {type(error).__name__}: {error}") from error
    if not isinstance(value, dict):
        raise IssuerError(f"{url} answered no object")
    return value


def _key(issuer: Issuer) -> tuple[str, str]:
    return issuer.issuer, issuer.jwks


def _names(keys: KeySet) -> set[str]:
    return {key.thumbprint() for key in keys.keys}
