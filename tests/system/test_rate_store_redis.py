"""The budget in a real Redis: the same rule as everywhere, and no harm when it goes away, is flushed or comes back."""

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
"""Seconds until something hangs."""

SLACK = 5
"""How many times slower than the rate a busy machine may be most of the time."""

REAL = Pace.of(5.0, 2)


@pytest.fixture(scope="module")
def redis() -> Iterator[RedisServer]:
    """A server with a password; fails where none is installed."""
    with RedisServer(password="s3cret") as server:
        yield server


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that stands still is no Redis that is out of order."""
    monkeypatch.setattr(redis_store, "TIMEOUT", PATIENCE)


def client(server: RedisServer) -> Any:
    import redis

    return redis.Redis.from_url(server.url)


# -- the same rule -------------------------------------------------------------------------------------------

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
@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_the_script_says_what_the_schedule_says(redis: RedisServer, pace: Pace, steps: Any) -> None:
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
        answer, _ = store.ask(first, ticket, pace, third, now=now)
        assert answer == expected
        if answer.status is GrantStatus.RETRY_AFTER:
            tickets.append(answer.ticket)


def test_redis_keeps_no_key_and_forgets_what_nobody_uses(redis: RedisServer) -> None:
    client(redis).flushall()
    store = budgets.store_for(Settings(api_key="the-api-key", rate_store=redis.url))
    store.ask(Lane.SINGLE, None, REAL, NEVER_MIND)
    [name] = client(redis).keys()
    assert name.startswith(b"crm-provider:")
    assert b"the-api-key" not in name
    assert 0 < client(redis).ttl(name) <= 3600


@pytest.mark.parametrize("odd", ["nan", "-nan", "inf", "-inf", "1e308", "-1e308", "1e400", "x", "", "0x10"])
def test_any_damage_heals(redis: RedisServer, odd: str) -> None:
    """Others who share a Redis may write anything: at worst a caller waits a moment too long."""
    store = RedisStore(redis.url, "damaged")
    store.ask(Lane.SINGLE, None, REAL, NEVER_MIND)
    fields = client(redis).hkeys("crm-provider:damaged")
    assert len(fields) > 10
    for field in fields:
        client(redis).hset("crm-provider:damaged", field, odd)
        answers = [store.ask(Lane.SINGLE, None, REAL, NEVER_MIND)[0] for _ in range(3)]
        assert all(0 <= answer.seconds < 30 for answer in answers), field


def test_a_key_of_another_kind_is_a_store_that_cannot_be_used(redis: RedisServer) -> None:
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


def test_hosts_share_one_budget_by_the_clock_of_the_server(redis: RedisServer) -> None:
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
    """Seconds: one moment in which the machine stands still does not change it."""
    return statistics.median(after - before for before, after in pairwise(moments))


# -- when it goes away ---------------------------------------------------------------------------------------


def test_redis_may_be_flushed_lose_its_scripts_stop_and_come_back(
    redis: RedisServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    monkeypatch.setattr(host_file, "private_folder", lambda: tmp_path / "state")
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
def test_a_wrong_password_is_reported_without_it(redis: RedisServer, password: str) -> None:
    url = f"redis://:{password}@127.0.0.1:{redis.port}/0"
    with pytest.raises(StoreUnusable, match=r"Redis at 127\.0\.0\.1:\d+ \(\w+\)$") as raised:
        RedisStore(url, "x").ask(Lane.SINGLE, None, REAL, NEVER_MIND)
    assert "wr0ng" not in str(raised.value)
