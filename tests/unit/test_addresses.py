"""What a router knows of where its revisions answer: from the table at once, from other resolvers when they say so."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from headgate.table import EndpointRoute, RouteRevision, RouteTable, seal
from headgate_router.addresses import Addresses

ONE, TWO = "http://127.0.0.1:1", "http://127.0.0.1:2"


class Told:
    """A resolver that knows what a test tells it."""

    def __init__(self) -> None:
        self.followers: dict[str, Callable[[tuple[str, ...]], None]] = {}
        self.ended: list[str] = []

    def follow(self, revision: RouteRevision, heard: Callable[[tuple[str, ...]], None]) -> Callable[[], None]:
        if revision.service.endswith("!"):
            raise ValueError("no exclamation marks")
        self.followers[revision.service] = heard
        return lambda: self.ended.append(revision.service)

    async def close(self) -> None:
        self.ended.append("closed")


def listed(*upstreams: str) -> RouteRevision:
    return RouteRevision("r1", "blue", 1000, upstreams)


def found(service: str = "told:fraud", per_mille: int = 1000) -> RouteRevision:
    return RouteRevision("r1", "blue", per_mille, (), service=service)


def table(*revisions: RouteRevision) -> RouteTable:
    return seal(RouteTable(1, "c", {"e": EndpointRoute("e", 1, "c", revisions)}))


def addresses(resolver: Told, moved: list[str] | None = None) -> Addresses:
    return Addresses((moved if moved is not None else []).append, {"told": resolver})


def test_a_row_that_lists_its_addresses_is_known_at_once() -> None:
    moved: list[str] = []
    known = addresses(Told(), moved)
    assert known.of(listed(TWO, ONE)) == (ONE, TWO)
    assert moved == []


def test_a_service_has_no_address_until_its_resolver_says_so_and_every_change_is_told() -> None:
    moved: list[str] = []
    resolver = Told()
    known = addresses(resolver, moved)
    assert known.of(found()) == ()
    resolver.followers["told:fraud"]((ONE,))
    assert (known.of(found()), moved) == ((ONE,), ["told:fraud"])
    resolver.followers["told:fraud"](())
    assert (known.of(found()), len(moved)) == ((), 2)


def test_an_address_that_nobody_can_have_is_left_out_and_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "addresses.json"
    file.write_text('{"told:fraud": ["http://[", "http://127.0.0.1:2"]}')

    async def scenario() -> None:
        resolver = Told()
        known = Addresses([].append, {"told": resolver}, file)
        assert known.of(found()) == (TWO,)
        resolver.followers["told:fraud"]((f"http://{'a' * 64}:1", ONE))
        assert known.of(found()) == (ONE,)
        await known.close()

    asyncio.run(scenario())
    assert "told:fraud: no replica can be dialled at 'http://aaa" in caplog.text


def test_a_table_names_each_service_that_cannot_be_resolved() -> None:
    known = addresses(Told())
    (scheme,) = known.problems(table(found("nobody:x")))
    assert "no resolver 'nobody' is installed" in scheme
    (form,) = known.problems(table(found("told:x!")))
    assert "e: 'told:x!' cannot be resolved: no exclamation marks" in form
    assert known.problems(table(listed(ONE), found())) == ()


def test_a_table_waits_for_the_addresses_of_what_it_gives_traffic_and_of_nothing_else() -> None:
    async def scenario() -> None:
        resolver = Told()
        known = addresses(resolver)
        offered = table(found("told:a", 600), found("told:b", 400), found("told:mirrored", 0), listed(ONE))
        assert known.problems(offered) == ()
        waiting = asyncio.create_task(known.known(offered, 20))
        resolver.followers["told:a"]((ONE,))
        with suppress(TimeoutError):
            await asyncio.wait_for(asyncio.shield(waiting), 0.05)
        assert not waiting.done()
        resolver.followers["told:b"](())
        assert await waiting, "no replica is an answer too"

    asyncio.run(scenario())


def test_a_source_that_says_nothing_does_not_hold_a_table_for_ever() -> None:
    assert asyncio.run(addresses(Told()).known(table(found()), 0.01)) is False


def test_what_the_table_holds_no_more_is_followed_no_more() -> None:
    resolver = Told()
    known = addresses(resolver)
    for service in ("told:a", "told:b"):
        known.of(found(service))
    known.keep(table(found("told:b"), listed(ONE)))
    assert resolver.ended == ["told:a"]
    resolver.followers["told:b"]((TWO,))
    assert set(known.every()) == {TWO}
    asyncio.run(known.close())
    assert resolver.ended == ["told:a", "told:b", "closed"]


def test_what_was_known_is_there_at_the_next_start_until_the_source_says_otherwise(tmp_path: Path) -> None:
    file = tmp_path / "tables/router-0.addresses.json"

    async def first() -> None:
        resolver = Told()
        known = Addresses([].append, {"told": resolver}, file)
        for service in ("told:a", "told:b"):
            known.of(found(service))
            resolver.followers[service]((ONE,))
        known.keep(table(found("told:a")))
        await known.close()

    async def second() -> None:
        resolver, moved = Told(), list[str]()
        known = Addresses(moved.append, {"told": resolver}, file)
        assert await known.known(table(found("told:a")), 0.01) is False, "what was is not what is"
        assert (known.of(found("told:a")), set(known.every())) == ((ONE,), {ONE})
        assert known.of(found("told:b")) == (), "no table named it any more"
        resolver.followers["told:a"]((TWO,))
        assert (known.of(found("told:a")), moved) == ((TWO,), ["told:a"])
        await known.close()

    asyncio.run(first())
    asyncio.run(second())


@pytest.mark.parametrize("content", ["", "[1", '{"told:a": 5}'], ids=["empty", "cut", "odd"])
def test_a_file_that_cannot_be_read_is_nothing_known(tmp_path: Path, content: str) -> None:
    file = tmp_path / "addresses.json"
    file.write_text(content)
    assert Addresses([].append, {"told": Told()}, file).of(found("told:a")) == ()


def test_a_place_that_cannot_be_written_stops_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "taken").write_text("")

    async def scenario() -> None:
        resolver = Told()
        known = Addresses([].append, {"told": resolver}, tmp_path / "taken/addresses.json")
        known.of(found())
        resolver.followers["told:fraud"]((ONE,))
        assert known.of(found()) == (ONE,)
        await known.close()

    asyncio.run(scenario())
    assert "the addresses known were not saved" in caplog.text
