"""Edits of YAML that touch nothing else."""

from __future__ import annotations

from pathlib import Path

import click
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from headgate.findings import FindingsError
from headgate_console.edit import changes, shares, write
from headgate_console.spans import with_map

BLOCK = 'name: x # why\n\ntags:\n- a\n# note\ntraffic:\n    blue: 100 # stable\n    "old": 0\n\nauth_mode: key\n'


def test_numbers_change_in_place_and_comments_stay() -> None:
    assert with_map(BLOCK, "traffic", {"blue": 90, "green": 10}) == BLOCK.replace("100", "90").replace(
        '    "old": 0\n', "    green: 10\n"
    )


def test_a_flow_mapping_stays_one() -> None:
    assert with_map("traffic:  {a: 1} # x\n", "traffic", {"a": 40, "b": 60}) == "traffic: {a: 40, b: 60} # x\n"


def test_a_missing_key_is_added_at_the_end() -> None:
    assert with_map("name: x", "mirror_traffic", {"g": 5}) == "name: x\nmirror_traffic:\n  g: 5\n"


def test_an_empty_mapping_removes_the_key_and_its_lines_only() -> None:
    text = "name: x\nmirror_traffic:\n  g: 5\n\n# about traffic\ntraffic: {g: 100}\n"
    assert with_map(text, "mirror_traffic", {}) == "name: x\n\n# about traffic\ntraffic: {g: 100}\n"


def test_a_key_without_a_value_gets_one() -> None:
    assert yaml.safe_load(with_map("traffic:\nname: x\n", "traffic", {"a": 100})) == {
        "traffic": {"a": 100},
        "name": "x",
    }


@pytest.mark.parametrize("text", ["{name: x, traffic: {a: 1}}\n", "- a\n", "t: &t {a: 1}\ntraffic: *t\n"])
def test_what_cannot_be_edited_cleanly_is_refused_or_right(text: str) -> None:
    try:
        after = with_map(text, "traffic", {"b": 100})
    except ValueError:
        return
    assert yaml.safe_load(after)["traffic"] == {"b": 100}


NAMES = st.sampled_from(["blue", "green", "red", "x-1"])
SPLITS = st.dictionaries(NAMES, st.integers(0, 100), min_size=1)


@given(SPLITS, SPLITS, st.booleans(), st.integers(1, 6))
def test_any_edit_reads_as_asked_and_leaves_the_rest(
    before: dict[str, int], after: dict[str, int], flow: bool, indent: int
) -> None:
    lines = "".join(f"{' ' * indent}{name}: {share} # {name}\n" for name, share in before.items())
    written = f"traffic: {before}\n".replace("'", "") if flow else f"traffic:\n{lines}"
    text = f"# head\nname: x\n{written}# foot\nauth_mode: key\n"
    result = with_map(text, "traffic", after)
    assert yaml.safe_load(result) == {"name": "x", "traffic": after, "auth_mode": "key"}
    assert result.startswith("# head\nname: x\n")
    assert result.endswith("# foot\nauth_mode: key\n")


def test_shares_read_as_azure_writes_them() -> None:
    assert shares("blue=90 green=10") == {"blue": 90, "green": 10}
    assert shares("blue=90%,green=10") == {"blue": 90, "green": 10}


@pytest.mark.parametrize("text", ["blue", "blue=x", "blue=90 blue=10", "=1", "blue=1000"])
def test_a_split_that_does_not_read_is_a_usage_error(text: str) -> None:
    with pytest.raises(click.BadParameter):
        shares(text)


def test_a_split_that_does_not_add_up_is_refused() -> None:
    with pytest.raises(FindingsError, match="traffic-sum"):
        changes("blue=90 green=5", None)
    assert changes("blue=0", None) == {"traffic": {"blue": 0}}


def test_a_mirror_takes_one_deployment_and_half_at_most() -> None:
    with pytest.raises(FindingsError, match="mirror-percent"):
        changes(None, "a=10 b=10")
    with pytest.raises(FindingsError, match="mirror-percent"):
        changes(None, "a=60")
    assert changes(None, "") == {"mirror_traffic": {}}


def test_a_refused_edit_leaves_every_byte(tmp_path: Path) -> None:
    file = tmp_path / "endpoints/fraud/endpoint.yml"
    file.parent.mkdir(parents=True)
    file.write_bytes(b"name: fraud\r\n")
    with pytest.raises(FindingsError, match="teal"):
        write(tmp_path, "fraud", file, "name: fraud\ntraffic: {teal: 100}\n")
    assert file.read_bytes() == b"name: fraud\r\n"
