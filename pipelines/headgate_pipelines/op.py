"""One op of a workflow: asks the control API for its phase's verb and waits until the phase has ended.

    python -m headgate_pipelines.op VERB --endpoint NAME --op-key WORKFLOW/OP [--percent P] [--status S]
    python -m headgate_pipelines.op open|rollout NAME [--commit ID]

Exit: 0 done, 3 no, 75 try again, anything else permanent (`contract.py`). It decides nothing and remembers nothing:
killed and started again with the same op-key it is told the same. Standard library only, so that it starts in 40 ms;
only `build`, which does its work here, imports more, and only once there is work.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import signal
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn
from urllib.parse import quote, urlsplit

from headgate_pipelines import contract

VERBS = ("build", "smoke", "deploy", "mirror", "step", "finalize", "close", "open", "rollout")
WAIT_S = 20.0  # how long the control API may hold one question
TIMEOUT_S = WAIT_S + 15.0  # then the connection counts as dead
PATIENCE_S = 120.0  # how long nobody may answer: a controller that restarts takes seconds
PAUSES_S = (0.05, 0.1, 0.2, 0.5, 1.0, 2.0)  # between tries; the last one repeats
REPLY_LIMIT = 16 * 1024 * 1024
CHUNK = 1 << 20
LEFT: dict[str, str] = {}  # output parameters of this process


class Ended(Exception):
    """The op is over with this exit code; the text is for a person."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code


class Silent(Exception):
    """Nobody answered, or somebody who is not able to just now."""


class Control:
    """The control API, as an op sees it: it may be away for `patience_s`, and come back at another address.

    Args:
        token: empty: what the environment says.
    """

    def __init__(self, patience_s: float, token: str = "") -> None:
        self.patience_s = patience_s
        self._url = os.environ.get(contract.ENV_CONTROL, "")
        self._file = os.environ.get(contract.ENV_CONTROL_FILE, "")
        if not self._url and not self._file:
            raise Ended(contract.FAILED, f"{contract.ENV_CONTROL} is not set: the URL of Headgate's control API")
        self._token = token or _token()

    def post(self, path: str, body: Any) -> Any:
        """The reply's JSON. Raises Ended: refused, or nobody answered for `patience_s`."""
        content = json.dumps(body).encode()
        return _json(path, self._patiently(lambda: self._text("POST", path, content)))

    def read(self, path: str) -> Any:
        """The reply's JSON; None: there is no such thing. Raises Ended as `post`."""
        try:
            return _json(path, self._patiently(lambda: self._text("GET", path, None)))
        except Ended as error:
            if " 404 " in str(error):
                return None
            raise

    def download(self, path: str, into: Path) -> None:
        """A file, written to `into`. Raises Ended as `post`."""
        self._patiently(lambda: self._save(path, into))

    def _patiently(self, ask: Any) -> Any:
        deadline, pauses = time.monotonic() + self.patience_s, _pauses()
        while True:
            try:
                return ask()
            except Silent as error:
                if time.monotonic() >= deadline:
                    raise Ended(contract.AGAIN, f"no answer for {self.patience_s:g} s: {error}") from None
                time.sleep(next(pauses))

    def _text(self, method: str, path: str, content: bytes | None) -> bytes:
        response = self._ask(method, path, content)
        text = _part(response, REPLY_LIMIT + 1)
        if len(text) > REPLY_LIMIT:
            raise Ended(contract.FAILED, f"the control API's answer to {path} is longer than {REPLY_LIMIT} bytes")
        _ended(response)
        return text

    def _save(self, path: str, into: Path) -> None:
        response = self._ask("GET", path, None)
        try:
            with into.open("wb") as file:  # whole again on every try
                while chunk := _part(response, CHUNK):
                    file.write(chunk)
        except OSError as error:  # a full disk
            raise Silent(_words(error)) from None
        _ended(response)

    def _ask(self, method: str, path: str, content: bytes | None) -> http.client.HTTPResponse:
        headers = {"Content-Type": "application/json", "Accept": "application/json"}
        if self._token:
            headers["Authorization"] = f"Bearer {self._token}"
        try:
            # A new connection each time: one left open would outlive the controller it was made to.
            connection, base = self._connection()
            connection.request(method, base + path, content, headers)
            response = connection.getresponse()
        except (OSError, http.client.HTTPException) as error:
            raise Silent(_words(error)) from None
        if response.status >= 500 or response.status == 429:
            raise Silent(f"the control API answers {response.status}")
        if response.status >= 400:
            raise Ended(contract.FAILED, _refusal(path, response))
        return response

    def _connection(self) -> tuple[http.client.HTTPConnection, str]:
        address = urlsplit(self._address())
        if address.scheme not in ("http", "https") or not address.hostname:
            raise Ended(contract.FAILED, f"{contract.ENV_CONTROL} is not an http(s) URL")
        kind = http.client.HTTPSConnection if address.scheme == "https" else http.client.HTTPConnection
        return kind(address.hostname, address.port, timeout=TIMEOUT_S), address.path.rstrip("/")

    def _address(self) -> str:
        if self._url:
            return self._url
        try:
            return str(json.loads(Path(self._file).read_bytes())["url"])
        except (OSError, ValueError, KeyError, TypeError):
            raise Silent(f"{Path(self._file).name} names no control API") from None


