"""Checks of a listing in a database table, shared by SQLite and real servers."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from typing import Any, Protocol

import pytest
from airflow.providers.common.sql.hooks.sql import DbApiHook
from airflow.sdk import DAG

from crm_provider.extract.changes import ChangeTracker
from crm_provider.sandbox import Sandbox
from crm_provider.transfers.crm_to_sql import CrmToSqlOperator

HOSTILE = 'x"; DROP TABLE "keep"; -- `%s` ? {}'
"""An attribute name that a user of the CRM can create."""


class TargetHook(DbApiHook):
    """A hook for SQLite that does not need its provider."""

    conn_name_attr = "target_conn_id"

    def __init__(self, path: str) -> None:
        super().__init__(target_conn_id="db")
        self.path = path

    def get_conn(self) -> Any:
        return sqlite3.connect(self.path)


class TargetDatabase(Protocol):
    """The database of the connection ``db``."""

    def rows(self, sql: str) -> list[tuple[Any, ...]]:
        """The rows of a query."""

    def run(self, *statements: str) -> None:
        """Run statements and commit them."""

    def types(self, table: str) -> dict[str, str]:
        """Columns and their types."""

    def quote(self, name: str) -> str:
        """A quoted name."""


class SqliteTarget:
    """A SQLite file."""

    def __init__(self, path: str) -> None:
        self.path = path

    def rows(self, sql: str) -> list[tuple[Any, ...]]:
        connection = sqlite3.connect(self.path)
        try:
            return connection.execute(sql).fetchall()
        finally:
            connection.close()

    def run(self, *statements: str) -> None:
        connection = sqlite3.connect(self.path)
        try:
            for statement in statements:
                connection.execute(statement)
            connection.commit()
        finally:
            connection.close()

    def types(self, table: str) -> dict[str, str]:
        return {name: declared for _, name, declared, *_ in self.rows(f"PRAGMA table_info({table})")}

    def quote(self, name: str) -> str:
        return '"' + name.replace('"', '""') + '"'


class Transfers:
    """Runs a transfer: ``transfer(table=..., mode=..., ...)``."""

    def __init__(self, run_dag: Callable[..., Any], crm: Sandbox) -> None:
        self.run_dag, self.crm = run_dag, crm

    def dag(self, **arguments: Any) -> DAG:
        with DAG("crm_to_sql", schedule=None, default_args={"retries": 1, "retry_delay": timedelta(0)}) as dag:
            CrmToSqlOperator(task_id="task", **{"listing": "contacts", "sql_conn_id": "db", **arguments})
        return dag

    def __call__(self, **arguments: Any) -> Any:
        return self.run_dag(self.dag(**arguments))["task"]


def check_replace(transfer: Transfers, database: TargetDatabase, table: str) -> None:
    """The table is created with types that fit the values, and then has exactly the records of the CRM."""
    crm, quote = transfer.crm, database.quote
    database.run(f"CREATE TABLE {quote('keep')} (n INTEGER)")
    crm.store.update_contact(
        email_of(crm, 0), {"score": 5, "rate": 0.5, "vip": True, HOSTILE: "harmless", "tags": ["a"]}
    )
    task = transfer(table=table, mode="replace", create_table=True)
    assert task.state == "success", task.error
    assert {name: task.result[name] for name in ("records", "rows", "calls", "table")} == {
        "records": 35, "rows": 35, "calls": 4, "table": table,
    }  # fmt: skip
    hostile = quote(f"attributes_{HOSTILE}")
    found = database.rows(
        f"SELECT email, attributes_score, attributes_rate, attributes_vip, {hostile}, attributes_tags FROM {table} "
        "WHERE attributes_score IS NOT NULL"
    )
    assert [(email, int(score), float(rate), bool(vip), x) for email, score, rate, vip, x, _ in found] == [
        (email_of(crm, 0), 5, 0.5, True, "harmless")
    ]
    assert found[0][5] in (["a"], '["a"]')
    assert database.rows("SELECT * FROM keep") == []
    crm.store.delete_contact(email_of(crm, 0))
    database.run(f"CREATE VIEW {table}_emails AS SELECT email FROM {table}")
    assert transfer(table=table, mode="replace", create_table=True).result["rows"] == 34
    assert database.rows(f"SELECT count(*), count(attributes_score) FROM {table}") == [(34, 0)]
    assert database.rows(f"SELECT count(*) FROM {table}_emails") == [(34,)], "objects that depend on the table remain"
    database.run(f"DROP VIEW {table}_emails", "DROP TABLE keep")


def check_append(transfer: Transfers, database: TargetDatabase, table: str) -> None:
    """Each run adds its rows with its time."""
    dag = transfer.dag(table=table, mode="append", create_table=True, columns=["id", "attributes.name"])
    assert [transfer.run_dag(dag)["task"].result["rows"] for _ in range(2)] == [35, 35]
    assert set(database.types(table)) == {"id", "attributes_name", "crm_loaded_at", "crm_run"}
    groups = database.rows(f"SELECT crm_run, crm_loaded_at, count(*) FROM {table} GROUP BY crm_run, crm_loaded_at")
    assert [count for *_, count in groups] == [35, 35]
    assert all(at is not None for _, at, _ in groups)


def check_merge(transfer: Transfers, database: TargetDatabase, table: str) -> None:
    """Rows are matched by id. Other columns of the table remain, and removed attributes become null."""
    crm = transfer.crm
    crm.store.update_contact(email_of(crm, 1), {"plan": "old", "late": "x"})
    transfer(table=table, mode="merge", create_table=True)
    database.run(f"ALTER TABLE {table} ADD COLUMN note INTEGER", f"UPDATE {table} SET note = 7")
    contact = crm.store.contact(email_of(crm, 1))
    contact.attributes.pop("late")
    crm.store.update_contact(contact.email, {"plan": "new"})
    crm.store.create_contact("another@example.com", attributes={"name": "Late"})
    task = transfer(table=table, mode="merge")
    assert task.state == "success", task.error
    merged = database.rows(f"SELECT attributes_plan, attributes_late, note FROM {table} WHERE id = '{contact.id}'")
    assert merged == [("new", None, 7)]
    assert database.rows(f"SELECT count(*), count(DISTINCT id), count(note) FROM {table}") == [(36, 36, 35)]


def check_changes(transfer: Transfers, database: TargetDatabase, table: str, state: str) -> None:
    """Merged changes keep removed rows and record the kind of change."""
    crm = transfer.crm
    arguments: dict[str, Any] = {"changes_since": "last", "state_path": state, "columns": ["id", "attributes.name"]}
    dag = transfer.dag(table=table, mode="merge", create_table=True, **arguments)
    assert transfer.run_dag(dag)["task"].result["changes"]["created"] == 35
    changed, removed = crm.store.contact(email_of(crm, 3)), crm.store.contact(email_of(crm, 4))
    crm.store.update_contact(changed.email, {"name": "New"})
    crm.store.delete_contact(removed.email)
    task = transfer.run_dag(dag)["task"]
    assert (task.result["rows"], task.result["changes"]) == (
        2, {"created": 0, "updated": 1, "deleted": 1, "unconfirmed": 0},
    )  # fmt: skip
    found = database.rows(f"SELECT id, attributes_name, crm_change FROM {table} WHERE crm_change <> 'created'")
    assert sorted(found) == sorted(
        [(changed.id, "New", "updated"), (removed.id, removed.attributes["name"], "deleted")]
    )


def check_changes_whose_state_was_not_saved(
    transfer: Transfers, database: TargetDatabase, table: str, state: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run that writes its rows and then fails does not cause duplicate changes in the next run."""
    crm = transfer.crm
    arguments: dict[str, Any] = {"changes_since": "last", "state_path": state, "columns": ["id", "attributes.name"]}
    dag = transfer.dag(table=table, mode="append", create_table=True, **arguments)

    def unsaved(self: ChangeTracker) -> None:
        raise OSError("no space left")

    def log_of(change: str) -> list[tuple[Any, ...]]:
        return database.rows(f"SELECT count(*), count(DISTINCT id), count(DISTINCT crm_run) FROM {table} WHERE "
                             f"crm_change = '{change}'")  # fmt: skip

    with monkeypatch.context() as patch:
        patch.setattr(ChangeTracker, "commit", unsaved)
        assert transfer.run_dag(dag)["task"].states == ["up_for_retry", "failed"]
    assert log_of("created") == [(35, 35, 1)]
    assert transfer.run_dag(dag)["task"].result["rows"] == 35
    assert log_of("created") == [(35, 35, 1)]
    crm.store.update_contact(email_of(crm, 3), {"name": "New"})
    assert transfer.run_dag(dag)["task"].result["rows"] == 1
    assert (log_of("created"), log_of("updated")) == ([(35, 35, 1)], [(1, 1, 1)])


