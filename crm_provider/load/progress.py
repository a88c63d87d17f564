"""Counts and progress of a running load: which row ended how, when a checkpoint is saved, what the log says.

Every row is counted once, and a checkpoint is a copy of the counts.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from crm_provider.files.paths import CannotWrite
from crm_provider.files.row_lines import RowLines
from crm_provider.load.rows import WRITTEN, Outcome, duration, rows_text
from crm_provider.load.state.checkpoint import REFUSED, RETRYABLE, VERSION, Checkpoint, Checkpoints, DoneRows
from crm_provider.load.state.fingerprints import Fingerprints
from crm_provider.load.workers import RequestStats
from crm_provider.values.server_clock import utc_time

READING_STOPPED, BEGAN, MADE, CLEARED, KEPT = "reading_stopped", "began", "made", "cleared", "kept"
"""Notes in a checkpoint: a try was stopped while it read all records; when the load began, by the CRM's clock; rows
that are not done and whose records the load has made; what the kind of records keeps between the tries of a run."""

SKIPPED, UNSURE = "skipped", "unsure"
"""The notes of the rows in ``RowCounts.skipped`` and ``RowCounts.unsure``."""


class RowCounts:
    """Counts rows by outcome and remembers which are done.

    :param before: the checkpoint of an earlier try
    """

    def __init__(self, before: Checkpoint | None = None) -> None:
        counts = dict(before.counts) if before else {}
        self.refused, self.retryable = counts.pop(REFUSED, 0), counts.pop(RETRYABLE, 0)
        self.counts = Counter({Outcome(name): count for name, count in counts.items()})
        self.errors = Counter(before.errors) if before else Counter[str]()
        self.done = DoneRows(before.done_upto, before.done_above) if before else DoneRows()
        self.calls_before = before.calls if before else 0
        self.seconds_before = before.seconds if before else 0.0
        self.resumed_at = sum(self.counts.values())
        self.unsaved = self.unsaved_sent = 0
        self.unfinished = {number for number in _numbers(before, MADE) if number not in self.done}
        """Rows that are not done and whose records this load has made: the next try must not take them for others'."""
        self.unsure = {number for number in _numbers(before, UNSURE) if number not in self.done}
        """Rows that are not done and may have been written."""
        self.skipped = {number for number in _numbers(before, SKIPPED) if number in self.done}
        """Rows that were sent and skipped, if a row that cannot be sent is for the same record."""

    @property
    def _further(self) -> dict[str, int]:
        return {REFUSED: self.refused, **({RETRYABLE: self.retryable} if self.retryable else {})}

    @property
    def is_whole(self) -> bool:
        """Whether it adds up; not if an exception struck in the middle of an entry (a signal's can anywhere)."""
        return self.rows == len(self.done)

    @property
    def rows(self) -> int:
        """Rows that are done."""
        return sum(self.counts.values())

    def enter(
        self,
        number: int,
        outcome: Outcome,
        *,
        error: str | None = None,
        sent: bool = False,
        retryable: bool = False,
    ) -> None:
        """Count a row that has ended.

        :param error: the type of the error that decided it
        :param sent: whether a call was made for it
        :param retryable: whether it may succeed later as it is
        """
        if number in self.done:
            raise ValueError(f"row {number} ended twice")
        self.done.add(number)
        self.counts[outcome] += 1
        self.unfinished.discard(number)
        self.unsure.discard(number)
        self.retryable += retryable
        if error:
            self.errors[error] += 1
        self.refused += sent and outcome in (Outcome.REJECTED, Outcome.SKIPPED)
        self.unsaved += 1
        self.unsaved_sent += sent

    def checkpoint(self, *, epoch: int, fingerprint: str, calls: int, seconds: float) -> Checkpoint:
        """The counts as they are now.

        :param calls: of this try
        :param seconds: of this try
        """
        upto, above = self.done.as_data()
        return Checkpoint(
            epoch=epoch,
            fingerprint=fingerprint,
            done_upto=upto,
            done_above=above,
            counts={**{outcome.value: count for outcome, count in self.counts.items()}, **self._further},
            errors=dict(self.errors),
            calls=self.calls_before + calls,
            seconds=self.seconds_before + seconds,
        )


def _numbers(before: Checkpoint | None, note: str) -> list[int]:
    """The numbers of rows in a note of a checkpoint, which may have been edited."""
    found = before.notes.get(note) if before else None
    return [number for number in found if isinstance(number, int)] if isinstance(found, list) else []


EVERY, REMOTE_EVERY = 1.0, 15.0
"""Seconds between two checkpoints; the second if new rejects must first reach an object store."""

SENT_ROWS = 10
"""Sent rows after which a checkpoint is due at once: at most this many are sent again after a kill."""


