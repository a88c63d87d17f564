"""The transfer from the CRM to a database: a listing becomes a table."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, get_args

from crm_provider import errors as e
from crm_provider._compat import Context
from crm_provider.client import validation
from crm_provider.extract.columns import ColumnChoice, SqlColumn, chosen_columns
from crm_provider.extract.writers import CHANGE, IfChanged, Since, check_changes_since, check_if_changed, field_value
from crm_provider.files.paths import AnyPath, as_path
from crm_provider.load.rows import SourceError
from crm_provider.observability.assets import note_listing
from crm_provider.observability.lineage import TableLineage
from crm_provider.operators.base import CrmOperator
from crm_provider.operators.extract import MappedOutputs, check_files, goes_on, owner_of, tracker_of
from crm_provider.tasks.arguments import rendered
from crm_provider.tasks.mixins import naming_task
from crm_provider.tasks.outcome import retries_left
from crm_provider.tasks.templates import is_mapped, path_text, with_connection
from crm_provider.transfers.sql_table import SqlTable, TableMode, check_table_mode, with_kinds
from crm_provider.transfers.sql_to_crm import database_of
from crm_provider.values.counted import counted
from crm_provider.values.suggest import check_choice

if TYPE_CHECKING:
    from airflow.sdk.definitions.mappedoperator import OperatorPartial
    from typing_extensions import Unpack

    from crm_provider.client.pagination import Record
    from crm_provider.extract.changes import ChangeTracker
    from crm_provider.extract.reader import ExtractStats, ListingReader
    from crm_provider.tasks.arguments import CrmArguments, PathArgument, Templated

ListingName = Literal["contacts", "deals", "lists"]

LOADED_AT, RUN = "crm_loaded_at", "crm_run"
"""Columns of our own with ``append``: the time and the mark of the run."""

OURS = ("attributes_", "origin_")
"""Prefixes of columns whose fields may disappear from a listing; ``merge`` then sets them to null."""


class CrmToSqlOperator(TableLineage, MappedOutputs, CrmOperator):
    """Read a listing, ten records per call, into a table of any database whose Airflow hook is a ``DbApiHook``.

    The rows go into a staging table. Then one transaction applies them to the table, so that no reader sees a part. A
    retry continues after the last page that was saved, and never adds a row twice.

    XCom: ``{"records", "pages", "calls", "total", "total_at_start", "duplicates", "changed_during_read", "table",
    "rows", "seconds"}``, and ``"changes"`` with ``changes_since``: counts, no values.

    :param listing: ``contacts``, ``deals`` or ``lists``
    :param sql_conn_id: connection to the database
    :param table: name of the table, with its schema before a dot if necessary
    :param mode: ``replace`` the rows of the table, ``append`` rows with the time of the run, or ``merge`` rows by their
        ``id``
    :param create_table: create the table, and columns that it lacks
    :param columns: fields that become columns: a list of their names (``attributes.name``), or a mapping of them to SQL
        types or to ``{"column": ..., "type": ...}``. None: all fields. Missing types follow from the values
    :param if_changed: if the listing changed while it was read: ``warn``, ``fail``, or ``restart`` at most twice and
        then fail
    :param changes_since: ``last``: only what was created, changed or removed since the last run, with the kind of
        change in ``crm_change``. It still reads all pages
    :param state_path: file that remembers the records of the last run; one for each task
    :param pages_path: file beside which the pages read so far are kept, so that a retry can continue; by default beside
        the state file, else in the site's ``work_directory``, else in a folder for temporary files of the worker
    :param hook_params: arguments for the hook
    :raises ValueError: if an option is not valid; at DAG parse
    """

    template_fields: Sequence[str] = (
        "table", "sql_conn_id", "columns", "state_path", "pages_path", *CrmOperator.template_fields,
    )  # fmt: skip
    template_fields_renderers: ClassVar[dict[str, str]] = {"columns": "json"}
    policy_name = "CrmToSqlOperator"
    publishes_reasons = True

    database: tuple[Any, Any] = (None, None)
    """The database's hook and connection, once they are known."""

    def __init__(
        self,
        *,
        listing: ListingName,
        sql_conn_id: Templated[str],
        table: Templated[str],
        mode: TableMode,
        create_table: bool = False,
        columns: Templated[ColumnChoice] | None = None,
        if_changed: IfChanged = "warn",
        changes_since: Since | None = None,
        state_path: PathArgument | None = None,
        pages_path: PathArgument | None = None,
        hook_params: Mapping[str, Any] | None = None,
        **kwargs: Unpack[CrmArguments],
    ) -> None:
        super().__init__(**kwargs)
        with naming_task(type(self), self.task_id):
            if not is_mapped(self):
                _check_listing(listing)
                check_table_mode(mode)
                check_changes_since(changes_since, state_path)
                if isinstance(columns, (list, tuple, dict)):  # otherwise an XCom that does not exist yet
                    _check_columns(columns, mode, changes_since)
            check_if_changed(if_changed)
            self.create_table = validation.boolean(create_table, "create_table")
        self.note_given(table=table, sql_conn_id=sql_conn_id, state_path=state_path, hook_params=hook_params)
        self.listing, self.mode = listing, mode
        self.sql_conn_id = rendered(sql_conn_id)
        self.table = rendered(table)
        self.columns = rendered(columns)
        self.if_changed, self.changes_since = if_changed, changes_since
        self.state_path = path_text(state_path)
        self.pages_path = path_text(pages_path)
        self.hook_params = hook_params

    if TYPE_CHECKING:

        @classmethod
        def partial(
            cls,
            *,
            listing: ListingName = ...,
            sql_conn_id: Templated[str] = ...,
            table: Templated[str] = ...,
            mode: TableMode = ...,
            create_table: bool = ...,
            columns: Templated[ColumnChoice] | None = ...,
            if_changed: IfChanged = ...,
            changes_since: Since | None = ...,
            state_path: PathArgument | None = ...,
            pages_path: PathArgument | None = ...,
            hook_params: Mapping[str, Any] | None = ...,
            **kwargs: Unpack[CrmArguments],
        ) -> OperatorPartial: ...

    def call(self, context: Context) -> dict[str, Any]:
        from crm_provider.extract.reader import ListingReader

        ti = context["ti"]
        self._check()
        self._check_mapped(ti)
        check_files(state_path=self.state_path)
        self.separate_files(ti, "state_path")
        with self.hook.bulk_client() as client:
            merges = self.mode == "merge"
            tracker = tracker_of(client, self.listing, self.changes_since, self.state_path, None, ti, merges=merges)
            self._check_table(owner_of(ti).mark)
            reader = ListingReader(client, self.listing, self._pages(), owner=owner_of(ti), if_changed=self.if_changed)
            try:
                result = self._transferred(reader, tracker, context)
            except e.CrmError as error:
                if not goes_on(self, error, ti):
                    reader.discard()
                raise
            except Exception:  # for example of the database: Airflow retries it
                if not retries_left(ti):
                    reader.discard()
                raise
        note_listing(self, context, result)
        return result

    # -- before ----------------------------------------------------------------------------------------------

    def _check(self) -> None:
        """Check the arguments again, once templates are rendered.

        :raises CrmInvalidValueError: if one is not valid
        :raises CrmConfigurationError: if the connection does not exist, is not to a database, or lacks its provider
        """
        try:
            _check_listing(self.listing)
            check_table_mode(self.mode)
            _check_columns(self.columns, self.mode, self.changes_since)
            _check_text("sql_conn_id", self.sql_conn_id)
            _check_text("table", self.table)
        except ValueError as wrong:
            raise e.CrmInvalidValueError(str(wrong)) from None
        try:
            self.database = database_of(self.sql_conn_id, self.hook_params)
        except SourceError as wrong:
            raise e.CrmConfigurationError(str(wrong)) from None

    def _check_mapped(self, ti: Any) -> None:
        """Refuse a mapped task whose instances replace each other's rows.

        :raises CrmInvalidValueError: naming the fix
        """
        is_one = self.is_shared("table", ti) and self.is_shared("sql_conn_id", ti)
        if self.mode == "replace" and is_one and (self.hook_params is None or self.is_shared("hook_params", ti)):
            raise e.CrmInvalidValueError(
                f"all instances of this mapped task would replace the rows of the table {self.table}, and only those "
                "of the last instance would stay; give each its own table (with {{ ti.map_index }} in its name, or in "
                "expand), or use mode='append' or 'merge'"
            )

    def _check_table(self, mark: str) -> None:
        """Check before the first call that the table exists."""
        with self._opened(mark) as table:
            if not table.columns() and not self.create_table:
                raise e.CrmInvalidValueError(
                    f"the database has no table {self.table}; create it, or set create_table=True"
                )

    def _opened(self, mark: str) -> SqlTable:
        return SqlTable(self.database[0], self.table, mark=mark)

    def _pages(self) -> AnyPath:
        """The file beside which pages are kept."""
        from crm_provider.tasks.state import REMEDY, lost_with_pod

        pages = self._pages_path()
        if lost_with_pod(pages):
            self.log.warning(
                "A retry will read all pages again: they are kept on the disk of this pod, which is deleted after the "
                "try. Set %s, or pages_path.",
                REMEDY,
            )
        return pages

    def _pages_path(self) -> AnyPath:
        from crm_provider.tasks.state import pages_beside

        given = self.pages_path or self.state_path
        if given is not None:
            return as_path(with_connection(given))
        return pages_beside(self.listing) or _temporary_folder() / self.listing

    # -- the run ---------------------------------------------------------------------------------------------

    def _transferred(self, reader: ListingReader, tracker: ChangeTracker | None, context: Context) -> dict[str, Any]:
        started, own = time.monotonic(), owner_of(context["ti"]).mark
        with tracker or nullcontext():
            stats = reader.read()
            with self._opened(own) as table:
                mark = own if tracker is None else tracker.run
                columns = self._prepared(table, reader, stats)
                rows = self._rows(columns, self._records(reader, stats, tracker), _run_time(context), mark)
                count = table.stage(columns, rows)
                change = None if tracker is None else CHANGE
                runs = [mark] if tracker is None or self.mode != "append" else tracker.announce()
                table.apply(self.mode, columns, runs=(RUN, runs), change=change)
            if tracker is not None:
                tracker.commit()
        reader.discard()
        self.log.info("%s of %s for the table %s (%s).", counted(count, "row"), self.listing, self.table, self.mode)
        changes = {} if tracker is None else {"changes": tracker.summary()}
        seconds = round(time.monotonic() - started, 3)
        return {**stats.counts(), "table": self.table, "rows": count, "seconds": seconds, **changes}

    def _records(self, reader: ListingReader, stats: ExtractStats, tracker: ChangeTracker | None) -> Iterator[Record]:
        records, chosen = reader.records(stats), chosen_columns(self.columns)
        if tracker is None:
            return records

        def view(record: Record) -> Record:
            return record if chosen is None else {one.field: field_value(record, one.field) for one in chosen}

        return tracker.changes(records, view, quiet=not stats.changed)

    def _prepared(self, table: SqlTable, reader: ListingReader, stats: ExtractStats) -> list[SqlColumn]:
        """The columns of the rows. Missing ones are created.

        :raises CrmInvalidValueError: if the table lacks some and may not get them
        """
        from crm_provider.extract.columns import check_names

        existing = table.columns()
        columns = self._wanted(reader, stats, existing)
        try:
            check_names(columns)
        except ValueError as wrong:
            raise e.CrmInvalidValueError(str(wrong)) from None
        missing = table.missing(columns, existing)
        if missing and not self.create_table:
            names = ", ".join(repr(column.name) for column in missing[:5])
            are_own = {column.name for column in missing} <= {LOADED_AT, RUN, CHANGE}  # which nobody can choose
            raise e.CrmInvalidValueError(
                f"the table {self.table} lacks columns ({len(missing)}): {names}; add them"
                f"{'' if are_own else ', choose others with columns='}, or set create_table=True"
            )
        if not existing:
            table.create(columns)
        elif missing:
            table.add(missing)
        return with_kinds(columns, table.columns())

    def _wanted(self, reader: ListingReader, stats: ExtractStats, existing: Mapping[str, str]) -> list[SqlColumn]:
        from crm_provider.extract.columns import ColumnKinds, column_name

        found = ColumnKinds()
        for record in reader.records(stats):
            found.note(record)
        kinds = found.kinds() or {"id": "text"}
        chosen = chosen_columns(self.columns)
        stats.warn_of_unknown(one.field for one in chosen or ())
        columns: list[SqlColumn] = []
        if chosen is None:
            columns = [SqlColumn(field=name, name=column_name(name), kind=kind) for name, kind in kinds.items()]
            columns += self._vanished(columns, existing)
        for one in chosen or ():
            kind = one.kind if one.declared else kinds.get(one.field, "text")
            columns.append(SqlColumn(field=one.field, name=one.name, kind=kind, declared=one.declared))
        return [*columns, *self._own_columns()]

    def _vanished(self, columns: Sequence[SqlColumn], existing: Mapping[str, str]) -> list[SqlColumn]:
        """Columns of the table whose field no record has any more: merged rows get null there."""
        names = {column.name.casefold() for column in columns}
        gone = [name for name in existing if name.startswith(OURS) and name.casefold() not in names]
        return [SqlColumn(field=f"{name}.", name=name) for name in gone] if self.mode == "merge" else []

    def _own_columns(self) -> list[SqlColumn]:
        own = []
        if self.changes_since is not None:
            own.append(SqlColumn(field=CHANGE, name=CHANGE, declared="VARCHAR(40)"))
        if self.mode == "append":
            own.append(SqlColumn(field=LOADED_AT, name=LOADED_AT, kind="timestamp"))
            own.append(SqlColumn(field=RUN, name=RUN, declared="VARCHAR(40)"))
        return own

    def _rows(
        self, columns: Sequence[SqlColumn], records: Iterator[Record], loaded_at: datetime, mark: str
    ) -> Iterator[list[Any]]:
        from crm_provider.client.pagination import LISTINGS, id_of
        from crm_provider.extract.columns import fitted

        fixed = {LOADED_AT: loaded_at, RUN: mark} if self.mode == "append" else {}
        for record in records:
            if self.mode == "merge":
                id_of(record.get("id"), LISTINGS[self.listing])
            yield [
                fixed[one.field] if one.field in fixed else fitted(field_value(record, one.field), one.kind)
                for one in columns
            ]


def _temporary_folder() -> Path:
    """A folder of this user for temporary files of the worker."""
    import os

    from crm_provider.files.private import open_own_folder

    folder = Path(tempfile.gettempdir()) / f"crm-provider-pages-{os.geteuid()}"
    os.close(open_own_folder(folder))
    return folder


def _check_listing(listing: object) -> None:
    check_choice("listing", listing, get_args(ListingName))


def _check_text(name: str, value: object) -> None:
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"{name} must be text, and not empty")


def _check_columns(columns: Any, mode: str, changes_since: object) -> None:
    """Refuse columns that are not valid, or lack an id that is needed to find rows.

    :raises ValueError: naming the problem
    """
    chosen = chosen_columns(columns)
    if chosen is not None and (mode == "merge" or changes_since) and all(one.field != "id" for one in chosen):
        raise ValueError("columns must contain 'id', because mode='merge' and changes_since find rows by it")


def _run_time(context: Context) -> datetime:
    """When the DAG run was due: the same in each try, also after a clear."""
    due = getattr(context.get("dag_run"), "run_after", None)
    return due.astimezone(timezone.utc) if isinstance(due, datetime) else datetime.now(timezone.utc)
