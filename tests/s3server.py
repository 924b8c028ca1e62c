"""A store that speaks S3: the server of moto, as a process of its own, which checks signatures.

Found as $HEADGATE_S3_SERVER, or as `moto_server` on the PATH; it is not installed with the tests, because its packages
hold back those of the product: `uv tool install moto --with flask --with flask-cors`.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

import ports

PROGRAM = os.environ.get("HEADGATE_S3_SERVER") or shutil.which("moto_server") or ""
MISSING = "no S3 server: set HEADGATE_S3_SERVER to moto_server (uv tool install moto --with flask --with flask-cors)"
BUCKET = "models"
DEADLINE_S = 60.0


@dataclass(frozen=True)
class S3Server:
    url: str
    store: Any  # obstore's own, to write with

    def put(self, key: str, content: bytes) -> None:
        self.store.put(key, content)


@contextmanager
def running(folder: Path) -> Iterator[S3Server]:
    with (folder / "s3.log").open("wb") as log, ports.held() as port:
        url = f"http://127.0.0.1:{port}"
        process = subprocess.Popen([PROGRAM, "-H", "127.0.0.1", "-p", str(port)], stdout=log, stderr=log)
        yield from _served(url, process)


def _served(url: str, process: subprocess.Popen[bytes]) -> Iterator[S3Server]:
    from obstore.store import S3Store

    try:
        _until_it_answers(url, process)
        assert httpx.put(f"{url}/{BUCKET}", trust_env=False).status_code == 200
        store = S3Store(
            BUCKET,
            endpoint=url,
            region="us-east-1",
            access_key_id="writer",
            secret_access_key="writes",
            client_options={"allow_http": True},
        )
        yield S3Server(url, store)
    finally:
        process.terminate()
        process.wait(timeout=10)


def _until_it_answers(url: str, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while time.monotonic() < deadline:
        assert process.poll() is None, "the server ended"
        try:
            httpx.get(f"{url}/moto-api/", trust_env=False)
            return
        except httpx.HTTPError:
            time.sleep(0.05)  # between two looks; the deadline is above
    raise AssertionError(f"nothing answers at {url}")
