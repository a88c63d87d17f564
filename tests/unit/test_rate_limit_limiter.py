"""Even spacing within a process, and one budget per key."""

from __future__ import annotations

import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crm_provider.client.settings import Settings
from crm_provider.rate_limit.limiter import BudgetBusy, LaneRateLimiter, ProcessRateLimiter, UnlimitedRate, limiter_for
from crm_provider.rate_limit.schedule import LONGEST_PAUSE, MARGIN, Lane

from .fakes import FakeClock
from .rate_limit_scene import NEVER_MIND, TokenBucket

RATES = st.floats(0.01, 1000)
BURSTS = st.integers(1, 20)
ARRIVALS = st.lists(st.floats(0, 3) | st.just(0.0), min_size=1, max_size=60)
"""Times between arrivals, in slots."""


def slots_of(rate: float, burst: int, gaps: list[float]) -> list[float]:
    """When the callers may send, in order of arrival."""
    clock = FakeClock(0.0)
    limiter = ProcessRateLimiter(rate, burst, clock=clock, sleep=lambda _: None)
    slots = []
    for gap in gaps:
        clock.now += gap / rate
        slots.append(clock.now + limiter.acquire(NEVER_MIND))
    return slots


@given(rate=RATES, burst=BURSTS, gaps=ARRIVALS)
def test_paced_call_is_never_refused(rate: float, burst: int, gaps: list[float]) -> None:
    bucket = TokenBucket(rate, burst)
    assert all(bucket.takes(slot) for slot in slots_of(rate, burst, gaps))


@given(rate=RATES, burst=BURSTS, gaps=ARRIVALS)
def test_slots_are_granted_in_order_of_arrival_and_spaced(rate: float, burst: int, gaps: list[float]) -> None:
    slots = slots_of(rate, burst, gaps)
    assert slots == sorted(slots)
    at_once, spacing = max(burst - 1, 1), 1 / (rate * MARGIN)
    for first, later in zip(slots, slots[at_once:], strict=False):
        assert later - first >= spacing * (1 - 1e-6) - 1e-9 * abs(later)


def test_caller_sleeps_until_its_slot() -> None:
    clock = FakeClock()
    limiter = ProcessRateLimiter(5.0, 2, clock=clock, sleep=clock.sleep)
    assert [limiter.acquire(NEVER_MIND) for _ in range(3)] == pytest.approx([0.0, 0.202, 0.202], abs=1e-3)
    assert clock.slept == pytest.approx([0.202, 0.202], abs=1e-3), "no sleep where the slot is free"


def test_all_but_one_call_of_the_burst_may_go_at_once() -> None:
    limiter = ProcessRateLimiter(1.0, 3, clock=FakeClock(), sleep=lambda _: None)
    assert [limiter.acquire(NEVER_MIND) for _ in range(3)] == pytest.approx([0.0, 0.0, 1 / MARGIN])


# -- a bounded wait ------------------------------------------------------------------------------------------


def test_distant_slot_is_reported_at_once_and_not_taken() -> None:
    clock = FakeClock()
    limiter = ProcessRateLimiter(1.0, 1, clock=clock, sleep=clock.sleep)
    limiter.acquire(NEVER_MIND)
    for _ in range(3):
        with pytest.raises(BudgetBusy) as busy:
            limiter.acquire(1.0)
        assert busy.value.seconds == pytest.approx(1 / MARGIN)
    assert clock.slept == []
    assert limiter.acquire(2.0) == pytest.approx(1 / MARGIN)


@given(gaps=ARRIVALS, patience=st.lists(st.floats(0, 5), min_size=60, max_size=60))
def test_leaving_caller_takes_nothing_from_the_others(gaps: list[float], patience: list[float]) -> None:
    clock = FakeClock(0.0)
    limiter = ProcessRateLimiter(1.0, 2, clock=clock, sleep=lambda _: None)
    bucket, last = TokenBucket(1.0, 2), -10.0
    for gap, max_wait in zip(gaps, patience, strict=False):
        clock.now += gap
        if (due := max(last + 1 / MARGIN, clock.now)) - clock.now > max_wait + 1e-6:
            with pytest.raises(BudgetBusy) as busy:
                limiter.acquire(max_wait)
            assert clock.now + busy.value.seconds == pytest.approx(due)
        elif due - clock.now < max_wait - 1e-6:
            slot = clock.now + limiter.acquire(max_wait)
            assert slot >= last
            assert bucket.takes(slot)
            last = slot


