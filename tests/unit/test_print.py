"""Tables, ages, colours, machine formats."""

from __future__ import annotations

import json

import click
import pytest
import yaml

from headgate_console import print as out
from headgate_console.durations import seconds


def test_columns_align_whatever_the_colours() -> None:
    lines = out.table(["NAME", "STATE"], [["a", out.state("Healthy")], ["longer", "x"]])
    assert [click.unstyle(line) for line in lines] == ["NAME    STATE", "a       ✔ Healthy", "longer  x"]


def test_labels_are_17_columns_wide() -> None:
    assert out.labelled("Name", "fraud") == "Name:            fraud"
    assert out.labelled("Replicas", "") == "Replicas:"


@pytest.mark.parametrize(
    ("spent", "text"),
    [
        (0.4, "0s"),
        (45, "45s"),
        (192, "3m12s"),
        (120, "2m"),
        (7_500, "2h5m"),
        (357_000, "4d3h"),
        (3_605, "1h"),
        (None, "-"),
    ],
)
def test_ages_have_two_units_at_most(spent: float | None, text: str) -> None:
    assert out.age(spent) == text


@pytest.mark.parametrize(
    ("asked", "environ", "colour"),
    [
        (True, {}, None),
        (True, {"TERM": "xterm"}, None),
        (False, {}, False),
        (True, {"NO_COLOR": "1"}, False),
        (True, {"NO_COLOR": ""}, None),
        (True, {"TERM": "dumb"}, False),
    ],
)
def test_colours_are_off_when_anybody_says_so(asked: bool, environ: dict[str, str], colour: bool | None) -> None:
    assert out.wants_colour(asked, environ) is colour


def test_a_state_we_do_not_know_still_reads() -> None:
    assert click.unstyle(out.state("Pondering")) == "? Pondering"


def test_documents_start_with_api_version_and_kind_and_have_rfc_3339_times() -> None:
    document = out.document("Rollout", {"id": "ro-1", "started_at": 0.5, "ops": [{"ended_at": None, "at": 1}]})
    assert list(document)[:2] == ["apiVersion", "kind"]
    assert document["started_at"] == "1970-01-01T00:00:00.500Z"
    assert document["ops"] == [{"ended_at": None, "at": "1970-01-01T00:00:01.000Z"}]


def test_a_list_becomes_a_list_document() -> None:
    assert out.document("Rollout", [{"id": "a"}]) == {
        "apiVersion": out.API_VERSION,
        "kind": "RolloutList",
        "items": [{"id": "a"}],
    }


@pytest.mark.parametrize(("output", "read"), [("json", json.loads), ("yaml", yaml.safe_load)])
def test_machine_formats_read_back_in_order(output: str, read: object) -> None:
    data = {"apiVersion": "v", "kind": "K", "b": 1, "a": "Größe"}
    assert callable(read)
    assert list(read(out.machine(data, output)).items()) == list(data.items())


@pytest.mark.parametrize(
    ("text", "expected"), [("30s", 30), ("10m", 600), ("1h30m", 5_400), ("90", 90), ("250ms", 0.25)]
)
def test_durations_read_as_people_write_them(text: str, expected: float) -> None:
    assert seconds(text) == expected


@pytest.mark.parametrize("text", ["", "m", "10 m", "1w", "-5s", "10mx"])
def test_what_is_no_duration_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="no duration"):
        seconds(text)
