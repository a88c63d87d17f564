"""Requests to Redis and its responses, with a fake server. The system tests use a real one."""

from __future__ import annotations

import json
from typing import Any

import pytest
import redis

from crm_provider.rate_limit import redis as redis_store
from crm_provider.rate_limit.redis import EXPIRY, TIMEOUT, RedisStore
from crm_provider.rate_limit.schedule import LONGEST_PAUSE, Grant, GrantStatus, Lane, Pace, StoreUnusable, Ticket

URL = "redis://:s3cret@redis.example:6380/1"
PACE = Pace.of(5.0, 3)


class Script:
    """Records its arguments, and responds like Redis: numbers with a fraction as bytes."""

    def __init__(self, response: list[Any] | Exception) -> None:
        self.response = response
        self.runs: list[tuple[list[str], list[Any]]] = []

    def __call__(self, *, keys: list[str], args: list[Any]) -> list[Any]:
        self.runs.append((keys, args))
        if isinstance(self.response, Exception):
            raise self.response
        return self.response


def store_with(response: list[Any] | Exception) -> tuple[RedisStore, Script]:
    store, script = RedisStore(URL, "account.rate"), Script(response)
    store._script = script  # type: ignore[assignment]
    return store, script


@pytest.mark.parametrize(("lane", "index"), [(Lane.SINGLE, 1), (Lane.WAITING, 2), (Lane.BULK, 3)])
@pytest.mark.parametrize(("now", "time"), [(None, ""), (1.5, "1.5")])
def test_request_of_a_caller(lane: Lane, index: int, now: float | None, time: str) -> None:
    store, script = store_with([2, b"0.25", b"17"])
    response, ticket = store.ask(lane, None, PACE, 60, now=now)
    assert response == Grant(GrantStatus(2), 0.25, 17)
    assert ticket == Ticket(id(store), 17)
    [(keys, arguments)] = script.runs
    assert keys == ["crm-provider:account.rate"]
    assert arguments[:2] == ["ask", EXPIRY]
    assert arguments[3:] == [repr(PACE.spacing), PACE.at_once, time, index, -1, "60.0"]


def test_returning_caller_shows_its_own_ticket_only() -> None:
    store, script = store_with([0, b"0", b"4"])
    _, ticket = store.ask(Lane.BULK, None, PACE, 1.0)
    store.ask(Lane.BULK, ticket, PACE, 1.0)
    store.ask(Lane.BULK, Ticket(id(store) + 1, 4), PACE, 1.0)
    assert [arguments[7] for _, arguments in script.runs] == [-1, 4, -1]


def test_pause_request() -> None:
    store, script = store_with([])
    store.pause(3, 0.125, PACE, now=2.0)
    store.pause(3.0, 0.0, PACE)
    assert [arguments[0] for _, arguments in script.runs] == ["pause", "pause"]
    assert [arguments[3:] for _, arguments in script.runs] == [
        [repr(PACE.spacing), PACE.at_once, "2.0", "3", "0.125"],
        [repr(PACE.spacing), PACE.at_once, "", "3.0", "0.0"],
    ]


def test_script_uses_the_constants_of_the_schedule() -> None:
    store, script = store_with([0, 0, 0])
    store.ask(Lane.SINGLE, None, PACE, 1.0)
    constants = json.loads(script.runs[0][1][2])
    assert constants["longest_pause"] == LONGEST_PAUSE
    assert len(constants["weights"]) == len(Lane)


@pytest.mark.parametrize(
    "broken", [redis.ConnectionError("s3cret"), redis.ResponseError("no script"), OSError("s3cret")]
)
def test_every_failure_is_reported_without_the_password(broken: Exception) -> None:
    store, _ = store_with(broken)
    kind = type(broken).__name__
    text = f"the rate budget cannot be kept in Redis at redis.example:6380 ({kind})"
    for attempt in (lambda: store.ask(Lane.SINGLE, None, PACE, 1.0), lambda: store.pause(1.0, 0.0, PACE)):
        with pytest.raises(StoreUnusable) as unusable:
            attempt()
        assert str(unusable.value) == text
        assert unusable.value.__cause__ is None and unusable.value.__suppress_context__


def test_hanging_server_is_not_waited_for() -> None:
    options = redis_store._client(URL).connection_pool.connection_kwargs
    assert (options["socket_timeout"], options["socket_connect_timeout"]) == (TIMEOUT, TIMEOUT)
    tried = []

    def try_it() -> None:
        tried.append(1)
        raise redis.ConnectionError

    with pytest.raises(redis.ConnectionError):
        options["retry"].call_with_retry(try_it, lambda _: None)
    assert len(tried) == 2


@pytest.mark.parametrize(("url", "text"), [(URL, "redis.example:6380"), ("rediss://h", "h:6379")])
def test_url_is_shown_without_secrets(url: str, text: str) -> None:
    assert redis_store.shown(url) == text