# -- a pause after a refusal ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("pause", "wait"),
    [(0.0, 0.0), (3.0, 3.0), (LONGEST_PAUSE, LONGEST_PAUSE), (LONGEST_PAUSE + 0.1, 0.0), (3600.0, 0.0)],
)
def test_pause_delays_the_next_slot(pause: float, wait: float) -> None:
    clock = FakeClock()
    limiter = ProcessRateLimiter(5.0, 5, clock=clock, sleep=lambda _: None)
    limiter.pause(pause)
    assert limiter.acquire(NEVER_MIND) == pytest.approx(wait)


def test_pause_ends_the_burst() -> None:
    clock = FakeClock()
    limiter = ProcessRateLimiter(1.0, 5, clock=clock, sleep=lambda _: None)
    limiter.pause(0.0)
    assert [limiter.acquire(NEVER_MIND) for _ in range(3)] == pytest.approx([0, 1 / MARGIN, 2 / MARGIN])


def test_pause_never_brings_a_slot_forward() -> None:
    clock = FakeClock()
    limiter = ProcessRateLimiter(1.0, 1, clock=clock, sleep=lambda _: None)
    for _ in range(5):
        limiter.acquire(NEVER_MIND)
    limiter.pause(0.5)
    assert limiter.acquire(NEVER_MIND) == pytest.approx(5 / MARGIN)


# -- sharing -------------------------------------------------------------------------------------------------


BASE = Settings(api_key="shared-key-of-test-pacing")


def test_one_budget_per_key_whatever_else_the_connection_says() -> None:
    assert limiter_for(BASE) is limiter_for(BASE.with_(timeout=1, developer_mode=True))


@pytest.mark.parametrize("change", [{"api_key": "another"}, {"base_url": "https://crm.example/v2"}], ids=str)
def test_another_key_or_host_has_its_own_budget(change: dict[str, str]) -> None:
    assert limiter_for(BASE) is not limiter_for(BASE.with_(**change))


def test_lanes_of_a_key_share_one_budget() -> None:
    single, bulk = limiter_for(BASE), limiter_for(BASE, lane=Lane.BULK)
    assert isinstance(single, LaneRateLimiter)
    assert isinstance(bulk, LaneRateLimiter)
    assert single is not bulk
    assert single.budget is bulk.budget
    assert (single.lane, bulk.lane) == (Lane.SINGLE, Lane.BULK)


@pytest.mark.parametrize(("rate", "burst", "at_once"), [(5.0, 2, 1), (2.0, 1, 1), (50.0, 20, 19)])
def test_limits_come_from_the_connection(rate: float, burst: int, at_once: int) -> None:
    settings = Settings(api_key="limits-of-test-pacing")
    before = limiter_for(settings)
    assert limiter_for(settings.with_(requests_per_second=rate, burst=burst)) is before
    assert isinstance(before, LaneRateLimiter)
    assert before.budget.pace.spacing == pytest.approx(1 / (rate * MARGIN))
    assert before.budget.pace.at_once == at_once


def test_off_means_no_budget() -> None:
    limiter = limiter_for(BASE.with_(rate_store="off"))
    limiter.pause(100.0)
    assert isinstance(limiter, UnlimitedRate)
    assert [limiter.acquire(0.0) for _ in range(100)] == [0.0] * 100


FORK = """
import os, signal, sys, threading
from crm_provider.rate_limit import limiter as budget
from crm_provider.rate_limit.limiter import limiter_for
from crm_provider.client.settings import Settings

settings = Settings(api_key="k", rate_store="process")
before = limiter_for(settings)
held = threading.Event()

def hold():
    with budget._budgets_lock, before.budget.store._lock:
        held.set()
        threading.Event().wait()

threading.Thread(target=hold, daemon=True).start()
held.wait()
child = os.fork()
if child == 0:
    signal.alarm(60)
    after = limiter_for(settings)
    os._exit(0 if after is not before and after.acquire(0.0) == before.acquire(0.0) == 0.0 else 1)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


def test_fork_while_a_lock_is_held_does_not_hang_the_child() -> None:
    assert subprocess.run([sys.executable, "-W", "ignore", "-c", FORK], check=False).returncode == 0


def test_wait_for_a_slot_can_be_interrupted() -> None:
    class Stopped(Exception):
        pass

    def sleep(seconds: float) -> None:
        raise Stopped

    settings = Settings(api_key="k", base_url="http://127.0.0.1:9", rate_store="process", requests_per_second=0.01)
    others, mine = limiter_for(settings), limiter_for(settings, lane=Lane.BULK, sleep=sleep)
    others.acquire(0)
    with pytest.raises(Stopped):
        mine.acquire(NEVER_MIND)
