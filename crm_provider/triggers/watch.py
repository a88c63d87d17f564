"""Triggers for asset watchers: an event when contacts join a list, or deals enter a stage.

An event is delivered first and marked as delivered later. If the triggerer dies in between, the event is repeated, not
lost.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import AsyncIterator
from typing import Any, ClassVar

from airflow.triggers.base import BaseEventTrigger, TriggerEvent

from crm_provider import errors as e
from crm_provider._compat import AirflowRuntimeError, asset_stores
from crm_provider.client import validation
from crm_provider.hooks.crm import CrmHook
from crm_provider.triggers.connection import SharedSnapshots
from crm_provider.triggers.cursor import Cursor
from crm_provider.waiting.changes import (
    ErrorBackoff,
    SeenIds,
    Snapshot,
    SnapshotChange,
    WatchedListing,
    compare,
    fingerprint,
)
from crm_provider.waiting.poller import OFFSET

log = logging.getLogger(__name__)

MOST_PER_EVENT = 500
"""Maximum ids in one event: 20 KB. The cursor is written after each event, so a crash repeats at most one."""

SHORTEST_INTERVAL = 1.0
"""Seconds."""


def _is_interval(value: object) -> bool:
    return isinstance(value, (int, float)) and SHORTEST_INTERVAL <= value < math.inf


class _WatchTrigger(BaseEventTrigger):
    """Reads a listing once per interval, and yields an event with the records that have joined a group."""

    kind: ClassVar[WatchedListing]
    group_name: ClassVar[str]
    ids_name: ClassVar[str]

    def __init__(
        self, *, group: str, crm_conn_id: str, poke_interval: float, include_existing: bool, max_per_event: int
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.group = validation.uuid(group, self.group_name)
        if not _is_interval(poke_interval):
            raise ValueError(f"poke_interval is {poke_interval!r}; give at least {SHORTEST_INTERVAL:g} second")
        self.crm_conn_id = crm_conn_id
        self.poke_interval = poke_interval
        self.include_existing = validation.boolean(include_existing, "include_existing")
        self.max_per_event = validation.count(max_per_event, "max_per_event", most=MOST_PER_EVENT)

    def serialize(self) -> tuple[str, dict[str, Any]]:
        names = ("crm_conn_id", "poke_interval", "include_existing", "max_per_event")
        arguments = {self.group_name: self.group, **{name: getattr(self, name) for name in names}}
        return f"{type(self).__module__}.{type(self).__qualname__}", arguments

    @property
    def _watch(self) -> str:
        return f"Watch of {self.group_name} {self.group}"

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Yield events with newcomers for as long as the asset is watched."""
        cursor = Cursor(asset_stores(self), f"crm_{self.group_name}_{self.group.lower()}")
        if not cursor.persistent:
            text = "%s: no state store before Airflow 3.3: a restart of the triggerer begins with a new baseline."
            await asyncio.to_thread(log.info, text, self._watch)
        backoff, snapshots = ErrorBackoff(self._watch, self.poke_interval), SharedSnapshots.of(self.crm_conn_id)
        moment = self._grid(time.monotonic())
        while True:
            try:
                seen = await cursor.load()
                snapshot = await snapshots.since(self.kind, moment)
                await asyncio.to_thread(backoff.record_success)
                if await cursor.overtaken():  # this triggerer was frozen or disconnected meanwhile
                    text = "%s: another triggerer has taken over; this snapshot is ignored."
                    await asyncio.to_thread(log.info, text, self._watch)
                else:
                    async for event in self._newcomers(cursor, seen, snapshot):
                        yield event
                delay = 0.0
            except e.CrmError as error:
                progressed = snapshots.has_progressed(self.kind)
                delay = await asyncio.to_thread(backoff.record_error, error, has_progressed=progressed)
            except AirflowRuntimeError as error:  # no connection or no state store: never a reason for a new baseline
                await asyncio.to_thread(log.warning, "%s: Airflow did not respond; retrying: %s", self._watch, error)
                delay = self.poke_interval
            moment = self._grid(time.monotonic() + delay) + self.poke_interval
            await asyncio.sleep(max(moment - time.monotonic(), 0.0))

    async def _newcomers(self, cursor: Cursor, seen: SeenIds | None, snapshot: Snapshot) -> AsyncIterator[TriggerEvent]:
        group, include = self.group.lower(), self.include_existing
        change = await asyncio.to_thread(compare, seen, snapshot, group, include_existing=include)
        if seen is None:
            await asyncio.to_thread(self._log_baseline, change)
        delivered: SeenIds = seen or {}
        for start in range(0, len(change.arrived), self.max_per_event):
            part = change.arrived[start : start + self.max_per_event]
            yield TriggerEvent({self.ids_name: list(part), self.group_name: self.group})
            delivered = {**delivered, **dict.fromkeys(map(fingerprint, part))}
            cursor.note(delivered)
            await cursor.wait_for_delivery()
            await cursor.save()
        cursor.note(change.seen)
        await cursor.save()

    def _log_baseline(self, change: SnapshotChange) -> None:
        there = len(change.seen) - len(change.arrived)
        log.info("%s begins. Existing members: %d. Newcomers to report: %d.", self._watch, there, len(change.arrived))

    def _grid(self, now: float) -> float:
        """The last point of the interval's grid. All watchers of a process have the same, so they share snapshots."""
        return math.floor((now - OFFSET) / self.poke_interval) * self.poke_interval + OFFSET


