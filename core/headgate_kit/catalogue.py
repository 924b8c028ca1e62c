"""A catalogue outside the endpoints repo, opened by name: its adapter by entry point, its credentials by host.

Credentials are files of one folder, `HOST.KEY` (`minio.example_9000.access-key-id`: a colon is written as `_`), as a
mounted Secret has them. They go by host, because the URL of a catalogue is in git: whoever changes it there must not
be sent what another host was trusted with.
"""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import urlsplit

from headgate import codec, plugins
from headgate.findings import Finding, Place, SpecError, TerminalError
from headgate.ports import Catalogue
from headgate.process import CatalogueSource
from headgate.target import ModelPin, catalogue_of
from headgate_kit.files import sync_folder

GROUP = "headgate.catalogue"
ENV_CREDENTIALS = "HEADGATE_CATALOGUE_CREDENTIALS"  # the folder; default: `catalogues` in the data folder
KEYS = ("username", "password", "token", "access-key-id", "secret-access-key", "session-token")
AMAZON = "s3.amazonaws.com"
VALUE_LIMIT = 16 * 1024  # bytes


def open_catalogue(name: str, source: CatalogueSource, folder: Path) -> Catalogue:
    """Args:
        folder: of the credentials, unless $HEADGATE_CATALOGUE_CREDENTIALS names another.
    Raises:
        TerminalError: no such kind is installed, or it cannot be used as it is declared.
    """
    loaded = plugins.load(GROUP)
    if source.kind not in loaded.adapters:
        known = ", ".join(sorted(loaded.adapters)) or "none"
        broken = "".join(f"; {finding.message}" for finding in loaded.findings)
        raise TerminalError(f"catalogue {name}: there is no kind `{source.kind}`; installed are: {known}{broken}")
    found: Catalogue = loaded.adapters[source.kind](name, source, credentials(source, folder))
    return found


def host_of(source: CatalogueSource) -> str:
    """Whom its credentials are for, as their files are called; empty: nobody (a folder)."""
    if source.kind == "s3" and not source.endpoint:
        return AMAZON
    return re.sub(r"[^\w.-]", "_", urlsplit(source.endpoint or source.url).netloc.lower(), flags=re.ASCII)


def credentials(source: CatalogueSource, folder: Path) -> Mapping[str, str]:
    """Raises TerminalError: a file cannot be read, or is longer than any credential."""
    host, root = host_of(source), Path(os.environ.get(ENV_CREDENTIALS) or folder)
    found = {key: _value(root / f"{host}.{key}") for key in KEYS} if host else {}
    return {key: value for key, value in found.items() if value}


def _value(file: Path) -> str:
    try:
        with file.open("rb") as opened:
            data = opened.read(VALUE_LIMIT + 1)
        if len(data) <= VALUE_LIMIT:
            return data.decode().strip()
    except FileNotFoundError:
        return ""
    except (OSError, UnicodeDecodeError) as error:  # not its own words: they may quote the content
        raise TerminalError(f"{file.name} of the catalogues' credentials: {type(error).__name__}") from None
    raise TerminalError(f"{file.name} of the catalogues' credentials is longer than {VALUE_LIMIT} bytes")


def fetch(pin: ModelPin, sources: Mapping[str, CatalogueSource], into: Path, credentials_in: Path) -> None:
    """Fetches a model into a folder that is not there yet: it is there whole or not at all.

    Raises:
        SpecError: it is not what was pinned, or its catalogue is declared no more. TransientError, TerminalError.
    """
    name = catalogue_of(pin)
    if name not in sources:
        raise SpecError(_changed(pin, f"headgate.yml has no catalogue `{name}` any more"))
    into.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    made = Path(tempfile.mkdtemp(prefix=f".{into.name}.new-", dir=into.parent))
    try:
        open_catalogue(name, sources[name], credentials_in).fetch(pin, made)
        made.chmod(0o755)
        os.rename(made, into)
        sync_folder(into.parent)
    except LookupError as error:
        raise SpecError(_changed(pin, str(error.args[0]) if error.args else "")) from error
    finally:
        shutil.rmtree(made, ignore_errors=True)


def kept(pin: ModelPin, folder: Path) -> Path:
    """Where a model of this content lies once it was fetched."""
    return folder / codec.digest([pin.name, pin.version, pin.digest])[:32]


def _changed(pin: ModelPin, why: str) -> Finding:
    return Finding(
        code="model-changed",
        message=f"the model {pin.name}:{pin.version} cannot be had as it was pinned",
        why=why,
        fix="register the new content as a version of its own, and name that in the deployment",
        place=Place(f"catalogue {catalogue_of(pin)}"),
    )
