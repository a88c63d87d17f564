"""Listings written to SQLite: modes, retries and rejected arguments. ``tests/system`` has real servers."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import table_scenes as scenes
from airflow.sdk import DAG, Connection
from table_scenes import SqliteTarget, TargetHook, Transfers, email_of

from crm_provider import config
from crm_provider.sandbox import Sandbox, SandboxSettings
from crm_provider.transfers.crm_to_sql import CrmToSqlOperator

RunDag = Callable[..., Any]


@pytest.fixture
def database(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SqliteTarget:
    path = str(tmp_path / "warehouse.db")
    monkeypatch.setenv("AIRFLOW_CONN_DB", '{"conn_type": "generic"}')
    monkeypatch.setattr(Connection, "get_hook", lambda self, **_: TargetHook(path))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    return SqliteTarget(path)


@pytest.fixture
def transfer(crm: Sandbox, run_dag: RunDag, database: SqliteTarget) -> Transfers:
    crm.reset(SandboxSettings(seed="contacts:35", rate=None))
    return Transfers(run_dag, crm)


def test_replace_mode_in_sqlite(transfer: Transfers, database: SqliteTarget) -> None:
    scenes.check_replace(transfer, database, "people")
    assert database.types("people")["createdAt"] == "TIMESTAMP"
    assert database.rows("SELECT name FROM sqlite_master WHERE name LIKE 'crm%'") == []


def test_append_mode_in_sqlite(transfer: Transfers, database: SqliteTarget) -> None:
    scenes.check_append(transfer, database, "history")


def test_merge_mode_in_sqlite(transfer: Transfers, database: SqliteTarget) -> None:
    scenes.check_merge(transfer, database, "people")


def test_changes_in_sqlite(transfer: Transfers, database: SqliteTarget, tmp_path: Path) -> None:
    scenes.check_changes(transfer, database, "people", str(tmp_path / "seen"))


def test_changes_without_a_saved_state_in_sqlite(
    transfer: Transfers, database: SqliteTarget, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scenes.check_changes_whose_state_was_not_saved(transfer, database, "log", str(tmp_path / "seen"), monkeypatch)


def test_changes_of_an_older_run_in_sqlite(transfer: Transfers, database: SqliteTarget, tmp_path: Path) -> None:
    scenes.check_changes_of_an_older_run(transfer, database, "log", str(tmp_path / "seen"))


class UnknownConnection:
    """A connection of an unknown driver."""

    def __init__(self, path: str) -> None:
        self._inner = sqlite3.connect(path)
        self.cursor, self.commit = self._inner.cursor, self._inner.commit
        self.rollback, self.close = self._inner.rollback, self._inner.close


class UnknownHook(TargetHook):
    """A hook with its own ``insert_rows`` and its own quoting."""

    placeholder = "?"
    escape_word_format = "[{}]"

    def __init__(self, path: str) -> None:
        super().__init__(path)
        self.inserted = 0

    def get_conn(self) -> Any:
        return UnknownConnection(self.path)

    def insert_rows(self, table: str, rows: Any, target_fields: Any = None, **_: Any) -> None:
        connection = sqlite3.connect(self.path)
        marks = ", ".join("?" for _ in target_fields)
        connection.executemany(f"INSERT INTO {table} ({', '.join(target_fields)}) VALUES ({marks})", rows)
        connection.commit()
        connection.close()
        self.inserted += len(rows)


def test_unknown_database_uses_insert_rows_and_standard_sql(
    transfer: Transfers, database: SqliteTarget, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows are inserted with the hook's ``insert_rows``, and updates use standard SQL only."""
    hook = UnknownHook(database.path)
    monkeypatch.setattr(Connection, "get_hook", lambda self, **_: hook)
    task = transfer(table="unknown", mode="merge", create_table=True, columns=["id"])
    assert "the types of this database are not known" in str(task.error)
    types = {"id": "text", "attributes.name": "text"}
    assert transfer(table="known", mode="merge", create_table=True, columns=types).result["rows"] == 35
    scenes.check_changes(transfer, database, "known", str(tmp_path / "seen"))
    assert hook.inserted == 35 + 35 + 2


