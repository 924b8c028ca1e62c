"""What becomes one half of a pair, and what is blanked in it."""

from __future__ import annotations

import json

import pytest

from headgate_router.mirror import Seen
from headgate_router.redact import blank, path

JSON = [(b"content-type", b"application/json")]


def test_an_answer_is_text_with_its_media_type() -> None:
    answer = Seen("r", 200, JSON, b'{"a": 1}', cut=False).answer(())
    assert (answer.body, answer.media_type, answer.cut) == ('{"a": 1}', "application/json", False)


@pytest.mark.parametrize(("body", "cut"), [(b"\xff\xfe", False), (b"{}", True)], ids=["not UTF-8", "too long"])
def test_what_cannot_be_compared_leaves_without_its_body(body: bytes, cut: bool) -> None:
    answer = Seen("r", 200, JSON, body, cut).answer(())
    assert (answer.body, answer.cut) == ("", True)
    assert bool(answer.digest) is not cut, "bytes that are whole have a digest"


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        ("$.name", {"name": "(redacted)", "rows": [{"id": 1, "v": 2}, {"id": 3, "v": 4}]}),
        ("$.rows[0].id", {"name": "n", "rows": [{"id": "(redacted)", "v": 2}, {"id": 3, "v": 4}]}),
        ("$.rows[*].id", {"name": "n", "rows": [{"id": "(redacted)", "v": 2}, {"id": "(redacted)", "v": 4}]}),
        ("rows[*].v", {"name": "n", "rows": [{"id": 1, "v": "(redacted)"}, {"id": 3, "v": "(redacted)"}]}),
        ("$['rows']", {"name": "n", "rows": "(redacted)"}),
        ("$.absent.deeper", {"name": "n", "rows": [{"id": 1, "v": 2}, {"id": 3, "v": 4}]}),
        ("$", "(redacted)"),
    ],
)
def test_a_rule_blanks_what_it_names(rule: str, expected: object) -> None:
    body = '{"name": "n", "rows": [{"id": 1, "v": 2}, {"id": 3, "v": 4}]}'
    blanked = blank(body, [path(rule)])
    assert blanked is not None
    assert json.loads(blanked) == expected


def test_a_body_that_cannot_be_redacted_does_not_leave() -> None:
    assert blank("not JSON, but a name", [path("$.name")]) is None
    assert blank("[" * 100_000, [path("$.name")]) is None
    answer = Seen("r", 200, JSON, b"\xffsecret", cut=False).answer([path("$.name")])
    assert (answer.cut, answer.digest) == (True, "")
    answer = Seen("r", 200, JSON, b"secret text", cut=False).answer([path("$.name")])
    assert (answer.body, answer.cut) == ("", True)


@pytest.mark.parametrize("text", ["$.a..b", "$[?(@.x)]", "$.a[", "$.a b", "$[-1]"])
def test_a_path_we_do_not_know_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="not a JSON path"):
        path(text)
