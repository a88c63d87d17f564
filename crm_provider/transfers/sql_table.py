"""A table of a database as the target of records: created, and filled through a staging table in one transaction.

All rows go into a staging table first, chunk by chunk. Then one transaction applies it to the target, so that readers
see the table either before or after it, also after a kill. The target keeps its views, grants, indexes and further
columns.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import replace
from itertools import islice
from typing import TYPE_CHECKING, Any, Literal, get_args

from crm_provider import errors as e
from crm_provider.extract.columns import SqlColumn, kind_of_type
from crm_provider.tasks.outcome import record
from crm_provider.transfers.sql_databases import (
    DATABASES,
    MYSQL,
    OTHER,
    SQLITE,
    as_text,
    error_name,
    for_sqlite,
    is_about_values,
    without,
)
from crm_provider.values.suggest import check_choice

if TYPE_CHECKING:
    from typing_extensions import Self

log = logging.getLogger(__name__)

TableMode = Literal["replace", "append", "merge"]

CHUNK = 1000
"""Rows of one insert and commit."""


def check_table_mode(mode: object) -> None:
    """Refuse a value that is not a :data:`TableMode`.

    :raises ValueError: naming the choices
    """
    check_choice("mode", mode, get_args(TableMode))


# -- the table ------------------------------------------------------------------------------------------------


class SqlTable:
    """The target table. Used as a context, which closes the connection and drops the staging table.

    :param hook: a ``DbApiHook``
    :param name: name of the table, with its schema before a dot
    :param mark: part of the staging table's name, so that a try replaces that of an earlier one
    :raises CrmInvalidValueError: if the name is not valid
    """

    def __init__(self, hook: Any, name: str, *, mark: str) -> None:
        parts = name.split(".")
        if len(parts) > 2 or not all(part.strip() and "\0" not in part for part in parts):
            raise e.CrmInvalidValueError("table must be the name of a table, or that of its schema, a dot and its name")
        self.name, self._schema, self._table = name, parts[0] if len(parts) == 2 else None, parts[-1]
        self._hook, self._mark = hook, mark
        self._connection: Any = None
        self._staged = 0

    def __enter__(self) -> Self:
        self._connection = self._hook.get_conn()
        if getattr(self._hook, "supports_autocommit", False):
            self._hook.set_autocommit(self._connection, False)
        drivers = (cls.__module__.partition(".")[0] for cls in type(self._connection).__mro__)
        self.database = next((DATABASES[name] for name in drivers if name in DATABASES), OTHER)
        default = getattr(self._hook, "placeholder", "%s")
        self._placeholder = self.database.placeholder or (default if isinstance(default, str) else "%s")
        return self

    def __exit__(self, *_: object) -> None:
        with closing(self._connection), suppress(Exception):  # the connection may be lost; the next try drops it
            self._connection.rollback()
            self._run(f"DROP TABLE IF EXISTS {self._staging}")
            self._connection.commit()

    # -- columns ---------------------------------------------------------------------------------------------

    def columns(self) -> dict[str, str]:
        """Names and declared types of the table's columns; empty if the table does not exist.

        :raises CrmInvalidValueError: if the name has a schema, which SQLite does not know
        """
        self._check_schema()
        if self.database.columns_sql is None:
            return self._described()
        with closing(self._connection.cursor()) as cursor:
            cursor.execute(self.database.columns_sql, (self._schema, self._schema, self._table))
            found = {as_text(name): as_text(declared) for name, declared in cursor.fetchall()}
        self._connection.rollback()
        return found

    def missing(self, columns: Iterable[SqlColumn], existing: Iterable[str]) -> list[SqlColumn]:
        """The columns that the table lacks, by the database's rules for names."""
        fold = self.database.fold
        names = {fold(name) for name in existing}
        return [column for column in columns if fold(column.name) not in names]

    def create(self, columns: Sequence[SqlColumn]) -> None:
        """Create the table.

        :raises CrmInvalidValueError: if the types must be chosen
        """
        specs = ", ".join(f"{self._quoted(column.name)} {self.type_of(column)}" for column in columns)
        self._commit(f"CREATE TABLE {self._target} ({specs})")
        listed = ", ".join(f"{one.name} {self.type_of(one)}" for one in columns)
        log.info("%s", record(f"Created the table {self.name}.", [("Columns", listed)]))

    def add(self, columns: Sequence[SqlColumn]) -> None:
        """Add columns to the table."""
        for column in columns:
            self._commit(f"ALTER TABLE {self._target} ADD COLUMN {self._quoted(column.name)} {self.type_of(column)}")
            log.info("Added the column %s %s to the table %s.", column.name, self.type_of(column), self.name)

    def type_of(self, column: SqlColumn) -> str:
        """The type for a new column.

        :raises CrmInvalidValueError: if the user must choose it
        """
        if column.declared is not None:
            return column.declared
        if column.kind not in self.database.types:
            raise e.CrmInvalidValueError(
                f"the types of this database are not known: give each column its type with columns=, or create the "
                f"table {self.name} yourself"
            )
        return self.database.key_type if column.field == "id" else self.database.types[column.kind]

    # -- rows ------------------------------------------------------------------------------------------------

    def stage(self, columns: Sequence[SqlColumn], rows: Iterable[Sequence[Any]]) -> int:
        """Fill the staging table, whose columns have the types of the target's.

        :return: number of rows
        :raises CrmInvalidValueError: if a column cannot hold a value; the message does not show it
        """
        listed = self._listed(column.name for column in columns)
        self._check_transactions()
        self._run(f"DROP TABLE IF EXISTS {self._staging}")
        self._commit(f"CREATE TABLE {self._staging} AS SELECT {listed} FROM {self._target} WHERE 1 = 0")
        self._staged, source = 0, iter(rows)
        while chunk := [tuple(map(self._native, row)) for row in islice(source, CHUNK)]:
            self._insert(columns, chunk)
            self._staged += len(chunk)
        return self._staged

    def apply(
        self, mode: TableMode, columns: Sequence[SqlColumn], *, runs: tuple[str, Sequence[str]], change: str | None
    ) -> None:
        """Apply the staged rows to the table, in one transaction.

        :param columns: the staged columns
        :param runs: name and values of the column whose rows ``append`` replaces: those of earlier tries
        :param change: name of the column with the kind of change, if the rows are changes
        :raises CrmInvalidValueError: if the table refuses the rows, for example because of a constraint
        :raises RuntimeError: if another try has written to the staging table; the table is unchanged
        """
        listed = self._listed(column.name for column in columns)
        insert = f"INSERT INTO {self._target} ({listed}) SELECT {listed} FROM {self._staging} AS s"
        try:
            with self._transaction():
                if mode == "replace":
                    self._run(f"DELETE FROM {self._target}")
                elif mode == "append":
                    for run in runs[1]:
                        where = f"{self._quoted(runs[0])} = {self._placeholder}"
                        self._run(f"DELETE FROM {self._target} WHERE {where}", (run,))
                else:
                    insert = self._merged(columns, insert, change)
                self._run(insert)
                self._check_staged()
        except Exception as refused:
            if not is_about_values(refused):
                raise
            raise e.CrmInvalidValueError(
                f"the table {self.name} refuses the rows ({error_name(refused)}), and is unchanged; check its "
                "constraints and triggers"
            ) from None

    def _check_staged(self) -> None:
        """Make sure that the applied rows were those of this try. One that Airflow has given up may still write."""
        with closing(self._connection.cursor()) as cursor:
            cursor.execute(f"SELECT count(*) FROM {self._staging}")
            if (found := int(cursor.fetchone()[0])) != self._staged:
                raise RuntimeError(
                    f"another try of this task writes to the table {self.name}: {found} rows are staged, and "
                    f"{self._staged} of them are of this one; the table is unchanged"
                )

    def _merged(self, columns: Sequence[SqlColumn], insert: str, change: str | None) -> str:
        """Update the rows that are in the table.

        :return: the statement that inserts the others
        """
        key = self._quoted(next(column.name for column in columns if column.field == "id"))
        others = [column.name for column in columns if column.field != "id"]
        removed, kept = "", ""
        if change is not None:
            removed = f" AND s.{self._quoted(change)} = 'deleted'"
            kept = f" AND s.{self._quoted(change)} <> 'deleted'"
            self._update(key, [change], removed)
        if others:
            self._update(key, others, kept)
        return f"{insert} WHERE NOT EXISTS (SELECT 1 FROM {self._target} AS t WHERE t.{key} = s.{key}){kept}"

    def _update(self, key: str, names: Iterable[str], only: str) -> None:
        quoted = [self._quoted(name) for name in names]
        if (form := self.database.update_sql) is None:  # correlated: every database knows it
            same = f"s.{key} = {self._target}.{key}"
            values = (f"{name} = (SELECT s.{name} FROM {self._staging} AS s WHERE {same})" for name in quoted)
            found = f"EXISTS (SELECT 1 FROM {self._staging} AS s WHERE {same}{only})"
            self._run(f"UPDATE {self._target} SET {', '.join(values)} WHERE {found}")
            return
        self._run(
            form.format(
                target=self._target,
                staging=self._staging,
                key=key,
                only=only,
                pairs=", ".join(f"{name} = s.{name}" for name in quoted),
                qualified=", ".join(f"t.{name} = s.{name}" for name in quoted),
            )
        )

    # -- inserting -------------------------------------------------------------------------------------------

    def _insert(self, columns: Sequence[SqlColumn], chunk: list[tuple[Any, ...]]) -> None:
        own = getattr(type(self._hook), "insert_rows", None)
        if self.database is OTHER and own is not None and own is not _generic_insert_rows():
            self._hook.insert_rows(self._staging, chunk, [self._quoted(column.name) for column in columns])
            return
        try:
            self._send(columns, chunk)
        except Exception as refused:
            self._connection.rollback()
            self._explain(columns, chunk, refused)
            raise

    def _send(self, columns: Sequence[SqlColumn], chunk: list[tuple[Any, ...]]) -> None:
        listed = self._listed([column.name for column in columns])
        if self._placeholder in ("%s", "%d"):
            listed = listed.replace("%", "%%")
        statement = f"INSERT INTO {self._staging} ({listed}) VALUES ({', '.join([self._placeholder] * len(columns))})"
        with closing(self._connection.cursor()) as cursor:
            cursor.executemany(statement, chunk)
        self._connection.commit()

    def _explain(self, columns: Sequence[SqlColumn], chunk: list[tuple[Any, ...]], refused: Exception) -> None:
        """Find the value that a column cannot hold.

        :raises CrmInvalidValueError: naming the column and the record, without the value
        """
        if not self._fits(columns[:0], ()):
            return  # the database does not respond, or another try has dropped the staging table
        row = next((row for row in chunk if not self._fits(columns, row)), None)
        if row is None:
            return
        culprits = [n for n in range(len(row)) if row[n] is not None and self._fits(columns, without(row, n))]
        declared = self.columns()
        column = columns[culprits[0]] if culprits else None
        record = next((f" of the record {row[n]}" for n, one in enumerate(columns) if one.field == "id"), "")
        where = (
            "a column" if column is None else f"the column {column.name} ({declared.get(column.name) or 'any type'})"
        )
        raise e.CrmInvalidValueError(
            f"{where} of the table {self.name} cannot hold the value{record} ({error_name(refused)}); change the type "
            "of the column, or leave the field out with columns="
        ) from None

    def _fits(self, columns: Sequence[SqlColumn], row: Sequence[Any]) -> bool:
        """Whether the staging table accepts a row, which is not kept; without columns, if it exists."""
        names = [column.name for column in columns]
        try:
            with closing(self._connection.cursor()) as cursor:
                if not names:
                    cursor.execute(f"SELECT 1 FROM {self._staging} WHERE 1 = 0")
                    return True
                listed = self._listed(names).replace("%", "%%" if self._placeholder == "%s" else "%")
                values = ", ".join([self._placeholder] * len(names))
                cursor.execute(f"INSERT INTO {self._staging} ({listed}) VALUES ({values})", tuple(row))
        except Exception:  # noqa: BLE001 - any error of the driver means "no"
            return False
        finally:
            with suppress(Exception):
                self._connection.rollback()
        return True

    def _native(self, value: Any) -> Any:
        """A value for the driver."""
        if self.database is SQLITE:
            return for_sqlite(value)
        if self.database is MYSQL and hasattr(value, "astimezone"):
            return value.replace(tzinfo=None)  # in UTC
        return value

    # -- helpers ---------------------------------------------------------------------------------------------

    @property
    def _target(self) -> str:
        return ".".join(self._quoted(part) for part in (self._schema, self._table) if part is not None)

    @property
    def _staging(self) -> str:
        return ".".join(self._quoted(part) for part in (self._schema, f"crm_staging_{self._mark}") if part is not None)

    def _quoted(self, word: str) -> str:
        """A name between the quotes of the hook's dialect. A quote in it is doubled."""
        form = self.database.word_format
        given = getattr(self._hook, "escape_word_format", None) if self.database is OTHER else None
        if isinstance(given, str) and given.count("{}") == 1 and len(given) > 2:
            form = given
        return form.format(word.replace(form[-1], form[-1] * 2))

    def _listed(self, names: Iterable[str]) -> str:
        return ", ".join(self._quoted(name) for name in names)

    def _run(self, statement: str, parameters: tuple[Any, ...] = ()) -> None:
        with closing(self._connection.cursor()) as cursor:
            if parameters:
                cursor.execute(statement, parameters)
            else:
                cursor.execute(statement)

    def _commit(self, statement: str) -> None:
        self._run(statement)
        self._connection.commit()

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        try:
            yield
            self._connection.commit()
        except BaseException:
            with suppress(Exception):  # the connection is lost: the server has rolled back
                self._connection.rollback()
            raise

    def _described(self) -> dict[str, str]:
        """The columns of an empty result, for databases whose catalogue is unknown."""
        try:
            with closing(self._connection.cursor()) as cursor:
                cursor.execute(f"SELECT * FROM {self._target} WHERE 1 = 0")
                return {str(column[0]): "" for column in cursor.description}
        except Exception:  # noqa: BLE001 - each driver has its own error for a missing table
            return {}
        finally:
            self._connection.rollback()

    def _check_schema(self) -> None:
        """Refuse the name of a schema in SQLite, where it would be that of an attached database."""
        if self.database is not SQLITE or self._schema is None:
            return
        with closing(self._connection.cursor()) as cursor:
            cursor.execute("SELECT name FROM pragma_database_list")
            attached = {as_text(name).casefold() for (name,) in cursor.fetchall()}
        if self._schema.casefold() not in attached:
            raise e.CrmInvalidValueError(
                f"SQLite has no schemas, and no database {self._schema} is attached; name the table {self._table}"
            )

    def _check_transactions(self) -> None:
        """Refuse a table without transactions, which shows each row at once.

        :raises CrmInvalidValueError: for an engine of MariaDB or MySQL without transactions
        """
        if self.database is not MYSQL:
            return
        with closing(self._connection.cursor()) as cursor:
            cursor.execute(
                "SELECT t.engine FROM information_schema.tables t JOIN information_schema.engines g ON g.engine = "
                "t.engine WHERE g.transactions <> 'YES' AND t.table_name = %s AND t.table_schema = COALESCE(%s, "
                "DATABASE())",
                (self._table, self._schema),
            )
            engine = cursor.fetchone()
        if engine:
            raise e.CrmInvalidValueError(
                f"the table {self.name} has the engine {as_text(engine[0])}, which has no transactions; use InnoDB"
            )


def with_kinds(columns: Iterable[SqlColumn], declared: Mapping[str, str]) -> list[SqlColumn]:
    """Columns with the kinds that match a table's types."""
    types = {name.casefold(): declared_type for name, declared_type in declared.items()}
    return [
        replace(one, kind=kind_of_type(types[one.name.casefold()])) if types.get(one.name.casefold()) else one
        for one in columns
    ]


def _generic_insert_rows() -> Callable[..., Any] | None:
    from airflow.providers.common.sql.hooks.sql import DbApiHook

    return DbApiHook.insert_rows
