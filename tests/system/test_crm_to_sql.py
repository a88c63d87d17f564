"""Listings written to real database servers: modes, values that do not fit, and a kill during the write."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import table_scenes as scenes
from sql_servers import SqlServer
from table_scenes import Transfers

from crm_provider.sandbox import Sandbox

pytest.importorskip("airflow.providers.postgres", reason="the group of the servers is not installed")
pytestmark = [pytest.mark.system, pytest.mark.crm_sandbox(seed="contacts:35", rate=None)]

Scene = Callable[[Transfers, Any, str], None]


class ServerTarget:
    """The server of the connection ``db``."""

    def __init__(self, server: SqlServer) -> None:
        self.server = server

    def rows(self, sql: str) -> list[tuple[Any, ...]]:
        with closing(self.server.connect()) as connection, closing(connection.cursor()) as cursor:
            cursor.execute(sql)
            return [tuple(row) for row in cursor.fetchall()]

    def run(self, *statements: str) -> None:
        self.server.execute(*statements)

    def types(self, table: str) -> dict[str, str]:
        found = self.rows(f"SELECT column_name, data_type FROM information_schema.columns WHERE table_name = '{table}'")
        return dict(found)

    def quote(self, name: str) -> str:
        quote = "`" if self.server.conn_type == "mysql" else '"'
        return quote + name.replace(quote, quote * 2) + quote


@pytest.fixture(params=["postgres", "mariadb"])
def database(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> ServerTarget:
    server = request.getfixturevalue(request.param)
    monkeypatch.setenv("AIRFLOW_CONN_DB", server.connection_json())
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    return ServerTarget(server)


@pytest.fixture
def transfer(crm_quick: Sandbox, run_dag: Callable[..., Any], database: ServerTarget) -> Transfers:
    return Transfers(run_dag, crm_quick)


TYPES = {
    "postgres": {"id": "text", "email": "text", "createdAt": "timestamp with time zone", "attributes_vip": "boolean"},
    "mysql": {"id": "varchar", "email": "longtext", "createdAt": "datetime", "attributes_vip": "tinyint"},
}


def test_replace_mode_on_a_server(transfer: Transfers, database: ServerTarget) -> None:
    scenes.check_replace(transfer, database, "replaced")
    types, expected = database.types("replaced"), TYPES[database.server.conn_type]
    assert {name: types[name] for name in expected} == expected
    assert database.rows("SELECT table_name FROM information_schema.tables WHERE table_name LIKE 'crm_staging%'") == []


def test_replace_with_psycopg2(
    run_dag: Callable[..., Any], crm_quick: Sandbox, postgres: SqlServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AIRFLOW_CONN_DB", postgres.connection_json())
    monkeypatch.setattr("airflow.providers.postgres.hooks.postgres.USE_PSYCOPG3", False)
    transfer, database = Transfers(run_dag, crm_quick), ServerTarget(postgres)
    scenes.check_replace(transfer, database, "replaced_2")
    scenes.check_values_that_do_not_fit(transfer, database, "narrow_2")


@pytest.mark.parametrize(
    ("scene", "table"),
    [(scenes.check_append, "history"), (scenes.check_merge, "merged"), (scenes.check_values_that_do_not_fit, "narrow")],
)
def test_listing_in_a_table_of_a_server(scene: Scene, table: str, transfer: Transfers, database: ServerTarget) -> None:
    scene(transfer, database, table)


def test_changes_on_a_server(transfer: Transfers, database: ServerTarget, tmp_path: Path) -> None:
    scenes.check_changes(transfer, database, "changed", str(tmp_path / "seen"))


def test_changes_without_a_saved_state_on_a_server(
    transfer: Transfers, database: ServerTarget, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scenes.check_changes_whose_state_was_not_saved(transfer, database, "log", str(tmp_path / "seen"), monkeypatch)


# -- a kill ---------------------------------------------------------------------------------------------------

PROGRAM = """
import sys
from types import SimpleNamespace
from crm_provider.transfers.crm_to_sql import CrmToSqlOperator
task = CrmToSqlOperator(
    task_id="task", listing="contacts", sql_conn_id="db", table="survivors", mode="append", create_table=True,
    columns=["id", "attributes.name"], changes_since="last", state_path=sys.argv[2],
)
ti = SimpleNamespace(dag_id="d", run_id=sys.argv[1], task_id="task", map_index=-1, max_tries=1, try_number=1)
print(task.call({"ti": ti})["calls"])
"""


def start(run: str, state: Path) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, "-c", PROGRAM, run, str(state)], stdout=subprocess.PIPE, text=True)


def calls_of(process: subprocess.Popen[str]) -> int:
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0
    return int(output.splitlines()[-1])


@pytest.fixture
def waits_for_a_lock(postgres: SqlServer) -> Iterator[Callable[[subprocess.Popen[str]], None]]:
    """Returns a function that waits until a transfer is blocked by this fixture's lock on the table."""
    with closing(postgres.connect()) as holder:
        holder.autocommit = False
        with closing(holder.cursor()) as cursor:
            cursor.execute("LOCK TABLE survivors IN SHARE MODE")  # the table can be read but not changed

        def wait(process: subprocess.Popen[str]) -> None:
            deadline, query = time.monotonic() + 300, "SELECT count(*) FROM pg_locks WHERE NOT granted"
            while ServerTarget(postgres).rows(query) == [(0,)]:
                assert process.poll() is None, "the transfer ended before the kill"
                assert time.monotonic() < deadline
                time.sleep(0.01)

        yield wait


@pytest.fixture
def survivors(postgres: SqlServer, crm_quick: Sandbox, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> ServerTarget:
    """The table after a first run."""
    monkeypatch.setenv("AIRFLOW_CONN_DB", postgres.connection_json())
    assert calls_of(start("one", tmp_path / "seen")) == 4
    return ServerTarget(postgres)


def test_retry_after_a_kill_during_the_write_has_each_change_once(
    survivors: ServerTarget, crm_quick: Sandbox, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    """The next try reads no page again, and the table has each change once."""
    crm_quick.store.update_contact("contact-0000001@example.com", {"name": "New"})
    crm_quick.store.delete_contact("contact-0000002@example.com")
    wait: Callable[[Any], None] = request.getfixturevalue("waits_for_a_lock")
    process = start("two", tmp_path / "seen")
    wait(process)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    groups = "SELECT crm_change, count(*), count(DISTINCT id) FROM survivors GROUP BY crm_change ORDER BY crm_change"
    assert survivors.rows(groups) == [("created", 35, 35)], "no row of the run is visible"
    request.getfixturevalue("postgres").execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE state = 'idle in transaction'"
    )
    assert calls_of(start("two", tmp_path / "seen")) == 0
    assert survivors.rows(groups) == [("created", 35, 35), ("deleted", 1, 1), ("updated", 1, 1)]


def test_table_without_transactions_is_rejected(
    mariadb: SqlServer, run_dag: Callable[..., Any], crm_quick: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AIRFLOW_CONN_DB", mariadb.connection_json())
    mariadb.execute("CREATE TABLE flat (id VARCHAR(80)) ENGINE=MyISAM", "INSERT INTO flat VALUES ('kept')")
    task = Transfers(run_dag, crm_quick)(table="flat", mode="replace", columns=["id"])
    assert "the table flat has the engine MyISAM, which has no transactions" in str(task.error)
    assert ServerTarget(mariadb).rows("SELECT * FROM flat") == [("kept",)]
