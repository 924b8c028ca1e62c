"""The routers that are compared, each set up for the same job. One worker on one core each."""

from __future__ import annotations

import hashlib
import os
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from bench.router.job import KEYS, MIRROR, SPLIT
from bench.router.places import ROUTER, answers, free_ports, running, until

from headgate import codec
from headgate.evidence import PairKind
from headgate.table import EndpointRoute, Mirror, RouteRevision, RouteTable, seal

GREEN = round(SPLIT * 1000)
COMPILED = Path(__file__).resolve().parents[2] / "build/compiled"


@dataclass(frozen=True)
class Upstreams:
    blue: int
    green: int
    shadow: int
    events: int


@dataclass(frozen=True)
class Running:
    pid: int
    port: int


@dataclass(frozen=True)
class Peer:
    name: str
    program: str  # what must be there; empty: part of this project
    configure: Callable[[Path, int, Upstreams], Sequence[str]]  # writes its files, answers its argv
    note: str = ""
    imports: Path | None = None  # a folder that its Python looks into first

    def absent(self) -> str:
        """Why it is left out; empty: it is there."""
        if self.imports is not None and not self.imports.is_dir():
            return "not compiled: `make compile`"
        return "" if not self.program or found(self.program) else f"{self.program} is not installed"

    @contextmanager
    def serving(self, folder: Path, upstreams: Upstreams) -> Iterator[Running]:
        here = folder / self.name
        here.mkdir(parents=True, exist_ok=True)
        (port,) = free_ports(1)
        argv = self.configure(here, port, upstreams)
        env = {"PYTHONPATH": str(self.imports)} if self.imports is not None else None
        with running(argv, port, ROUTER, here / "log", env) as process:
            until(lambda: answers(port), f"{self.name} does not answer")
            yield Running(process.pid, port)


def found(program: str) -> str | None:
    """On the PATH, where Debian has daemons, or as the environment names it: NGINX=/path/to/nginx."""
    return os.environ.get(program.upper()) or shutil.which(program) or shutil.which(program, path="/usr/sbin")


def table(upstreams: Upstreams, mirror: float = MIRROR, green: int = GREEN, generation: int = 1) -> RouteTable:
    def row(name: str, per_mille: int, port: int) -> RouteRevision:
        return RouteRevision(
            name, name, per_mille, (f"http://127.0.0.1:{port}",), max_concurrent_per_instance=1000,
            request_timeout_ms=30_000,
        )  # fmt: skip

    keys = tuple(hashlib.sha256(key.encode()).hexdigest() for key in KEYS)
    rows = (
        row("blue", 1000 - green, upstreams.blue), row("green", green, upstreams.green),
        row("shadow", 0, upstreams.shadow),
    )  # fmt: skip
    mirrors = (Mirror("shadow", round(mirror * 1000), PairKind.COMPARE),) if mirror else ()
    scores = EndpointRoute("e", generation, "c" * 40, rows, mirrors=mirrors, keys=keys)
    streams = EndpointRoute("s", generation, "c" * 40, (row("events", 1000, upstreams.events),), keys=keys)
    return seal(RouteTable(generation, "c" * 40, {"e": scores, "s": streams}))


def headgate(dataplane: str, mirror: float = MIRROR) -> Callable[[Path, int, Upstreams], Sequence[str]]:
    def configure(folder: Path, port: int, upstreams: Upstreams) -> Sequence[str]:
        tables = folder / "data/tables"
        tables.mkdir(parents=True, exist_ok=True)
        (tables / "router-0.json").write_bytes(codec.canonical(table(upstreams, mirror)))
        where = ("--data", str(folder / "data"), "--port", str(port))
        threads = ("--envoy-threads", "1") if dataplane == "envoy" else ()
        return [sys.executable, "-m", "headgate_router", *where, "--dataplane", dataplane, *threads]

    return configure


