"""What the two HTTP services say of themselves, held against what they do with every request that the saying allows."""

from __future__ import annotations

import asyncio
import hashlib
import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from headgate import codec
from headgate.table import EndpointRoute, RouteRevision, RouteTable, seal
from headgate_controllers.adapters import Adapters
from headgate_controllers.api.app import application
from headgate_controllers.api.news import News
from headgate_controllers.main import assemble
from headgate_controllers.options import Options
from headgate_kit.layout import DataFolder

ROUTER = ("/healthz", "/readyz", "/healthz/ready", "/metrics", "/endpoints/{name}/swagger.json")
CHECKS = [not_a_server_error, content_type_conformance, response_schema_conformance, status_code_conformance]
FEW = settings(max_examples=25, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))


@contextmanager
def router(root: Path) -> Iterator[str]:
    """A worker that serves one endpoint without a replica; its address."""
    data = DataFolder(root)
    key = hashlib.sha256(b"k").hexdigest()
    route = EndpointRoute("e", 1, "c" * 40, (RouteRevision("r", "blue", 1000, ()),), keys=(key,))
    data.tables.mkdir(parents=True)
    (data.tables / "router-0.json").write_bytes(codec.canonical(seal(RouteTable(1, "c" * 40, {"e": route}))))
    argv = [sys.executable, "-m", "headgate_router", "--data", str(root), "--port", "0"]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        yield child.stdout.readline().removeprefix("listening on ").strip()
        child.terminate()


def operations(schema: Any) -> dict[str, Any]:
    """Path -> operation."""
    return {f"{one.ok().method.upper()} {one.ok().path}": one.ok() for one in schema.get_all_operations()}


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with router(tmp_path_factory.mktemp("router")) as found:
        yield found


@pytest.fixture(scope="module")
def of_router(address: str) -> dict[str, Any]:
    return operations(schemathesis.openapi.from_url(f"{address}/openapi.json"))


def test_the_router_says_all_it_answers(of_router: dict[str, Any]) -> None:
    assert set(of_router) == {f"GET {path}" for path in ROUTER}


@pytest.mark.parametrize("path", ROUTER)
def test_the_router_answers_as_it_says(of_router: dict[str, Any], path: str) -> None:
    @FEW
    @given(st.data(), st.sampled_from(["", "Bearer k", "Bearer other"]))
    def ask(data: st.DataObject, credential: str) -> None:
        case = data.draw(of_router[f"GET {path}"].as_strategy())
        case.headers = {**(case.headers or {}), **({"authorization": credential} if credential else {})}
        if data.draw(st.booleans()) and case.path_parameters:
            case.path_parameters = {"name": "e"}
        case.call_and_validate(checks=CHECKS)

    ask()


# The control API. Its bodies are messages, which OpenAPI says nothing of: they are made here.

NEVER = ("POST /shutdown",)  # it would end the one that answers
NAMES = "worker boot sequence acked batches refused in_flight op_key endpoint rollout arguments who why ttl_s key_type"
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.sampled_from(["fraud", "smoke"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(NAMES.split()), inner, max_size=4),
    max_leaves=6,
)
BODIES = st.binary(max_size=12) | VALUES.map(lambda value: json.dumps(value).encode())


@pytest.fixture(scope="module")
def control(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    folder = tmp_path_factory.mktemp("control")
    repo = folder / "repo"
    subprocess.run(["git", "init", "-q", "-b", "main", str(repo)], check=True)
    data = DataFolder(folder / "data")
    data.prepare()
    parts = assemble(Options(data, str(repo), None), Adapters(), "token", News())
    yield application(parts.controller, News())
    for part in (parts.acts, parts.engine, parts.platform, parts.repo, parts.record):
        part.close()


async def asked(app: Any, method: str, path: str, query: Any, body: bytes) -> httpx.Response:
    headers = {"authorization": "Bearer token", "content-type": "application/json"}
    transport = httpx.ASGITransport(app)  # what is raised inside is raised here
    async with httpx.AsyncClient(transport=transport, base_url="http://control", headers=headers) as client:
        return await client.request(method, path, params=query, content=body)


def test_the_control_api_fails_at_no_request(control: Any) -> None:
    every = operations(schemathesis.openapi.from_asgi("/openapi.json", control))
    assert len(every) > 20

    @settings(FEW, max_examples=100)
    @given(st.data())
    def ask(data: st.DataObject) -> None:
        one = data.draw(st.sampled_from(sorted(every.keys() - set(NEVER))))
        case = data.draw(every[one].as_strategy())
        query = {key: value for key, value in (case.query or {}).items() if key != "follow"}
        said = asyncio.run(asked(control, case.method, case.formatted_path, query, data.draw(BODIES)))
        assert said.status_code < 500 or said.status_code in (503, 504), (one, said.text)

    ask()
