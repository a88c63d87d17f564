"""What the triggers of a connection share: the client, and the sweeps over a listing.

What triggers look at the CRM through: one client for each connection, with a share of the key's rate.

One sweep over a listing for all who watch it on a connection.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from weakref import WeakKeyDictionary, finalize

from crm_provider import errors as e
from crm_provider.client.client import CrmClient
from crm_provider.client.retry import RetryBudget
from crm_provider.client.settings import Settings
from crm_provider.client.transport import Transport
from crm_provider.errors import CrmConfigurationError
from crm_provider.hooks.crm import CrmHook
from crm_provider.observability.metrics import CallMetrics
from crm_provider.rate_limit.limiter import ShareRateLimiter, limiter_for
from crm_provider.rate_limit.schedule import Lane
from crm_provider.waiting.changes import Kind, Sweep, read

log = logging.getLogger(__name__)

POLL_BUDGET = RetryBudget(tries=2, seconds=600.0)
"""For one look: the next round is the real repetition. The time is for the turn at the share, with many waiters."""

UNREAD_IN_A_ROW = 3
"""Rounds that go on with the connection as it was if it cannot be read. To a triggerer, an Airflow database that does
not answer for a moment looks like a connection that is not there: that must not fail all who wait."""

_connections: WeakKeyDictionary[asyncio.AbstractEventLoop, dict[str, PacedConnection]] = WeakKeyDictionary()
"""The shared connections of this process, for each event loop."""


class PacedConnection:
    """The client for a round: the connection is read again each time, for the key may be changed while all wait.

    An old client is closed when the last round or sweep that uses it lets it go, not before.
    """

    def __init__(self, crm_conn_id: str) -> None:
        self._hook = CrmHook(crm_conn_id)
        self._client: CrmClient | None = None
        self._unread = 0

    @classmethod
    def shared(cls, crm_conn_id: str) -> PacedConnection:
        """The one that all triggers of this event loop share, and with it the share of the rate."""
        connections = _connections.setdefault(asyncio.get_running_loop(), {})
        return connections.setdefault(crm_conn_id, cls(crm_conn_id))

    async def client(self) -> CrmClient:
        """A client with what the connection says now.

        :raises CrmConfigurationError: if the connection is missing or a field of it is wrong, for more than a moment
        """
        try:
            settings = await self._hook.aget_settings()
        except CrmConfigurationError as unread:
            self._unread += 1
            if self._client is None or self._unread > UNREAD_IN_A_ROW:
                raise
            log.warning("Going on with the connection as it was: %s", unread)
            return self._client
        self._unread = 0
        if self._client is None or self._client.settings != settings:
            self._client = self._new_client(settings)
        return self._client

    def _new_client(self, settings: Settings) -> CrmClient:
        pacer = ShareRateLimiter(
            limiter_for(settings, lane=Lane.WAITING), settings.requests_per_second * settings.poll_share
        )
        transport = Transport(settings, budget=POLL_BUDGET, pacer=pacer, observer=CallMetrics())
        client = self._hook.client_for(settings, transport=transport)
        # threads of cancelled rounds use it too, so that nobody but the garbage collector knows who is the last one
        finalize(client, transport.close).atexit = False
        return client


_sweeps: WeakKeyDictionary[asyncio.AbstractEventLoop, dict[str, SharedSweeps]] = WeakKeyDictionary()
"""The sweeps of this process, for each event loop and connection."""


@dataclass(frozen=True)
class _Swept:
    """How a sweep ended, an error included: who comes later in the same interval gets the same."""

    started: float
    sweep: Sweep = field(default_factory=dict)
    error: e.CrmError | None = None


class SharedSweeps:
    """Sweeps over the listings of one connection.

    :param connect: gives the client for a sweep
    :param clock: one that nobody sets: set back, it would make the last sweep look newer than all to come
    """

    def __init__(
        self, connect: Callable[[], Awaitable[CrmClient]], *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._connect, self._clock = connect, clock
        self._locks: defaultdict[Kind, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._last: dict[Kind, _Swept] = {}

    @classmethod
    def of(cls, crm_conn_id: str) -> SharedSweeps:
        """The sweeps that all watchers of a connection share."""
        sweeps = _sweeps.setdefault(asyncio.get_running_loop(), {})
        return sweeps.setdefault(crm_conn_id, cls(PacedConnection.shared(crm_conn_id).client))

    async def since(self, kind: Kind, moment: float) -> Sweep:
        """A sweep that began at this time (of the monotonic clock) or later: the last one, or a new one.

        :raises CrmError: what a page was answered with
        """
        async with self._locks[kind]:
            last = self._last.get(kind)
            if last is None or last.started < moment:
                last = self._last[kind] = await self._sweep(kind, moment)
        if last.error is not None:
            raise last.error
        return last.sweep

    async def _sweep(self, kind: Kind, moment: float) -> _Swept:
        started, stop = max(self._clock(), moment), threading.Event()  # a sleep may end a little early
        try:
            client = await self._connect()
            sweep = await asyncio.to_thread(read, kind, client, stop.is_set)
        except e.CrmError as error:
            return _Swept(started, error=error)
        finally:
            stop.set()  # if the trigger was cancelled, its thread is still reading
        log.info("Swept %d %s in %.1f s.", len(sweep), kind, self._clock() - started)
        return _Swept(started, sweep)
