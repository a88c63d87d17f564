"""The cost and reason of each plan. The figures are worked out by hand from the table in ``plan.py``."""

from __future__ import annotations

from typing import Any

import pytest

from crm_provider.load.planner import (
    NO_LISTS,
    ListCosts,
    Plan,
    Sample,
    calls_with_compare,
    calls_without_reading,
    choose,
    most_calls,
)

FEW = "fewer than 50 rows, for which a sample does not pay off; it may take fewer calls"
NO_TOTAL = "the CRM does not say how many contacts it has; it may take fewer calls"
TOO_DEAR = "more than it could save; it may take fewer calls"
HALF = Sample(10, 5, 4)  # h = 0.5, u = 0.8
NONE_SAME = Sample(10, 5, 0)
ONE_SAME = Sample(10, 1, 1)  # h = 0.1, u = 1


GUARDED = ListCosts(wanted=True, guarded=True)


def chosen(total: int | None, seen: Sample | None, **given: Any) -> tuple[Plan, Sample]:
    """The plan. Requests that must not be made are None or missing."""

    def look(n: int) -> Sample:
        assert seen is not None and n == seen.rows
        return seen

    lists = GUARDED if given.pop("lists", False) else NO_LISTS
    options = {"mode": "upsert", "wanted": "auto", "lists": lists, **given}
    return choose(**options, total=lambda: total, sample=look)


def test_no_row_is_left() -> None:
    assert chosen(None, None, rows=0) == (Plan("nothing", 0, "no rows are left to send"), Sample())


@pytest.mark.parametrize("wanted", ["auto", "compare"])
@pytest.mark.parametrize(
    ("mode", "lists", "name", "calls"),
    [
        ("upsert", False, "learned", 202),  # 2 calls a row
        ("upsert", True, "learned", 404),  # create, read, update, add
        ("create", False, "create", 101),
        ("create", True, "create", 203),  # create, add; one read for the CRM's clock
        ("update", False, "update", 101),
        ("update", True, "update", 303),  # read, update, add
    ],
)
def test_contacts_are_not_read_again_after_a_try_stopped_while_reading(
    wanted: str, mode: str, lists: bool, name: str, calls: int
) -> None:
    why = "an earlier try was stopped while it read all contacts; it may take fewer calls"
    found = chosen(None, None, rows=101, wanted=wanted, mode=mode, lists=lists, may_compare=False)
    assert found == (Plan(name, calls, why), Sample())


@pytest.mark.parametrize("may_compare", [True, False])
@pytest.mark.parametrize(("lists", "calls"), [(False, 202), (True, 404)])
def test_requested_learned_order(lists: bool, calls: int, may_compare: bool) -> None:
    found = chosen(None, None, rows=101, wanted="learned", lists=lists, may_compare=may_compare)
    assert found == (Plan("learned", calls, "requested by plan; it may take fewer calls"), Sample())


MORE = "reading them, ten per call, takes more calls than these"


@pytest.mark.parametrize(
    ("total", "lists", "calls", "reported"),
    [
        (5000, False, 100 + 500 + 1, "5,000 contacts"),
        (5000, True, 300 + 500 + 1, "5,000 contacts"),
        (0, False, 100 + 1 + 1, "0 contacts"),
        (None, True, 300 + 1 + 1, None),
    ],
)
def test_requested_full_read(total: int | None, lists: bool, calls: int, reported: str | None) -> None:
    why = f"requested by plan; the CRM reports {reported}, read ten per call; it may take fewer calls"
    if reported is None:
        why = f"requested by plan; the CRM does not say how many contacts it has; {MORE}"
    assert chosen(total, None, rows=100, wanted="compare", lists=lists) == (Plan("compare", calls, why), Sample())


@pytest.mark.parametrize(
    ("rows", "total", "mode", "lists", "plan"),
    [
        # too few rows
        (49, None, "upsert", False, Plan("learned", 98, FEW)),
        (49, None, "upsert", True, Plan("learned", 196, FEW)),
        (49, None, "create", False, Plan("create", 49, FEW)),
        # a CRM that sends no total
        (50, None, "upsert", False, Plan("learned", 101, NO_TOTAL)),
        (50, None, "upsert", True, Plan("learned", 201, NO_TOTAL)),
        (50, None, "update", False, Plan("update", 51, NO_TOTAL)),
        # an empty CRM
        (100, 0, "upsert", False, Plan("learned", 101, "the CRM has no contacts yet, so every row is new")),
        (100, 0, "create", True, Plan("create", 202, "the CRM has no contacts yet, so every row is new")),
        # reading takes as many calls as the most expensive way without
        (100, 1500, "upsert", False, Plan("learned", 201, f"reading 1,500 contacts takes 150 calls, {TOO_DEAR}")),
        (100, 3000, "upsert", True, Plan("learned", 401, f"reading 3,000 contacts takes 300 calls, {TOO_DEAR}")),
        (100, 1001, "update", False, Plan("update", 101, f"reading 1,001 contacts takes 101 calls, {TOO_DEAR}")),
    ],
)
def test_no_contact_is_sampled(rows: int, total: int | None, mode: str, lists: bool, plan: Plan) -> None:
    assert chosen(total, None, rows=rows, mode=mode, lists=lists) == (plan, Sample())


