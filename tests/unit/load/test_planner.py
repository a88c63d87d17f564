"""The plan of a load: the cheapest for what is known, and never more expensive because of the sample."""

from __future__ import annotations

import random

import pytest

from crm_provider.load.planner import Plan, Sample, calls_with_compare, calls_without_reading, choose, pages_of

NEVER = "must not be asked"


def planned(
    rows: int,
    *,
    total: int | None = 0,
    h: float = 0.0,
    u: float = 0.0,
    mode: str = "upsert",
    wanted: str = "auto",
    asked: list[int] | None = None,
) -> Plan:
    looked: list[int] = [] if asked is None else asked

    def look(n: int) -> Sample:
        looked.append(n)
        seen = sum(looked)
        return Sample(seen, round(seen * h), round(seen * h * u))

    return choose(mode=mode, wanted=wanted, rows=rows, total=lambda: total, sample=look)[0]


@pytest.mark.parametrize(
    ("rows", "total", "h", "u", "mode", "name"),
    [
        (0, 1000, 0, 0, "upsert", "nothing"),
        (10, 10, 1, 1, "upsert", "learned"),  # too few rows for a sample
        (1000, 0, 0, 0, "upsert", "learned"),  # an empty CRM
        (1000, None, 0, 0, "upsert", "learned"),  # a CRM that sends no total
        (1000, 1_000_000, 0.9, 0.9, "upsert", "learned"),  # reading costs 100 calls a row
        (2000, 2000, 0.8, 0.95, "upsert", "compare"),
        (2000, 2000, 0.5, 0.0, "upsert", "compare"),  # 200 + 2000 against 3000
        (2000, 2000, 1.0, 0.0, "upsert", "learned"),  # every row takes one PUT either way
        (2000, 2000, 0.0, 0.0, "upsert", "learned"),
        (2000, 2000, 0.9, 0.0, "create", "compare"),
        (2000, 2000, 0.0, 0.0, "create", "create"),
        (2000, 2000, 1.0, 0.9, "update", "compare"),
        (2000, 2000, 1.0, 0.0, "update", "update"),
    ],
)
def test_auto_takes_the_cheapest(rows: int, total: int | None, h: float, u: float, mode: str, name: str) -> None:
    assert planned(rows, total=total, h=h, u=u, mode=mode).name == name


def test_sample_costs_at_most_one_percent_and_fifty_calls() -> None:
    for rows in (500, 2000, 10_000, 1_000_000):
        asked: list[int] = []
        planned(rows, total=rows, h=0.02, u=1, asked=asked)  # reading hardly pays: every lookup is needed
        assert sum(asked) == min(max(rows * 0.01, 5), 50)


@pytest.mark.parametrize(
    ("rows", "h", "u", "looks"),
    [
        (2_000, 0.8, 0.95, 10),  # 640 calls: ten lookups are more than 1 % of them
        (2_000, 0.8, 0.0, 20),
        (5_000, 0.9, 0.8, 20),  # 1,850 calls
        (100_000, 1.0, 1.0, 50),
    ],
)
def test_sample_is_small_compared_to_the_calls_too(rows: int, h: float, u: float, looks: int) -> None:
    asked: list[int] = []
    planned(rows, total=int(rows * h), h=h, u=u, asked=asked)
    assert sum(asked) == looks


def test_sample_is_taken_only_if_it_can_change_the_plan() -> None:
    asked: list[int] = []
    planned(1000, total=0, asked=asked)
    planned(1000, total=1_000_000, asked=asked)
    planned(20, total=20, asked=asked)
    assert asked == []


def test_requested_learned_order_needs_no_call() -> None:
    def fail(*_: object) -> int:
        raise AssertionError(NEVER)

    plan, _ = choose(mode="upsert", wanted="learned", rows=100, total=fail, sample=fail)
    assert plan.name == "learned"


def test_requested_compare_shows_its_cost() -> None:
    plan = planned(100, total=5000, wanted="compare")
    assert (plan.name, plan.calls) == ("compare", 100 + 500 + 1)
    assert "5,000 contacts" in plan.why


def test_forecast_of_auto_holds_in_a_simulation() -> None:
    """The forecast equals the calls that the plan makes, within the error of the sample."""
    rng = random.Random(1)
    for _ in range(50):
        rows, h, u = rng.randint(1000, 20_000), rng.random(), rng.random()
        total = int(rows * h) + rng.randint(0, rows)
        plan = planned(rows, total=total, h=h, u=u)
        cost = min(calls_without_reading("upsert", rows, h), calls_with_compare("upsert", rows, total, h, u))
        assert plan.calls == pytest.approx(cost, rel=0.08, abs=60)


def test_number_of_pages() -> None:
    assert [pages_of(n) for n in (0, 1, 10, 11, 100_000)] == [1, 1, 1, 2, 10_000]


def test_time_at_a_rate() -> None:
    assert Plan("learned", 1000, "").seconds(5) == 200
