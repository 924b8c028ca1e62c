"""A front and its workers as real processes, asked over HTTP, with real small scoring scripts."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import httpx
import pytest

from fronts import DEADLINE_S, ECHO, Replica, until
from headgate import codec
from headgate.workload import REPLICA
from headgate_serving.settings import SERVE, ServeSettings

Start = Callable[..., Replica]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    made: list[Replica] = []

    def make(script: str = ECHO, *, body_limit: int = 1_000_000, **variables: str) -> Replica:
        made.append(Replica(tmp_path, script, variables, body_limit))
        return made[-1]

    yield make
    for replica in made:
        replica.close()


def test_run_gets_the_body_as_text_and_its_answer_is_json(start: Start) -> None:
    answer = start().ready().score('{"data": [1]}', **{"x-ms-request-id": "mine"})
    assert (answer.status_code, answer.json()) == (200, '{"data": [1]}')
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["x-ms-request-id"] == "mine"
    assert float(answer.headers["x-ms-run-fn-exec-ms"]) >= 0


def test_init_runs_once_and_finds_the_model_and_the_variables(start: Start) -> None:
    script = (
        "import os\ncalls = []\n"
        "def init():\n    calls.append(open(os.environ['AZUREML_MODEL_DIR'] + '/weights.txt').read())\n"
        "def run(data):\n    return [calls, os.environ['GREETING'], os.path.basename(os.getcwd())]\n"
    )
    replica = start(script, GREETING="hello").ready()
    assert [replica.score().json() for _ in range(2)] == [[["42"], "hello", "code"]] * 2


def test_a_script_may_import_its_neighbours_but_not_ours(start: Start) -> None:
    script = (
        "import importlib.util\nimport sys\n"
        "def init():\n    pass\n"
        "def run(data):\n    return [bool(importlib.util.find_spec(n)) for n in ('score', 'workers', 'inference')]\n"
    )
    assert start(script).ready().score().json() == [True, False, False]


def test_an_exception_in_run_is_a_500_with_a_place_in_the_log_and_the_process_lives(start: Start) -> None:
    replica = start("def init():\n    pass\ndef run(data):\n    return 1 / int(data)\n").ready()
    answer = replica.score("0", **{"x-ms-request-id": "the-bad-one"})
    assert answer.status_code == 500
    assert answer.headers["x-ms-run-function-failed"] == "True"
    assert "ZeroDivisionError" not in answer.text
    assert "request the-bad-one: run() failed: score.py:4: ZeroDivisionError" in replica.log
    assert 'score.py", line 4, in run' in replica.log
    assert "worker.py" not in replica.log
    assert replica.score("1").json() == 1.0


def test_what_json_cannot_hold_is_a_500_that_says_so(start: Start) -> None:
    answer = start("def init():\n    pass\ndef run(data):\n    return {1, 2}\n").ready().score()
    assert answer.status_code == 500
    assert "type set is not JSON serializable" in answer.json()["message"]


def test_a_raw_request_and_response(start: Start) -> None:
    script = (
        "from azureml.contrib.services.aml_request import AMLRequest, rawhttp\n"
        "from azureml.contrib.services.aml_response import AMLResponse\n"
        "def init():\n    pass\n"
        "@rawhttp\ndef run(request):\n"
        "    body = request.get_data() + request.headers['x-mark'].encode()\n"
        "    return AMLResponse(body, 202, {'X-More': 'yes'})\n"
    )
    answer = start(script).ready().score(b"\xff\x00", **{"X-Mark": "m"})
    assert (answer.status_code, answer.content, answer.headers["x-more"]) == (202, b"\xff\x00m", "yes")


@pytest.mark.parametrize(
    "made",
    [
        pytest.param("AMLResponse('x', 200, {'X-\\u65e5': '1'})", id="a header's name"),
        pytest.param("AMLResponse('x', 200, {'X-More': 'a\\nb'})", id="a header's value"),
        pytest.param("AMLResponse('x', 42)", id="a status"),
        pytest.param("AMLResponse(iter(['x']), 200, {'X-\\u65e5': '1'})", id="a header's name of a stream"),
        pytest.param("AMLResponse(iter(['x']), 200, {'X-More': 'a\\nb'})", id="a header's value of a stream"),
        pytest.param("AMLResponse(iter(['x']), 42)", id="a status of a stream"),
        pytest.param("AMLResponse('\\ud800', 200)", id="half a character"),
        pytest.param("AMLResponse(iter(['\\ud800']), 200)", id="half a character of a stream"),
        pytest.param("AMLResponse(5, 200)", id="a number"),
        pytest.param("AMLResponse('x', 200, {'Content-Length': '5'})", id="a length of its own"),
        pytest.param("AMLResponse(iter(['x']), 200, {'Content-Length': '0'})", id="a shorter length of a stream"),
        pytest.param("AMLResponse(iter(['x']), 200, {'Content-Length': '9'})", id="a longer length of a stream"),
    ],
)
def test_an_answer_that_cannot_be_sent_costs_one_answer_and_no_worker(start: Start, made: str) -> None:
    script = (
        "from azureml.contrib.services.aml_response import AMLResponse\n"
        "def init():\n    pass\n"
        f"def run(data):\n    return {made} if data == 'odd' else data\n"
    )
    replica = start(script).ready()
    for _ in range(2):
        with suppress(httpx.HTTPError):
            replica.score("odd")
        assert replica.score("fine").json() == "fine"


def test_liveness_answers_while_user_code_holds_the_interpreter(start: Start) -> None:
    script = "import time\ndef init():\n    time.sleep(600)\ndef run(data):\n    pass\n"
    replica = start(script)
    assert replica.client.get(replica.url + "/").text == "Healthy"
    assert replica.client.get(replica.url + "/ready").status_code == 503
    assert replica.score().status_code == 503


@pytest.mark.parametrize(
    ("script", "says"),
    [
        pytest.param(
            "import no_such_module\n", "score.py:1: ModuleNotFoundError: No module named 'no_such_module'", id="import"
        ),
        pytest.param(
            "def init():\n    raise ValueError('no')\ndef run(d):\n    pass\n", "score.py:2: ValueError: no", id="init"
        ),
        pytest.param("def init(:\n", "score.py:1: SyntaxError", id="syntax"),
        pytest.param(
            "import sys\ndef init():\n    sys.exit(9)\ndef run(d):\n    pass\n", "score.py:3: SystemExit: 9", id="exit"
        ),
        pytest.param("import os\nos._exit(9)\n", "its process ended with code 9", id="hard-exit"),
        pytest.param("def init():\n    pass\n", "score.py has no run() function", id="no-run"),
    ],
)
def test_a_script_that_does_not_start_ends_the_replica_with_the_reason(start: Start, script: str, says: str) -> None:
    replica = start(script)
    assert replica.process.wait(DEADLINE_S) == 3
    assert says in replica.log.splitlines()[-1]


def test_a_missing_scoring_script_ends_the_replica_with_the_reason(start: Start, tmp_path: Path) -> None:
    replica = start()
    replica.close()
    (tmp_path / "bundle/code/src/score.py").unlink()
    again = subprocess.run(
        [sys.executable, "-P", "-m", "headgate_serving.front"],
        env={
            SERVE: codec.canonical(ServeSettings(str(tmp_path / "bundle"), sys.executable)).decode(),
            REPLICA: str(tmp_path),
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert again.returncode == 3
    assert "the scoring script is not there" in again.stderr


@pytest.mark.parametrize("how", ["sys.exit(5)", "os.kill(os.getpid(), 9)"])
def test_a_worker_that_ends_answers_502_and_ends_the_replica(start: Start, how: str) -> None:
    replica = start(f"import os, sys\ndef init():\n    pass\ndef run(data):\n    {how}\n").ready()
    assert replica.score().status_code == 502
    assert replica.process.wait(DEADLINE_S) == 4
    assert "the replica ends with it" in replica.log.splitlines()[-1]


def test_a_run_that_hangs_fails_its_request_and_ends_the_replica(start: Start) -> None:
    script = "import time\ndef init():\n    pass\ndef run(data):\n    time.sleep(600)\n"
    replica = start(script, WORKER_TIMEOUT="1").ready()
    answer = replica.score()
    assert (answer.status_code, answer.json()["message"]) == (500, "run() took longer than WORKER_TIMEOUT, 1 s")
    assert replica.process.wait(DEADLINE_S) == 4
    assert "run() took longer than WORKER_TIMEOUT, 1 s" in replica.log.splitlines()[-1]


def test_a_replica_asked_to_end_during_init_ends(start: Start) -> None:
    replica = start("import time\ndef init():\n    time.sleep(600)\ndef run(data):\n    pass\n")
    assert replica.client.get(replica.url + "/").text == "Healthy"
    replica.process.terminate()
    assert replica.process.wait(DEADLINE_S) == 0


def test_requests_wait_in_line_for_the_one_worker(start: Start) -> None:
    replica = start(
        "import time\ndef init():\n    pass\ndef run(data):\n    time.sleep(0.01)\n    return data\n"
    ).ready()
    answers: list[str] = []
    asking = [threading.Thread(target=lambda n=n: answers.append(replica.score(str(n)).json())) for n in range(12)]
    for thread in asking:
        thread.start()
    for thread in asking:
        thread.join(DEADLINE_S)
    assert sorted(answers, key=int) == [str(n) for n in range(12)]


def test_who_waits_in_line_is_sent_elsewhere_when_the_worker_ends(start: Start, tmp_path: Path) -> None:
    script = (
        "import os, time\ndef init():\n    pass\ndef run(data):\n"
        "    while not os.path.exists(os.environ['GO']):\n        time.sleep(0.01)\n    os._exit(1)\n"
    )
    replica = start(script, GO=str(tmp_path / "go")).ready()
    host, port = replica.url.removeprefix("http://").split(":")
    with ExitStack() as stack:
        asking = [
            stack.enter_context(socket.create_connection((host, int(port)), timeout=DEADLINE_S)) for _ in range(4)
        ]
        for caller in asking:
            caller.sendall(b"POST /score HTTP/1.1\r\nhost: h\r\ncontent-length: 2\r\n\r\n{}")
        for _ in range(5):  # each is a turn of the front's loop, or more: it has read what was sent before
            assert replica.client.get(replica.url + "/").status_code == 200
        (tmp_path / "go").touch()
        statuses = [int(caller.recv(1000).split()[1]) for caller in asking]
    assert sorted(statuses) == [502, 503, 503, 503]


def test_the_worker_ends_when_the_front_is_killed(start: Start) -> None:
    replica = start("import os\ndef init():\n    pass\ndef run(data):\n    return os.getpid()\n").ready()
    worker = replica.score().json()
    replica.process.kill()
    until(lambda: not alive(worker))


def test_requests_in_flight_are_answered_before_the_end(start: Start) -> None:
    script = (
        "import os, time\ndef init():\n    pass\n"
        "def run(data):\n"
        "    open(os.environ['SEEN'], 'w').close()\n"
        "    while not os.path.exists(os.environ['GO']):\n        time.sleep(0.01)\n"
        "    return 'done'\n"
    )
    replica = start(script)
    replica.close()
    folder = replica.folder / "second"
    folder.mkdir()
    slow = Replica(folder, script, {"SEEN": str(folder / "seen"), "GO": str(folder / "go")}, 1_000)
    answers: list[httpx.Response] = []
    try:
        slow.ready()
        asking = threading.Thread(target=lambda: answers.append(slow.score()))
        asking.start()
        until((folder / "seen").exists)
        slow.process.send_signal(signal.SIGTERM)
        until(lambda: refuses(slow.url))
        (folder / "go").touch()
        asking.join(DEADLINE_S)
        assert answers[0].json() == "done"
        assert slow.process.wait(DEADLINE_S) == 0
    finally:
        slow.close()


def refuses(url: str) -> bool:
    host, port = url.removeprefix("http://").split(":")
    try:
        socket.create_connection((host, int(port)), timeout=1).close()
    except OSError:
        return True
    return False


@pytest.mark.parametrize("preload", ["false", "true"])
def test_several_workers_serve_at_once(start: Start, tmp_path: Path, preload: str) -> None:
    """Each waits for the other's file: one worker alone would never answer."""
    script = (
        "import os, time\nstarted = []\n"
        "def init():\n    started.append(os.getpid())\n"
        "def run(name):\n"
        "    open(os.environ['MARKS'] + name, 'w').close()\n"
        "    other = os.environ['MARKS'] + {'a': 'b', 'b': 'a'}[name]\n"
        "    while not os.path.exists(other):\n        time.sleep(0.01)\n"
        "    return [started[0], os.getpid()]\n"
    )
    marks = str(tmp_path / "marks-")
    replica = start(script, WORKER_COUNT="2", WORKER_PRELOAD=preload, MARKS=marks).ready()
    answers: dict[str, list[int]] = {}
    asking = [threading.Thread(target=lambda n=n: answers.update({n: replica.score(n).json()})) for n in "ab"]
    for thread in asking:
        thread.start()
    for thread in asking:
        thread.join(DEADLINE_S)
    assert answers["a"][1] != answers["b"][1]
    assert (answers["a"][0] == answers["b"][0]) is (preload == "true")