class CheckpointTimer:
    """Saves checkpoints so often that little is repeated, and so seldom that it costs little.

    :param save: saves a checkpoint for the next try
    :param every: seconds between two checkpoints
    :param at_once: save whenever a row was sent, whatever that costs
    """

    def __init__(
        self,
        save: Callable[[], None],
        *,
        every: Callable[[], float],
        clock: Callable[[], float],
        at_once: bool = False,
    ) -> None:
        self._save, self._every, self._clock = save, every, clock
        self._at_once = at_once
        self._last = clock()

    def tick(self, counts: RowCounts) -> None:
        """Save, if there is something new and it is time."""
        every = self._every()
        many = (counts.unsaved_sent >= SENT_ROWS and every <= EVERY) or (self._at_once and counts.unsaved_sent > 0)
        if many or (counts.unsaved and self._clock() - self._last >= every):
            self._save()
            counts.unsaved = counts.unsaved_sent = 0
            self._last = self._clock()


log = logging.getLogger(__name__)

INTERVAL = 30.0
"""Seconds between two lines of the log."""


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
    """Logs how far a load is.

    :param rate: calls per second that the key is allowed
    :param clock: seconds
    """

    def __init__(self, rate: float, clock: Callable[[], float]) -> None:
        self._rate, self._clock = rate, clock
        self._last, self._last_calls = clock(), 0

    def tick(self, position: Callable[[], Position]) -> None:
        """Log it, if it is time."""
        elapsed = self._clock() - self._last
        if elapsed < INTERVAL:
            return
        now = position()
        log.info("%s", line(now, (now.calls - self._last_calls) / elapsed, self._rate))
        self._last, self._last_calls = self._clock(), now.calls

    def tick_reading(self, count: int, records: str, calls: int) -> None:
        """Log how far the reading of the CRM's records is, if it is time."""
        elapsed = self._clock() - self._last
        if elapsed >= INTERVAL:
            speed = (calls - self._last_calls) / elapsed
            log.info("Read %d %s of the CRM; %.2f calls/s.", count, records, speed)
            self._last, self._last_calls = self._clock(), calls


def line(at: Position, speed: float, rate: float) -> str:
    """One line of progress.

    :param speed: calls per second since the last line
    """
    counts = ", ".join(
        f"{at.counts.get(outcome, 0):,} {outcome.value}"
        for outcome in Outcome
        if outcome in WRITTEN or at.counts.get(outcome)
    )
    eta = f"about {duration(at.calls_left / speed)} left" if speed > 0 else "waiting"
    share = f"{at.done / at.rows:.1%}" if at.rows else "100%"
    return (
        f"{at.done:,} of {rows_text(at.rows)} ({share}): {counts}; "
        f"{speed:.2f} calls/s ({speed / rate:.0%} of the budget); {eta}"
    )


def noted(at: Position) -> dict[str, Any]:
    """How far a load is, as notes in its checkpoint."""
    return {"rows": at.rows, "calls_left": round(at.calls_left)}


def left_of(checkpoint: Checkpoint) -> tuple[int, float] | None:
    """All rows of a load, and the seconds that it still takes at the pace so far; None if they are not known yet.

    >>> left_of(Checkpoint(epoch=0, fingerprint="", calls=50, seconds=10.0, notes={"rows": 90, "calls_left": 40}))
    (90, 8.0)
    """
    rows, calls_left = checkpoint.notes.get("rows"), checkpoint.notes.get("calls_left")
    if not isinstance(rows, int) or not isinstance(calls_left, int) or not checkpoint.calls:
        return None
    return rows, calls_left * checkpoint.seconds / checkpoint.calls


def cleared(before: Checkpoint, epoch: int, fingerprint: str) -> Checkpoint | None:
    """What a task that starts again keeps of its checkpoint: how it recognises the records that it has made.

    So none is made twice, and each still gets what it lacks. Numbers of rows are valid for the same input only.

    :return: None if there is nothing to keep
    """
    if before.version != VERSION or BEGAN not in before.notes:
        return None
    names = (BEGAN, MADE) if before.fingerprint == fingerprint else (BEGAN,)
    kept = {name: before.notes[name] for name in names if name in before.notes}
    return Checkpoint(epoch=epoch, fingerprint=fingerprint, notes={**kept, CLEARED: True})


