"""The schedule of a key in Redis: one budget for all hosts. One atomic script, by the clock of the server.

Why no library: those that reserve slots in Redis (steindamm 0.11 is the best of them, MIT) know neither lanes, nor a
pause for all after a refusal, nor a caller that does not come back; and steindamm has callers wait by their own clocks
and needs Python 3.11.
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
"""Seconds to wait for Redis before it counts as out of order."""

EXPIRY = 3600
"""Seconds after which Redis forgets a budget that nobody uses."""

CONSTANTS = json.dumps(
    {
        "horizon": s.GRANT_AHEAD,
        "grace": s.NO_SHOW_AFTER,
        "longest_nap": s.LONGEST_NAP,
        "shortest_nap": s.SHORTEST_NAP,
        "longest_pause": LONGEST_PAUSE,
        "most_waiting": s.MOST_WAITING,
        "weights": [WEIGHTS[lane] for lane in s.LANES],
    }
)


class RedisStore:
    """One schedule for all hosts that use this Redis.

    :param url: ``redis://`` or ``rediss://``
    :param name: of the key in Redis; tells neither URL nor API key
    :raises CrmConfigurationError: the package ``redis`` is not installed
    """

    def __init__(self, url: str, name: str) -> None:
        self._url, self._key = url, f"crm-provider:{name}"
        script = resources.files("crm_provider.rate_limit").joinpath("schedule.lua").read_bytes()
        self._script = _client(url).register_script(script)

    def ask(
        self, lane: Lane, ticket: Ticket | None, pace: s.Pace, patience: float, *, now: float | None = None
    ) -> tuple[s.Grant, Ticket]:
        """:param now: a test's time in place of the server's"""
        number = number_for(self, ticket)
        request = (s.LANES.index(lane) + 1, -1 if number is None else number, repr(float(patience)))
        verdict, seconds, mine = self._run("ask", pace, now, *request)
        answer = s.Grant(s.GrantStatus(int(verdict)), float(seconds), int(float(mine)))
        return answer, Ticket(id(self), answer.ticket)

    def pause(self, seconds: float, phase: float, pace: s.Pace, *, now: float | None = None) -> None:
        """:param now: a test's time in place of the server's"""
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
    # one retry: after a restart of the server each connection of the pool is found broken once
    retry = Retry(NoBackoff(), 1)
    try:
        client = redis.Redis.from_url(url, socket_timeout=TIMEOUT, socket_connect_timeout=TIMEOUT, retry=retry)
        client.connection_pool.make_connection()  # does not connect, but knows all options
    except (ValueError, TypeError):
        raise CrmConfigurationError(
            "Extra 'rate_store' has an option after its '?' that the package redis does not know or take; mend it"
        ) from None
    return client


def shown(url: str) -> str:
    """Host and port of a store's URL: the rest may hold a password."""
    parts = urlsplit(url)
    return f"{parts.hostname}:{parts.port or 6379}"
