"""Counts and progress of a running load.

The books of a load: which row ended how. Every row is entered once, and a checkpoint is a copy of the books.

Progress of a long load: a line at a steady interval, and what a checkpoint tells those who look on.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from crm_provider.load.report import duration
from crm_provider.load.rows import Outcome
from crm_provider.load.state.checkpoint import REFUSED, Checkpoint, DoneRows


class RowCounts:
    """Counts rows by outcome and remembers which are done.

    :param before: the checkpoint of an earlier try
    """

    def __init__(self, before: Checkpoint | None = None) -> None:
        counts = dict(before.counts) if before else {}
        self.refused = counts.pop(REFUSED, 0)
        self.counts = Counter({Outcome(name): count for name, count in counts.items()})
        self.errors = Counter(before.errors) if before else Counter[str]()
        self.done = DoneRows(before.done_upto, before.done_above) if before else DoneRows()
        self.calls_before = before.calls if before else 0
        self.seconds_before = before.seconds if before else 0.0
        self.resumed_at = sum(self.counts.values())
        self.unsaved = self.unsaved_sent = 0

    @property
    def is_whole(self) -> bool:
        """Whether it adds up; not so if an exception struck in the middle of an entry (a signal's may anywhere)."""
        return self.rows == len(self.done)

    @property
    def rows(self) -> int:
        """Rows that are done."""
        return sum(self.counts.values())

    def enter(self, number: int, outcome: Outcome, *, error: str | None = None, sent: bool = False) -> None:
        """A row has ended.

        :param error: the type of the error that decided it
        :param sent: whether a call was made for it
        """
        if number in self.done:
            raise ValueError(f"row {number} ended twice")
        self.done.add(number)
        self.counts[outcome] += 1
        self.errors.update([error] if error else [])
        self.refused += sent and outcome in (Outcome.REJECTED, Outcome.SKIPPED)
        self.unsaved += 1
        self.unsaved_sent += sent

    def checkpoint(self, *, epoch: int, fingerprint: str, calls: int, seconds: float) -> Checkpoint:
        """The books as they are now.

        :param calls: of this try
        :param seconds: of this try
        """
        upto, above = self.done.as_data()
        return Checkpoint(
            epoch=epoch,
            fingerprint=fingerprint,
            done_upto=upto,
            done_above=above,
            counts={**{outcome.value: count for outcome, count in self.counts.items()}, REFUSED: self.refused},
            errors=dict(self.errors),
            calls=self.calls_before + calls,
            seconds=self.seconds_before + seconds,
        )


EVERY, REMOTE_EVERY = 1.0, 15.0
"""Seconds between two checkpoints; the second if new rejects must first reach an object store."""

SENT_ROWS = 10
"""Rows that were sent after which a checkpoint is due at once: at most so many are sent again after a kill."""


class CheckpointTimer:
    """Saves checkpoints often enough that little is repeated, and seldom enough that it costs little.

    :param save: keeps a checkpoint for the next try
    :param every: seconds between two
    """

    def __init__(self, save: Callable[[], None], *, every: Callable[[], float], clock: Callable[[], float]) -> None:
        self._save, self._every, self._clock = save, every, clock
        self._last = clock()

    def tick(self, ledger: RowCounts) -> None:
        """Save, if there is something new and it is time."""
        every = self._every()
        many = ledger.unsaved_sent >= SENT_ROWS and every <= EVERY
        if many or (ledger.unsaved and self._clock() - self._last >= every):
            self.now(ledger)

    def now(self, ledger: RowCounts) -> None:
        """Save at once."""
        self._save()
        ledger.unsaved = ledger.unsaved_sent = 0
        self._last = self._clock()


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


class ProgressLog:
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