def nginx(folder: Path, port: int, up: Upstreams) -> Sequence[str]:
    keys = "".join(f'"Bearer {key}" 1; ' for key in KEYS)
    pools = "".join(
        f"upstream {name} {{ server 127.0.0.1:{at}; keepalive 128; }}\n"
        for name, at in (("blue", up.blue), ("green", up.green), ("shadow", up.shadow), ("events", up.events))
    )
    passed = (
        'proxy_http_version 1.1; proxy_set_header Connection ""; proxy_set_header Authorization ""; '
        "proxy_set_header x-ms-request-id $rid; proxy_buffering off;"
    )
    (folder / "nginx.conf").write_text(f"""\
worker_processes 1; daemon off; pid {folder}/pid; error_log {folder}/error.log crit;
events {{ worker_connections 8192; }}
http {{
  access_log off; client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy; fastcgi_temp_path {folder}/f;
  uwsgi_temp_path {folder}/u; scgi_temp_path {folder}/s; client_body_buffer_size 1m; keepalive_requests 1000000;
  map $http_authorization $known {{ default 0; {keys}}}
  split_clients "$request_id" $split {{ {SPLIT:.0%} green; * blue; }}
  split_clients "mirror$request_id" $copied {{ {MIRROR:.0%} 1; * 0; }}
  map $http_azureml_model_deployment $chosen {{ default none; "" $split; blue blue; green green; }}
  map $http_x_ms_request_id $rid {{ default $http_x_ms_request_id; "" $request_id; }}
  {pools}
  server {{
    listen 127.0.0.1:{port};
    location /endpoints/s/ {{ if ($known = 0) {{ return 401; }} proxy_pass http://events/; {passed} }}
    location ~ ^/endpoints/e/(?<rest>.*)$ {{
      if ($known = 0) {{ return 401; }}
      if ($chosen = none) {{ return 404; }}
      mirror /copy; proxy_pass http://$chosen/$rest; add_header x-ms-request-id $rid always; {passed}
    }}
    location = /copy {{ internal; if ($copied = 0) {{ return 204; }} proxy_pass http://shadow/score; {passed} }}
  }}
}}
""")
    return [found("nginx") or "nginx", "-p", str(folder), "-c", str(folder / "nginx.conf")]


def haproxy(folder: Path, port: int, up: Upstreams) -> Sequence[str]:
    keys = " ".join(f'"Bearer {key}"' for key in KEYS)
    (folder / "haproxy.cfg").write_text(f"""\
global
  nbthread 1
defaults
  mode http
  timeout connect 2s
  timeout client 60s
  timeout server 60s
  option http-no-delay
  option abortonclose
  http-reuse always
frontend callers
  bind 127.0.0.1:{port}
  acl key req.hdr(authorization) -m str {keys}
  acl named req.hdr(azureml-model-deployment) -m found
  acl blue req.hdr(azureml-model-deployment) -m str blue
  acl green req.hdr(azureml-model-deployment) -m str green
  http-request set-var(txn.streams) bool(true) if {{ path_beg /endpoints/s/ }}
  http-request deny deny_status 401 unless key
  http-request deny deny_status 404 if named !blue !green
  http-request set-header x-ms-request-id %[uuid] unless {{ req.hdr(x-ms-request-id) -m found }}
  http-request del-header authorization
  http-request replace-path /endpoints/./(.*) /\\1
  use_backend events if {{ var(txn.streams) -m bool }}
  use_backend blue if blue
  use_backend green if green
  default_backend split
backend split
  balance roundrobin
  server blue 127.0.0.1:{up.blue} weight {100 - round(SPLIT * 100)}
  server green 127.0.0.1:{up.green} weight {round(SPLIT * 100)}
backend blue
  server blue 127.0.0.1:{up.blue}
backend green
  server green 127.0.0.1:{up.green}
backend events
  server events 127.0.0.1:{up.events}
""")
    return [found("haproxy") or "haproxy", "-db", "-f", str(folder / "haproxy.cfg")]


