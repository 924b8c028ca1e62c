"""Fetches a replica's model before its server starts: the container `storage-initializer` of its pod.

    python -m headgate_pipelines.initializer        told by $HEADGATE_FETCH, JSON of a `headgate.target.Order`

Ends with 0 and the model whole in its folder, or with why in the last line: 1, it is not what was pinned; NOT_SET_UP,
its store is away or cannot be used. Runs nothing of the model.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

from headgate import codec
from headgate.findings import HeadgateError, SpecError, TransientError
from headgate.target import Order, catalogue_of
from headgate.workload import FETCH, NOT_SET_UP
from headgate_kit import catalogue

PAUSES_S = (2.0, 5.0, 10.0)  # between tries; then the pod's own back-off


def main() -> int:
    try:
        order = codec.decode(Order, os.environ.get(FETCH, ""))
        _fetch(order)
    except (HeadgateError, codec.CodecError, OSError) as error:
        print(error, file=sys.stderr, flush=True)
        print(f"headgate: {_line(error)}", file=sys.stderr, flush=True)
        return 1 if isinstance(error, SpecError) else NOT_SET_UP
    print(f"{order.pin.name}:{order.pin.version} is in {order.into}", flush=True)
    return 0


def _fetch(order: Order) -> None:
    into = Path(order.into)
    if into.is_dir():  # of the container's last life: it was renamed when it was whole
        return
    known = {catalogue_of(order.pin): order.source} if order.source else {}
    for pause in (*PAUSES_S, None):
        try:
            catalogue.fetch(order.pin, known, into, Path())
            return
        except TransientError as error:
            if pause is None:
                raise
            print(f"{error}; tried again in {pause:g} s", flush=True)
            time.sleep(pause)


def _line(error: Exception) -> str:
    """What a person reads in the replica's state."""
    findings = getattr(error, "findings", ())
    return f"{findings[0].message}: {findings[0].why}" if findings else str(error).partition("\n")[0]


if __name__ == "__main__":
    sys.exit(main())
