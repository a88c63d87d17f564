"""The formats of an outcomes file: how a row ended as a line of text, and a table of such lines."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal, Protocol

from crm_provider.load.rejects.formats import NOT_IN_CSV, csv_record
from crm_provider.load.rejects.samples import without_row
from crm_provider.load.rows import Outcome, SourceError
from crm_provider.values.json_values import json_text, lenient_json, utc_text

OutcomesFormat = Literal["jsonl", "csv", "parquet"]

SUFFIXES: Mapping[str, OutcomesFormat] = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".csv": "csv",
    ".parquet": "parquet",
}

BEFORE = ("row_number",)
AFTER = ("outcome", "error_type", "message", "request_id", "contact_id", "deal_id", "time")
"""Columns of the file; between them are the key columns that the user names."""

OURS = "source_"
"""Begins the name of a key column that would have the name of a column of the file itself."""


@dataclass(frozen=True, kw_only=True)
class RowOutcome:
    """How a row ended.

    :param number: of the row in the source of its load
    :param values: of the row; only the key columns are written
    :param error_type: of the error that decided it, None for a row that had none
    :param message: the reason, without values of the row
    :param ids: ``contact_id`` and ``deal_id``, if the CRM's responses had them
    """

    number: int
    outcome: Outcome
    values: Mapping[str, Any] = field(default_factory=dict)
    error_type: str | None = None
    message: str | None = None
    request_id: str | None = None
    ids: Mapping[str, Any] = field(default_factory=dict)

    def facts(self, time: datetime) -> dict[str, Any]:
        """The columns after the keys."""
        return {
            "outcome": self.outcome.value,
            "error_type": self.error_type,
            "message": None if self.message is None else without_row(self.message, self.values, type_=self.error_type),
            "request_id": self.request_id,
            "contact_id": _id_text(self.ids.get("contact_id")),
            "deal_id": _id_text(self.ids.get("deal_id")),
            "time": utc_text(time),
        }


def _id_text(value: Any) -> str | None:
    return None if value is None else str(value)


class OutcomeLines(Protocol):
    """A format that can be written line by line."""

    begin: str
    """First characters of a file in this format."""
    quoted: bool

    def header(self) -> str | None:
        """The first line; None if the format has none."""

    def line(self, number: int, keys: Mapping[str, Any], facts: Mapping[str, Any]) -> str:
        """The line of a row.

        :param keys: the values of the key columns, in the order of the header
        """

    def number(self, line: str) -> int | None:
        """The number of a line's row, None for the header.

        :raises ValueError: if it is not in this format
        """


class JsonOutcomes:
    """One JSON object for each row."""

    begin = '{"row_number":'
    quoted = False
    _NUMBER = re.compile(r'\{"row_number": (\d+),.*\}', re.DOTALL)

    def header(self) -> str | None:
        return None

    def line(self, number: int, keys: Mapping[str, Any], facts: Mapping[str, Any]) -> str:
        return json_text({"row_number": number, **{name: lenient_json(value) for name, value in keys.items()}, **facts})

    def number(self, line: str) -> int | None:
        return _number_in(self._NUMBER, line)


class CsvOutcomes:
    """Comma, double quotes, UTF-8. A missing value is an empty cell, a number or a list is JSON.

    :param keys: the key columns
    """

    begin = "row_number,"
    quoted = True
    _NUMBER = re.compile(r"(\d+),.*", re.DOTALL)

    def __init__(self, keys: Iterable[str]) -> None:
        self._header = csv_record(map(_cell, (*BEFORE, *keys, *AFTER)))

    def header(self) -> str | None:
        return self._header

    def line(self, number: int, keys: Mapping[str, Any], facts: Mapping[str, Any]) -> str:
        return csv_record([str(number), *map(_cell, keys.values()), *map(_cell, facts.values())])

    def number(self, line: str) -> int | None:
        return None if line == self._header else _number_in(self._NUMBER, line)


def _number_in(pattern: re.Pattern[str], line: str) -> int:
    found = pattern.fullmatch(line)
    if found is None:
        raise ValueError("it is not a line of an outcomes file")
    return int(found[1])


def _cell(value: Any) -> str:
    value = lenient_json(value)
    text = "" if value is None else value if isinstance(value, str) else json_text(value)
    return NOT_IN_CSV.sub("\ufffd", text)


def checked_keys(keys: Any) -> tuple[str, ...]:
    """The key columns as given by a user: one name or several.

    :raises SourceError: if one is not a name, or two would be the same column
    """
    given = [keys] if isinstance(keys, str) else list(keys or ())
    if not all(isinstance(name, str) and name.strip() for name in given):
        raise SourceError("outcome_keys must be names of columns of the source, such as ['lead_id']")
    shown = [*map(shown_key, given)]
    for name in given:
        if shown.count(shown_key(name)) > 1:
            raise SourceError(f"outcome_keys names {name!r} twice; name each column once")
    return tuple(given)


def shown_key(name: str) -> str:
    """The column of a key in the file.

    >>> shown_key("lead_id"), shown_key("deal_id")
    ('lead_id', 'source_deal_id')
    """
    return f"{OURS}{name}" if name in (*BEFORE, *AFTER) else name


def outcomes_format(name: str) -> OutcomesFormat:
    """The format of a file, by its suffix.

    :raises SourceError: if the suffix is another
    """
    found = next((known for suffix, known in SUFFIXES.items() if name.lower().endswith(suffix)), None)
    if found is None:
        raise SourceError(
            f"the name {name!r} does not show the format of the outcomes; end it with one of {', '.join(SUFFIXES)}"
        )
    return found


def lines_of(format: OutcomesFormat, keys: Iterable[str]) -> OutcomeLines:  # noqa: A002 - the word for it
    """The lines of a format. Parquet is written from JSON lines."""
    return CsvOutcomes(keys) if format == "csv" else JsonOutcomes()
