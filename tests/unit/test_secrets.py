"""Endpoint keys: made once, rotated apart, readable by their owner only, never shown by accident."""

from __future__ import annotations

import hashlib
import threading
from pathlib import Path

import pytest

from headgate.findings import TerminalError
from headgate_controllers.secrets.file import FileSecrets


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "secrets.json"


def test_keys_are_made_once_and_kept(path: Path) -> None:
    keys = FileSecrets(path).keys("fraud")
    assert keys.primary.startswith("hg_")
    assert len({keys.primary, keys.secondary, FileSecrets(path).keys("churn").primary}) == 3
    assert FileSecrets(path).keys("fraud") == keys


def test_only_the_owner_can_read_the_file(path: Path) -> None:
    FileSecrets(path).keys("fraud")
    assert path.stat().st_mode & 0o777 == 0o600
    path.chmod(0o644)
    FileSecrets(path)
    assert path.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(("which", "other"), [("primary", "secondary"), ("secondary", "primary")])
def test_rotating_one_key_keeps_the_other(path: Path, which: str, other: str) -> None:
    store = FileSecrets(path)
    before = store.keys("fraud")
    after = store.rotate("fraud", which)
    assert getattr(after, which) != getattr(before, which)
    assert getattr(after, other) == getattr(before, other)
    assert FileSecrets(path).keys("fraud") == after


def test_there_is_no_third_key(path: Path) -> None:
    with pytest.raises(ValueError, match="primary or secondary"):
        FileSecrets(path).rotate("fraud", "tertiary")


def test_routers_get_digests(path: Path) -> None:
    store = FileSecrets(path)
    keys = store.keys("fraud")
    assert store.digests("fraud") == tuple(
        hashlib.sha256(key.encode()).hexdigest() for key in (keys.primary, keys.secondary)
    )


def test_a_secret_is_kept_beside_the_keys(path: Path) -> None:
    store = FileSecrets(path)
    keys = store.keys("fraud")
    store.put("registry/password", "hunter2")
    again = FileSecrets(path)
    assert again.get("registry/password") == "hunter2"
    assert again.keys("fraud") == keys


def test_no_error_and_no_repr_shows_a_value(path: Path) -> None:
    store = FileSecrets(path)
    store.put("a", "hunter2")
    with pytest.raises(LookupError) as unknown:
        store.get("b")
    assert "hunter2" not in str(unknown.value)
    assert store.keys("fraud").primary not in repr(store.keys("fraud"))
    path.write_text('{"values": {"a": "hunter2"')
    with pytest.raises(TerminalError) as damaged:
        FileSecrets(path)
    assert "hunter2" not in str(damaged.value)
    assert damaged.value.__cause__ is None


@pytest.mark.parametrize("content", ["[]", '{"endpoints": []}', '{"endpoints": {"a": {"primary": "x"}}}', "{"])
def test_a_damaged_file_is_said_and_left(path: Path, content: str) -> None:
    path.write_text(content)
    with pytest.raises(TerminalError, match="is damaged"):
        FileSecrets(path)
    assert path.read_text() == content


def test_many_threads_see_one_pair_of_keys(path: Path) -> None:
    store = FileSecrets(path)
    seen = set()

    def ask() -> None:
        seen.add(store.keys("fraud").primary)

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(seen) == 1
