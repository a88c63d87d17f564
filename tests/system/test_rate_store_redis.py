"""The rate budget in a real Redis: the same schedule as in files, and fallbacks when Redis is down or flushed."""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from redis_server import RedisServer

from crm_provider.client.settings import Settings
from crm_provider.rate_limit import host_file
from crm_provider.rate_limit import limiter as budgets
from crm_provider.rate_limit import redis as redis_store
from crm_provider.rate_limit.limiter import Budget
from crm_provider.rate_limit.redis import RedisStore
from crm_provider.rate_limit.schedule import GrantStatus, Lane, Pace, Schedule, StoreUnusable, Ticket

NEVER_MIND = 1e9
PATIENCE = 60.0
"""Seconds until a wait counts as hanging."""

SLACK = 5
"""Factor by which a busy machine may be slower than the rate."""

REAL = Pace.of(5.0, 2)


@pytest.fixture(scope="module")
def redis() -> Iterator[RedisServer]:
    """A server with a password. The tests fail if Redis is not installed."""
    with RedisServer(password="s3cret") as server:
        yield server


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A long timeout, so that a slow machine does not look like a broken Redis."""
    monkeypatch.setattr(redis_store, "TIMEOUT", PATIENCE)


def client(server: RedisServer) -> Any:
    import redis

    return redis.Redis.from_url(server.url)


# -- the schedule --------------------------------------------------------------------------------------------

PACES = st.sampled_from([Pace.of(5.0, 2), Pace.of(50.0, 20), Pace.of(0.5, 1), Pace.of(333.0, 3)])
ASKS = st.tuples(
    st.just("ask"),
    st.sampled_from(Lane),
    st.sampled_from(["new", "back", "old"]),
    st.sampled_from([NEVER_MIND, 0.0, 1.0]),
)
PAUSES = st.tuples(st.just("pause"), st.floats(0, 10), st.floats(0, 0.2), st.none())
STEPS = st.lists(
    st.tuples(st.floats(-2, 2) | st.sampled_from([0.0, 0.002, 0.1, 0.2, 0.5, 30.0]), ASKS | PAUSES),
    min_size=1,
    max_size=40,
)


@given(pace=PACES, steps=STEPS)
@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
def test_lua_script_equals_the_schedule(redis: RedisServer, pace: Pace, steps: Any) -> None:
    client(redis).flushall()
    store, schedule, now = RedisStore(redis.url, "same"), Schedule(), 1.7e9
    open_tickets: dict[Lane, list[int]] = {lane: [] for lane in Lane}
    for gap, (what, first, second, third) in steps:
        now += gap
        if what == "pause":
            schedule.pause(now, first, second, pace)
            store.pause(first, second, pace, now=now)
            continue
        tickets = open_tickets[first]
        number = None if second == "new" or not tickets else tickets.pop(0 if second == "old" else -1)
        ticket = None if number is None else Ticket(id(store), number)
        expected = schedule.ask(now, first, number, pace, third)
        response, _ = store.ask(first, ticket, pace, third, now=now)
        assert response == expected
        if response.status is GrantStatus.RETRY_AFTER:
            tickets.append(response.ticket)


def test_redis_stores_no_api_key_and_expires_unused_budgets(redis: RedisServer) -> None:
    client(redis).flushall()
    store = budgets.store_for(Settings(api_key="the-api-key", rate_store=redis.url))
    store.ask(Lane.SINGLE, None, REAL, NEVER_MIND)
    [name] = client(redis).keys()
    assert name.startswith(b"crm-provider:")
    assert b"the-api-key" not in name
    assert 0 < client(redis).ttl(name) <= 3600


@pytest.mark.parametrize("odd", ["nan", "-nan", "inf", "-inf", "1e308", "-1e308", "1e400", "x", "", "0x10"])
def test_budget_recovers_from_any_value_in_redis(redis: RedisServer, odd: str) -> None:
    """Another user of the Redis may write any value. At worst a caller waits slightly too long."""
    store = RedisStore(redis.url, "damaged")
    store.ask(Lane.SINGLE, None, REAL, NEVER_MIND)
    fields = client(redis).hkeys("crm-provider:damaged")
    assert len(fields) > 10
    for field in fields:
        client(redis).hset("crm-provider:damaged", field, odd)
        responses = [store.ask(Lane.SINGLE, None, REAL, NEVER_MIND)[0] for _ in range(3)]
        assert all(0 <= response.seconds < 30 for response in responses), field


def test_redis_key_of_another_type_is_an_unusable_store(redis: RedisServer) -> None:
    client(redis).set("crm-provider:other", "text")
    with pytest.raises(StoreUnusable, match="cannot be kept in Redis"):
        RedisStore(redis.url, "other").ask(Lane.SINGLE, None, REAL, NEVER_MIND)


# -- many hosts ----------------------------------------------------------------------------------------------

HOST = """
import sys, time
from crm_provider.rate_limit.limiter import limiter_for
from crm_provider.rate_limit import redis as redis_store
from crm_provider.client.settings import Settings