def envoy(folder: Path, port: int, up: Upstreams) -> Sequence[str]:
    def cluster(name: str, at: int) -> dict[str, object]:
        address = {"socket_address": {"address": "127.0.0.1", "port_value": at}}
        return {
            "name": name, "type": "STATIC", "connect_timeout": "2s",
            "load_assignment": {
                "cluster_name": name, "endpoints": [{"lb_endpoints": [{"endpoint": {"address": address}}]}],
            },
        }  # fmt: skip

    key = {"name": "authorization", "string_match": {"safe_regex": {"regex": f"Bearer ({'|'.join(KEYS)})"}}}
    override = "azureml-model-deployment"
    shadow = {
        "cluster": "shadow",
        "runtime_fraction": {"default_value": {"numerator": round(MIRROR * 100), "denominator": "HUNDRED"}},
    }
    split = [
        {"name": "blue", "weight": 100 - round(SPLIT * 100)}, {"name": "green", "weight": round(SPLIT * 100)},
    ]  # fmt: skip

    def rule(prefix: str, headers: list[object], action: dict[str, object]) -> dict[str, object]:
        to = {"prefix_rewrite": "/", "timeout": "0s", **action} if "status" not in action else action
        kind = "direct_response" if "status" in action else "route"
        return {"match": {"prefix": prefix, "headers": headers}, kind: to, "request_headers_to_remove": [key["name"]]}

    e = "/endpoints/e/"
    named = [
        rule(e, [key, {"name": override, "string_match": {"exact": name}}], {"cluster": name})
        for name in ("blue", "green")
    ]
    rules = [
        *named,
        rule(e, [key, {"name": override, "present_match": True}], {"status": 404}),
        rule(e, [key], {"weighted_clusters": {"clusters": split}, "request_mirror_policies": [shadow]}),
        rule("/endpoints/s/", [key], {"cluster": "events"}),
        rule("/", [], {"status": 401}),
    ]
    base = "type.googleapis.com/envoy.extensions.filters"
    manager = {
        "@type": f"{base}.network.http_connection_manager.v3.HttpConnectionManager", "stat_prefix": "callers",
        "route_config": {"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": rules}]},
        "http_filters": [
            {"name": "envoy.filters.http.router", "typed_config": {"@type": f"{base}.http.router.v3.Router"}}
        ],
    }  # fmt: skip
    listener = {
        "name": "callers",
        "address": {"socket_address": {"address": "127.0.0.1", "port_value": port}},
        "filter_chains": [
            {"filters": [{"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}]}
        ],
    }
    clusters = [
        cluster("blue", up.blue), cluster("green", up.green), cluster("shadow", up.shadow),
        cluster("events", up.events),
    ]  # fmt: skip
    config = {"static_resources": {"listeners": [listener], "clusters": clusters}}
    (folder / "envoy.json").write_bytes(codec.canonical(config))
    argv = [found("envoy") or "envoy", "-c", str(folder / "envoy.json"), "--concurrency", "1"]
    return [*argv, "--disable-hot-restart", "-l", "error"]


def fastapi(folder: Path, port: int, up: Upstreams) -> Sequence[str]:
    ports = (port, up.blue, up.green, up.shadow, up.events)
    return [sys.executable, "-m", "bench.router.naive", *(str(one) for one in ports)]


PEERS = (
    Peer("headgate", "", headgate("builtin")),
    Peer("headgate-compiled", "", headgate("builtin"), imports=COMPILED),
    Peer("headgate-asgi", "", headgate("asgi")),
    Peer("headgate-envoy", "envoy", headgate("envoy"), "one thread of Envoy, and the router's process beside it"),
    Peer("nginx", "nginx", nginx),
    Peer("haproxy", "haproxy", haproxy, "has no mirror"),
    Peer("envoy", "envoy", envoy),
    Peer("fastapi-httpx", "", fastapi, "what a user would write"),
)
