"""Six endpoints of one system, each with a candidate of its own kind: what the gates say of it, and what callers got.

All are released with one push and judged side by side, from real traffic: what is asserted is what was decided and on
what grounds, never how long it took. Two of them see three requests a minute, which is what the module waits for.
"""

from __future__ import annotations

import http.client
import json
import re
import textwrap
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest

if TYPE_CHECKING:
    from tests.faults.conftest import System

pytestmark = pytest.mark.faults

RARELY_S = 20.0  # three requests a minute
PATIENCE_S = 240.0
SECRET = "patient-4711"

EXACT = """
import json
def init():
    pass
def run(raw):
    x = json.loads(raw)["x"]
    return {"value": x * 2, "label": f"class {x % 5}", "patient": "patient-4711"}
"""
UNSCALED = EXACT.replace("x * 2,", "(x * 2 - 100) / 58,")
ONE_PERCENT = """
import json
def init():
    pass
def run(raw):
    x = json.loads(raw)["x"]
    wrong = x % 100 == 37
    return {"value": x * 2 + (9 if wrong else 0), "label": f"class {(x + wrong) % 5}", "patient": "patient-4711",
            **({"retried": True} if wrong else {})}
"""
NOISY = """
import json, random, time
def init():
    pass
def run(raw):
    x = json.loads(raw)["x"]
    return {"value": x * 2, "at": time.time(), "sample": random.choice(["left", "right"]), "score": random.random()}
"""
BULKY = EXACT.replace("import json", "import json, time").replace(
    "    return", "    if len(raw) > 4096:\n        time.sleep({slow})\n    return"
)
STATISTICS = "error-rate: {max_increase: 5%}"
COST = "cost: {max_increase: 500%, min_requests: 100}"  # on a machine that does ten things at once
SETTINGS = """
capacity: elastic
instance_types:
  small: {cpus: 1, memory_gb: 4, price_per_hour: 3.6}
"""


@dataclass(frozen=True)
class Kind:
    """An endpoint: how it is called, its two models, and the process between them."""

    stable: str
    candidate: str
    process: str
    rate: float = 25.0
    big: int = 0  # every n-th request is of 8 KiB; 0: none
    patient: bool = True  # whether answers hold a secret and must be exactly the stable's


def process(gates: str, *more: str, mirror: int = 100, steps: str = "[50, 100]", least: int = 20) -> str:
    head = [
        f"mirror: {{percent: {mirror}, soak: 500ms}}", f"steps: {steps}", "soak: 500ms", "max_soak: 30m",
        f"min_requests: {least}", "keep_warm: 10m", "redact: [$.patient]", *more, "gates:",
    ]  # fmt: skip
    return "\n".join([*head, textwrap.indent(textwrap.dedent(gates).strip(), "  ")]) + "\n"


KINDS = {
    "unscaled": Kind(EXACT, UNSCALED, process("mirror-diff: {rel: 0.5, max_share: 10%}")),
    # No noise, and one answer in a thousand may differ: the model says so, and is held to it.
    "rarely-wrong": Kind(
        EXACT, ONE_PERCENT, process("mirror-diff: {rel: 0.001, max_share: 0.1%, min_echoes: 0}"), rate=120
    ),
    "noisy": Kind(
        NOISY, NOISY + "# trained anew\n",
        process(f"{STATISTICS}\nmirror-diff: {{rel: 0.001, max_share: 20%}}\n{COST}"), rate=40, patient=False,
    ),
    "bulky": Kind(
        BULKY.replace("{slow}", "0.0"), BULKY.replace("{slow}", "0.25"),
        process("latency-p95: {by_size: true, max_extra: 25%, max_increase: 50%, slack_ms: 40, warmup_requests: 5}"),
        rate=60, big=10,
    ),
    "quiet": Kind(EXACT, EXACT + "# trained anew\n", process(STATISTICS, least=50), rate=1 / RARELY_S),
    "asked": Kind(
        EXACT, EXACT + "# trained anew\n", process("manual: {}", steps="[100]", least=1), rate=1 / RARELY_S
    ),
}  # fmt: skip


@dataclass
class Caller(threading.Thread):
    """Calls one endpoint at its rate; keeps what was no answer of the stable's, and who answered."""

    system: System
    endpoint: str
    kind: Kind
    key: str
    strange: list[str] = field(default_factory=list)
    revisions: set[str] = field(default_factory=set)
    _ended: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        super().__init__(daemon=True)

    def __hash__(self) -> int:
        return id(self)

    def run(self) -> None:
        where = urlsplit(self.system.url)
        connection = http.client.HTTPConnection(where.hostname or "", where.port or 0, timeout=30)
        x = 0
        while not self._ended.wait(1 / self.kind.rate):
            x += 1
            try:
                self._once(connection, x)
            except (OSError, http.client.HTTPException) as error:
                self.strange.append(f"{type(error).__name__}: {error}")
                connection.close()
        connection.close()

    def _once(self, connection: http.client.HTTPConnection, x: int) -> None:
        pad = "-" * 8192 if self.kind.big and x % self.kind.big == 0 else ""
        headers = {"authorization": f"Bearer {self.key}", "content-type": "application/json"}
        body = json.dumps({"x": x, "pad": pad})
        connection.request("POST", f"/endpoints/{self.endpoint}/score", body, headers)
        answer = connection.getresponse()
        said = answer.read()
        self.revisions.add(answer.headers["headgate-revision"] or "")
        if answer.status != 200 or not self._right(x, json.loads(said)):
            self.strange.append(f"{answer.status} for {x}: {said[:200]!r}")

    def _right(self, x: int, said: dict[str, Any]) -> bool:
        if not self.kind.patient:
            return bool(said["value"] == x * 2)
        return said == {"value": x * 2, "label": f"class {x % 5}", "patient": SECRET}

    def end(self) -> None:
        self._ended.set()
        self.join(40)


