"""Tasks in their own pod: they must not write to the pod's disk, which is deleted after each try."""

from __future__ import annotations

import logging
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from airflow.sdk import DAG, task

from crm_provider import config
from crm_provider.hooks.crm import CrmHook
from crm_provider.operators.extract import CrmExtractContactsOperator
from crm_provider.operators.load import CrmDeleteContactsOperator, CrmLoadContactsOperator, CrmRetryRejectsOperator
from crm_provider.sandbox import Sandbox

RunTask = Callable[..., Any]

ROWS = [{"email": "ada@example.com"}]


@pytest.fixture(autouse=True)
def volume(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The only volume that is mounted in the pod."""
    folder = tmp_path / "volume"
    folder.mkdir()
    monkeypatch.setattr(config, "runs_in_own_pod", lambda: True)
    monkeypatch.setattr(Path, "is_mount", lambda path: path in (Path("/"), folder))
    return folder


@pytest.mark.parametrize(
    ("operator", "name", "file"),
    [
        (CrmLoadContactsOperator, "rejects_path", "rejects.jsonl"),
        (CrmLoadContactsOperator, "state_path", "state"),
        (CrmDeleteContactsOperator, "outcomes_path", "outcomes.csv"),
        (CrmExtractContactsOperator, "target", "contacts.csv"),
        (CrmRetryRejectsOperator, "rejects", "rejects.jsonl"),
    ],
)
def test_files_on_the_disk_of_a_pod_are_rejected(
    operator: type, name: str, file: str, crm: Sandbox, run_task: RunTask, tmp_path: Path
) -> None:
    own: dict[type, dict[str, Any]] = {
        CrmLoadContactsOperator: {"source": ROWS},
        CrmDeleteContactsOperator: {"source": ROWS, "max_deletes": 1},
    }
    end = run_task(operator, **own.get(operator, {}), **{name: str(tmp_path / file)})
    assert end.states == ["failed"], "no retry"
    assert f"{name}: {tmp_path / file} is on the disk of this pod, which is deleted after the try" in str(end.error)
    assert not crm.journal()


@pytest.mark.usefixtures("crm")
def test_files_on_a_volume_are_accepted(run_task: RunTask, volume: Path) -> None:
    end = run_task(CrmLoadContactsOperator, source=ROWS, outcomes_path=str(volume / "outcomes.jsonl"))
    assert end.states == ["success"]
    assert (volume / "outcomes.jsonl").exists()


@pytest.mark.usefixtures("crm")
def test_dry_run_in_a_pod_needs_no_volume(run_task: RunTask, tmp_path: Path) -> None:
    end = run_task(CrmLoadContactsOperator, source=ROWS, rejects_path=str(tmp_path / "r.jsonl"), dry_run=True)
    assert end.states == ["success"]


@pytest.mark.usefixtures("crm")
def test_task_function_may_use_files_on_the_disk_of_its_pod(
    run_dag: Callable[..., Any], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "outcomes.jsonl"
    with DAG("own_pod", schedule=None, default_args={"retry_delay": timedelta(0)}) as dag:

        @task
        def load() -> int:
            CrmHook().load_contacts(ROWS, outcomes_path=str(path))
            return len(path.read_text().splitlines())

        load()
    with caplog.at_level(logging.WARNING):
        end = run_dag(dag)["load"]
    assert (end.states, end.result) == (["success"], 1)
    assert f"outcomes_path: {path} is on the disk of this pod" in end.log
