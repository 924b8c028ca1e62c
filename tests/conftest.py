"""What holds for tests of every kind."""

from __future__ import annotations

import os

from hypothesis import HealthCheck, settings

# An example takes as long as the machine lets it. The same examples each time: what a change breaks is found by that
# change, not by another one after it. HEADGATE_FUZZ=10 draws new ones.
settings.register_profile(
    "headgate",
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
    derandomize=os.environ.get("HEADGATE_FUZZ", "1") == "1",
)
settings.load_profile("headgate")
