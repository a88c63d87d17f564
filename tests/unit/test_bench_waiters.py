"""The database rows that ``tests/benchmarks/bench_waiters.py`` writes, and the runs it accepts."""

from __future__ import annotations

import bench_waiters
import pytest
from bench_waiters import RUNS, Run
from deferred_waits import crm_trigger

WAITERS = 100


def test_waits_equal_those_of_the_sensors() -> None:
    """Without the sensors' policy, a wait for a missing list fails at the first check."""
    found = [crm_trigger(number, 60.0, 5)[1] for number in range(10)]
    lists, members, deals = ["CrmListSensor"] * 6, ["CrmListMembershipSensor"] * 2, ["CrmDealStageSensor"] * 2
    assert [arguments["policy_name"] for arguments in found] == [*lists, *members, *deals]
    assert {arguments["poke_interval"] for arguments in found} == {60.0}


def ended(**changes: int) -> Run:
    run = Run("crm-killed", ended_once=WAITERS, succeeded=WAITERS, taken_over=40)
    for name, value in changes.items():
        setattr(run, name, value)
    return run


def test_good_run_is_accepted() -> None:
    assert ended().wrong(WAITERS) == []


@pytest.mark.parametrize(
    ("changes", "wrong"),
    [
        ({"succeeded": 40}, "only 40 ended with what they waited for"),
        ({"ended_once": 99}, "not every wait ended exactly once"),
        ({"ended_twice": 1}, "not every wait ended exactly once"),
        ({"taken_over": 0}, "the triggerer that was killed had no triggers, or all"),
        ({"taken_over": WAITERS}, "the triggerer that was killed had no triggers, or all"),
    ],
)
def test_run_without_valid_figures_is_refused(changes: dict[str, int], wrong: str) -> None:
    assert ended(**changes).wrong(WAITERS) == [wrong]


def test_table_has_each_run_in_its_column() -> None:
    runs = {name: ended(succeeded=number, ending=10.0 + number) for number, name in enumerate(RUNS)}
    rows = bench_waiters.written(runs, WAITERS, 60.0).splitlines()
    assert "| from the moment that all are due to the last event | 10 s | 11 s |" in rows
    assert "| one of two triggerers killed: all are due to the last event | 12 s | 13 s |" in rows
    assert "| one of two triggerers killed: ended exactly once, with success | 2 | 3 |" in rows
