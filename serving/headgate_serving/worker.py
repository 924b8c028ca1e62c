"""Runs a scoring script: init() once, run() for one request at a time, told and answered over a socket.

ONE file of the standard library, no import of ours, readable by Python 3.8: it runs in the model's interpreter, where
nothing of Headgate is installed. It refuses to speak HTTP (the front does), to look at what it is not given, and to
outlive the front: the end of the socket ends it.

    python worker.py DESCRIPTOR[,DESCRIPTOR...]     several: init() once, then one fork per descriptor

A frame is kind (1 byte), length of the JSON part, length of the body (4 bytes each), JSON part, body.
"""

from __future__ import annotations

import contextlib
import functools
import gc
import importlib
import importlib.util
import inspect
import io
import json
import os
import select
import signal
import socket
import struct
import sys
import time
import traceback
import types
from urllib.parse import parse_qs

TYPE_CHECKING = False  # `typing` is not needed to run
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any

FRAME = struct.Struct("!BII")
READY, FAILED, ANSWER, HEAD, CHUNK, END = 1, 2, 3, 4, 5, 6  # to the front
REQUEST, CANCEL = 10, 11  # from it
FAILED_TEXT = "An unexpected error occurred in scoring script. Check the logs for more info."
JSON_TYPE = ["content-type", "application/json"]
OUR_FILE = os.path.abspath(__file__)


class Patient(io.FileIO):
    """A log that never fails its writer: what a full disk does not take is lost, and the request is answered."""

    def write(self, data: Any) -> int:
        try:
            return super().write(data) or 0
        except OSError:
            return memoryview(data).nbytes


def patient(descriptor: int) -> io.TextIOWrapper:
    """An unbuffered text stream over a descriptor that stays open."""
    raw = Patient(descriptor, "w", closefd=False)
    return io.TextIOWrapper(raw, encoding="utf-8", errors="backslashreplace", write_through=True)


class Channel:
    """The socket to the front."""

    def __init__(self, descriptor: int) -> None:
        os.set_inheritable(descriptor, False)  # a subprocess of the script must not keep the front waiting
        self.socket = socket.socket(fileno=descriptor)
        self.socket.setblocking(True)
        self.reader = self.socket.makefile("rb")

    def receive(self) -> tuple[int, Any, bytes]:
        kind, meta, body = FRAME.unpack(self.exactly(FRAME.size))
        return kind, json.loads(self.exactly(meta)) if meta else None, self.exactly(body)

    def exactly(self, count: int) -> bytes:
        content = self.reader.read(count)
        if len(content) < count:
            raise EOFError
        return content

    def send(self, kind: int, meta: Any = None, body: bytes = b"") -> None:
        head = json.dumps(meta).encode() if meta is not None else b""
        self.socket.sendall(FRAME.pack(kind, len(head), len(body)) + head + body)

    def close(self) -> None:
        self.reader.close()
        self.socket.close()

    def cancelled(self) -> bool:
        """The caller of a stream has gone: the only thing the front says while we answer."""
        return bool(select.select([self.socket], [], [], 0)[0])


class Headers(dict):  # type: ignore[type-arg]
    """Request headers; names in any case."""

    def __init__(self, pairs: list[list[str]]) -> None:
        super().__init__()
        for name, value in pairs:
            key = name.title()
            self[key] = f"{self[key]},{value}" if key in self else value

    def __getitem__(self, name: str) -> str:
        return str(super().__getitem__(name.title()))

    def __contains__(self, name: object) -> bool:
        return super().__contains__(str(name).title())

    def get(self, name: str, default: Any = None) -> Any:
        return super().get(name.title(), default)


