"""The two formats of a rejects file: a rejected row as a line of text and back, without loss.

JSON lines: ``{"row": 7, "values": {...}, "type": ..., "message": ..., "suggested_action": ..., "request_id": ...,
"retryable": true}``.

CSV: ``_row``, the row's own columns, then the same facts in columns that begin with ``_``. A cell that a spreadsheet
would treat as a formula gets an apostrophe, which is removed when the file is read (so a phone number such as
``+5531999999999`` survives). Values that a cell cannot hold as they are (numbers, lists, null) are JSON, and
``_cells`` lists them; it is empty for the rows of a CSV source.

Values without a JSON form are written as exact text (:func:`crm_provider.values.json_values.lenient_json`). A row that
its source could not read has a fingerprint of its values (``form``; in CSV in ``_cells``). While it matches, nobody has
corrected the row. A row for whose record the load took another row has a mark of this record (``replaced``; in CSV in
``_cells``), which shows whether the row is still for the same record.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from hashlib import blake2b
from typing import Any, Protocol

from crm_provider.files.journal import Journal
from crm_provider.files.paths import AnyPath
from crm_provider.load.rows import EarlierCreation, SourceError
from crm_provider.load.sources.csv_files import is_cleared, most_consistent_delimiter
from crm_provider.values.json_values import json_text, json_value
from crm_provider.values.json_values import lenient_json as plain
from crm_provider.values.server_clock import utc_time

CONTACTS = "contacts"
"""The kind of rows whose lines do not name one."""


@dataclass(frozen=True)
class Reject:
    """A row that was not written to the CRM, with the reason.

    :param number: of the row in the source of its load
    :param values: the row as given
    :param type: the error's type
    :param message: the problem, without values of the row
    :param retryable: whether the same row may succeed later
    :param original: its number in the first source, if the source of its load was itself a rejects file
    :param made: the contact that was created for it before it was rejected, if any
    """

    number: int
    values: Mapping[str, Any]
    type: str
    message: str
    suggested_action: str = ""
    request_id: str | None = None
    retryable: bool = False
    original: int | None = None
    made: EarlierCreation | None = None
    form: str = ""
    """:func:`form_mark` of the values of a row that its source could not read."""
    kind: str = CONTACTS
    """The kind of record; rows of another kind must not be loaded as contacts."""
    replaced: str = ""
    """The mark of its record if the load took another row for this record; sent again, the row is left out."""

    def marked(self, mark: str, other: str) -> Reject:
        """The reject with or without the mark of its record, which its message explains.

        :param mark: empty for none
        :param other: the row that the load prefers: ``a later row``
        """
        why = f". {other.capitalize()} for the same record is valid; if this one is sent again, it is left out."
        message = self.message.removesuffix(why)
        return replace(self, replaced=mark, message=f"{message}{why}" if mark else message)


def form_mark(values: Mapping[str, Any]) -> str:
    """A fingerprint of a row, the same in both formats, which shows whether the row was changed."""
    written = json_value(json_text(dict(sorted(plain(values).items())), ascii_only=True))
    return blake2b(json_text(written, ascii_only=True).encode(), digest_size=8).hexdigest()


class ForeignFile(ValueError):
    """A line has nothing of a rejects file."""


class RejectLines(Protocol):
    """A format of a rejects file. Apart from the header, each line can be read by itself."""

    begin: str
    """First characters of a file in this format."""
    quoted: bool

    def columns(self) -> tuple[str, ...] | None:
        """The row's own columns; None while they are unknown."""

    def read_header(self, first: str) -> bool:
        """Read a file's first line.

        :return: whether it is a header and not a row
        :raises ValueError: if it is the header of another file
        """

    def header_for(self, columns: Iterable[str]) -> str | None:
        """The header of a new file whose first row has these columns; None if the format has none."""

    def line(self, reject: Reject) -> str: ...

    def parse(self, line: str) -> Reject:
        """The row of a line.

        :raises ValueError: if the line is not in this format; the message holds no value
        """