class CrmListJoinedTrigger(_WatchTrigger):
    """Reports the contacts that have joined a segmentation list: ``{"contact_ids": [...], "list_id": ...}``.

    Example::

        Asset("crm_trial_users", watchers=[AssetWatcher("joined", CrmListJoinedTrigger(list_id="..."))])

    :param list_id: id of the list
    :param crm_conn_id: the Airflow connection
    :param poke_interval: seconds between two reads of all contacts: 1 call for each 10 contacts of the account
    :param include_existing: also report the contacts that are in the list at the first read
    :param max_per_event: maximum ids in one event. With 1, each contact gets its own DAG run, one every 10 seconds
    :raises ValueError: if ``list_id`` is not a UUID or the interval is too short; at DAG parse
    """

    kind = "contacts"
    group_name = "list_id"
    ids_name = "contact_ids"

    def __init__(
        self,
        *,
        list_id: str,
        crm_conn_id: str = CrmHook.default_conn_name,
        poke_interval: float = 60.0,
        include_existing: bool = False,
        max_per_event: int = MOST_PER_EVENT,
    ) -> None:
        super().__init__(
            group=list_id,
            crm_conn_id=crm_conn_id,
            poke_interval=poke_interval,
            include_existing=include_existing,
            max_per_event=max_per_event,
        )


class CrmDealStageTrigger(_WatchTrigger):
    """Reports the deals that have entered a stage, moved or new: ``{"deal_ids": [...], "stage_id": ...}``.

    :param stage_id: id of the stage
    :param crm_conn_id: the Airflow connection
    :param poke_interval: seconds between two reads of all deals: 1 call for each 10 deals of the account
    :param include_existing: also report the deals that are in the stage at the first read
    :param max_per_event: maximum ids in one event. With 1, each deal gets its own DAG run, one every 10 seconds
    :raises ValueError: if ``stage_id`` is not a UUID or the interval is too short; at DAG parse
    """

    kind = "deals"
    group_name = "stage_id"
    ids_name = "deal_ids"

    def __init__(
        self,
        *,
        stage_id: str,
        crm_conn_id: str = CrmHook.default_conn_name,
        poke_interval: float = 60.0,
        include_existing: bool = False,
        max_per_event: int = MOST_PER_EVENT,
    ) -> None:
        super().__init__(
            group=stage_id,
            crm_conn_id=crm_conn_id,
            poke_interval=poke_interval,
            include_existing=include_existing,
            max_per_event=max_per_event,
        )
