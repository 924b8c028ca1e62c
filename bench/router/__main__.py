"""`python -m bench.router [PART ...]`: routers side by side on one job; one table, bench/results/router.json.

Rounds interleave and medians count, because machines are noisy. Needs Linux and two cores: the router under test has
one for itself. nginx, haproxy, envoy and wrk are used when they are installed; what is not is said.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from bench.numbers import keep
from bench.router import change, events, mirrors, pairs, size
from bench.router.job import JOB
from bench.router.load import on_rest, paced, run, saturate
from bench.router.peers import PEERS, Peer, Running, Upstreams, found
from bench.router.places import CORES, REST, cpu_s, free_ports, memory_mb, running

from headgate_console.print import table

PARTS = ("peers", "pairs", "change", "mirrors", "size")
UPSTREAM = [sys.executable, "-m", "bench.router.upstream"]
OURS, COMPILED, NGINX, ENVOY = "headgate", "headgate-compiled", "nginx", "envoy"
Figures = dict[str, float]
COLUMNS = {
    "cpu_s_per_10k": "CPU-s/10k", "rps": "req/s", "p50_ms": "p50", "p99_ms": "p99", "paced_p50_ms": "p50 @500",
    "paced_p99_ms": "p99 @500", "big_cpu_s_per_10k": "100 KB CPU-s/10k", "events_cpu_s_per_10k": "events CPU-s/10k",
    "event_p99_ms": "event p99", "event_added_p99_ms": "added p99", "memory_mb": "MB", "failed": "failed",
}  # fmt: skip
MIRRORED = {
    "p50_ms": "p50 @500", "none_p50_ms": "without", "p99_ms": "p99 @500", "none_p99_ms": "without",
    "added_p99_ms": "p99 of a pair: more", "added_p99_ms_spread": "middle half", "failed": "failed",
    "grown_mb": "MB grown",
}  # fmt: skip
GOALS = {
    "cpu_vs_nginx": 1.0, "cpu_vs_envoy": 0.5, "p50_vs_nginx": 1.0, "p99_vs_nginx": 1.0, "paced_p50_vs_nginx": 1.0,
    "paced_p99_vs_nginx": 1.0, "big_cpu_vs_nginx": 1.0, "events_cpu_vs_nginx": 1.0, "event_added_p99_ms": 1.0,
    "pair_sampling_cpu_share": 0.03, "weight_change_ms": 5.0, "acked_by_4_ms": 50.0, "memory_mb": 60.0, "failed": 0.0,
}  # fmt: skip


def main(argv: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.router", description=__doc__)
    parser.add_argument("parts", nargs="*", help=f"of {', '.join(PARTS)}; default: all")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=3.0, help="of each load")
    parser.add_argument("--peers", default="", help="names, with commas between; default: all that are installed")
    asked = parser.parse_args(argv)
    parts = asked.parts or list(PARTS)
    if not set(parts) <= set(PARTS) or not Path("/proc/self/smaps_rollup").exists() or len(CORES) < 2:
        parser.error(f"parts: {', '.join(PARTS)}; Linux and two cores are needed")
    on_rest()
    measured: dict[str, Any] = {}
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="router-bench-")))
        folder.chmod(0o755)  # started as root, nginx reads its files as somebody else
        up = stack.enter_context(upstreams(folder))
        if "peers" in parts:
            names = asked.peers.split(",") if asked.peers else [peer.name for peer in PEERS]
            chosen = [peer for peer in PEERS if peer.name in names]
            measured |= side_by_side(chosen, folder, up, asked.rounds, asked.seconds)
        if "pairs" in parts and found("wrk"):
            say("the sampling of pairs")
            measured |= pairs.measure(folder, up, found("wrk") or "wrk", asked.seconds)
        if "change" in parts:
            say("a change of weights")
            measured |= change.measure(folder, up)
        if "mirrors" in parts:
            say("mirrors whose target is ill")
            measured["mirrors"] = mirrors.measure(folder, up, UPSTREAM, asked.seconds)
        if "size" in parts:
            say("memory")
            measured |= size.measure(folder, up)
    result = keep("router", measured)
    report(result)
    return 0 if all(held(name, best(name, result)) != "MISSED" for name in GOALS) else 1


@contextmanager
def upstreams(folder: Path) -> Iterator[Upstreams]:
    """Models on one core: nginx where it is there, for it costs the least; events always come from our own."""
    ports = free_ports(4)
    with ExitStack() as stack:
        nginx = found("nginx")
        if nginx:
            (folder / "upstream").mkdir()
            argv = [nginx, "-p", str(folder / "upstream"), "-c", _nginx_models(folder / "upstream", ports[:3])]
            stack.enter_context(running(argv, ports[0], REST, folder / "upstream.log"))
        for port in () if nginx else ports[:3]:
            stack.enter_context(running([*UPSTREAM, str(port), "score"], port, REST, folder / "upstream.log"))
        stack.enter_context(running([*UPSTREAM, str(ports[3]), "events"], ports[3], REST, folder / "upstream.log"))
        yield Upstreams(*ports)


def _nginx_models(folder: Path, ports: Sequence[int]) -> str:
    (folder / "big").write_bytes(b"x" * 100_000)
    listen = " ".join(f"listen 127.0.0.1:{port};" for port in ports)
    answer = '{\\"y\\": \\"' + "x" * 198 + '\\"}'
    kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    temporary = " ".join(f"{name}_temp_path {folder}/{name};" for name in kinds)
    (folder / "nginx.conf").write_text(f"""\
