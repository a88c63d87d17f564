"""The hook of Airflow's SQLite provider in both directions, without a server."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import table_scenes as scenes
from airflow.sdk import DAG
from table_scenes import SqliteTarget, Transfers

from crm_provider.sandbox import Sandbox
from crm_provider.transfers.sql_to_crm import SqlToCrmContactsOperator

pytest.importorskip("airflow.providers.sqlite", reason="the group of the servers is not installed")
pytestmark = [pytest.mark.system, pytest.mark.crm_sandbox(seed="contacts:35", rate=None)]

RunDag = Callable[..., Any]


@pytest.fixture
def database(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SqliteTarget:
    path = str(tmp_path / "warehouse.db")
    monkeypatch.setenv("AIRFLOW_CONN_DB", json.dumps({"conn_type": "sqlite", "host": path}))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    return SqliteTarget(path)


@pytest.fixture
def transfer(crm_quick: Sandbox, run_dag: RunDag, database: SqliteTarget) -> Transfers:
    return Transfers(run_dag, crm_quick)


@pytest.mark.parametrize("scene", [scenes.check_replace, scenes.check_append, scenes.check_merge])
def test_listing_in_a_sqlite_table(scene: Callable[..., None], transfer: Transfers, database: SqliteTarget) -> None:
    scene(transfer, database, "people")


def test_changes_with_the_sqlite_provider(transfer: Transfers, database: SqliteTarget, tmp_path: Path) -> None:
    scenes.check_changes(transfer, database, "people", str(tmp_path / "seen"))


def test_changes_without_a_saved_state_with_the_sqlite_provider(
    transfer: Transfers, database: SqliteTarget, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scenes.check_changes_whose_state_was_not_saved(transfer, database, "log", str(tmp_path / "seen"), monkeypatch)


def test_sqlite_query_is_loaded(crm_quick: Sandbox, run_dag: RunDag, database: SqliteTarget) -> None:
    database.run(
        "CREATE TABLE leads (mail TEXT, score INTEGER)",
        "INSERT INTO leads VALUES ('ada@example.org', 5), ('bob@example.org', NULL), ('no address', 1)",
    )
    with DAG("sqlite_to_crm", schedule=None, default_args={"retries": 1, "retry_delay": timedelta(0)}) as dag:
        SqlToCrmContactsOperator(
            task_id="load", sql_conn_id="db", sql="SELECT mail, score FROM leads ORDER BY mail", max_rejects=1,
            mapping={"email": "mail", "score": {"column": "score", "type": "number"}},
        )  # fmt: skip
    result = run_dag(dag)["load"].result
    assert {name: result[name] for name in ("rows", "created", "rejected")} == {"rows": 3, "created": 2, "rejected": 1}
    assert crm_quick.store.contact("ada@example.org").attributes["score"] == "5"
