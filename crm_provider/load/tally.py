"""What is counted while a listing is read, and what is said of it meanwhile."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from dataclasses import dataclass, field

from crm_provider.client.pagination import PAGE_SIZE, ListedPage
from crm_provider.load.flatten import Columns

log = logging.getLogger(__name__)

TELL_EVERY = 30.0
"""Seconds between two lines of progress."""


@dataclass
class Tally:
    """What was counted while a listing was read."""

    records: int = 0
    pages: int = 0
    calls: int = 0
    duplicates: int = 0
    totals: list[int] = field(default_factory=list)
    """What the pages said that there are: each figure when it differs from the one before."""
    columns: Columns = field(default_factory=Columns)

    def note(self, listed: ListedPage) -> None:
        """Count a page."""
        items, total = listed.page.items, listed.page.total
        self.records += len(listed.fresh)
        self.duplicates += len(items) - len(listed.fresh)
        self.pages += 1
        self.calls += not listed.earlier
        if total is not None and total >= len(items) and self.totals[-1:] != [total]:
            self.totals.append(total)
        for record in listed.fresh:
            self.columns.note(record)

    @property
    def total(self) -> int | None:
        return self.totals[-1] if self.totals else None

    @property
    def changed(self) -> bool:
        """Whether the listing shows that it changed. As many added as deleted between two pages does not show."""
        return len(self.totals) > 1 or self.duplicates > 0 or self.total not in (None, self.records)

    def __str__(self) -> str:
        totals = " -> ".join(map(str, self.totals)) or "not told"
        return f"records that the CRM says there are: {totals}; read: {self.records}; came twice: {self.duplicates}"


class Progress:
    """Says from time to time how far an extract is."""

    def __init__(self, listing: str, clock: Callable[[], float]) -> None:
        self._listing, self._clock = listing, clock
        self._started = self._told = clock()

    def tell(self, tally: Tally) -> None:
        now = self._clock()
        if now - self._told < TELL_EVERY:
            return
        self._told = now
        rate = tally.calls / (now - self._started)
        log.info(
            "Extract of %s: %d of %s records, %d pages, %.1f pages/s, %s",
            self._listing, tally.records, "?" if tally.total is None else tally.total, tally.pages, rate,
            _left(tally, rate),
        )  # fmt: skip


def _left(tally: Tally, rate: float) -> str:
    if tally.total is None or not rate:
        return "nobody knows how much is left"
    seconds = max(math.ceil(tally.total / PAGE_SIZE) - tally.pages, 0) / rate
    return f"about {seconds / 60:.0f} min left" if seconds >= 90 else f"about {seconds:.0f} s left"
