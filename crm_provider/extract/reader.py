"""Reads a listing page by page: each record once, resumable, with a report of changes during the read.

The API lists ten records a page, without a filter, an order or a snapshot. A change during the read moves records from
page to page: one that moves down appears twice and is dropped, one that moves up past the reader is missed, and only
the totals show it. So a reader counts, and reports that the listing changed (:class:`ExtractStats`).
"""

from __future__ import annotations

import hashlib
import logging
import math
import time
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from typing import NoReturn, TypedDict

from crm_provider import errors as e
from crm_provider.client.client import CrmClient
from crm_provider.client.pagination import (
    AT_ONCE,
    LISTINGS,
    PAGE_SIZE,
    ListedPage,
    Listing,
    ListingProgress,
    Record,
    walk_pages,
)
from crm_provider.extract.partial_pages import Owner, PartialPages
from crm_provider.extract.writers import Columns, IfChanged, check_if_changed
from crm_provider.files.paths import AnyPath, is_local, private_folder, writing
from crm_provider.values.counted import counted
from crm_provider.values.suggest import did_you_mean

log = logging.getLogger(__name__)

LOG_INTERVAL = 30.0
"""Seconds between two progress lines in the log."""


class ReadCounts(TypedDict):
    """What was read, without values of records.

    ``calls``: pages that this try read; ``pages``: pages of the listing, those of earlier tries included.
    ``total``: the total that the last page reported; ``total_at_start``: that of the first.
    """

    records: int
    pages: int
    calls: int
    total: int | None
    total_at_start: int | None
    duplicates: int
    changed_during_read: bool


@dataclass
class ExtractStats:
    """Counts of one reading of a listing."""

    records: int = 0
    pages: int = 0
    calls: int = 0
    duplicates: int = 0
    totals: list[int] = field(default_factory=list)
    """The totals that the pages reported, without repetitions."""
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

    def warn_of_unknown(self, fields: Iterable[str]) -> None:
        """Log which of the requested fields no record has: a misspelled name would go unnoticed."""
        for name in fields if self.records else ():
            if not self.columns.has(name):
                hint = did_you_mean(name, self.columns.names())
                log.warning("No record has the field %r, so it is empty. %s", name, hint or "Check its name.")

    @property
    def total(self) -> int | None:
        return self.totals[-1] if self.totals else None

    @property
    def has_moved(self) -> bool:
        """Whether pages show that records were added or deleted between them."""
        return len(self.totals) > 1 or self.duplicates > 0

    @property
    def changed(self) -> bool:
        """Whether the listing changed during the read. Equal additions and deletions between two pages go unnoticed."""
        return self.has_moved or self.total not in (None, self.records)

    def counts(self) -> ReadCounts:
        """The counts for an XCom."""
        return {
            "records": self.records,
            "pages": self.pages,
            "calls": self.calls,
            "total": self.total,
            "total_at_start": self.totals[0] if self.totals else None,
            "duplicates": self.duplicates,
            "changed_during_read": self.changed,
        }

    def __str__(self) -> str:
        totals = " -> ".join(map(str, self.totals)) or "unknown"
        return f"records that the CRM reports: {totals}; read: {self.records}; duplicates: {self.duplicates}"


class ExtractProgress:
    """Logs the progress of an extract from time to time."""

    def __init__(self, listing: str, clock: Callable[[], float]) -> None:
        self._listing, self._clock = listing, clock
        self._started = self._logged = clock()

    def log(self, stats: ExtractStats) -> None:
        now = self._clock()
        if now - self._logged < LOG_INTERVAL:
            return
        self._logged = now
        rate = stats.calls / (now - self._started)
        log.info(
            "Extract of %s: %d of %s records, %s, %.1f pages/s, %s",
            self._listing, stats.records, "?" if stats.total is None else stats.total, counted(stats.pages, "page"),
            rate, _left(stats, rate),
        )  # fmt: skip


def _left(stats: ExtractStats, rate: float) -> str:
    if stats.total is None or not rate:
        return "time left unknown"
    seconds = max(math.ceil(stats.total / PAGE_SIZE) - stats.pages, 0) / rate
    return f"about {seconds / 60:.0f} min left" if seconds >= 90 else f"about {seconds:.0f} s left"


RESTARTS = 2
"""Maximum further readings of a listing that changes while it is read; then the extract fails."""


class ListingChanged(RuntimeError):
    """The listing changed while it was read, and ``if_changed`` does not allow that."""


