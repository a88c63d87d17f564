"""The schedule of a key in Redis: one budget for all hosts. One atomic script, by the clock of the server.

No library does this. Those that reserve slots in Redis (the best is steindamm 0.11, MIT) have no lanes, cannot pause
all callers after a refusal, and cannot reclaim the slot of a caller that does not return. Steindamm's callers also wait
by their own clocks, and it needs Python 3.11.
"""

from __future__ import annotations

import json
from importlib import resources
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from crm_provider.errors import CrmConfigurationError
from crm_provider.rate_limit import schedule as s
from crm_provider.rate_limit.schedule import LONGEST_PAUSE, WEIGHTS, Lane, StoreUnusable, Ticket, number_for

if TYPE_CHECKING:
    import redis


TIMEOUT = 1.0
"""Seconds to wait for Redis before it counts as unusable."""

EXPIRY = 3600
"""Seconds after which Redis deletes a budget that is no longer used."""

CONSTANTS = json.dumps(
    {
        "grant_ahead": s.GRANT_AHEAD,
        "no_show_after": s.NO_SHOW_AFTER,
        "longest_retry_delay": s.LONGEST_RETRY_DELAY,
        "shortest_retry_delay": s.SHORTEST_RETRY_DELAY,
        "longest_pause": LONGEST_PAUSE,
        "most_waiting": s.MOST_WAITING,
        "weights": [WEIGHTS[lane] for lane in s.LANES],
    }
)


class RedisStore:
    """One schedule for all hosts that use this Redis.

    :param url: ``redis://`` or ``rediss://``
    :param name: name of the key in Redis; reveals neither URL nor API key
    :raises CrmConfigurationError: if the package ``redis`` is not installed
    """

    def __init__(self, url: str, name: str) -> None:
        self._url, self._key = url, f"crm-provider:{name}"
        script = resources.files("crm_provider.rate_limit").joinpath("schedule.lua").read_bytes()
        self._script = _client(url).register_script(script)

    def ask(
        self, lane: Lane, ticket: Ticket | None, pace: s.Pace, patience: float, *, now: float | None = None
    ) -> tuple[s.Grant, Ticket]:
        """:param now: a time for tests, instead of the server's"""
        number = number_for(self, ticket)
        request = (s.LANES.index(lane) + 1, -1 if number is None else number, repr(float(patience)))
        status, seconds, mine = self._run("ask", pace, now, *request)
        grant = s.Grant(s.GrantStatus(int(status)), float(seconds), int(float(mine)))
        return grant, Ticket(id(self), grant.ticket)

    def pause(self, seconds: float, phase: float, pace: s.Pace, *, now: float | None = None) -> None:
        """:param now: a time for tests, instead of the server's"""
        self._run("pause", pace, now, repr(seconds), repr(phase))

    def _run(self, what: str, pace: s.Pace, now: float | None, *request: int | str) -> Any:
        from redis import RedisError

        time = "" if now is None else repr(now)
        arguments = [what, EXPIRY, CONSTANTS, repr(pace.spacing), pace.at_once, time, *request]
        try:
            return self._script(keys=[self._key], args=arguments)
        except (RedisError, OSError) as error:
            raise StoreUnusable(
                f"the rate budget cannot be kept in Redis at {shown(self._url)} ({type(error).__name__})"
            ) from None


def _client(url: str) -> redis.Redis:
    """A client, not yet connected."""
    try:
        import redis
        from redis.backoff import NoBackoff
        from redis.retry import Retry
    except ImportError:
        raise CrmConfigurationError(
            "Extra 'rate_store' names a Redis server, for which the package redis is missing; run "
            "pip install 'airflow-provider-crm[redis]'"
        ) from None
    # one retry: after a restart of the server each pooled connection fails once
    retry = Retry(NoBackoff(), 1)
    try:
        client = redis.Redis.from_url(url, socket_timeout=TIMEOUT, socket_connect_timeout=TIMEOUT, retry=retry)
        client.connection_pool.make_connection()  # does not connect, but checks all options
    except (ValueError, TypeError):
        raise CrmConfigurationError(
            "Extra 'rate_store' has an option after its '?' that the package redis does not know or accept; correct it"
        ) from None
    return client


def shown(url: str) -> str:
    """Host and port of a store's URL, because the rest may hold a password."""
    parts = urlsplit(url)
    return f"{parts.hostname}:{parts.port or 6379}"