worker_processes 1; daemon off; pid {folder}/pid; error_log {folder}/error.log crit;
events {{ worker_connections 8192; }}
http {{ access_log off; {temporary} client_body_buffer_size 1m; keepalive_requests 1000000;
  server {{ {listen} default_type application/json; root {folder};
    error_page 405 =200 $uri;  location = /big {{ }}
    location / {{ return 200 "{answer}"; }} }} }}
""")
    return str(folder / "nginx.conf")


def side_by_side(peers: Sequence[Peer], folder: Path, up: Upstreams, rounds: int, seconds: float) -> dict[str, object]:
    samples: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    absent = {peer.name: peer.absent() for peer in peers if peer.absent()}
    if not found("wrk"):
        absent["wrk"] = "wrk is not installed: nothing is measured at saturation"
    for number in range(rounds):
        for peer in peers:
            if peer.name in absent or (number and peer.note == "what a user would write"):
                continue  # it is 50 times slower: one round says it
            say(f"round {number + 1} of {rounds}: {peer.name}")
            with peer.serving(folder / f"round-{number}", up) as router:
                for name, value in one_round(router, up, folder, seconds).items():
                    samples[peer.name][name].append(value)
    figures = {name: {what: statistics.median(v) for what, v in found.items()} for name, found in samples.items()}
    return {"peers": figures, "absent": absent, "job": JOB, **ratios(figures)}


def one_round(router: Running, up: Upstreams, folder: Path, seconds: float) -> Figures:
    figures: Figures = {"failed": 0.0}
    wrk = found("wrk")
    if wrk:
        saturate(wrk, router.port, "/endpoints/e/score", 1, folder)  # warm
        used = cpu_s(router.pid)
        seen = saturate(wrk, router.port, "/endpoints/e/score", seconds, folder)
        figures |= per_10k("cpu_s_per_10k", cpu_s(router.pid) - used, seen.requests)
        figures |= {"rps": seen.requests / seen.seconds, "p50_ms": seen.p(0.5), "p99_ms": seen.p(0.99)}
        figures["failed"] += seen.failed
        used = cpu_s(router.pid)
        seen = saturate(wrk, router.port, "/endpoints/e/big", max(1.0, seconds / 2), folder)
        figures |= per_10k("big_cpu_s_per_10k", cpu_s(router.pid) - used, seen.requests)
        figures["failed"] += seen.failed
    time.sleep(0.2)
    seen = run(paced(router.port, "/endpoints/e/score", seconds))
    figures |= {"paced_p50_ms": seen.p(0.5), "paced_p99_ms": seen.p(0.99)}
    figures["failed"] += seen.failed
    streamed, failed = events.measure(router, up.events)
    figures["failed"] += failed
    return figures | streamed | {"memory_mb": memory_mb(router.pid)}


def per_10k(name: str, used_s: float, requests: int) -> Figures:
    return {name: round(used_s / requests * 10_000, 4)} if requests else {}


def ratios(figures: dict[str, Figures]) -> dict[str, float]:
    """Ours by theirs, where both were measured."""
    found = {}
    for name, peer, what in (
        ("cpu_vs_nginx", NGINX, "cpu_s_per_10k"), ("cpu_vs_envoy", ENVOY, "cpu_s_per_10k"),
        ("p50_vs_nginx", NGINX, "p50_ms"), ("p99_vs_nginx", NGINX, "p99_ms"),
        ("paced_p50_vs_nginx", NGINX, "paced_p50_ms"), ("paced_p99_vs_nginx", NGINX, "paced_p99_ms"),
        ("big_cpu_vs_nginx", NGINX, "big_cpu_s_per_10k"), ("events_cpu_vs_nginx", NGINX, "events_cpu_s_per_10k"),
        ("cpu_vs_fastapi", "fastapi-httpx", "cpu_s_per_10k"),
    ):  # fmt: skip
        theirs = figures.get(peer, {}).get(what, 0.0)
        for which, prefix in ((OURS, ""), (COMPILED, "compiled_")):
            if theirs and what in figures.get(which, {}):
                found[prefix + name] = round(figures[which][what] / theirs, 3)
    ours = figures.get(OURS, {})
    kept = ("event_p99_ms", "event_direct_p99_ms", "event_added_p50_ms", "event_added_p99_ms", "failed")
    return found | {name: ours[name] for name in kept if name in ours}


def report(result: dict[str, object]) -> None:
    print(f"\n{JOB}\n")
    peers = result.get("peers")
    if isinstance(peers, dict):
        rows = [[name, *(f"{one.get(key, float('nan')):.4g}" for key in COLUMNS)] for name, one in peers.items()]
        print("\n".join(table(["ROUTER", *COLUMNS.values()], rows)))
    absent = result.get("absent")
    if isinstance(absent, dict):
        print("".join(f"\nleft out: {name}: {why}" for name, why in absent.items()))
    ill = result.get("mirrors")
    if isinstance(ill, dict):
        rows = [[name, *(f"{one.get(key, float('nan')):g}" for key in MIRRORED)] for name, one in ill.items()]
        print("\n" + "\n".join(table(["MIRROR TARGET", *MIRRORED.values()], rows)))
    names = [name for name, value in result.items() if isinstance(value, int | float)]
    rows = [[name, f"{result[name]:g}", goal(name), held(name, result[name])] for name in sorted(names)]
    print("\n" + "\n".join(table(["WHAT", "MEASURED", "GOAL", ""], rows)))


def best(name: str, result: Mapping[str, Any]) -> object:
    """What counts at the end: of the compiled router where it was measured, for that is what images run."""
    return result.get(f"compiled_{name}", result.get(name))


def bar(name: str) -> float | None:
    return GOALS.get(name.removeprefix("compiled_"))


def goal(name: str) -> str:
    wanted = bar(name)
    return "" if wanted is None else f"<= {wanted:g}"


def held(name: str, value: object) -> str:
    wanted = bar(name)
    return "" if wanted is None or not isinstance(value, int | float) else "ok" if value <= wanted else "MISSED"


def say(what: str) -> None:
    print(f"measuring {what} ...", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
