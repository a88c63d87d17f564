"""Progress of a long load: a line at a steady interval, and what a checkpoint tells those who look on."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from crm_provider.load.checkpoint import Checkpoint
from crm_provider.load.rows import Outcome
from crm_provider.load.summary import duration

log = logging.getLogger(__name__)

INTERVAL = 30.0
"""Seconds between two lines."""


@dataclass(frozen=True)
class Position:
    """How far a load is.

    :param counts: rows by outcome
    :param calls: calls of this try
    :param calls_left: calls that are still expected
    """

    done: int
    rows: int
    counts: Mapping[Outcome, int]
    calls: int
    calls_left: float


class Progress:
    """Says how far a load is.

    :param rate: calls per second that the key is allowed
    :param clock: seconds
    """

    def __init__(self, rate: float, clock: Callable[[], float]) -> None:
        self._rate, self._clock = rate, clock
        self._last, self._last_calls = clock(), 0

    def tick(self, position: Callable[[], Position]) -> None:
        """Say it, if it is time."""
        elapsed = self._clock() - self._last
        if elapsed < INTERVAL:
            return
        now = position()
        log.info("%s", line(now, (now.calls - self._last_calls) / elapsed, self._rate))
        self._last, self._last_calls = self._clock(), now.calls

    def tick_reading(self, contacts: int, calls: int) -> None:
        """Say how far the reading of the CRM's contacts is, if it is time."""
        elapsed = self._clock() - self._last
        if elapsed >= INTERVAL:
            log.info("Read %d contacts of the CRM; %.2f calls/s.", contacts, (calls - self._last_calls) / elapsed)
            self._last, self._last_calls = self._clock(), calls


def line(at: Position, speed: float, rate: float) -> str:
    """One line of progress.

    :param speed: calls per second since the last line
    """
    counts = ", ".join(f"{at.counts.get(outcome, 0):,} {outcome.value}" for outcome in Outcome)
    eta = f"about {duration(at.calls_left / speed)} left" if speed > 0 else "waiting"
    share = f"{at.done / at.rows:.1%}" if at.rows else "100%"
    return (
        f"{at.done:,} of {at.rows:,} rows ({share}): {counts}; "
        f"{speed:.2f} calls/s ({speed / rate:.0%} of the budget); {eta}"
    )


def noted(at: Position) -> dict[str, Any]:
    """How far a load is, as notes in its checkpoint."""
    return {"rows": at.rows, "calls_left": round(at.calls_left)}


def left_of(checkpoint: Checkpoint) -> tuple[int, float] | None:
    """Rows of a load in all, and the seconds it still takes at the pace so far; None if they are not known (yet).

    >>> left_of(Checkpoint(epoch=0, fingerprint="", calls=50, seconds=10.0, notes={"rows": 90, "calls_left": 40}))
    (90, 8.0)
    """
    rows, calls_left = checkpoint.notes.get("rows"), checkpoint.notes.get("calls_left")
    if not isinstance(rows, int) or not isinstance(calls_left, int) or not checkpoint.calls:
        return None
    return rows, calls_left * checkpoint.seconds / checkpoint.calls
