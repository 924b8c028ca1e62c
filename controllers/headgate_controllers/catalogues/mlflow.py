"""Models of an MLflow registry, over its REST API: a registered model, its versions, its aliases as labels.

Artefacts are read through the tracking server (`mlflow server --serve-artifacts`, its default), which needs nothing of
the store behind it. A version whose artefacts lie elsewhere is refused with what to do. MLflow has no digests: a file's
mark is the version's own record (its run, source and time), which is never written anew, and its size.

Source: MLflow 2 and 3, REST API 2.0 and its artefact proxy.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import httpx

from headgate import codec
from headgate.findings import TerminalError, TransientError
from headgate.process import CatalogueSource
from headgate_controllers.catalogues.references import LATEST
from headgate_controllers.catalogues.shelf import MAX_DEPTH, MAX_FILES, Item, Shelf

API, PROXY = "/api/2.0/mlflow", "/api/2.0/mlflow-artifacts/artifacts"
TIMEOUT = httpx.Timeout(30.0, connect=3.0)
NO_POOL = httpx.Limits(max_keepalive_connections=0)  # asked now and then: nothing is left open in between
PAGE = 200
PAGES = 50
ANSWER_LIMIT = 16 << 20  # bytes of one answer that is not a file
CHUNK = 1 << 20
WORDS = 200
READY = "READY"
_ARTEFACTS = re.compile(r"mlflow-artifacts:(//[^/]*)?/(?P<path>.*)")


class Registry:
    """A `Store`."""

    def __init__(self, source: CatalogueSource, credentials: Mapping[str, str]) -> None:
        if urlsplit(source.url).scheme not in ("http", "https") or not urlsplit(source.url).netloc:
            raise TerminalError(f"{source.url} is not the http or https URL of a tracking server")
        self.where = source.url
        basic = (credentials["username"], credentials.get("password", "")) if "username" in credentials else None
        token = {"Authorization": f"Bearer {credentials['token']}"} if "token" in credentials else {}
        # Nowhere else is followed to: what is sent along is for this host.
        self._client = httpx.Client(
            base_url=source.url, timeout=TIMEOUT, auth=basic, headers=token, follow_redirects=False, limits=NO_POOL
        )

    def names(self) -> list[str]:
        pages = self._pages("/registered-models/search", "registered_models", {})
        return sorted(str(one.get("name", "")) for one in pages)

    def versions(self, name: str) -> set[str]:
        pages = self._pages("/model-versions/search", "model_versions", {"filter": f"name='{name}'"})
        return {str(one["version"]) for one in pages if one.get("status", READY) == READY and one.get("name") == name}

    def labels(self, name: str) -> Mapping[str, str]:
        """Aliases; `latest` is MLflow's own word for the highest version."""
        model = self._ask(f"{API}/registered-models/get", {"name": name})["registered_model"]
        aliases = {str(one["alias"]): str(one["version"]) for one in model.get("aliases") or ()}
        return {alias: version for alias, version in aliases.items() if alias != LATEST}

    def items(self, name: str, version: str) -> list[Item]:
        asked = {"name": name, "version": version}
        record = self._ask(f"{API}/model-versions/get", asked)["model_version"]
        kept = [record.get(key, "") for key in ("name", "version", "run_id", "source", "creation_timestamp")]
        mark, top = codec.digest([str(value) for value in kept]), self._artefacts(asked)
        found: list[Item] = []
        for path, size in self._walk(top, "", 0):
            found.append(Item(path, size, mark))
            if len(found) > MAX_FILES:
                break
        return found

    def copy(self, name: str, version: str, item: Item, into: Path) -> None:
        top = self._artefacts({"name": name, "version": version})
        url, size = f"{PROXY}/{quote(f'{top}/{item.path}')}", 0
        try:
            with self._client.stream("GET", url) as answer, (into / item.path).open("wb") as file:
                if answer.status_code != 200:
                    answer.read()
                    self._good(answer)
                for piece in answer.iter_bytes(CHUNK):
                    size += file.write(piece)
                    if size > item.size:
                        break
        except httpx.HTTPError as error:
            raise TransientError(f"{self.where} broke off: {type(error).__name__}", retry_after_s=5.0) from error
        if size != item.size:
            raise LookupError(f"{name}:{version} in {self.where}: {item.path} has not the {item.size:,} bytes listed")

    def _artefacts(self, asked: Mapping[str, str]) -> str:
        """Where the version's files are, for the proxy. Raises TerminalError: it does not have them."""
        uri = str(self._ask(f"{API}/model-versions/get-download-uri", asked).get("artifact_uri", ""))
        found = _ARTEFACTS.fullmatch(uri)
        if found is None:
            raise TerminalError(
                f"{asked['name']}:{asked['version']} lies at {uri.partition(':')[0]}:..., which {self.where} does not "
                "pass on: run it with --serve-artifacts, or declare that store as a catalogue of its own"
            )
        return found["path"].strip("/")

    def _walk(self, top: str, below: str, depth: int) -> Iterator[tuple[str, int]]:
        if depth > MAX_DEPTH:
            raise LookupError(f"{top} in {self.where} is nested deeper than {MAX_DEPTH} folders")
        for one in self._ask(PROXY, {"path": f"{top}/{below}".rstrip("/")}).get("files") or ():
            path = f"{below}{str(one['path']).rstrip('/').rpartition('/')[2]}"
            if one.get("is_dir"):
                yield from self._walk(top, f"{path}/", depth + 1)
            else:
                yield path, int(one.get("file_size") or 0)

    # --- asking -----------------------------------------------------------------------------------------------------

    def _pages(self, path: str, key: str, query: Mapping[str, str]) -> Iterator[Mapping[str, Any]]:
        token = ""
        for _ in range(PAGES):
            more = {"page_token": token} if token else {}
            answer = self._ask(f"{API}{path}", {**query, "max_results": str(PAGE), **more})
            yield from answer.get(key) or ()
            token = str(answer.get("next_page_token") or "")
            if not token:
                return

    def _ask(self, path: str, query: Mapping[str, str]) -> dict[str, Any]:
        """The answer's JSON object. Raises LookupError: there is no such thing."""
        try:
            with self._client.stream("GET", path, params=dict(query)) as answer:
                data = b""
                for piece in answer.iter_bytes():
                    data += piece
                    if len(data) > ANSWER_LIMIT:
                        raise TerminalError(f"{self.where}: an answer is longer than {ANSWER_LIMIT:,} bytes")
                self._good(answer, data)
            found = codec.decode(dict[str, Any], data)
        except httpx.HTTPError as error:
            raise TransientError(f"{self.where} does not answer: {type(error).__name__}", retry_after_s=5.0) from error
        except codec.CodecError as error:
            raise TerminalError(f"{self.where} does not answer as MLflow does") from error
        return found

    def _good(self, answer: httpx.Response, data: bytes = b"") -> None:
        status, said = answer.status_code, data[:WORDS].decode("utf-8", "replace")
        if status == 404:
            raise LookupError(f"{self.where} has no such thing: {said}")
        if status == 429 or status >= 500:
            raise TransientError(f"{self.where} answers {status}", retry_after_s=5.0)
        if status != 200:
            raise TerminalError(f"{self.where} answers {status}: {said}")


def open_catalogue(name: str, source: CatalogueSource, credentials: Mapping[str, str]) -> Shelf:
    """Entry point `mlflow` of group `headgate.catalogue`."""
    return Shelf(name, Registry(source, credentials))
