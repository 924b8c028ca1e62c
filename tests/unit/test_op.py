"""An op asks, waits, and ends with the exit code its workflow acts on; real HTTP, real processes."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

import ports
from headgate_pipelines import op
from headgate_pipelines.op import main

Answer = tuple[int, Any]
DONE = (200, {"state": "done", "message": "passed"})
SMOKE = ("smoke", "--endpoint", "fraud", "--op-key", "ro-1/smoke")
HEAVY = ("hera", "msgspec", "httpx", "pydantic", "requests", "headgate.codec")


@pytest.fixture(autouse=True)
def _handlers() -> Iterator[None]:
    """An op's `main` takes SIGTERM for itself: whoever ends the tests would end one of them instead."""
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


class Api(ThreadingHTTPServer):
    """Answers what it was told to, the last answer again and again."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.answers: list[Answer] = [DONE]
        self.asked: list[tuple[str, dict[str, Any], str]] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class _Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        """A file; cut off in the middle as often as `answers` says so."""
        api = self.server
        assert isinstance(api, Api)
        cut, content = api.answers.pop(0) if len(api.answers) > 1 else api.answers[0]
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content[: len(content) - cut])
        self.close_connection = True

    def do_POST(self) -> None:
        api = self.server
        assert isinstance(api, Api)
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        api.asked.append((self.path, body, self.headers.get("Authorization", "")))
        status, reply = api.answers.pop(0) if len(api.answers) > 1 else api.answers[0]
        if status == 0:
            self.connection.shutdown(socket.SHUT_RDWR)  # as a controller that is killed in the middle
            return
        content = reply if isinstance(reply, bytes) else json.dumps(reply).encode()
        if status < 0:  # cut off by so many bytes
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content[:status])
            self.close_connection = True
            return
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: Any) -> None:
        """Quiet."""


@pytest.fixture
def api(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Api]:
    server = Api()
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    for name in [n for n in os.environ if n.startswith("HEADGATE_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HEADGATE_CONTROL", server.url)
    monkeypatch.setenv("HEADGATE_OUTPUTS", str(tmp_path / "out"))
    handler = signal.getsignal(signal.SIGTERM)
    yield server
    signal.signal(signal.SIGTERM, handler)
    server.shutdown()
    server.server_close()


def test_done_is_exit_0_and_leaves_its_message(api: Api, tmp_path: Path) -> None:
    assert main([*SMOKE, "--percent", "5"]) == 0
    path, body, _ = api.asked[0]
    assert path == "/ops/smoke"
    assert body == {"op_key": "ro-1/smoke", "endpoint": "fraud", "arguments": {"percent": "5"}, "wait_s": 20.0}
    assert (tmp_path / "out/message").read_text() == "passed"


@pytest.mark.parametrize(
    ("state", "code"), [("no", 3), ("later", 75), ("strange", 1)], ids=["no", "later", "from a newer controller"]
)
def test_what_is_not_done_has_its_own_exit_code(
    api: Api, capsys: pytest.CaptureFixture[str], state: str, code: int
) -> None:
    api.answers = [(200, {"state": state, "message": "because"})]
    assert main(SMOKE) == code
    assert capsys.readouterr().err.strip()


def test_wait_is_asked_again_at_once_with_the_same_key(api: Api) -> None:
    api.answers = [(200, {"state": "wait", "message": "soaking"}), (200, {"state": "wait", "message": "soaking"}), DONE]
    assert main(SMOKE) == 0
    assert len(api.asked) == 3
    assert len({json.dumps(body) for _, body, _ in api.asked}) == 1


@pytest.mark.parametrize("status", [400, 401, 404, 409, 422])
def test_a_refusal_is_permanent_and_says_why(api: Api, capsys: pytest.CaptureFixture[str], status: int) -> None:
    api.answers = [(status, {"findings": [{"code": "x", "message": "this token is not of this rollout"}]})]
    assert main(SMOKE) == 1
    assert f"answers {status} to /ops/smoke: this token is not of this rollout" in capsys.readouterr().err
    assert len(api.asked) == 1


def test_a_controller_that_restarts_is_waited_for(api: Api) -> None:
    api.answers = [(0, None), (503, {}), (500, b"boom"), (0, None), DONE]
    assert main(SMOKE) == 0
    assert len(api.asked) == 5


def test_a_controller_that_stays_away_is_tried_again_later(
    api: Api, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with ports.held() as nobodys:
        monkeypatch.setenv("HEADGATE_CONTROL", f"http://127.0.0.1:{nobodys}")
        assert main([*SMOKE, "--patience", "0.1"]) == 75
    assert "no answer for 0.1 s: ConnectionRefusedError" in capsys.readouterr().err


def test_a_controller_that_comes_back_elsewhere_is_found(
    api: Api, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    place = tmp_path / "control.json"
    monkeypatch.delenv("HEADGATE_CONTROL")
    monkeypatch.setenv("HEADGATE_CONTROL_FILE", str(place))
    threading.Timer(0.15, lambda: place.write_text(json.dumps({"url": api.url}))).start()
    assert main(SMOKE) == 0


def test_the_token_comes_from_the_environment_or_a_file(
    api: Api, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HEADGATE_TOKEN", "one")
    main(SMOKE)
    (tmp_path / "token").write_text("two\n")
    monkeypatch.setenv("HEADGATE_TOKEN_FILE", str(tmp_path / "token"))
    main(SMOKE)
    assert [token for _, _, token in api.asked] == ["Bearer one", "Bearer two"]


def test_open_leaves_rollout_and_token_as_outputs_and_prints_no_token(
    api: Api, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    api.answers = [
        (404, {"findings": [{"message": "no running rollout"}]}),
        (200, {"rollout": "ro-1", "token": "s3cret"}),
    ]
    assert main(["open", "fraud", "--commit", "ab/c"]) == 0
    assert [path for path, _, _ in api.asked] == ["/ops/open/fraud?commit=ab%2Fc"] * 2
    assert {f.name: f.read_text() for f in (tmp_path / "out").iterdir()} == {"rollout": "ro-1", "token": "s3cret"}
    assert "s3cret" not in "".join(capsys.readouterr())


def test_open_gives_up_when_the_commit_never_comes(api: Api) -> None:
    api.answers = [(404, {})]
    assert main(["open", "fraud", "--patience", "0.1"]) == 75


def test_only_build_works(api: Api, capsys: pytest.CaptureFixture[str]) -> None:
    api.answers = [(200, {"state": "work", "work": {"builds": []}})]
    assert main(SMOKE) == 1
    assert "which only build does" in capsys.readouterr().err


def test_build_reports_what_it_made_under_the_same_key(
    api: Api, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HEADGATE_DATA", str(tmp_path / "data"))
    api.answers = [(200, {"state": "work", "message": "0 to build", "work": {"builds": []}}), DONE]
    assert main(["build", "--endpoint", "fraud", "--op-key", "ro-1/build"]) == 0
    first, second = (body for _, body, _ in api.asked)
    assert second == {**first, "result": {"artifacts": {}}}


def test_a_machine_that_cannot_build_says_so_to_the_record(
    api: Api, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HEADGATE_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("HEADGATE_BUILDER", "kaniko")
    api.answers = [(200, {"state": "work", "work": {"builds": []}}), (200, {"state": "no", "message": "ended"})]
    assert main(["build", "--endpoint", "fraud", "--op-key", "ro-1/build"]) == 3
    assert api.asked[-1][1]["result"]["broken"].startswith("no builder named kaniko is installed")


@pytest.mark.parametrize(
    "argv", [("smoke", "--endpoint", "x"), ("smoke", "--op-key", "a/b"), ("smoke", "--endpoint", "x", "--op-key", "a")]
)
def test_an_op_without_endpoint_or_key_does_not_start(argv: tuple[str, ...]) -> None:
    with pytest.raises(SystemExit):
        op.arguments(argv)


def test_a_stop_ends_it_at_once(api: Api) -> None:
    api.answers = [(200, {"state": "wait", "message": "soaking"})]
    process = subprocess.Popen(
        [sys.executable, "-m", "headgate_pipelines.op", *SMOKE],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 20
    while not api.asked and time.monotonic() < deadline:
        time.sleep(0.01)
    process.terminate()
    _, err = process.communicate(timeout=20)
    assert process.returncode == 143
    assert "stopped" in err


def test_it_imports_nothing_that_takes_long() -> None:
    code = "import sys, headgate_pipelines.op; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not set(HEAVY) & set(loaded)
    assert [m for m in loaded if m.split(".")[0].startswith("headgate")] == [
        "headgate_pipelines",
        "headgate_pipelines.contract",
        "headgate_pipelines.op",
    ]


def test_a_pods_last_words_fit_what_a_cluster_reads() -> None:
    said = json.loads(op.last_words("é" * 5_000, {"message": "é" * 5_000, "digest": "abc"}))
    assert said["outputs"]["digest"] == "abc"
    assert said["message"] == said["outputs"]["message"] == "é" * len(said["message"])
    assert len(op.last_words("é" * 5_000, {"message": "é" * 5_000}).encode()) <= 4_096


def test_half_an_output_is_never_left() -> None:
    said = json.loads(op.last_words("done", {"digest": "a" * 5_000}))
    assert said == {"message": "outputs are longer than 4096 bytes", "outputs": {}}


def test_an_answer_that_is_cut_off_is_asked_for_again(api: Api) -> None:
    api.answers = [(-5, {"state": "done", "message": "passed"}), DONE]
    assert main(SMOKE) == 0
    assert len(api.asked) == 2


def test_a_file_that_is_cut_off_is_fetched_again_and_none_is_taken_for_the_whole(api: Api, tmp_path: Path) -> None:
    whole = b"x" * 3_000_000
    api.answers = [(1, whole), (2_000_000, whole), (len(whole), whole), (0, whole)]
    op.Control(5.0).download("/sources/fraud/r.tar", tmp_path / "files.tar")
    assert (tmp_path / "files.tar").read_bytes() == whole
    api.answers = [(1, whole)]
    with pytest.raises(op.Ended) as ended:
        op.Control(0.0).download("/sources/fraud/r.tar", tmp_path / "files.tar")
    assert ended.value.code == 75


def test_a_file_without_room_on_the_disk_is_tried_again_later(api: Api) -> None:
    api.answers = [(0, b"x" * 100_000)]
    with pytest.raises(op.Ended) as ended:
        op.Control(0.0).download("/sources/fraud/r.tar", Path("/dev/full"))
    assert ended.value.code == 75
    assert "No space left" in str(ended.value)
