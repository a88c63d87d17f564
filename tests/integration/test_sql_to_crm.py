"""Streaming rows from a database to the CRM through any ``DbApiHook``."""

from __future__ import annotations

import sqlite3
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar

import pytest
from airflow.providers.common.sql.hooks.sql import DbApiHook
from airflow.sdk import Connection

from crm_provider.load.rows import SourceError
from crm_provider.sandbox import Sandbox, SandboxSettings
from crm_provider.transfers import sql_drivers
from crm_provider.transfers.sql_drivers import CURSOR_NAME, driver_of
from crm_provider.transfers.sql_rows import SqlRows
from crm_provider.transfers.sql_to_crm import SqlToCrmContactsOperator, SqlToCrmDealsOperator

RunTask = Callable[..., Any]
MAPPING = {"email": "mail", "name": "first"}


class FileHook(DbApiHook):
    """A hook for SQLite that does not need its provider."""

    conn_name_attr = "file_conn_id"
    opened: list[Closing]

    def __init__(self, path: str, hook_params: dict[str, Any]) -> None:
        super().__init__(file_conn_id="db")
        self.path, self.opened = path, []
        self.hook_params = hook_params

    def get_conn(self) -> Any:
        self.opened.append(sqlite3.connect(self.path, factory=Closing))
        return self.opened[-1]


class Closing(sqlite3.Connection):
    """Records whether the connection was closed."""

    closed = False

    def close(self) -> None:
        self.closed = True
        super().close()


@pytest.fixture
def database(tmp_path: Path) -> str:
    path = str(tmp_path / "leads.db")
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE leads (mail TEXT, first TEXT, score REAL)")
        connection.executemany(
            "INSERT INTO leads VALUES (?, ?, ?)", [(f"p{n}@example.com", f"N{n}", n / 2) for n in range(1, 31)]
        )
    return path


@pytest.fixture
def hook(database: str, monkeypatch: pytest.MonkeyPatch) -> FileHook:
    """The hook of the connection ``db``."""
    made = FileHook(database, {})

    def get_hook(self: Any, *, hook_params: dict[str, Any] | None = None) -> FileHook:
        made.hook_params = hook_params or {}
        return made

    monkeypatch.setenv("AIRFLOW_CONN_DB", '{"conn_type": "generic"}')
    monkeypatch.setattr(Connection, "get_hook", get_hook)
    return made


@pytest.fixture
def crm(crm: Sandbox) -> Sandbox:
    crm.reset(SandboxSettings(seed="empty", rate=None))
    return crm


def test_query_rows_become_contacts(crm: Sandbox, run_task: RunTask, hook: FileHook) -> None:
    end = run_task(
        SqlToCrmContactsOperator,
        sql="SELECT mail, first, score FROM leads WHERE score > ? ORDER BY mail", parameters=["{{ 10 }}"],
        sql_conn_id="db", hook_params={"log_sql": False}, fetch_size=4, mapping={**MAPPING, "score": "score"},
    )  # fmt: skip
    assert end.states == ["success"]
    assert end.result["created"] == 10
    assert crm.store.contacts["p21@example.com"].attributes == {"name": "N21", "score": 10.5}
    assert hook.hook_params == {"log_sql": False}
    assert [connection.closed for connection in hook.opened] == [True], "the query runs once"


@pytest.mark.parametrize(
    ("sql", "message"),
    [
        ("SELECT mail, first AS mail FROM leads", "several columns of the query are named 'mail'"),
        ("CREATE TABLE other (mail TEXT)", "returns no rows"),
        ("SELECT first FROM leads", "no column 'mail'"),
        (" ", "sql is empty"),
        ("SELECT mail, first FROM leads; DELETE FROM leads", "sql has 2 statements; give one query"),
    ],
)
def test_invalid_query_fails_without_a_retry(
    sql: str, message: str, crm: Sandbox, run_task: RunTask, hook: FileHook
) -> None:
    end = run_task(SqlToCrmContactsOperator, sql=sql, sql_conn_id="db", mapping=MAPPING)
    assert end.states == ["failed"]
    assert message in str(end.error)
    assert all(connection.closed for connection in hook.opened)
    assert not crm.journal()


def test_database_error_is_retried(crm: Sandbox, run_task: RunTask, hook: FileHook) -> None:
    end = run_task(SqlToCrmContactsOperator, sql="SELECT * FROM absent", sql_conn_id="db", mapping=MAPPING)
    assert end.states == ["up_for_retry", "failed"]
    assert isinstance(end.error, sqlite3.OperationalError)
    assert all(connection.closed for connection in hook.opened)


def test_connection_without_a_database_hook_is_named(crm: Sandbox, run_task: RunTask, crm_connection: str) -> None:
    end = run_task(SqlToCrmContactsOperator, sql="SELECT 1", sql_conn_id="crm_default", mapping=MAPPING)
    assert end.states == ["failed"]
    assert "'crm_default' is of type CrmHook" in str(end.error)


