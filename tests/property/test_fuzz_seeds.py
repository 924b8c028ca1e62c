"""What `make fuzz` starts from, without what guides it: every seed is one input that nothing may be wrong with."""

from __future__ import annotations

from scripts import script


def test_no_seed_of_the_fuzz_crashes_hangs_or_leaks() -> None:
    loaded = script("tests/fuzz/protocol.py")
    every = list(loaded.seeds())
    assert len(every) > 150
    for one in every:
        loaded.one(one)
