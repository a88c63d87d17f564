"""The CRM's own clock, as the ``Date`` headers of its answers show it.

A record's ``createdAt`` is by that clock, not by ours. To compare the two, a moment of ours is expressed in the CRM's
time. Whole seconds in a header and the time that an answer travels leave a span, which each answer can only narrow.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from email.utils import parsedate_to_datetime
from typing import Any

HEADER_STEP = 1.0
"""Seconds that a ``Date`` header may be behind the clock that it shows: it has whole seconds."""


@dataclass(frozen=True)
class ServerMoment:
    """A moment in the CRM's time, as well as it is known.

    :param earliest: the CRM's clock showed this or later
    :param latest: the CRM's clock showed this or earlier
    """

    earliest: datetime
    latest: datetime


class ServerClock:
    """Relates a local monotonic clock to the CRM's clock; threads may share it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._span: tuple[float, float] | None = None
        """The least and the greatest difference, in seconds, between the CRM's clock and the local one."""

    def note(self, date: str | None, *, sent: float, received: float) -> None:
        """Learn from the ``Date`` header of an answer; one that is missing or makes no sense is ignored.

        :param sent: local seconds when the request left
        :param received: local seconds when the answer was there
        """
        shown = _header_time(date)
        if shown is None:
            return
        low, high = shown - received, shown + HEADER_STEP - sent
        with self._lock:
            if self._span is not None:
                narrowed = (max(low, self._span[0]), min(high, self._span[1]))
                if narrowed[0] <= narrowed[1]:
                    low, high = narrowed  # otherwise one of the two clocks was set: only the new answer counts
            self._span = (low, high)

    def ahead(self) -> tuple[float, float] | None:
        """At least and at most how many seconds the CRM's clock, as seconds since 1970, is ahead of the local one."""
        with self._lock:
            return self._span

    def at(self, local: float) -> ServerMoment | None:
        """A local moment in the CRM's time, None while no answer has shown it.

        :param local: seconds of the local clock
        """
        span = self.ahead()
        if span is None:
            return None
        try:
            low, high = (datetime.fromtimestamp(local + offset, tz=timezone.utc) for offset in span)
        except (OverflowError, ValueError, OSError):
            return None
        return ServerMoment(low, high)


def utc_time(value: Any) -> datetime | None:
    """A moment that the API shows, such as ``2025-12-22T18:11:43.719Z``; None for anything else.

    A text without a time zone is taken for UTC.
    """
    if not isinstance(value, str):
        return None
    try:
        moment = datetime.fromisoformat(value.strip().replace("Z", "+00:00").replace("z", "+00:00"))
        return moment.replace(tzinfo=timezone.utc) if moment.tzinfo is None else moment.astimezone(timezone.utc)
    except (ValueError, OverflowError):
        return None


def _header_time(date: str | None) -> float | None:
    if date is None:
        return None
    try:
        moment = parsedate_to_datetime(date)
        zoned = moment if moment.tzinfo is not None else moment.replace(tzinfo=timezone.utc)
        return (zoned - _EPOCH) / timedelta(seconds=1)
    except (ValueError, TypeError, IndexError, OverflowError):
        return None


_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)
