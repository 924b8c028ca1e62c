"""The supervisor on real processes: restart, adoption, giving up, stopping in order, one socket for all."""

from __future__ import annotations

import http.client
import json
import os
import resource
import signal
import socket
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

import envoyplane
from headgate.findings import FindingsError
from headgate_console import door, up
from headgate_console.ground import Ground
from headgate_console.supervisor import LONGEST_DELAY_S, Service, Supervisor, running, stop_everything
from headgate_kit import child
from headgate_kit.files import Locked
from headgate_kit.layout import DataFolder

WITHIN_S = 60.0  # a deadline, for a machine that does much else
LOOPS = "import time\nwhile True: time.sleep(0.05)"
SAYS_WHEN_STOPPED = (
    "import signal, sys, time\n"
    "def end(*_):\n"
    "    open(sys.argv[1], 'a').write(sys.argv[2] + '\\n'); sys.exit(0)\n"
    "signal.signal(signal.SIGTERM, end)\n"
    "open(sys.argv[1] + '.' + sys.argv[2], 'w').close()\n"
    "while True: time.sleep(0.05)"
)


@pytest.fixture
def data(tmp_path: Path) -> Iterator[DataFolder]:
    folder = DataFolder(tmp_path / "data")
    folder.prepare()
    yield folder
    stop_everything(folder, lambda _: None)
    assert running(folder.root) == []


def service(name: str, code: str = LOOPS, *arguments: str) -> Service:
    return Service(name, (sys.executable, "-c", code, *arguments), dict(os.environ))


def eventually(holds: Callable[[], object]) -> None:
    deadline = time.monotonic() + WITHIN_S
    while not holds():
        assert time.monotonic() < deadline, "it did not become true in time"
        time.sleep(0.02)


class Watched:
    """A supervisor that runs in a thread for the length of a `with`."""

    def __init__(self, supervisor: Supervisor) -> None:
        self.stop = threading.Event()
        self.error: FindingsError | None = None
        self._supervisor = supervisor
        self._thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        try:
            self._supervisor.run(self.stop)
        except FindingsError as error:
            self.error = error

    def __enter__(self) -> Watched:
        self._supervisor.begin()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop.set()
        self._thread.join(WITHIN_S)

    def wait(self) -> None:
        self._thread.join(WITHIN_S)
        assert not self._thread.is_alive()


def pid_of(data: DataFolder, name: str) -> int:
    eventually(lambda: child.pid(data.services / name))
    found = child.pid(data.services / name)
    assert found is not None
    return found


def test_a_killed_service_is_started_again_and_said_to_be(data: DataFolder) -> None:
    said: list[str] = []
    with Watched(Supervisor(data, [service("router-0"), service("controller")], said.append)):
        first, other = pid_of(data, "router-0"), pid_of(data, "controller")
        os.kill(first, signal.SIGKILL)
        eventually(lambda: child.pid(data.services / "router-0") not in (None, first))
        assert child.pid(data.services / "controller") == other
    assert "router-0 was killed by signal 9; starts again in 0.0 s" in said


def test_the_next_supervisor_adopts_what_runs(data: DataFolder) -> None:
    with Watched(Supervisor(data, [service("controller")], lambda _: None)):
        first = pid_of(data, "controller")
    said: list[str] = []
    with Watched(Supervisor(data, [service("controller")], said.append)):
        assert pid_of(data, "controller") == first
    assert said == ["controller runs, adopted"]


def test_a_service_that_never_gets_up_ends_with_its_last_words(data: DataFolder) -> None:
    broken = service("controller", "import sys; sys.exit('no module named nothing')")
    with Watched(Supervisor(data, [service("router-0"), broken], lambda _: None)) as watched:
        watched.wait()
    assert watched.error is not None
    (finding,) = watched.error.findings
    assert finding.code == "service-fails"
    assert "no module named nothing" in finding.why
    assert running(data.services) == [], "what it started itself is stopped again"


