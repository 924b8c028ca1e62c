"""A Workflow object as a `Run`. Pure."""

from __future__ import annotations

import base64
import json
import zlib
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from headgate.draft import ENDED
from headgate.ports import Run

PENDING = "Pending"
LARGEST = 32 * 1024 * 1024  # bytes of a node list once unpacked


def run_of(found: Mapping[str, Any]) -> Run:
    status = found.get("status") or {}
    return Run(
        name=str(found["metadata"]["name"]),
        phase=str(status.get("phase") or PENDING),
        message=str(status.get("message") or ""),
        nodes={str(node.get("displayName") or key): str(node.get("phase", "")) for key, node in _nodes(status).items()},
        started_at=_seconds(status.get("startedAt")),
        finished_at=_seconds(status.get("finishedAt")),
    )


def ended(found: Mapping[str, Any]) -> bool:
    return (found.get("status") or {}).get("phase") in ENDED


def _nodes(status: Mapping[str, Any]) -> Mapping[str, Any]:
    """Argo packs a long list; one it keeps in a database elsewhere is not read."""
    packed = status.get("compressedNodes")
    if not packed:
        return status.get("nodes") or {}
    unpacker = zlib.decompressobj(wbits=31)  # gzip
    try:
        text = unpacker.decompress(base64.b64decode(packed), LARGEST)
        found = json.loads(text)
    except (ValueError, zlib.error):
        return {}
    return found if isinstance(found, dict) else {}


def _seconds(text: str | None) -> float | None:
    return datetime.fromisoformat(text).timestamp() if text else None
