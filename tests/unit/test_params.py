from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import pytest

from headgate.params import Fault, count, number, parse, resolve_name, seconds, share


@dataclass(frozen=True)
class Params:
    part: float = share(0.5)
    wait_s: float = seconds(5.0, high=3_600.0)
    least: int = count(10)
    limit: float | None = number(None, low=1.0)
    paths: tuple[str, ...] = ()
    name: str = "x"
    strict: bool = False
    plain: float = 1.0


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        ({}, {}),
        ({"part": "0.5%"}, {"part": 0.005}),
        ({"part": 1}, {"part": 1.0}),
        ({"wait_s": "5s"}, {"wait_s": 5.0}),
        ({"wait_s": "250ms"}, {"wait_s": 0.25}),
        ({"wait_s": "1m 30s"}, {"wait_s": 90.0}),
        ({"least": 3.0}, {"least": 3}),
        ({"limit": None}, {"limit": None}),
        ({"limit": "150%"}, {"limit": 1.5}),
        ({"paths": ["$.a", "$.b"]}, {"paths": ("$.a", "$.b")}),
        ({"paths": "$.a"}, {"paths": ("$.a",)}),
        ({"strict": True, "name": "y", "plain": 3}, {"strict": True, "name": "y", "plain": 3.0}),
    ],
    ids=str,
)
def test_values_are_read_as_people_write_them(data: Mapping[str, Any], expected: Mapping[str, Any]) -> None:
    value, faults = parse(Params, data)
    assert faults == ()
    assert value == Params(**expected)
    assert all(type(getattr(value, f.name)) is type(getattr(Params(**expected), f.name)) for f in fields(Params))


@pytest.mark.parametrize(
    ("key", "raw", "says"),
    [
        ("part", "half", "`half` is not a share: write it as 0.5% or 0.005"),
        ("part", "150%", "150% is outside 0% to 100%"),
        ("part", float("nan"), "is not a share"),
        ("part", True, "is not a share"),
        ("part", None, "is empty"),
        ("wait_s", "5 parsecs", "is not a duration"),
        ("wait_s", "2h", "2h is outside 0 to 3600"),
        ("least", 1.5, "is not a whole number"),
        ("least", float("inf"), "is not a whole number"),
        ("least", -1, "-1 is outside 0 and more"),
        ("limit", 0, "0 is outside 1 and more"),
        ("paths", [1], "`1` is not text"),
        ("paths", {"a": 1}, "is not a list of texts"),
        ("strict", "yes", "is neither true nor false"),
        ("name", 3, "is not text"),
        ("leest", 3, "unknown parameter `leest`; did you mean `least`?"),
        (7, 3, "unknown parameter `7`"),
    ],
    ids=str,
)
def test_each_fault_is_told_by_its_key(key: Any, raw: object, says: str) -> None:
    value, faults = parse(Params, {key: raw})
    assert value is None
    (fault,) = faults
    assert fault.key == str(key)
    assert says in fault.message


def test_all_faults_are_told_at_once() -> None:
    assert [fault.key for fault in parse(Params, {"part": "x", "least": "y", "other": 1})[1]] == [
        "part",
        "least",
        "other",
    ]


def test_a_dataclass_may_check_itself() -> None:
    @dataclass(frozen=True)
    class Picky:
        low: int = 1

        def __post_init__(self) -> None:
            if self.low > 5:
                raise ValueError("low must stay below 6")

    globals()["Picky"] = Picky
    assert parse(Picky, {"low": 9}) == (None, (Fault("", "low must stay below 6"),))


def test_a_quantile_in_a_name_needs_a_gate_that_has_one() -> None:
    @dataclass(frozen=True)
    class Slow:
        quantile: float = 0.5

    assert resolve_name("slow-p99", {"slow": Slow, "rate": Params}) == ("slow", {"quantile": 0.99})
    assert resolve_name("rate-p99", {"slow": Slow, "rate": Params}) is None


def test_a_label_in_a_name_needs_a_gate_that_has_one() -> None:
    @dataclass(frozen=True)
    class Named:
        label: str = ""

    known = {"expr": Named, "expr-big": Params}
    assert resolve_name("expr-errors", known) == ("expr", {"label": "errors"})
    assert resolve_name("expr-big", known) == ("expr-big", {})
    assert resolve_name("rate-big", {"rate": Params}) is None
