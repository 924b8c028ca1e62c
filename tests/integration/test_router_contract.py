"""What a caller may count on of any router: who answered, who may ask, how the split and the override choose."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from routerplay import (
    KEY,
    Heard,
    Model,
    Writer,
    ok,
    revision,
    router,
    run,
)

pytestmark = pytest.mark.usefixtures("plane")


def test_an_answer_says_who_gave_it(tmp_path: Path) -> None:
    async def scenario() -> None:
        model = await Model(ok(b'{"y": 1}')).start()
        async with router(tmp_path) as system:
            system.route(revision("rev", 1000, model))
            ids = {"x-ms-request-id": "my-id.1", "x-ms-client-request-id": "client 1", "traceparent": "00-ab-cd-01"}
            answer = await system.post(b'{"x": 1}', headers={**ids, "x-ms-client-request-id": "client-1"})
            assert (answer.status_code, answer.json()) == (200, {"y": 1})
            said = answer.headers
            assert said["x-ms-request-id"] == "my-id.1"
            assert said["x-ms-client-request-id"] == "client-1"
            assert said["azureml-model-deployment"] == "rev-name"
            assert said["headgate-revision"] == "rev"
            assert said["headgate-generation"] == "1"
            assert int(said["ms-azureml-model-time"]) >= 0
            assert "server" not in said
            (heard,) = model.heard
            assert heard.start == "POST /score HTTP/1.1"
            assert heard.body == b'{"x": 1}'
            assert heard.all("traceparent") == ["00-ab-cd-01"]
            assert heard.all("x-ms-request-id") == ["my-id.1"]
            assert heard.all("host") == [model.address.removeprefix("http://")]

    run(scenario())


@pytest.mark.parametrize("given", ["", "has space", "x" * 129, "é", "a\tb"], ids=range(5))
def test_a_request_id_that_is_not_valid_is_made_anew(tmp_path: Path, given: str) -> None:
    async def scenario() -> None:
        model = await Model(ok(b"1")).start()
        async with router(tmp_path) as system:
            system.route(revision("rev", 1000, model))
            answer = await system.post(headers={"x-ms-request-id": given.encode("latin-1")} if given else {})
            made = answer.headers["x-ms-request-id"]
            assert made != given
            assert len(made) == 32
            assert model.heard[0].all("x-ms-request-id") == [made]

    run(scenario())


def test_the_credential_and_connection_fields_end_at_the_router(tmp_path: Path) -> None:
    async def scenario() -> None:
        async def answer(heard: Heard, writer: Writer) -> None:
            writer.write(
                b"HTTP/1.1 200 OK\r\nconnection: x-private, keep-alive\r\nx-private: 1\r\nkeep-alive: timeout=5\r\n"
                b"x-public: 1\r\nheadgate-revision: forged\r\nx-ms-request-id: forged\r\ncontent-length: 2\r\n\r\nok"
            )

        model = await Model(answer).start()
        async with router(tmp_path) as system:
            system.route(revision("rev", 1000, model))
            asked = {"connection": "x-secret, keep-alive", "x-secret": "1", "te": "trailers", "x-kept": "1"}
            said = await system.post(headers={**asked, "headgate-mirror": "compare", "proxy-authorization": "x"})
            (heard,) = model.heard
            for gone in ("authorization", "x-secret", "te", "connection", "headgate-mirror", "proxy-authorization"):
                assert heard.all(gone) == []
            assert heard.all("x-kept") == ["1"]
            assert "x-private" not in said.headers
            assert said.headers["x-public"] == "1"
            assert said.headers.get_list("headgate-revision") == ["rev"]
            assert len(said.headers.get_list("x-ms-request-id")) == 1

    run(scenario())


def test_no_entry_without_exactly_one_valid_key(tmp_path: Path) -> None:
    async def scenario() -> None:
        model = await Model(ok(b"1")).start()
        async with router(tmp_path) as system:
            system.route(revision("rev", 1000, model))
            head = b"POST /endpoints/e/score HTTP/1.1\r\nhost: x\r\ncontent-length: 0\r\n"
            key = f"authorization: Bearer {KEY}\r\n".encode()
            for fields in (b"", b"authorization: Bearer wrong\r\n", key + key, b"authorization: Basic x\r\n"):
                said = await system.raw(head + fields + b"connection: close\r\n\r\n")
                assert said.startswith(b"HTTP/1.1 401 ")
                assert b"www-authenticate: Bearer" in said
                assert KEY.encode() not in said
            assert model.heard == []
            assert (await system.sealed()).statuses == {"401": 4}

    run(scenario())


def test_unknown_endpoints_drained_ones_and_unknown_deployments_are_404(tmp_path: Path) -> None:
    async def scenario() -> None:
        model = await Model(ok(b"1")).start()
        async with router(tmp_path) as system:
            assert (await system.post()).status_code == 404
            system.route(revision("rev", 0, model))
            assert (await system.post(path="/endpoints/other/score")).json()["error"]["code"] == "no-endpoint"
            drained = await system.post()
            assert (drained.status_code, drained.json()["error"]["code"]) == (404, "no-deployment")
            unknown = await system.post(headers={"azureml-model-deployment": "nobody"})
            assert unknown.status_code == 404
            twice = [("azureml-model-deployment", "rev-name"), ("azureml-model-deployment", "rev-name")]
            assert (await system.post(headers=twice)).status_code == 404
            assert model.heard == []
            named = await system.post(headers={"azureml-model-deployment": "rev-name"})
            assert named.headers["headgate-revision"] == "rev"

    run(scenario())


def test_the_split_is_exact_and_the_override_reaches_one(tmp_path: Path) -> None:
    async def scenario() -> None:
        blue, green = await Model(ok(b'"blue"')).start(), await Model(ok(b'"green"')).start()
        async with router(tmp_path) as system:
            system.route(revision("blue", 950, blue), revision("green", 50, green))
            answers = [await system.post() for _ in range(200)]
            assert Counter(a.headers["headgate-revision"] for a in answers) == {"blue": 190, "green": 10}
            assert all(a.json() == a.headers["headgate-revision"] for a in answers)
            for override in ("green-name", "green-name@green"):
                answer = await system.post(headers={"azureml-model-deployment": override})
                assert answer.json() == "green"
            live = (await system.sealed()).live
            assert (live["blue"].requests, live["green"].requests) == (190, 12)

    run(scenario())


def test_a_sticky_caller_stays_where_it_is(tmp_path: Path) -> None:
    async def scenario() -> None:
        blue, green = await Model(ok(b"1")).start(), await Model(ok(b"2")).start()
        async with router(tmp_path) as system:
            for by, fields in (("header:X-User", "x-user"), ("cookie:user", "cookie")):
                system.route(revision("blue", 500, blue), revision("green", 500, green), sticky=by)
                reached = {}
                for user in range(20):
                    value = f"a=b; user={user}" if fields == "cookie" else str(user)
                    answers = [await system.post(headers={fields: value}) for _ in range(3)]
                    (reached[user],) = {a.headers["headgate-revision"] for a in answers}
                assert set(reached.values()) == {"blue", "green"}

    run(scenario())


def test_a_new_table_decides_the_next_request(tmp_path: Path) -> None:
    async def scenario() -> None:
        blue, green = await Model(ok(b"1")).start(), await Model(ok(b"2")).start()
        async with router(tmp_path) as system:
            for turn in range(20):
                left, right = (1000, 0) if turn % 2 else (0, 1000)
                system.route(revision("blue", left, blue), revision("green", right, green))
                answer = await system.post()
                assert answer.headers["headgate-revision"] == ("blue" if turn % 2 else "green")
                assert answer.headers["headgate-generation"] == str(turn + 1)

    run(scenario())


def test_every_sub_path_and_query_goes_to_the_model_as_it_is(tmp_path: Path) -> None:
    async def scenario() -> None:
        model = await Model(ok(b"1")).start()
        async with router(tmp_path) as system:
            system.route(revision("rev", 1000, model, scoring_path="/v1/predict"))
            await system.post(path="/endpoints/e/score?a=1&b=%20")
            await system.caller.get("/endpoints/e/v1/models/x%2Fy:predict")
            await system.post(path="/score", headers={"host": "E.localhost:8080"})
            await system.post(path="/deep/er", headers={"host": "e.localhost"})
            assert [heard.start for heard in model.heard] == [
                "POST /v1/predict?a=1&b=%20 HTTP/1.1",
                "GET /v1/models/x%2Fy:predict HTTP/1.1",
                "POST /v1/predict HTTP/1.1",
                "POST /deep/er HTTP/1.1",
            ]

    run(scenario())
