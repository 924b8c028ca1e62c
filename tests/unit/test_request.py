"""What a request is given before anything is known of it."""

from __future__ import annotations

import re

from headgate_router.ids import Ids


def test_ids_are_128_bits_in_hex_and_none_comes_twice() -> None:
    ids, others = Ids(), Ids()
    drawn = [source.next() for _ in range(700) for source in (ids, others)]
    assert len(set(drawn)) == 1400
    assert all(re.fullmatch(rb"[0-9a-f]{32}", one) for one in drawn)
