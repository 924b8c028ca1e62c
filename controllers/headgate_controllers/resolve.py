"""References to pins: what `azureml:NAME@latest` means at one commit.

A catalogue that is a folder of the endpoints repo is resolved from the commit's own files: an earlier tree resolves as
it did, with nothing to remember. What a catalogue outside the repo answered is kept in the record, by the content of
the file that asked: an unrelated commit moves no label, and a revert brings the version back that served.
"""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Protocol

from headgate import codec
from headgate.assets import NotAsked, Pin
from headgate.findings import TransientError
from headgate.ports import Tree
from headgate.process import CatalogueSource, Settings
from headgate.target import ModelPin
from headgate_controllers.catalogues.folder import FolderCatalogue
from headgate_kit.catalogue import open_catalogue

log = logging.getLogger(__name__)

PATIENCE_S = 4.0  # a commit waits this long for a catalogue; an answer that comes later is there for the next look
REST_S = 15.0  # a catalogue that did not answer is not waited for again within this
ASKING = 4  # questions at once
_REGISTRY = re.compile(
    r"azureml://registries/(?P<registry>[^/]+)/models/(?P<name>[^/]+)(/(?P<how>\w+)/(?P<what>[^/]+))?"
)

Outside = Callable[[str, str, Mapping[str, CatalogueSource]], ModelPin]  # (reference, asked in, catalogues in order)


class Memory(Protocol):
    """What of the record is needed here."""

    def meta_get(self, key: str) -> str | None: ...
    def meta_set(self, key: str, value: str) -> None: ...


def reader(tree: Tree, settings: Settings, outside: Outside | None = None) -> Pin:
    """What resolves model references at this commit. It raises LookupError with words for the author.

    Args:
        outside: asks the catalogues outside the repo; None: they are not asked, and the answer is `NotAsked`.
    """
    inside = FolderCatalogue(tree, settings.catalogue) if settings.catalogue else None

    def pin(ref: str, asked_in: str) -> ModelPin:
        chosen, plain = _registry(ref, settings.catalogues)
        said = ""
        if inside is not None and chosen is settings.catalogues:
            try:
                return inside.pin(plain)
            except LookupError as error:
                said = str(error.args[0])
        if not chosen:
            raise LookupError(said or f"{ref} needs a catalogue, and headgate.yml names none (catalogue: FOLDER)")
        if outside is None:
            raise NotAsked(ref)
        try:
            return outside(plain, asked_in, chosen)
        except LookupError as error:
            raise LookupError("; ".join(filter(None, (said, str(error.args[0]))))) from error

    return pin


def _registry(ref: str, known: Mapping[str, CatalogueSource]) -> tuple[Mapping[str, CatalogueSource], str]:
    """The catalogues to ask, and the reference they understand."""
    found = _REGISTRY.fullmatch(ref)
    if found is None or found["registry"] not in known:
        return known, ref
    sign = "@" if found["how"] == "labels" else ":"
    plain = f"azureml:{found['name']}" + (f"{sign}{found['what']}" if found["what"] else "")
    return {found["registry"]: known[found["registry"]]}, plain


class Outsiders:
    """`Outside`: asks catalogues beside whoever waits, and remembers what they said."""

    def __init__(
        self,
        memory: Memory,
        credentials: Path,
        open_: Callable[..., object] = open_catalogue,
        patience_s: float = PATIENCE_S,
    ) -> None:
        self._memory = memory
        self._credentials = credentials
        self._open = open_
        self._patience_s = patience_s
        self._pool = ThreadPoolExecutor(ASKING, thread_name_prefix="catalogue")
        self._running: dict[tuple[str, str], Future[ModelPin]] = {}
        self._resting: dict[str, float] = {}  # catalogue -> until when, by a clock that only goes forward

    def close(self) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)

    def __call__(self, ref: str, asked_in: str, catalogues: Mapping[str, CatalogueSource]) -> ModelPin:
        """The first catalogue that has it. Raises LookupError with what each said; TransientError, TerminalError."""
        key = f"pin:{codec.digest([asked_in, ref, list(catalogues)])}"
        known = self._memory.meta_get(key)
        if known is not None:
            return codec.decode(ModelPin, known)
        pin = self._first(ref, catalogues)
        self._memory.meta_set(key, codec.canonical(pin).decode())
        log.info("%s is %s:%s of %s, as asked in %s", ref, pin.name, pin.version, pin.catalogue, asked_in)
        return pin

    def _first(self, ref: str, catalogues: Mapping[str, CatalogueSource]) -> ModelPin:
        said: list[str] = []
        for name, source in catalogues.items():
            try:
                return self._ask(ref, name, source)
            except LookupError as error:
                said.append(str(error.args[0]) if error.args else name)
        raise LookupError("; ".join(said))

    def _ask(self, ref: str, name: str, source: CatalogueSource) -> ModelPin:
        key = (ref, f"{name} {codec.digest(source)}")
        rests = time.monotonic() < self._resting.get(name, 0.0)
        if key not in self._running:
            if rests:
                raise TransientError(f"the catalogue {name} did not answer a moment ago", retry_after_s=REST_S)
            self._running[key] = self._pool.submit(self._pin, ref, name, source)
        running = self._running[key]
        try:
            wait([running], 0.0 if rests else self._patience_s)
            if not running.done():
                raise TransientError(f"the catalogue {name} did not answer within {self._patience_s:g} s")
            del self._running[key]
            found = running.result()
        except TransientError:
            self._resting[name] = time.monotonic() + REST_S
            raise
        self._resting.pop(name, None)
        return found

    def _pin(self, ref: str, name: str, source: CatalogueSource) -> ModelPin:
        found: ModelPin = self._open(name, source, self._credentials).pin(ref)  # type: ignore[attr-defined]
        return found
