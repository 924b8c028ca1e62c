from __future__ import annotations

from dataclasses import replace

import pytest

from headgate.process import InstanceType, Settings
from headgate.testing import deployment, target
from headgate_console import planview
from headgate_console.plans import Change
from headgate_policies.forecast import Price, per_1000, price

PRICED = Settings(instance_types={"small": InstanceType(price_per_hour=1.5)})
BLUE, GREEN = deployment("blue", instances=2), deployment("green", instances=4)
BEFORE = target("b1", [BLUE], {"blue": 100})
AFTER = target("a2", [BLUE, GREEN], {"green": 100})


def test_all_instances_are_summed_and_those_that_run_beside_each_other() -> None:
    edited = deployment("blue", "2", instances=3)
    assert price(BEFORE, AFTER, PRICED, PRICED) == Price(3.0, 9.0, 9.0)
    assert price(BEFORE, target("a2", [edited], {"blue": 100}), PRICED, PRICED) == Price(3.0, 4.5, 7.5)
    assert price(None, AFTER, PRICED, PRICED) == Price(None, 9.0, 9.0)


@pytest.mark.parametrize(
    "settings",
    [Settings(), Settings(instance_types={"small": InstanceType()}), Settings(instance_types={"big": InstanceType()})],
    ids=["no types", "no price", "another type"],
)
def test_without_every_price_there_is_no_sum(settings: Settings) -> None:
    assert price(BEFORE, AFTER, PRICED, settings) is None
    found = price(BEFORE, AFTER, settings, PRICED)
    assert found is not None
    assert found.before is None


def test_one_instance_at_one_request_a_second_costs_its_hour_by_3600() -> None:
    assert per_1000(3.6, 1.0) == pytest.approx(1.0)
    assert per_1000(3.6, 100.0) == pytest.approx(0.01)


def test_a_plan_says_it_in_a_line_and_as_data() -> None:
    change = Change("fraud", BEFORE, AFTER, price=Price(3.0, 4.5, 7.5))
    line = (
        "price: 4.5 an hour (now 3), 7.5 while both run; at 10 requests a second 0.125 per 1,000 requests (now 0.0833)"
    )
    assert line in [said.strip() for said in planview.text([change], 10.0)]
    assert f"- {line}" in planview.markdown([change], 10.0)
    assert planview.data([change])[0]["price"] == {"before": 3.0, "after": 4.5, "during": 7.5}
    assert planview.price(replace(change, price=Price(None, 4.5, 4.5)), 0.0) == ["price: 4.5 an hour"]
    assert planview.price(replace(change, price=None), 10.0) == []
