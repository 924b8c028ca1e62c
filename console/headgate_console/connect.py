"""The live system as typed questions: one method per question, every failure a finding.

Standard library HTTP only: `headgate status` answers before a larger client would be imported.
"""

from __future__ import annotations

import http.client
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn, TypeVar
from urllib.parse import quote, urlencode, urlsplit

from headgate import codec
from headgate.capacity import Space
from headgate.control import (
    EndpointStatus,
    OperatorAction,
    Reached,
    Replay,
    RolloutStatus,
    SystemStatus,
    TableStatus,
    VerdictReport,
    VerdictStatus,
)
from headgate.findings import Finding, FindingsError, Place
from headgate.version import __version__
from headgate_kit.layout import DataFolder, find

T = TypeVar("T")
CHUNK = 65_536
TIMEOUT_S = 30.0  # the slowest answer is a rollback that first starts cold replicas: it answers when recorded, in 1 s


@dataclass(frozen=True, slots=True)
class Remote:
    """A control API that is not on this machine: by its URL, with a token from a file or from the environment."""

    url: str
    token_file: Path | None = None
    token: str = field(default="", repr=False)  # used when there is no file


Door = DataFolder | Remote


class Control:
    """The control API of a data folder or a URL. A new connection per question: it may restart between two."""

    def __init__(self, data: Door, timeout_s: float = TIMEOUT_S) -> None:
        self.data = data
        self.timeout_s = timeout_s
        self.version = ""  # the controller's, once it said so

    def system(self) -> SystemStatus:
        return self._read(SystemStatus, self.get("/status"))

    def reached(self, commit: str) -> bool:
        """Whether it was acted on. Raises FindingsError `version-skew`: this controller does not say so surely."""
        found = self._read(Reached, self.get(f"/commits/{quote(commit, safe='')}"))
        self.version = found.version
        return found.reached

    def table(self, endpoint: str = "") -> TableStatus:
        return self._read(TableStatus, self.get(f"/routes?{urlencode({'endpoint': endpoint})}"))

    def endpoint(self, name: str) -> EndpointStatus:
        return self._read(EndpointStatus, self.get(f"/endpoints/{quote(name, safe='')}"))

    def space(self, name: str) -> Space:
        return self._read(Space, self.get(f"/endpoints/{quote(name, safe='')}/capacity"))

    def rollouts(self, name: str, commit: str = "") -> list[RolloutStatus]:
        """Newest first. With a commit: the newest one of it, if any."""
        query = f"?{urlencode({'commit': commit})}" if commit else ""
        found = self._read(list[RolloutStatus], self.get(f"/endpoints/{quote(name, safe='')}/rollouts{query}"))
        return [one for one in found if one.commit.startswith(commit)]  # an older controller answers all of them

    def act(self, name: str, verb: str, action: OperatorAction) -> str:
        """Pause, resume, promote, abort or rollback; answers what was recorded, for a person."""
        reply = self.post(f"/endpoints/{quote(name, safe='')}/{verb}", codec.to_data(action))
        return str(reply.get("message", ""))

    def verdicts(self, name: str) -> list[VerdictStatus]:
        return self._read(list[VerdictStatus], self.get(f"/endpoints/{quote(name, safe='')}/verdicts"))

    def verdict(self, verdict: str) -> VerdictReport:
        return self._read(VerdictReport, self.get(f"/verdicts/{quote(verdict, safe='/')}"))

    def replay(self, verdict: str) -> Replay:
        return self._read(Replay, self.get(f"/replays/{quote(verdict, safe='/')}"))

    def trace(self, rollout: str, op: str) -> Iterator[bytes]:
        return self.stream(f"/rollouts/{quote(rollout, safe='')}/ops/{quote(op, safe='')}/trace")

    def keys(self, name: str) -> dict[str, str]:
        return self._read(dict[str, str], self.get(f"/endpoints/{quote(name, safe='')}/keys"))

    def token(self, name: str, ttl_s: int, who: str) -> dict[str, Any]:
        """`token`, and `expires_at` in Unix time."""
        asked = {"ttl_s": ttl_s, "who": who}
        return self._read(dict[str, Any], self.post(f"/endpoints/{quote(name, safe='')}/token", asked))

    def rotate(self, name: str, which: str) -> dict[str, Any]:
        return self._read(dict[str, Any], self.post(f"/endpoints/{quote(name, safe='')}/keys/rotate", {"which": which}))

    def events(self, endpoint: str = "", after: int = 0, limit: int = 100) -> tuple[list[dict[str, Any]], int]:
        """Events after an id, oldest first, and the id to ask after next time."""
        query = urlencode({"after": after, "limit": limit, **({"endpoint": endpoint} if endpoint else {})})
        reply = self.get(f"/events?{query}")
        return list(reply.get("events", [])), int(reply.get("next", after))

    def logs(self, name: str, query: Mapping[str, str]) -> Iterator[bytes]:
        return self.stream(f"/endpoints/{quote(name, safe='')}/logs?{urlencode(query)}")

    def sync(self, accept: str) -> str:
        return str(self.post("/sync", {"accept": accept}).get("message", ""))

    def get(self, path: str) -> Any:
        return self._json("GET", path, None)

    def post(self, path: str, body: Any) -> Any:
        return self._json("POST", path, body)

    def stream(self, path: str) -> Iterator[bytes]:
        """The answer's bytes as they come, until the other side ends it."""
        with self._answer("GET", path, None, timeout_s=None) as response:
            while chunk := response.read1(CHUNK):
                yield chunk

    def _read(self, cls: type[T], data: Any) -> T:
        """Raises FindingsError `version-skew`: a field is missing, or is something else than we know."""
        try:
            return codec.decode(cls, data)
        except codec.CodecError as error:
            place = str(self.data.root) if isinstance(self.data, DataFolder) else self.data.url
            raise FindingsError(
                Finding(
                    code="version-skew",
                    message="the controller's answer is not what this version reads",
                    why=f"{error}; this is headgate {__version__}, the controller is another one",
                    fix="install the version of the controller, which `headgate doctor` shows; nothing was concluded "
                    "from the answer",
                    place=Place(place),
                )
            ) from error

    def _json(self, method: str, path: str, body: Any) -> Any:
        with self._answer(method, path, body, self.timeout_s) as response:
            text = response.read()
        return json.loads(text) if text else {}

    @contextmanager
    def _answer(self, method: str, path: str, body: Any, timeout_s: float | None) -> Iterator[http.client.HTTPResponse]:
        """Raises: FindingsError: what the controller refused with, or `not-running`, also when it ends meanwhile."""
        place = urlsplit(control_url(self.data))
        kind = http.client.HTTPSConnection if place.scheme == "https" else http.client.HTTPConnection
        connection = kind(place.hostname or "127.0.0.1", place.port, timeout=timeout_s)
        headers = {"Authorization": f"Bearer {token(self.data)}", "Content-Type": "application/json"}
        try:
            connection.request(
                method, place.path.rstrip("/") + path, None if body is None else json.dumps(body), headers
            )
            with connection.getresponse() as response:
                if response.status >= 400:
                    raise FindingsError(*refusals(path, response.status, response.read()))
                yield response
        except (OSError, http.client.HTTPException) as error:
            silent(self.data, error)
        finally:
            connection.close()


