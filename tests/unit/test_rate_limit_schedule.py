"""The rule of the budget in simulated time: never too fast, nothing wasted, fair, and not harmed by killed callers."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crm_provider.rate_limit.schedule import (
    GRANT_AHEAD,
    LONGEST_PAUSE,
    LONGEST_RETRY_DELAY,
    MARGIN,
    NO_SHOW_AFTER,
    WEIGHTS,
    Lane,
    Pace,
    Queue,
    Schedule,
)

from .rate_limit_scene import NEVER_MIND, Caller, Scene, Sent, TokenBucket

pytestmark = pytest.mark.no_cover  # test_rate_limit_schedule_steps.py covers the code step by step

REAL = Pace.of(5.0, 2)

LIMITS = st.sampled_from([(0.5, 1), (5.0, 1), (5.0, 2), (5.0, 10), (50.0, 20), (200.0, 2)])
CALLERS = st.lists(
    st.builds(
        Caller,
        lane=st.sampled_from(Lane),
        begins=st.floats(0, 5),
        rest=st.sampled_from([0.0, 0.05, 1.0]),
        calls=st.integers(1, 30),
        late=st.sampled_from([0.0, 0.001, 0.05, 0.25]),
        dies=st.sampled_from([NEVER_MIND, 3.0, 6.0]),
    ),
    min_size=1,
    max_size=12,
)


def served(sent: list[Sent], lane: Lane, begin: float = 0.0, end: float = NEVER_MIND) -> int:
    return sum(call.lane is lane and begin <= call.at < end for call in sent)


def crowd(count: int, lane: Lane = Lane.SINGLE, **fields: float) -> list[Caller]:
    return [Caller(lane=lane, **fields) for _ in range(count)]  # type: ignore[arg-type]


# -- never too fast ------------------------------------------------------------------------------------------


@given(limits=LIMITS, callers=CALLERS)
def test_no_call_is_refused_if_a_caller_wakes_late_or_dies(limits: tuple[float, int], callers: list[Caller]) -> None:
    rate, burst = limits
    bucket = TokenBucket(rate, burst)
    sent = Scene(Pace.of(rate, burst), callers, until=20.0).run()
    assert all(bucket.takes(call.at) for call in sent)


@given(limits=LIMITS, callers=CALLERS)
def test_one_token_is_reserved_for_network_jitter(limits: tuple[float, int], callers: list[Caller]) -> None:
    rate, burst = limits
    pace = Pace.of(rate, burst)
    sent = Scene(pace, callers, until=20.0).run()
    for earlier, later in zip(sent, sent[pace.at_once :], strict=False):
        assert later.at - earlier.at >= pace.spacing * (1 - 1e-6)


# -- nothing wasted ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "lanes", [[lane] for lane in Lane] + [list(Lane)], ids=lambda lanes: "+".join(x.value for x in lanes)
)
@pytest.mark.parametrize("late", [0.0, 0.01, 0.1])
@pytest.mark.parametrize(("rate", "burst"), [(5.0, 2), (50.0, 20), (1.0, 2)])
def test_whole_budget_is_used_while_there_is_work(rate: float, burst: int, late: float, lanes: list[Lane]) -> None:
    callers = [Caller(lane=lane, late=late, rest=0.05) for lane in lanes for _ in range(int(rate) + 4)]
    sent = Scene(Pace.of(rate, burst), callers, until=60.0).run()
    assert len(sent) / 60.0 >= 0.98 * rate


@given(callers=CALLERS)
def test_waiting_makes_few_requests(callers: list[Caller]) -> None:
    scene = Scene(REAL, callers, until=20.0)
    sent = scene.run()
    assert scene.asked <= 4 * len(sent) + len(callers) * 20.0 / LONGEST_RETRY_DELAY + 40


# -- fairness ------------------------------------------------------------------------------------------------


def test_lane_is_served_first_come_first_served() -> None:
    callers = [Caller(begins=0.001 * n, calls=1) for n in range(20)]
    assert [call.caller for call in Scene(REAL, callers, until=60.0).run()] == list(range(20))


@given(st.sets(st.sampled_from(Lane), min_size=2), st.integers(2, 12), st.randoms())
def test_busy_lanes_get_their_weighted_share(lanes: set[Lane], many: int, dice: random.Random) -> None:
    callers = [Caller(lane=lane, rest=0.05, late=dice.random() / 100) for lane in lanes for _ in range(many)]
    sent = Scene(REAL, callers, until=60.0).run()
    whole = sum(WEIGHTS[lane] for lane in lanes)
    able = dict.fromkeys(lanes, many / (REAL.spacing + 0.05 + GRANT_AHEAD))  # calls per second if it were alone
    for lane in lanes:
        entitled = WEIGHTS[lane] / whole * MARGIN * 5.0
        if able[lane] > 1.5 * entitled:
            assert served(sent, lane, 5.0, 60.0) / 55.0 >= 0.9 * entitled


@pytest.mark.parametrize("threads", [1, 8, 64])
def test_single_call_does_not_wait_behind_the_queue_of_a_load(threads: int) -> None:
    now_and_then = [Caller(Lane.SINGLE, begins=3.0 + 1.618 * n, calls=1) for n in range(30)]
    sent = Scene(REAL, [*crowd(threads, Lane.BULK), *now_and_then], until=60.0).run()
    waits = [call.at - call.asked for call in sent if call.lane is Lane.SINGLE]
    assert len(waits) == 30
    assert max(waits) <= GRANT_AHEAD + REAL.spacing + 0.01


def test_load_gets_everything_before_and_after_other_calls() -> None:
    callers = [*crowd(8, Lane.BULK), *crowd(8, Lane.SINGLE, begins=20.0, dies=40.0)]
    sent = Scene(REAL, callers, until=60.0).run()
    rates = [served(sent, Lane.BULK, begin, begin + 18.0) / 18.0 for begin in (1.0, 21.0, 41.0)]
    assert rates == pytest.approx([4.95, 4.95 / 3, 4.95], rel=0.05)


# -- killed callers ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rate", [1.0, 5.0, 50.0])
@pytest.mark.parametrize("lane", [Lane.BULK, Lane.SINGLE])
def test_slots_of_killed_callers_are_free_within_seconds(lane: Lane, rate: float) -> None:
    callers = [*crowd(32, lane, dies=10.0), *crowd(int(rate), Lane.BULK, begins=9.0)]
    sent = Scene(Pace.of(rate, 2), callers, until=40.0).run()
    assert sum(10.0 <= call.at < 14.0 for call in sent) >= 4.0 * rate * MARGIN - GRANT_AHEAD * rate - 2
    assert sum(14.0 <= call.at < 40.0 for call in sent) >= 0.97 * 26.0 * rate


# -- a pause -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seconds", [0.0, 0.5, 3.0, LONGEST_PAUSE])
def test_callers_continue_one_by_one_after_a_pause(seconds: float) -> None:
    schedule = Schedule()
    schedule.pause(1000.0, seconds, 0.07, REAL)
    sent = Scene(REAL, crowd(8, calls=1), until=60.0, ask=schedule.ask).run()
    assert [call.at for call in sent] == pytest.approx([seconds + 0.07 + n * REAL.spacing for n in range(8)], abs=1e-6)


# -- healing -------------------------------------------------------------------------------------------------

TIMES = st.floats(allow_nan=False, allow_infinity=False) | st.floats(-1e6, 1e6)
NUMBERS = st.integers(0, 2**63)
SCHEDULES = st.builds(
    Schedule,
    asked=TIMES,
    next=TIMES,
    moved=TIMES,
    virtual=st.floats(0, 1e12),
    queues=st.tuples(
        *[st.builds(Queue, head=NUMBERS, tail=NUMBERS, start=st.floats(0, 1e12), alive=TIMES) for _ in Lane]
    ),
)


@given(schedule=SCHEDULES, now=st.floats(0, 1e7), lane=st.sampled_from(Lane))
def test_caller_gets_a_slot_within_seconds_in_any_state(schedule: Schedule, now: float, lane: Lane) -> None:
    scene = Scene(REAL, [Caller(lane, calls=3)], until=60.0, ask=schedule.ask, began=now)
    longest = LONGEST_PAUSE + GRANT_AHEAD + 2 * REAL.spacing + LONGEST_RETRY_DELAY + NO_SHOW_AFTER
    sent = scene.run()
    assert len(sent) == 3
    assert sent[0].at <= longest + 1e-3
    assert sent[2].at <= longest + 2 * (LONGEST_RETRY_DELAY + REAL.spacing) + 1e-3


@given(st.lists(st.tuples(st.floats(-1e5, 1e5), st.integers(1, 5)), min_size=1, max_size=5))
def test_clock_jump_delays_nobody(jumps: list[tuple[float, int]]) -> None:
    schedule, now = Schedule(), 2e5
    for jump, calls in jumps:
        now = max(now + jump, 0.0)
        sent = Scene(REAL, [Caller(calls=calls)], until=60.0, ask=schedule.ask, began=now).run()
        assert len(sent) == calls
        assert sent[-1].at <= (calls + 1) * REAL.spacing + GRANT_AHEAD + NO_SHOW_AFTER + 1e-3
        now += 60.0


# -- records -------------------------------------------------------------------------------------------------


@given(SCHEDULES)
def test_record_keeps_everything(schedule: Schedule) -> None:
    assert Schedule.from_bytes(schedule.to_bytes()) == schedule


@given(schedule=SCHEDULES, at=st.integers(0, 10_000), flip=st.integers(1, 255))
def test_record_with_a_wrong_byte_is_reported(schedule: Schedule, at: int, flip: int) -> None:
    record = bytearray(schedule.to_bytes())
    record[at % len(record)] ^= flip
    assert Schedule.from_bytes(bytes(record)) is None


@given(st.binary(max_size=300))
def test_foreign_record_is_reported(record: bytes) -> None:
    assert Schedule.from_bytes(record) is None
