"""The rows of the source in a table on disk while a load runs, so that memory stays flat.

The preflight check maps each row once and stages it with its record, so that a load sends exactly what it has checked.
Each try reads the source once.
"""

from __future__ import annotations

import hashlib
import io
import pickle
import sqlite3
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

from crm_provider.files.temp_database import TempDatabase
from crm_provider.load.options import Duplicates
from crm_provider.load.rows import Record, Row, SourceError
from crm_provider.values.json_values import lenient_json


def digest(key: str) -> bytes:
    """Sixteen bytes that represent a key."""
    return hashlib.blake2b(key.encode(), digest_size=16).digest()


def record_mark(key: str) -> str:
    """A mark of a record in a rejects file: equal for equal keys."""
    return digest(key).hex()


class RowStatus(IntEnum):
    """What the preflight check decides about a row."""

    SEND = 0
    INVALID = 1
    DUPLICATE = 2
    """Another row for the same record is sent instead."""
    AMBIGUOUS = 3
    """Several rows are for the same record, and none is preferred."""
    SUPPRESSED = 4
    SAME = 5
    """An earlier load sent the same values."""
    REPLACED = 6
    """The load that rejected the row took another row for the same record."""
    STALE = 7
    """Invalid, and another row for the same record is valid: once corrected, this row must not replace that one."""


INVALID = (RowStatus.INVALID, RowStatus.STALE)
UNSENDABLE = (*INVALID, RowStatus.AMBIGUOUS)
"""Rows that are rejected without a call; those that are not valid may be skipped instead."""

_NUMBERS = {status: int(status) for status in RowStatus}
"""SQLite stores a member of an enumeration three times as slowly as its number."""

_SEVERAL = "FROM staged WHERE key IS NOT NULL GROUP BY key HAVING count(*) > 1"
"""Of the keys of several rows: they are few, so that most rows are not looked at."""

_LOSERS: Mapping[Duplicates, tuple[str, RowStatus]] = {
    "last": (f"number NOT IN (SELECT max(number) {_SEVERAL})", RowStatus.DUPLICATE),
    "first": (f"number NOT IN (SELECT min(number) {_SEVERAL})", RowStatus.DUPLICATE),
    "reject": ("1", RowStatus.AMBIGUOUS),
}
"""Which of several rows for one record are not sent, and their status."""

_PREFERRED: Mapping[Duplicates, str] = {
    "last": "staged.number > invalid.number", "first": "staged.number < invalid.number", "reject": "1"
}  # fmt: skip
"""Whether a valid row is preferred to an invalid one for the same record."""

_OVERTAKING: Mapping[Duplicates, str] = {
    "last": "staged.number < invalid.number", "first": "staged.number > invalid.number", "reject": "1"
}  # fmt: skip
"""Whether an invalid row would be preferred to a valid one for the same record."""

_TAKEN = ", ".join(str(int(status)) for status in (RowStatus.SEND, RowStatus.SAME, RowStatus.DUPLICATE))
"""Valid rows: of several with one key, one is sent or was sent before."""


@dataclass(frozen=True)
class StagedRow:
    """A row after the preflight check.

    :param record: what is sent; None for a row that is never sent
    :param problem: why the row is invalid, as text without values
    """

    row: Row
    status: RowStatus
    record: Record | None = None
    problem: str = ""


STAGED_BYTES = 16 << 30
"""Maximum bytes of all staged rows: a thousand for each of sixteen million rows. One load must not fill the folder
for temporary files."""

AT_ONCE = 240
"""Rows that are written together, which takes half the time of one by one. Old SQLite takes 999 values."""

BYTES_AT_ONCE = 1 << 20
"""Bytes of rows after which fewer rows are written: a hundred rows of several megabytes do not wait in memory."""

_INSERT = "INSERT INTO staged VALUES "
_PLACES = "(?, ?, ?)"

BETWEEN = "\x1f"
"""Separates the texts of a row: the ASCII character for this purpose."""

KEPT_NAMES = 1024
"""Lists of column names that are stored once for all rows that have them. Beyond that each row stores its own."""


