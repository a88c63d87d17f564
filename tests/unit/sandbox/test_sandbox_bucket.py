"""The token bucket."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from crm_provider.sandbox import ManualClock
from crm_provider.sandbox.gateway import TokenBucket


def admitted(bucket: TokenBucket, attempts: int) -> int:
    return sum(bucket.take() for _ in range(attempts))


def test_burst_is_admitted_at_once_and_no_more(clock: ManualClock) -> None:
    assert admitted(TokenBucket(rate=5, burst=2, clock=clock), 10) == 2


def test_calls_exactly_on_schedule_are_admitted_for_hours(clock: ManualClock) -> None:
    bucket = TokenBucket(rate=5, burst=1, clock=clock)
    bucket.take()
    for _ in range(20_000):
        clock.advance(0.2)
        assert bucket.take()


def test_refused_call_takes_no_token(clock: ManualClock) -> None:
    bucket = TokenBucket(rate=5, burst=2, clock=clock)
    admitted(bucket, 100)
    clock.advance(0.2)
    assert bucket.take()


def test_everything_is_admitted_without_a_rate(clock: ManualClock) -> None:
    assert admitted(TokenBucket(rate=None, burst=1, clock=clock), 1000) == 1000


@given(rate=st.floats(0.5, 50), burst=st.integers(1, 5), waits=st.lists(st.floats(0, 1), min_size=1, max_size=80))
def test_window_never_holds_more_than_burst_plus_rate_times_length(rate: float, burst: int, waits: list[float]) -> None:
    clock = ManualClock()
    bucket = TokenBucket(rate=rate, burst=burst, clock=clock)
    passed: list[float] = []
    for wait in waits:
        clock.advance(wait)
        if bucket.take():
            passed.append(clock.monotonic())
    for first, start in enumerate(passed):
        for last in range(first, len(passed)):
            assert last - first + 1 <= burst + rate * (passed[last] - start) + 1e-6