class LoadProgress:
    """How far one try of a load is: counted, saved for the next try, and logged.

    :param before: the checkpoint of an earlier try that this one resumes
    :param rows: rows of the source
    :param fingerprint: of the input
    :param files: lines of rows, which are synced before a checkpoint says that these rows are done
    :param stats: of the requests of this try
    :param clock: seconds
    :param is_limited: whether what all tries do together is limited, so that no try may forget what it has done
    """

    def __init__(
        self,
        before: Checkpoint | None,
        *,
        rows: int,
        fingerprint: str,
        epoch: int,
        files: Sequence[RowLines],
        fingerprints: Fingerprints | None,
        checkpoints: Checkpoints,
        stats: RequestStats,
        rate: float,
        clock: Callable[[], float],
        is_limited: bool = False,
    ) -> None:
        self._rows, self._fingerprint, self._epoch = rows, fingerprint, epoch
        self._files, self._fingerprints, self._checkpoints = files, fingerprints, checkpoints
        self._stats, self._clock = stats, clock
        self._started = self._synced = clock()
        self.counts = RowCounts(before)
        self.is_resumed = before is not None
        self.is_cleared = before is not None and bool(before.notes.get(CLEARED))
        """Whether the task starts again with the first row, although what it has made before is known."""
        notes = before.notes if before is not None else {}
        self.reading_stopped = bool(notes.get(READING_STOPPED))
        """Whether a try was stopped while it read all records: the next one must not begin with that again."""
        self.began = utc_time(notes[BEGAN]) if BEGAN in notes else None
        self.kept: Mapping[str, Any] = {}
        """What the kind of records keeps for the later tries, as it is now."""
        self.plan_calls = 0
        """Calls that the plan expects."""
        self._checkpoint_timer = CheckpointTimer(self.save, every=self.save_interval, clock=clock, at_once=is_limited)
        self._log = ProgressLog(rate, clock)
        self._saved_calls = 0
        """Calls of this try that a checkpoint has."""

    @property
    def seconds(self) -> float:
        """Seconds of this try."""
        return self._clock() - self._started

    def tick(self) -> None:
        """Save a checkpoint, and log, if it is time."""
        self._checkpoint_timer.tick(self.counts)
        self._log.tick(self.position)

    def tick_reading(self, count: int, records: str) -> None:
        """Log how many records of the CRM were read, if it is time.

        :param records: the CRM's name for them
        """
        self._log.tick_reading(count, records, self._stats.calls)

    def save_interval(self) -> float:
        """Seconds between two checkpoints."""
        is_slow = any(file.has_unsynced and not file.is_local for file in self._files)
        return REMOTE_EVERY if is_slow or not self._checkpoints.is_local else EVERY

    def save(self) -> None:
        """Save a checkpoint.

        :raises CannotWrite: the rows since the last one will be sent again
        """
        for file in self._files:
            file.sync()
        if self._fingerprints is not None and self._clock() - self._synced >= REMOTE_EVERY:
            self._fingerprints.sync()
            self._synced = self._clock()
        if not self.counts.is_whole:
            log.warning("Interrupted in the middle of an entry: the checkpoint before this one stays.")
            return
        position = self.position()
        checkpoint = self.counts.checkpoint(
            epoch=self._epoch, fingerprint=self._fingerprint, calls=position.calls, seconds=self.seconds
        )
        self._checkpoints.save(replace(checkpoint, notes=self._notes(position)))
        self._saved_calls = position.calls

    def start_again(self) -> None:
        """Make the next try start with the first row, like a cleared task. What the kind of records keeps stays."""
        notes = self._notes(self.position())
        last = Checkpoint(epoch=self._epoch, fingerprint=self._fingerprint, notes=notes)
        again = cleared(last, self._epoch, self._fingerprint) or replace(last, notes={})
        if KEPT in notes:
            again = replace(again, notes={**again.notes, KEPT: notes[KEPT]})
        self._checkpoints.clear()
        if again.notes:
            self._checkpoints.save(again)

    def save_if_possible(self) -> None:
        """Save a checkpoint after an error, which is raised also if saving fails."""
        try:
            self.save()
        except CannotWrite as unwritten:
            log.warning("%s. The last rows were not saved and will be sent again.", unwritten)

    def save_calls(self) -> None:
        """Save the number of calls since the last checkpoint, such as those of a try that ended while it planned."""
        if self._stats.calls > self._saved_calls:
            self.save_if_possible()

    def position(self) -> Position:
        """How far the load is."""
        calls, done = self._stats.calls, self.counts.rows
        return Position(
            done=done,
            rows=self._rows,
            counts=self.counts.counts,
            calls=calls,
            calls_left=max(self.plan_calls - calls, self._rows - done),
        )

    def _notes(self, position: Position) -> dict[str, Any]:
        """What else the next try must know, and how far this one is."""
        notes = noted(position)
        if self.reading_stopped:
            notes[READING_STOPPED] = True
        if self.is_cleared:
            notes[CLEARED] = True
        if self.began is not None:
            notes[BEGAN] = self.began.isoformat()
        if self.counts.unfinished:
            notes[MADE] = sorted(self.counts.unfinished)
        if self.counts.skipped:
            notes[SKIPPED] = sorted(self.counts.skipped)
        if self.counts.unsure:
            notes[UNSURE] = sorted(self.counts.unsure)
        if kept := dict(self.kept):
            notes[KEPT] = kept
        return notes
