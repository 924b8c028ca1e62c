"""`python -m bench.cluster`: a thousand endpoints on the cluster of $KUBECONFIG; writes bench/results/cluster.json.

Needs HEADGATE_REGISTRY and HEADGATE_BASE_IMAGE, for the hundred that are built (and HEADGATE_REGISTRY_INSECURE=1 where
that registry has no TLS). Makes a namespace and a stub node of its own and leaves neither; our custom resource
definitions stay. `make e2e` writes into the same file what its tests measured.
"""

from __future__ import annotations

import argparse
import http.client
import os
import signal
import sys
from collections.abc import Sequence

from bench.cluster import many
from bench.control.__main__ import row
from bench.numbers import keep

from headgate_console.print import table

INSECURE = "HEADGATE_REGISTRY_INSECURE"
NEEDED = ("KUBECONFIG", "HEADGATE_REGISTRY", "HEADGATE_BASE_IMAGE")


def main(argv: Sequence[str]) -> int:
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # what was made is taken down
    parser = argparse.ArgumentParser(prog="python -m bench.cluster", description=__doc__)
    parser.add_argument("--endpoints", type=int, default=1_000)
    parser.add_argument("--rolling", type=int, default=100)
    given = parser.parse_args(argv)
    if lacks := [name for name in NEEDED if not os.environ.get(name)]:
        parser.error(f"not set: {', '.join(lacks)}")
    if plain_http(os.environ["HEADGATE_REGISTRY"]) and os.environ.get(INSECURE) != "1":
        parser.error(f"the registry of HEADGATE_REGISTRY speaks plain HTTP: set {INSECURE}=1")
    found = many.many(given.endpoints, given.rolling)
    if (given.endpoints, given.rolling) == (1_000, 100):
        keep("cluster", {one.name: one.value for one in found})
    print("\n".join(table(("WHAT", "MEASURED", "GOAL", "", "HOW"), [row(one) for one in found])))
    return 0 if all(one.held for one in found) else 1


def plain_http(registry: str) -> bool:
    """Whether it answers without TLS; one that answers nothing is left to the build to report."""
    connection = http.client.HTTPConnection(registry.partition("/")[0], timeout=5)
    try:
        connection.request("GET", "/v2/")
        return connection.getresponse().status in (200, 401)
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
