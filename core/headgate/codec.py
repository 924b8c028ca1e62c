"""Frozen dataclasses to canonical JSON and back.

Canonical: UTF-8, keys sorted, no white space, so that equal values have equal bytes and equal digests everywhere.
A message from a newer Headgate may hold fields we do not know: they are ignored and counted. A missing field
refuses the message: guessing a default for somebody else's intent is how gates open by accident.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any, TypeVar

import msgspec

T = TypeVar("T")


class CodecError(ValueError):
    """A message that cannot be read; the text names the field."""


def to_data(value: Any) -> Any:
    """The value as dicts, lists, strings, numbers."""
    return msgspec.to_builtins(value, order="sorted", str_keys=True)


def canonical(value: Any) -> bytes:
    try:
        return msgspec.json.encode(value, order="sorted")
    except TypeError:  # keys that are no text, as of a histogram, become text first: then they can be sorted
        return msgspec.json.encode(to_data(value))


def size(value: Any) -> int:
    """Bytes of the canonical form, without making it: sorting keys moves them only."""
    return len(msgspec.json.encode(value))


def digest(value: Any) -> str:
    """sha256 of the canonical bytes, as 64 hex digits."""
    return hashlib.sha256(canonical(value)).hexdigest()


def decode(cls: type[T], data: Any) -> T:
    """Builds `cls` from decoded JSON, or from JSON bytes or text.

    Raises:
        CodecError: not JSON, a field is missing, or one has another type.
    """
    try:
        if isinstance(data, bytes | str):
            return msgspec.json.decode(data, type=cls)
        return msgspec.convert(data, type=cls, str_keys=True)
    except (msgspec.ValidationError, msgspec.DecodeError, UnicodeDecodeError) as error:
        raise CodecError(f"{cls.__name__}: {error}") from error


def unknown_fields(data: Any, value: Any) -> tuple[str, ...]:
    """The paths in a decoded message that its dataclass dropped, e.g. `('endpoints[0].zone',)`."""
    return tuple(_dropped(data, to_data(value), ""))


def _dropped(raw: Any, kept: Any, path: str) -> list[str]:
    if isinstance(raw, Mapping) and isinstance(kept, Mapping):
        found: list[str] = []
        for key, item in raw.items():
            here = f"{path}.{key}" if path else str(key)
            found += _dropped(item, kept[key], here) if key in kept else [here]
        return found
    if isinstance(raw, list | tuple) and isinstance(kept, list | tuple):
        return [p for i, (a, b) in enumerate(zip(raw, kept, strict=False)) for p in _dropped(a, b, f"{path}[{i}]")]
    return []
