"""Callers of a lane and a store's responses, the part that a share leaves, and the budget of each connection."""

from __future__ import annotations

import pytest

from crm_provider.client.settings import Settings
from crm_provider.rate_limit import limiter as budgets
from crm_provider.rate_limit.host_file import HostFileStore, file_name
from crm_provider.rate_limit.limiter import (
    Budget,
    BudgetBusy,
    FallbackStore,
    LaneRateLimiter,
    MemoryStore,
    ProcessRateLimiter,
    ShareRateLimiter,
)
from crm_provider.rate_limit.redis import RedisStore
from crm_provider.rate_limit.schedule import LONGEST_PAUSE, MARGIN, Grant, GrantStatus, Lane, Pace, Ticket

from .fakes import FakeClock, FakeRateLimiter

PACE = Pace.of(5.0, 2)


class Script:
    """A store with scripted responses that records the requests."""

    def __init__(self, clock: FakeClock, *responses: tuple[GrantStatus, float], takes: float = 0.0) -> None:
        self.clock, self.responses, self.takes = clock, list(responses), takes
        self.asked: list[tuple[Lane, Ticket | None, Pace, float]] = []
        self.paused: list[tuple[float, float, Pace]] = []

    def ask(self, lane: Lane, ticket: Ticket | None, pace: Pace, patience: float) -> tuple[Grant, Ticket]:
        self.asked.append((lane, ticket, pace, patience))
        self.clock.now += self.takes
        number = len(self.asked)
        return Grant(*self.responses.pop(0), number), Ticket(7, number)

    def pause(self, seconds: float, phase: float, pace: Pace) -> None:
        self.paused.append((seconds, phase, pace))


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock(64.0)  # powers of two, so that nothing is rounded


def lane_of(clock: FakeClock, script: Script, lane: Lane = Lane.BULK) -> LaneRateLimiter:
    return Budget(script, 5.0, 2, clock=clock, sleep=clock.sleep, jitter=lambda: 0.25).lane(lane)


# -- waiting for a slot --------------------------------------------------------------------------------------


def test_caller_shows_its_ticket_and_its_remaining_patience(clock: FakeClock) -> None:
    script = Script(
        clock, (GrantStatus.RETRY_AFTER, 0.5), (GrantStatus.RETRY_AFTER, 0.25), (GrantStatus.GRANTED, 0.125), takes=1.0
    )
    assert lane_of(clock, script).acquire(8.0) == 0.875, "only its naps count, not the time of the requests"
    assert clock.slept == [0.5, 0.25, 0.125]
    assert script.asked == [
        (Lane.BULK, None, PACE, 8.0),
        (Lane.BULK, Ticket(7, 1), PACE, 6.5),
        (Lane.BULK, Ticket(7, 2), PACE, 5.25),
    ]


def test_free_slot_costs_no_sleep(clock: FakeClock) -> None:
    assert lane_of(clock, Script(clock, (GrantStatus.GRANTED, 0.0))).acquire(1.0) == 0.0
    assert clock.slept == []


def test_rejected_caller_learns_the_distance_of_the_slot(clock: FakeClock) -> None:
    script = Script(clock, (GrantStatus.RETRY_AFTER, 0.5), (GrantStatus.REJECTED, 3.25))
    with pytest.raises(BudgetBusy, match=r"^the next free slot is 3\.2 s away$") as busy:
        lane_of(clock, script).acquire(1.0)
    assert busy.value.seconds == 3.25
    assert clock.slept == [0.5]


def test_changed_limits_apply_to_the_next_request_of_a_waiting_caller(clock: FakeClock) -> None:
    script = Script(clock, (GrantStatus.RETRY_AFTER, 0.5), (GrantStatus.GRANTED, 0.0))
    limiter = lane_of(clock, script)

    def sleep(seconds: float) -> None:
        limiter.budget.limit(50.0, 20)

    limiter.budget.lane(Lane.BULK, sleep=sleep).acquire(1.0)
    assert [pace for _, _, pace, _ in script.asked] == [PACE, Pace.of(50.0, 20)]
    assert clock.slept == []