def check_changes_of_an_older_run(transfer: Transfers, database: TargetDatabase, table: str, state: str) -> None:
    """A cleared older run keeps its rows and adds the changes since the latest run."""
    crm, due = transfer.crm, [datetime(2026, 1, day, tzinfo=timezone.utc) for day in (1, 2)]
    arguments: dict[str, Any] = {"changes_since": "last", "state_path": state, "columns": ["id", "attributes.name"]}
    dag = transfer.dag(table=table, mode="append", create_table=True, **arguments)
    for day, name in (
        (0, "First"),
        (1, "Second"),
        (1, "Third"),
        (0, "Fourth"),
    ):  # each date belongs to one task instance
        crm.store.update_contact(email_of(crm, 3), {"name": name})
        assert transfer.run_dag(dag, logical_date=due[day], run_after=due[day])["task"].state == "success"
    identity = crm.store.contact(email_of(crm, 3)).id
    found = database.rows(f"SELECT attributes_name, crm_change FROM {table} WHERE id = '{identity}'")
    assert sorted(found) == [("First", "created"), ("Fourth", "updated"), ("Third", "updated")]
    runs = database.rows(f"SELECT count(*) FROM {table} GROUP BY crm_run")
    assert sorted(runs) == [(1,), (1,), (35,)], "each run has its own mark"


def check_values_that_do_not_fit(transfer: Transfers, database: TargetDatabase, table: str) -> None:
    """The error names the column and the record without the value. The table is unchanged."""
    crm = transfer.crm
    crm.store.update_contact(email_of(crm, 5), {"score": "a-secret-value"})
    database.run(
        f"CREATE TABLE {table} (id VARCHAR(80) PRIMARY KEY, attributes_score INTEGER)",
        f"INSERT INTO {table} VALUES ('kept', 1)",
    )
    task = transfer(table=table, mode="replace", columns=["id", "attributes.score"])
    assert task.states == ["failed"]
    contact = crm.store.contact(email_of(crm, 5))
    assert "the column attributes_score (int" in str(task.error).replace("INTEGER", "int")
    assert f"cannot hold the value of the record {contact.id}" in str(task.error)
    assert "a-secret-value" not in task.log
    assert database.rows(f"SELECT id FROM {table}") == [("kept",)]


def email_of(crm: Sandbox, n: int) -> str:
    return list(crm.store.contacts)[n]
