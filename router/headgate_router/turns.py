"""Short turns on the processor, where others use the same cores.

A worker that wakes has work for some microseconds; on a busy machine answers are late because it waits for its turn.
Linux 6.12 and newer take a wish for how long turns are: short ones come sooner, and the share of the processor stays
what it was. Older kernels ignore it. Refuses to raise a priority: others would pay for that, and it takes a right.
"""

from __future__ import annotations

import ctypes
import os
import platform
import struct
import sys

TURN_NS = 100_000  # the shortest there is
_SETATTR = {"x86_64": 314, "aarch64": 274}  # numbers of sched_setattr(2): Python's library does not have it
_ATTRIBUTES = struct.Struct(
    "=IIQiIQQQ"
)  # struct sched_attr: size, policy, flags, nice, priority, runtime, deadline, period


def shorten() -> bool:
    """Asks it for this thread and those it starts.

    False: the system takes no such wish, or whoever started the worker chose another policy.
    """
    number = _SETATTR.get(platform.machine())
    if sys.platform != "linux" or number is None or os.sched_getscheduler(0) != os.SCHED_OTHER:
        return False
    nice = os.getpriority(os.PRIO_PROCESS, 0)
    asked = _ATTRIBUTES.pack(_ATTRIBUTES.size, os.SCHED_OTHER, 0, nice, 0, TURN_NS, 0, 0)
    failed: int = ctypes.CDLL(None).syscall(ctypes.c_long(number), 0, ctypes.c_char_p(asked), 0)
    return not failed
