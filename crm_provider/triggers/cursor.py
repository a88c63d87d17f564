"""The members that a watch has seen: in the state store of its asset (Airflow 3.3 and newer), else only in memory."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Iterable
from typing import Any, Protocol

from crm_provider.waiting.changes import SeenIds, pack, unpack

DELIVERY_DELAY = 10.0
"""Seconds between an event and the cursor that marks it as delivered, and before the next event.

A trigger's events stay in memory until the triggerer writes them to the database, about once a second. If the cursor is
written before the event, a crash loses the event. If it is written after the event, a crash repeats it. An event that
arrives before the scheduler has started the run for the previous one neither joins that run nor starts its own (Airflow
3.3.2): it waits for the next event."""

FORMAT = 1


class AssetStateStore(Protocol):
    """The state store of one asset."""

    async def aget(self, key: str, default: Any = None) -> Any: ...

    async def aset(self, key: str, value: Any) -> None: ...


class Cursor:
    """The members that one watch has seen. They are kept in memory even if the store fails.

    Two kinds of values are stored: ``<key>_<n>`` holds a part of the fingerprints; ``<key>`` holds the number of parts
    and is written last. So an interrupted first write does not count.

    :param stores: the stores of the watch's assets. The first one that has the cursor is read; all are written
    """

    def __init__(self, stores: Iterable[AssetStateStore], key: str) -> None:
        self._stores, self._key = list(stores), key
        self._seen: SeenIds | None = None
        self._dirty = False
        self._revision = ""
        self._stored: list[str] = []

    @property
    def persistent(self) -> bool:
        """Whether the cursor survives a restart of the triggerer."""
        return bool(self._stores)

    async def load(self) -> SeenIds | None:
        """The members seen so far; None before the first snapshot.

        They are read again if another triggerer has written them: two may run the same trigger for some time.

        :raises AirflowRuntimeError: if the store does not respond. Never treat that as a first snapshot
        """
        for store in self._stores:
            head = await store.aget(self._key)
            if head is None:
                continue
            if head["revision"] != self._revision:
                await self._read(store, head)
            break
        return self._seen

    async def overtaken(self) -> bool:
        """Whether another triggerer has written since :meth:`load` and may already have delivered the new members."""
        for store in self._stores:
            head = await store.aget(self._key)
            if head is not None:
                return bool(head["revision"] != self._revision)
        return False

    async def _read(self, store: AssetStateStore, head: dict[str, Any]) -> None:
        chunks = [await store.aget(f"{self._key}_{n}", "") for n in range(head["chunks"])]
        unsaved = (self._seen or {}) if self._dirty else {}
        self._seen = {**unpack(chunks), **unsaved}
        self._revision = head["revision"]
        self._stored = chunks if len(self._stores) == 1 else []  # the other stores may lack them

    def note(self, seen: SeenIds) -> None:
        """Remember these members."""
        self._dirty = self._dirty or self._seen is None or list(seen) != list(self._seen)
        self._seen = seen

    async def wait_for_delivery(self) -> None:
        """Wait until the last event is in the database and its DAG run has started."""
        for store in self._stores:
            await store.aget(self._key)  # the response shows that the triggerer has handled everything before it
        await asyncio.sleep(DELIVERY_DELAY)

    async def save(self) -> None:
        """Store the noted members.

        :raises AirflowRuntimeError: if the store rejects them; the next call tries again
        """
        if not self._dirty:
            return
        chunks, revision = pack(self._seen or {}), secrets.token_hex(8)
        for store in self._stores:
            for n, chunk in enumerate(chunks):
                if self._stored[n : n + 1] != [chunk]:
                    await store.aset(f"{self._key}_{n}", chunk)
            await store.aset(self._key, {"format": FORMAT, "chunks": len(chunks), "revision": revision})
        self._revision, self._dirty = revision, False
        self._stored = chunks if len(self._stores) == 1 else []
