"""What a person reads when a file is wrong: the whole text, compared with the one that was written down."""

from __future__ import annotations

from pathlib import Path

from headgate import reading, report
from headgate.process import Settings
from headgate_kit.worktree import WorkTree

HERE = Path(__file__).parent / "errors"


def test_a_broken_endpoint_reads_as_written_down() -> None:
    tree = WorkTree(HERE / "repo")
    found = reading.read_all(tree, Settings())["fraud"].findings
    texts = {path: tree.read(path, 10_000).decode() for path in tree.files()}
    assert report.text(found, texts) == (HERE / "broken.txt").read_text("utf-8")
