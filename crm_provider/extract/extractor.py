"""The extract of a listing.

What is counted while a listing is read, and what is said of it meanwhile.

The other way: a listing of the CRM into a file, whole or not at all, resumable page by page.

The API lists ten records a page, without a filter, an order or a snapshot: what changes while the pages are read moves
records from page to page. One that moves down comes twice and is dropped; one that moves up past the reader is missed,
and only the totals tell. So an extract counts, and says that the listing changed (:class:`ExtractStats`).
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

TELL_EVERY = 30.0
"""Seconds between two lines of progress."""


@dataclass
class ExtractStats:
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


class ExtractProgress:
    """Says from time to time how far an extract is."""

    def __init__(self, listing: str, clock: Callable[[], float]) -> None:
        self._listing, self._clock = listing, clock
        self._started = self._told = clock()

    def tell(self, tally: ExtractStats) -> None:
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


def _left(tally: ExtractStats, rate: float) -> str:
    if tally.total is None or not rate:
        return "nobody knows how much is left"
    seconds = max(math.ceil(tally.total / PAGE_SIZE) - tally.pages, 0) / rate
    return f"about {seconds / 60:.0f} min left" if seconds >= 90 else f"about {seconds:.0f} s left"


RESTARTS = 2
"""Further readings with ``if_changed="restart"`` before the extract fails."""


class ListingChanged(RuntimeError):
    """The listing changed while it was read, and ``if_changed`` does not allow that."""


class ExtractUnsaved(RuntimeError):
    """The target, or a page beside it, cannot be written; what was there under the target's name is still there."""


