"""The example DAGs contain ids of the sandbox and end as documented. ``test_parsing.py`` parses them.

Each also runs without a logical date, as after ``airflow dags trigger``, where ``{{ ds }}`` is undefined.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from demo import EXPECTED  # scripts/demo.py: the expectations of `make demo`
from outcomes import Row, differences, why

from crm_provider.sandbox import Sandbox, ids
from crm_provider.testing.airflow_home import dag_bag

RunDag = Callable[..., Any]

FOLDER = Path(__file__).resolve().parents[2] / "example_dags"
FILES = sorted(FOLDER.glob("*.py"))


@pytest.fixture
def crm(crm_quick: Sandbox) -> Sandbox:
    """In place of the fixture of this folder: calls have their default number of attempts."""
    return crm_quick


@pytest.fixture
def dag_named(airflow_db: Path) -> Callable[[str], Any]:
    """A DAG of the folder ``example_dags``, parsed by Airflow."""

    def named(dag_id: str) -> Any:
        bag = dag_bag(str(FOLDER))
        assert bag.import_errors == {}
        assert bag.captured_warnings == {}
        return bag.dags[dag_id]

    return named


def test_each_example_dag_has_its_own_file(dag_named: Callable[[str], Any]) -> None:
    assert {file.stem for file in FILES} == {
        "crm_lead_pipeline", "crm_list_watcher", "crm_load", "crm_load_alerts", "crm_loads", "crm_quickstart",
    }  # fmt: skip
    for file in FILES:
        assert dag_named(file.stem).dag_id == file.stem


def test_examples_of_operator_pages_are_not_parsed_with_the_folder(airflow_db: Path) -> None:
    """``.airflowignore`` excludes them from ``make demo`` and for users of the whole folder."""
    assert set(dag_bag(str(FOLDER)).dags) == {file.stem for file in FILES}


def test_ids_of_the_list_watcher_exist_in_the_sandbox(dag_named: Callable[[str], Any]) -> None:
    module = sys.modules[dag_named("crm_list_watcher").get_task("newcomers").python_callable.__module__]
    assert {name: value for name, value in vars(module).items() if name.isupper() and name != "DAG"} == {
        "TRIAL_USERS": ids.list_id("Trial users"),
        "PIPELINE": ids.pipeline_id("Sales"),
        "FIRST_STAGE": ids.stage_id("Sales", "New"),
    }


def test_ids_of_the_lead_pipeline_exist_in_the_sandbox(dag_named: Callable[[str], Any]) -> None:
    module = sys.modules[dag_named("crm_lead_pipeline").get_task("read_leads").python_callable.__module__]
    assert {name: value for name, value in vars(module).items() if name.endswith("_ID")} == {
        "PIPELINE_ID": ids.pipeline_id("Sales"),
        "STAGE_NEW_ID": ids.stage_id("Sales", "New"),
        "STAGE_QUALIFIED_ID": ids.stage_id("Sales", "Qualified"),
        "TRIAL_USERS_ID": ids.list_id("Trial users"),
        "MISSING_DEAL_ID": "00000000-0000-4000-8000-000000000000",
    }


def test_ids_of_the_quickstart_exist_in_the_sandbox(dag_named: Callable[[str], Any]) -> None:
    params = dag_named("crm_quickstart").params
    assert {name: params[name] for name in params if name.endswith("_id")} == {
        "pipeline_id": ids.pipeline_id("Sales"),
        "first_stage_id": ids.stage_id("Sales", "New"),
        "next_stage_id": ids.stage_id("Sales", "Qualified"),
    }


def rows_of(run: Any) -> list[Row]:
    """The rows of the demo's table."""
    return [
        Row(
            task=name,
            state=task.state,
            tries=task.try_number,
            why=why(
                task.state,
                task.xcoms,
                [type(attempt.error).__name__ for attempt in task.attempts[:-1] if attempt.error],
            ),
        )
        for name, task in run.tasks.items()
    ]


def test_lead_pipeline_ends_as_documented_twice(
    dag_named: Callable[[str], Any], crm: Sandbox, run_dag: RunDag, waits: dict[str, list[float]]
) -> None:
    run = run_dag(dag_named("crm_lead_pipeline"))
    assert differences(rows_of(run), EXPECTED["crm_lead_pipeline"]) == []
    assert run.state == "success", "one task fails as an example, and the last task reports it"
    members = {
        email for email, contact in crm.store.contacts.items() if ids.list_id("Trial users") in contact.memberships
    }
    assert members == {"ada@example.com", "joao.silva+feira@example.com", "maria@example.com", "zoe%sales@example.org"}
    assert crm.store.contacts["joao.silva+feira@example.com"].attributes["employees"] == "007"

    before = dict(crm.store.contacts)
    run = run_dag(dag_named("crm_lead_pipeline"), logical_date=None)
    assert crm.store.contacts.keys() == before.keys()
    assert {
        name: task.result["outcome"] for name, task in run.tasks.items() if name.startswith("upsert") and task.result
    } == {f"upsert_lead[{n}]": "updated" for n in (0, 1, 2, 4)}