class AMLRequest:
    """What a @rawhttp run() gets: the parts of Flask's request that scoring scripts use."""

    def __init__(self, meta: dict[str, Any], body: bytes) -> None:
        self.method: str = meta["method"]
        self.path: str = meta["path"]
        self.query_string: bytes = meta["query"].encode()
        self.headers = Headers(meta["headers"])
        self.data = body
        self.args = {k: v[0] for k, v in parse_qs(meta["query"], keep_blank_values=True).items()}
        self.content_type = self.headers.get("Content-Type")
        self.mimetype = (self.content_type or "").partition(";")[0].strip().lower()

    @property
    def full_path(self) -> str:
        return self.path + "?" + self.query_string.decode()

    def get_data(self, cache: bool = True, as_text: bool = False, parse_form_data: bool = False) -> Any:
        return self.data.decode("utf-8") if as_text else self.data

    def get_json(self, force: bool = False, silent: bool = False, cache: bool = True) -> Any:
        try:
            return json.loads(self.data)
        except ValueError:
            if silent:
                return None
            raise

    @property
    def json(self) -> Any:
        return self.get_json()


class AMLResponse:
    """What run() returns to choose status and headers itself. An iterator as message is streamed."""

    def __init__(
        self,
        message: Any,
        status_code: int,
        response_headers: dict[str, str] | None = None,
        json_str: bool = False,
        run_function_failed: bool = False,
    ) -> None:
        as_json = json_str or message is None
        self.message = json.dumps({} if message is None else message) if as_json else message
        self.status_code = status_code
        self.headers = {"content-type": "application/json" if as_json else "text/html; charset=utf-8"}
        self.headers["x-ms-run-function-failed"] = str(run_function_failed)
        for name, value in (response_headers or {}).items():
            self.headers[name.lower()] = str(value)


def rawhttp(function: Callable[..., Any]) -> Callable[..., Any]:
    """run() wants the request, not its body."""

    @functools.wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        return function(*args, **kwargs)

    wrapper._headgate_rawhttp = True  # type: ignore[attr-defined]
    return wrapper


def provide_azure_modules() -> None:
    """The modules Azure's own servers bring: scripts import them, and ours must be the ones they get."""
    for base in ("azureml.contrib.services", "azureml_inference_server_http.api"):
        provide(base + ".aml_request", rawhttp=rawhttp, AMLRequest=AMLRequest)
        provide(base + ".aml_response", AMLResponse=AMLResponse)


def provide(name: str, **contents: Any) -> None:
    """Puts a module with these contents in place, with the packages above it."""
    parent, _, last = name.rpartition(".")
    if parent and parent not in sys.modules:
        # A real `azureml` namespace keeps its other packages.
        if parent.startswith("azureml.") or parent == "azureml":
            with contextlib.suppress(ImportError):
                importlib.import_module(parent)
        if parent not in sys.modules:
            provide(parent, __path__=[])
    module = types.ModuleType(name)
    vars(module).update(contents)
    sys.modules[name] = module
    if parent:
        setattr(sys.modules[parent], last, module)


class BadScript(Exception):
    """The script's shape is not Azure's contract."""


class BadInput(Exception):
    """The caller's fault: 400."""


class Script:
    """The user's module: its init(), its run() and how run() wants to be called."""

    def __init__(self, path: str) -> None:
        name = os.path.splitext(os.path.basename(path))[0]
        spec = importlib.util.spec_from_file_location(name, path)
        if spec is None or spec.loader is None:
            raise BadScript(f"{path} is not a Python file")
        module = importlib.util.module_from_spec(spec)
        if name not in sys.modules:  # so that what was pickled under this name is found; never over another module
            sys.modules[name] = module
        spec.loader.exec_module(module)
        for verb in ("init", "run"):
            if not callable(getattr(module, verb, None)):
                raise BadScript(f"{os.path.basename(path)} has no {verb}() function")
        self.init = module.init
        self.run = module.run
        self.raw = getattr(module.run, "_headgate_rawhttp", False)
        parameters = list(inspect.signature(module.run).parameters.values())
        self.wants_headers = any(p.name == "request_headers" for p in parameters)
        data = [p for p in parameters if p.name != "request_headers"]
        if not data:
            raise BadScript("run() takes no argument for the request's data")
        self.by_name = data[0].name if data[0].kind in (data[0].KEYWORD_ONLY, data[0].POSITIONAL_OR_KEYWORD) else None

    def call(self, meta: dict[str, Any], body: bytes) -> Any:
        data = AMLRequest(meta, body) if self.raw else text_of(meta, body)
        more = {"request_headers": Headers(meta["headers"])} if self.wants_headers else {}
        return self.run(**{self.by_name: data}, **more) if self.by_name else self.run(data, **more)


