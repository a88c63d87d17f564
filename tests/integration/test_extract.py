"""Extract operators in real tasks: retries, targets, changes, and leftover files."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pyarrow.parquet
import pytest
from airflow.sdk import DAG, ObjectStoragePath, TaskGroup, task, task_group

from crm_provider.client.pagination import AT_ONCE
from crm_provider.extract import extractor
from crm_provider.hooks.crm import CrmHook
from crm_provider.operators.extract import CrmExtractContactsOperator
from crm_provider.sandbox import Sandbox, SandboxSettings

RunDag = Callable[..., Any]
RunTask = Callable[..., Any]


@pytest.fixture
def many(crm: Sandbox) -> Sandbox:
    """35 contacts: four pages."""
    crm.reset(SandboxSettings(seed="contacts:35", rate=None))
    return crm


def pages_read(crm: Sandbox) -> int:
    return len(crm.journal(status=200))


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def emails_in(path: Path) -> list[str]:
    return [json.loads(line)["email"] for line in path.read_text("utf-8").splitlines()]


def test_parquet_extract_infers_column_types(many: Sandbox, run_task: RunTask, tmp_path: Path) -> None:
    target = tmp_path / "contacts.parquet"
    assert run_task(CrmExtractContactsOperator, target=target, column_types="inferred").states == ["success"]
    schema = pyarrow.parquet.read_schema(target)
    assert (str(schema.field("createdAt").type), str(schema.field("segmentedListsIds").type)) == (
        "timestamp[us, tz=UTC]", "list<element: string>",
    )  # fmt: skip
    with pytest.raises(ValueError, match="column_types='inferred' is for Parquet files"):
        CrmExtractContactsOperator(task_id="extract", target="contacts.csv.gz", column_types="inferred")


def test_extract_writes_the_file_and_its_xcom(many: Sandbox, run_task: RunTask, tmp_path: Path) -> None:
    target = tmp_path / "new" / "contacts.jsonl"
    task = run_task(CrmExtractContactsOperator, target=str(target))
    assert task.states == ["success"]
    assert task.result.pop("seconds") > 0
    assert task.result == {
        "records": 35,
        "pages": 4,
        "calls": 4,
        "total": 35,
        "total_at_start": 35,
        "duplicates": 0,
        "changed_during_read": False,
        "path": str(target),
    }
    assert emails_in(target) == list(many.store.contacts)
    assert "@example.com" not in task.log.replace("Updating RenderedTaskInstanceFields", "")


TARGETS: dict[str, Callable[[Path], Any]] = {
    "text": str,
    "url": lambda path: f"file://{path}",
    "object": lambda path: ObjectStoragePath(f"file://{path}"),
    "path": lambda path: path,
    "template": lambda path: f"{path.parent}/{{{{ 'template' }}}}.csv",
}


def test_extract_accepts_each_kind_of_target(many: Sandbox, run_dag: RunDag, tmp_path: Path) -> None:
    with DAG("targets", schedule=None) as dag:
        for name, make in TARGETS.items():
            target = make(tmp_path / f"{name}.csv")
            CrmExtractContactsOperator(task_id=name, target=target, fields=["{{ 'email' }}"])
    assert run_dag(dag).states() == dict.fromkeys(TARGETS, "success")
    for name in TARGETS:
        assert (tmp_path / f"{name}.csv").read_text().splitlines() == ["email", *many.store.contacts], name
    with pytest.raises(ValueError, match=r"'b\.txt' does not show its format"):
        CrmExtractContactsOperator(task_id="extract", target="a.csv/b.txt")


def test_retry_of_an_extract_continues_after_the_saved_pages(many: Sandbox, run_task: RunTask, tmp_path: Path) -> None:
    many.add_fault(effect="error", error="INTERNAL_SERVER_ERROR", after=2, count=1)
    task = run_task(CrmExtractContactsOperator, target=str(tmp_path / "contacts.jsonl"))
    assert task.states == ["up_for_retry", "success"]
    assert (task.result["records"], task.result["pages"]) == (35, 4)
    assert task.result["calls"] < 4
    assert 4 <= pages_read(many) < 4 + AT_ONCE, "only pages in flight with the failed one are read again"
    assert names(tmp_path) == ["contacts.jsonl"]


@pytest.mark.parametrize(
    ("fault", "arguments", "states"),
    [
        pytest.param("FORBIDDEN", {}, ["failed"], id="fail"),
        pytest.param("FORBIDDEN", {"on_error": {"FORBIDDEN": "skip"}}, ["skipped"], id="skip"),
        pytest.param("unavailable", {}, ["up_for_retry", "failed"], id="no tries left"),
    ],
)
def test_final_failure_of_an_extract_leaves_no_files(
    fault: str, arguments: dict[str, Any], states: list[str], many: Sandbox, run_task: RunTask, tmp_path: Path
) -> None:
    many.add_fault(effect="error", error=fault, after=2)
    task = run_task(CrmExtractContactsOperator, target=str(tmp_path / "contacts.jsonl"), **arguments)
    assert task.states == states
    assert names(tmp_path) == []


def test_final_error_of_another_library_leaves_no_files(
    many: Sandbox, run_task: RunTask, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(extractor, "inferred_types", Mock(side_effect=RuntimeError("not of the CRM")))
    target = tmp_path / "contacts.parquet"
    task = run_task(CrmExtractContactsOperator, target=str(target), column_types="inferred")
    assert (task.states, pages_read(many)) == (["up_for_retry", "failed"], 4), "the retry uses the saved pages"
    assert names(tmp_path) == []


def test_changed_listing_is_read_again_by_a_retry(
    many: Sandbox, run_task: RunTask, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bulk_client = CrmHook.bulk_client
    left, lock = ["contact-0000001@example.com"], threading.Lock()

    def deleting(self: CrmHook, **arguments: Any) -> Any:
        client = bulk_client(self, **arguments)
        page = client._page

        def read(route: str, number: int, **arguments: Any) -> Any:
            with lock:  # Pages are read in parallel. Delete the contact after the first page and before all others.
                if number and left:
                    many.store.delete_contact(left.pop())
            return page(route, number, **arguments)

        monkeypatch.setattr(client, "_page", read)
        return client

    monkeypatch.setattr(CrmHook, "bulk_client", deleting)
    task = run_task(CrmExtractContactsOperator, target=str(tmp_path / "contacts.jsonl"), if_changed="fail")
    assert task.states == ["up_for_retry", "success"]
    assert "35 -> 34" in task.log
    assert task.result["records"] == 34


def test_mapped_extract_writes_one_file_per_instance(many: Sandbox, run_dag: RunDag, tmp_path: Path) -> None:
    with DAG("mapped_extract", schedule=None, default_args={"retries": 1, "retry_delay": timedelta(0)}) as dag:
        CrmExtractContactsOperator.partial(task_id="task", fields=["email"]).expand(
            target=[str(tmp_path / name) for name in ("a.jsonl", "b.csv.gz", "c.parquet")]
        )
        shared = CrmExtractContactsOperator.partial(
            task_id="shared", target=str(tmp_path / "d.csv.gz"), changes_since="last", state_path=tmp_path / "seen"
        )
        shared.expand(fields=[["id"], ["id", "email"]])
        own = CrmExtractContactsOperator.partial(task_id="own", target=f"{tmp_path}/e-{{{{ ti.map_index }}}}.csv")
        own.expand(fields=[["id"], ["email"]])
        both = CrmExtractContactsOperator.partial(task_id="both", target=str(tmp_path / "g.csv"))
        both.expand_kwargs([{"target": str(tmp_path / "h.csv")}, {}], strict=False)
        named = task(lambda: str(tmp_path / "k.csv"), task_id="named")()  # type: ignore[arg-type, misc]
        CrmExtractContactsOperator.partial(task_id="result", target=named).expand(fields=[["id"], ["email"]])
        with TaskGroup("defaults", default_args={"target": str(tmp_path / "m.csv")}):
            CrmExtractContactsOperator.partial(task_id="task").expand(fields=[["id"], ["email"]])

        @task_group
        def group(fields: Any) -> None:
            CrmExtractContactsOperator(task_id="inner", target=str(tmp_path / "f.csv"), fields=fields)
            CrmExtractContactsOperator(task_id="outer", target=outside, fields=fields)
            own = task(lambda ti: str(tmp_path / f"o{ti.map_index}.csv"), task_id="own")()  # type: ignore[misc]
            CrmExtractContactsOperator(task_id="each", target=own, fields=fields)

        outside = task(lambda: str(tmp_path / "n.csv"), task_id="outside")()  # type: ignore[arg-type, misc]
        group.expand(fields=[["id"], ["email"]])
    run = run_dag(dag)
    assert set(run.states().values()) == {"success"}
    assert [run[f"task[{n}]"].result["records"] for n in range(3)] == [35, 35, 35]
    assert run["shared[1]"].result["path"] == str(tmp_path / "d.1.csv.gz")
    assert [name for name in names(tmp_path) if not name.endswith(".lock")] == [
        "a.jsonl", "b.csv.gz", "c.parquet", "d.0.csv.gz", "d.1.csv.gz", "e-0.csv", "e-1.csv", "f.0.csv", "f.1.csv",
        "g.1.csv", "h.csv", "k.0.csv", "k.1.csv", "m.0.csv", "m.1.csv", "n.0.csv", "n.1.csv",
        "o0.csv", "o1.csv", "seen.0", "seen.1",
    ]  # fmt: skip


def test_extract_of_changes_since_the_last_run(many: Sandbox, run_dag: RunDag, tmp_path: Path) -> None:
    with DAG("changes", schedule=None, default_args={"retries": 1, "retry_delay": timedelta(0)}) as dag:
        CrmExtractContactsOperator(
            task_id="task",
            target=f"{tmp_path}/{{{{ run_id }}}}.csv",
            fields=["id", "attributes.name"],
            changes_since="last",
            state_path=str(tmp_path / "seen"),
        )

    def run() -> tuple[Any, list[str]]:
        task = run_dag(dag)["task"]
        return task.result["changes"], Path(task.result["path"]).read_text("utf-8").splitlines()

    counts, lines = run()
    assert counts == {"created": 35, "updated": 0, "deleted": 0, "unconfirmed": 0}
    assert lines[0] == "id,attributes.name,crm_change"
    assert len(lines) == 36
    changed, removed = list(many.store.contacts.values())[:2]
    many.store.update_contact(changed.email, {"name": "New"})
    many.store.delete_contact(removed.email)
    many.add_fault(effect="error", error="INTERNAL_SERVER_ERROR", after=1, count=1)
    assert run() == (
        {"created": 0, "updated": 1, "deleted": 1, "unconfirmed": 0},
        ["id,attributes.name,crm_change", f"{changed.id},New,updated", f"{removed.id},,deleted"],
    )
    (tmp_path / "seen").write_text("something else")
    task = run_dag(dag)["task"]
    assert task.states == ["failed"]
    assert f"the state file {tmp_path / 'seen'} is damaged or is another file" in str(task.error)
