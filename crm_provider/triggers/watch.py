"""The triggers behind asset watchers: an event when contacts join a list, or deals come into a stage.

An event is given first and counted as given later: a triggerer that dies in between gives it again, none is lost.
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
from crm_provider.triggers.connection import SharedSweeps
from crm_provider.triggers.cursor import Cursor
from crm_provider.waiting.changes import Change, ErrorBackoff, Kind, Known, Sweep, compare, fingerprint
from crm_provider.waiting.poller import OFFSET

log = logging.getLogger(__name__)

MOST_PER_EVENT = 500
"""Ids in one event: 20 KB. The cursor is written after each event, so at most one is repeated after a crash."""

SHORTEST_INTERVAL = 1.0
"""Seconds."""


class _WatchTrigger(BaseEventTrigger):
    """Sweeps a listing once in an interval, and gives an event with the records that have come into a group."""

    kind: ClassVar[Kind]
    group_name: ClassVar[str]
    ids_name: ClassVar[str]

    def __init__(
        self, *, group: str, crm_conn_id: str, poke_interval: float, include_existing: bool, max_per_event: int
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.group = validation.uuid(group, self.group_name)
        if not SHORTEST_INTERVAL <= poke_interval < math.inf:
            raise ValueError(f"poke_interval is {poke_interval!r}; give at least {SHORTEST_INTERVAL:g} second")
        if not 1 <= max_per_event <= MOST_PER_EVENT:
            raise ValueError(f"max_per_event is {max_per_event!r}; give 1 to {MOST_PER_EVENT}")
        self.crm_conn_id = crm_conn_id
        self.poke_interval = poke_interval
        self.include_existing = include_existing
        self.max_per_event = max_per_event

    def serialize(self) -> tuple[str, dict[str, Any]]:
        names = ("crm_conn_id", "poke_interval", "include_existing", "max_per_event")
        arguments = {self.group_name: self.group, **{name: getattr(self, name) for name in names}}
        return f"{type(self).__module__}.{type(self).__qualname__}", arguments

    @property
    def _watch(self) -> str:
        return f"Watch of {self.group_name} {self.group}"

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Events with newcomers, as long as the asset is watched."""
        cursor = Cursor(asset_stores(self), f"crm_{self.group_name}_{self.group.lower()}")
        if not cursor.lasting:
            log.info("%s: no state store (Airflow 3.3+): after a restart it begins anew.", self._watch)
        trouble = ErrorBackoff(self._watch, self.poke_interval)
        moment = self._grid(time.monotonic())
        while True:
            try:
                known = await cursor.load()
                sweep = await SharedSweeps.of(self.crm_conn_id).since(self.kind, moment)
                trouble.over()
                if await cursor.overtaken():  # this triggerer was frozen or cut off in mid-sweep
                    log.info("%s: another triggerer has looked meanwhile: this sweep does not count.", self._watch)
                else:
                    async for event in self._newcomers(cursor, known, sweep):
                        yield event
                delay = 0.0
            except e.CrmError as error:
                delay = trouble.met(error)
            except AirflowRuntimeError as error:  # no connection, no state store: never a reason to begin anew
                log.warning("%s: Airflow did not answer, and is asked again: %s", self._watch, error)
                delay = self.poke_interval
            moment = self._grid(time.monotonic() + delay) + self.poke_interval
            await asyncio.sleep(max(moment - time.monotonic(), 0.0))

    async def _newcomers(self, cursor: Cursor, known: Known | None, sweep: Sweep) -> AsyncIterator[TriggerEvent]:
        group, include = self.group.lower(), self.include_existing
        change = await asyncio.to_thread(compare, known, sweep, group, include_existing=include)
        if known is None:
            self._say_baseline(change)
        counted: Known = known or {}
        for start in range(0, len(change.arrived), self.max_per_event):
            part = change.arrived[start : start + self.max_per_event]
            yield TriggerEvent({self.ids_name: list(part), self.group_name: self.group})
            counted = {**counted, **dict.fromkeys(map(fingerprint, part))}
            cursor.note(counted)
            await cursor.verify_write()
            await cursor.save()
        cursor.note(change.known)
        await cursor.save()

    def _say_baseline(self, change: Change) -> None:
        there = len(change.known) - len(change.arrived)
        log.info("%s begins: %d there before, %d more to be told.", self._watch, there, len(change.arrived))

    def _grid(self, now: float) -> float:
        """The last point of the interval's grid: the same for all watchers of a process, so that they share a sweep."""
        return math.floor((now - OFFSET) / self.poke_interval) * self.poke_interval + OFFSET


class CrmListJoinedTrigger(_WatchTrigger):
    """Tells which contacts have joined a segmentation list: ``{"contact_ids": [...], "list_id": ...}``.

    Example::

        Asset("crm_trial_users", watchers=[AssetWatcher("joined", CrmListJoinedTrigger(list_id="..."))])

    :param list_id: id of the list
    :param crm_conn_id: the Airflow connection
    :param poke_interval: seconds between two sweeps over all contacts: 1 call for each 10 of the account
    :param include_existing: tell also who is in the list at the first sweep
    :param max_per_event: ids in one event at most. With 1 each contact gets a DAG run of its own, one in 10 seconds
    :raises ValueError: if ``list_id`` is no uuid or the interval is too short; at DAG parse
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
    """Tells which deals have come into a stage, moved or new: ``{"deal_ids": [...], "stage_id": ...}``.

    :param stage_id: id of the stage
    :param crm_conn_id: the Airflow connection
    :param poke_interval: seconds between two sweeps over all deals: 1 call for each 10 of the account
    :param include_existing: tell also what is in the stage at the first sweep
    :param max_per_event: ids in one event at most. With 1 each deal gets a DAG run of its own, one in 10 seconds
    :raises ValueError: if ``stage_id`` is no uuid or the interval is too short; at DAG parse
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
