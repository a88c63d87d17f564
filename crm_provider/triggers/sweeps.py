"""One sweep over a listing for all who watch it on a connection."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from weakref import WeakKeyDictionary

from crm_provider import errors as e
from crm_provider.client.client import CrmClient
from crm_provider.triggers.connection import PacedConnection
from crm_provider.waiting.changes import Kind, Sweep, read

log = logging.getLogger(__name__)

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
