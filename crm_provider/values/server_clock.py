"""The CRM's own clock, as the ``Date`` headers of its responses show it.

The ``createdAt`` of a record is by that clock, not by ours. To compare them, a local time is converted to the CRM's
time. Because headers have whole seconds and responses take time, the result is a span. Further responses narrow it.

Some servers (uvicorn, for example) and proxies make the header only once in a second. Then it is up to two seconds
behind, and the responses contradict each other by less than a second: from then on the spans are wider.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from email.utils import parsedate_to_datetime
from typing import Any

HEADER_STEP = 1.0
"""Seconds that a ``Date`` header may be behind its clock, because it has whole seconds."""

CACHED = 1.1
"""Further seconds that it may be behind if the server keeps it for a second: timers are late."""

DRIFT = 5e-4
"""Seconds per second by which two clocks may diverge: the maximum by which NTP slews a clock."""


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
        self._step = HEADER_STEP
        self._noted = 0.0

    def note(self, date: str | None, *, sent: float, received: float) -> None:
        """Record the ``Date`` header of a response. A missing or invalid header is ignored.

        :param sent: local seconds when the request was sent
        :param received: local seconds when the response was complete
        """
        shown = _header_time(date)
        if shown is None:
            return
        with self._lock:
            low, high = shown - received, shown + self._step - sent
            self.round_trip = min(self.round_trip, received - sent) if self._span else received - sent
            if self._span is not None:
                low, high = self._narrowed(low, high, DRIFT * max(received - self._noted, 0.0))
            self._span, self._noted = (low, high), received

    def _narrowed(self, low: float, high: float, drift: float) -> tuple[float, float]:
        """The span of all responses, or of this one if it contradicts the others.

        :param drift: seconds by which the clocks may have diverged since the last response
        """
        known_low, known_high = self._span or (low, high)
        narrowed = max(low, known_low - drift), min(high, known_high + drift)
        gap = narrowed[0] - narrowed[1]
        if gap <= 0:
            return narrowed
        if gap <= CACHED and self._step == HEADER_STEP:  # otherwise one of the two clocks was set
            self._step, high = HEADER_STEP + CACHED, high + CACHED
        return low, high

    def ahead(self) -> tuple[float, float, float] | None:
        """Minimum and maximum seconds that the CRM's clock, as seconds since 1970, is ahead of the local one.

        The third number is the seconds that a header may be behind, as far as the responses show.
        """
        with self._lock:
            return (*self._span, self._step) if self._span else None

    def at(self, local: float) -> ServerMoment | None:
        """A local time by the CRM's clock, None if no response has shown that clock yet.

        :param local: seconds of the local clock
        """
        span = self.ahead()
        if span is None:
            return None
        try:
            low, high = (datetime.fromtimestamp(local + offset, tz=timezone.utc) for offset in span[:2])
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