def open_control(data: str | None) -> Control:
    """The control API of --control or --data, of $HEADGATE_CONTROL or $HEADGATE_DATA, or of the nearest data folder.

    Raises: FindingsError `no-data-folder`, `control-url`.
    """
    from headgate_console import options

    url, file = options.remote()
    if url or (not data and (url := os.environ.get("HEADGATE_CONTROL", ""))):
        check_url(url)
        named = file or os.environ.get("HEADGATE_TOKEN_FILE", "")
        return Control(Remote(url, Path(named) if named else None, os.environ.get("HEADGATE_TOKEN", "")))
    return Control(open_folder(data))


def check_url(url: str) -> None:
    """Raises: FindingsError `control-url`."""
    place = urlsplit(url)
    if place.scheme not in ("http", "https") or not place.hostname:
        raise FindingsError(
            Finding(
                code="control-url",
                message=f"{url[:200]} is no URL of a control API",
                why="it is asked over HTTP",
                fix="write http://HOST:PORT or https://HOST:PORT; in a cluster http://headgate-controller.NAMESPACE:7070",
                place=Place("--control"),
            )
        )


def open_folder(data: str | None) -> DataFolder:
    """The folder of --data, of $HEADGATE_DATA, or the nearest one. Raises FindingsError `no-data-folder`."""
    folder = DataFolder(Path(data)) if data else find()
    if folder is None or not folder.root.is_dir():
        where = data or "this folder or above it"
        raise FindingsError(
            Finding(
                code="no-data-folder",
                message=f"no Headgate data folder in {where}",
                why="the commands on the live system find it through the data folder `headgate up` made",
                fix="run inside your endpoints repo, give --data DIR, or start it with `headgate up`; "
                "in a cluster: `kubectl headgate`, or --control URL",
                place=Place(where),
            )
        )
    return folder


def control_url(data: Door) -> str:
    if isinstance(data, Remote):
        return data.url
    try:
        return str(json.loads(data.control.read_bytes())["url"])
    except (OSError, ValueError, KeyError) as error:
        silent(data, error)


def token(data: Door) -> str:
    if isinstance(data, Remote):
        return _token_of(data)
    try:
        return data.token.read_text().strip()
    except OSError as error:
        silent(data, error)


def _token_of(remote: Remote) -> str:
    why = "neither --token-file nor HEADGATE_TOKEN is given"
    try:
        if found := remote.token_file.read_text().strip() if remote.token_file else remote.token:
            return found
    except OSError as error:
        why = f"{remote.token_file}: {error.strerror}"
    raise FindingsError(
        Finding(
            code="token-file",
            message="there is no token for the control API",
            why=why,
            fix="kubectl get secret headgate-control has it, key `token`; `kubectl headgate` reads it by itself",
            place=Place(remote.url),
        )
    )


def silent(data: Door, error: Exception) -> NoReturn:
    """Raises the finding for a control API that does not answer."""
    here = isinstance(data, DataFolder)
    gone = here and isinstance(error, FileNotFoundError)
    raise FindingsError(
        Finding(
            code="not-running",
            message="the controller does not answer",
            why="none was started here, or it was stopped" if gone else f"{type(error).__name__}: {error}",
            fix=("start it with `headgate up`" if here else "`headgate doctor` says what is wrong in a cluster")
            + "; callers are served by the router all the while, if that runs",
            place=Place(str(data.root) if isinstance(data, DataFolder) else data.url),
        )
    ) from error


def refusals(path: str, status: int, body: bytes) -> list[Finding]:
    """What the controller said no with; one finding of our own when it said it in no way we can read."""
    try:
        found = codec.decode(list[Finding], json.loads(body)["findings"])
    except (ValueError, KeyError, TypeError):
        found = []
    if found:
        return found
    return [
        Finding(
            code="not-found" if status == 404 else "control-refused",
            message=f"the controller answered {status} to {path.partition('?')[0]}",
            why=body[:500].decode("utf-8", "replace"),
            fix="see `headgate status`; controller and command line should be of one version",
            place=Place("control API"),
        )
    ]
