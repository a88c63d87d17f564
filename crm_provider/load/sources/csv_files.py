"""CSV files: the delimiter is detected in the first lines, and a record that does not fit the header is a bad row."""

from __future__ import annotations

import csv
import logging
import re
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import chain
from typing import Any

from crm_provider.files.paths import AnyPath
from crm_provider.load.rows import SourceError
from crm_provider.load.sources.files import EXTRA, LARGEST_ROW, LINE, Record, SourceTable, place, rejects_refused
from crm_provider.load.sources.options import FileOptions, HeaderLine, unique_names
from crm_provider.load.sources.text_files import ORDER_MARK, TextLines, open_lines
from crm_provider.values.counted import counted

log = logging.getLogger(__name__)

DELIMITERS = {",": "comma", ";": "semicolon", "\t": "tab", "|": "bar"}
"""Delimiters that are detected."""

LONGEST_RECORD = 150_000
"""Lines of one record, so that an open quote does not read the whole file."""

MOST_COLUMNS = 10_000
"""Spreadsheets have at most 16,384. A header line of delimiters must not fill the memory."""

SAMPLE_LINES, SAMPLE_SIZE = 50, 1 << 16
"""Lines and characters in which the delimiter is detected."""

SKIP = "source_options={'skip_lines': <how many>}"

_CLOSE = "close the quote that was left open"

_EXCEL_MARK = re.compile(r'"?sep=([^"\r\n])\1*"?', re.IGNORECASE)
"""The first line that names the delimiter for Excel; a file that was saved again has delimiters at its end."""

_NUL = "\udcfe"
"""Replaces NUL, which Python 3.10 refuses to parse: no text decodes to it."""


class CsvFiles:
    """Opens the CSV files of a source; a detected delimiter is logged once."""

    def __init__(self, options: FileOptions) -> None:
        self._options = options
        self._logged: set[str] = {","}

    @contextmanager
    def open(self, path: AnyPath) -> Iterator[SourceTable]:
        """Open a file and read its header; its rows are read later.

        :raises SourceError: if it has no header, or that of a rejects file
        """
        with open_lines(path, encoding=self._options.encoding, newline="") as lines:
            text = _LineReader(lines)
            marked = _skip_to_header(text, self._options.skip_lines)
            delimiter = self._options.delimiter or marked or self._found(path, text)
            if csv.field_size_limit() < LARGEST_ROW:  # it applies to the whole process, so it is only raised
                csv.field_size_limit(LARGEST_ROW)
            if self._options.delimiter and not self._options.header:
                self._check_delimiter(text)
            records = _RecordReader(text, **_dialect(delimiter, self._options.quotechar))
            columns = self._options.header or records.header()
            if {"_row", "_original_row", "_retryable"} <= set(columns):
                raise rejects_refused(path)
            yield SourceTable(columns, records.of(columns))

    def _check_delimiter(self, text: _LineReader) -> None:
        """Check a given delimiter that leaves the header line in one piece.

        :raises SourceError: if another one divides all lines into the same number of fields
        """
        sample, quote = text.peek(SAMPLE_LINES, SAMPLE_SIZE), self._options.quotechar
        given = _field_counts(sample[:1], _dialect(self._options.delimiter or ",", quote))
        if given != [1]:
            return
        other = most_consistent_delimiter(sample, quotechar=quote)
        counts = set(_field_counts(sample, _dialect(other, quote)))
        if len(counts) == 1 and max(counts) > 1:
            raise SourceError(
                f"{place(text.path, text.number + 1)}: the fields seem to be separated by {other!r}; remove delimiter, "
                f"or give source_options={{'delimiter': {other!r}}}"
            )

    def _found(self, path: AnyPath, text: _LineReader) -> str:
        sample, header = text.peek(SAMPLE_LINES, SAMPLE_SIZE), len(self._options.header or ())
        found = most_consistent_delimiter(sample, quotechar=self._options.quotechar, header=header)
        if found not in self._logged:
            self._logged.add(found)
            log.info("%s: the fields are separated by a %s", path, DELIMITERS[found])
        return found


def most_consistent_delimiter(sample: list[str], *, quotechar: str = '"', header: int = 0) -> str:
    """The delimiter that gives most records as many fields as the header; of several, the one with most fields.

    In a tie, a comma is more likely to be part of a text (``name, full``) than another delimiter.

    :param sample: the first lines
    :param header: number of columns, if the lines have no header line
    """

    def score(delimiter: str) -> tuple[bool, float, int, bool]:
        counts = _field_counts(sample, _dialect(delimiter, quotechar))
        first = counts[0] if counts else 0
        expected, rest = (header, counts) if header else (first, counts[1:])
        consistent = sum(count == expected for count in rest) / len(rest) if rest else 1.0
        fit = -abs(first - header) if header else first
        return first > 1 or bool(header), consistent, fit, first > 1 and delimiter != ","

    return max((mark for mark in DELIMITERS if mark != quotechar), key=score)


