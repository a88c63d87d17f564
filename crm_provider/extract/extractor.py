"""Extracts: a listing of the CRM into a file, atomic and resumable page by page."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any, cast

from crm_provider import errors as e
from crm_provider.client.client import CrmClient
from crm_provider.client.pagination import Listing, Record
from crm_provider.extract.changes import ChangeTracker
from crm_provider.extract.partial_pages import Owner
from crm_provider.extract.reader import ExtractStats, ListingReader, ReadCounts
from crm_provider.extract.writers import (
    CHANGE,
    ColumnTypes,
    Format,
    IfChanged,
    check_column_types,
    checked_fields,
    field_value,
    format_of,
    gzipped,
    inferred_types,
    record_writer,
)
from crm_provider.files.parquet import arrow_modules
from crm_provider.files.paths import AnyPath, CannotWrite, as_path, atomic_writer, is_local
from crm_provider.values.counted import counted
from crm_provider.values.json_types import TEXT, ColumnType

if TYPE_CHECKING:
    from typing_extensions import NotRequired

log = logging.getLogger(__name__)


class ExtractUnsaved(RuntimeError):
    """The target or the pages beside it cannot be written. An existing target is unchanged."""


class Extracted(ReadCounts):
    """The result of an extract, without values of records."""

    path: str
    seconds: float
    changes: NotRequired[dict[str, int]]
    """With a tracker: the records in the file by kind of change, and ``unconfirmed`` ones that are not in it."""


class Extractor:
    """Extracts one listing into one file.

    >>> Extractor(client, "contacts", "contacts.csv.gz").run()["records"]
    1250

    The file appears, complete, when all pages were read. It has the permissions that the umask gives to user and group,
    or those of the file that it replaces. After a kill, a run with the same owner continues where it stopped.

    :param target: path of the file; its suffix decides the format (:mod:`~crm_provider.extract.writers`)
    :param fields: only these fields, by dotted names (``attributes.name``); they are the columns, in this order
    :param if_changed: if the listing changed while it was read: ``warn``, ``fail``, or ``restart`` and then fail
    :param formula_guard: CSV: an apostrophe before text that a spreadsheet could take for a formula
    :param column_types: Parquet: ``text``, or ``inferred`` from the records
    :param owner: the task instance that may continue with the pages read so far
    :param tracker: writes only what has changed since its last run
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
        column_types: ColumnTypes = "text",
        owner: Owner | None = None,
        tracker: ChangeTracker | None = None,
        clock: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self._listing, self._clock, self._guard, self._tracker = listing, clock, formula_guard, tracker
        self._is_typed = column_types == "inferred"
        try:
            self._target = as_path(target)
            self._reader = ListingReader(
                client,
                listing,
                self._target,
                owner=owner,
                if_changed=if_changed,
                clock=clock,
                wall_clock=wall_clock,
            )
            self._format, self._zipped = format_of(self._target.name, format)
            self._fields = checked_fields(fields)
            check_column_types(column_types, self._format)
            if self._format == "parquet":
                arrow_modules()
        except ValueError as wrong:
            raise e.CrmInvalidValueError(str(wrong)) from None

    def run(self) -> Extracted:
        """Read the missing pages, then write the file.

        :raises CrmError: the error of a page; the pages read so far are kept
        :raises ListingChanged: if the listing changed and ``if_changed`` is not ``warn``; nothing was written
        :raises ExtractUnsaved: for example if the disk is full; the pages read so far are kept
        """
        try:
            return self._run()
        except CannotWrite as unwritten:
            pages = self._reader.kept_pages
            kept = f"{counted(pages, 'page')} of {self._listing} {'is' if pages == 1 else 'are'} kept"
            raise ExtractUnsaved(
                f"{unwritten}. {kept} beside {self._target}, which is unchanged. "
                "Free disk space or fix the path; a retry continues with the next page"
            ) from unwritten

    def _run(self) -> Extracted:
        started = self._clock()
        with self._tracker or nullcontext():
            stats = self._reader.read()
            self._write(stats)
            if self._tracker is not None:
                self._tracker.commit()
        self._reader.discard()
        stats.warn_of_unknown(name for name in self._fields or () if self._tracker is None or name != CHANGE)
        log.info("Extract of %s: %s read for %s.", self._listing, counted(stats.records, "record"), self._target)
        seconds = round(self._clock() - started, 3)
        result = cast("Extracted", {**stats.counts(), "path": str(self._target), "seconds": seconds})
        if self._tracker is not None:
            result["changes"] = self._tracker.summary()
        return result

    def discard(self) -> None:
        """Remove the pages read so far: no try will continue."""
        self._reader.discard()

    def _write(self, stats: ExtractStats) -> None:
        permissions = _permissions(self._target)
        with atomic_writer(self._target, "wb") as file:
            if self._zipped:
                with gzipped(file) as packed:
                    self._fill(packed, stats)
            else:
                self._fill(file, stats)
        if is_local(self._target):
            self._target.chmod(permissions)

    def _fill(self, file: Any, stats: ExtractStats) -> None:
        columns = list(self._fields or stats.columns.names() or ["id"])
        if self._tracker is not None and CHANGE not in columns:
            columns.append(CHANGE)
        is_projected, types = self._fields is not None, self._types(stats) if self._is_typed else None
        with record_writer(
            file, self._format, columns=columns, projected=is_projected, formula_guard=self._guard, types=types
        ) as add:
            for record in self._records(stats):
                add(record)

    def _types(self, stats: ExtractStats) -> dict[str, ColumnType]:
        found = inferred_types(self._reader.records(stats), self._fields)
        if self._tracker is not None:
            found.setdefault(CHANGE, TEXT)
        log.info("Types of the columns: %s", ", ".join(f"{name}: {kind}" for name, kind in found.items()))
        return found

    def _records(self, stats: ExtractStats) -> Iterator[Record]:
        """The records for the file."""
        records = self._reader.records(stats)
        return records if self._tracker is None else self._tracker.changes(records, self._view, quiet=not stats.changed)

    def _view(self, record: Record) -> Record:
        return record if self._fields is None else {name: field_value(record, name) for name in self._fields}


def _permissions(target: AnyPath) -> int:
    """Those of an existing file, else those of the umask for user and group; never for others: it has personal data."""
    if is_local(target) and target.exists():
        return target.stat().st_mode & 0o777
    umask = os.umask(0o077)  # setting it is the only way to read it
    os.umask(umask)
    return 0o660 & ~umask