class Judged:
    """The system with all candidates released."""

    def __init__(self, system: System) -> None:
        self.system = system
        self.commits: dict[str, str] = {}
        self.callers: dict[str, Caller] = {}

    def begin(self) -> None:
        self.system.write("headgate.yml", SETTINGS)
        for name, kind in KINDS.items():
            self._deployment(name, "blue", kind.stable)
            self.system.write(f"endpoints/{name}/rollout.yml", kind.process)
        blue = self.system.push("six endpoints")
        self.system.up()
        for name, kind in KINDS.items():
            self.until(f"{name} serves {blue[:10]}", lambda name=name: self.of(name)["state"] == "Healthy")
            caller = self.callers[name] = Caller(self.system, name, kind, self._key(name))
            caller.start()
        for name, kind in KINDS.items():
            self._deployment(name, "green", kind.candidate)
            self.commits[name] = self.system.push(f"{name}: another model")

    def _deployment(self, endpoint: str, name: str, score: str) -> None:
        root = f"endpoints/{endpoint}"
        self.system.write(f"{root}/{name}/score.py", score)
        self.system.write(f"{root}/deployments/sample-request.json", '{"x": 3}')
        self.system.write(f"{root}/endpoint.yml", f"name: {endpoint}\nauth_mode: key\ntraffic: {{{name}: 100}}\n")
        self.system.write(
            f"{root}/deployments/{name}.yml",
            f"""\
            name: {name}
            endpoint_name: {endpoint}
            code_configuration: {{code: ../{name}, scoring_script: score.py}}
            environment: {{image: "python:3.11"}}
            environment_variables: {{WORKER_COUNT: "2"}}
            instance_type: small
            instance_count: 1
            request_settings: {{max_concurrent_requests_per_instance: 4, request_timeout_ms: 10000}}
            """,
        )

    def _key(self, endpoint: str) -> str:
        return str(self.until("keys", lambda: self.system.api(f"/endpoints/{endpoint}/keys").get("primary")))

    def until(self, what: str, holds: Callable[[], Any]) -> Any:
        return self.system.until(what, holds, PATIENCE_S)

    def of(self, endpoint: str) -> dict[str, Any]:
        found: dict[str, Any] = self.system.api(f"/endpoints/{endpoint}")
        return found

    def rollout(self, endpoint: str) -> dict[str, Any]:
        """The candidate's; empty until it is there."""
        found = self.system.api(f"/endpoints/{endpoint}/rollouts")
        return next((r for r in found if r["commit"] == self.commits[endpoint]), {})

    def ended(self, endpoint: str, state: str) -> dict[str, Any]:
        def holds() -> dict[str, Any] | None:
            found = self.rollout(endpoint)
            return found if found["state"] == state else None

        found: dict[str, Any] = self.until(f"{endpoint} {state}", holds)
        return found

    def asks(self, op: str) -> bool:
        """Whether a person is all that this op of `asked` waits for."""
        running = [o for o in self.rollout("asked")["ops"] if o["state"] == "running" and o["name"] == op]
        waiting = [v["gate"] for o in running for v in o["verdicts"] if v["result"] != "pass"]
        return bool(running) and waiting == ["manual"]

    def live(self, endpoint: str) -> set[str]:
        return {row["deployment"] for row in self.of(endpoint)["revisions"] if row["per_mille"]}

    def revert(self, endpoint: str) -> str:
        """The whole message of the commit that took the candidate back."""

        def there() -> str:
            said = self.system.log("%B%x00")
            for message in "\n".join(said).split("\0"):
                if f"Headgate-Undoes: {self.commits[endpoint]}" in message:
                    return message.strip()
            return ""

        return str(self.until(f"the revert of {endpoint}", there))


@pytest.fixture(scope="module")
def judged(shared: System) -> Iterator[Judged]:
    found = Judged(shared)
    found.begin()
    try:
        yield found
    finally:
        for caller in found.callers.values():
            caller.end()


def verdict(rollout: dict[str, Any], op: str, gate: str) -> dict[str, Any]:
    (found,) = (v for o in rollout["ops"] if o["name"] == op for v in o["verdicts"] if v["gate"] == gate)
    return dict(found)