def is_cleared(cells: Iterable[str]) -> bool:
    """Whether no cell of a record has anything: spreadsheets leave such rows where a user has cleared them."""
    return not "".join(cells).strip()


# -- helpers ------------------------------------------------------------------------------------------------


def _dialect(delimiter: str, quotechar: str) -> dict[str, Any]:
    return {
        "delimiter": delimiter,
        "quotechar": quotechar or None,
        "quoting": csv.QUOTE_MINIMAL if quotechar else csv.QUOTE_NONE,
        "skipinitialspace": delimiter != " ",  # otherwise a space before a quote makes the quote part of the value
        "strict": True,  # otherwise a misplaced quote changes values silently
    }


class _LineReader:
    """Lines one by one, with look-ahead.

    :ivar number: of the line that was returned last, from 1
    """

    def __init__(self, lines: TextLines) -> None:
        self.path = lines.path
        self._source = lines
        self._lines = iter(lines)
        self._ahead: deque[str] = deque()
        self._error: SourceError | None = None
        self._beyond = 0
        """Whether the line after those ahead was counted, although it cannot be used: 0 or 1."""

    @property
    def number(self) -> int:
        return self._source.number - len(self._ahead) - self._beyond

    def __iter__(self) -> Iterator[str]:
        """The lines that are left; nothing looks ahead any more."""
        return chain(self._seen(), self._lines)

    def _seen(self) -> Iterator[str]:
        while self._ahead or self._error is not None:
            yield next(self)

    def __next__(self) -> str:
        if self._ahead:
            line = self._ahead.popleft()
        elif self._error is not None:
            raise self._error
        else:
            line = next(self._lines)
        return line

    def peek(self, lines: int = 1, characters: int = 1) -> list[str]:
        """The next lines, at least one; an error in a later line is raised when that line is read."""
        size = sum(map(len, self._ahead))
        while self._error is None and (not self._ahead or (len(self._ahead) < lines and size < characters)):
            before = self._source.number
            try:
                line = next(self._lines, None)
            except SourceError as wrong:
                self._error, self._beyond = wrong, self._source.number - before
                break
            if line is None:
                break
            self._ahead.append(line)
            size += len(line)
        if not self._ahead and self._error is not None:
            raise self._error
        return list(self._ahead)


def _skip_to_header(text: _LineReader, skip: int) -> str | None:
    """Skip the lines before the header line.

    :return: the delimiter that Excel's first line names, if any
    :raises SourceError: if the file has fewer lines than are to be skipped
    """
    found = None
    for _ in range(skip):
        line = next(text, None)
        if line is None:
            raise SourceError(
                f"{text.path} has {counted(text.number, 'line')}, and skip_lines skips {skip}; correct source_options"
            )
        found = found or _excel_mark(line)
    _skip_blank(text)
    mark = _excel_mark("".join(text.peek()[:1]))
    if mark is not None:
        next(text)
        _skip_blank(text)
    return mark or found


def _skip_blank(text: _LineReader) -> None:
    while (ahead := text.peek()) and not ahead[0].strip(" \r\n"):
        next(text)


def _excel_mark(line: str) -> str | None:
    found = _EXCEL_MARK.fullmatch(line.strip("\r\n "))
    return found[1] if found else None