def text_of(meta: dict[str, Any], body: bytes) -> str:
    """What an undecorated run() gets: the body; of a GET the query as a JSON object."""
    if meta["method"] == "GET" and not body:
        pairs = parse_qs(meta["query"], keep_blank_values=True)
        return json.dumps({k: parsed(v[0]) if len(v) == 1 else [parsed(i) for i in v] for k, v in pairs.items()})
    try:
        return body.decode("utf-8")
    except UnicodeDecodeError as error:
        raise BadInput(f"Input cannot be decoded as UTF-8: {error}") from None


def parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


def place(error: BaseException) -> str:
    """Where in the user's code, as file:line."""
    root = os.environ.get("AML_APP_ROOT", "")
    if isinstance(error, SyntaxError) and error.filename:
        return f"{os.path.basename(error.filename)}:{error.lineno}"
    frames = [f for f in traceback.extract_tb(error.__traceback__) if root and f.filename.startswith(root)]
    return f"{os.path.relpath(frames[-1].filename, root)}:{frames[-1].lineno}" if frames else ""


def reason(error: BaseException) -> str:
    text = str(error) if isinstance(error, BadScript) else f"{type(error).__name__}: {error}"
    return ": ".join(part for part in (place(error), text) if part)


def is_ours(filename: str) -> bool:
    return filename.startswith("<frozen importlib") or os.path.abspath(filename) == OUR_FILE


def complain(what: str, error: BaseException) -> None:
    """The traceback, from the user's first frame on, into the log."""
    trace = error.__traceback__
    while trace is not None and is_ours(trace.tb_frame.f_code.co_filename):
        trace = trace.tb_next
    lines = traceback.format_exception(type(error), error, trace)
    print(f"{what}: {reason(error)}\n" + "".join(lines), end="", file=sys.stderr, flush=True)


def answer(channel: Channel, script: Script, meta: dict[str, Any], body: bytes) -> None:
    started = time.perf_counter()
    try:
        output = script.call(meta, body)
        elapsed = f"{(time.perf_counter() - started) * 1000:.3f}"
        status, headers, content = shaped(output)
        content = content.encode() if isinstance(content, str) else content
    except BadInput as error:
        return send_whole(channel, 400, [JSON_TYPE], json.dumps({"message": str(error)}), "0.000")
    except Exception as error:  # noqa: BLE001  user code raises anything; the process lives on
        complain(f"request {meta.get('id', '')}: run() failed", error)
        elapsed = f"{(time.perf_counter() - started) * 1000:.3f}"
        message = str(error) if isinstance(error, Unserialisable) else FAILED_TEXT
        failed = [JSON_TYPE, ["x-ms-run-function-failed", "True"]]
        return send_whole(channel, 500, failed, json.dumps({"message": message}), elapsed)
    if isinstance(content, bytes):
        return send_whole(channel, status, headers, content, elapsed)
    return send_stream(channel, status, headers, content, elapsed)


class Unserialisable(TypeError):
    """run() returned what JSON cannot hold."""


