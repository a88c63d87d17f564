"""The outcomes file: one line for every row of a load, written as the row ends."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime, timezone
from itertools import chain
from typing import Any

from crm_provider.files.journal import Journal
from crm_provider.files.parquet import arrow_modules
from crm_provider.files.paths import AnyPath, atomic_writer, read_own, remove, sibling
from crm_provider.files.row_lines import ReadNumber, RowLines
from crm_provider.files.typed_parquet import typed_rows
from crm_provider.load.mapping.columns import key_value
from crm_provider.load.outcomes.formats import (
    AFTER,
    BEFORE,
    RowOutcome,
    checked_keys,
    lines_of,
    outcomes_format,
    shown_key,
)
from crm_provider.load.rows import SourceError
from crm_provider.values.json_types import TEXT, ColumnType, ObservedType
from crm_provider.values.json_values import json_value


def _now() -> datetime:
    return datetime.now(timezone.utc)


class OutcomesFile(RowLines):
    """The outcome of every row of a load, each row once. Only the key columns hold values of rows.

    JSON lines and CSV grow row by row. Parquet cannot grow: the rows are kept beside it, in ``<name>.rows``, until the
    load ends.

    :param keys: columns of the source that are written too; paths into nested values are allowed
    :param fields: field of the mapping -> column: a key that is not a column of a row may be such a field
    :param clock: the time of a row
    :raises SourceError: if the suffix is unknown, a key is not valid, or Parquet needs a library that is missing
    """

    title, rows_are = "outcomes file", "rows"

    def __init__(
        self,
        path: AnyPath,
        *,
        keys: Sequence[str] = (),
        fields: Mapping[str, str] | None = None,
        clock: Callable[[], datetime] = _now,
    ) -> None:
        self.keys = checked_keys(keys)
        self._shown, self._fields = {shown_key(name): name for name in self.keys}, fields or {}
        self._clock = clock
        format_ = outcomes_format(path.name)
        self._lines = lines_of(format_, self._shown)
        self._is_table = format_ == "parquet"
        if self._is_table:
            _check_library()
        super().__init__(path, Journal(sibling(path, ".rows") if self._is_table else path, quoted=self._lines.quoted))

    def write(self, ended: RowOutcome) -> None:
        """Add a row. On a local disk it now survives a kill.

        :raises CannotWrite: the row is not in the file
        """
        keys = {shown: key_value(ended.values, name, self._fields) for shown, name in self._shown.items()}
        header = None if self.count else self._new_header()
        self.add(ended.number, self._lines.line(ended.number, keys, ended.facts(self._clock())), header)

    def missing(self, wanted: int, done: Callable[[int], bool]) -> int:
        """How many rows of earlier tries are missing; none if an earlier try had finished the file."""
        return super().missing(wanted, done) if not self._is_table or self._table_rows() != wanted else 0

    def finish(self, wanted: int = 0) -> None:
        """Write all rows under the final name.

        :param wanted: rows that all tries together have written
        :raises RowsLost: if the file does not hold them all
        """
        if self._is_table and not self.count and self._table_rows() == wanted:
            self.count = wanted  # an earlier try had finished the file, but Airflow did not record its end
            return
        super().finish(wanted)
        if self._is_table and self.count:
            self._write_table()
            self._journal.clear()

    def publish(self) -> None:
        """Write the rows so far under the final name, because the load has stopped. More rows may follow."""
        self._journal.finish()
        self.has_unsynced = False
        if self._is_table and self.count:
            self._write_table()

    def clear(self) -> None:
        """Remove the file."""
        super().clear()
        if self._is_table:
            remove(self.path)

    def check_own(self) -> None:
        """Make sure that the file is an outcomes file, or missing.

        :raises SourceError: if it is not
        """
        is_own = self._journal.begins_like(self._lines.begin)
        if self._is_table and is_own:
            is_own = self._table_rows() is not None or not self.path.exists()
        if not is_own:
            raise SourceError(
                f"{self.path} would be overwritten, but it is not an outcomes file; remove it, or give another "
                "outcomes path"
            )

    def number_reader(self) -> ReadNumber:
        """A reader of the lines from the first on. It raises ``SourceError`` for a line of another program."""

        def number_of(line: str) -> int | None:
            try:
                return self._lines.number(line)
            except ValueError as wrong:
                raise SourceError(f"{self.path}: {wrong}") from None

        return number_of

    def _new_header(self) -> str | None:
        """The header to write; None if there is one, also if another try wrote it."""
        return self._lines.header() if next(self._journal.lines(), None) is None else None

    # -- Parquet --------------------------------------------------------------------------------------------

    def _write_table(self) -> None:
        observed = {name: ObservedType() for name in self._shown}
        for row in self._rows():
            for name, kind in observed.items():
                kind.note(row[name])
        columns = _columns({name: kind.final() for name, kind in observed.items()})
        with atomic_writer(self.path, "wb") as file, typed_rows(file, columns) as add:
            for row in self._rows():
                add([row[name] for name in columns])

    def _rows(self) -> Iterator[Mapping[str, Any]]:
        return map(json_value, self._journal.lines())

    def _table_rows(self) -> int | None:
        """How many rows the Parquet file has; None if there is none, or it is another program's."""
        arrow, parquet = arrow_modules()
        try:
            with read_own(self.path) as file:
                table = parquet.ParquetFile(file)
                names = table.schema_arrow.names
                is_own = (*names[: len(BEFORE)], *names[-len(AFTER) :]) == (*BEFORE, *AFTER)
                return int(table.metadata.num_rows) if is_own else None
        except (FileNotFoundError, arrow.ArrowException):
            return None


def _columns(keys: Mapping[str, ColumnType]) -> dict[str, ColumnType]:
    """The columns of the table."""
    facts = {"row_number": ColumnType("integer"), "time": ColumnType("timestamp")}
    return {name: keys.get(name) or facts.get(name) or TEXT for name in chain(BEFORE, keys, AFTER)}


def _check_library() -> None:
    try:
        arrow_modules()
    except ValueError as missing:
        raise SourceError(str(missing)) from None


def check_outcomes(given: Mapping[str, Any], known: Mapping[str, Any]) -> None:
    """Check the arguments of a load that concern its outcomes.

    :param known: those whose values are known already
    :raises SourceError: if one is not valid
    """
    keys, path = known.get("outcome_keys"), known.get("outcomes_path")
    if keys and "outcomes_path" in given and given["outcomes_path"] is None:
        raise SourceError("outcome_keys needs outcomes_path: the file that shows these columns")
    checked_keys(keys)
    if path is not None:
        try:
            outcomes_format(str(path))
        except SourceError as wrong:
            raise SourceError(f"outcomes_path: {wrong}") from None
