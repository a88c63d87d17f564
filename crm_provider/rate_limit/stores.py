"""Where the schedule of a key is kept: in this process, or elsewhere with something to fall back on."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Protocol, TypeVar
from weakref import WeakSet

from crm_provider.rate_limit.schedule import Grant, Lane, Pace, Schedule

log = logging.getLogger(__name__)

T = TypeVar("T")

RECHECK = 5.0
"""Seconds until a store that failed is tried again."""


class StoreUnusable(Exception):
    """The store cannot be used now; the text says which and why, and shows no password."""


@dataclass(frozen=True)
class Ticket:
    """A place in a store's queue, worth nothing in another store."""

    store: int
    number: int


class RateStore(Protocol):
    """Keeps one schedule, asks it under a lock, and has the clock that it goes by."""

    def ask(self, lane: Lane, ticket: Ticket | None, pace: Pace, patience: float) -> tuple[Grant, Ticket]:
        """Ask for a slot; see :meth:`Schedule.ask`.

        :raises StoreUnusable: nothing was reserved
        """

    def pause(self, seconds: float, phase: float, pace: Pace) -> None:
        """Hold back all callers; see :meth:`Schedule.pause`.

        :raises StoreUnusable: nothing was changed
        """


def number_for(store: RateStore, ticket: Ticket | None) -> int | None:
    """The number of a ticket in this store, None if it is from another one."""
    return ticket.number if ticket and ticket.store == id(store) else None


class MemoryStore:
    """One schedule for the threads of this process."""

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self.start_anew()
        _memory_stores.add(self)

    def start_anew(self) -> None:
        """Forget everything, locks too."""
        self._lock = threading.Lock()
        self._schedule = Schedule()

    def ask(self, lane: Lane, ticket: Ticket | None, pace: Pace, patience: float) -> tuple[Grant, Ticket]:
        with self._lock:
            answer = self._schedule.ask(self._clock(), lane, number_for(self, ticket), pace, patience)
        return answer, Ticket(id(self), answer.ticket)

    def pause(self, seconds: float, phase: float, pace: Pace) -> None:
        with self._lock:
            self._schedule.pause(self._clock(), seconds, phase, pace)


class FallbackStore:
    """A store, and another one for the time that it cannot be used: one warning then, one line when it is back.

    :param first: the store to use
    :param second: for as long as the first fails
    :param otherwise: what using the second means, for the warning
    """

    def __init__(
        self, first: RateStore, second: RateStore, *, otherwise: str, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._first, self._second, self._otherwise, self._clock = first, second, otherwise, clock
        self._failed_until: float | None = None
        self._untold = [True]
        """Holds something while the next failure is news. A list, for popping is atomic: of many threads one tells."""

    def ask(self, lane: Lane, ticket: Ticket | None, pace: Pace, patience: float) -> tuple[Grant, Ticket]:
        return self._use(lambda store: store.ask(lane, ticket, pace, patience))

    def pause(self, seconds: float, phase: float, pace: Pace) -> None:
        self._use(lambda store: store.pause(seconds, phase, pace))

    def _use(self, do: Callable[[RateStore], T]) -> T:
        now = self._clock()
        failed_until = self._failed_until
        if failed_until is not None:
            if now < failed_until:
                return do(self._second)
            self._failed_until = now + RECHECK  # the others need not wait for this attempt
        try:
            done = do(self._first)
        except StoreUnusable as reason:
            self._failed_until = self._clock() + RECHECK
            with suppress(IndexError):
                self._untold.pop()
                log.warning("%s; %s until it can be used again", reason, self._otherwise)
            return do(self._second)
        if failed_until is not None:
            self._failed_until = None
            self._untold[:] = [True]
            log.info("the rate budget is shared as the connection says again")
        return done


_memory_stores: WeakSet[MemoryStore] = WeakSet()


def _start_anew_in_child() -> None:
    """A fork may copy a lock while another thread holds it."""
    for store in list(_memory_stores):
        store.start_anew()


os.register_at_fork(after_in_child=_start_anew_in_child)
