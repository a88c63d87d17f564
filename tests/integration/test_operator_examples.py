"""Examples of the operator and sensor pages: they run, and make the documented calls and results."""

from __future__ import annotations

import json
import re
import sqlite3
from pathlib import Path
from typing import Any

import docs_operators
import docs_text
import pytest
from airflow.sdk import Connection

from crm_provider.sandbox import Sandbox
from crm_provider.testing import FinishedRun, assert_dag_ends, load_dag


@pytest.fixture
def surroundings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The environment of the examples: variables and a warehouse."""
    for name in ("webhook_id", "channel_uid", "workflow_id"):
        monkeypatch.setenv(f"AIRFLOW_VAR_CRM_{name.upper()}", f"the-{name}")
    path = str(tmp_path / "warehouse.db")
    with sqlite3.connect(path) as database:
        database.execute("CREATE TABLE customers (id INTEGER, email TEXT, first_name TEXT, phone TEXT)")
        rows = [(n, f"customer{n}@example.com", f"Customer {n}", f"+44207946095{n}") for n in range(3)]
        database.executemany("INSERT INTO customers VALUES (?, ?, ?, ?)", rows)
        database.execute("CREATE TABLE offers (id INTEGER, email TEXT, title TEXT, worth TEXT)")
        offers = [(1, "alan@example.com", "Machines", "900.00"), (2, "ada@example.com", "Engines", "10")]
        database.executemany("INSERT INTO offers VALUES (?, ?, ?, ?)", offers)
    database.close()

    class Warehouse:
        get_records = None

        def get_conn(self) -> sqlite3.Connection:
            return sqlite3.connect(path)

    monkeypatch.setenv("AIRFLOW_CONN_WAREHOUSE", '{"conn_type": "generic"}')
    monkeypatch.setattr(Connection, "get_hook", lambda self, **_: Warehouse())


FAULTS: dict[str, Any] = {
    "CrmRetryRejectsOperator": {  # one row fails in the load because of the CRM, and succeeds in the next task
        "effect": "error", "error": "INTERNAL_SERVER_ERROR", "email": "joao.silva@example.com", "count": 5,
    },
}  # fmt: skip


@pytest.mark.parametrize("operator", docs_operators.names())
def test_operator_example_gives_the_documented_result(
    operator: str, crm_quick: Sandbox, surroundings: None, tmp_path: Path
) -> None:
    dag = load_dag(docs_operators.example_of(operator))
    conf = {"folder": str(tmp_path)} if "folder" in dag.params else {}
    without_date: dict[str, Any] = {"run_conf": conf, "logical_date": None}  # like `airflow dags trigger`
    run = assert_dag_ends(dag, sandbox=crm_quick, fault=FAULTS.get(operator), **without_date)
    page = docs_operators.page_of(operator)
    shown = json.loads(docs_text.fences(page, "json")[0].code)
    assert steady(result_of(run, page)) == steady(shown)
    said = re.search(r"[Tt]he example makes (\d+)\s+calls?\b", page.read_text("utf-8"))
    assert said is None or int(said[1]) == len(crm_quick.journal())


FOR_THE_PAGE = {"ending", "resend", "samples", "error_policy"}
"""Parts of a load's result that only the page CRM uses."""


def steady(result: dict[str, Any]) -> dict[str, Any]:
    """An XCom without values that differ between runs: times, paths, and the number of calls of a load."""
    varying = {"seconds", "budget_used", "plan", *(("calls", "calls_saved") if "plan" in result else ())}
    paths = {name for name in result if name == "path" or name.endswith("_path")}
    plain = {name: value for name, value in result.items() if name not in varying | paths | FOR_THE_PAGE}
    return {**plain, **dict.fromkeys(varying, ...), **{name: result[name] is not None for name in paths}}


def result_of(run: FinishedRun, page: Path) -> dict[str, Any]:
    """The XCom of the task that has the page's name."""
    result = run[page.stem.replace("-", "_")].result
    assert isinstance(result, dict)
    return result


def test_operator_pages_give_the_number_of_calls() -> None:
    """Pages of loads do not: their calls depend on the plan."""
    silent = [
        name
        for name in docs_operators.names()
        if "he example makes" not in docs_operators.page_of(name).read_text("utf-8")
    ]
    assert silent == [
        "CrmLoadContactsOperator", "CrmRetryRejectsOperator", "SqlToCrmContactsOperator", "CrmLoadDealsOperator",
        "SqlToCrmDealsOperator", "CrmDeleteContactsOperator",
    ]  # fmt: skip
