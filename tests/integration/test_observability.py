"""Observability of tasks: extra links, asset events, metrics, reports and site defaults."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from airflow.sdk import DAG, Asset

from crm_provider.observability.assets import create_asset
from crm_provider.operators.extract import CrmExtractContactsOperator
from crm_provider.operators.load import CrmLoadContactsOperator
from crm_provider.sandbox import Sandbox, SandboxSettings

RunTask = Callable[..., Any]
RunDag = Callable[..., Any]

ROWS = [{"email": "ada@example.com"}, {"email": "bob@example.com"}, {"email": "no address"}]


@pytest.fixture
def crm(crm: Sandbox) -> Sandbox:
    """A CRM without contacts."""
    crm.reset(SandboxSettings(seed="empty", rate=None))
    return crm


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    def set_options(**options: Any) -> None:
        for name, value in options.items():
            text = value if isinstance(value, str) else json.dumps(value)
            monkeypatch.setenv(f"AIRFLOW__CRM__{name.upper()}", text)

    return set_options


# -- extra links --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stopped", [False, True], ids=["too many rejects", "stopped"])
def test_extra_links_open_the_files_of_a_load_even_after_failure(
    crm: Sandbox, run_task: RunTask, tmp_path: Path, site: Callable[..., None], stopped: bool
) -> None:
    site(file_links={f"{tmp_path}/": "https://files.example.com/"})
    if stopped:
        crm.add_fault(effect="error", error="FORBIDDEN", count=1)
    end = run_task(CrmLoadContactsOperator, source=ROWS, rejects_path=str(tmp_path / "rejects.jsonl"), retries=0)
    assert end.state == "failed"
    assert end.xcoms["_link_CrmReportLink"] == "https://files.example.com/rejects.jsonl.report.md"
    rejects = "" if end.result["rejects_path"] is None else "https://files.example.com/rejects.jsonl"
    assert end.xcoms["_link_CrmRejectsLink"] == rejects
    assert stopped or rejects


# -- asset events -------------------------------------------------------------------------------------------


def events_of(run: Any) -> dict[str, dict[str, Any]]:
    from airflow.models.asset import AssetEvent
    from airflow.utils.session import create_session
    from sqlalchemy import select

    wanted = {"source_dag_id": run.dag_run.dag_id, "source_run_id": run.dag_run.run_id}
    with create_session() as session:
        return {event.asset.uri: event.extra for event in session.scalars(select(AssetEvent).filter_by(**wanted))}


@pytest.mark.parametrize("dry_run", [False, True])
def test_asset_event_of_a_load_has_its_counts(crm: Sandbox, run_dag: RunDag, dry_run: bool) -> None:
    outlets = [create_asset(), Asset(uri="file:///tmp/other")]
    with DAG("loads", schedule=None) as dag:
        CrmLoadContactsOperator(task_id="load", source=ROWS[:2], outlets=outlets, dry_run=dry_run)
    with DAG("waits", schedule=[create_asset()]):
        pass
    run = run_dag(dag)
    assert run.state == "success"
    events = events_of(run)
    assert events.pop("file:///tmp/other") == {}
    if dry_run:
        assert events == {}
    else:
        (extra,) = events.values()
        assert {name: extra[name] for name in ("rows", "created", "updated", "rejected")} == {
            "rows": 2, "created": 2, "updated": 0, "rejected": 0,
        }  # fmt: skip


def test_asset_event_of_an_extract_has_its_counts(crm: Sandbox, run_dag: RunDag, tmp_path: Path) -> None:
    crm.store.create_contact("ada@example.com")
    file = Asset(uri="file:///data/contacts.jsonl")
    with DAG("extracts", schedule=None) as dag:
        CrmExtractContactsOperator(task_id="extract", target=str(tmp_path / "contacts.jsonl"), outlets=[file])
    (extra,) = events_of(run_dag(dag)).values()
    assert {name: extra[name] for name in ("listing", "records")} == {"listing": "contacts", "records": 1}


# -- metrics ------------------------------------------------------------------------------------------------


class Counted:
    def __init__(self) -> None:
        self.counts: list[tuple[str, int, dict[str, str]]] = []

    def incr(self, name: str, count: int = 1, *, tags: dict[str, str]) -> None:
        if name.startswith("crm.load"):
            self.counts.append((name, count, tags))

    def timing(self, name: str, dt: Any, *, tags: dict[str, str]) -> None:
        pass


def counted(monkeypatch: pytest.MonkeyPatch) -> Counted:
    stats = Counted()
    monkeypatch.setattr("crm_provider.observability.metrics._stats", lambda: stats)
    return stats


def test_metrics_count_rows_by_outcome(crm: Sandbox, run_task: RunTask, monkeypatch: pytest.MonkeyPatch) -> None:
    stats = counted(monkeypatch)
    run_task(CrmLoadContactsOperator, source=ROWS, retries=0)
    tags = {"dag_id": "one_task", "task_id": "task"}
    assert stats.counts == [
        ("crm.loads", 1, {**tags, "ending": "too_many_rejects"}),
        ("crm.load.rows", 2, {**tags, "outcome": "created"}),
        ("crm.load.rows", 1, {**tags, "outcome": "rejected"}),
    ]


def test_metrics_count_a_stopped_load_at_its_end(
    crm: Sandbox, run_dag: RunDag, monkeypatch: pytest.MonkeyPatch, waits: Any, tmp_path: Path
) -> None:
    stats = counted(monkeypatch)
    crm.add_fault(effect="error", error="quota used up", count=1)
    with DAG("stops_once", schedule=None) as dag:
        CrmLoadContactsOperator(task_id="load", source=ROWS[:2], checkpoint_path=str(tmp_path / "checkpoint"))
    assert run_dag(dag)["load"].states == ["up_for_reschedule", "success"]
    assert [(name, count, tags.get("ending", tags.get("outcome"))) for name, count, tags in stats.counts] == [
        ("crm.loads", 1, "stopped"),
        ("crm.loads", 1, "done"),
        ("crm.load.rows", 2, "created"),
    ]


def test_metrics_ignore_dry_runs(crm: Sandbox, run_task: RunTask, monkeypatch: pytest.MonkeyPatch) -> None:
    stats = counted(monkeypatch)
    run_task(CrmLoadContactsOperator, source=ROWS, dry_run=True)
    assert stats.counts == []


# -- the site's defaults ------------------------------------------------------------------------------------


def test_report_is_written_to_the_folder_of_the_site(
    crm: Sandbox, run_task: RunTask, tmp_path: Path, site: Callable[..., None]
) -> None:
    site(report_directory=str(tmp_path / "reports"))
    end = run_task(CrmLoadContactsOperator, source=ROWS[:1])
    path = Path(end.result["report_path"])
    assert path.parent == tmp_path / "reports"
    assert path.name.startswith("one_task__manual__")
    assert path.name.endswith("__task.report.md")
    assert "| created | 1 |" in path.read_text()
    own = run_task(CrmLoadContactsOperator, source=ROWS[:1], report_path=str(tmp_path / "own.md"))
    assert own.result["report_path"] == str(tmp_path / "own.md")
