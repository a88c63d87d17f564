"""Extracts: a listing of the CRM into a file, complete or not at all, resumable page by page.

The API lists ten records a page, without a filter, an order or a snapshot. A change during the read moves records from
page to page: one that moves down appears twice and is dropped, one that moves up past the reader is missed, and only
the totals show it. So an extract counts, and reports that the listing changed (:class:`ExtractStats`).
"""

from __future__ import annotations

import hashlib
import logging
import math
import os
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any, NoReturn, TypedDict

from crm_provider import errors as e
from crm_provider.client.client import CrmClient
from crm_provider.client.pagination import AT_ONCE, LISTINGS, PAGE_SIZE, ListedPage, Listing, Record, walk_pages
from crm_provider.extract.partial_pages import Owner, PartialPages
from crm_provider.extract.writers import (
    Columns,
    Format,
    IfChanged,
    check_if_changed,
    checked_fields,
    format_of,
    gzipped,
    record_writer,
)
from crm_provider.files.parquet import arrow_modules
from crm_provider.files.paths import AnyPath, CannotWrite, as_path, atomic_writer, is_local, private_folder, writing

log = logging.getLogger(__name__)

LOG_INTERVAL = 30.0
"""Seconds between two progress lines in the log."""


@dataclass
class ExtractStats:
    """Counts of one reading of a listing."""

    records: int = 0
    pages: int = 0
    calls: int = 0
    duplicates: int = 0
    totals: list[int] = field(default_factory=list)
    """The totals that the pages reported: each when it differs from the one before."""
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
        """Whether the listing changed during the read. As many added as deleted between two pages goes unnoticed."""
        return len(self.totals) > 1 or self.duplicates > 0 or self.total not in (None, self.records)

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
            "Extract of %s: %d of %s records, %d pages, %.1f pages/s, %s",
            self._listing, stats.records, "?" if stats.total is None else stats.total, stats.pages, rate,
            _left(stats, rate),
        )  # fmt: skip


def _left(stats: ExtractStats, rate: float) -> str:
    if stats.total is None or not rate:
        return "time left unknown"
    seconds = max(math.ceil(stats.total / PAGE_SIZE) - stats.pages, 0) / rate
    return f"about {seconds / 60:.0f} min left" if seconds >= 90 else f"about {seconds:.0f} s left"


RESTARTS = 2
"""Further readings with ``if_changed="restart"`` before the extract fails."""


class ListingChanged(RuntimeError):
    """The listing changed while it was read, and ``if_changed`` does not allow that."""


class ExtractUnsaved(RuntimeError):
    """The target or the pages beside it cannot be written. An existing target is unchanged."""