@pytest.mark.parametrize(
    ("seen", "mode", "lists", "name", "calls", "both"),
    [
        # 100 to read, 1000 * (1 - 0.4) to send, 11 to choose
        (HALF, "upsert", False, "compare", 711, ("700", "1,500")),
        (HALF, "upsert", True, "compare", 2211, ("2,200", "3,000")),
        (HALF, "create", False, "compare", 611, ("600", "1,000")),
        (HALF, "create", True, "compare", 1111, ("1,100", "1,500")),
        (HALF, "update", False, "compare", 711, ("700", "1,000")),
        (HALF, "update", True, "compare", 1711, ("1,700", "2,000")),
        (NONE_SAME, "update", False, "update", 1011, ("1,100", "1,000")),
        (ONE_SAME, "update", False, "update", 1011, ("1,000", "1,000")),  # same cost, but a full read
        (ONE_SAME, "upsert", False, "compare", 1011, ("1,000", "1,100")),
        (Sample(10, 0, 0), "upsert", False, "learned", 1011, ("1,100", "1,000")),
        (Sample(10, 10, 0), "upsert", False, "learned", 1011, ("1,100", "1,000")),
    ],
)
def test_sample_decides_the_plan(
    seen: Sample, mode: str, lists: bool, name: str, calls: int, both: tuple[str, str]
) -> None:
    facts = f"of 10 sampled rows, {seen.existing} exist and {seen.same} are equal"
    why = f"{facts}: about {both[0]} calls if the CRM's 1,000 contacts are read first, and {both[1]} if not"
    assert chosen(1000, seen, rows=1000, mode=mode, lists=lists) == (Plan(name, calls, why), seen)


def test_calls_for_lists_count_before_the_sample() -> None:
    seen = Sample(5, 5, 5)
    why = (
        "of 5 sampled rows, 5 exist and 5 are equal: "
        "about 400 calls if the CRM's 2,000 contacts are read first, and 300 if not"
    )
    assert chosen(2000, seen, rows=100, lists=True) == (Plan("learned", 306, why), seen), "200 pages, and 300 calls"


def test_fraction_of_a_call_is_a_whole_call() -> None:
    # size of the sample: 10. compare: 101 + 1001 * 0.6 = 701.6; learned with nothing equal: 101 + 1001 against 1501.5
    assert chosen(1001, HALF, rows=1001)[0].calls == 702 + 11
    assert chosen(14_990, Sample(10, 5, 0), rows=1001)[0].calls == 1502 + 11


@pytest.mark.parametrize(
    ("rows", "seen", "asked"),
    [
        (2000, [Sample(10, 6, 6)], [10]),  # 200 + 2000 * 0.4 = 1000 calls: ten lookups are 1 % of them
        (2010, [Sample(10, 6, 6), Sample(20, 12, 12)], [10, 10]),  # 1005 calls
        (1500, [Sample(10, 5, 0), Sample(15, 7, 0)], [10, 5]),  # 1 % of the rows
    ],
)
def test_sample_grows_by_ten_up_to_one_percent(rows: int, seen: list[Sample], asked: list[int]) -> None:
    left, looked = list(seen), []

    def look(n: int) -> Sample:
        looked.append(n)
        return left.pop(0)

    _, sample = choose(mode="upsert", wanted="auto", rows=rows, total=lambda: rows, sample=look)
    assert looked == asked
    assert sample == seen[-1]


def test_no_list_calls_are_counted_without_lists() -> None:
    assert calls_without_reading("upsert", 100, 0.25) == 125.0
    assert calls_with_compare("upsert", 100, 100, 0.5, 0.5) == 10 + 75.0


@pytest.mark.parametrize(
    ("mode", "lists", "compares", "calls"),
    [
        # the most calls that one row can take, counted by hand
        ("upsert", NO_LISTS, False, 2),  # create (it exists), update
        ("upsert", ListCosts(wanted=True), False, 3),  # create, update, add
        ("upsert", GUARDED, False, 4),  # create, read, update, add
        ("upsert", NO_LISTS, True, 1),  # create, or update
        ("upsert", ListCosts(wanted=True), True, 2),
        ("upsert", GUARDED, True, 3),  # read again, update, add
        ("create", NO_LISTS, False, 1),
        ("create", GUARDED, False, 3),  # the CRM's clock, create, add
        ("update", NO_LISTS, False, 1),
        ("update", ListCosts(wanted=True), False, 2),
        ("update", GUARDED, False, 3),
        ("update", GUARDED, True, 3),
    ],
)
def test_most_calls_of_a_row(mode: Any, lists: ListCosts, compares: bool, calls: int) -> None:
    assert most_calls(mode, 1, lists, compares=compares) == calls


@pytest.mark.parametrize(
    ("mode", "lists", "h", "calls"),
    [
        ("upsert", ListCosts(wanted=True), 0.5, 100),
        ("upsert", GUARDED, 0.5, 150),
        ("create", GUARDED, 0.25, 75),  # only new contacts
        ("update", ListCosts(wanted=True), 0.25, 25),  # only existing contacts
        ("update", GUARDED, 0.25, 50),
    ],
)
def test_expected_cost_of_lists(mode: Any, lists: ListCosts, h: float, calls: float) -> None:
    assert lists.calls(mode, 100, h) == calls
