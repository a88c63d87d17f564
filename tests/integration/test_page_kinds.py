"""The page CRM for each kind of sync, and the DAG that resends rejected rows."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Mapping
from html import unescape
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from airflow.models.dag import DagModel
from airflow.models.dagrun import DagRun
from airflow.models.taskinstance import TaskInstance
from airflow.providers.standard.operators.empty import EmptyOperator
from airflow.sdk import DAG, Connection
from airflow.utils.session import create_session
from page_users import Users
from sqlalchemy import update
from table_scenes import TargetHook

from crm_provider.load.rejects.resend import resend_dag
from crm_provider.load.rows import SourceError
from crm_provider.operators.extract import CrmExtractContactsOperator
from crm_provider.operators.load import (
    CrmDeleteContactsOperator,
    CrmLoadContactsOperator,
    CrmLoadDealsOperator,
    CrmRetryRejectsOperator,
)
from crm_provider.sandbox import Sandbox, SandboxSettings, ids
from crm_provider.transfers.crm_to_sql import CrmToSqlOperator

RunDag = Callable[..., Any]
NEW, WON = (ids.stage_id("Sales", name) for name in ("New", "Won"))
NO_DEAL = "99999999-0000-4000-8000-000000000001"
PEOPLE = [f"p{number}@example.com" for number in range(3)]
NUMBERS = itertools.count()
"""Numbers for DAG ids, because Airflow's database contains the DAGs of other tests."""

SYNCS: Mapping[str, tuple[type, dict[str, Any], dict[str, str], tuple[str, ...]]] = {
    "deals": (
        CrmLoadDealsOperator,
        {"source": "DEALS", "mapping": {"deal_id": "deal", "stage_id": "stage"}, "mode": "move", "max_rejects": 1,
         "rejects_path": "FOLDER/deals.jsonl"},
        {"list": "3 updated, 1 rejected", "state": "success with rejects"},
        ("DEAL_NOT_FOUND", 'kind="deals",', 'mode="move",', "Move each deal"),
    ),
    "deletions": (
        CrmDeleteContactsOperator,
        {"source": [{"email": PEOPLE[0]}, {"email": "gone@example.com"}], "max_deletes": 5},
        {"list": "1 unchanged, 1 deleted", "state": "success"},
        ("Delete",),
    ),
    "extract": (
        CrmExtractContactsOperator,
        {"target": "FOLDER/contacts.jsonl"},
        {"list": "3 read", "state": "success"},
        ("contacts.jsonl", "Calls"),
    ),
    "table": (
        CrmToSqlOperator,
        {"listing": "contacts", "sql_conn_id": "db", "table": "people", "mode": "replace", "create_table": True},
        {"list": "3 read", "state": "success"},
        ("Table</dt><dd>people", "Calls"),
    ),
}  # fmt: skip
"""Sync -> operator, arguments, texts in the list, texts on the page of the run."""


@pytest.fixture
def crm(crm: Sandbox) -> Sandbox:
    """Three contacts with new deals."""
    crm.reset(SandboxSettings(seed="empty", rate=None))
    crm.store.add_pipeline("Sales", ["New", "Won"])
    for email in PEOPLE:
        contact = crm.store.create_contact(email)
        crm.store.create_deal(contact_id=contact.id, pipeline_id=ids.pipeline_id("Sales"), stage_id=NEW)
    return crm


