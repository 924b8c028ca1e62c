"""`docs/traps.md` against the tests of tests/traps: its table is made from what these expect of each proxy.

`make golden` rewrites the table. That a test expects what is true is not said here but there: what is not said to
differ must hold, and what is said to differ must fail.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import envoyplane
import peers
from headgate_router.main import ASGI, BUILTIN, ENVOY
from scripts import script

WRITE = os.environ.get("HEADGATE_GOLDEN") == "write"
ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs/traps.md"
BEGIN, END = "<!-- made by `make golden` -->\n", "<!-- end -->\n"
KINDS = {BUILTIN: "builtin", ASGI: "asgi", ENVOY: "Envoy", peers.NGINX: "nginx", peers.HAPROXY: "haproxy"}
DIFFERS: Mapping[str, Mapping[str, str]] = {BUILTIN: {}, ENVOY: envoyplane.DIFFERS, **peers.DIFFERS}
ALONE = {"test_what_is_passed_on_is_read_as_one_by_whoever_reads_it_next": (BUILTIN, ASGI, ENVOY),
         "test_what_a_proxy_before_us_takes_for_one_request_is_none_or_one_for_us": (BUILTIN, ASGI, ENVOY)}  # fmt: skip

# Row of the table -> what the router does, and the tests that it is by.
ROWS: dict[str, tuple[str, tuple[str, ...]]] = {
    "1": (
        "Fields of one connection, and those that `Connection` names, end at the router, both ways",
        ("test_01_what_belongs_to_one_connection_ends_there",),
    ),
    "2, 3": (
        "Framing that can be read in two ways is refused; no message is read as two, however it is cut; what is "
        "encoded in a path stays encoded",
        (
            "test_no_message_is_read_as_two",
            "test_what_says_two_things_is_refused",
            "test_what_is_one_message_is_read_as_one",
            "test_an_upgrade_with_a_body_is_one_message_or_none",
            "test_what_is_encoded_stays_encoded",
            "test_what_must_be_encoded_and_is_not_is_refused",
            "test_what_is_not_spoken_here_is_refused",
            "test_old_requests_are_answered_and_the_connection_ends",
            *ALONE,
        ),
    ),
    "4": ("Two credentials are none", ("test_04_two_credentials_are_none",)),
    "5, 6": (
        "A caller who leaves, before the first byte or in mid-stream, ends the model's work at once",
        ("test_a_caller_who_leaves_ends_the_models_work",),
    ),
    "7": (
        "A body beyond 1 MiB is passed on while it comes, and not copied",
        ("test_07_a_long_body_is_passed_on_while_it_comes_and_not_copied",),
    ),
    "8": ("A slow reader slows its writer, and fills no memory", (
        "test_08_a_model_that_does_not_read_slows_its_caller", "test_08_a_caller_who_does_not_read_slows_its_model",
    )),
    "9": (
        "Bodies are framed anew, trailers dropped; answers with no body, or no length, are read to their end",
        ("test_09_bodies_are_framed_anew_and_trailers_dropped", "test_09_answers_without_a_body_or_a_length"),
    ),
    "10": (
        "`Expect: 100-continue` is answered once the caller is admitted; a model's 1xx goes no further",
        (
            "test_10_a_body_that_waits_for_100_gets_it_and_a_models_1xx_goes_no_further",
            "test_10_a_refused_body_is_not_asked_for",
        ),
    ),
    "11": ("`Upgrade` never reaches a pooled connection", ("test_11_an_upgrade_is_not_passed_on",)),
    "12": (
        "Limits of head and body hold while they are read",
        ("test_12_a_body_too_long_is_413_while_it_is_read", "test_12_a_head_too_long_is_431_while_it_is_read"),
    ),
    "13": ("Who sends a head or a body too slowly is shown out", ("test_13_who_sends_too_slowly_is_shown_out",)),
    "14, 15": (
        "Events pass one by one, the first with the head",
        ("test_14_15_events_pass_one_by_one_and_the_first_comes_with_the_head",),
    ),
    "16": (
        "A model that closes kept connections fails nobody",
        (
            "test_16_a_model_that_closes_kept_connections_fails_nobody",
            "test_16_a_close_that_crosses_a_request_fails_nobody_who_may_ask_twice",
        ),
    ),
    "17": ("What may have run is not sent again", ("test_17_what_may_have_run_is_not_sent_again",)),
    "18": (
        "A connection is used again only after an answer that ended cleanly",
        ("test_18_a_connection_is_used_again_only_after_a_clean_end",),
    ),
    "19": ("Requests sent ahead are answered in order", ("test_19_requests_sent_ahead_are_answered_in_order",)),
    "20": ("An answer cut short is seen to be", ("test_20_an_answer_cut_short_is_seen_to_be",)),
    "21": (
        "A stream may take its time, but not stand still",
        ("test_21_a_stream_may_take_its_time_but_not_stand_still",),
    ),
    "22": (
        "A drained router ends the streams it has, and the connections that ask nothing",
        (
            "test_22_a_drained_router_ends_the_streams_it_has",
            "test_22_a_drained_router_ends_the_connections_that_ask_nothing",
        ),
    ),
    "23": (
        "Both keys open, nothing else does, and none goes further; a key taken away opens nothing more",
        (
            "test_23_both_keys_open_nothing_else_does_and_none_goes_further",
            "test_23_a_key_taken_away_opens_nothing_more_on_the_connection_it_was_used_on",
        ),
    ),
    "24": ("A refusal before the body was read arrives", ("test_24_a_refusal_before_the_body_was_read_arrives",)),
}  # fmt: skip


def module(name: str) -> ModuleType:
    return script(f"tests/traps/{name}.py")


def of(*modules: str) -> dict[str, Any]:
    """Every test of them, by name."""
    return {name: test for one in modules for name, test in vars(module(one)).items() if name.startswith("test_")}


def asked(name: str, test: Any) -> tuple[str, ...]:
    """The kinds that a test is of."""
    marks = {mark.name: mark for mark in getattr(test, "pytestmark", ())}
    return marks["only"].args if "only" in marks else ALONE.get(name, tuple(KINDS))


def otherwise(names: tuple[str, ...], kind: str) -> list[str]:
    """What a proxy does instead in some of these tests; none: they hold."""
    said = (reason for key, reason in DIFFERS[kind].items() if key.partition("[")[0] in names)
    return list(dict.fromkeys(said))


def table() -> Iterator[str]:
    tests = of("test_traps", "test_smuggling")
    titles = [f"{title} {peers.TRIED[kind]}" if kind in peers.TRIED else title for kind, title in KINDS.items()]
    yield f"| | what the router does | {' | '.join(titles)} |\n|---|---|{'---|' * len(KINDS)}\n"
    for number, (does, names) in ROWS.items():
        cells = []
        for kind in KINDS:
            assert any(kind in asked(name, tests[name]) for name in names), f"nobody asks {kind} about {number}"
            differs = otherwise(names, kind)
            cells.append(f"no: {'; '.join(differs)}" if differs else "yes")
        yield f"| {number} | {does} | {' | '.join(cells)} |\n"


def test_the_page_of_traps_says_what_the_tests_expect() -> None:
    head, _, rest = PAGE.read_text("utf-8").partition(BEGIN)
    made, _, foot = rest.partition(END)
    expected = "".join(table())
    if WRITE:
        PAGE.write_text(head + BEGIN + expected + END + foot, "utf-8")
    else:
        assert made == expected, "docs/traps.md differs: `make golden`, then read the diff"


def test_every_trap_has_a_row_and_every_test_is_in_one() -> None:
    numbers = [int(number) for row in ROWS for number in row.split(", ")]
    assert numbers == list(range(1, 25))
    named = [name for _, names in ROWS.values() for name in names]
    assert sorted(named) == sorted(of("test_traps", "test_smuggling"))


def test_what_is_said_to_differ_names_tests_that_are_there() -> None:
    every = of("test_traps", "test_smuggling", "test_rude")
    known = {key.partition("[")[0] for differs in peers.DIFFERS.values() for key in differs}
    assert known <= set(every)
