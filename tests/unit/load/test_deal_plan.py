"""The plan of a load of deals: the cheapest for what is known, and reading where nothing else is safe."""

from __future__ import annotations

from typing import Any

import pytest

from crm_provider.load.kinds.deal_plan import DealRows, choose_for_deals
from crm_provider.load.planner import Plan, Sample


def planned(
    rows: int,
    *,
    total: int | None = 1000,
    h: float = 1.0,
    u: float = 0.0,
    wanted: str = "auto",
    may_compare: bool = True,
    looks: list[int] | None = None,
    **known: Any,
) -> Plan:
    looked = [] if looks is None else looks

    def sample(n: int) -> Sample:
        looked.append(n)
        return Sample(sum(looked), round(sum(looked) * h), round(sum(looked) * h * u))

    about = DealRows(count=rows, **{"mode": "move", **known})
    return choose_for_deals(about, wanted=wanted, total=lambda: total, sample=sample, may_compare=may_compare)


@pytest.mark.parametrize(
    ("rows", "arguments", "name", "calls"),
    [
        (0, {}, "nothing", 0),
        (49, {}, "move", 49),  # too few for a look
        (49, {"guarded": True}, "move", 98),
        (2000, {"mode": "create"}, "create", 2000),
        (2000, {"mode": "create", "wanted": "compare"}, "compare", 2000 + 100 + 1),
        (10, {"must_read": "because"}, "compare", 10 + 100 + 1),
        (10, {"must_read": "because", "may_compare": False}, "compare", 10 + 100 + 1),
        (2000, {"may_compare": False}, "move", 2000),
        (2000, {"total": None}, "move", 2001),
        (100, {"total": 1000}, "move", 101),  # reading costs as much as writing
        (2000, {"total": 2000, "u": 0.7}, "compare", 200 + 600 + 11),
        (2000, {"total": 2000, "u": 0.0}, "move", 2000 + 21),
        (2000, {"total": 2000, "u": 0.7, "guarded": True}, "compare", 200 + 1200 + 21),
        (2000, {"total": 15000, "u": 0.2, "guarded": True}, "move", 3600 + 21),
        (2000, {"total": 2000, "h": 0.5, "u": 0.0, "guarded": True}, "move", 3000 + 21),
    ],
)
def test_the_cheapest_plan(rows: int, arguments: dict[str, Any], name: str, calls: int) -> None:
    plan = planned(rows, **arguments)
    assert (plan.name, plan.calls) == (name, calls)


@pytest.mark.parametrize(
    ("rows", "arguments", "why"),
    [
        (10, {"must_read": "the reason"}, "the reason; the CRM reports 1,000 deals"),
        (10, {"must_read": "the reason", "total": None}, "an unknown number of deals"),
        (2000, {"mode": "create"}, "each row is one call"),
        (2000, {"total": 2000, "u": 0.7}, "if the CRM's 2,000 deals are read first"),
    ],
)
def test_a_plan_says_why(rows: int, arguments: dict[str, Any], why: str) -> None:
    assert why in planned(rows, **arguments).why


def test_looks_are_few_next_to_the_calls() -> None:
    looks: list[int] = []
    planned(2000, total=2000, u=0.7, looks=looks)
    assert sum(looks) <= 0.02 * 800
