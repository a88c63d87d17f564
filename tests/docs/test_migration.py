"""Both columns of the tables in ``docs/migration.md``, under the same faults."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import docs_text
import pytest
import requests
from docs_text import DOCS

from crm_provider.sandbox import Sandbox

RunDag = Callable[..., Any]
Case = Callable[[Sandbox], Any]

PAGE = DOCS / "migration.md"
EXAMPLES = docs_text.fences(PAGE, "python")
NEW = "new@example.com"


@pytest.fixture
def crm(crm_quick: Sandbox, monkeypatch: pytest.MonkeyPatch) -> Sandbox:
    """A CRM for the old and the new connection."""
    http = {"conn_type": "http", "host": crm_quick.url, "password": crm_quick.api_key}
    monkeypatch.setenv("AIRFLOW_CONN_CRM_HTTP", json.dumps(http))
    return crm_quick


@pytest.fixture
def example(airflow_db: Path, tmp_path: Path) -> Callable[[str], Any]:
    """A DAG of the page, parsed by Airflow, with retries at once."""
    from airflow.dag_processing.dagbag import DagBag

    def named(dag_id: str) -> Any:
        (code,) = [fence.code for fence in EXAMPLES if f'DAG("{dag_id}"' in fence.code]
        (tmp_path / f"{dag_id}.py").write_text(code.replace("time.sleep(0.2)", "time.sleep(0)"), encoding="utf-8")
        bag = DagBag(dag_folder=str(tmp_path))
        assert bag.import_errors == {}
        dag = bag.dags[dag_id]
        for task in dag.tasks:
            task.retry_delay = timedelta(0)
        return dag

    return named


def table(heading: str) -> dict[str, tuple[str, str]]:
    """The table of a section: event -> before and after."""
    text = PAGE.read_text("utf-8")
    text = text[text.index("| What happens | Before | After |", text.index(f"\n## {heading}\n")) :]
    rows = [line.strip("| ").split(" | ") for line in text[: text.index("\n\n")].splitlines()[2:]]
    return {row[0]: (row[1], row[2]) for row in rows}


# -- one call -----------------------------------------------------------------------------------------------

ONE_CALL = table("One call: `HttpOperator`")


def create(crm: Sandbox) -> None:
    response = requests.post(f"{crm.url}/contacts", json={"email": NEW}, headers={"x-api-key": crm.api_key}, timeout=60)
    response.raise_for_status()


def fault(**fields: Any) -> Case:
    return lambda crm: crm.add_fault(**fields)


CASES: dict[str, Case] = {
    "no error": lambda crm: None,
    "the contact exists already": create,
    "the response to the POST is lost": fault(effect="lost", method="POST", path="/contacts", count=1),
    "the deal was deleted": fault(effect="error", error="DEAL_NOT_FOUND", method="PUT", path="/deals/*"),
    "the CRM refuses the values": fault(effect="error", error="INVALID_INPUT", path="/contacts*"),
    "the CRM refuses the key": lambda crm: crm.configure(api_key=None),
    "two refusals with 429": fault(effect="error", error="throttled", path="/contacts*", retry_after=0, count=2),
}


def test_each_row_of_the_migration_table_has_a_case() -> None:
    assert list(ONE_CALL) == list(CASES)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("name", ["crm_by_http", "crm_by_provider"])
def test_single_call_ends_as_documented(
    case: str, name: str, crm: Sandbox, example: Callable[..., Any], run_dag: RunDag
) -> None:
    (deal,) = crm.store.deals.values()
    CASES[case](crm)
    run = run_dag(example(name), run_conf={"deal_id": deal.id, "stage_id": deal.stage_id})
    ended = run["move" if "deal" in case else "contact"]
    shown = ONE_CALL[case][name == "crm_by_provider"]
    tries = re.search(r"after (\d) (?:try|tries)", shown)
    assert (ended.state, len(ended.attempts)) == (re.split("[,:]", shown)[0], int(tries[1]) if tries else 1), ended.log
    if "lost" in case:
        assert NEW in crm.store.contacts
        assert crm.counters().duplicate_contacts == (3 if name == "crm_by_http" else 0)


# -- many rows ----------------------------------------------------------------------------------------------

LEADS = "E-mail,Nome\n" + "".join(f"lead{n}@example.com,Lead {n}\n" for n in range(1, 5))


@pytest.fixture
def leads(tmp_path: Path) -> str:
    path = tmp_path / "leads.csv"
    path.write_text(LEADS.replace("lead2@example.com", "no address"), encoding="utf-8")
    return str(path)


def test_bad_row_in_a_loop_stops_it(leads: str, crm: Sandbox, example: Callable[..., Any], run_dag: RunDag) -> None:
    before = len(crm.store.contacts)
    ended = run_dag(example("crm_by_requests"), run_conf={"file": leads})["load"]
    assert (ended.state, len(ended.attempts)) == ("failed", 4)
    assert len(crm.store.contacts) == before + 1


def test_bad_row_in_a_load_is_rejected(
    leads: str, tmp_path: Path, crm: Sandbox, example: Callable[..., Any], run_dag: RunDag
) -> None:
    dag = example("crm_by_load")
    (task,) = dag.tasks
    task.rejects_path, task.state_path = str(tmp_path / "rejects.jsonl"), str(tmp_path / "leads.state")
    before = len(crm.store.contacts)
    ended = run_dag(dag, run_conf={"file": leads})["load"]
    assert (ended.state, len(ended.attempts)) == ("failed", 1)  # 1 of 4 is more than 1 %
    assert len(crm.store.contacts) == before + 3
    assert "no address" in (tmp_path / "rejects.jsonl").read_text("utf-8")


@pytest.mark.parametrize(("name", "task"), [("crm_by_sensor", "wait"), ("crm_by_hook", "status")])
def test_other_migration_examples_run(
    name: str, task: str, crm: Sandbox, example: Callable[..., Any], run_dag: RunDag
) -> None:
    assert run_dag(example(name))[task].state == "success"
