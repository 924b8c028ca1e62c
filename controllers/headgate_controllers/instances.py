"""What an arm's replicas are, as samples: the metric source that needs no name in headgate.yml. Reads, asks nobody."""

from __future__ import annotations

from collections.abc import Mapping

from headgate.evidence import Need, Sample
from headgate.ports import Window
from headgate.process import InstanceType
from headgate.rollout import Head

UNDECLARED = InstanceType(gpus=0, price_per_hour=0.0)


def fact(head: Head, types: Mapping[str, InstanceType], need: Need, window: Window) -> Sample:
    """One of `INSTANCE_FACTS` of the window's revision.

    Args:
        types: headgate.yml's, by lower-case name.
    """
    state = head.revisions.get(window.revision)
    if state is None:
        return Sample(need.source, need.query, window.arm, None, "empty", "the revision is gone")
    kind = types.get(state.deployment.source.instance_type.lower(), UNDECLARED)
    facts = {
        "at_once": state.deployment.run.max_concurrent_per_instance,
        "gpus": kind.gpus,
        "price_per_hour": kind.price_per_hour,
    }
    if need.query not in facts:
        return Sample(need.source, need.query, window.arm, None, "refused", "there is no such fact")
    return Sample(need.source, need.query, window.arm, float(facts[need.query]))
