"""Every record keeps the promises of `headgate.ports.Record`, whatever it is kept in."""

from __future__ import annotations

from pathlib import Path

import pytest

from headgate.ports import Record
from headgate.testing import RECORD, Check
from headgate_controllers.records.sqlite import SqliteRecord


@pytest.mark.parametrize("check", RECORD, ids=str)
def test_the_sqlite_record(check: Check[Record], tmp_path: Path) -> None:
    record = SqliteRecord(tmp_path / "record.db")
    try:
        check(record)
    finally:
        record.close()