@pytest.mark.parametrize("date", [{}, {"logical_date": None}], ids=["with date", "without date"])
def test_list_watcher_continues_if_a_newcomer_has_a_deal(
    dag_named: Callable[[str], Any], crm: Sandbox, run_dag: RunDag, date: dict[str, None]
) -> None:
    has_deal, new = crm.store.contacts["ada@example.com"], crm.store.contacts["barbara@example.com"]
    dag = dag_named("crm_list_watcher")
    dag.get_task("newcomers").python_callable = lambda: sorted([has_deal.id, new.id])
    run = run_dag(dag, **date)
    assert sorted(run[f"create_deal[{n}]"].state for n in (0, 1)) == ["skipped", "success"]
    assert (run["count"].state, run["count"].result) == ("success", 1)


def test_list_watcher_without_newcomers_skips(dag_named: Callable[[str], Any], crm: Sandbox, run_dag: RunDag) -> None:
    dag = dag_named("crm_list_watcher")
    dag.get_task("newcomers").python_callable = list
    assert run_dag(dag).states() == {"newcomers": "success", "create_deal": "skipped", "count": "success"}


def test_quickstart_succeeds(dag_named: Callable[[str], Any], crm: Sandbox, run_dag: RunDag) -> None:
    run = run_dag(dag_named("crm_quickstart"), run_conf={"email": "grace+1@example.com"})
    assert run.states() == {"upsert_contact": "success", "create_deal": "success", "move_deal": "success"}
    deal = crm.store.deal_of(crm.store.contacts["grace+1@example.com"].id)
    assert deal is not None
    assert deal.stage_id == ids.stage_id("Sales", "Qualified")


def test_second_quickstart_skips_the_existing_deal(
    dag_named: Callable[[str], Any], crm: Sandbox, run_dag: RunDag
) -> None:
    run_dag(dag_named("crm_quickstart"))
    run = run_dag(dag_named("crm_quickstart"), logical_date=None)
    assert run.states() == {"upsert_contact": "success", "create_deal": "skipped", "move_deal": "skipped"}


def test_example_load_sends_nothing_the_second_time(
    dag_named: Callable[[str], Any], crm: Sandbox, run_dag: RunDag, tmp_path: Path
) -> None:
    crm.reset(crm.settings)
    run = run_dag(dag_named("crm_load"), run_conf={"folder": str(tmp_path / "crm")})
    assert run.states() == {"load": "success", "retry_later": "success"}
    result = run["load"].result
    outcomes = {name: result[name] for name in ("created", "updated", "skipped", "suppressed", "rejected")}
    assert (result["rows"], sum(outcomes.values())) == (7, 7)
    assert (outcomes["skipped"], outcomes["suppressed"], outcomes["rejected"]) == (1, 1, 1)
    assert crm.store.contacts["joao.silva@example.com"].attributes["phone"] == "+5531999990001"
    assert crm.store.contacts["MARIA@example.com"].attributes["name"] == "Maria Souza Lima"
    assert "unsubscribed@example.com" not in crm.store.contacts
    assert Path(result["rejects_path"]).read_text(encoding="utf-8").count("no-address") == 1

    before = len(crm.journal())
    again = run_dag(dag_named("crm_load"), run_conf={"folder": str(tmp_path / "crm")}, logical_date=None)
    assert again["load"].result["unchanged"] == 4
    assert len(crm.journal()) == before


@pytest.mark.parametrize(
    ("changed", "state", "subject", "says"),
    [
        ({}, "success", "succeeded with rejects", "1 INVALID_VALUE"),
        ({"max_rejects": 0}, "failed", "failed", "1 of 7 rows was rejected; max_rejects=0 allows none"),
        ({"crm_conn_id": "crm_missing"}, "failed", "failed", "Airflow has no connection &#39;crm_missing&#39;"),
        ({"source": [{"E-mail": "ada@example.com", "Nome": "Ada", "Empresa": "Engines"}]}, "success", None, ""),
    ],
    ids=["rejects", "too many rejects", "an error", "no rejects"],
)
def test_load_alerts_report_failures_and_rejects(
    dag_named: Callable[[str], Any], crm: Sandbox, run_dag: RunDag, monkeypatch: pytest.MonkeyPatch,
    changed: dict[str, Any], state: str, subject: str | None, says: str,
) -> None:  # fmt: skip
    from airflow.providers.smtp.notifications.smtp import SmtpNotifier

    mails: list[SmtpNotifier] = []
    monkeypatch.setattr(SmtpNotifier, "notify", lambda self, context: mails.append(self))
    dag = dag_named("crm_load_alerts")
    for name, value in changed.items():
        setattr(dag.get_task("load"), name, value)
    run = run_dag(dag, logical_date=None)
    assert run["load"].state == state
    assert [mail.subject for mail in mails] == ([f"crm_load_alerts / load: {subject}"] if subject else [])
    for mail in mails:
        assert says in mail.html_content
        assert "example.com" not in mail.html_content, "a mail contains no row value"


def test_example_loads_end_as_the_demo_expects(
    dag_named: Callable[[str], Any], crm: Sandbox, run_dag: RunDag, tmp_path: Path, waits: dict[str, list[float]]
) -> None:
    run = run_dag(dag_named("crm_loads"), run_conf={"folder": str(tmp_path / "crm")}, logical_date=None)
    assert differences(rows_of(run), EXPECTED["crm_loads"]) == []
