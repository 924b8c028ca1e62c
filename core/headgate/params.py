"""A gate's block in rollout.yml to its parameters: any frozen dataclass, filled from a mapping, each fault by its key.

A parameter is a dataclass field with a default. `share`, `seconds`, `count` and `number` make fields that also know
how people write them (`0.5%`, `5s`, `10m`) and what range makes sense; a plain field works too, by its type.
Refuses to guess: an unknown key, a wrong type and a number outside its range are all faults.
"""

from __future__ import annotations

import dataclasses
import difflib
import functools
import math
import re
import types
import typing
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, TypeVar

T = TypeVar("T")


class Fault(NamedTuple):
    """One parameter that cannot be taken."""

    key: str  # empty: the block as a whole
    message: str
    line: int = 0  # inside the parameter's text, from 1; 0: the parameter as a whole
    column: int = 0
    fix: str = ""  # empty: correct or delete it
    code: str = "gate-parameter"  # of its finding

    def __str__(self) -> str:
        return f"{self.key}: {self.message}" if self.key else self.message


class ParameterError(ValueError):
    """What a dataclass of parameters that checks itself may raise, to say more than a text."""

    def __init__(self, fault: Fault) -> None:
        super().__init__(fault.message)
        self.fault = fault


Faults = tuple[Fault, ...]

PHASES = ("mirror", "step", "bake")

SOURCE = "source"
_KIND, _LOW, _HIGH = "headgate.kind", "headgate.low", "headgate.high"
_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)")
_UNIT_S = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3_600.0, "d": 86_400.0}
_PERCENT = re.compile(r"(-?\d+(?:\.\d+)?)\s*%")
_QUANTILE = re.compile(r"(?P<gate>.+)-p(?P<digits>\d{1,2}(?:\.\d{1,3})?)")


def share(default: float | None, *, low: float = 0.0, high: float = 1.0) -> Any:
    """A fraction of 1, written `0.005` or `0.5%`; within low..high."""
    return _field(default, "share", low, high)


def seconds(default: float | None, *, low: float = 0.0, high: float = math.inf) -> Any:
    """Seconds, written `5`, `5s`, `250ms`, `10m`, `1h30m`."""
    return _field(default, "seconds", low, high)


def count(default: int | None, *, low: int = 0, high: float = math.inf) -> Any:
    """A whole number."""
    return _field(default, "count", low, high)


def number(default: float | None, *, low: float = -math.inf, high: float = math.inf) -> Any:
    return _field(default, "number", low, high)


def source(default: str) -> Any:
    """The name of a metric source in headgate.yml; validation looks whether it is there."""
    return _field(default, SOURCE, -math.inf, math.inf)


def phases(default: tuple[str, ...] = PHASES) -> Any:
    """Where a gate judges: `mirror`, `step`, `bake`."""
    return _field(default, "phases", -math.inf, math.inf)


def _field(default: Any, kind: str, low: float, high: float) -> Any:
    return dataclasses.field(default=default, metadata={_KIND: kind, _LOW: low, _HIGH: high})


def resolve_name(name: str, known: Mapping[str, type]) -> tuple[str, dict[str, Any]] | None:
    """The gate a name in rollout.yml means, and the parameters the name itself sets. None: no such gate.

    `latency-p99` is the gate `latency` with `quantile: 0.99`, for any gate whose parameters have a quantile;
    `expr-errors` is the gate `expr` with `label: errors`, for any whose parameters have a label: so one gate can be
    in a rollout several times.

    Args:
        known: gate name -> its parameters' dataclass.
    """
    if name in known:
        return name, {}
    match = _QUANTILE.fullmatch(name)
    if match is not None and "quantile" in _names(known.get(match["gate"])):
        return match["gate"], {"quantile": round(float(match["digits"]) / 100, 9)}
    for gate in sorted(known, key=len, reverse=True):
        if name.startswith(f"{gate}-") and "label" in _names(known[gate]):
            return gate, {"label": name.removeprefix(f"{gate}-")}
    return None


def _names(params_type: Any) -> set[str]:
    return {f.name for f in dataclasses.fields(params_type)} if params_type is not None else set()


def parse(params_type: type[T], data: Mapping[str, Any]) -> tuple[T | None, Faults]:
    """Fills `params_type` from a mapping.

    Returns:
        (value, ()) or (None, faults).
    """
    fields, hints = _shape(params_type)  # type: ignore[arg-type]
    values: dict[str, Any] = {}
    faults: list[Fault] = []
    for key, raw in data.items():
        if key not in fields:
            faults.append(Fault(str(key), _unknown(str(key), fields)))
            continue
        try:
            values[key] = _read(raw, fields[key], hints[key])
        except ValueError as error:
            faults.append(Fault(key, str(error)))
    if faults:
        return None, tuple(faults)
    try:
        return params_type(**values), ()
    except ParameterError as error:
        return None, (error.fault,)
    except (TypeError, ValueError) as error:  # a dataclass that checks itself, or a field without a default
        return None, (Fault("", str(error)),)


