"""Which proxy a trap is set for: ours on each data path, and nginx and haproxy when they are installed.

`@pytest.mark.only(KIND, ..., why=...)` names the ones that a test is of, and why the others are not asked. All others
must hold what a test says, but for what `DIFFERS` says they do otherwise: that must fail.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Mapping
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import uvloop

import envoyplane
import peers
from headgate_router.dataplanes.builtin import ending, guard
from headgate_router.main import ASGI, BUILTIN, ENVOY
from trapplay import DEADLINE_S, Limits, Scenario, ours, served

HANGS_S = 10.0  # where something else is expected, a hang is that

PARAMS: Mapping[str, Any] = {
    BUILTIN: BUILTIN,
    ASGI: ASGI,
    ENVOY: envoyplane.PARAM,
    **{kind: peers.param(kind) for kind in peers.PEERS},
}


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "trap" in metafunc.fixturenames:
        only = metafunc.definition.get_closest_marker("only")
        kinds = only.args if only else tuple(PARAMS)
        metafunc.parametrize("trap", [PARAMS[kind] for kind in kinds], indirect=True)


class Trap:
    """Runs a scenario behind one kind of proxy."""

    def __init__(self, kind: str, folder: Path, monkeypatch: pytest.MonkeyPatch, *, differs: bool) -> None:
        self.kind = kind
        self.folder = folder
        self._seconds = HANGS_S if differs else DEADLINE_S * 2
        self._monkeypatch = monkeypatch

    def __call__(self, scenario: Scenario, *, mirrored: bool = False, **limits: Any) -> None:
        """`limits`: those of `Limits` that are not the usual ones."""
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(self._whole(scenario, replace(Limits(), **limits), mirrored))

    async def _whole(self, scenario: Scenario, limits: Limits, mirrored: bool) -> None:
        async with asyncio.timeout(self._seconds), served() as model, served() as candidate:
            if self.kind in peers.PEERS:
                to = candidate if mirrored else None
                async with peers.peer(self.kind, self.folder, model, limits, mirrored=to) as site:
                    await site.run(scenario)
                return
            self._hasten(limits)
            async with ours(self.kind, self.folder, model, limits) as site:
                if mirrored:
                    site.mirrored = candidate
                    site.route()
                await site.run(scenario)

    def _hasten(self, limits: Limits) -> None:
        """The router's own limits are constants."""
        for module in (guard, ending):
            self._monkeypatch.setattr(module, "HEAD_S", limits.head_s)
            self._monkeypatch.setattr(module, "BODY_S", limits.body_s)
        if limits.head_s < 1 or limits.body_s < 1:
            self._monkeypatch.setattr(guard, "SWEEP_S", 0.05)


def expect(request: pytest.FixtureRequest, kind: str) -> bool:
    """Marks a test that one of them is known to fail: strictly, where its version was tried. Whether it is."""
    name = request.node.name.replace(f"[{kind}]", "").replace(f"[{kind}-", "[").replace(f"-{kind}]", "]")
    differs = peers.DIFFERS[kind]
    reason = differs.get(name) or differs.get(request.node.originalname)
    tried = kind == ASGI or peers.version(kind) == peers.TRIED[kind]
    if reason:
        request.node.add_marker(pytest.mark.xfail(reason=f"{kind} {reason}", strict=tried))
    elif not tried:
        request.node.add_marker(pytest.mark.xfail(reason=f"{kind} {peers.version(kind)} is not known", strict=False))
    return bool(reason)


@pytest.fixture
def trap(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Trap:
    differs = False
    if request.param == ENVOY:
        envoyplane.expect(request)
    elif request.param in peers.DIFFERS:
        differs = expect(request, request.param)
    return Trap(request.param, tmp_path, monkeypatch, differs=differs)


Chain = Callable[[Callable[..., Coroutine[Any, Any, None]]], None]


@pytest.fixture(params=[BUILTIN, ASGI, envoyplane.PARAM])
def behind(request: pytest.FixtureRequest, tmp_path: Path) -> Chain:
    """A model behind nginx behind each of our data paths."""
    return _chain(request, tmp_path, first=False)


@pytest.fixture(params=[BUILTIN, ASGI, envoyplane.PARAM])
def before(request: pytest.FixtureRequest, tmp_path: Path) -> Chain:
    """nginx alone, and nginx before each of our data paths."""
    return _chain(request, tmp_path, first=True)


def _chain(request: pytest.FixtureRequest, folder: Path, *, first: bool) -> Chain:
    if not peers.version(peers.NGINX):
        pytest.skip("no nginx: apt install nginx")

    async def whole(scenario: Callable[..., Coroutine[Any, Any, None]]) -> None:
        async with AsyncExitStack() as stack:
            model = await stack.enter_async_context(served())
            site = await stack.enter_async_context(ours(request.param, folder, model, Limits()))
            nginx = await stack.enter_async_context(peers.peer(peers.NGINX, folder, model, Limits(), keyed=False))
            if not first:
                site.through = nginx.port
                site.route()
                await site.run(lambda only: scenario(only))
                return
            await site.served()
            (folder / "chained").mkdir()
            to = peers.peer(peers.NGINX, folder / "chained", model, Limits(), to=site.port, keyed=False)
            chained = await stack.enter_async_context(to)
            await chained.run(lambda last: nginx.run(lambda alone: scenario(alone, last)))

    def run(scenario: Callable[..., Coroutine[Any, Any, None]]) -> None:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(whole(scenario))

    return run