class Extracted(TypedDict):
    """The result of an extract, without values of records.

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
    path: str
    seconds: float


class Extractor:
    """One listing into one file.

    >>> Extractor(client, "contacts", "contacts.csv.gz").run()["records"]
    1250

    The file appears when all pages were read, complete and with the permissions that the umask gives to user and group
    (a file that it replaces keeps its permissions). After a kill, a run with the same owner continues where it stopped.

    :param target: path of the file; its suffix decides the format (:mod:`~crm_provider.extract.writers`)
    :param fields: only these fields, by dotted names (``attributes.name``); they are the columns, in this order
    :param if_changed: if the listing changed while it was read: ``warn``, ``fail``, or ``restart`` and then fail
    :param formula_guard: CSV: an apostrophe before text that a spreadsheet could take for a formula
    :param owner: the task instance that may continue with the pages read so far
    :raises CrmInvalidValueError: if the target or an option is not valid; before any call
    """

    def __init__(
        self,
        client: CrmClient,
        listing: Listing,
        target: str | os.PathLike[str] | AnyPath,
        *,
        fields: Sequence[str] | None = None,
        format: Format | None = None,  # noqa: A002 - as in every library for tables
        if_changed: IfChanged = "warn",
        formula_guard: bool = False,
        owner: Owner | None = None,
        clock: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self._client, self._listing, self._clock = client, listing, clock
        self._if_changed, self._guard = if_changed, formula_guard
        try:
            check_if_changed(if_changed)
            self._target = as_path(target)
            self._format, self._zipped = format_of(self._target.name, format)
            self._fields = checked_fields(fields)
            if self._format == "parquet":
                arrow_modules()
        except ValueError as wrong:
            raise e.CrmInvalidValueError(str(wrong)) from None
        self._parts = PartialPages(self._target, owner or Owner(), source=self._source(), clock=wall_clock)

    def run(self) -> Extracted:
        """Read what is missing, then write the file.

        :raises CrmError: the error of a page; the pages read so far are kept
        :raises ListingChanged: if the listing changed and ``if_changed`` is not ``warn``; nothing was written
        :raises ExtractUnsaved: for example if the disk is full; the pages read so far are kept
        """
        try:
            return self._run()
        except CannotWrite as unwritten:
            kept = sum(1 for _ in self._parts.pages())
            raise ExtractUnsaved(
                f"{unwritten}. {kept} pages of {self._listing} are kept beside {self._target.name}, which is "
                "unchanged. Free disk space or fix the path; a retry continues with the next page"
            ) from unwritten

    def _run(self) -> Extracted:
        started = self._clock()
        if is_local(self._target):
            with writing(self._target):
                private_folder(self._target.parent, mode=0o770)
        for left_behind in self._parts.sweep():
            log.info("Removed %s, left behind by an earlier extract.", left_behind)
        stats = self._read_until_quiet()
        self._write(stats)
        self._parts.remove()
        log.info("Extract of %s: %d records in %s.", self._listing, stats.records, self._target.name)
        return {
            "records": stats.records,
            "pages": stats.pages,
            "calls": stats.calls,
            "total": stats.total,
            "total_at_start": stats.totals[0] if stats.totals else None,
            "duplicates": stats.duplicates,
            "changed_during_read": stats.changed,
            "path": str(self._target),
            "seconds": round(self._clock() - started, 3),
        }

    def discard(self) -> None:
        """Remove the pages read so far: no try will continue."""
        self._parts.remove()

    # -- reading --------------------------------------------------------------------------------------------

    def _read_until_quiet(self) -> ExtractStats:
        calls = 0
        for restarts_left in range(RESTARTS if self._if_changed == "restart" else 0, -1, -1):
            stats = self._read()
            calls += stats.calls
            if not stats.changed:
                break
            if self._if_changed == "warn":
                log.warning("The listing of %s changed while it was read: %s. %s", self._listing, stats, MAY_MISS)
                break
            self._parts.remove()
            if restarts_left:
                log.warning("The listing of %s changed while it was read: %s. Reading it again.", self._listing, stats)
        else:
            raise ListingChanged(
                f"the listing of {self._listing} changed while it was read: {stats}. Nothing was written. Run it when "
                "nothing else writes to the CRM, or take the file as it is with if_changed='warn'"
            )
        stats.calls = calls
        return stats

    def _read(self) -> ExtractStats:
        stats, progress = ExtractStats(), ExtractProgress(self._listing, self._clock)
        with closing(self._pages()) as pages:
            try:
                for listed in pages:
                    if not listed.earlier:
                        self._parts.add(listed)
                    stats.note(listed)
                    progress.log(stats)
            finally:
                self._parts.close()  # before waiting for pages that are on their way
        return stats

    def _pages(self) -> Generator[ListedPage]:
        # at a slow rate, the last of several calls would wait longer for its slot than a call may take
        at_once = min(AT_ONCE, max(int(self._client.settings.requests_per_second), 1))
        known = self._parts.pages()
        yield from self._client.list_pages(self._listing, earlier=known, use_decimal=True, at_once=at_once)

    def _source(self) -> str:
        """Fingerprint of what is read, from which account. The key is part of it, so it is hashed."""
        settings = self._client.settings
        parts = (self._listing, settings.base_url, str(settings.developer_mode), settings.api_key)
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]

    # -- writing --------------------------------------------------------------------------------------------

    def _write(self, stats: ExtractStats) -> None:
        permissions = _permissions(self._target)
        written = 0
        with atomic_writer(self._target, "wb") as file:
            if self._zipped:
                with gzipped(file) as packed:
                    written = self._fill(packed, stats)
            else:
                written = self._fill(file, stats)
            if written != stats.records:
                raise RuntimeError(
                    f"{stats.records} records were read but {written} are in the pages kept beside "
                    f"{self._target.name}: another extract writes the same file. Give each run its own file, for "
                    "example with {{ run_id }} in its name"
                )
        if is_local(self._target):
            self._target.chmod(permissions)

    def _fill(self, file: Any, stats: ExtractStats) -> int:
        columns = self._fields or stats.columns.names() or ["id"]
        written = 0
        with record_writer(
            file, self._format, columns=columns, projected=self._fields is not None, formula_guard=self._guard
        ) as add:
            for record in self._kept_records():
                add(record)
                written += 1
        return written

    def _kept_records(self) -> Iterator[Record]:
        """The records of the saved pages, each once."""
        pages = walk_pages(_no_more, LISTINGS[self._listing], self._parts.pages())
        try:
            for listed in pages:
                yield from listed.fresh
        except e.CrmNotFoundError:
            return


MAY_MISS = (
    "The file may hold records that were deleted meanwhile, and may miss others that a deletion moved to an earlier "
    "page. "
    "if_changed='fail' or 'restart' refuses such a file."
)


def _no_more(number: int) -> NoReturn:
    """End of the saved pages."""
    raise e.CrmNotFoundError(f"page {number} was not read")


def _permissions(target: AnyPath) -> int:
    """Those of an existing file, else what the umask leaves to user and group; never others, for it holds people."""
    if is_local(target) and target.exists():
        return target.stat().st_mode & 0o777
    umask = os.umask(0o077)  # it can only be read by setting it
    os.umask(umask)
    return 0o660 & ~umask
