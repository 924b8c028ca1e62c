"""A revision's id: a hash of everything that can change one deployment's answers, and of its name.

The name is in it so that two deployments with equal content stay two rows in a split. Builds are shared by the
digest of the source, which has no name in it.
"""

from __future__ import annotations

from headgate import codec
from headgate.target import Source

LENGTH = 16  # hex digits: 64 bits, enough for every revision an endpoint will ever have


def revision_id(endpoint: str, deployment: str, source: Source) -> str:
    return codec.digest({"endpoint": endpoint, "deployment": deployment, "source": source})[:LENGTH]
