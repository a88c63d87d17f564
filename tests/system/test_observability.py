"""Observability on a real Airflow: extra links, asset events and lineage."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from airflow_api import run_path
from airflow_stack import AirflowStack

from crm_provider.sandbox import Sandbox

pytest.importorskip("airflow.providers.openlineage", reason="an optional extra")

PATIENCE = 240.0
"""Seconds until a wait counts as hanging."""

DAG_FILE = """
from airflow.sdk import DAG, task

from crm_provider.observability.assets import create_asset
from crm_provider.operators.contacts import CrmUpsertContactOperator
from crm_provider.operators.deals import CrmMoveDealStageOperator
from crm_provider.operators.load import CrmLoadContactsOperator

CONTACTS = create_asset(account="acme")
MISSING = "00000000-0000-4000-8000-000000000000"

with DAG("watched", schedule=None):
    CrmUpsertContactOperator(task_id="upsert", contact_email="ada@example.com")
    CrmMoveDealStageOperator(task_id="move", deal_id=MISSING, stage_id=MISSING)
    CrmLoadContactsOperator(
        task_id="load", source="{folder}/rows.csv", rejects_path="{folder}/rejects.jsonl", max_rejects=1,
        outlets=[CONTACTS],
    )

with DAG("after_load", schedule=[CONTACTS]):

    @task(inlets=[CONTACTS])
    def read(inlet_events):
        return inlet_events[CONTACTS][-1].extra

    read()
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("files")
    (made / "rows.csv").write_text("email\nbob@example.com\nno address\neve@example.com\n")
    return made


@pytest.fixture(scope="module")
def stack(
    airflow_stack: Callable[..., AirflowStack], tmp_path_factory: pytest.TempPathFactory, folder: Path
) -> Iterator[AirflowStack]:
    dags = tmp_path_factory.mktemp("dags")
    (dags / "watched.py").write_text(DAG_FILE.replace("{folder}", str(folder)))
    with Sandbox() as sandbox:
        started = airflow_stack(
            dags,
            env={
                "AIRFLOW_CONN_CRM_DEFAULT": sandbox.connection_json(),
                "AIRFLOW__CRM__CONTACT_URL": "https://app.example.com/contacts/{id}",
                "AIRFLOW__CRM__DEAL_URL": "https://app.example.com/deals/{id}",
                "AIRFLOW__CRM__FILE_LINKS": json.dumps({f"{folder}/": "https://files.example.com/"}),
                "AIRFLOW__OPENLINEAGE__TRANSPORT": json.dumps(
                    {"type": "file", "log_file_path": str(folder / "lineage.jsonl"), "append": True}
                ),
            },
        )
        yield started
        started.stop()


@pytest.fixture(scope="module")
def run(stack: AirflowStack) -> Any:
    stack.api.wait_for_dag("after_load")
    stack.api.request("PATCH", "/api/v2/dags/after_load", {"is_paused": False})
    return stack.api.run_dag("watched")


def links(stack: AirflowStack, run: Any, task: str) -> dict[str, str | None]:
    response = stack.api.request("GET", f"{run_path(run.dag_id, run.run_id)}/taskInstances/{task}/links")
    return dict(response["extra_links"])


def test_api_server_returns_the_extra_links(stack: AirflowStack, run: Any) -> None:
    assert run.states() == {"upsert": "success", "move": "failed", "load": "success"}
    contact = next(task for task in run.tasks if task.task_id == "upsert")
    contact_id = stack.api.xcoms(run, contact)["return_value"]["id"]
    assert links(stack, run, "upsert") == {"CRM contact": f"https://app.example.com/contacts/{contact_id}"}
    missing = "00000000-0000-4000-8000-000000000000"
    assert links(stack, run, "move") == {"CRM deal": f"https://app.example.com/deals/{missing}"}
    assert links(stack, run, "load") == {
        "Load report": "https://files.example.com/rejects.jsonl.report.md",
        "Rejected rows": "https://files.example.com/rejects.jsonl",
    }


def test_load_of_contacts_triggers_the_dag_of_its_asset(stack: AirflowStack, run: Any) -> None:
    found: list[dict[str, Any]] = []

    def has_started() -> bool:
        found[:] = stack.api.request("GET", "/api/v2/dags/after_load/dagRuns")["dag_runs"]
        return bool(found)

    stack.until(has_started, timeout=PATIENCE, every=0.5)
    (started,) = found
    after = stack.api.wait("after_load", started["dag_run_id"])
    assert after.state == "success"
    extra = stack.api.xcoms(after, after.tasks[0])["return_value"]
    assert (extra["rows"], extra["created"], extra["rejected"]) == (3, 2, 1)


def test_openlineage_receives_inputs_and_outputs(stack: AirflowStack, run: Any, folder: Path) -> None:
    reported_by = partial(completed, folder / "lineage.jsonl", "watched.load")
    stack.until(lambda: bool(reported_by()), timeout=PATIENCE, every=0.5)
    (event,) = reported_by()
    (read,), (written,) = event["inputs"], event["outputs"]
    assert (read["namespace"], read["name"]) == ("file", str(folder / "rows.csv"))
    assert read["inputFacets"]["dataQualityMetrics"]["rowCount"] == 3
    assert (written["namespace"], written["name"]) == ("crm://connect.pingback.com", "acme/contacts")
    assert written["outputFacets"]["outputStatistics"]["rowCount"] == 2
    reported = (folder / "lineage.jsonl").read_text()
    for value in ("ada@example.com", "bob@example.com"):
        assert value not in reported
    assert "no address" not in reported


def completed(path: Path, job: str) -> list[dict[str, Any]]:
    """The COMPLETE events. Another process writes them, so the last line may be incomplete."""
    found = []
    for line in path.read_text().splitlines() if path.exists() else ():
        with contextlib.suppress(ValueError):
            found.append(json.loads(line))
    return [event for event in found if event["job"]["name"] == job and event["eventType"] == "COMPLETE"]
