"""What `make fuzz` starts from, without what guides it: every seed is one input that nothing may be wrong with."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any


def fuzz() -> Any:
    spec = importlib.util.spec_from_file_location("fuzz", Path(__file__).parents[1] / "fuzz/protocol.py")
    assert spec is not None
    assert spec.loader is not None
    loaded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    return loaded


def test_no_seed_of_the_fuzz_crashes_hangs_or_leaks() -> None:
    loaded = fuzz()
    every = list(loaded.seeds())
    assert len(every) > 150
    for one in every:
        loaded.one(one)
