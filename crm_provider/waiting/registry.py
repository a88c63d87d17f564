"""Objects that all tasks of an event loop share: pollers, connections, snapshots."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Generic, TypeVar
from weakref import WeakKeyDictionary

Shared = TypeVar("Shared")


class LoopRegistry(Generic[Shared]):
    """One object per key in each event loop, created on first use.

    The objects of an event loop are dropped with it. They must not keep it alive.

    :param create: creates the object for a key
    """

    def __init__(self, create: Callable[[str], Shared]) -> None:
        self._create = create
        self._loops: WeakKeyDictionary[asyncio.AbstractEventLoop, dict[str, Shared]] = WeakKeyDictionary()

    def get(self, key: str) -> Shared:
        """The object for a key in the running event loop.

        :raises RuntimeError: outside of an event loop
        """
        objects = self._loops.setdefault(asyncio.get_running_loop(), {})
        if key not in objects:
            objects[key] = self._create(key)
        return objects[key]

    def __len__(self) -> int:
        """Number of event loops that hold objects."""
        return len(self._loops)
