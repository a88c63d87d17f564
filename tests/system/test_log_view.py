"""Airflow's log view in a real browser: the log of each final state, in light and dark."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import browser as browsers
import pytest
from airflow_api import Run
from airflow_stack import AirflowStack
from browser import picture, text_of, wait_for
from sql_servers import PostgresServer

from crm_provider.sandbox import Sandbox, ids

pytest.importorskip("selenium.webdriver", reason="needs the extra 'system'")
pytest.importorskip("airflow.providers.postgres", reason="the group of the servers is not installed")
pytestmark = pytest.mark.skipif(not browsers.is_there(), reason=browsers.HOW_TO_GET_IT)

NEW, WON = (ids.stage_id("Sales", name) for name in ("New", "Won"))
PEOPLE = [f"p{number}@example.com" for number in range(3)]

DAG_FILE = """
from datetime import timedelta

from airflow.sdk import DAG

from crm_provider.operators.contacts import CrmUpsertContactOperator
from crm_provider.operators.deals import CrmMoveDealStageOperator
from crm_provider.operators.extract import CrmExtractContactsOperator
from crm_provider.operators.load import CrmDeleteContactsOperator, CrmLoadContactsOperator, CrmLoadDealsOperator
from crm_provider.sensors.contacts import CrmContactSensor
from crm_provider.sensors.lists import CrmListSensor
from crm_provider.transfers.crm_to_sql import CrmToSqlOperator

NO_DEAL = "99999999-0000-4000-8000-000000000001"
RETRY = {"retries": 1, "retry_delay": timedelta(seconds=1)}
MOVE = {"mapping": {"deal_id": "deal", "stage_id": "stage"}, "mode": "move"}


def rows(name, number):
    return [{"email": f"{name}-{i}@example.com", "name": f"Person {i}"} for i in range(number)]


with DAG("logs", schedule=None, default_args={"retries": 0}):
    CrmMoveDealStageOperator(
        task_id="skip", deal_id=NO_DEAL, stage_id="WON", on_error={"DEAL_NOT_FOUND": "skip"})
    CrmUpsertContactOperator(task_id="upsert", contact_email="ada@example.com", crm_conn_id="crm_refused")
    CrmUpsertContactOperator(task_id="retry", contact_email="broken@example.com", **RETRY)
    CrmLoadContactsOperator(task_id="contacts", source=rows("lead", 30))
    CrmLoadContactsOperator(
        task_id="rejects", source=rows("refused", 2) + rows("some", 5) + [{"email": "none"}], max_rejects=5,
        rejects_path="FOLDER/rejects.jsonl")
    CrmLoadContactsOperator(
        task_id="too_many", source=rows("refused", 2) + rows("some", 5), rejects_path="FOLDER/too-many.jsonl")
    CrmLoadContactsOperator(task_id="dry_run", source=rows("dry", 300), dry_run=True)
    CrmLoadContactsOperator(task_id="no_file", source="FOLDER/missing.csv", **RETRY)
    CrmLoadDealsOperator(
        task_id="deals", source=[{"deal": deal, "stage": "WON"} for deal in [*DEALS, NO_DEAL]], **MOVE)
    CrmDeleteContactsOperator(
        task_id="deletes", source=[{"email": "old@example.com"}, {"email": "gone@example.com"}], max_deletes=5)
    CrmExtractContactsOperator(task_id="extract", target="FOLDER/contacts.jsonl")
    CrmToSqlOperator(
        task_id="table", listing="deals", sql_conn_id="warehouse", table="deals", mode="replace", create_table=True)
    CrmToSqlOperator(
        task_id="no_database", listing="deals", sql_conn_id="no_warehouse", table="deals", mode="replace",
        create_table=True, **RETRY)
    CrmContactSensor(
        task_id="in_vain", contact_email="absent@example.com", deferrable=True, poke_interval=2, timeout=20)
    CrmContactSensor(
        task_id="wait_rescheduled", contact_email="p0@example.com", attributes={"plan": "gold"}, mode="reschedule",
        poke_interval=5, timeout=60, soft_fail=True)

with DAG("waits", schedule=None, default_args={"retries": 1}):
    CrmUpsertContactOperator(task_id="reschedule", contact_email="throttled@example.com")
    CrmListSensor(task_id="deferred", list_name="never", deferrable=True, poke_interval=2, timeout=3600)
