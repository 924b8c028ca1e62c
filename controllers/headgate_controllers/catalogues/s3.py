"""Models in an S3-compatible store: PREFIX/NAME/VERSION/..., and optionally PREFIX/NAME/labels.yml.

A file's mark is its entity tag, and it is fetched only with that tag. Without credentials of its own Amazon's are
looked for as every client does (environment, web identity, instance); another store is asked without a signature.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from headgate.findings import TerminalError, TransientError
from headgate.process import CatalogueSource
from headgate_controllers.catalogues import references
from headgate_controllers.catalogues.references import LABELS, LABELS_LIMIT
from headgate_controllers.catalogues.shelf import MAX_FILES, Item, Shelf

REGION = "us-east-1"
CONNECT_S, READ_S, RETRY_S = 3.0, 60.0, 8.0  # of one request: to connect, in all; how long it is tried again
CHUNK = 8 << 20
KEYS = ("access-key-id", "secret-access-key", "session-token")


class Bucket:
    """A `Store`."""

    def __init__(self, source: CatalogueSource, credentials: Mapping[str, str]) -> None:
        parts = urlsplit(source.url)
        if parts.scheme != "s3" or not parts.netloc:
            raise TerminalError(f"{source.url} is not s3://BUCKET/PREFIX")
        self.where = source.url
        prefix = parts.path.strip("/")
        self._prefix = f"{prefix}/" if prefix else ""
        self._store = _open(parts.netloc, source, credentials)

    def names(self) -> list[str]:
        return self._below(self._prefix)

    def versions(self, name: str) -> set[str]:
        return set(self._below(f"{self._prefix}{name}/"))

    def labels(self, name: str) -> Mapping[str, str]:
        from obstore.exceptions import NotFoundError

        key = f"{self._prefix}{name}/{LABELS}"
        with _plainly(self.where):
            try:
                found = self._store.get(key)
            except (NotFoundError, FileNotFoundError):
                return {}
            if found.meta["size"] > LABELS_LIMIT:
                raise LookupError(f"{key} is longer than {LABELS_LIMIT:,} bytes")
            return references.read_labels(bytes(found.bytes()), key)

    def items(self, name: str, version: str) -> list[Item]:
        top = f"{self._prefix}{name}/{version}/"
        found: list[Item] = []
        with _plainly(self.where):
            for batch in self._store.list(top):
                found += [_item(top, meta) for meta in batch if str(meta["path"]).startswith(top)]
                if len(found) > MAX_FILES:
                    break
        return found

    def copy(self, name: str, version: str, item: Item, into: Path) -> None:
        key = f"{self._prefix}{name}/{version}/{item.path}"
        with _plainly(self.where), (into / item.path).open("wb") as file:
            for piece in self._store.get(key, options={"if_match": item.mark}).stream(min_chunk_size=CHUNK):
                file.write(piece)

    def _below(self, prefix: str) -> list[str]:
        """Folders directly below."""
        with _plainly(self.where):
            found = self._store.list_with_delimiter(prefix.rstrip("/") or None)["common_prefixes"]
        return sorted(path.rstrip("/").rpartition("/")[2] for path in found)


def _open(bucket: str, source: CatalogueSource, credentials: Mapping[str, str]) -> Any:
    """Raises TerminalError: the library is not installed."""
    try:
        from obstore.store import S3Store
    except ImportError as error:
        raise TerminalError("the library that reads S3 is not installed: pip install 'headgate[s3]'") from error
    names = {key.replace("-", "_"): key for key in KEYS}
    given: dict[str, Any] = {name: credentials[key] for name, key in names.items() if key in credentials}
    if source.endpoint:
        given |= {"endpoint": source.endpoint, "virtual_hosted_style_request": False}
        if "access_key_id" not in given:
            given["skip_signature"] = True
    return S3Store(
        bucket,
        region=source.region or REGION,
        client_options={
            "allow_http": source.endpoint.startswith("http://"),
            "connect_timeout": timedelta(seconds=CONNECT_S),
            "timeout": timedelta(seconds=READ_S),
        },
        retry_config={"max_retries": 3, "retry_timeout": timedelta(seconds=RETRY_S)},
        **given,
    )


def _item(top: str, meta: Any) -> Item:
    return Item(str(meta["path"]).removeprefix(top), int(meta["size"]), str(meta["e_tag"] or meta["last_modified"]))


@contextmanager
def _plainly(where: str) -> Iterator[None]:
    from obstore import exceptions as no

    try:
        yield
    except (no.PermissionDeniedError, no.UnauthenticatedError) as error:
        raise TerminalError(f"{where} refuses our credentials: {_words(error)}") from None
    except (no.NotFoundError, no.PreconditionError, FileNotFoundError) as error:
        raise LookupError(f"{where} lacks it, or it changed: {_words(error)}") from None
    except no.BaseError as error:
        raise TransientError(f"{where} cannot be read now: {_words(error)}", retry_after_s=5.0) from None


def _words(error: Exception) -> str:
    """The first line: the rest is a dump of the request."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]


def open_catalogue(name: str, source: CatalogueSource, credentials: Mapping[str, str]) -> Shelf:
    """Entry point `s3` of group `headgate.catalogue`."""
    return Shelf(name, Bucket(source, credentials))