def test_a_service_that_cannot_be_started_now_is_tried_again_later(data: DataFolder) -> None:
    keeper = Supervisor(data, [service("controller")], lambda _: None).keepers[0]
    keeper.begin(0.0)
    pid = pid_of(data, "controller")
    os.kill(pid, signal.SIGKILL)
    eventually(lambda: not isinstance(child.state(keeper.folder), child.Running))
    with Locked(keeper.folder / "lock"):
        assert "cannot be started now" in keeper.tend(1.0)
    assert keeper.tend(2.0) == "", "not before its time"
    keeper.tend(1.0 + LONGEST_DELAY_S)
    assert pid_of(data, "controller") != pid


def test_a_machine_without_an_open_file_to_spare_ends_no_supervisor(data: DataFolder) -> None:
    said: list[str] = []
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with Watched(Supervisor(data, [service("router-0"), service("controller")], said.append)) as watched:
        first = pid_of(data, "router-0")
        resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
        try:
            os.kill(first, signal.SIGKILL)
            eventually(lambda: len([line for line in said if "Too many open files" in line]) == 2)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        eventually(lambda: child.pid(data.services / "router-0") not in (None, first))
        assert watched.error is None
    assert [line.partition(" ")[0] for line in said if "cannot be looked after" in line] == ["router-0", "controller"]


def test_giving_up_leaves_adopted_services_alone(data: DataFolder) -> None:
    with Watched(Supervisor(data, [service("router-0")], lambda _: None)):
        first = pid_of(data, "router-0")
    broken = service("controller", "raise SystemExit(3)")
    with Watched(Supervisor(data, [service("router-0"), broken], lambda _: None)) as watched:
        watched.wait()
    assert watched.error is not None
    assert child.pid(data.services / "router-0") == first


def test_everything_is_stopped_routers_first_and_models_last(data: DataFolder, tmp_path: Path) -> None:
    told = tmp_path / "told"
    folders = {
        "replica": data.replicas / "ep" / "rev" / "serve-0",
        "op": data.ops / "ro-1" / "mirror" / "0",
        "controller": data.services / "controller",
        "router": data.services / "router-0",
    }
    for name, folder in folders.items():
        child.start(folder, [sys.executable, "-c", SAYS_WHEN_STOPPED, str(told), name], env=dict(os.environ))
        eventually(Path(f"{told}.{name}").exists)
    stop_everything(data, lambda _: None)
    assert told.read_text().split() == ["router", "controller", "op", "replica"]


def test_a_second_up_on_one_data_folder_is_refused_by_name(data: DataFolder) -> None:
    with (
        Locked(data.lock, "headgate up, process 4711"),
        pytest.raises(FindingsError, match=r"already-up.*process 4711"),
        up.alone(data),
    ):
        pytest.fail("got the lock twice")


def ground(data: DataFolder, port: int = 0) -> Ground:
    return Ground("/nowhere", "main", data.root, "127.0.0.1", port, 1)


def router_only(data: DataFolder, sock: socket.socket) -> list[Service]:
    return [s for s in up.services(data, ground(data), sock) if s.name.startswith("router-")]


def test_the_listening_socket_is_taken_over_from_a_running_router(data: DataFolder) -> None:
    first = door.listening(data, ground(data))
    port = up.write_down(data, ground(data), first)
    with Watched(Supervisor(data, router_only(data, first), lambda _: None)):
        pid = pid_of(data, "router-0")
        eventually((data.services / "router-0" / "listen.sock").exists)
    first.close()
    second = door.listening(data, ground(data, port))
    assert second.getsockname()[1] == port
    with pytest.raises(FindingsError, match="port-changed"):
        door.listening(data, ground(data, port + 1))
    with Watched(Supervisor(data, router_only(data, second), lambda _: None)):
        assert pid_of(data, "router-0") == pid
        os.kill(pid, signal.SIGKILL)
        eventually(lambda: child.pid(data.services / "router-0") not in (None, pid))
        assert _status(port) == 404, "a connect while the router was away waited for it"
    second.close()