class JsonLines:
    """One JSON object for each row."""

    begin = '{"row":'
    quoted = False

    def columns(self) -> tuple[str, ...] | None:
        return None

    def read_header(self, first: str) -> bool:
        return False

    def header_for(self, columns: Iterable[str]) -> str | None:
        return None

    def line(self, reject: Reject) -> str:
        found = {
            "row": reject.number,
            "values": plain(reject.values),
            "type": reject.type,
            "message": reject.message,
            "suggested_action": reject.suggested_action,
            "request_id": reject.request_id,
            "retryable": reject.retryable,
        }
        if reject.original is not None:
            found["original_row"] = reject.original
        if reject.made is not None:
            found["made"] = _made_data(reject.made)
        if reject.form:
            found["form"] = reject.form
        if reject.kind != CONTACTS:
            found["kind"] = reject.kind
        if reject.replaced:
            found["replaced"] = reject.replaced
        return json_text(found)

    def parse(self, line: str) -> Reject:
        try:
            found = json_value(line)
        except (ValueError, RecursionError):
            raise ValueError("it is not a complete JSON object") from None
        if not isinstance(found, dict):
            raise ValueError("it is not a JSON object")
        if not {"row", "values"} & found.keys():
            raise ForeignFile("its 'row' is missing")
        _check(found, {"row": int, "values": dict, "type": str, "retryable": bool})
        texts = {name: str(found.get(name) or "") for name in ("message", "suggested_action")}
        request_id, original = found.get("request_id"), found.get("original_row")
        return Reject(
            found["row"], found["values"], found["type"], **texts,
            request_id=None if request_id is None else str(request_id), retryable=found["retryable"],
            original=original if isinstance(original, int) else None, made=_made_of(found.get("made")),
            form=str(found.get("form") or ""), kind=str(found.get("kind") or CONTACTS),
            replaced=str(found.get("replaced") or ""),
        )  # fmt: skip


def _check(found: Mapping[str, Any], wanted: Mapping[str, type]) -> None:
    for name, kind in wanted.items():
        if not isinstance(found.get(name), kind):
            raise ValueError(f"its {name!r} is missing or not of type {kind.__name__}")


class CsvLines:
    """Comma, double quotes, UTF-8. ``_retryable`` comes last, so that a truncated line is always noticed.

    A spreadsheet may have saved the file again with another delimiter.
    """

    begin = "_row,"
    quoted = True

    def __init__(self) -> None:
        self._columns: tuple[str, ...] | None = None
        self._delimiter = ","

    def columns(self) -> tuple[str, ...] | None:
        return self._columns

    def read_header(self, first: str) -> bool:
        header = first.removeprefix("\ufeff")
        if not header.startswith(self.begin):
            self._delimiter = most_consistent_delimiter([header])
        cells = _cells(header, self._delimiter)
        if (cells[0], *cells[-len(_AFTER) :]) != ("_row", *_AFTER):
            problem = f"its first line is not _row, the row's columns, {', '.join(_AFTER)}"
            raise ValueError(problem) if {"_row", *_AFTER} & set(cells) else ForeignFile(problem)
        self._columns = tuple(map(_unescape_formula, cells[1 : -len(_AFTER)]))
        return True

    def header_for(self, columns: Iterable[str]) -> str | None:
        self._columns = tuple(name for name in map(str, columns) if _is_csv_text(name))
        return csv_record(["_row", *map(_escape_formula, self._columns), *_AFTER])

    def line(self, reject: Reject) -> str:
        columns, values = self._columns or (), plain(reject.values)
        special: dict[str, Any] = {
            "json": [name for name in columns if name in values and not _is_csv_text(values[name])],
            "missing": [name for name in columns if name not in values],
            "more": {name: value for name, value in values.items() if name not in columns},
        }
        notes: dict[str, Any] = {name: found for name, found in special.items() if found}
        if reject.made is not None:
            notes["made"] = _made_data(reject.made)
        if reject.form:
            notes["form"] = reject.form
        if reject.kind != CONTACTS:
            notes["kind"] = reject.kind
        if reject.replaced:
            notes["replaced"] = reject.replaced
        original = "" if reject.original is None else str(reject.original)
        after = [
            reject.type, reject.message, reject.suggested_action, reject.request_id or "", original,
            json_text(notes, ascii_only=True) if notes else "",
        ]  # fmt: skip
        row = [_cell(values.get(name)) for name in columns]
        facts = [_escape_formula(NOT_IN_CSV.sub("\ufffd", text)) for text in after]
        return csv_record([str(reject.number), *row, *facts, "yes" if reject.retryable else "no"])

    def parse(self, line: str) -> Reject:
        columns, cells = self._columns or (), _cells(line, self._delimiter)
        if len(cells) != len(columns) + 1 + len(_AFTER):
            raise ValueError(f"it has {len(cells)} cells and not {len(columns) + 1 + len(_AFTER)}")
        number, *texts, retryable = (cells[0], *map(_unescape_formula, cells[1:-1]), cells[-1].strip().lower())
        given = dict(zip(columns, texts, strict=False))
        type_, message, action, request_id, original, notes = texts[len(columns) :]
        if not number.strip().isdecimal() or retryable not in ("yes", "no"):
            raise ValueError("its _row is not a number, or its _retryable is not yes or no")
        values, made, marks = _restored(given, notes)
        return Reject(
            int(number), values, type_, message, action, request_id or None,
            retryable == "yes", int(original) if original.strip().isdecimal() else None, made, *marks,
        )  # fmt: skip


_AFTER = ("_type", "_message", "_suggested_action", "_request_id", "_original_row", "_cells", "_retryable")

