"""Whole or not there; locked by one; bounded."""

from __future__ import annotations

import errno
import io
import os
import stat
import tarfile
from pathlib import Path

import pytest

from headgate_kit import files
from headgate_kit.files import AlreadyLocked, DiskFull, Locked


def archive(*members: tarfile.TarInfo, content: bytes = b"content") -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as tar:
        for member in members:
            member.size = len(content) if member.isreg() else 0
            tar.addfile(member, io.BytesIO(content) if member.isreg() else None)
    return out.getvalue()


def link(name: str, target: str) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.type, member.linkname = tarfile.SYMTYPE, target
    return member


def test_a_written_file_is_private_and_leaves_nothing_beside_it(tmp_path: Path) -> None:
    files.write_atomic(tmp_path / "a", b"one")
    files.write_atomic(tmp_path / "a", b"two")
    assert (tmp_path / "a").read_bytes() == b"two"
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o600
    assert [p.name for p in tmp_path.iterdir()] == ["a"]


def test_a_full_disk_keeps_the_old_content_and_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files.write_atomic(tmp_path / "a", b"old")

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(DiskFull, match="no space left"):
        files.write_atomic(tmp_path / "a", b"new")
    assert (tmp_path / "a").read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["a"]


def test_a_missing_file_reads_as_none_and_a_broken_one_is_an_error(tmp_path: Path) -> None:
    assert files.read_json(tmp_path / "no") is None
    (tmp_path / "broken").write_text("{")
    with pytest.raises(ValueError):
        files.read_json(tmp_path / "broken")


def test_json_comes_back_as_written(tmp_path: Path) -> None:
    files.write_json(tmp_path / "a.json", {"b": [1, "ü"]})
    assert files.read_json(tmp_path / "a.json") == {"b": [1, "ü"]}


def test_the_second_lock_is_refused_with_the_holders_words(tmp_path: Path) -> None:
    with Locked(tmp_path / "lock", who="headgate up, process 7"):
        with pytest.raises(AlreadyLocked, match="process 7") as caught, Locked(tmp_path / "lock"):
            pass
        assert caught.value.holder == "headgate up, process 7"
    with Locked(tmp_path / "lock"):
        pass


def test_a_database_is_durable_and_private(tmp_path: Path) -> None:
    database = files.open_database(tmp_path / "a.db")
    ask = lambda name: database.execute(f"PRAGMA {name}").fetchone()[0]  # noqa: E731
    assert (ask("journal_mode"), ask("synchronous"), ask("foreign_keys")) == ("wal", 2, 1)
    assert stat.S_IMODE((tmp_path / "a.db").stat().st_mode) == 0o600
    database.close()


def test_an_archive_is_unpacked(tmp_path: Path) -> None:
    files.unpack(archive(tarfile.TarInfo("d/a.txt"), link("d/b", "a.txt")), tmp_path, limit=100)
    assert (tmp_path / "d/a.txt").read_bytes() == (tmp_path / "d/b").read_bytes() == b"content"


def test_an_archive_is_unpacked_from_a_file(tmp_path: Path) -> None:
    (tmp_path / "a.tar").write_bytes(archive(tarfile.TarInfo("a.txt")))
    (tmp_path / "into").mkdir()
    files.unpack(tmp_path / "a.tar", tmp_path / "into", limit=100)
    assert (tmp_path / "into/a.txt").exists()


@pytest.mark.parametrize(
    "member",
    [
        pytest.param(tarfile.TarInfo("../escaped"), id="parent"),
        pytest.param(link("l", "/etc/passwd"), id="absolute-link"),
        pytest.param(link("l", "../../escaped"), id="link-out"),
    ],
)
def test_an_archive_that_leaves_its_folder_is_refused(tmp_path: Path, member: tarfile.TarInfo) -> None:
    inside = tmp_path / "inside"
    inside.mkdir()
    with pytest.raises(ValueError, match="refused archive"):
        files.unpack(archive(member), inside, limit=100)
    assert not (tmp_path / "escaped").exists()


def test_an_archive_larger_than_its_limit_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="more than 10 bytes"):
        files.unpack(archive(tarfile.TarInfo("a"), tarfile.TarInfo("b")), tmp_path, limit=10)


def test_bytes_that_are_no_archive_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="refused archive"):
        files.unpack(b"nothing", tmp_path, limit=10)


def test_a_stamp_changes_when_a_file_is_rewritten_swapped_by_a_link_or_gone(tmp_path: Path) -> None:
    for version in ("one", "two"):
        (tmp_path / version).mkdir()
        (tmp_path / version / "key").write_text("same")
    (tmp_path / "now").symlink_to("one")
    key = tmp_path / "now/key"
    first = files.stamp(key)
    assert files.stamp(key) == first
    (tmp_path / "next").symlink_to("two")
    (tmp_path / "next").rename(tmp_path / "now")
    swapped = files.stamp(key)
    key.write_text("longer")
    rewritten = files.stamp(key)
    key.unlink()
    assert len({first, swapped, rewritten, files.stamp(key)}) == 4
