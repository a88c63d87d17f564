"""The books of a load: which row ended how. Every row is entered once, and a checkpoint is a copy of the books."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

from crm_provider.load.checkpoint import REFUSED, Checkpoint, DoneRows
from crm_provider.load.rows import Outcome


class Ledger:
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


class Saver:
    """Saves checkpoints often enough that little is repeated, and seldom enough that it costs little.

    :param save: keeps a checkpoint for the next try
    :param every: seconds between two
    """

    def __init__(self, save: Callable[[], None], *, every: Callable[[], float], clock: Callable[[], float]) -> None:
        self._save, self._every, self._clock = save, every, clock
        self._last = clock()

    def tick(self, ledger: Ledger) -> None:
        """Save, if there is something new and it is time."""
        every = self._every()
        many = ledger.unsaved_sent >= SENT_ROWS and every <= EVERY
        if many or (ledger.unsaved and self._clock() - self._last >= every):
            self.now(ledger)

    def now(self, ledger: Ledger) -> None:
        """Save at once."""
        self._save()
        ledger.unsaved = ledger.unsaved_sent = 0
        self._last = self._clock()