class ListingReader:
    """Reads one listing, and keeps its pages beside a file until they are no longer needed.

    :param beside: the file; it need not exist
    :param owner: the task instance that may continue with the pages read so far
    :param if_changed: if the listing changed while it was read: ``warn``, ``fail``, or ``restart`` and then fail
    :raises ValueError: if ``if_changed`` has another value
    """

    def __init__(
        self,
        client: CrmClient,
        listing: Listing,
        beside: AnyPath,
        *,
        owner: Owner | None = None,
        if_changed: IfChanged = "warn",
        clock: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        check_if_changed(if_changed)
        self._client, self._listing, self._beside = client, listing, beside
        self._if_changed, self._clock = if_changed, clock
        self._parts = PartialPages(beside, owner or Owner(), source=source_mark(client, listing), clock=wall_clock)

    def read(self) -> ExtractStats:
        """Read the missing pages, and all pages again if ``if_changed`` asks for it or they contradict each other.

        :raises CrmError: the error of a page; the pages read so far are kept
        :raises CrmProtocolError: if pages contradict each other; none is kept
        :raises ListingChanged: if the listing changed and ``if_changed`` does not allow that
        :raises CannotWrite: if a page cannot be kept
        """
        if is_local(self._beside):
            with writing(self._beside):
                private_folder(self._beside.parent, mode=0o770)
        for left_behind in self._parts.sweep():
            log.info("Removed %s, left behind by an earlier extract.", left_behind)
        return self._read_until_usable()

    def records(self, stats: ExtractStats) -> Iterator[Record]:
        """The records of the pages that were read, each once.

        :param stats: of the reading
        :raises RuntimeError: after the last one, if some of them have disappeared
        """
        found = 0
        for record in self._kept_records():
            found += 1
            yield record
        if found != stats.records:
            raise RuntimeError(
                f"records read: {stats.records}, but {found} are in the pages kept beside "
                f"{self._beside}: another extract writes the same file. Give each run its own file, for "
                "example with {{ run_id }} in its name"
            )

    def discard(self) -> None:
        """Remove the pages: they were used, or no try will continue."""
        self._parts.remove()

    @property
    def kept_pages(self) -> int:
        """Number of pages that a retry will not read again."""
        return sum(1 for _ in self._parts.pages())

    # -- helpers ---------------------------------------------------------------------------------------------

    def _kept_records(self) -> Iterator[Record]:
        pages = walk_pages(_no_more, LISTINGS[self._listing], self._parts.pages())
        try:
            for listed in pages:
                yield from listed.fresh
        except _NoMorePages:
            return

    def _read_until_usable(self) -> ExtractStats:
        """Read the missing pages; if the listing changed and that matters, read all pages again."""
        calls, restarts_left = 0, RESTARTS
        while True:
            stats = ExtractStats()
            problem = self._read_once(stats)
            calls += stats.calls
            if problem is None:
                stats.calls = calls
                return stats
            self._parts.remove()  # no retry could succeed with them
            if isinstance(problem, ListingChanged):
                reads_again, why = self._if_changed == "restart", str(stats)
            else:
                reads_again, why = stats.has_moved, f"{stats}; {problem.message}"
            if not (reads_again and restarts_left):
                raise problem
            log.warning("The listing of %s changed while it was read: %s. Reading it again.", self._listing, why)
            restarts_left -= 1

    def _read_once(self, stats: ExtractStats) -> e.CrmProtocolError | ListingChanged | None:
        """Read the missing pages.

        :return: why the result cannot be used: its pages contradict each other, or ``if_changed`` refuses it
        """
        progress = ListingProgress(LISTINGS[self._listing])
        try:
            self._read_pages(stats, progress)
        except e.CrmProtocolError as contradiction:
            if progress.is_broken:
                return contradiction
            raise
        if not stats.changed:
            return None
        if self._if_changed != "warn":
            return ListingChanged(
                f"the listing of {self._listing} changed while it was read: {stats}. Nothing was written. Run it when "
                "nothing else writes to the CRM, or accept the result with if_changed='warn'"
            )
        log.warning("The listing of %s changed while it was read: %s. %s", self._listing, stats, MAY_MISS)
        return None

    def _read_pages(self, stats: ExtractStats, progress: ListingProgress) -> None:
        shown = ExtractProgress(self._listing, self._clock)
        with closing(self._pages(progress)) as pages:
            try:
                for listed in pages:
                    if not listed.earlier:
                        self._parts.add(listed)
                    stats.note(listed)
                    shown.log(stats)
            finally:
                self._parts.close()  # before waiting for calls in flight

    def _pages(self, progress: ListingProgress) -> Generator[ListedPage]:
        # at a slow rate, the last of several calls would exceed the time limit of a call while it waits for its slot
        at_once = min(AT_ONCE, max(int(self._client.settings.requests_per_second), 1))
        known = self._parts.pages()
        yield from self._client.list_pages(
            self._listing, earlier=known, progress=progress, use_decimal=True, at_once=at_once
        )


MAY_MISS = (
    "The result may hold records that were deleted meanwhile, and may miss others that a deletion moved to an earlier "
    "page. if_changed='fail' or 'restart' refuses such a result."
)


def source_mark(client: CrmClient, listing: Listing) -> str:
    """Fingerprint of the listing and the account. The key is part of it, so it is hashed."""
    settings = client.settings
    parts = (listing, settings.base_url, str(settings.developer_mode), settings.api_key)
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


class _NoMorePages(Exception):
    """The end of the kept pages."""


def _no_more(number: int) -> NoReturn:
    raise _NoMorePages(number)