"""

EXPECTED = {
    "skip": ("DEAL_NOT_FOUND", "Task:        skipped", "Decided by:  on_error[DEAL_NOT_FOUND]"),
    "upsert": (  # the picture in the README
        "FORBIDDEN (403) on POST /contacts",
        "What to do:  Check the API key",
        "is that of Airflow's connection 'crm_refused'.",
        "Task:        failed; not retried",
        "Decided by:  default[CrmAccessError]",
        "Policy:",
        "Docs:",
        "Request id:",
    ),
    "retry": ("INTERNAL_SERVER_ERROR", "No retries left"),
    "contacts": ("Done: 30 rows: 30 created",),
    "rejects": ("3 of 8 rows were rejected.", "What to do:", "Report:"),
    "too_many": (
        "2 of 7 rows were rejected",
        "What to do:  The rejected rows and their reasons are in",
        "Report:",
        "Task:",
    ),
    "dry_run": ("Plan:", "A dry run: every row was checked, nothing was written."),
    "no_file": ("missing.csv", "Task:"),
    "deals": ("1 of 4 rows", "Task:"),
    "deletes": ("1 deleted",),
    "extract": ("contacts.jsonl",),
    "table": ("for the table deals (replace)",),
    "no_database": ("OperationalError of psycopg (table deals, connection no_warehouse)", "What to do:", "Task:"),
    "in_vain": ("Not yet: CONTACT_NOT_FOUND", "Waits in the triggerer", "Last result:", "failed; the timeout"),
    "wait_rescheduled": ("Slot freed until",),
}
"""Task -> texts in its log."""


@pytest.fixture(scope="module")
def crm() -> Iterator[Sandbox]:
    with Sandbox(seed="empty", rate=50) as running:
        running.store.add_pipeline("Sales", ["New", "Won"])
        running.store.create_contact("old@example.com")
        for email in PEOPLE:
            contact = running.store.create_contact(email)
            running.store.create_deal(contact_id=contact.id, pipeline_id=ids.pipeline_id("Sales"), stage_id=NEW)
        running.add_fault(effect="error", error="INVALID_INPUT", email="refused*")
        running.add_fault(effect="error", error="INTERNAL_SERVER_ERROR", email="broken*")
        running.add_fault(effect="error", error="TOO_MANY_REQUESTS", retry_after=1800, email="throttled*")
        yield running


@pytest.fixture(scope="module")
def stack(
    airflow_stack: Callable[..., AirflowStack],
    crm: Sandbox,
    postgres: PostgresServer,
    tmp_path_factory: pytest.TempPathFactory,
) -> AirflowStack:
    dags, folder = tmp_path_factory.mktemp("dags"), tmp_path_factory.mktemp("crm")
    deals = [str(deal.id) for deal in crm.store.deals.values()]
    known = {"FOLDER": str(folder), "DEALS": repr(deals), '"WON"': repr(WON)}
    text = DAG_FILE
    for name, value in known.items():
        text = text.replace(name, value)
    (dags / "logs.py").write_text(text)
    env = {
        "AIRFLOW_CONN_CRM_DEFAULT": crm.connection_json(requests_per_second=50),
        "AIRFLOW_CONN_CRM_REFUSED": json.dumps({**json.loads(crm.connection_json()), "password": "an-old-key"}),
        "AIRFLOW_CONN_WAREHOUSE": postgres.connection_json(),
        "AIRFLOW_CONN_NO_WAREHOUSE": json.dumps({**json.loads(postgres.connection_json()), "port": 1}),
    }
    return airflow_stack(dags, env=env)


@pytest.fixture
def browser(tmp_path: Path, stack: AirflowStack) -> Iterator[Any]:
    with browsers.open_browser(tmp_path / "chromium") as running:
        browsers.resize(running, 1280, 900)
        running.get(stack.url)
        yield running


def test_log_view_shows_each_final_state(stack: AirflowStack, browser: Any) -> None:
    run = stack.api.run_dag("logs")
    wrong = {}
    for task, expected in EXPECTED.items():
        text = log_of(browser, stack, run, task)
        missing = [line for line in expected if line not in text]
        if missing:
            wrong[task] = (missing, text[-1500:])
    assert not wrong, wrong


def test_log_view_shows_waiting_tasks(stack: AirflowStack, browser: Any) -> None:
    stack.api.wait_for_dag("waits")
    run_id = stack.api.trigger("waits")
    states = {"reschedule": "up_for_reschedule", "deferred": "deferred"}
    run = stack.api.wait("waits", run_id, until=lambda run: run.states() == states)
    assert "slot freed until" in log_of(browser, stack, run, "reschedule")
    wait_for(lambda: "Still waiting." in log_of(browser, stack, run, "deferred"))


# Lines of this package that are wider than the log.
def log_of(browser: Any, stack: AirflowStack, run: Run, task: str) -> str:
    """The visible text of the newest log of a task, with screenshots."""
    for scheme in ("light", "dark"):
        browser.execute_script("localStorage.setItem('theme', arguments[0])", scheme)
        browser.get(f"{stack.url}/dags/{run.dag_id}/runs/{run.run_id}/tasks/{task}")
        wait_for(lambda: browser.find_elements("css selector", ".event"))
        picture(browser, f"log-{task}-{scheme}.png")
    return text_of(browser)