@pytest.mark.parametrize("operator", [SqlToCrmContactsOperator, SqlToCrmDealsOperator])
def test_missing_database_connection_fails_without_a_retry(operator: Any, crm: Sandbox, run_task: RunTask) -> None:
    options = {"mapping": MAPPING} if operator is SqlToCrmContactsOperator else {"mode": "move"}
    end = run_task(operator, sql="SELECT 1", sql_conn_id="warehouse", **options)
    assert end.states == ["failed"]
    assert (
        "Airflow has no connection 'warehouse'; create it with the type and the address of your database, or set the "
        "environment variable AIRFLOW_CONN_WAREHOUSE"
    ) in str(end.error)
    assert not crm.journal()


def test_sql_transfer_arguments_are_checked_at_parse() -> None:
    with pytest.raises(ValueError, match="fetch_size is 0; give at least 1"):
        SqlToCrmContactsOperator(task_id="load", sql="SELECT 1", sql_conn_id="db", fetch_size=0)
    with pytest.raises(ValueError, match="max_rejects='x'"):
        SqlToCrmContactsOperator.partial(task_id="load", sql_conn_id="db", max_rejects="x")


# -- row iteration --------------------------------------------------------------------------------------------


def test_query_rows_can_be_read_twice(database: str) -> None:
    source = SqlRows(lambda: sqlite3.connect(database), "SELECT mail FROM leads ORDER BY score", fetch_size=7)
    assert source.columns == ("mail",)
    assert [row.number for row in source.rows()] == list(range(1, 31))
    assert next(iter(source.rows())).values == {"mail": "p1@example.com"}
    source.close()


def test_connection_is_closed_if_no_row_is_read(database: str) -> None:
    made: list[Closing] = []

    def connect() -> Closing:
        made.append(sqlite3.connect(database, factory=Closing))
        return made[-1]

    source = SqlRows(connect, "SELECT mail FROM leads")
    assert source.columns == ("mail",)
    source.close()
    with pytest.raises(SourceError):
        _ = SqlRows(connect, "SELECT 1 AS a, 2 AS a").columns
    assert made[0].closed


def test_rows_are_fetched_in_batches(database: str) -> None:
    """After 10 of 1,000,000 rows, the database has produced at most the rows of a few fetches."""
    made = 0

    def note(value: int) -> int:
        nonlocal made
        made += 1
        return value

    def connect() -> sqlite3.Connection:
        connection = sqlite3.connect(database)
        connection.create_function("note", 1, note)
        return connection

    numbers = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 1000000)"
    sql = f"{numbers} SELECT note(i) AS mail FROM n"
    source = SqlRows(connect, sql, fetch_size=10)
    given = source.rows()
    assert [next(given).number for _ in range(10)] == list(range(1, 11))
    assert made <= 11
    given.close()  # type: ignore[attr-defined]


class FakeConnection:
    """Records the arguments of ``cursor()``."""

    autocommit = False
    converter: ClassVar[dict[int, Any]] = {}
    decoders: ClassVar[dict[int, Any]] = {}

    def cursor(self, *arguments: Any, **keywords: Any) -> tuple[Any, ...]:
        return (*arguments, *keywords.items())


@pytest.fixture
def driver(request: pytest.FixtureRequest) -> Iterator[Any]:
    """A fake connection of the driver with this name."""
    name = request.param
    cursors = ModuleType(f"{name}.cursors")
    cursors.SSCursor = "SSCursor"  # type: ignore[attr-defined]
    known = {key: sys.modules.get(key) for key in (name, cursors.__name__)}
    sys.modules.update({name: ModuleType(name), cursors.__name__: cursors})
    yield type("Connection", (FakeConnection,), {"__module__": f"{name}.connections"})()
    for key, module in known.items():
        sys.modules.pop(key) if module is None else sys.modules.update({key: module})


@pytest.mark.parametrize(
    ("driver", "asked"),
    [
        ("psycopg2", (("name", CURSOR_NAME),)),
        ("psycopg", (("name", CURSOR_NAME),)),
        ("MySQLdb", ("SSCursor",)),
        ("pymysql", ("SSCursor",)),
        ("oracledb", ()),
    ],
    indirect=["driver"],
)
def test_drivers_with_client_side_cursors_get_a_server_side_cursor(
    driver: Any, asked: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    taught: list[Any] = []
    monkeypatch.setattr(sql_drivers, "teach_psycopg2", taught.append)
    monkeypatch.setattr(sql_drivers, "teach_psycopg", taught.append)
    assert driver_of(driver).cursor(driver) == asked
    assert taught == [driver] * ("psycopg" in type(driver).__module__)
