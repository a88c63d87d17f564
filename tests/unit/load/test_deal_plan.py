"""The plan of a deal load: the cheapest one, and a full read where nothing else is safe."""

from __future__ import annotations

from typing import Any

import pytest

from crm_provider.load.kinds.deal_plan import DealRows, choose_for_deals
from crm_provider.load.planner import Plan, Sample

FEWER = "it may take fewer calls"
MORE = "reading them, ten per call, takes more calls than these"


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
        (49, {}, "move", 49),  # too few rows for a sample
        (49, {"guarded": True}, "move", 98),
        (50, {"total": 100}, "move", 50 + 6),
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
        (2000, {"total": 2000, "u": 0.1}, "move", 2000 + 21),  # reading costs the same
        (2001, {"total": 2000, "u": 0.7}, "compare", 801 + 11),  # 800.3
        (2001, {"total": 15000, "u": 0.7, "guarded": True}, "move", 2602 + 21),  # 2601.3
        (2000, {"total": 2000, "h": 0.5, "u": 0.0, "guarded": True}, "move", 3000 + 21),
    ],
)
def test_cheapest_plan_is_chosen(rows: int, arguments: dict[str, Any], name: str, calls: int) -> None:
    plan = planned(rows, **arguments)
    assert (plan.name, plan.calls) == (name, calls)


@pytest.mark.parametrize(
    ("rows", "arguments", "plan"),
    [
        (0, {}, Plan("nothing", 0, "no rows are left to send")),
        (10, {"must_read": "the reason"},
         Plan("compare", 111, f"the reason; the CRM reports 1,000 deals, read ten per call; {FEWER}")),
        (10, {"must_read": "x", "total": None},
         Plan("compare", 12, f"x; the CRM does not say how many deals it has; {MORE}")),
        (2000, {"may_compare": False},
         Plan("move", 2000, f"an earlier try was stopped while it read all deals; {FEWER}")),
        (2000, {"wanted": "compare"},
         Plan("compare", 2101, f"requested by plan; the CRM reports 1,000 deals, read ten per call; {FEWER}")),
        (2000, {"mode": "create"}, Plan("create", 2000, "each row is one call")),
        (49, {}, Plan("move", 49, f"fewer than 50 rows, for which a sample does not pay off; {FEWER}")),
        (2000, {"total": None}, Plan("move", 2001, f"the CRM does not say how many deals it has; {FEWER}")),
        (100, {}, Plan("move", 101, f"reading 1,000 deals takes 100 calls, more than it could save; {FEWER}")),
        (2000, {"total": 2000, "u": 0.7},
         Plan("compare", 811, "of 10 sampled rows, 10 exist and 7 are equal: about 800 calls if the CRM's 2,000 "
                              "deals are read first, and 2,000 if not")),
        (2000, {"total": 2000},
         Plan("move", 2021, "of 20 sampled rows, 20 exist and 0 are equal: about 2,200 calls if the CRM's 2,000 deals "
                            "are read first, and 2,000 if not")),
    ],
)  # fmt: skip
def test_plan_states_its_reason(rows: int, arguments: dict[str, Any], plan: Plan) -> None:
    assert planned(rows, **arguments) == plan


@pytest.mark.parametrize(
    ("rows", "u", "looks"),
    [(2000, 0.7, [10]), (2000, 0.6, [10]), (2000, 0.0, [10, 10]), (2500, 0.0, [10, 10, 5])],
    ids=["1 % of 800 calls", "1 % of 1,000 calls", "1 % of 2,000 calls", "1 % of the rows"],
)
def test_sample_is_small_compared_to_the_calls(rows: int, u: float, looks: list[int]) -> None:
    found: list[int] = []
    planned(rows, total=2000, u=u, looks=found)
    assert found == looks