_FORMULA = tuple("=+-@\t\r\n'＝＋－＠")  # noqa: RUF001 - spreadsheets take the wide forms for formulas too
"""A cell that begins with one of these gets an apostrophe; an apostrophe is one of them, so that this can be undone."""

NOT_IN_CSV = re.compile("[\0\ud800-\udfff]")
"""Characters that a CSV file cannot hold: some readers stop at NUL, and lone surrogates have no UTF-8 form."""


def _escape_formula(text: str) -> str:
    return f"'{text}" if text.startswith(_FORMULA) else text


def _unescape_formula(text: str) -> str:
    return text.removeprefix("'")


def _is_csv_text(value: Any) -> bool:
    return isinstance(value, str) and not NOT_IN_CSV.search(value)


def _cell(value: Any) -> str:
    if value is None:
        return ""
    return _escape_formula(value if _is_csv_text(value) else json_text(value, ascii_only=isinstance(value, str)))


def _made_data(made: EarlierCreation) -> dict[str, Any]:
    return {"certain": made.certain, "since": None if made.since is None else made.since.isoformat()}


def _made_of(data: Any) -> EarlierCreation | None:
    if not isinstance(data, Mapping):
        return None
    return EarlierCreation(utc_time(data.get("since")), certain=data.get("certain") is True, earlier_load=True)


def _restored(given: dict[str, Any], notes: str) -> tuple[dict[str, Any], EarlierCreation | None, tuple[str, str, str]]:
    """The values of a row from its cells, the contact created for it, and its :func:`form_mark`, kind and ``replaced``.

    An empty cell may have been filled in.
    """
    try:
        found = json_value(notes) if notes.strip() else {}
        for name in found.get("json", []):
            given[name] = json_value(given[name]) if given[name] else None
        for name in found.get("missing", []):
            if not given[name]:
                given.pop(name)
        marks = str(found.get("form", "")), str(found.get("kind", CONTACTS)), str(found.get("replaced", ""))
        return {**given, **found.get("more", {})}, _made_of(found.get("made")), marks
    except (ValueError, KeyError, TypeError, AttributeError):
        raise ValueError("a cell that _cells marks as JSON is not JSON, or _cells itself was changed") from None


def csv_record(cells: Iterable[str]) -> str:
    out = io.StringIO(newline="")
    csv.writer(out, lineterminator="\r\n").writerow(cells)
    return out.getvalue()[:-2]


def _cells(line: str, delimiter: str) -> list[str]:
    limit = csv.field_size_limit(max(len(line), 1))  # the default refuses cells of 128 KB
    try:
        return next(csv.reader([line], delimiter=delimiter, strict=True), [""])
    except csv.Error:
        raise ValueError("it is not a CSV record") from None
    finally:
        csv.field_size_limit(limit)  # it applies to the whole process


_PACKED = frozenset({".gz", ".bz2", ".zst", ".xz", ".zip", ".parquet", ".xlsx"})


def lines_and_journal(path: AnyPath) -> tuple[RejectLines, Journal]:
    """The format and the journal of a rejects file; no file is created.

    :param path: its suffix decides the format: ``.csv`` is CSV, any other JSON lines
    :raises SourceError: if the suffix is of a format that cannot be written row by row
    """
    if path.suffix.lower() in _PACKED:
        raise SourceError(
            f"rejects are written row by row, which {path.suffix} does not allow; end the path in .jsonl or .csv"
        )
    lines = CsvLines() if path.suffix.lower() == ".csv" else JsonLines()
    return lines, Journal(path, quoted=lines.quoted)


_ANY_DELIMITER = re.compile('[,;|"]')
"""Also the quotes that some programs write around empty cells."""


class RejectReader:
    """Reads the lines of a rejects file in order, and names the line in its errors."""

    def __init__(self, lines: RejectLines, name: str) -> None:
        self._lines, self._name = lines, name
        self.number = 0
        """Number of the line that was read last, from 1; a header counts, line breaks within a row of CSV do not."""
        self._header: str | None = None

    def read(self, line: str) -> Reject | None:
        """The row of a line; None for an empty line or a header, also a second one that a concurrent try wrote.

        A line of delimiters is a row that was cleared in a spreadsheet, and counts as empty.

        :raises SourceError: if the line cannot be read
        """
        self.number += 1
        try:
            if self.number == 1 and self._lines.read_header(line):
                self._header = line
            if line == self._header:
                return None
            return None if is_cleared(_ANY_DELIMITER.split(line)) else self._lines.parse(line)
        except ValueError as wrong:
            if self.number == 1 and isinstance(wrong, ForeignFile):
                raise SourceError(f"{self._name} is not a rejects file; give the load's rejects_path") from None
            raise SourceError(f"{self._name}, row {self.number} of the file (a header counts): {wrong}") from None