class _RecordReader:
    """Reads the records of one file and knows the lines of each."""

    def __init__(self, text: _LineReader, **dialect: Any) -> None:
        self._text = text
        self._recent: list[str] = []
        self._size = 0
        self._has_nul = self._has_quote = False
        """Of the lines since the last record that had them."""
        self._quote: str | None = dialect["quotechar"]
        self._hidden_quote = _quote_behind_space(dialect["delimiter"], self._quote)
        self._skipped = text.number
        self._reader = csv.reader(self._watched(), **dialect)

    def header(self) -> HeaderLine:
        for fields in self._all():
            if isinstance(fields, str):
                raise SourceError(f"{fields}; correct the header line, or skip the lines before it: {SKIP}")
            if len(fields) > MOST_COLUMNS:
                raise SourceError(f"{self._place()} has {len(fields):,} columns; at most {MOST_COLUMNS:,} are read")
            names = (name.strip("\ufeff\u200b \t\r\n\f\v\u00a0") for name in fields)
            return HeaderLine.of(unique_names(names, self._place()), self._place())
        raise SourceError(f"{self._text.path} is empty, without a header line; write one, even if there are no rows")

    def of(self, columns: tuple[str, ...]) -> Iterator[Record]:
        expected, recent, reader, first = len(columns), self._recent, self._reader, self._skipped + 1
        cleared = 0
        for fields in self._all():
            if isinstance(fields, str):
                yield {LINE: "".join(recent).rstrip("\r\n")}, fields, self._first_line
            elif not "!" <= fields[0] < "\x7f" and is_cleared(fields):  # the first cell alone decides about most rows
                cleared += 1
            elif len(fields) == expected:
                line = first + reader.line_num - len(recent)
                yield dict(zip(columns, fields)), None, line  # noqa: B905 - strict= takes time
            else:
                yield self._ragged(columns, fields)
        if cleared:
            log.info("%s: left out %s without a value in any cell", self._text.path, counted(cleared, "row"))

    def _all(self) -> Iterator[list[str] | str]:
        """The fields of each record; the reason for a record that cannot be parsed."""
        recent = self._recent
        while True:
            recent.clear()
            try:
                for fields in self._reader:
                    if self._has_nul or self._has_quote:
                        yield self._checked(fields)
                    elif len(fields) > 1 or not self._is_blank():
                        yield fields
                    recent.clear()
            except csv.Error as error:
                self._has_nul = self._has_quote = False
                yield self._reason(str(error))
            else:
                return

    def _checked(self, fields: list[str]) -> list[str] | str:
        """The fields of a record with a quote or NUL; the reason if it cannot be used."""
        has_quote = self._has_quote
        if self._has_nul:
            fields = [field.replace(_NUL, "\0") for field in fields]
        self._has_nul = self._has_quote = False
        if has_quote and self._has_hidden_quote(fields):
            return f"{self._place()}: a tab or hard space stands before a quote; remove it"
        return fields

    def _is_blank(self) -> bool:
        return not "".join(self._recent).strip()

    def _has_hidden_quote(self, fields: list[str]) -> bool:
        """Whether the quotes of a field would become part of its value because of the space before them."""
        quote = self._quote
        return (
            quote is not None
            and any(field[:1].isspace() and field.lstrip().startswith(quote) for field in fields)
            and self._hidden_quote.search("".join(self._recent)) is not None
        )

    def _ragged(self, columns: Sequence[str], fields: list[str]) -> Record:
        values: dict[str, Any] = dict(zip(columns, fields, strict=False))
        if len(fields) > len(columns):
            values[EXTRA] = fields[len(columns) :]
        has = "has" if len(self._recent) == 1 else "have"
        problem = f"{self._place()} {has} {counted(len(fields), 'field')}, the header has {len(columns)}"
        return values, problem, self._first_line

    def _reason(self, error: str) -> str:
        """The meaning of a csv error.

        :raises SourceError: if the end of the record is unknown
        """
        if "field limit" in error:
            raise SourceError(
                f"{self._place()}: a field is longer than {csv.field_size_limit()} characters; {_CLOSE}, or shorten it"
            )
        if "end of data" in error:
            raise SourceError(
                f"{self._place()}: a quote is not closed before the end of the file; close it, or fetch the "
                "file again if it was cut off"
            )
        return f"{self._place()}: a quote within a quoted field is not doubled, or more than the delimiter follows it"

    @property
    def _first_line(self) -> int:
        return self._text.number - len(self._recent) + 1

    def _place(self) -> str:
        return place(self._text.path, self._first_line, self._text.number)

    def _watched(self) -> Iterator[str]:
        recent, quote = self._recent, self._quote
        for line in self._text:
            recent.append(line)
            if len(recent) > 1:
                self._check_size()
            elif line[0] == ORDER_MARK:
                recent[0] = line = line.lstrip(ORDER_MARK)  # noqa: PLW2901
            if quote is not None and quote in line:
                self._has_quote = True
            if "\0" in line:
                self._has_nul = True
                line = line.replace("\0", _NUL)  # noqa: PLW2901 - what is kept in recent stays as it was read
            yield line

    def _check_size(self) -> None:
        """Check a record of several lines; a line has a limit of its own.

        :raises SourceError: if it is too large
        """
        recent = self._recent
        self._size = len(recent[-1]) + (self._size if len(recent) > 2 else len(recent[0]))
        if len(recent) > LONGEST_RECORD:
            raise SourceError(f"{self._place()}: one record has over {LONGEST_RECORD} lines; {_CLOSE}")
        if self._size > LARGEST_ROW:
            raise SourceError(f"{self._place()}: one record has over {LARGEST_ROW} characters; {_CLOSE}, or shorten it")


def _quote_behind_space(delimiter: str, quote: str | None) -> re.Pattern[str]:
    """Matches a quote at the start of a field, after space that is not skipped."""
    space = r"[^\S\r\n]"
    return re.compile(rf"(?:\A|{re.escape(delimiter)}){space}*[^\S\r\n ]{space}*{re.escape(quote or '')}")


def _field_counts(lines: list[str], dialect: dict[str, Any]) -> list[int]:
    """Number of fields of each record of a sample; -1 for one that cannot be parsed. The last may be cut off."""
    counts: list[int] = []
    reader = csv.reader((line.replace("\0", _NUL) for line in lines), **dialect)
    while True:
        try:
            fields = next(reader, None)
        except csv.Error as error:
            if "end of data" in str(error):
                return counts
            counts.append(-1)
            continue
        if fields is None:
            return counts
        if fields and not (len(fields) == 1 and not fields[0].strip()):
            counts.append(len(fields))
