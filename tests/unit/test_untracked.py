"""Files that git does not have, as a plan names them."""

from __future__ import annotations

import os
from pathlib import Path

import git

from headgate_console.untracked import listed


def test_a_name_may_be_any_bytes(tmp_path: Path) -> None:
    git.Repo.init(tmp_path).close()
    (tmp_path / "policies").mkdir()
    for name in (b"\xff.yml", "ä ö.yml".encode()):
        (tmp_path / "policies" / os.fsdecode(name)).touch()
    assert listed(tmp_path, ["policies"]) == ["policies/ä ö.yml", "policies/\ufffd.yml"]
