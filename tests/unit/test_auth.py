"""Keys are compared as digests; anything unusual is refused."""

from __future__ import annotations

import hashlib

import pytest

from headgate_router import auth

KEYS = [hashlib.sha256(key).hexdigest().encode() for key in (b"primary", b"secondary")]


@pytest.mark.parametrize("value", [b"Bearer primary", b"bearer secondary", b"BEARER primary ", b"Bearer  primary"])
def test_either_key_is_accepted(value: bytes) -> None:
    assert auth.accepts(KEYS, [value])


@pytest.mark.parametrize(
    "values",
    [
        [],
        [b""],
        [b"Bearer "],
        [b"Bearer wrong"],
        [b"primary"],
        [b"Basic primary"],
        [b"Bearerprimary"],
        [b"Bearer " + KEYS[0]],
        [b"Bearer primary", b"Bearer primary"],
        [b"Bearer primary, Bearer primary"],
        [b"Bearer " + b"x" * 10_000],
        [b"Bearer \xff\xfe"],
    ],
    ids=lambda values: repr(values)[:40],
)
def test_everything_else_is_refused(values: list[bytes]) -> None:
    assert not auth.accepts(KEYS, values)


def test_an_endpoint_without_keys_accepts_nobody() -> None:
    assert not auth.accepts([], [b"Bearer primary"])
