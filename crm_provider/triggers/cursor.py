"""What a watch has seen, kept in the state store of its asset (Airflow 3.3 and newer), else in memory only."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Iterable
from typing import Any, Protocol

from crm_provider.waiting.changes import Known, pack, unpack

SETTLE = 10.0
"""Seconds from the hand-over of an event to the cursor that counts it as given, and to the next event.

A trigger's events are in memory until the triggerer, about every second, writes them to the database. A cursor that is
written before them loses them in a crash; one that is written after them repeats them. And an event that comes before
the scheduler has started the run for the last one is not part of that run and starts none (Airflow 3.3.2): it waits
for the next event."""

FORMAT = 1


class Store(Protocol):
    """The state store of one asset."""

    async def aget(self, key: str, default: Any = None) -> Any: ...

    async def aset(self, key: str, value: Any) -> None: ...


class Cursor:
    """The known members of one watch. What was noted or read is known from then on, whether or not the store works.

    Two kinds of values are stored: ``<key>_<n>`` has a part of the fingerprints, ``<key>`` says how many parts there
    are and is written last. So a first writing that was broken off does not count.

    :param stores: of the assets that the watch is for; the first that has the cursor is read, all are written
    """

    def __init__(self, stores: Iterable[Store], key: str) -> None:
        self._stores, self._key = list(stores), key
        self._known: Known | None = None
        self._dirty = False
        self._revision = ""
        self._stored: list[str] = []

    @property
    def lasting(self) -> bool:
        """It outlives the triggerer."""
        return bool(self._stores)

    async def load(self) -> Known | None:
        """The known members; None if there never was a look.

        Read anew when another triggerer has written them: for a while two may run the same trigger.

        :raises AirflowRuntimeError: if the store does not answer. Never take that for a first look
        """
        for store in self._stores:
            head = await store.aget(self._key)
            if head is None:
                continue
            if head["revision"] != self._revision:
                await self._read(store, head)
            break
        return self._known

    async def overtaken(self) -> bool:
        """Whether another triggerer has written since :meth:`load`: what was seen since then may be told already."""
        for store in self._stores:
            head = await store.aget(self._key)
            if head is not None:
                return bool(head["revision"] != self._revision)
        return False

    async def _read(self, store: Store, head: dict[str, Any]) -> None:
        chunks = [await store.aget(f"{self._key}_{n}", "") for n in range(head["chunks"])]
        unsaved = (self._known or {}) if self._dirty else {}
        self._known = {**unpack(chunks), **unsaved}
        self._revision = head["revision"]
        self._stored = chunks if len(self._stores) == 1 else []  # the other stores may lack them

    def note(self, known: Known) -> None:
        """Know these members from now on."""
        self._dirty = self._dirty or self._known is None or list(known) != list(self._known)
        self._known = known

    async def verify_write(self) -> None:
        """Wait until the event that was handed over is in the database, and its DAG run started."""
        for store in self._stores:
            await store.aget(self._key)  # its answer shows that the triggerer has come back from what came before
        await asyncio.sleep(SETTLE)

    async def save(self) -> None:
        """Store what was noted.

        :raises AirflowRuntimeError: if the store does not take it; the next call tries again
        """
        if not self._dirty:
            return
        chunks, revision = pack(self._known or {}), secrets.token_hex(8)
        for store in self._stores:
            for n, chunk in enumerate(chunks):
                if self._stored[n : n + 1] != [chunk]:
                    await store.aset(f"{self._key}_{n}", chunk)
            await store.aset(self._key, {"format": FORMAT, "chunks": len(chunks), "revision": revision})
        self._revision, self._dirty = revision, False
        self._stored = chunks if len(self._stores) == 1 else []
