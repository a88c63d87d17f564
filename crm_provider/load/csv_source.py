"""CSV: the delimiter is found in the header line; a line that does not fit the header is a row by itself."""

from __future__ import annotations

import csv
import logging
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from crm_provider.load.paths import AnyPath
from crm_provider.load.rows import SourceError
from crm_provider.load.source_files import EXTRA, LINE, Record, Table, place
from crm_provider.load.source_options import FileOptions, check_names
from crm_provider.load.text_lines import Lines, open_lines

log = logging.getLogger(__name__)

DELIMITERS = {",": "comma", ";": "semicolon", "\t": "tab", "|": "bar"}
"""Those that are recognised; the first ones win a draw."""

LONGEST_RECORD = 10_000
"""Lines of one record: a quote that is not closed must not collect the whole file."""


class CsvFiles:
    """Opens the CSV files of a source; a delimiter that had to be found is logged once."""

    def __init__(self, options: FileOptions) -> None:
        self._options = options
        self._told: set[str] = {","}

    @contextmanager
    def open(self, path: AnyPath) -> Iterator[Table]:
        """Read the header of a file; its rows come later.

        :raises SourceError: if there is none, or its names do not tell the columns apart
        """
        with open_lines(path, encoding=self._options.encoding, newline="") as lines:
            text = iter(lines)
            first = next((line for line in text if line.strip(" \r\n")), "")
            delimiter = self._options.delimiter or self._found(path, first)
            # The first line goes back in front: a header may go over several lines, a header given has a row there.
            records = _Records(lines, _chained(first, text), **self._dialect(delimiter))
            columns = self._options.header or records.header()
            yield Table(columns, records.of(columns), records.place)

    def _dialect(self, delimiter: str) -> dict[str, Any]:
        quoted = bool(self._options.quotechar)
        return {
            "delimiter": delimiter,
            "quotechar": self._options.quotechar or None,
            "quoting": csv.QUOTE_MINIMAL if quoted else csv.QUOTE_NONE,
            "strict": True,  # else a quote in the wrong place changes values without a word
        }

    def _found(self, path: AnyPath, line: str) -> str:
        """The delimiter that makes most fields of a line; with a header given, as many as it has."""

        def fit(delimiter: str) -> int:
            count = _count(line, self._dialect(delimiter))
            return -abs(count - len(self._options.header)) if self._options.header else count

        found = max((mark for mark in DELIMITERS if mark != self._options.quotechar), key=fit)
        if found not in self._told:
            self._told.add(found)
            log.info("%s: the fields are separated by a %s", path, DELIMITERS[found])
        return found


# -- helpers ------------------------------------------------------------------------------------------------


class _Records:
    """Records of one file, with the lines that each is on."""

    def __init__(self, lines: Lines, text: Iterable[str], **dialect: Any) -> None:
        self._lines = lines
        self._recent: list[str] = []
        self._reader = csv.reader(self._watched(text), **dialect)

    def header(self) -> tuple[str, ...]:
        for fields in self._all():
            if isinstance(fields, str):
                raise SourceError(f"{fields}; correct the header line")
            columns = tuple(name.strip() for name in fields)
            check_names(columns, self.place())
            return columns
        raise SourceError(f"{self._lines.path} is empty, without a header line; write one, even if there are no rows")

    def of(self, columns: tuple[str, ...]) -> Iterator[Record]:
        expected = len(columns)
        for fields in self._all():
            if isinstance(fields, str):
                yield {LINE: "".join(self._recent).rstrip("\r\n")}, fields
            elif len(fields) == expected:
                yield dict(zip(columns, fields, strict=True)), None
            else:
                yield self._ragged(columns, fields)

    def _all(self) -> Iterator[list[str] | str]:
        """The fields of each record; for one that cannot be taken apart, the reason."""
        recent = self._recent
        while True:
            recent.clear()
            try:
                fields = next(self._reader, None)
            except csv.Error as error:
                yield self._reason(str(error))
                continue
            if fields is None:
                return
            if fields and not (len(fields) == 1 and fields[0].isspace()):
                yield fields

    def _ragged(self, columns: Sequence[str], fields: list[str]) -> Record:
        values: dict[str, Any] = dict(zip(columns, fields, strict=False))
        if len(fields) > len(columns):
            values[EXTRA] = fields[len(columns) :]
        has = "has" if len(self._recent) == 1 else "have"
        noun = "field" if len(fields) == 1 else "fields"
        return values, f"{self.place()} {has} {len(fields)} {noun}, the header has {len(columns)}"

    def _reason(self, error: str) -> str:
        """What a csv error means.

        :raises SourceError: if it is not known where the record should have ended
        """
        if "field limit" in error:
            raise SourceError(
                f"{self.place()}: a field is longer than {csv.field_size_limit()} characters; close the quote "
                "that was left open, or shorten the field"
            )
        if "end of data" in error:
            raise SourceError(
                f"{self.place()}: a quote is not closed before the end of the file; close it, or fetch the "
                "file again if it was cut off"
            )
        return f"{self.place()}: a quote within a quoted field is not doubled"

    def place(self) -> str:
        last = self._lines.number
        return place(self._lines.path, last - len(self._recent) + 1, last)

    def _watched(self, text: Iterable[str]) -> Iterator[str]:
        recent = self._recent
        for line in text:
            recent.append(line)
            if len(recent) > LONGEST_RECORD:
                raise SourceError(f"{self.place()}: one record has over {LONGEST_RECORD} lines; correct its quotes")
            yield line


def _chained(first: str, rest: Iterator[str]) -> Iterator[str]:
    if first:
        yield first
    yield from rest


def _count(line: str, dialect: dict[str, Any]) -> int:
    """Fields of a line; 0 if it makes no sense with this delimiter."""
    try:
        return len(next(csv.reader([line], **dialect), []))
    except csv.Error:
        return 0