class StagedRows:
    """All rows of a load, mapped, in a temporary database. Used by one thread.

    Queries search, count and sort a table of numbers, statuses and keys. Another table has the values, in blocks of
    rows whose numbers follow each other.

    :param most_bytes: budget for all rows together
    """

    def __init__(self, most_bytes: int = STAGED_BYTES) -> None:
        self._database = TempDatabase(
            "CREATE TABLE staged (number INTEGER PRIMARY KEY, status INTEGER, key TEXT);"
            "CREATE TABLE blocks (first INTEGER PRIMARY KEY, rows BLOB);"
            "CREATE TABLE invalid (number INTEGER PRIMARY KEY, key TEXT, mark TEXT, is_replaced INTEGER);"
            "CREATE INDEX invalid_by_key ON invalid (key)"
        )
        self._names: dict[tuple[Any, ...], int] = {}
        self._names_by_id: list[tuple[Any, ...]] = []
        self._type: type[Record]
        """The class of all records of the load, known from the first one."""
        self._most_bytes, self._bytes = most_bytes, 0
        self._waiting: list[Any] = []
        """Number, status and key of the rows that are not in the database yet, one after the other."""
        self._block_to_write: list[tuple[Any, ...] | bytes] = []
        """What is kept of these rows. It is pickled for a row that is not only texts, whose values may still change."""
        self._size = 0
        """Characters, or bytes, of these rows."""
        self._next = 1
        """The number of the row that may join the block."""
        self._block: tuple[int, list[tuple[Any, ...] | bytes]] = (0, [])
        """The block that was written or read last, after the number of its first row."""
        self._columns: tuple[Any, ...] | None = None
        self._attributes: tuple[Any, ...] | None = None
        """The names of the last row and of the last record."""
        self._columns_id: int | tuple[Any, ...] = ()
        self._attributes_id: int | tuple[Any, ...] = ()
        """What stands for them, see :meth:`_id`."""
        self.attribute_names: set[str] = set()
        """Attributes that the load writes."""
        self._has_invalid_keys = False
        """Whether the record of a row that cannot be sent is known."""
        self.has_made = False
        """Whether an earlier load has created the record of a row, or may have."""

    def __len__(self) -> int:
        return int(self._query("SELECT count(*) FROM staged").fetchone()[0])

    def add(
        self,
        row: Row,
        status: RowStatus,
        record: Record | None = None,
        *,
        text: str | None = None,
        problem: str = "",
        place: Callable[[int], str] | None = None,
    ) -> None:
        """Stage one more row.

        :param record: the mapped row, for rows that may be sent and for those whose record another row may repeat
        :param text: the row's values with :data:`BETWEEN` between them; None if they are not only texts
        :param place: from a row's number to its file, line and row, for messages
        :raises SourceError: if the budget is used up
        """
        number, values, broken, made, replaced = row
        mapped = key = None
        if record is not None:
            attributes = record.attributes
            if (names := tuple(attributes)) != self._attributes:
                self._attributes, self._attributes_id, self._type = names, self._id(names), type(record)
                self.attribute_names.update(names)
            mapped, key = (self._attributes_id, tuple(attributes.values()), record.fixed), record.key
        if (columns := tuple(values)) != self._columns:
            self._columns, self._columns_id = columns, self._id(columns)
        kept: Any = (self._columns_id, text, broken, made, mapped, problem, replaced)
        if text is None:
            kept = _pickled(row, kept)
        if made is not None:
            self.has_made = True
        if number != self._next:
            self._flush()
        self._next = number + 1
        self._size += len(kept if text is None else text)
        block = self._block_to_write
        block.append(kept)
        self._waiting += (number, _NUMBERS[status], key)
        if len(block) >= AT_ONCE or self._size > BYTES_AT_ONCE:
            self._flush()
            if self._bytes > self._most_bytes:
                raise self._too_many((place and place(number)) or f"row {number}")

    def add_invalid(self, row: Row, problem: str, key: str | None, place: Callable[[int], str] | None = None) -> None:
        """Stage a row that cannot be sent.

        :param key: of its record; it is compared with those of the valid rows. None if unknown: then a mark of the row
            stays, because its record may be the same once it is corrected
        """
        mark = row.replaced if key is None else record_mark(key)
        self.add(row._replace(replaced=mark), RowStatus.INVALID, problem=problem, place=place)
        if mark:
            self._has_invalid_keys = True
            values = (row.number, key, mark, row.replaced == mark)
            self._database.execute("INSERT INTO invalid VALUES (?, ?, ?, ?)", values)

    def _too_many(self, where: str) -> SourceError:
        return SourceError(
            f"{where}: the rows up to here take more than {self._most_bytes >> 20:,} MiB in "
            "the temporary database of the load; split the source into several loads"
        )

    def mark_duplicates(self, duplicates: Duplicates) -> None:
        """Choose one row, or none, of those for the same record."""
        self._query("CREATE INDEX IF NOT EXISTS by_key ON staged (key) WHERE key IS NOT NULL")
        losers, status = _LOSERS[duplicates]
        statement = f"UPDATE staged SET status = ? WHERE key IN (SELECT key {_SEVERAL}) AND {losers}"  # noqa: S608 - of constants
        self._query(statement, (int(status),))
        if self._has_invalid_keys:
            self._mark_stale(duplicates)

    def _mark_stale(self, duplicates: Duplicates) -> None:
        """Distinguish the invalid rows for whose record a preferred row is valid."""
        stale = (
            "SELECT number FROM invalid WHERE is_replaced OR EXISTS (SELECT 1 FROM staged WHERE "  # noqa: S608 - of constants
            f"staged.key = invalid.key AND status IN ({_TAKEN}) AND {_PREFERRED[duplicates]})"
        )
        statement = (
            f"UPDATE staged SET status = CASE WHEN number IN ({stale}) THEN ? ELSE ? END "  # noqa: S608 - of constants
            "WHERE number IN (SELECT number FROM invalid)"
        )
        self._query(statement, (int(RowStatus.STALE), int(RowStatus.INVALID)))

    def count_overtaken(self, duplicates: Duplicates) -> int:
        """How many rows are sent only because a row for the same record, which would be preferred, is invalid."""
        overtaken = (
            "SELECT count(DISTINCT staged.number) FROM invalid JOIN staged ON staged.key = invalid.key "  # noqa: S608 - of constants
            f"WHERE status = ? AND {_OVERTAKING[duplicates]}"
        )
        return int(self._query(overtaken, (int(RowStatus.SEND),)).fetchone()[0])

    def is_for_invalid(self, number: int) -> bool:
        """Whether a row that cannot be sent is for the same record as this row."""
        query = "SELECT 1 FROM staged JOIN invalid ON invalid.key = staged.key WHERE staged.number = ?"
        return self._has_invalid_keys and self._query(query, (number,)).fetchone() is not None

    def has_stale(self) -> bool:
        """Whether a preferred row is valid for the record of a row that cannot be sent."""
        query = "SELECT 1 FROM invalid JOIN staged ON staged.number = invalid.number WHERE status = ?"
        return self._has_invalid_keys and self._query(query, (int(RowStatus.STALE),)).fetchone() is not None

    def preferred_to(self, number: int) -> tuple[str, int | None] | None:
        """What is preferred to a row that cannot be sent.

        :return: the mark of its record, and the number of the row that is sent for it; None in place of the number if
            an earlier load has taken a row. None for a row to which nothing is preferred
        """
        sent = "(SELECT number FROM staged AS sent WHERE sent.key = invalid.key AND sent.status = ?)"
        query = (
            f"SELECT mark, CASE WHEN NOT is_replaced THEN {sent} END FROM invalid "  # noqa: S608 - of constants
            "JOIN staged ON staged.number = invalid.number WHERE invalid.number = ? AND status = ?"
        )
        found = self._query(query, (int(RowStatus.SEND), number, int(RowStatus.STALE))).fetchone()
        return None if found is None else (found[0], found[1])

    def has(self, key: str) -> bool:
        """Whether a row has this key."""
        return self._query("SELECT 1 FROM staged WHERE key = ?", (key,)).fetchone() is not None

    def take_for_same(self, key: str, other: str) -> None:
        """Treat the rows of two keys as rows of one record. :meth:`mark_duplicates` chooses among them.

        If one of them was loaded before, another one may have been loaded since, so that the state file proves nothing
        about the record.

        :param other: the key that all of them get
        """
        for statement in ("UPDATE staged SET key = ? WHERE key = ?", "UPDATE invalid SET key = ? WHERE key = ?"):
            self._query(statement, (other, key))
        statement = "UPDATE staged SET status = ? WHERE key = ? AND status = ?"
        self._query(statement, (int(RowStatus.SEND), other, int(RowStatus.SAME)))

    def counts(self) -> Counter[RowStatus]:
        """Rows by status."""
        query = (
            "SELECT ?, count(*) FROM staged WHERE status = ? "  # most rows, which need not be sorted
            "UNION ALL SELECT status, count(*) FROM staged WHERE status <> ? GROUP BY status"
        )
        found = self._query(query, (int(RowStatus.SEND),) * 3)
        return Counter({RowStatus(status): count for status, count in found})

    def sends(self, key: str) -> bool:
        """Whether a row with this key is to be sent."""
        query = "SELECT 1 FROM staged WHERE key = ? AND status = ?"
        return self._query(query, (key, int(RowStatus.SEND))).fetchone() is not None

    def count_to_send(self, *, after: int = 0, without: Collection[int] = ()) -> int:
        """How many rows are to be sent.

        :param after: only rows with a greater number
        :param without: numbers of rows that do not count
        """
        numbers = self._query("SELECT number FROM staged WHERE status = ? AND number > ?", (int(RowStatus.SEND), after))
        return sum(number not in without for (number,) in numbers)

    def rows(self, *, after: int = 0, without: Collection[int] = (), only: int | None = None) -> Iterator[StagedRow]:
        """The rows in their order.

        :param after: only rows with a greater number
        :param without: numbers of rows to leave out
        :param only: only rows with this status
        """
        query = "SELECT number, status FROM staged WHERE number > ? AND status = coalesce(?, status) ORDER BY number"
        return self._found(query, (after, only), without)

    def mixed(self, seed: int, *, after: int = 0, without: Collection[int] = ()) -> Iterator[StagedRow]:
        """The rows to be sent in a pseudo-random order, which is the same for the same seed."""
        query = (
            "SELECT number, status FROM staged WHERE status = ? AND number > ? "
            "ORDER BY (number * 2654435761 + ?) % 4294967291"  # two primes: neighbours end up far apart
        )
        return self._found(query, (int(RowStatus.SEND), after, seed), without)

    def close(self) -> None:
        """Drop the table."""
        self._database.close()

    def _query(self, statement: str, parameters: tuple[Any, ...] = ()) -> sqlite3.Cursor:
        """Execute a statement on all rows."""
        self._flush()
        return self._database.execute(statement, parameters)

    def _flush(self) -> None:
        waiting, self._waiting = self._waiting, []
        block, self._block_to_write, self._size = self._block_to_write, [], 0
        if waiting:
            rows = _block_data(block)
            self._bytes += len(rows)
            self._block = waiting[0], block
            self._database.execute(_INSERT + ", ".join([_PLACES] * len(block)), waiting)
            self._database.execute("INSERT INTO blocks VALUES (?, ?)", (waiting[0], rows))

    def _id(self, names: tuple[Any, ...]) -> int | tuple[Any, ...]:
        """What stands for the names of a mapping: most rows share them, so that they are stored once."""
        number = self._names.get(names)
        if number is not None:
            return number
        if len(self._names) == KEPT_NAMES:
            return names
        self._names[names] = len(self._names_by_id)
        self._names_by_id.append(names)
        return self._names[names]

    def _joined(self, names: int | tuple[Any, ...], values: Sequence[Any]) -> dict[Any, Any]:
        return dict(zip(self._names_by_id[names] if isinstance(names, int) else names, values, strict=True))

    def _found(self, query: str, parameters: tuple[Any, ...], without: Collection[int]) -> Iterator[StagedRow]:
        """The rows whose number and status a query finds."""
        for number, status in self._query(query, parameters):
            if number not in without:
                yield self._row(number, status)

    def _row(self, number: int, status: int) -> StagedRow:
        first, block = self._block
        if not first <= number < first + len(block):
            query = "SELECT first, rows FROM blocks WHERE first <= ? ORDER BY first DESC LIMIT 1"
            first, rows = self._database.execute(query, (number,)).fetchone()
            # written by _flush(), into a file that only this process can open
            block = pickle.loads(rows)  # noqa: S301 - our own data
            self._block = first, block
        kept = block[number - first]
        if isinstance(kept, bytes):
            values, kept = pickle.loads(kept)  # noqa: S301 - our own data
        names, text, broken, made, mapped, problem, replaced = kept
        if text is not None:
            values = text.split(BETWEEN)
        record = None
        if mapped is not None:
            attributes, attribute_values, fixed = mapped
            record = self._type.restored(self._joined(attributes, attribute_values), fixed)
        row = Row(number, self._joined(names, values), broken, made, replaced)
        return StagedRow(row, RowStatus(status), record, problem)


def _pickled(row: Row, kept: tuple[Any, ...]) -> bytes:
    """The values of a row, and what else is kept of it; what cannot be stored, as the rejects file shows it."""
    values = tuple(row.values.values())
    try:
        return pickle.dumps((values, kept))
    except (TypeError, AttributeError, pickle.PicklingError, RecursionError):  # of a lock; of thousands of levels
        return pickle.dumps((lenient_json(values), kept))


def _block_data(block: list[tuple[Any, ...] | bytes]) -> bytes:
    """A block, pickled without a search for objects that occur in it several times, which takes half of the time."""
    data = io.BytesIO()
    pickler = pickle.Pickler(data)
    pickler.fast = True
    pickler.dump(block)
    return data.getvalue()
