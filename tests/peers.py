"""nginx and haproxy in the router's place, set up for the same job; what they, and an ASGI server, do otherwise.

They are what people compare with. What they do otherwise is a fact for `docs/traps.md`, and no failure: it is written
down here, and a test that finds it changed says so, for the versions that were tried.
"""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from functools import cache
from pathlib import Path
from signal import SIGQUIT, SIGUSR1

import pytest

import ports
from headgate_router.main import ASGI
from trapplay import DEADLINE_S, KEY, Limits, Model, Site

NGINX, HAPROXY = "nginx", "haproxy"
PEERS = (NGINX, HAPROXY)
KEYS = (KEY, "other-key")
TRIED = {NGINX: "1.22", HAPROXY: "2.6"}

_TARGET = "passes on `#` and bytes past ASCII in a target"
_NO_LENGTH = "ends the caller's connection after an answer without a length"
_OLD = "takes chunks in HTTP/1.0, and requests without a `Host`"
_CONNECTION = "passes on the fields that `Connection` names"
_LF = "takes a bare LF for a line end, and more that the RFC lets a reader take"

# Test -> what it does instead, set up as below. Each of these fails; one that passes is to be taken out.
DIFFERS: dict[str, dict[str, str]] = {
    ASGI: {},
    NGINX: {
        "test_01_what_belongs_to_one_connection_ends_there": _CONNECTION,
        "test_07_a_long_body_is_passed_on_while_it_comes_and_not_copied": "holds the whole body when it may copy it",
        "test_10_a_body_that_waits_for_100_gets_it_and_a_models_1xx_goes_no_further": "takes a 1xx for the answer",
        "test_22_a_drained_router_ends_the_connections_that_ask_nothing": "waits for one that never asked to time out",
        "test_what_says_two_things_is_refused": _LF,
        "test_what_is_encoded_stays_encoded[/a%00b]": "refuses an encoded NUL",
        "test_what_must_be_encoded_and_is_not_is_refused[b'/\\\\xff']": _TARGET,
        "test_what_must_be_encoded_and_is_not_is_refused[b'/a#b']": _TARGET,
        "test_what_is_not_spoken_here_is_refused[HTTP/0.9]": "speaks HTTP/0.9",
    },
    HAPROXY: {
        "test_01_what_belongs_to_one_connection_ends_there": _CONNECTION,
        "test_04_two_credentials_are_none": "lets in who has one good credential among others",
        "test_09_bodies_are_framed_anew_and_trailers_dropped": "passes trailers on",
        "test_09_answers_without_a_body_or_a_length[no length]": _NO_LENGTH,
        "test_10_a_body_that_waits_for_100_gets_it_and_a_models_1xx_goes_no_further": "leaves the 100 to the model",
        "test_13_who_sends_too_slowly_is_shown_out": "has a clock for heads, and none for a body that is passed on",
        "test_22_a_drained_router_ends_the_connections_that_ask_nothing": "waits for one that never asked to time out",
        "test_what_says_two_things_is_refused": f"{_LF}; a length past 64 bits too",
        "test_what_must_be_encoded_and_is_not_is_refused[b'/a\\\\x7fb']": "passes on a DEL in a target",
        "test_what_is_not_spoken_here_is_refused[HTTP/2.0]": "takes HTTP/2.0 in a start line for HTTP/1.1",
        "test_what_is_not_spoken_here_is_refused[CONNECT]": "passes `CONNECT` on",
        "test_old_requests_are_answered_and_the_connection_ends": _OLD,
    },
}


@cache
def version(kind: str) -> str:
    """MAJOR.MINOR of what is installed; empty: nothing is."""
    if not shutil.which(kind):
        return ""
    said = subprocess.run([kind, "-v"], capture_output=True, text=True, check=True)
    found = re.search(r"(\d+\.\d+)", said.stdout + said.stderr)
    return found[1] if found else ""


def param(kind: str) -> object:
    return pytest.param(kind, marks=pytest.mark.skipif(not version(kind), reason=f"no {kind}: apt install {kind}"))