def test_refusal_pauses_all_callers_and_shifts_the_phase_randomly(clock: FakeClock) -> None:
    script = Script(clock)
    limiter = lane_of(clock, script)
    for seconds in (0.0, LONGEST_PAUSE, LONGEST_PAUSE + 0.001):
        limiter.pause(seconds)
    phase = 0.25 * PACE.spacing
    assert script.paused == [(0.0, phase, PACE), (LONGEST_PAUSE, phase, PACE)]


def test_each_lane_has_its_own_callers() -> None:
    budget = Budget(MemoryStore(), 5.0, 2)
    assert [budget.lane(lane).lane for lane in Lane] == list(Lane)
    assert all(budget.lane(lane) is budget.lane(lane) for lane in Lane)
    own = budget.lane(Lane.WAITING, sleep=lambda seconds: None)
    assert own is not budget.lane(Lane.WAITING)
    assert (own.lane, own.budget) == (Lane.WAITING, budget)


# -- a share -------------------------------------------------------------------------------------------------


def test_share_waits_at_its_own_pace_then_with_the_remaining_patience(clock: FakeClock) -> None:
    whole = FakeRateLimiter({1: 0.5})
    share = ShareRateLimiter(whole, 0.5)
    share._own = ProcessRateLimiter(1 / MARGIN, 1, clock=clock, sleep=clock.sleep)
    assert [share.acquire(4.0), share.acquire(4.0)] == [0.0, 1.5]
    assert whole.asked == [4.0, 3.0]


def test_share_has_no_burst() -> None:
    share = ShareRateLimiter(FakeRateLimiter(), 2.0)
    assert share._own.spacing == pytest.approx(0.5 / MARGIN)
    share.acquire(0.0)
    with pytest.raises(BudgetBusy):
        share.acquire(0.0)


def test_refusal_of_a_share_pauses_the_whole_budget() -> None:
    whole = FakeRateLimiter()
    ShareRateLimiter(whole, 2.0).pause(3.0)
    assert whole.paused == [3.0]


def test_wait_as_long_as_the_patience_is_allowed(clock: FakeClock) -> None:
    limiter = ProcessRateLimiter(1 / MARGIN, 1, clock=clock, sleep=clock.sleep)
    limiter.acquire(0.0)
    assert limiter.acquire(1.0) == 1.0


# -- budgets of connections ----------------------------------------------------------------------------------


def test_stores_of_all_connections_with_one_key_have_one_name() -> None:
    one = Settings(api_key="k", rate_store="redis://host")
    name = file_name(one.base_url, one.key_fingerprint)
    shared = budgets.store_for(one)
    assert isinstance(shared, FallbackStore)
    in_redis, on_host = shared._first, shared._second
    assert isinstance(in_redis, RedisStore) and isinstance(on_host, FallbackStore)
    assert in_redis._key == f"crm-provider:{name}"
    assert isinstance(on_host._first, HostFileStore) and isinstance(on_host._second, MemoryStore)
    assert on_host._first._file._name == name
    assert (shared._otherwise, on_host._otherwise) == ("each host paces itself", "each process paces itself")


def test_another_store_is_another_budget() -> None:
    here, on_host = Settings(api_key="another-store", rate_store="process"), Settings(api_key="another-store")
    mine = budgets.limiter_for(here)
    assert mine is budgets.limiter_for(here)
    assert mine is not budgets.limiter_for(on_host)
    assert isinstance(mine, LaneRateLimiter) and isinstance(mine.budget.store, MemoryStore)


def test_default_lane_is_single() -> None:
    limiter = budgets.limiter_for(Settings(api_key="lane-by-default", rate_store="process"))
    assert isinstance(limiter, LaneRateLimiter) and limiter.lane is Lane.SINGLE