def _part(response: http.client.HTTPResponse, size: int) -> bytes:
    """Raises Silent: whoever answered is gone."""
    try:
        return response.read(size)
    except (OSError, http.client.HTTPException) as error:
        raise Silent(_words(error)) from None


def _ended(response: http.client.HTTPResponse) -> None:
    """Raises Silent: the connection ended before the answer did, which a read of some bytes does not tell."""
    if response.length:
        raise Silent(f"the answer was cut off, {response.length:,} bytes before its end")


def _json(path: str, text: bytes) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        raise Ended(contract.FAILED, f"the control API's answer to {path} is not JSON") from None


def _token() -> str:
    file = os.environ.get(contract.ENV_TOKEN_FILE, "")
    if not file:
        return os.environ.get(contract.ENV_TOKEN, "")
    try:
        return Path(file).read_text().strip()
    except OSError as error:
        raise Ended(contract.FAILED, f"{contract.ENV_TOKEN_FILE}: {error.strerror}") from None


def _pauses() -> Iterator[float]:
    yield from PAUSES_S
    while True:
        yield PAUSES_S[-1]


def _words(error: Exception) -> str:
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__


def _refusal(path: str, response: http.client.HTTPResponse) -> str:
    """What the control API said no with: its findings' messages, or its own words."""
    try:
        text = response.read(8_192)
        found = json.loads(text)["findings"]
        said = "; ".join(str(f["message"]) for f in found)
    except (OSError, http.client.HTTPException):
        said = ""
    except (ValueError, KeyError, TypeError):
        said = text.decode("utf-8", "replace").strip()
    return f"the control API answers {response.status} to {path.partition('?')[0]}{': ' if said else ''}{said}"


