"""The worker's parts, called directly; the whole of it runs in tests/integration/test_serving.py."""

from __future__ import annotations

import ast
import json
import sys
from pathlib import Path
from typing import Any

import pytest

from headgate_serving import worker

SOURCE = Path(worker.__file__).read_text()


def meta(method: str = "POST", query: str = "", **headers: str) -> dict[str, Any]:
    return {"method": method, "path": "/score", "query": query, "headers": [[k, v] for k, v in headers.items()]}


def script(tmp_path: Path, text: str) -> worker.Script:
    (tmp_path / "a_script.py").write_text(text)
    return worker.Script(str(tmp_path / "a_script.py"))


def test_the_file_can_be_read_by_python_3_8() -> None:
    ast.parse(SOURCE, feature_version=(3, 8))


def test_the_file_imports_nothing_but_the_standard_library() -> None:
    tree = ast.parse(SOURCE)
    names = {a.name.split(".")[0] for n in ast.walk(tree) if isinstance(n, ast.Import) for a in n.names}
    names |= {(n.module or "").split(".")[0] for n in ast.walk(tree) if isinstance(n, ast.ImportFrom)}
    assert names <= sys.stdlib_module_names


@pytest.mark.parametrize(
    ("output", "body"),
    [
        pytest.param({"a": [1, 2.5]}, '{"a": [1, 2.5]}', id="object"),
        pytest.param('{"a": 1}', '"{\\"a\\": 1}"', id="text-is-quoted"),
        pytest.param(None, "{}", id="none-is-an-empty-object"),
        pytest.param([float("nan")], "[NaN]", id="nan-is-bare-as-on-azure"),
    ],
)
def test_what_run_returns_becomes_json(output: object, body: str) -> None:
    status, headers, content = worker.shaped(output)
    assert (status, content) == (200, body)
    assert ["content-type", "application/json"] in headers


def test_what_json_cannot_hold_is_named() -> None:
    with pytest.raises(worker.Unserialisable, match="type complex is not JSON serializable"):
        worker.shaped({"a": 1j})


def test_a_response_chooses_its_own_status_and_headers() -> None:
    response = worker.AMLResponse("busy", 503, {"Retry-After": "7", "Content-Type": "text/plain"})
    status, headers, content = worker.shaped(response)
    assert (status, content) == (503, "busy")
    assert ["retry-after", "7"] in headers
    assert [v for k, v in headers if k == "content-type"] == ["text/plain"]
    assert ["x-ms-run-function-failed", "True"] in headers


def test_a_response_may_be_json_or_empty() -> None:
    assert worker.shaped(worker.AMLResponse({"a": 1}, 200, json_str=True))[2] == '{"a": 1}'
    assert worker.shaped(worker.AMLResponse(None, 200))[2] == "{}"


def test_headers_are_found_in_any_case() -> None:
    headers = worker.Headers([["x-ms-request-id", "1"], ["accept", "a"], ["accept", "b"]])
    assert headers["X-MS-Request-Id"] == headers.get("x-ms-request-id") == "1"
    assert "ACCEPT" in headers
    assert headers["accept"] == "a,b"
    assert headers.get("no") is None


def test_the_body_of_a_post_is_text_and_the_query_of_a_get_is_json() -> None:
    assert worker.text_of(meta(), "ü".encode()) == "ü"
    assert json.loads(worker.text_of(meta("GET", "a=1&b=x&c=1&c=[2]"), b"")) == {"a": 1, "b": "x", "c": [1, [2]]}


def test_a_body_that_is_not_text_is_the_callers_fault() -> None:
    with pytest.raises(worker.BadInput, match="UTF-8"):
        worker.text_of(meta(), b"\xff")


def test_run_gets_the_headers_when_it_asks_for_them(tmp_path: Path) -> None:
    found = script(tmp_path, "def init(): pass\ndef run(raw, request_headers): return [raw, request_headers['Accept']]")
    assert found.call(meta(accept="b"), b"a") == ["a", "b"]


def test_a_raw_run_gets_the_request(tmp_path: Path) -> None:
    worker.provide_azure_modules()
    found = script(
        tmp_path,
        "from azureml.contrib.services.aml_request import AMLRequest, rawhttp\n"
        "from azureml_inference_server_http.api.aml_response import AMLResponse\n"
        "def init(): pass\n"
        "@rawhttp\n"
        "def run(request):\n"
        "    assert isinstance(request, AMLRequest)\n"
        "    text = request.get_data().decode()\n"
        "    return [request.method, text, request.args, request.get_json(), request.mimetype]\n",
    )
    answer = found.call(meta("POST", "q=1", **{"content-type": "application/json; x"}), b"[7]")
    assert answer == ["POST", "[7]", {"q": "1"}, [7], "application/json"]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        pytest.param("def run(data): pass", "a_script.py has no init", id="no-init"),
        pytest.param("def init(): pass", "a_script.py has no run", id="no-run"),
        pytest.param("def init(): pass\ndef run(): pass", "takes no argument", id="no-argument"),
    ],
)
def test_a_script_without_the_contract_is_refused(tmp_path: Path, text: str, says: str) -> None:
    with pytest.raises(worker.BadScript, match=says):
        script(tmp_path, text)


def test_a_reason_has_the_place_in_the_users_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AML_APP_ROOT", str(tmp_path))
    found = script(tmp_path, "def init(): pass\ndef run(data):\n    return 1 / 0\n")
    with pytest.raises(ZeroDivisionError) as caught:
        found.call(meta(), b"")
    assert worker.reason(caught.value) == "a_script.py:3: ZeroDivisionError: division by zero"


def test_a_syntax_error_has_its_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AML_APP_ROOT", str(tmp_path))
    with pytest.raises(SyntaxError) as caught:
        script(tmp_path, "def init(): pass\ndef run(data:\n")
    assert worker.reason(caught.value).startswith("a_script.py:2: SyntaxError")


def test_a_script_named_like_a_module_in_use_does_not_replace_it(tmp_path: Path) -> None:
    (tmp_path / "json.py").write_text("def init(): pass\ndef run(data): return data\n")
    assert worker.Script(str(tmp_path / "json.py")).call(meta(), b"a") == "a"
    assert sys.modules["json"] is json