def test_router_workers_that_are_replaced_one_by_one_lose_no_request(data: DataFolder) -> None:
    """As an upgrade does: SIGTERM, and the supervisor starts what is installed now."""
    sock = door.listening(data, ground(data))
    port = up.write_down(data, ground(data), sock)
    seen: Counter[str] = Counter()
    over = threading.Event()

    def call() -> None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=WITHIN_S)
        while not over.is_set():
            try:
                connection.request("POST", "/endpoints/none/score", b"{}")
                answer = connection.getresponse()
                answer.read()
                seen[str(answer.status)] += 1
            except (http.client.HTTPException, OSError) as error:
                seen[type(error).__name__] += 1
                connection.close()
        connection.close()

    def replace_one(name: str) -> None:
        offered = (data.services / name / "listen.sock").exists
        eventually(offered)
        pid = pid_of(data, name)
        os.kill(pid, signal.SIGTERM)
        eventually(lambda: child.pid(data.services / name) not in (None, pid))
        eventually(offered)
        before = seen.total()
        eventually(lambda: seen.total() > before + 50)

    services = [one for one in up.services(data, replace(ground(data), workers=2), sock) if one.name != "controller"]
    callers = [threading.Thread(target=call, name=f"caller-{index}") for index in range(4)]
    with Watched(Supervisor(data, services, lambda _: None)):
        for caller in callers:
            caller.start()
        try:
            for name in ("router-0", "router-1"):
                replace_one(name)
        finally:
            over.set()
            for caller in callers:
                caller.join(WITHIN_S)
    sock.close()
    assert set(seen) == {"404"}, seen


def _status(port: int) -> int:
    with socket.create_connection(("127.0.0.1", port), timeout=WITHIN_S) as caller:
        caller.sendall(b"POST /endpoints/none/score HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{}")
        return int(caller.recv(1_000).split()[1])


def test_the_token_is_made_once_and_only_its_owner_can_read_it(data: DataFolder) -> None:
    with door.listening(data, ground(data)) as sock:
        port = up.write_down(data, ground(data), sock)
        token = data.token.read_bytes()
        up.write_down(data, ground(data), sock)
    assert data.token.read_bytes() == token
    assert data.token.stat().st_mode & 0o777 == 0o600
    assert json.loads(data.router.read_bytes()) == {"url": f"http://127.0.0.1:{port}", "workers": 1}


def test_a_taken_port_is_a_finding(data: DataFolder) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(FindingsError, match="port-taken"):
        door.listening(data, ground(data, taken.getsockname()[1]))


@pytest.fixture(params=[envoyplane.PARAM])
def beside(request: pytest.FixtureRequest, data: DataFolder) -> Ground:
    """`headgate up --dataplane envoy`; skipped where there is no Envoy."""
    return replace(ground(data), dataplane=request.param)


def test_an_envoy_serves_at_the_address_that_the_supervisor_keeps(data: DataFolder, beside: Ground) -> None:
    first = door.listening(data, beside)
    port = up.write_down(data, beside, first)
    (worker,) = door.routers(data, replace(beside, workers=3), first, dict(os.environ))
    with Watched(Supervisor(data, [worker], lambda _: None)):
        pid = pid_of(data, "router-0")
        eventually(lambda: door.answers(data))
        assert _status(port) == 404
        os.kill(pid, signal.SIGKILL)
        eventually(lambda: child.pid(data.services / "router-0") not in (None, pid))
        eventually(lambda: door.answers(data))
    first.close()  # as a supervisor that was killed
    again = door.listening(data, replace(beside, port=port))
    assert again.getsockname()[1] == port
    again.close()
    for other, code in ((replace(beside, port=port + 1), "port-changed"), (ground(data), "dataplane-changed")):
        with pytest.raises(FindingsError, match=code):
            door.listening(data, other)
    assert _status(port) == 404, "whoever asked, callers are answered"


def test_a_start_that_takes_long_says_what_it_waits_for_and_what_runs(
    data: DataFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    monkeypatch.setattr(up, "note", said.append)
    monkeypatch.setattr(up, "SAY_EVERY_S", 0.0)
    folder = data.services / "supervisor"
    for name in ("supervisor", "router-0"):
        child.start(data.services / name, (sys.executable, "-c", LOOPS), env=dict(os.environ))
    with pytest.raises(FindingsError) as caught:
        up.wait_until_up(data, folder, within_s=0.2)
    (finding,) = caught.value.findings
    assert (finding.code, "what runs: router-0" in finding.why) == ("not-up", True)
    assert said[0] == "waiting for the controller, for 0 s"
    child.stop(folder, grace_s=1)
    with pytest.raises(FindingsError, match="its supervisor ended"):
        up.wait_until_up(data, folder)