def sources(value: Any) -> dict[str, str]:
    """The fields of filled parameters that name a metric source: field -> source."""
    named = [f.name for f in dataclasses.fields(value) if f.metadata.get(_KIND) == SOURCE]
    return {name: getattr(value, name) for name in named}


@functools.cache
def _shape(params_type: type) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    """Fields and their types. Kept: resolving annotations takes 0.1 ms, and every endpoint has gates."""
    fields = {f.name: f for f in dataclasses.fields(params_type)}
    return fields, typing.get_type_hints(params_type)


def _unknown(key: str, fields: Mapping[str, Any]) -> str:
    near = difflib.get_close_matches(key, fields, n=1)
    hint = f"; did you mean `{near[0]}`?" if near else f"; known are {', '.join(sorted(fields)) or 'none'}"
    return f"unknown parameter `{key}`{hint}"


def _read(raw: Any, field: dataclasses.Field[Any], hint: Any) -> Any:
    options = typing.get_args(hint) if isinstance(hint, types.UnionType) or typing.get_origin(hint) else ()
    if raw is None:
        if type(None) in options:
            return None
        raise ValueError("is empty")
    kind = field.metadata.get(_KIND) or _kind_of(hint, options)
    value = _READERS[kind](raw)
    low, high = field.metadata.get(_LOW, -math.inf), field.metadata.get(_HIGH, math.inf)
    if isinstance(value, int | float) and not isinstance(value, bool) and not low <= value <= high:
        raise ValueError(f"{raw} is outside {_range(low, high, kind)}")
    return value


def _range(low: float, high: float, kind: str) -> str:
    def text(edge: float) -> str:
        return f"{edge:.12g}" if kind != "share" or math.isinf(edge) else f"{edge * 100:.12g}%"

    if math.isinf(high):
        return f"{text(low)} and more"
    return f"{text(low)} to {text(high)}" if not math.isinf(low) else f"{text(high)} and less"


def _kind_of(hint: Any, options: tuple[Any, ...]) -> str:
    if typing.get_origin(hint) in (tuple, list):
        return "texts"
    plain = next((option for option in options if option is not type(None)), hint)
    if typing.get_origin(plain) in (tuple, list):
        return "texts"
    return {bool: "flag", int: "count", float: "number", str: "text"}.get(plain, "any")


def _number(raw: Any) -> float:
    if isinstance(raw, str) and (match := _PERCENT.fullmatch(raw.strip())):
        return float(match[1]) / 100
    if isinstance(raw, bool) or not isinstance(raw, int | float) or not math.isfinite(raw):
        raise ValueError(f"`{raw}` is not a number")
    return float(raw)


def _share(raw: Any) -> float:
    try:
        return _number(raw)
    except ValueError as error:
        raise ValueError(f"`{raw}` is not a share: write it as 0.5% or 0.005") from error


def _seconds(raw: Any) -> float:
    if isinstance(raw, str):
        text = raw.replace(" ", "")
        parts = _DURATION.findall(text)
        if parts and "".join(n + unit for n, unit in parts) == text:
            return math.fsum(float(n) * _UNIT_S[unit] for n, unit in parts)
    elif not isinstance(raw, bool) and isinstance(raw, int | float) and math.isfinite(raw):
        return float(raw)
    raise ValueError(f"`{raw}` is not a duration: write it as 5s, 250ms, 10m or 1h30m")


def _count(raw: Any) -> int:
    if isinstance(raw, bool) or not isinstance(raw, int | float) or raw != raw or raw % 1:
        raise ValueError(f"`{raw}` is not a whole number")
    return int(raw)


def _text(raw: Any) -> str:
    if not isinstance(raw, str):
        raise ValueError(f"`{raw}` is not text")
    return raw


def _flag(raw: Any) -> bool:
    if not isinstance(raw, bool):
        raise ValueError(f"`{raw}` is neither true nor false")
    return raw


def _texts(raw: Any) -> tuple[str, ...]:
    items = [raw] if isinstance(raw, str) else raw
    if not isinstance(items, list | tuple):
        raise ValueError(f"`{raw}` is not a list of texts")
    return tuple(_text(item) for item in items)


def _phases(raw: Any) -> tuple[str, ...]:
    found = _texts(raw)
    unknown = [name for name in found if name not in PHASES]
    if unknown or not found:
        raise ValueError(f"`{', '.join(unknown) or 'nothing'}` is no phase: name some of {', '.join(PHASES)}")
    return tuple(name for name in PHASES if name in found)


_READERS: Mapping[str, Callable[[Any], Any]] = {
    "share": _share,
    "seconds": _seconds,
    "count": _count,
    "number": _number,
    "text": _text,
    "texts": _texts,
    "phases": _phases,
    SOURCE: _text,
    "flag": _flag,
    "any": lambda raw: raw,
}
