"""The sidecar: `python -m headgate_pipelines.plugin [--port 7171] [--token-file FILE]`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from headgate_pipelines.plugin.sidecar import AGENT_TOKEN, application, asks

PORT = 7171


def main(argv: Sequence[str]) -> int:
    parser = argparse.ArgumentParser("headgate_pipelines.plugin", description="Argo executor plugin, as a sidecar.")
    parser.add_argument("--port", type=int, default=PORT)
    parser.add_argument("--host", default="127.0.0.1", help="the agent calls from the same pod")
    parser.add_argument("--token-file", type=Path, default=AGENT_TOKEN, help="what Argo presents")
    given = parser.parse_args(argv)

    import uvicorn

    uvicorn.run(application(given.token_file, asks()), host=given.host, port=given.port, log_level="warning")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