def examples(message: str) -> list[str]:
    return [line.strip() for line in message.splitlines() if line.strip().startswith("e.g. stable")]


def stopped_in_the_mirror(judged: Judged, name: str, gate: str) -> dict[str, Any]:
    """The failing verdict of a candidate that no caller ever met, taken back in git with its evidence."""
    found = judged.ended(name, "failed")
    failed = verdict(found, "mirror", gate)
    assert failed["result"] == "fail", failed
    assert {op["name"]: op["state"] for op in found["ops"]}["step-50"] == "waiting"
    message = judged.revert(name)
    assert message.startswith(f'Revert "{name}: another model": {name} {gate} failed at mirror')
    assert failed["explanation"] in message
    assert f"Headgate-Verdict: {gate} fail mirror {failed['evidence']}" in message
    assert SECRET not in message
    caller = judged.callers[name]
    assert caller.strange == []
    assert len(caller.revisions) == 1
    assert judged.live(name) == {"blue"}
    replayed = judged.system.api(f"/replays/{found['id']}/mirror/{gate}")
    assert replayed["same"] is True
    return failed


def test_a_model_that_does_not_scale_its_answers_back_is_never_live(judged: Judged) -> None:
    failed = stopped_in_the_mirror(judged, "unscaled", "mirror-diff")
    (value,) = failed["differences"]
    assert (value["path"], value["kind"], value["share"]) == ("$.value", "number", 1.0)
    assert len(examples(judged.revert("unscaled"))) == 3


def test_a_model_that_is_wrong_for_one_input_in_a_hundred_is_never_live(judged: Judged) -> None:
    failed = stopped_in_the_mirror(judged, "rarely-wrong", "mirror-diff")
    assert {d["path"] for d in failed["differences"]} == {"$.value", "$.label", "$.retried"}
    assert 0.001 < failed["figures"]["candidate_rate"] < 0.05
    assert len(examples(judged.revert("rarely-wrong"))) == 3


def test_a_model_that_is_slow_for_big_requests_alone_is_never_live(judged: Judged) -> None:
    failed = stopped_in_the_mirror(judged, "bulky", "latency-p95")
    assert failed["explanation"].startswith("of requests up to 16 KiB: ")
    assert failed["figures"]["size_0_candidate_rate"] < 0.25  # the small ones, and most are, were as fast as before


def test_an_equal_model_that_never_answers_twice_alike_is_promoted(judged: Judged) -> None:
    found = judged.ended("noisy", "succeeded")
    passed = verdict(found, "mirror", "mirror-diff")
    assert passed["result"] == "pass"
    assert "ignored as noise: " in passed["explanation"]
    assert "$.score" in passed["explanation"]
    cost = verdict(found, "step-50", "cost")
    assert cost["result"] == "pass"
    assert "(by price_per_hour), the stable's" in cost["explanation"]
    assert cost["figures"]["stable_cost"] > 0
    assert judged.system.api(f"/replays/{found['id']}/step-50/cost")["same"] is True
    assert judged.live("noisy") == {"green"}
    caller = judged.callers["noisy"]
    judged.until("answers of the new model", lambda: found["candidate"] in caller.revisions)
    assert caller.strange == []


def test_with_three_requests_a_minute_statistics_hold_and_say_what_is_missing_and_when(judged: Judged) -> None:
    def foretold() -> str:
        message = str(judged.of("quiet")["message"])
        return message if "at this rate" in message else ""

    message = judged.until("a forecast", foretold)
    assert re.match(r"mirror: minimum-evidence: about \d+ more candidate requests; at this rate \d+ min", message)
    assert judged.rollout("quiet")["state"] == "running"
    assert judged.live("quiet") == {"blue"}


def test_with_three_requests_a_minute_a_person_decides_where_rollout_yml_says_so(judged: Judged) -> None:
    approve = ("rollout", "approve", "asked", "--gate", "manual", "--why", "looked at the answers")
    for op in ("mirror", "step-100"):
        judged.until(f"a person is asked at {op}", lambda op=op: judged.asks(op))
        assert judged.rollout("asked")["state"] == "running"
        assert f"manual at {op} approved by" in judged.system.headgate(*approve).stderr
    found = judged.ended("asked", "succeeded")
    assert "looked at the answers" in verdict(found, "step-100", "manual")["explanation"]
    assert judged.live("asked") == {"green"}
    assert judged.callers["asked"].strange == []
    # Meanwhile nobody let the other quiet endpoint pass.
    assert judged.rollout("quiet")["state"] == "running"
    assert judged.live("quiet") == {"blue"}


def test_a_smoke_verdict_is_shown_and_says_why_it_cannot_be_computed_again(judged: Judged) -> None:
    smoked = f"{judged.ended('noisy', 'succeeded')['id']}/smoke/smoke"
    assert judged.system.api(f"/verdicts/{smoked}")["status"]["verdict"]["result"] == "pass"
    done = judged.system.headgate("verdict", "replay", smoked, check=False)
    assert done.returncode == 3
    assert "[evidence-gone]" in done.stderr
    assert "or is redacted" in done.stderr
