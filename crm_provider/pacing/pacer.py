"""What callers see of the rate budget: they ask for a slot, and tell of refusals."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable
from typing import Protocol

MARGIN = 0.99
"""Share of the allowed rate that is used: pacing 1 % too fast is refused, 1 % too slow costs 1 %."""

LONGEST_PAUSE = 10.0
"""Seconds that a refusal may hold back the other callers of the key. A longer wait is no matter of pace: each caller
hears of it from the CRM and decides by itself (a task frees its slot, a sensor checks later)."""


class BudgetBusy(Exception):
    """No slot within the time that the caller can wait.

    :param seconds: time until the next free slot
    """

    def __init__(self, seconds: float) -> None:
        super().__init__(f"the next free slot is {seconds:.1f} s away")
        self.seconds = seconds


class Pacer(Protocol):
    """A rate budget shared by all callers of one key."""

    def acquire(self, max_wait: float) -> float:
        """Wait for the next slot.

        :param max_wait: seconds that the caller can wait at most
        :return: seconds waited
        :raises BudgetBusy: at once, if the slot is further away; nothing is reserved then
        """

    def pause(self, seconds: float) -> None:
        """Give no slots for a while: the CRM refused a call. Does nothing if that is over :data:`LONGEST_PAUSE`."""


class Unlimited:
    """No budget at all (``rate_store: off``)."""

    def acquire(self, max_wait: float) -> float:
        return 0.0

    def pause(self, seconds: float) -> None:
        """Nothing to pause: each caller backs off by itself."""


class ProcessPacer:
    """Evenly spaced slots for the threads of one process, first come first served: what a share is cut with.

    :param rate: calls per second that the CRM allows
    :param burst: calls that the CRM allows at once
    """

    def __init__(
        self,
        rate: float,
        burst: int,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._clock, self._sleep = clock, sleep
        self._next = -math.inf
        self._lock = threading.Lock()
        self.limit(rate, burst)

    def limit(self, rate: float, burst: int) -> None:
        """Set what the CRM allows."""
        with self._lock:
            self.spacing = 1.0 / (rate * MARGIN)
            self._at_once = max(burst - 1, 1)

    def acquire(self, max_wait: float) -> float:
        wait = self._reserve(max_wait)
        if wait > 0:
            self._sleep(wait)
        return wait

    def _reserve(self, max_wait: float) -> float:
        with self._lock:
            now = self._clock()
            slot = max(self._next, now - (self._at_once - 1) * self.spacing)
            wait = max(slot - now, 0.0)
            if wait > max_wait:
                raise BudgetBusy(wait)
            self._next = slot + self.spacing
            return wait

    def pause(self, seconds: float) -> None:
        if seconds > LONGEST_PAUSE:
            return
        with self._lock:
            self._next = max(self._next, self._clock() + seconds)


class SharePacer:
    """A share of a budget, for callers that must leave room: spaced wider, and drawing on the same budget.

    :param whole: the budget that everyone draws on
    :param rate: calls per second that these callers may take of it
    """

    def __init__(self, whole: Pacer, rate: float) -> None:
        self._whole = whole
        self._own = ProcessPacer(rate, 1)

    def acquire(self, max_wait: float) -> float:
        waited = self._own.acquire(max_wait)
        return waited + self._whole.acquire(max_wait - waited)

    def pause(self, seconds: float) -> None:
        self._whole.pause(seconds)