def test_columns_differ_by_the_case_of_non_ascii_letters(transfer: Transfers, database: SqliteTarget) -> None:
    """SQLite ignores the case of ASCII letters only."""
    database.run('CREATE TABLE accents (ID TEXT, "attributes_É" TEXT)')
    task = transfer(table="accents", mode="replace", create_table=True, columns=["id", "attributes.é"])
    assert task.result["rows"] == 35
    assert list(database.types("accents")) == ["ID", "attributes_É", "attributes_é"]


@pytest.mark.parametrize("has_work_directory", [False, True])
def test_retry_after_a_database_error_reuses_the_pages(
    has_work_directory: bool,
    transfer: Transfers,
    database: SqliteTarget,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Pages are kept, the staging table is replaced, and no row is duplicated. In a pod this needs a work directory."""
    from crm_provider.transfers.sql_table import SqlTable

    work = tmp_path / "work"
    monkeypatch.setattr(config, "runs_in_own_pod", lambda: True)
    monkeypatch.setattr(Path, "is_mount", lambda path: path in (Path("/"), work))
    if has_work_directory:
        monkeypatch.setenv("AIRFLOW__CRM__WORK_DIRECTORY", str(work))
    apply, failures = SqlTable.apply, [sqlite3.OperationalError("disk I/O error")]

    def failing(self: SqlTable, *args: Any, **arguments: Any) -> None:
        if failures:
            assert work.exists() == has_work_directory
            raise failures.pop()
        apply(self, *args, **arguments)

    monkeypatch.setattr(SqlTable, "apply", failing)
    task = transfer(table="history", mode="append", create_table=True, columns=["id"])
    assert task.states == ["up_for_retry", "success"]
    assert (task.result["calls"], task.result["rows"]) == (0, 35)
    assert database.rows("SELECT count(*), count(DISTINCT id) FROM history") == [(35, 35)]
    assert ("A retry will read all pages again" in task.log) != has_work_directory
    assert not has_work_directory or list(work.iterdir()) == []


@pytest.mark.parametrize("mode", ["replace", "append", "merge"])
def test_rows_that_another_try_has_staged_are_not_applied(
    mode: str, transfer: Transfers, database: SqliteTarget, monkeypatch: pytest.MonkeyPatch
) -> None:
    from crm_provider.transfers.sql_table import SqlTable

    apply, late = SqlTable.apply, ["of a try that Airflow has given up"]

    def applied(self: SqlTable, *args: Any, **arguments: Any) -> None:
        if late:
            database.run(f"INSERT INTO {self._staging} (id) VALUES ('{late.pop()}')")
        apply(self, *args, **arguments)

    monkeypatch.setattr(SqlTable, "apply", applied)
    task = transfer(table="people", mode=mode, create_table=True, columns=["id"])
    assert task.states == ["up_for_retry", "success"]
    assert "36 rows are staged, and 35 of them are of this one; the table is unchanged" in str(task.attempts[0].error)
    assert database.rows("SELECT count(*), count(DISTINCT id) FROM people") == [(35, 35)]


def test_staging_table_that_another_try_has_dropped_is_no_fault_of_a_value(
    transfer: Transfers, database: SqliteTarget, monkeypatch: pytest.MonkeyPatch
) -> None:
    from crm_provider.transfers.sql_table import SqlTable

    insert, drops = SqlTable._insert, ["DROP TABLE {}"]

    def inserted(self: SqlTable, *args: Any) -> None:
        database.run(*(drops.pop().format(self._staging) for _ in list(drops)))
        insert(self, *args)

    monkeypatch.setattr(SqlTable, "_insert", inserted)
    task = transfer(table="people", mode="replace", create_table=True, columns=["id"])
    assert task.states == ["up_for_retry", "success"]
    assert "no such table: crm_staging_" in str(task.attempts[0].error)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"table": "absent", "mode": "replace"},
            "the database has no table absent; create it, or set create_table=True",
        ),
        (
            {"table": "bare", "mode": "merge"},
            r"the table bare lacks columns \(\d+\): 'email', .*; add them, choose others with columns=, or set",
        ),
        (
            {"table": "bare", "mode": "append", "columns": ["id"]},
            r"the table bare lacks columns \(2\): 'crm_loaded_at', 'crm_run'; add them, or set create_table=True",
        ),
        (
            {"table": "sales.bare", "mode": "merge"},
            "SQLite has no schemas, and no database sales .*; name the table bare",
        ),
        ({"table": "Main.absent", "mode": "merge"}, "the database has no table Main.absent"),
        ({"table": "a.b.c", "mode": "merge"}, "table must be the name of a table"),
        ({"table": "{{ '' }}", "mode": "merge"}, "table must be text, and not empty"),
        ({"table": "bare", "mode": "merge", "columns": "{{ 'id' }}"}, "columns must be a list of fields"),
    ],
)
def test_invalid_table_argument_fails_the_task(
    arguments: dict[str, Any], message: str, transfer: Transfers, database: SqliteTarget
) -> None:
    database.run("CREATE TABLE bare (id TEXT)")
    task = transfer(**arguments)
    assert task.states == ["failed"]
    assert task.xcoms["crm_error"]["type"] == "INVALID_VALUE"
    with pytest.raises(type(task.error), match=message):
        raise task.error
    assert len(transfer.crm.journal()) == (0 if "lacks" not in message else 4)
    assert database.rows("SELECT * FROM bare") == []


def test_connection_without_a_database_is_a_configuration_error(
    transfer: Transfers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Connection, "get_hook", lambda self, **_: object())
    task = transfer(table="people", mode="replace", create_table=True)
    assert task.states == ["failed"]
    assert task.xcoms["crm_error"]["type"] == "CONFIGURATION"
    assert "not a database hook" in str(task.error)
    assert transfer.crm.journal() == []


def test_missing_database_connection_is_a_configuration_error(transfer: Transfers) -> None:
    task = transfer(sql_conn_id="warehouse", table="people", mode="replace", create_table=True)
    assert task.states == ["failed"]
    assert task.xcoms["crm_error"]["type"] == "CONFIGURATION"
    assert "Airflow has no connection 'warehouse'; create it with the type and the address" in str(task.error)
    assert transfer.crm.journal() == []


def test_constraint_violation_is_reported_without_row_values(transfer: Transfers, database: SqliteTarget) -> None:
    database.run("CREATE TABLE strict_people (id TEXT, email TEXT CHECK (length(email) < 3))")
    task = transfer(table="strict_people", mode="replace", columns=["id", "email"])
    assert task.states == ["failed"]
    assert "the table strict_people refuses the rows (IntegrityError" in str(task.error)
    assert email_of(transfer.crm, 0) not in str(task.error)


def test_mapped_transfers_do_not_replace_each_others_rows(transfer: Transfers, database: SqliteTarget) -> None:
    with DAG("mapped_tables", schedule=None, default_args={"sql_conn_id": "db", "table": "t"}) as dag:
        one = CrmToSqlOperator.partial(task_id="one", mode="replace", create_table=True)
        one.expand(listing=["contacts", "lists"])
        own = CrmToSqlOperator.partial(task_id="own", mode="replace", create_table=True)
        own.expand_kwargs([{"listing": "contacts", "table": "people"}, {"listing": "lists", "table": "lists"}])
    run = transfer.run_dag(dag)
    assert run.states() == {"one[0]": "failed", "one[1]": "failed", "own[0]": "success", "own[1]": "success"}
    assert "all instances of this mapped task would replace the rows of the table t" in str(run["one[0]"].error)
    assert run["own[0]"].result["rows"] == 35


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"listing": "people"}, "known: contacts, deals, lists"),
        ({"mode": "insert"}, "known: replace, append, merge"),
        ({"columns": ["email"]}, "columns must contain 'id'"),
        ({"columns": {"id": "int; DROP TABLE x"}}, "has no valid type"),
        ({"changes_since": "last"}, "needs a state_path"),
    ],
)
def test_invalid_argument_is_an_error_at_parse(arguments: dict[str, Any], message: str) -> None:
    with DAG("bad_table", schedule=None), pytest.raises(ValueError, match=message):
        CrmToSqlOperator(
            task_id="task", **{"listing": "lists", "sql_conn_id": "db", "table": "t", "mode": "merge", **arguments}
        )
