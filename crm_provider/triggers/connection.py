"""What the triggers of a connection share: a client with a share of the key's rate, and snapshots of listings."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from weakref import finalize

from crm_provider import errors as e
from crm_provider.client.client import CrmClient
from crm_provider.client.retry import RetryBudget
from crm_provider.client.settings import Settings
from crm_provider.errors import CrmConfigurationError
from crm_provider.hooks.crm import CrmHook, waiting_transport
from crm_provider.waiting.changes import Snapshot, SnapshotReading, WatchedListing
from crm_provider.waiting.registry import LoopRegistry

log = logging.getLogger(__name__)

POLL_BUDGET = RetryBudget(tries=2, seconds=600.0)
"""Limits of one check. The next round is the actual retry. The time includes the queue for the rate share."""

UNREAD_IN_A_ROW = 3
"""Consecutive rounds that keep the last known connection if it cannot be read. In a triggerer, an Airflow database that
is briefly unavailable looks like a missing connection. That must not fail all waiting tasks."""


class SharedConnection:
    """The client for a round. The connection is read again each time, because the key may change during the wait.

    An old client is closed when the last round or snapshot that uses it releases it.
    """

    def __init__(self, crm_conn_id: str) -> None:
        self._hook = CrmHook(crm_conn_id)
        self._client: CrmClient | None = None
        self._unread = 0
        self._lock = asyncio.Lock()

    @classmethod
    def shared(cls, crm_conn_id: str) -> SharedConnection:
        """The connection, and the rate share, that all triggers of this event loop use."""
        return _connections.get(crm_conn_id)

    async def client(self) -> CrmClient:
        """A client for the current connection.

        :raises CrmConfigurationError: if the connection stays missing or invalid for several rounds
        """
        try:
            settings = await self._hook.aget_settings()
        except CrmConfigurationError as unread:
            self._unread += 1
            if self._client is None or self._unread > UNREAD_IN_A_ROW:
                raise
            text = "The connection cannot be read; using its last known settings: %s"
            await asyncio.to_thread(log.warning, text, unread)
            return self._client
        self._unread = 0
        async with self._lock:
            if self._client is None or self._client.settings != settings:
                self._client = await asyncio.to_thread(self._new_client, settings)
        return self._client

    def _new_client(self, settings: Settings) -> CrmClient:
        transport = waiting_transport(settings)
        client = self._hook.client_for(settings, transport=transport, budget=POLL_BUDGET)
        # threads of cancelled rounds may still use it: only the garbage collector knows the last user
        finalize(client, transport.close).atexit = False
        return client


_connections = LoopRegistry(SharedConnection)


@dataclass(frozen=True)
class _TimedSnapshot:
    """A snapshot or its error, reused by all watchers of the same interval."""

    started: float
    snapshot: Snapshot = field(default_factory=dict)
    error: e.CrmError | None = None
    has_progressed: bool = False


class SharedSnapshots:
    """Snapshots of the listings of one connection, shared by all its watchers.

    :param connect: returns the client for a snapshot
    :param clock: a monotonic clock. If it went back, the last snapshot would seem newer than all later ones
    """

    def __init__(
        self, connect: Callable[[], Awaitable[CrmClient]], *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._connect, self._clock = connect, clock
        self._locks: defaultdict[WatchedListing, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._last: dict[WatchedListing, _TimedSnapshot] = {}
        self._unfinished: dict[WatchedListing, tuple[CrmClient, SnapshotReading]] = {}

    @classmethod
    def of(cls, crm_conn_id: str) -> SharedSnapshots:
        """The snapshots that all watchers of a connection share in this event loop."""
        return _snapshots.get(crm_conn_id)

    async def since(self, kind: WatchedListing, moment: float) -> Snapshot:
        """A snapshot that was started at this time (of the monotonic clock) or later: the last one, or a new one.

        :raises CrmError: if a page cannot be read
        """
        async with self._locks[kind]:
            last = self._last.get(kind)
            if last is None or last.started < moment:
                last = self._last[kind] = await self._take(kind, moment)
        if last.error is not None:
            raise last.error
        return last.snapshot

    def has_progressed(self, kind: WatchedListing) -> bool:
        """Whether the last attempt has failed behind pages that the next one need not read again."""
        return kind in self._last and self._last[kind].has_progressed

    async def _take(self, kind: WatchedListing, moment: float) -> _TimedSnapshot:
        started, stop = max(self._clock(), moment), threading.Event()  # a sleep may end slightly early
        reading = SnapshotReading(kind)
        try:
            client = await self._connect()
            if client.settings.developer_mode and not self._last:
                await asyncio.to_thread(log.warning, "%s", client.settings.developer_note)
            reading = self._continued(kind, client) or reading
            snapshot = await asyncio.to_thread(reading.read, client, stop.is_set)
        except e.CrmError as error:
            if reading.can_continue(error):
                self._unfinished[kind] = (client, reading)
                text = "Read %d %s before an error; the next attempt continues there."
                await asyncio.to_thread(log.info, text, len(reading.found), kind)
            return _TimedSnapshot(started, error=error, has_progressed=reading.has_progressed)
        finally:
            stop.set()  # if the trigger was cancelled, its thread still reads
        await asyncio.to_thread(log.info, "Read %d %s in %.1f s.", len(snapshot), kind, self._clock() - started)
        return _TimedSnapshot(started, snapshot)

    def _continued(self, kind: WatchedListing, client: CrmClient) -> SnapshotReading | None:
        """The unfinished reading, None if there is none or the connection has changed since."""
        before, reading = self._unfinished.pop(kind, (None, None))
        return reading if before is client else None


_snapshots = LoopRegistry(lambda crm_conn_id: SharedSnapshots(SharedConnection.shared(crm_conn_id).client))
