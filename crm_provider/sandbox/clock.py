"""The time that a sandbox lives in: the system's, or one that a test moves by hand."""

from __future__ import annotations

import time
from datetime import datetime, timedelta, timezone
from typing import Protocol


class Clock(Protocol):
    """What the sandbox asks about time."""

    def monotonic(self) -> float:
        """Seconds that never go back: pacing, delays, times to live."""

    def now(self) -> datetime:
        """The wall time, with a time zone: what the API shows."""


class SystemClock:
    """The time of this machine."""

    def monotonic(self) -> float:
        return time.monotonic()

    def now(self) -> datetime:
        return datetime.now(timezone.utc)


class ManualClock:
    """A time that stands still until :meth:`advance` is called, so that no test has to sleep.

    Example::

        clock = ManualClock()
        with Sandbox(membership_delay=60, clock=clock) as sandbox:
            ...                  # add a contact to a list: not there yet
            clock.advance(60)    # now it is
    """

    def __init__(self, start: datetime = datetime(2025, 1, 1, tzinfo=timezone.utc)) -> None:
        self._start = start
        self._elapsed = 0.0

    def monotonic(self) -> float:
        return self._elapsed

    def now(self) -> datetime:
        return self._start + timedelta(seconds=self._elapsed)

    def advance(self, seconds: float) -> None:
        """Move the time on.

        :param seconds: how far; never back
        """
        if seconds < 0:
            raise ValueError(f"time does not go back: {seconds}")
        self._elapsed += seconds


def timestamp(moment: datetime) -> str:
    """A moment as the API writes it, for example ``2025-12-22T18:11:43.719Z``."""
    return moment.astimezone(timezone.utc).isoformat(timespec="milliseconds").replace("+00:00", "Z")
