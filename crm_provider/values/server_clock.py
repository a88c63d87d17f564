"""The CRM's own clock, as the ``Date`` headers of its responses show it.

The ``createdAt`` of a record is by that clock, not by ours. To compare them, a local time is converted to the CRM's
time. Because headers have whole seconds and responses take time, the result is a span. Further responses narrow it.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from email.utils import parsedate_to_datetime
from typing import Any

HEADER_STEP = 1.0
"""Seconds that a ``Date`` header may be behind its clock, because it has whole seconds."""


@dataclass(frozen=True)
class ServerMoment:
    """A moment by the CRM's clock, known up to a span.

    :param earliest: the start of the span
    :param latest: the end of the span
    """

    earliest: datetime
    latest: datetime


class ServerClock:
    """Converts times of a local monotonic clock to the CRM's clock; threads may share it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._span: tuple[float, float] | None = None
        """The smallest and the largest possible difference between the CRM's clock and the local one, in seconds."""
        self.round_trip = 0.0
        """The shortest time from a request to its response, in seconds. The difference cannot be known better."""

    def note(self, date: str | None, *, sent: float, received: float) -> None:
        """Record the ``Date`` header of a response. A missing or invalid header is ignored.

        :param sent: local seconds when the request was sent
        :param received: local seconds when the response was complete
        """
        shown = _header_time(date)
        if shown is None:
            return
        low, high = shown - received, shown + HEADER_STEP - sent
        with self._lock:
            self.round_trip = min(self.round_trip, received - sent) if self._span else received - sent
            if self._span is not None:
                narrowed = (max(low, self._span[0]), min(high, self._span[1]))
                if narrowed[0] <= narrowed[1]:
                    low, high = narrowed  # otherwise one of the two clocks was set: only the new response counts
            self._span = (low, high)

    def ahead(self) -> tuple[float, float] | None:
        """Minimum and maximum seconds that the CRM's clock, as seconds since 1970, is ahead of the local one."""
        with self._lock:
            return self._span

    def at(self, local: float) -> ServerMoment | None:
        """A local time by the CRM's clock, None if no response has shown that clock yet.

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
    """A time of the API, such as ``2025-12-22T18:11:43.719Z``; None for anything else.

    A text without a time zone counts as UTC.
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
