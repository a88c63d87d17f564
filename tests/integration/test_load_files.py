"""Exported files of other programs, loaded by operators: values in the CRM, and no values in logs."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from airflow.sdk import DAG

from crm_provider.operators.extract import CrmExtractContactsOperator
from crm_provider.operators.load import CrmLoadContactsOperator, CrmRetryRejectsOperator
from crm_provider.sandbox import Sandbox, SandboxSettings

RunDag = Callable[..., Any]
RunTask = Callable[..., Any]

DATA = Path(__file__).parents[1] / "unit" / "load" / "data"


@pytest.fixture
def crm(crm: Sandbox) -> Sandbox:
    """A CRM without contacts."""
    crm.reset(SandboxSettings(seed="empty", rate=None))
    return crm


def attributes(crm: Sandbox) -> dict[str, Any]:
    return {email: dict(contact.attributes) for email, contact in crm.store.contacts.items()}


def test_malformed_row_is_rejected_until_it_is_corrected(crm: Sandbox, run_dag: RunDag, tmp_path: Path) -> None:
    rejects = [str(tmp_path / f"{number}.jsonl") for number in range(3)]
    with DAG("ragged") as dag:
        load = CrmLoadContactsOperator(
            task_id="load", source=str(DATA / "ragged.csv"), rejects_path=rejects[0], max_rejects=2
        )
        again = [
            CrmRetryRejectsOperator(
                task_id=f"again_{number}", rejects=rejects[number], only="all", max_rejects=2,
                rejects_path=rejects[number + 1],
            )
            for number in range(2)
        ]  # fmt: skip
        load >> again[0] >> again[1]
    run = run_dag(dag)
    assert [run[name].state for name in ("load", "again_0", "again_1")] == ["success"] * 3
    assert [run[name].result["rejected"] for name in ("load", "again_0", "again_1")] == [2, 2, 2]
    assert attributes(crm) == {"c@ex.co": {"name": "Caio", "city": "SP"}}
    assert f"{DATA}/ragged.csv, line 2 (row 1): cannot be read; has 4 fields" in Path(rejects[0]).read_text(
        encoding="utf-8"
    )


def test_mapped_load_writes_the_outcome_of_each_row(crm: Sandbox, run_dag: RunDag, tmp_path: Path) -> None:
    """Each instance has its own outcomes file, and so has the task that resends rejects."""
    crm.add_fault(effect="error", error="INVALID_INPUT", email="b1@*", count=1)
    for name in "ab":
        rows = [{"email": f"{name}{n}@ex.co", "lead": f"{name}-{n}"} for n in (1, 2)]
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    shared = {"mapping": {"email": "email"}, "outcome_keys": "{{ params.key }}"}
    with DAG("outcomes_of_all_rows", params={"key": "lead"}) as dag:
        load = CrmLoadContactsOperator.partial(
            task_id="load", max_rejects=1, rejects_path=str(tmp_path / "rejects.csv"),
            outcomes_path=str(tmp_path / "{{ run_id }}" / "outcomes.csv"), **shared,
        ).expand(source=[str(tmp_path / f"{name}.jsonl") for name in "ab"])  # fmt: skip
        load >> CrmRetryRejectsOperator(
            task_id="again", rejects=str(tmp_path / "rejects.*.csv"), only="all",
            outcomes_path=str(tmp_path / "again.csv"), **shared,
        )  # fmt: skip
    run = run_dag(dag)
    assert set(run.states().values()) == {"success"}
    found = {}
    for name in ("load[0]", "load[1]", "again"):
        path = Path(run[name].result["outcomes_path"])
        with path.open(newline="", encoding="utf-8") as file:
            found[name, path.name] = {row["lead"]: (row["outcome"], row["contact_id"]) for row in csv.DictReader(file)}
    ids = {email: contact.id for email, contact in crm.store.contacts.items()}
    assert found == {
        ("load[0]", "outcomes.0.csv"): {"a-1": ("created", ids["a1@ex.co"]), "a-2": ("created", ids["a2@ex.co"])},
        ("load[1]", "outcomes.1.csv"): {"b-1": ("rejected", ""), "b-2": ("created", ids["b2@ex.co"])},
        ("again", "again.csv"): {"b-1": ("created", ids["b1@ex.co"])},
    }


def test_file_without_a_header_is_reported_without_values(crm: Sandbox, run_task: RunTask) -> None:
    end = run_task(CrmLoadContactsOperator, source=str(DATA / "no_header.csv"), mapping={"email": "E-mail"})
    assert end.states == ["failed"]
    assert "header line" in str(end.error)
    for text in (str(end.error), end.log):
        assert "31999999999" not in text
        assert "Ana Example" not in text
    assert not crm.journal()


def test_extract_can_be_loaded_again(crm: Sandbox, run_dag: RunDag, tmp_path: Path) -> None:
    given = [
        {"email": "a@ex.co", "name": "Ana", "note": 'a "quote",\r\nand a line'},
        {"email": "b@ex.co", "name": "Bia", "note": "x" * 140_000},
    ]
    first = tmp_path / "first.jsonl"  # a literal in the DAG file is a template, and rendering changes line ends
    first.write_text("".join(f"{json.dumps(row)}\n" for row in given), encoding="utf-8")
    with DAG("back") as dag:
        load = CrmLoadContactsOperator(task_id="load", source=str(first))
        extract = CrmExtractContactsOperator(task_id="extract", target=str(tmp_path / "contacts.parquet"))
        back = CrmLoadContactsOperator(task_id="back", source=str(tmp_path / "contacts.parquet"))
        load >> extract >> back
    run = run_dag(dag)
    assert run["back"].state == "success"
    assert (run["back"].result["rows"], run["back"].result["rejected"]) == (2, 0)
    assert attributes(crm) == {row["email"]: {"name": row["name"], "note": row["note"]} for row in given}


def test_corrected_row_does_not_replace_a_newer_one(crm: Sandbox, run_task: RunTask, tmp_path: Path) -> None:
    """Two spellings of an address are one person, also for the rows of a rejects file."""
    source, rejects = tmp_path / "leads.csv", tmp_path / "rejects.csv"
    source.write_text("mail,first,score\nANN@ex.co,Old,x1\nann@ex.co,New,2\n", encoding="utf-8")
    shared = {
        "mapping": {"email": "mail", "name": "first", "score": {"column": "score", "type": "number"}},
        "state_path": str(tmp_path / "state.db"),
    }
    load = run_task(
        CrmLoadContactsOperator, source=str(source), rejects_path=str(rejects), max_rejects=1, **shared
    )  # fmt: skip
    assert (load.result["created"], load.result["rejected"]) == (1, 1)
    rejects.write_text(rejects.read_text(encoding="utf-8").replace("x1", "1"), encoding="utf-8")
    again = run_task(CrmRetryRejectsOperator, rejects=str(rejects), only="all", **shared)
    assert (again.states, again.result["skipped"], again.result["calls"]) == (["success"], 1, 0)
    assert "1 row is left out: the load that rejected it took another row for the same record." in " ".join(
        again.log.split()
    )
    assert attributes(crm) == {"ann@ex.co": {"name": "New", "score": "2"}}