@pytest.mark.parametrize("name", SYNCS)
def test_page_shows_each_kind_of_sync(
    users: Users, crm: Sandbox, run_dag: RunDag, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    operator, arguments, listed, shown = SYNCS[name]
    monkeypatch.setenv("AIRFLOW_CONN_DB", '{"conn_type": "generic"}')
    monkeypatch.setattr(Connection, "get_hook", lambda self, **_: TargetHook(str(tmp_path / "warehouse.db")))
    deals = [str(crm.store.deal_of(crm.store.contacts[email].id).id) for email in PEOPLE]  # type: ignore[union-attr]
    known = {"DEALS": [{"deal": deal, "stage": WON} for deal in [*deals, NO_DEAL]]}
    given = {
        key: known.get(value, value.replace("FOLDER", str(tmp_path))) if isinstance(value, str) else value
        for key, value in arguments.items()
    }
    with DAG(f"page_{name}", schedule=None) as dag:
        operator(task_id="sync", **given)
    done = run_dag(dag)
    assert done.state == "success", done["sync"].error

    sync = {"dag_id": f"page_{name}", "task_id": "sync"}
    client = users.client()
    for text in (client.get("/", params={"dag": sync["dag_id"]}).text, client.get("/sync", params=sync).text):
        assert listed["list"] in text and f">{listed['state']}</span>" in text
        assert operator.__name__ in text
    text = unescape(client.get("/run", params={**sync, "run_id": done.dag_run.run_id}).text)
    for expected in shown:
        assert expected in text, expected
    assert "@example.com" not in text and NO_DEAL not in text, "the page contains no row value"


@pytest.fixture
def rejected(crm: Sandbox, run_dag: RunDag, tmp_path: Path) -> Any:
    """A load with two rejected rows, of which the later one was rejected first. A second load would not reject them."""
    crm.add_fault(effect="error", error="INVALID_INPUT", email="refused*")
    rows = [{"mail": "one@example.com"}, {"mail": "none"}, {"mail": "refused@example.com"}]
    with DAG(f"page_rejects_{next(NUMBERS)}", schedule=None) as dag:
        CrmLoadContactsOperator(
            task_id="load", source=rows, mapping={"email": "mail"}, max_rejects=2,
            rejects_path=str(tmp_path / "rejects.jsonl"),
        )  # fmt: skip
    done = run_dag(dag)
    assert done["load"].result["rejected"] == 2
    crm.clear_faults()
    return done


def run_page(users: Users, done: Any, name: str = "ann") -> str:
    key = {"dag_id": done.dag_run.dag_id, "task_id": "load", "run_id": done.dag_run.run_id}
    return unescape(users.client(name).get("/run", params=key).text)


def in_folder(dag_id: str, *, found: bool = True) -> None:
    """Mark a DAG as found, or no longer found, by the DAG processor, which does not parse the DAGs of tests."""
    with create_session() as session:
        session.execute(update(DagModel).where(DagModel.dag_id == dag_id).values(is_stale=not found))


def resend_of(done: Any) -> DAG:
    """The DAG from the code in the result of a load."""
    code = done["load"].result["resend"].replace("\n):\n", "\n) as dag:\n", 1)
    names: dict[str, Any] = {}
    exec(compile(code, "resend.py", "exec"), names)
    dag: DAG = names["dag"]
    return dag


def test_resend_dag_of_the_page_runs_unchanged(users: Users, crm: Sandbox, run_dag: RunDag, rejected: Any) -> None:
    dag = resend_of(rejected)
    assert dag.dag_id == f"{rejected.dag_run.dag_id}__load__resend"
    assert [type(task) for task in dag.tasks] == [CrmRetryRejectsOperator]
    done = run_dag(dag, run_conf={"rejects": rejected["load"].result["rejects_path"]})
    assert {name: done["resend"].result[name] for name in ("rows", "created", "rejected")} == {
        "rows": 2, "created": 1, "rejected": 1,
    }  # fmt: skip
    assert set(crm.store.contacts) == {*PEOPLE, "one@example.com", "refused@example.com"}


def test_resend_dag_needs_the_suppressed_addresses() -> None:
    code = str(resend_dag(Path("/data/r.jsonl"), {"suppression": ["someone@example.com"]}))
    with pytest.raises(SourceError, match=r"suppression is \.\.\., a placeholder: give the addresses"):
        exec(compile(code, "resend.py", "exec"), {})


def test_page_shows_rejected_rows_in_the_order_of_the_source(users: Users, rejected: Any) -> None:
    assert [sample["row"] for sample in rejected["load"].result["samples"]] == [2, 3]
    text = run_page(users, rejected)
    assert text.index('class="number">2<') < text.index('class="number">3<')


def test_page_has_a_start_button_once_the_resend_dag_exists(users: Users, run_dag: RunDag, rejected: Any) -> None:
    path = rejected["load"].result["rejects_path"]
    text, dag_id = run_page(users, rejected), f"{rejected.dag_run.dag_id}__load__resend"
    assert "data-start" not in text and f'with DAG(\n    "{dag_id}",' in text
    assert "Correct 2 rows in the file, then start this DAG" in text
    run_dag(resend_of(rejected), run_conf={"rejects": path})
    in_folder(dag_id)
    text = run_page(users, rejected)
    assert f'data-start="/airflow/api/v2/dags/{dag_id}/dagRuns"' in text
    assert f'data-conf="{json.dumps({"rejects": path})}"' in text
    in_folder(dag_id, found=False)
    assert "data-start" not in run_page(users, rejected), "the DAG file was deleted"
    in_folder(dag_id)
    users.may = lambda *, method, **_: method == "GET"
    text = run_page(users, rejected)
    assert "You do not have permission to start it" in text and "data-start" not in text


def test_page_links_the_newest_resend_run_of_the_file(users: Users, run_dag: RunDag, rejected: Any) -> None:
    path, dag = rejected["load"].result["rejects_path"], resend_of(rejected)
    run_dag(dag, run_conf={"rejects": f"{path}.other"})
    in_folder(dag.dag_id)
    assert "Last started for this file" not in run_page(users, rejected)
    runs = [run_dag(dag, run_conf={"rejects": path}).dag_run.run_id for _ in range(2)]
    in_folder(dag.dag_id)
    href = f"/airflow/dags/{dag.dag_id}/runs/{quote(runs[1], safe='')}"
    text = run_page(users, rejected)
    assert f'<p>Last started for this file: <a href="{href}" data-airflow>{runs[1]}</a></p>' in unescape(text)
    with create_session() as session:  # a conf that a user or another version of Airflow may have written
        session.execute(update(DagRun).filter_by(run_id=runs[1]).values(conf=["x"]))
        session.execute(update(DagModel).filter_by(dag_id=dag.dag_id).values(is_paused=True))
    text = run_page(users, rejected)
    assert runs[0] in text and runs[1] not in text
    assert f'<a href="/airflow/dags/{dag.dag_id}" data-airflow>unpauses it</a>' in text


def test_page_does_not_start_a_dag_without_the_tag(users: Users, run_dag: RunDag, rejected: Any) -> None:
    with DAG(f"{rejected.dag_run.dag_id}__load__resend", schedule=None) as dag:
        EmptyOperator(task_id="resend")
    run_dag(dag)
    in_folder(dag.dag_id)
    assert "data-start" not in run_page(users, rejected)


def test_page_offers_no_resend_before_the_load_has_ended(users: Users, run_dag: RunDag, rejected: Any) -> None:
    run_dag(resend_of(rejected), run_conf={"rejects": rejected["load"].result["rejects_path"]})
    in_folder(f"{rejected.dag_run.dag_id}__load__resend")
    key = {"dag_id": rejected.dag_run.dag_id, "task_id": "load"}
    with create_session() as session:
        session.execute(update(TaskInstance).filter_by(**key).values(state="up_for_retry"))
    text = run_page(users, rejected)
    assert "Once the task has ended, this page shows how to send them again." in text
    assert "data-start" not in text and "with DAG(" not in text