def arguments(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser("headgate_pipelines.op", description="One op of a rollout's workflow.")
    parser.add_argument("verb", choices=VERBS)
    parser.add_argument("name", nargs="?", default="", help="open, rollout: the endpoint")
    parser.add_argument("--endpoint", default="")
    parser.add_argument("--op-key", default="", help="ROLLOUT/OP: the name under which the effect is recorded once")
    parser.add_argument("--percent", default="", help="step, mirror: of the way to the traffic asked for, of requests")
    parser.add_argument("--status", default="", help="close: how the workflow ended")
    parser.add_argument("--commit", default="", help="open, rollout: whose it is; open: any when left out")
    parser.add_argument("--patience", type=float, default=PATIENCE_S, help="seconds that nobody may answer")
    given = parser.parse_args(argv)
    given.endpoint = given.endpoint or given.name
    if not given.endpoint:
        parser.error("--endpoint is missing")
    if given.verb == "rollout" and not given.commit:
        parser.error("--commit is missing")
    if given.verb not in ("open", "rollout") and not all(given.op_key.rpartition("/")[::2]):
        parser.error("--op-key ROLLOUT/OP is missing")
    return given


def run(given: argparse.Namespace) -> str:
    """Asks until it is over; the text that ends a good op. Raises Ended."""
    control = Control(given.patience)
    if given.verb == "open":
        return _open(control, given)
    if given.verb == "rollout":
        return _rollout(control, given)
    asked = {k: v for k, v in (("percent", given.percent), ("status", given.status)) if v}
    request = {"op_key": given.op_key, "endpoint": given.endpoint, "arguments": asked, "wait_s": WAIT_S}
    said = ""
    while True:
        began = time.monotonic()
        reply = control.post(f"/ops/{given.verb}", request)
        state, message = str(reply.get("state", "")), str(reply.get("message", ""))
        if message != said:
            print(message, flush=True)
            said = message
        if state == "work":
            request["result"] = _work(control, given, reply.get("work") or {})
        elif state == "wait":
            if time.monotonic() - began < 0.1:  # answered at once: a long poll that does not hold must not spin
                time.sleep(0.2)
        else:
            _leave({"message": message})
            _end(state, message)
            return message


def _end(state: str, message: str) -> None:
    if state == "no":
        raise Ended(contract.NO, message)
    if state == "later":
        raise Ended(contract.AGAIN, message)
    if state != "done":
        raise Ended(contract.FAILED, f"the control API answered `{state}`, which this op does not know")


def _open(control: Control, given: argparse.Namespace) -> str:
    """The rollout of a commit, for a team's own pipeline. The token goes to a file, never to the log."""
    query = f"?commit={quote(given.commit, safe='')}" if given.commit else ""
    path = f"/ops/open/{quote(given.endpoint, safe='')}{query}"
    deadline, pauses = time.monotonic() + control.patience_s, _pauses()
    while True:
        try:
            reply = control.post(path, {})
            break
        except Ended as error:
            # The commit was pushed a moment ago: the controller may not have looked yet.
            if " 404 " not in str(error):
                raise
            if time.monotonic() >= deadline:
                raise Ended(contract.AGAIN, str(error)) from None
            time.sleep(next(pauses))
    _leave({"rollout": str(reply["rollout"]), "token": str(reply["token"])})
    return f"rollout {reply['rollout']}"


def _rollout(control: Control, given: argparse.Namespace) -> str:
    """How the rollout of a commit ends; the controller runs it, this only watches."""
    from headgate_pipelines import follow

    code, message, outputs = follow.rollout(control.read, given.endpoint, given.commit, given.patience)
    _leave(outputs)
    if code != contract.DONE:
        raise Ended(code, message)
    return message


def _work(control: Control, given: argparse.Namespace, work: Any) -> Any:
    if given.verb != "build":
        raise Ended(contract.FAILED, f"the control API asks `{given.verb}` to work, which only build does")
    # The one op that needs more than the standard library.
    from headgate.findings import HeadgateError, TransientError
    from headgate_pipelines import build

    try:
        return build.perform(work, fetch=control.download)
    except TransientError as error:
        raise Ended(contract.AGAIN, str(error)) from None
    except HeadgateError as error:  # nobody's commit: this machine cannot build; the record has to know why it ends
        return {"broken": str(error)}


def _leave(outputs: dict[str, str]) -> None:
    """Output parameters, one file each."""
    folder = Path(os.environ.get(contract.ENV_OUTPUTS) or contract.OUTPUTS)
    folder.mkdir(parents=True, exist_ok=True)
    for name, value in outputs.items():
        (folder / name).write_text(value, encoding="utf-8")
        LEFT[name] = value


def last_words(message: str, outputs: Mapping[str, str]) -> str:
    """What a pod is asked for its end: JSON that fits. A message is shortened; an output that is too long is left out.

    Whoever reads an output that is not there says so; half an output would be taken for the whole.
    """
    kept = {name: value for name, value in outputs.items() if name != "message"}
    for length in (len(message), 1_000, 200, 0):
        short = message[:length]
        spoken = {"message": short} if "message" in outputs else {}
        text = json.dumps({"message": short, "outputs": {**kept, **spoken}})
        if len(text.encode()) <= contract.TERMINATION_LIMIT:
            return text
    return json.dumps({"message": f"outputs are longer than {contract.TERMINATION_LIMIT} bytes", "outputs": {}})


def _say(message: str) -> None:
    file = os.environ.get(contract.ENV_TERMINATION, "")
    if file:
        try:
            Path(file).write_text(last_words(message, LEFT))
        except OSError as error:  # the exit code still tells how it ended
            print(f"{contract.ENV_TERMINATION}: {error}", file=sys.stderr)


def _stop(number: int, frame: object) -> NoReturn:
    raise Ended(contract.STOPPED, "stopped: the record knows how far it came, the same op-key carries on")


def main(argv: Sequence[str]) -> int:
    try:
        signal.signal(signal.SIGTERM, _stop)
        said = run(arguments(argv))
        print(said, flush=True)
        _say(said)
    except Ended as end:
        print(f"{'error: ' if end.code == contract.FAILED else ''}{end}", file=sys.stderr, flush=True)
        _say(str(end))
        return end.code
    return contract.DONE


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