def nginx(folder: Path, port: int, model: int, limits: Limits, mirrored: int, *, keyed: bool) -> list[str]:
    keys = "".join(f'"~*^Bearer {key}$" 1; ' for key in KEYS)
    temporary = "".join(
        f"{name}_temp_path {folder}/{name}; " for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    taken = 'proxy_set_header Authorization "";' if keyed else ""
    passed = (
        'proxy_http_version 1.1; proxy_set_header Connection ""; proxy_buffering off; '
        f"{taken} proxy_read_timeout {limits.answer_s * 1000:.0f}ms;"
    )
    # A copy needs the whole body; without one it may pass while it comes.
    copies = "mirror /copy;" if mirrored else "proxy_request_buffering off;"
    copy = f"location = /copy {{ internal; proxy_pass http://127.0.0.1:{mirrored}$request_uri; {passed} }}"
    file = folder / "nginx.conf"
    file.write_text(f"""\
{"user root; " if os.geteuid() == 0 else ""}daemon off; worker_processes 1; pid {folder}/pid;
error_log {folder}/error.log;
events {{ worker_connections 2048; }}
http {{
  access_log off; {temporary}
  map $http_authorization $known {{ default {int(not keyed)}; {keys}}}
  upstream model {{ server 127.0.0.1:{model}; keepalive 8; }}
  server {{
    listen 127.0.0.1:{port}; client_max_body_size {limits.body};
    client_header_timeout {limits.head_s * 1000:.0f}ms; client_body_timeout {limits.body_s * 1000:.0f}ms;
    location / {{ if ($known = 0) {{ return 401; }} {copies} proxy_pass http://model; {passed} }}
    {copy if mirrored else ""}
  }}
}}
""")
    return [NGINX, "-p", str(folder), "-c", str(file)]


def haproxy(folder: Path, port: int, model: int, limits: Limits, mirrored: int, *, keyed: bool) -> list[str]:
    """It has no copies of its own."""
    keys = " ".join(f'"Bearer {key}"' for key in KEYS)
    unless = "unless key" if keyed else "if FALSE"
    file = folder / "haproxy.conf"
    file.write_text(f"""\
global
  nbthread 1
defaults
  mode http
  timeout connect 5s
  timeout http-request {limits.head_s * 1000:.0f}ms
  timeout client {limits.body_s * 1000:.0f}ms
  timeout server {limits.answer_s * 1000:.0f}ms
  option http-no-delay
  option abortonclose
  http-reuse always
listen all
  bind 127.0.0.1:{port}
  acl key req.fhdr(authorization) -i -m str {keys}
  http-request deny deny_status 401 {unless}
  http-request deny deny_status 413 if {{ req.body_size gt {limits.body} }}
  http-request del-header authorization
  server model 127.0.0.1:{model}
""")
    return [HAPROXY, "-q", "-db", "-f", str(file)]


@contextmanager
def process(argv: list[str]) -> Iterator[subprocess.Popen[bytes]]:
    child = subprocess.Popen(argv, stderr=subprocess.DEVNULL)
    try:
        yield child
    finally:
        child.terminate()
        try:
            child.wait(5)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()


@asynccontextmanager
async def peer(
    kind: str,
    folder: Path,
    model: Model,
    limits: Limits,
    *,
    to: int = 0,
    mirrored: Model | None = None,
    keyed: bool = True,
) -> AsyncIterator[Site]:
    """`to`: the port it passes requests on to; 0: the model's. `keyed`: it looks at credentials, and keeps them."""
    write = nginx if kind == NGINX else haproxy
    with (
        ports.held() as port,
        process(write(folder, port, to or model.port, limits, mirrored.port if mirrored else 0, keyed=keyed)) as child,
    ):
        async with asyncio.timeout(DEADLINE_S):
            while True:
                try:
                    (await asyncio.open_connection("127.0.0.1", port))[1].close()
                    break
                except OSError:
                    await asyncio.sleep(0.02)
        drain = SIGQUIT if kind == NGINX else SIGUSR1
        yield Site(kind, model, port, mirrored=mirrored, limits=limits, drain=lambda: child.send_signal(drain))
