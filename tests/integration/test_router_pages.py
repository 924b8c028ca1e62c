"""Everything that is not scoring: health, metrics, documents."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path

import pytest

import routerplay
from headgate.evidence import PairKind
from headgate.table import Mirror
from headgate.version import __version__
from headgate_router.datapath import data_path
from headgate_router.main import BUILTIN
from headgate_router.metrics import STATES
from routerplay import (
    Heard,
    Model,
    Writer,
    ok,
    revision,
    router,
    run,
    status,
    until,
)

PAGES = ("router.md", "envoy.md")

pytestmark = pytest.mark.usefixtures("plane")


def test_health_metrics_and_documents(tmp_path: Path) -> None:
    async def scenario() -> None:
        model = await Model(ok(b"1")).start()
        async with router(tmp_path) as system:
            get = system.caller.get
            assert (await get("/healthz")).json() == {"status": "ok", "data_path": data_path()}
            assert (await get("/readyz")).status_code == 503
            system.route(revision("rev", 1000, model))
            assert (await get("/readyz")).json()["generation"] == 1
            document = await get("/openapi.json")
            assert "/readyz" in document.json()["paths"]
            assert not re.search(r"https?://", document.text)
            assert [(await get(path)).status_code for path in ("/docs", "/redoc")] == [404, 404]
            assert (await get("/nowhere")).status_code == 404
            await system.post()
            await system.settled()
            text = (await get("/metrics")).text
            labels = 'deployment="rev-name",endpoint="e",revision="rev",worker="router-0"'
            assert f'headgate_router_requests_total{{code="200",{labels}}} 1.0' in text
            assert (
                'headgate_router_request_duration_seconds_bucket{deployment="rev-name",endpoint="e",le="+Inf"' in text
            )
            assert 'headgate_router_table_generation{worker="router-0"} 1.0' in text
            built = f'data_path="{data_path()}",version="{__version__}",worker="router-0"'
            assert f"headgate_router_build_info{{{built}}} 1.0" in text

    run(scenario())


def test_every_metric_is_in_the_docs(tmp_path: Path) -> None:
    docs = Path(__file__).parents[2] / "docs"
    told = set(re.findall(r"`(?:headgate_router_)?([a-z_]+)`", "".join((docs / name).read_text() for name in PAGES)))
    of_tls = {"handshakes_failed_total", "certificates_renewed_total"}

    async def scenario() -> None:
        async with router(tmp_path) as system:
            text = (await system.caller.get("/metrics")).text
        kinds = dict(re.findall(r"# TYPE headgate_router_(\w+) (\w+)", text))
        shown = {name for name, kind in kinds.items() if not (kind == "gauge" and name.endswith("_created"))}
        assert shown - told == set()
        if routerplay.PLANES["now"] == BUILTIN:
            listed = (docs / "router.md").read_text().partition("## Metrics")[2].partition("## ")[0]
            rows = re.findall(r"^\| ((?:`\w+`(?:, )?)+) \|", listed, re.MULTILINE)
            assert set(re.findall(r"\w+", " ".join(rows))) - shown <= of_tls

    run(scenario())


def test_requests_of_a_revision_that_run_wait_or_are_copied_are_a_metric(tmp_path: Path) -> None:
    """What replicas are scaled by: 0 is said too, and differs from nobody knowing."""

    async def scenario() -> None:
        go = asyncio.Event()

        async def wait(heard: Heard, writer: Writer) -> None:
            await go.wait()
            await ok(b"1")(heard, writer)

        model, copied = await Model(wait).start(), await Model(wait).start()
        async with router(tmp_path) as system:

            async def count(name: str) -> list[float]:
                text = (await system.caller.get("/metrics")).text
                row = 'headgate_router_requests_open{deployment="%s-name",endpoint="e",revision="%s",state="%s"'
                lines = [next(x for x in text.splitlines() if x.startswith(row % (name, name, s))) for s in STATES]
                return [float(line.rpartition(" ")[2]) for line in lines]

            one = revision("rev", 1000, model, max_concurrent_per_instance=1, max_queue_wait_ms=20_000)
            mirror = Mirror("copy", 1000, PairKind.COMPARE)
            system.route(one, revision("copy", 0, copied), mirrors=(mirror,))
            assert (await count("rev"), await count("copy")) == ([0.0, 0.0, 0.0], [0.0, 0.0, 0.0])
            asked = [asyncio.create_task(system.post()) for _ in range(2)]
            await until(lambda: system.worker.routes.open("e", "rev") == (1, 1, 0))
            assert await count("rev") == [1.0, 1.0, 0.0]
            go.set()
            assert [answer.status_code for answer in await asyncio.gather(*asked)] == [200, 200]
            await system.settled()
            assert (await count("rev"), await count("copy")) == ([0.0, 0.0, 0.0], [0.0, 0.0, 0.0])

    run(scenario())


def test_swagger_is_the_models_own_or_made_from_the_route(tmp_path: Path) -> None:
    async def scenario() -> None:
        own = await Model(ok(b'{"swagger": "2.0"}')).start()
        none = await Model(status(404, "Not Found", b"")).start()
        async with router(tmp_path) as system:
            path = "/endpoints/e/swagger.json"
            system.route(revision("rev", 1000, own))
            assert (await system.caller.get(path)).json() == {"swagger": "2.0"}
            system.route(revision("rev", 1000, none))
            made = (await system.caller.get(path)).json()
            assert list(made["paths"]) == ["/endpoints/e/score"]
            assert (await system.caller.get(path, headers={"authorization": "Bearer x"})).status_code == 401
            assert (await system.caller.get("/endpoints/other/swagger.json")).status_code == 404
            system.worker.book.seal(1.0)
            assert system.worker.book.empty

    run(scenario())