class Extracted(TypedDict):
    """What an extract did; no value of a record is in it.

    ``calls``: pages that this try read; ``pages``: pages of the listing, those of earlier tries included.
    ``total``: what the last page said that there are; ``total_at_start``: what the first said.
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

    >>> Extract(client, "contacts", "contacts.csv.gz").run()["records"]
    1250

    The file is written when all pages are there, under its name at once and with the permissions that the umask gives
    to user and group (a file that it replaces keeps its own). Run again with the same owner after a kill, it goes on
    where it stopped.

    :param target: path of the file; its name tells the format (:mod:`~crm_provider.extract.writers`)
    :param fields: only these fields, by dotted names (``attributes.name``); they are the columns, in this order
    :param if_changed: the listing changed while it was read: ``warn``, ``fail``, or ``restart`` and then fail
    :param formula_guard: CSV: an apostrophe before text that a spreadsheet could take for a formula
    :param owner: who may go on with the pages read so far
    :raises CrmInvalidValueError: if the target or an option makes no sense, before anything is read
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

        :raises CrmError: what a page was answered with; the pages read so far are kept
        :raises ListingChanged: if the listing changed and ``if_changed`` is not ``warn``; nothing was written
        :raises ExtractUnsaved: if the disk is full, for example; the pages read so far are kept
        """
        try:
            return self._run()
        except CannotWrite as unwritten:
            kept = sum(1 for _ in self._parts.pages())
            raise ExtractUnsaved(
                f"{unwritten}. {kept} pages of {self._listing} are kept beside {self._target.name}, which was not "
                "touched. Make room there, or mend what is said; a retry goes on with the next page"
            ) from unwritten

    def _run(self) -> Extracted:
        started = self._clock()
        if is_local(self._target):
            with writing(self._target):
                private_folder(self._target.parent, mode=0o770)
        for left_behind in self._parts.sweep():
            log.info("Removed %s, which an earlier extract had left behind.", left_behind)
        tally = self._read_until_quiet()
        self._write(tally)
        self._parts.remove()
        log.info("Extract of %s: %d records in %s.", self._listing, tally.records, self._target.name)
        return {
            "records": tally.records,
            "pages": tally.pages,
            "calls": tally.calls,
            "total": tally.total,
            "total_at_start": tally.totals[0] if tally.totals else None,
            "duplicates": tally.duplicates,
            "changed_during_read": tally.changed,
            "path": str(self._target),
            "seconds": round(self._clock() - started, 3),
        }

    def discard(self) -> None:
        """Forget the pages read so far: nobody will go on."""
        self._parts.remove()

    # -- reading --------------------------------------------------------------------------------------------

    def _read_until_quiet(self) -> ExtractStats:
        calls = 0
        for restarts_left in range(RESTARTS if self._if_changed == "restart" else 0, -1, -1):
            tally = self._read()
            calls += tally.calls
            if not tally.changed:
                break
            if self._if_changed == "warn":
                log.warning("The listing of %s changed while it was read: %s. %s", self._listing, tally, MAY_MISS)
                break
            self._parts.remove()
            if restarts_left:
                log.warning("The listing of %s changed while it was read: %s. Reading it anew.", self._listing, tally)
        else:
            raise ListingChanged(
                f"the listing of {self._listing} changed while it was read: {tally}. Nothing was written. Run it when "
                "nothing else writes to the CRM, or take the file as it is with if_changed='warn'"
            )
        tally.calls = calls
        return tally

    def _read(self) -> ExtractStats:
        tally, progress = ExtractStats(), ExtractProgress(self._listing, self._clock)
        with closing(self._pages()) as pages:
            try:
                for listed in pages:
                    if not listed.earlier:
                        self._parts.add(listed)
                    tally.note(listed)
                    progress.tell(tally)
            finally:
                self._parts.close()  # before the wait for pages that are on their way
        return tally

    def _pages(self) -> Generator[ListedPage]:
        # at a slow rate the last of several would wait longer for its slot than a call may take
        at_once = min(AT_ONCE, max(int(self._client.settings.requests_per_second), 1))
        known = self._parts.pages()
        yield from self._client.list_pages(self._listing, earlier=known, use_decimal=True, at_once=at_once)

    def _source(self) -> str:
        """What is read, of which account: told by a fingerprint, for the key is a part of it."""
        settings = self._client.settings
        told = (self._listing, settings.base_url, str(settings.developer_mode), settings.api_key)
        return hashlib.sha256("\n".join(told).encode()).hexdigest()[:16]

    # -- writing --------------------------------------------------------------------------------------------

    def _write(self, tally: ExtractStats) -> None:
        permissions = _permissions(self._target)
        written = 0
        with atomic_writer(self._target, "wb") as file:
            if self._zipped:
                with gzipped(file) as packed:
                    written = self._fill(packed, tally)
            else:
                written = self._fill(file, tally)
            if written != tally.records:
                raise RuntimeError(
                    f"{tally.records} records were read but {written} are in the parts beside {self._target.name}: "
                    "another extract writes the same file. Give each run a file of its own, for example with {{ run_id }} "
                    "in its name"
                )
        if is_local(self._target):
            self._target.chmod(permissions)

    def _fill(self, file: Any, tally: ExtractStats) -> int:
        columns = self._fields or tally.columns.names() or ["id"]
        written = 0
        with record_writer(
            file, self._format, columns=columns, projected=self._fields is not None, formula_guard=self._guard
        ) as add:
            for record in self._kept_records():
                add(record)
                written += 1
        return written

    def _kept_records(self) -> Iterator[Record]:
        """The records of the parts, each once; they end where the parts do."""
        pages = walk_pages(_no_more, LISTINGS[self._listing], self._parts.pages())
        try:
            for listed in pages:
                yield from listed.fresh
        except e.CrmNotFoundError:
            return


MAY_MISS = (
    "The file holds what was read: a record that was deleted meanwhile may be in it, and a deletion may have hidden "
    "other records. if_changed='fail' or 'restart' accepts no such file."
)


def _no_more(number: int) -> NoReturn:
    """The end of the pages that were read."""
    raise e.CrmNotFoundError(f"page {number} was not read")


def _permissions(target: AnyPath) -> int:
    """Of a file that is there: its own. Else what the umask leaves to user and group: others never, it has people."""
    if is_local(target) and target.exists():
        return target.stat().st_mode & 0o777
    umask = os.umask(0o077)  # it can only be read by setting it
    os.umask(umask)
    return 0o660 & ~umask