def shaped(output: Any) -> tuple[int, list[list[str]], Any]:
    """Status, headers, and content: text, bytes, or an iterator of either."""
    if isinstance(output, AMLResponse):
        status, headers, content = output.status_code, output.headers, output.message
    elif hasattr(output, "status_code") and hasattr(output, "get_data"):  # Flask's, Werkzeug's
        content = output.iter_encoded() if getattr(output, "is_streamed", False) else output.get_data()
        status, headers = output.status_code, dict(output.headers)
    elif isinstance(output, types.GeneratorType):
        status, headers, content = 200, {"content-type": "text/event-stream"}, output
    else:
        try:
            content = json.dumps({} if output is None else output)
        except (TypeError, ValueError) as error:
            raise Unserialisable(f"run() returned what JSON cannot hold: {error}") from error
        return 200, [JSON_TYPE, ["x-ms-run-function-failed", "False"]], content
    if status >= 500:
        headers = {**headers, "x-ms-run-function-failed": "True"}
    return int(status), [[str(k).lower(), str(v)] for k, v in headers.items()], content


def send_whole(channel: Channel, status: int, headers: list[list[str]], content: Any, elapsed: str) -> None:
    encoded = content.encode() if isinstance(content, str) else bytes(content)
    channel.send(ANSWER, {"status": status, "headers": headers, "ms": elapsed}, encoded)


def send_stream(channel: Channel, status: int, headers: list[list[str]], chunks: Iterator[Any], elapsed: str) -> None:
    channel.send(HEAD, {"status": status, "headers": headers, "ms": elapsed})
    error = ""
    try:
        for chunk in chunks:
            if channel.cancelled():
                break
            channel.send(CHUNK, None, chunk.encode() if isinstance(chunk, str) else bytes(chunk))
    except Exception as problem:  # noqa: BLE001  user code raises anything; the process lives on
        complain("the stream broke off", problem)
        error = reason(problem)
    finally:
        if hasattr(chunks, "close"):
            chunks.close()
    channel.send(END, {"error": error})


def load() -> Script:
    provide_azure_modules()
    root, entry = os.environ["AML_APP_ROOT"], os.environ["AZUREML_ENTRY_SCRIPT"]
    ours = os.path.dirname(OUR_FILE)  # the user's packages must not meet our modules
    sys.path[:] = [root, *(p for p in sys.path if os.path.abspath(p) != ours)]
    script = Script(os.path.join(root, entry))
    script.init()
    return script


def serve(channel: Channel, script: Script) -> None:
    channel.send(READY, {"pid": os.getpid(), "python": sys.version.split()[0]})
    while True:
        try:
            kind, meta, body = channel.receive()
        except (EOFError, ConnectionError):
            return  # the front has gone, and so do we
        if kind == REQUEST:
            answer(channel, script, meta, body)


def fork_all(channels: list[Channel], script: Script) -> int:
    """One process per channel; the first one that fails ends us with its code, and the front starts over."""
    gc.freeze()  # what init() made stays shared between the forks
    for channel in channels:
        if os.fork() == 0:
            for other in channels:
                if other is not channel:
                    other.close()
            serve(channel, script)
            os._exit(0)
    for channel in channels:
        channel.close()
    for _ in channels:
        status = os.wait()[1]
        if status:
            return os.WEXITSTATUS(status) if os.WIFEXITED(status) else 128 + os.WTERMSIG(status)
    return 0


def main(descriptors: list[int]) -> int:
    for number in (signal.SIGTERM, signal.SIGINT):
        # The front drains and then closes the socket. Not SIG_IGN: that a subprocess of the script would inherit.
        signal.signal(number, lambda *_: None)
    sys.stdout, sys.stderr = patient(1), patient(2)  # before the script keeps a handle of its own
    channels = [Channel(d) for d in descriptors]
    try:
        script = load()
    except BaseException as error:  # noqa: BLE001  also sys.exit() in the script: the front must hear why
        complain("the scoring script did not start", error)
        channels[0].send(FAILED, {"reason": reason(error)})
        return 3
    if len(channels) > 1:
        return fork_all(channels, script)
    serve(channels[0], script)
    return 0


if __name__ == "__main__":
    sys.exit(main([int(d) for d in sys.argv[1].split(",")]))
