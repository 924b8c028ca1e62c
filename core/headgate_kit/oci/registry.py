"""One image registry over HTTP: manifests, blobs, uploads that carry on where they broke off.

Errors say what to do next: `TransientError` (away, overloaded; tried several times already), `TerminalError` (it says
no: a finding `registry-refused` with its own words). Refuses content whose digest is another, to send credentials
anywhere but to the registry and to the token service it names, and to follow an upload to another scheme.

Source: OCI distribution specification 1.1; the token flow is Docker's.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar
from urllib.parse import urlsplit

import httpx

from headgate.findings import Finding, Place, TerminalError, TransientError
from headgate_kit.files import FULL, DiskFull
from headgate_kit.oci import credentials, image
from headgate_kit.oci.credentials import HUB, Login

HUB_API = "registry-1.docker.io"
TIMEOUT = httpx.Timeout(60.0, connect=10.0)  # between two bytes, not of a whole blob
PAUSES_S = (0.5, 1.0, 2.0, 4.0, 8.0)  # between tries; a Retry-After counts if it is not longer than PATIENCE_S
PATIENCE_S = 60.0
CHUNK = 1 << 20
MANIFEST_LIMIT = 4 << 20  # bytes; the specification's own
HOPS = 6  # redirects and challenges of one request
WORDS = 300  # characters of a registry's refusal that are told
NAMES = 10_000  # tags or repositories of one answer that are read

T = TypeVar("T")


class Missing(TerminalError):
    """The registry does not have it."""


@dataclass(frozen=True, slots=True)
class Manifest:
    content: bytes
    media_type: str
    digest: str


class _Broken(Exception):
    """An attempt that may be repeated."""

    def __init__(self, words: str, after_s: float | None = None) -> None:
        super().__init__(words)
        self.after_s = after_s


class Registry:
    """Thread-compatible: one at a time.

    Args:
        address: HOST:PORT to reach it by; empty: its own name.
        insecure: plain HTTP.
        pause: how it waits between tries, seconds.
        tries: the waits between tries, in seconds; None: PAUSES_S.
    """

    def __init__(
        self,
        host: str,
        login: Login | None = None,
        *,
        address: str = "",
        insecure: bool = False,
        pause: Callable[[float], None] = time.sleep,
        tries: tuple[float, ...] | None = None,
    ) -> None:
        self.host = host
        self._scheme = "http" if insecure else "https"
        self._root = f"{self._scheme}://{address or (HUB_API if host == HUB else host)}"
        self._login = login or Login()
        self._pause = pause
        self._tries = tries
        self._authorization: dict[tuple[str, ...], str] = {}
        self._client = httpx.Client(timeout=TIMEOUT)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._client.close()

    # --- manifests ------------------------------------------------------------------------------------------------

    def manifest(self, name: str, version: str) -> Manifest | None:
        """By tag or digest. None: there is none."""
        path = f"/v2/{name}/manifests/{version}"
        answer = self._ask("GET", path, _pull(name), {"Accept": image.ACCEPT}, missing=True)
        if answer is None:
            return None
        if len(answer.content) > MANIFEST_LIMIT:
            raise TerminalError(f"the manifest {name}:{version} is longer than {MANIFEST_LIMIT} bytes")
        found = image.digest(answer.content)
        if version.startswith("sha256:") and found != version:
            raise TransientError(f"{self.host} answers another manifest than {name}@{version}")
        return Manifest(answer.content, answer.headers.get("content-type", "").partition(";")[0], found)

    def put_manifest(self, name: str, version: str, content: bytes) -> str:
        """Its digest. Comes last: what it names must be there."""
        headers = {"Content-Type": image.MANIFEST}
        self._ask("PUT", f"/v2/{name}/manifests/{version}", _push(name), headers, content=content)
        return image.digest(content)

    # --- what there is --------------------------------------------------------------------------------------------

    def tags(self, name: str) -> tuple[str, ...]:
        """Empty: there is no such repository."""
        answer = self._ask("GET", f"/v2/{name}/tags/list", _pull(name), query={"n": str(NAMES)}, missing=True)
        return _texts(answer, "tags")

    def repositories(self) -> tuple[str, ...]:
        """As many as it tells in one answer. Raises TerminalError: most registries tell nobody."""
        answer = self._ask("GET", "/v2/_catalog", ("registry:catalog:*",), query={"n": str(NAMES)}, missing=True)
        return _texts(answer, "repositories")

    # --- blobs ----------------------------------------------------------------------------------------------------

    def has_blob(self, name: str, digest: str) -> bool:
        return self._ask("HEAD", f"/v2/{name}/blobs/{digest}", _push(name), missing=True) is not None

    def fetch(self, name: str, digest: str, into: Path) -> int:
        """Downloads a blob into a file; its size. Raises Missing."""
        return self._patiently(lambda: self._fetch(name, digest, into))

    def put(self, name: str, content: bytes, digest: str) -> None:
        """A small blob in one go, unless it is there."""
        if not self.has_blob(name, digest):
            self._finish(self._begin(name), name, digest, content)

    def mount(self, name: str, digest: str, origin: str) -> bool:
        """Takes a blob over from another repository of this registry; False: it has to be uploaded."""
        if self.has_blob(name, digest):
            return True
        scopes = (*_push(name), *_pull(origin))
        answer = self._ask(
            "POST", f"/v2/{name}/blobs/uploads/", scopes, query={"mount": digest, "from": origin}, missing=True
        )
        return answer is not None and answer.status_code == 201

    def upload(self, name: str, file: Path, digest: str) -> None:
        """A file as a blob, unless it is there. A connection that breaks is taken up where the registry stands."""
        if self.has_blob(name, digest):
            return
        size = file.stat().st_size
        location, sent = self._begin(name), 0
        tries = self._new_tries()
        while sent < size:
            try:
                location = self._send(location, name, file, sent, size)
                sent = size
            except _Broken as broken:
                self._rest(tries, broken)
                location, sent = self._standing(location, name)
        self._finish(location, name, digest)

    def _finish(self, location: str, name: str, digest: str, content: bytes = b"") -> None:
        try:
            self._ask("PUT", location, _push(name), _OCTETS, query={"digest": digest}, content=content)
        except Missing:
            # The answer to an earlier try was lost: the upload is closed, and the blob is there.
            if not self.has_blob(name, digest):
                raise TransientError(str(_unreachable(self.host, "it forgot an upload")), retry_after_s=5.0) from None

    def _begin(self, name: str) -> str:
        answer = self._ask("POST", f"/v2/{name}/blobs/uploads/", _push(name))
        assert answer is not None
        return self._location(answer)

    def _send(self, location: str, name: str, file: Path, start: int, size: int) -> str:
        headers = {**_OCTETS, "Content-Length": str(size - start)}
        if start:  # the first one goes without: some registries take a range for the beginning of many small pieces
            headers["Content-Range"] = f"{start}-{size - 1}"
        answer = self._once("PATCH", location, _push(name), headers, content=lambda: _pieces(file, start))
        if answer.status_code in (404, 416):
            raise _Broken("the upload does not stand where we are")
        return self._location(self._good(answer))

    def _standing(self, location: str, name: str) -> tuple[str, int]:
        """Where an upload that broke off stands; a new one from the start when the registry forgot it."""
        answer = self._ask("GET", location, _push(name), missing=True)
        if answer is None:
            return self._begin(name), 0
        last = answer.headers.get("range", "").partition("-")[2]
        return self._location(answer), int(last) + 1 if last.isdigit() and last != "0" else 0

    def _fetch(self, name: str, digest: str, into: Path) -> int:
        url, headers = f"{self._root}/v2/{name}/blobs/{digest}", self._headers(_pull(name))
        hashed, size = hashlib.sha256(), 0
        try:
            # A redirect leads to a store elsewhere: httpx leaves our Authorization behind.
            with self._client.stream("GET", url, headers=headers, follow_redirects=True) as answer:
                if answer.status_code == 401 and self._answer(answer, _pull(name)):
                    raise _Broken("its token had ended", after_s=0.0)
                if answer.status_code != 200:
                    answer.read()
                    self._good(answer)
                with into.open("wb") as file:
                    for piece in answer.iter_bytes(CHUNK):
                        hashed.update(piece)
                        size += file.write(piece)
        except httpx.HTTPError as error:
            raise _Broken(type(error).__name__) from error
        except OSError as error:
            if error.errno in FULL:
                raise DiskFull(into) from error
            raise
        if f"sha256:{hashed.hexdigest()}" != digest:
            raise _Broken(f"another content than {digest}")
        return size

    # --- asking ---------------------------------------------------------------------------------------------------

    def _ask(
        self,
        method: str,
        path: str,
        scopes: tuple[str, ...],
        headers: Mapping[str, str] | None = None,
        *,
        query: Mapping[str, str] | None = None,
        content: bytes = b"",
        missing: bool = False,
    ) -> httpx.Response | None:
        """A request that may be repeated. None: 404, where `missing` allows it."""

        def ask() -> httpx.Response | None:
            answer = self._once(method, path, scopes, headers or {}, query, lambda: content)
            return None if missing and answer.status_code == 404 else self._good(answer)

        return self._patiently(ask)

    def _patiently(self, ask: Callable[[], T]) -> T:
        tries = self._new_tries()
        while True:
            try:
                return ask()
            except _Broken as broken:
                self._rest(tries, broken)

    def _new_tries(self) -> Iterator[float]:
        return iter(PAUSES_S if self._tries is None else self._tries)

    def _rest(self, tries: Iterator[float], broken: _Broken) -> None:
        """Waits before the next try, or gives up."""
        pause = next(tries, None)
        if pause is None:
            raise TransientError(str(_unreachable(self.host, str(broken))), retry_after_s=5.0) from broken
        self._pause(min(broken.after_s, PATIENCE_S) if broken.after_s is not None else pause)

    def _once(
        self,
        method: str,
        where: str,
        scopes: tuple[str, ...],
        headers: Mapping[str, str],
        query: Mapping[str, str] | None = None,
        content: Callable[[], Any] = lambda: b"",
    ) -> httpx.Response:
        """One request; again where it is sent to, and again when the registry asks who we are."""
        url = httpx.URL(where if "://" in where else self._root + where)
        if query:
            url = url.copy_merge_params(query)
        said = False
        for _ in range(HOPS):
            ours = self._ours(str(url))
            sent = {**headers, **(self._headers(scopes) if ours else {})}
            try:
                # By hand: a body that is streamed has to be opened anew, and credentials stay with the registry.
                answer = self._client.request(method, url, headers=sent, content=content())
            except httpx.HTTPError as error:
                raise _Broken(type(error).__name__) from error
            if answer.has_redirect_location:
                url = httpx.URL(self._location(answer, url))
            elif answer.status_code == 401 and ours and not said and self._answer(answer, scopes):
                said = True
            else:
                return answer
        raise TerminalError(f"{self.host} sends {method} requests from one place to another without end")

    def _good(self, answer: httpx.Response) -> httpx.Response:
        status = answer.status_code
        if status == 429 or status >= 500:
            after = answer.headers.get("retry-after", "")
            raise _Broken(f"it answers {status}", float(after) if after.isdigit() else None)
        if status >= 400:
            raise (Missing if status == 404 else TerminalError)(str(self._refused(answer)))
        return answer

    def _location(self, answer: httpx.Response, at: httpx.URL | None = None) -> str:
        """Where it goes on. Behind a proxy a registry may not know that it is spoken to by TLS."""
        url = (at or httpx.URL(self._root)).join(answer.headers["location"])
        if url.scheme != self._scheme and self._ours(str(url.copy_with(scheme=self._scheme))):
            url = url.copy_with(scheme=self._scheme)
        if url.scheme != self._scheme:
            raise TerminalError(f"{self.host} sends us on to another scheme, {url.scheme}")
        return str(url)

    def _ours(self, url: str) -> bool:
        return urlsplit(url)[:2] == urlsplit(self._root)[:2]

    # --- who we are -----------------------------------------------------------------------------------------------

    def _headers(self, scopes: tuple[str, ...]) -> dict[str, str]:
        known = self._authorization.get(scopes, "")
        return {"Authorization": known} if known else {}

    def _answer(self, refusal: httpx.Response, scopes: tuple[str, ...]) -> bool:
        """Answers a challenge; False: there is nothing more to say than was said."""
        asked = credentials.challenge(refusal.headers.get("www-authenticate", ""))
        before = self._authorization.get(scopes, "")
        if asked.scheme == "basic":
            self._authorization[scopes] = self._login.basic
        elif asked.scheme == "bearer" and asked.parameters.get("realm"):
            self._authorization[scopes] = f"Bearer {self._token(asked.parameters, scopes)}"
        return self._authorization.get(scopes, "") not in ("", before)

    def _token(self, asked: Mapping[str, str], scopes: tuple[str, ...]) -> str:
        realm, service = asked["realm"], asked.get("service", "")
        if self._scheme == "https" and not realm.startswith("https://"):
            raise TerminalError(f"{self.host} names a token service without TLS: no credentials are sent there")
        try:
            if self._login.refresh:
                form = {"grant_type": "refresh_token", "service": service, "scope": " ".join(scopes)}
                form |= {"client_id": "headgate", "refresh_token": self._login.refresh}
                answer = self._client.post(realm, data=form)
            else:
                basic = {"Authorization": self._login.basic} if self._login.basic else {}
                query = [*([("service", service)] if service else []), *(("scope", one) for one in scopes)]
                url = httpx.URL(realm)
                answer = self._client.get(url.copy_with(params=[*url.params.multi_items(), *query]), headers=basic)
        except httpx.HTTPError as error:
            raise _Broken(f"its token service: {type(error).__name__}") from error
        found = self._good(answer).json()
        return str(found.get("token") or found.get("access_token") or "")

    def _refused(self, answer: httpx.Response) -> Finding:
        try:
            said = "; ".join(str(e.get("message") or e.get("code")) for e in answer.json()["errors"])
        except (ValueError, KeyError, TypeError, AttributeError):
            said = ""
        request = answer.request
        asked = f"{request.method} {request.url.path}"
        who = (
            "with the credentials of config.json" if self._login.user or self._login.refresh else "without credentials"
        )
        return Finding(
            code="registry-refused",
            message=f"{self.host} answers {answer.status_code} to {asked}{': ' if said else ''}{said[:WORDS]}",
            why=f"it was asked {who}",
            fix="give the build a pull and push secret of this registry (docs/images.md), or correct the name",
            place=Place(self.host),
        )


_OCTETS = {"Content-Type": "application/octet-stream"}


def _pull(name: str) -> tuple[str, ...]:
    return (f"repository:{name}:pull",)


def _push(name: str) -> tuple[str, ...]:
    return (f"repository:{name}:pull,push",)


def _texts(answer: httpx.Response | None, key: str) -> tuple[str, ...]:
    """A list of texts in an answer; anything else is as good as none."""
    try:
        found = answer.json()[key] if answer is not None else None
    except (ValueError, KeyError, TypeError):
        found = None
    return tuple(text for text in found if isinstance(text, str)) if isinstance(found, list) else ()


def _pieces(file: Path, start: int) -> Iterator[bytes]:
    with file.open("rb") as source:
        source.seek(start)
        while piece := source.read(CHUNK):
            yield piece


def _unreachable(host: str, words: str) -> Finding:
    return Finding(
        code="registry-unreachable",
        message=f"the registry {host} cannot be used now: {words}",
        why="images are pushed to it and found in it",
        fix="check the network from the build's pod to it; it is tried again",
        place=Place(host),
    )
