"""What triggers look at the CRM through: one client for each connection, with a share of the key's rate."""

from __future__ import annotations

import asyncio
import logging
from weakref import WeakKeyDictionary, finalize

from crm_provider.client.client import CrmClient
from crm_provider.client.settings import Settings
from crm_provider.client.transport import RetryBudget, Transport
from crm_provider.errors import CrmConfigurationError
from crm_provider.hooks.crm import CrmHook
from crm_provider.observability.metrics import CallMetrics
from crm_provider.rate_limit.limiter import SharePacer, pacer_for
from crm_provider.rate_limit.schedule import Lane

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
        pacer = SharePacer(pacer_for(settings, lane=Lane.WAITING), settings.requests_per_second * settings.poll_share)
        transport = Transport(settings, budget=POLL_BUDGET, pacer=pacer, observer=CallMetrics())
        client = self._hook.client_for(settings, transport=transport)
        # threads of cancelled rounds use it too, so that nobody but the garbage collector knows who is the last one
        finalize(client, transport.close).atexit = False
        return client