def test_a_generator_is_streamed_chunk_by_chunk(start: Start) -> None:
    script = (
        "def init():\n    pass\n"
        "def run(data):\n    return words()\n"
        "def words():\n    for i in range(3):\n        yield f'data: {i}\\n\\n'\n"
    )
    replica = start(script).ready()
    with replica.client.stream("POST", replica.url + "/score", content="x") as answer:
        assert answer.headers["content-type"] == "text/event-stream"
        assert "".join(answer.iter_text()) == "data: 0\n\ndata: 1\n\ndata: 2\n\n"
    assert replica.score().status_code == 200


def test_a_stream_that_breaks_off_is_seen_as_broken_and_the_worker_lives(start: Start) -> None:
    words = "def words():\n    yield 'a'\n    raise ValueError('broke')\n"
    script = "def init():\n    pass\ndef run(data):\n    return words()\n" + words
    replica = start(script).ready()
    with pytest.raises(httpx.RemoteProtocolError):
        replica.score()
    assert "the stream broke off: score.py:7: ValueError: broke" in replica.log
    with pytest.raises(httpx.RemoteProtocolError):
        replica.score()


def test_a_stream_nobody_reads_any_more_is_ended(start: Start) -> None:
    script = (
        "import time\nended = []\n"
        "def init():\n    pass\n"
        "def run(data):\n    return ended if data == 'ended?' else words()\n"
        "def words():\n    try:\n        while True:\n            yield 'x'\n            time.sleep(0.01)\n"
        "    finally:\n        ended.append(1)\n"
    )
    replica = start(script).ready()
    with replica.client.stream("POST", replica.url + "/score", content="x") as answer:
        next(answer.iter_bytes())
    assert replica.score("ended?").json() == [1]


def test_a_body_above_the_limit_is_refused(start: Start) -> None:
    assert start(body_limit=10).ready().score("12345678901").status_code == 413


def test_one_connection_serves_many_requests(start: Start) -> None:
    replica = start().ready()
    assert [replica.score(str(i)).json() for i in range(50)] == [str(i) for i in range(50)]


def test_what_was_placed_where_is_in_the_second_log(start: Start) -> None:
    replica = start().ready()
    text = (replica.folder / "storage-initializer").read_text()
    assert f"model: {replica.folder}/bundle/models/m/1, 2 bytes" in text


def alive(number: int) -> bool:
    try:
        os.kill(number, 0)
    except ProcessLookupError:
        return False
    return True