redis_store.TIMEOUT = float(sys.argv[2])
limiter = limiter_for(Settings(api_key="k", requests_per_second=50, burst=2, rate_store=sys.argv[1]))
print("ready", flush=True)
sys.stdin.readline()
for _ in range(30):
    limiter.acquire(60)
    print(time.monotonic(), flush=True)
"""


def test_hosts_share_one_budget_with_the_clock_of_redis(redis: RedisServer) -> None:
    client(redis).flushall()
    hosts = [
        subprocess.Popen(
            [sys.executable, "-c", HOST, redis.url, str(PATIENCE)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(4)
    ]
    for host in hosts:
        assert host.stdout
        assert host.stdout.readline() == "ready\n"
    for host in hosts:
        assert host.stdin
        host.stdin.write("\n")
        host.stdin.flush()
    calls = sorted(float(line) for host in hosts for line in host.communicate(timeout=PATIENCE)[0].splitlines())
    assert len(calls) == 120
    assert calls[-1] - calls[0] >= 119 / 49.5 - 0.1
    assert median_gap(calls) <= SLACK / 49.5


def median_gap(moments: list[float]) -> float:
    """The median gap in seconds, which one pause of the machine does not change."""
    return statistics.median(after - before for before, after in pairwise(moments))


# -- failures of Redis ---------------------------------------------------------------------------------------


def test_calls_are_paced_while_redis_is_flushed_or_down(
    redis: RedisServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    monkeypatch.setattr(host_file, "state_folder", lambda: tmp_path / "state")
    monkeypatch.setattr(budgets, "RECHECK", 0.2)
    limiter = Budget(budgets.store_for(Settings(api_key="k", rate_store=redis.url)), 50.0, 2).lane(Lane.BULK)

    def assert_paced() -> None:
        moments = [time.monotonic()]
        for _ in range(20):
            limiter.acquire(60.0)
            moments.append(time.monotonic())
        assert moments[-1] - moments[0] >= 18 / 49.5
        assert median_gap(moments) <= SLACK / 49.5

    def logged() -> list[str]:
        return [record.levelname for record in caplog.records if record.name.startswith("crm_provider.")]

    assert_paced()
    client(redis).flushall()
    client(redis).script_flush()
    assert_paced()
    assert logged() == []
    redis.stop()
    try:
        assert_paced()
        assert list((tmp_path / "state").iterdir())
    finally:
        redis.start()
    time.sleep(0.3)
    assert_paced()
    assert client(redis).keys()
    assert logged() == ["WARNING", "INFO"]
    assert "s3cret" not in caplog.text


@pytest.mark.parametrize("password", ["", "wr0ng"])
def test_wrong_redis_password_is_reported_without_the_password(redis: RedisServer, password: str) -> None:
    url = f"redis://:{password}@127.0.0.1:{redis.port}/0"
    with pytest.raises(StoreUnusable, match=r"Redis at 127\.0\.0\.1:\d+ \(\w+\)$") as raised:
        RedisStore(url, "x").ask(Lane.SINGLE, None, REAL, NEVER_MIND)
    assert "wr0ng" not in str(raised.value)
