"""What a change costs by the prices of headgate.yml, before it starts: what is provisioned, not what is used.

Refuses to guess: one instance type without a price, and there is no sum.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from headgate.process import Settings
from headgate.target import DeploymentTarget, Target


@dataclass(frozen=True, slots=True)
class Price:
    """Of all instances an endpoint asks for, in the currency of `price_per_hour`."""

    before: float | None  # an hour; None: it is new, or a price is not declared
    after: float
    during: float  # while what serves now and what is new run beside each other, keep_warm included


def price(before: Target | None, after: Target, was: Settings, now: Settings) -> Price | None:
    """Instances by `instance_count`: what scaling adds is not known. None: a price is not declared."""
    asked = hourly(after.revisions.values(), now)
    both = hourly({**(before.revisions if before else {}), **after.revisions}.values(), now)
    if not asked or both is None:
        return None
    return Price(hourly(before.revisions.values(), was) if before else None, asked, both)


def hourly(deployments: Iterable[DeploymentTarget], settings: Settings) -> float | None:
    """None: one of them has an instance type without a price."""
    total = 0.0
    for deployment in deployments:
        kind = settings.instance_types.get(deployment.source.instance_type.lower())
        if kind is None or not kind.price_per_hour:
            return None
        total += deployment.run.instance_count * kind.price_per_hour
    return total


def per_1000(an_hour: float, rate: float) -> float:
    """What 1,000 requests cost at `rate` requests a second, more than 0."""
    return an_hour / 3600 / rate * 1000
