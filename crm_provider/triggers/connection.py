"""What triggers look at the CRM through: one client for each connection, with a share of the key's rate."""

from __future__ import annotations

import asyncio
import logging
from weakref import WeakKeyDictionary

from crm_provider.client import CrmClient
from crm_provider.errors import CrmConfigurationError
from crm_provider.hooks.crm import CrmHook
from crm_provider.pacing import SharePacer, pacer_for
from crm_provider.transport import RetryBudget, Transport

log = logging.getLogger(__name__)

POLL_SHARE = 0.5
"""Share of the key's rate that all waiting of a triggerer may take; the rest is left to writes and loads."""

POLL_BUDGET = RetryBudget(tries=2, seconds=600.0)
"""For one look: the next round is the real repetition. The time is for the turn at the share, with many waiters."""

UNREAD_IN_A_ROW = 3
"""Rounds that go on with the connection as it was if it cannot be read. To a triggerer, an Airflow database that does
not answer for a moment looks like a connection that is not there: that must not fail all who wait."""

_connections: WeakKeyDictionary[asyncio.AbstractEventLoop, dict[str, PacedConnection]] = WeakKeyDictionary()
"""The shared connections of this process, for each event loop."""


class PacedConnection:
    """The client for a round: the connection is read again each time, for the key may be changed while all wait."""

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
            if self._client is not None:
                self._client.close()
            pacer = SharePacer(pacer_for(settings), settings.requests_per_second * POLL_SHARE)
            transport = Transport(settings, budget=POLL_BUDGET, pacer=pacer)
            self._client = self._hook.client_for(settings, transport=transport)
        return self._client
