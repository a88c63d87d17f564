"""Loads as tasks: sources, final states and retries."""

from __future__ import annotations

import csv
import gzip
import hashlib
import json
import os
import signal
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from datetime import datetime, timedelta
from pathlib import Path
from types import CodeType, FrameType, SimpleNamespace
from typing import Any

import pytest
from airflow.sdk import DAG, ObjectStoragePath, task

from crm_provider._compat import HAS_RETRY_POLICY, Context
from crm_provider.errors import CrmError
from crm_provider.hooks.load_run import time_limit
from crm_provider.load import dispatch
from crm_provider.load.dispatch import Dispatcher
from crm_provider.load.rows import NoSuchFile
from crm_provider.load.workers import WorkerPool
from crm_provider.operators.load import CrmLoadContactsOperator, CrmRetryRejectsOperator
from crm_provider.sandbox import CrmStore, Sandbox, SandboxSettings
from crm_provider.tasks import outcome

RunDag = Callable[..., Any]
RunTask = Callable[..., Any]
Waits = dict[str, list[float]]
Row = dict[str, Any]

MAPPING = {"email": "mail", "name": "first"}


@pytest.fixture
def crm(crm: Sandbox) -> Sandbox:
    """A CRM without contacts."""
    crm.reset(SandboxSettings(seed="empty", rate=None))
    return crm


@pytest.fixture
def resuming(tmp_path: Path) -> dict[str, str]:
    """Arguments that make a load resumable: none if Airflow has a task state store."""
    return {} if HAS_RETRY_POLICY else {"checkpoint_path": str(tmp_path / "checkpoint")}


@pytest.fixture
def one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Send one row at a time, so that errors in a row come from consecutive rows."""
    monkeypatch.setattr("crm_provider.load.workers.width_for", lambda rate, latency: 1)


def rows(count: int, *, name: str = "N", first: int = 1) -> list[Row]:
    return [{"mail": f"p{number}@example.com", "first": f"{name}{number}"} for number in range(first, first + count)]


def as_csv(path: Path, given: Iterable[Row]) -> str:
    given = list(given)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(given[0]))
        writer.writeheader()
        writer.writerows(given)
    return str(path)


def counts(result: dict[str, Any]) -> dict[str, int]:
    """The counts that are not zero."""
    names = ("created", "updated", "unchanged", "skipped", "rejected", "suppressed", "left")
    assert sum(result[name] for name in names) == result["rows"], "the counts do not add up"
    return {name: result[name] for name in names if result[name]}


def names_in(crm: Sandbox) -> dict[str, Any]:
    return {email: contact.attributes.get("name") for email, contact in crm.store.contacts.items()}


def loaded(given: Iterable[Row]) -> dict[str, Any]:
    """The names in the CRM after these rows are loaded."""
    return {row["mail"]: row["first"] for row in given}


def calls(crm: Sandbox) -> Counter[str]:
    return Counter(f"{entry.method} {entry.route}" for entry in crm.journal())


def rejected(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


# -- sources --------------------------------------------------------------------------------------------------


def _parquet(path: Path, given: list[Row]) -> str:
    import pyarrow
    import pyarrow.parquet

    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(given), path)
    return str(path)


def _packed_parts(folder: Path, given: list[Row]) -> str:
    for number, part in enumerate((given[:4], given[4:])):
        as_csv(folder / "plain", part)
        (folder / f"part-{number}.csv.gz").write_bytes(gzip.compress((folder / "plain").read_bytes()))
    return str(folder / "part-*.csv.gz")


SOURCES: dict[str, Callable[[Path], Any]] = {
    "pattern of gzipped csv": lambda folder: _packed_parts(folder, rows(9)),
    "parquet": lambda folder: _parquet(folder / "in.parquet", rows(9)),
    "path object": lambda folder: ObjectStoragePath("file://" + as_csv(folder / "in.csv", rows(9))),
    "rows": lambda _: rows(9),
    "template": lambda folder: as_csv(folder / "in.csv", rows(9)).replace("in.csv", "{{ 'in' }}.csv"),
}


def test_load_accepts_each_kind_of_source(crm: Sandbox, run_dag: RunDag, tmp_path: Path) -> None:
    with DAG("sources", schedule=None) as dag:
        for number, make in enumerate(SOURCES.values()):
            folder = tmp_path / str(number)
            folder.mkdir()
            CrmLoadContactsOperator(task_id=f"load_{number}", source=make(folder), mapping=MAPPING)
    run = run_dag(dag)
    ends = {name: run[f"load_{number}"] for number, name in enumerate(SOURCES)}
    assert {name: (end.state, end.result and end.result["rows"]) for name, end in ends.items()} == dict.fromkeys(
        SOURCES, ("success", 9)
    )
    assert names_in(crm) == loaded(rows(9))


@pytest.mark.usefixtures("one_by_one")
def test_load_with_all_files_in_an_object_store(crm: Sandbox, run_dag: RunDag, tmp_path: Path) -> None:
    from airflow.sdk.io import attach
    from fsspec.implementations.memory import MemoryFileSystem

    attach(protocol="memory", fs=MemoryFileSystem())  # cloud providers do the same for s3:// and others
    folder = ObjectStoragePath(f"memory://{tmp_path.name}/load")
    for number, part in enumerate((rows(4), rows(5, first=5))):
        with (folder / f"in-{number}.csv").open("wb") as file:
            file.write(Path(as_csv(tmp_path / "part.csv", part)).read_bytes())
    crm.add_fault(effect="error", error="INVALID_INPUT", email="p2@example.com", count=1)
    crm.add_fault(effect="error", error="unavailable", after=6, count=2)
    with DAG("remote", schedule=None, default_args={"retries": 1, "retry_delay": timedelta(0)}) as dag:
        load = CrmLoadContactsOperator(
            task_id="load",
            source=f"{folder}/in-*.csv",
            mapping=MAPPING,
            errors_in_a_row=2,
            max_rejects=1,
            rejects_path=f"{folder}/rejects.jsonl",
            state_path=f"{folder}/state.gz",
            checkpoint_path=f"{folder}/checkpoint",
        )
        resend = CrmRetryRejectsOperator(
            task_id="resend", rejects=f"{folder}/rejects.jsonl", only="all", mapping=MAPPING
        )
        load >> resend
    run = run_dag(dag)
    assert run["load"].states == ["up_for_retry", "success"]
    assert counts(run["load"].result) == {"created": 8, "rejected": 1}
    assert run["load"].result["resumed_at"] >= 1
    assert run["load"].result["rejects_path"] == f"{folder}/rejects.jsonl"
    assert "1 of 9 rows was rejected.\nWhat to do:  The rejected rows and their reasons are in" in run["load"].log
    assert counts(run["resend"].result) == {"created": 1}
    assert names_in(crm) == loaded(rows(9))
    left = {path.name for path in folder.iterdir()}
    assert left == {"in-0.csv", "in-1.csv", "rejects.jsonl", "rejects.jsonl.report.md", "state.gz"}


# -- rendered fields and logs ---------------------------------------------------------------------------------


def stored_fields(dag_id: str) -> dict[str, str]:
    """Rendered fields in Airflow's database, by task instance."""
    from airflow.models.renderedtifields import RenderedTaskInstanceFields
    from airflow.utils.session import create_session
    from sqlalchemy import select

    with create_session() as session:
        found = session.scalars(select(RenderedTaskInstanceFields).filter_by(dag_id=dag_id)).all()
        return {f"{row.task_id}[{row.map_index}]": json.dumps(row.rendered_fields) for row in found}


def test_row_values_are_neither_stored_nor_logged(crm: Sandbox, run_dag: RunDag) -> None:
    secret = [{"mail": "hidden.person@example.com", "first": "Hidden"}]

    with DAG("secrecy", schedule=None, render_template_as_native_obj=True) as dag:

        @task
        def extract() -> list[Row]:
            return secret

        @task
        def parts() -> list[list[Row]]:
            return [secret, secret]

        found = extract()
        also = {"mapping": MAPPING, "suppression": ["hidden.other@example.com"]}
        CrmLoadContactsOperator(task_id="from_xcom", source=found, **also)
        found >> CrmLoadContactsOperator(task_id="from_template", source="{{ ti.xcom_pull('extract') }}", **also)
        CrmLoadContactsOperator(task_id="literal", source=secret, **also)
        CrmLoadContactsOperator.partial(task_id="mapped", **also).expand(source=parts())
        CrmLoadContactsOperator.partial(task_id="mapped_beside", source=found, **also).expand(mode=["upsert", "update"])
    run = run_dag(dag)
    dag_tasks = [name for name in run.tasks if name not in ("extract", "parts")]
    assert {run[name].state for name in dag_tasks} == {"success"}
    assert len(dag_tasks) == 7
    stored = {
        name: fields
        for name, fields in stored_fields("secrecy").items()
        if "extract" not in name and "parts" not in name
    }
    assert len(stored) == 7
    for name, fields in stored.items():
        assert '"1 row"' in fields, name
        assert '"1 address"' in fields, name
        assert "hidden" not in fields.lower(), name
    own = "".join(run[name].log for name in dag_tasks)
    assert "hidden.person" not in own
    assert "hidden.other" not in own


def test_row_values_are_not_rendered_as_templates(crm: Sandbox, run_dag: RunDag) -> None:
    given = {"mail": "p1@example.com", "first": "{{ 1 + 1 }} {{ nothing.at.all }}"}
    with DAG("values", schedule=None) as dag:

        @task
        def extract() -> list[Row]:
            return [given]

        @task
        def one(number: int) -> Row:
            return {**given, "mail": f"p{number}@example.com"}

        @task
        def parts() -> list[list[Row]]:
            return [[{**given, "mail": "p4@example.com"}]]

        CrmLoadContactsOperator(task_id="from_xcom", source=extract(), mapping=MAPPING)
        CrmLoadContactsOperator(task_id="from_mapped", source=one.expand(number=[2, 3]), mapping=MAPPING)
        CrmLoadContactsOperator.partial(task_id="mapped", mapping=MAPPING).expand(source=parts())
    assert run_dag(dag).state == "success"
    assert names_in(crm) == {f"p{number}@example.com": given["first"] for number in (1, 2, 3, 4)}


def test_rows_rendered_to_text_are_an_error_without_values(crm: Sandbox, run_dag: RunDag) -> None:
    with DAG("text_of_rows", schedule=None) as dag:

        @task
        def extract() -> list[Row]:
            return [{"mail": "hidden.person@example.com"}]

        load = CrmLoadContactsOperator(task_id="as_text", source="{{ ti.xcom_pull('extract') }}")
        extract() >> load
    run = run_dag(dag)
    assert "render_template_as_native_obj" in str(run["as_text"].error)
    assert "hidden" not in stored_fields("text_of_rows")["as_text[-1]"]


# -- arguments at DAG parse -----------------------------------------------------------------------------------


def test_invalid_partial_argument_is_an_error_at_parse() -> None:
    with pytest.raises(ValueError, match="mapping has no 'email'"):
        CrmLoadContactsOperator.partial(task_id="load", mapping={"name": "first"})
    with pytest.raises(ValueError, match="'delimiter' has no meaning for jsonl files"):
        CrmLoadContactsOperator.partial(task_id="load", source="a.jsonl", source_options={"delimiter": ";"})


def test_arguments_missing_in_partial_are_accepted_at_parse() -> None:
    with DAG("halves", schedule=None):
        CrmLoadContactsOperator.partial(task_id="load", full_refresh=True).expand_kwargs(
            [{"source": "a.csv", "state_path": "a"}, {"source": "b.csv", "state_path": "b"}]
        )


def test_templated_arguments_are_checked_after_rendering(crm: Sandbox, run_dag: RunDag) -> None:
    later = {
        "mapping": {"email": "{{ 'mail' }}", "phone": {"constant": "{{ 'no phone' }}", "type": "phone"}},
        "list_ids": "{{ 'newsletter' }}",
        "rejects_path": "{{ 'r.parquet' }}",
        "suppression": "{{ 'nowhere' }}.txt",
    }
    with DAG("templates", schedule=None, default_args={"retries": 1, "retry_delay": timedelta(0)}) as dag:
        for name, value in later.items():
            CrmLoadContactsOperator(task_id=name, source=rows(1), **{name: value})
    run = run_dag(dag)
    states = {name: ["failed"] for name in later} | {
        "suppression": ["up_for_retry", "failed"]
    }  # the file may arrive later
    assert {name: run[name].states for name in later} == states
    for name in later:
        assert name.partition("_")[0] in str(run[name].error), name
    assert not crm.journal()


def test_missing_source_file_is_retried(crm: Sandbox, run_task: RunTask, tmp_path: Path) -> None:
    end = run_task(CrmLoadContactsOperator, source=str(tmp_path / "later-*.csv"))
    assert end.states == ["up_for_retry", "failed"]
    assert isinstance(end.error, NoSuchFile)
    assert f"{tmp_path / 'later-*.csv'}; correct the pat" in str(end.error)
    log = " ".join(end.log.split())
    assert "Nothing was sent." in log
    assert "Nothing was sent this time." in log
    assert not crm.journal()


def test_renamed_column_is_reported_with_the_columns_and_nothing_is_sent(
    crm: Sandbox, run_task: RunTask, tmp_path: Path
) -> None:
    path = tmp_path / "in.csv"
    path.write_text("mail,full_name\na@example.com,Ada\n")
    log = " ".join(run_task(CrmLoadContactsOperator, source=str(path)).log.split())
    assert "email: column missing; give the load a mapping (did you mean 'mail'?)." in log
    assert "Its columns: 'mail', 'full_name'. Nothing was sent." in log
    assert not crm.journal()


# -- rejects --------------------------------------------------------------------------------------------------


def test_rejected_rows_fail_the_task_after_the_other_rows_are_sent(
    crm: Sandbox, run_task: RunTask, tmp_path: Path
) -> None:
    given = [*rows(8), {"mail": "no address", "first": "Zoe"}]
    crm.add_fault(effect="error", error="INVALID_INPUT", email="p3@example.com")
    path = tmp_path / "rejects.jsonl"
    end = run_task(CrmLoadContactsOperator, source=given, mapping=MAPPING, rejects_path=path)
    assert end.states == ["failed"], "a retry would get the same rejects"
    assert counts(end.result) == {"created": 7, "rejected": 2}
    assert end.result["errors"] == {"INVALID_INPUT": 1, "INVALID_VALUE": 1}
    assert end.result["rejects_path"] == str(path)
    assert {row["row"]: (row["values"], row["type"], row["retryable"]) for row in rejected(path)} == {
        3: (given[2], "INVALID_INPUT", False),
        9: (given[8], "INVALID_VALUE", False),
    }
    message = str(end.error)
    assert "2 of 9 rows were rejected" in message
    assert (
        "Most often INVALID_INPUT (1 row): send a valid body with all required fields. Also 1 INVALID_VALUE." in message
    )
    assert str(path) in message
    assert "CrmRetryRejectsOperator" in message
    report = (tmp_path / "rejects.jsonl.report.md").read_text(encoding="utf-8")
    assert end.result["report_path"] == str(tmp_path / "rejects.jsonl.report.md")
    resend = f'"rejects": "{path}"'
    for part in ("2 of 9 rows were rejected", "| rejected | 2 | 22.2% |", "`INVALID_INPUT` | 1 |", resend):
        assert part in report
    for text in (message, report, end.log):
        assert "p3@" not in text
        assert "Zoe" not in text
        assert "no address" not in text


def test_dry_run_writes_nothing(crm: Sandbox, run_task: RunTask, tmp_path: Path) -> None:
    path, state = tmp_path / "r.jsonl", tmp_path / "state"
    given = [*rows(150), {"mail": "no address", "first": "x"}]
    end = run_task(
        CrmLoadContactsOperator,
        source=given, mapping=MAPPING, dry_run=True, rejects_path=path, state_path=state,
        report_path=str(tmp_path / "report.md"),
    )  # fmt: skip
    assert end.state == "success"
    assert end.result["dry_run"]
    assert end.result["rows"] == 151
    assert list(end.result["problems"].values()) == [1]
    assert end.result["plan"]["calls"] >= 150
    assert "Sends: email; attributes name" in end.log
    assert {entry.method for entry in crm.journal()} <= {"GET"}
    assert not path.exists()
    assert not state.exists()
    assert "dry run: nothing was written" in (tmp_path / "report.md").read_text()
    assert end.result["would_fail"]
    assert "A real run would fail: 1 row cannot be sent, max_rejects=0 allows none." in end.result["ending"]
    assert "What to do:  Correct the rows, or raise max_rejects." in end.log


@pytest.mark.parametrize("name", ["rejects_path", "state_path", "checkpoint_path"])
def test_unwritable_path_is_reported_before_the_first_call(
    name: str, crm: Sandbox, run_task: RunTask, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    path = tmp_path / "file" / "below"
    end = run_task(CrmLoadContactsOperator, source=rows(2), mapping=MAPPING, retries=1, **{name: str(path)})
    assert end.states == ["failed"]
    assert f"{name}: {path} cannot be written" in str(end.error)
    assert not crm.journal()


# -- modes and plans ------------------------------------------------------------------------------------------


def test_load_with_a_state_file_sends_changed_rows_only(crm: Sandbox, run_task: RunTask, tmp_path: Path) -> None:
    path = tmp_path / "in.csv"
    state = tmp_path / "state"
    arguments = {"source": str(path), "mapping": MAPPING, "state_path": str(state)}

    as_csv(path, rows(20))
    first = run_task(CrmLoadContactsOperator, **arguments)
    assert counts(first.result) == {"created": 20}
    assert first.result["state_path"] == str(state)
    assert state.stat().st_mode & 0o777 == 0o600
    assert b"@" not in state.read_bytes()

    before = len(crm.journal())
    as_csv(path, [*rows(18), *rows(2, name="New", first=19)])
    second = run_task(CrmLoadContactsOperator, mode="update", **arguments)
    assert counts(second.result) == {"updated": 2, "unchanged": 18}
    assert len(crm.journal()) - before == second.result["calls"] == 2

    third = run_task(CrmLoadContactsOperator, mode="update", full_refresh=True, **arguments)
    assert counts(third.result) == {"updated": 20}


def test_load_that_exceeds_the_execution_timeout_does_not_start(
    crm: Sandbox, run_task: RunTask, resuming: dict[str, str]
) -> None:
    load = {"source": rows(100), "mapping": MAPPING, "plan": "learned"}  # takes 31 s at 5 calls per second
    timeout = {"execution_timeout": timedelta(seconds=25)}
    end = run_task(CrmLoadContactsOperator, **load, **timeout, **resuming, retries=0)
    assert end.states == ["failed"]
    assert "raise execution_timeout or retries, or load less" in str(end.error)
    assert not crm.journal()
    foreseen = run_task(CrmLoadContactsOperator, **load, **timeout, dry_run=True, retries=0)
    assert (foreseen.state, foreseen.result["would_fail"]) == ("success", True)
    assert str(end.error) in foreseen.result["ending"]
    end = run_task(CrmLoadContactsOperator, **load, **timeout, **resuming, retries=1)
    assert end.state == "success", "the load starts, because it could finish in a retry"


@pytest.mark.parametrize(
    ("try_number", "resumes", "seconds"),
    [
        (1, True, 300.0),  # this try and two retries
        (3, True, 100.0),
        (4, True, 100.0),  # after a clear
        (1, False, 100.0),  # a retry would begin with the first row
    ],
)
def test_time_limit_counts_the_remaining_tries(try_number: int, resumes: bool, seconds: float) -> None:
    ti = SimpleNamespace(max_tries=2, try_number=try_number)
    assert time_limit(timedelta(seconds=100), ti, resumes=resumes) == seconds


def test_time_limit_without_execution_timeout_is_none() -> None:
    assert time_limit(None, SimpleNamespace(max_tries=2, try_number=1), resumes=False) is None


# -- suppression ----------------------------------------------------------------------------------------------


def test_suppressed_contacts_are_not_sent(crm: Sandbox, run_task: RunTask, tmp_path: Path) -> None:
    listed = tmp_path / "no.txt"
    listed.write_text(f"P1@example.com\n{hashlib.sha256(b'p2@example.com').hexdigest()}\n", encoding="utf-8")
    end = run_task(CrmLoadContactsOperator, source=rows(5), mapping=MAPPING, suppression=str(listed))
    assert counts(end.result) == {"created": 3, "suppressed": 2}
    assert names_in(crm).keys() == {"p3@example.com", "p4@example.com", "p5@example.com"}


# -- retries --------------------------------------------------------------------------------------------------


def test_rescheduled_load_does_not_say_that_nothing_was_ever_sent(
    crm: Sandbox, run_task: RunTask, waits: Waits, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    path = tmp_path / "in.csv"
    path.write_text("email,name\n" + "".join(f"p{n}@example.com,P\n" for n in range(1, 4)))
    crm.add_fault(effect="error", error="quota used up", after=2)
    reschedule = outcome.reschedule_date

    def removed(error: CrmError, context: Context) -> datetime | None:
        path.unlink(missing_ok=True)
        return reschedule(error, context)

    monkeypatch.setattr(outcome, "reschedule_date", removed)
    end = run_task(CrmLoadContactsOperator, source=str(path), retries=0)
    assert end.states == ["up_for_reschedule", "failed"]
    assert crm.store.contacts
    assert "Nothing was sent." not in end.log
    assert "Nothing was sent this time." in " ".join(end.log.split())


def test_used_up_quota_reschedules_the_load_within_the_try(
    crm: Sandbox, run_task: RunTask, waits: Waits, resuming: dict[str, str]
) -> None:
    crm.add_fault(effect="error", error="quota used up", after=10, count=4)
    end = run_task(CrmLoadContactsOperator, source=rows(30), mapping=MAPPING, **resuming)
    assert end.states[-1] == "success"
    assert set(end.states[:-1]) == {"up_for_reschedule"}
    assert end.try_number == 1
    assert min(waits["task"]) > 800
    assert counts(end.result) == {"created": 30}
    assert end.result["resumed_at"] >= 10
    assert end.result["calls"] == len(crm.journal())
    assert names_in(crm) == loaded(rows(30))


@pytest.mark.usefixtures("one_by_one")
def test_retry_of_a_load_continues_after_the_sent_rows(crm: Sandbox, run_task: RunTask, tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    crm.add_fault(effect="error", error="INVALID_INPUT", email="p2@example.com")
    crm.add_fault(effect="error", error="unavailable", after=20, count=3, method="POST")
    end = run_task(
        CrmLoadContactsOperator,
        source=rows(40), mapping=MAPPING, errors_in_a_row=3, rejects_path=str(path), max_rejects=1,
    )  # fmt: skip
    assert end.states == ["up_for_retry", "success"]
    assert counts(end.result) == {"created": 39, "rejected": 1}
    assert end.result["resumed_at"] >= 15
    assert calls(crm)["POST /contacts"] == 40 + 3, "rows that were sent are not sent again"
    assert [row["row"] for row in rejected(path)] == [2]


@pytest.mark.usefixtures("one_by_one")
def test_retry_of_a_load_continues_from_a_checkpoint_file(crm: Sandbox, run_task: RunTask, tmp_path: Path) -> None:
    path = tmp_path / "checkpoint"
    seen: list[bool] = []
    crm.add_fault(effect="error", error="unavailable", after=20, count=3)
    end = run_task(
        CrmLoadContactsOperator,
        source=rows(30), mapping=MAPPING, errors_in_a_row=3, checkpoint_path=str(path),
        on_retry_callback=lambda _: seen.append(b"@" not in path.read_bytes()),
    )  # fmt: skip
    assert end.states == ["up_for_retry", "success"]
    assert end.result["resumed_at"] >= 15
    assert seen == [True], "the file exists between the tries and contains no address"
    assert not path.exists(), "the file is removed after the load"


@pytest.mark.parametrize(
    ("retries", "next_step"), [(1, "A retry continues from there"), (0, "A cleared task starts with the first row;")]
)
def test_stopped_load_names_a_retry_only_if_one_is_left(
    crm: Sandbox, run_task: RunTask, retries: int, next_step: str, tmp_path: Path
) -> None:
    crm.add_fault(effect="error", error="unavailable")
    report = tmp_path / "report.md"
    end = run_task(
        CrmLoadContactsOperator, source=rows(200), mapping=MAPPING, retries=retries, report_path=str(report)
    )  # fmt: skip
    assert f"Report: {report}" in " ".join(end.log.split())
    first = " ".join(end.log.split()).partition("Also: ")[2]
    assert first.startswith(f"The load stopped before a plan was made: 200 rows: none done, 200 left. {next_step}")
    assert "A retry continues" not in str(end.error), "no retry is left after the last try"
    assert end.result["plan"]["words"] == "The load stopped before a plan was made."


@pytest.fixture
def restored_sigterm() -> Iterator[None]:
    """Restore the SIGTERM handler of pytest, which Airflow's task runner replaces."""
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


def test_retry_continues_after_sigterm(
    crm: Sandbox, run_task: RunTask, restored_sigterm: None, resuming: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    create = CrmStore.create_contact

    def create_and_terminate(self: CrmStore, *arguments: Any, **keywords: Any) -> Any:
        made = create(self, *arguments, **keywords)
        if len(self.contacts) == 10:
            os.kill(os.getpid(), signal.SIGTERM)
        return made

    monkeypatch.setattr(CrmStore, "create_contact", create_and_terminate)
    end = run_task(CrmLoadContactsOperator, source=rows(100), mapping=MAPPING, **resuming)
    assert end.states == ["up_for_retry", "success"]
    assert "LoadInterrupted" in end.log
    assert end.result["resumed_at"] >= 10
    assert counts(end.result) == {"created": 100}
    assert calls(crm)["POST /contacts"] == 100, "no row was sent twice"


def codes(frame: FrameType | None) -> Iterator[CodeType]:
    """Code objects of the call stack, innermost first."""
    while frame is not None:
        yield frame.f_code
        frame = frame.f_back


@pytest.fixture
def one_timeout(crm: Sandbox, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Airflow's timeout happens once, while the load waits for responses and at least 20 rows are done.

    Earlier, no row would be done on a slow machine. ``tests/unit/load/test_job.py`` covers an interruption between a
    response and the record of its row.
    """
    install, before, left = signal.signal, signal.getsignal(signal.SIGALRM), [1]
    waiting = {Dispatcher.run.__code__, WorkerPool._wait.__code__}

    def gently(number: int, handler: Any) -> Any:
        def add_faults(signum: int, frame: FrameType | None) -> None:
            if left and waiting <= set(codes(frame)) and len(crm.store.contacts) >= 20:
                left.pop()
                handler(signum, frame)
            elif left:
                signal.setitimer(signal.ITIMER_REAL, 0.001)

        return install(number, add_faults if number == signal.SIGALRM and callable(handler) else handler)

    monkeypatch.setattr(signal, "signal", gently)
    monkeypatch.setattr(dispatch, "LAST_WAIT", 300.0)
    yield
    signal.setitimer(signal.ITIMER_REAL, 0)
    install(signal.SIGALRM, before)


def test_retry_continues_after_a_task_timeout(
    crm: Sandbox, run_task: RunTask, resuming: dict[str, str], one_timeout: None
) -> None:
    crm.add_fault(effect="latency", latency=0.1, method="POST", count=60)
    end = run_task(
        CrmLoadContactsOperator,
        source=rows(100),
        mapping=MAPPING,
        execution_timeout=timedelta(seconds=1),
        retries=50,  # the load takes 30 s at 5 calls per second: more than one try has
        **resuming,
    )
    assert end.states == ["up_for_retry", "success"]
    assert type(end.attempts[0].error).__name__ == "AirflowTaskTimeout"
    assert end.result["resumed_at"] >= 10
    assert counts(end.result) == {"created": 100}
    assert calls(crm)["POST /contacts"] == 100, "no row was sent twice"


def test_locked_state_file_is_retried(crm: Sandbox, run_task: RunTask, tmp_path: Path) -> None:
    from crm_provider.files.lock import FileLock

    held = FileLock(tmp_path / "state.lock", "the state file")
    held.acquire()
    end = run_task(
        CrmLoadContactsOperator,
        source=rows(3),
        mapping=MAPPING,
        state_path=str(tmp_path / "state"),
        on_retry_callback=lambda _: held.release(),
    )
    assert end.states == ["up_for_retry", "success"]
    assert "another run is using" in end.log


# -- resending rejects ----------------------------------------------------------------------------------------


def test_retry_rejects_sends_the_rejected_rows(crm: Sandbox, run_dag: RunDag, tmp_path: Path) -> None:
    first, second, third = (tmp_path / f"{name}.csv" for name in ("first", "second", "third"))
    crm.add_fault(effect="error", error="unavailable", email="p2@example.com", count=1)
    crm.add_fault(effect="error", error="INVALID_INPUT", email="p4@example.com", count=2)

    def path_from(name: str) -> str:
        return f"{{{{ ti.xcom_pull('{name}')['rejects_path'] }}}}"

    with DAG("resend", schedule=None) as dag:
        load = CrmLoadContactsOperator(task_id="load", source=rows(6), mapping=MAPPING, rejects_path=str(first))
        soon = CrmRetryRejectsOperator(
            task_id="retryable", rejects=path_from("load"), mapping=MAPPING, rejects_path=str(second),
            trigger_rule="all_done",
        )  # fmt: skip
        rest = CrmRetryRejectsOperator(
            task_id="all", rejects=str(first), only="all", mapping=MAPPING, rejects_path=str(third), max_rejects="100%",
        )  # fmt: skip
        none = CrmRetryRejectsOperator(task_id="none", rejects=path_from("retryable"), mapping=MAPPING)
        gone = CrmRetryRejectsOperator(task_id="gone", rejects=str(tmp_path / "no.csv"), mapping=MAPPING)
        typo = CrmRetryRejectsOperator(task_id="typo", rejects=str(tmp_path / "no" / "no.csv"), mapping=MAPPING)
        load >> soon >> rest >> [none, gone, typo]
    run = run_dag(dag)
    assert {name: run[name].state for name in run.tasks} == {
        "load": "failed", "retryable": "success", "all": "success", "none": "skipped", "gone": "skipped",
        "typo": "failed",
    }  # fmt: skip
    reasons = [run[name].xcoms["crm_reason"]["message"] for name in ("none", "gone")]  # for the page
    assert f"rejects: this worker has no folder {tmp_path / 'no'}, which a load creates" in " ".join(
        run["typo"].log.split()
    )
    missing = f"Nothing to send: there is no rejects file {tmp_path / 'no.csv'}, or it is empty."
    assert reasons == ["Nothing to send: the earlier load has no rejects file.", missing]
    assert counts(run["load"].result) == {"created": 4, "rejected": 2}
    said = " ".join(run["load"].log.split())
    for part in (
        "not retried: all other rows are done; 1 row may succeed as it is, send it with CrmRetryRejectsOperator",
        "1 row may succeed as it is: CrmRetryRejectsOperator sends it. Correct 1 row in the file, then send it with",
    ):
        assert part in said
    assert counts(run["retryable"].result) == {"created": 1}
    assert counts(run["all"].result) == {"updated": 1, "rejected": 1}
    with third.open(newline="", encoding="utf-8") as file:
        kept = list(csv.DictReader(file))
    assert [(row["mail"], row["first"], row["_original_row"]) for row in kept] == [("p4@example.com", "N4", "4")]


@pytest.mark.usefixtures("crm")
def test_resend_of_a_mapped_load_by_the_name_without_an_index_is_no_success(run_dag: RunDag, tmp_path: Path) -> None:
    path = str(tmp_path / "out" / "r.jsonl")
    with DAG("resend_mapped", schedule=None) as dag:
        load = CrmLoadContactsOperator.partial(task_id="load", rejects_path=path, max_rejects="100%").expand(
            source=[[{"email": "no address"}], [{"email": "nor this"}]]
        )
        paths = "{{ ti.xcom_pull('load') | map(attribute='rejects_path') | list }}"
        for name, rejects in (("resend", path), ("text", paths)):
            load >> CrmRetryRejectsOperator(task_id=name, rejects=rejects, only="all", mapping=MAPPING)
    run = run_dag(dag)
    assert run["resend"].state == run["text"].state == "failed"
    pattern = tmp_path / "out" / "r.*.jsonl"
    assert f"a mapped load has written 2 files of its own; give the pattern {pattern}" in str(run["resend"].error)
    assert "rejects: a list or several lines, as text, stand in place of a path" in str(run["text"].error)


def test_each_instance_of_a_mapped_load_has_its_own_files(crm: Sandbox, run_dag: RunDag, tmp_path: Path) -> None:
    """Three files with one bad row each. In a shared file each instance would remove the previous instance's row."""
    crm.add_fault(effect="error", error="INVALID_INPUT", email="p[147]@example.com", count=3)
    sources = [as_csv(tmp_path / f"in-{first}.csv", rows(3, first=first)) for first in (1, 4, 7)]
    folder = tmp_path / "out"
    with DAG("mapped", schedule=None) as dag:
        load = CrmLoadContactsOperator.partial(
            task_id="load",
            mapping=MAPPING,
            max_rejects=1,
            rejects_path=f"{folder}/rejects-{{{{ run_id }}}}.jsonl",
            state_path=f"{folder}/state",
            checkpoint_path=f"{folder}/checkpoint.json",
        ).expand(source=sources)
        named = CrmLoadContactsOperator.partial(
            task_id="named", mapping=MAPPING, report_path=f"{folder}/report-{{{{ ti.map_index }}}}.md"
        ).expand(source=sources[:2])
        resend = CrmRetryRejectsOperator(
            task_id="resend",
            rejects=[f"{folder}/rejects-{{{{ run_id }}}}.*.jsonl", f"{folder}/no.jsonl", None],
            only="all",
            mapping=MAPPING,
            rejects_path=f"{folder}/again-{{{{ run_id }}}}.csv",
        )
        load >> resend >> named
    run = run_dag(dag)
    written = sorted(folder.glob("rejects-*.jsonl"))
    assert [path.name.rpartition(".jsonl")[0][-2:] for path in written] == [".0", ".1", ".2"]
    assert [[row["values"]["mail"] for row in rejected(path)] for path in written] == [
        ["p1@example.com"], ["p4@example.com"], ["p7@example.com"],
    ]  # fmt: skip
    assert counts(run["resend"].result) == {"created": 3}
    assert names_in(crm) == loaded(rows(9))
    names = {path.name for path in folder.iterdir()}
    assert {"state.0", "state.1", "state.2", "report-0.md", "report-1.md"} <= names
    assert {f"{path.name}.report.md" for path in written} <= names


def test_retry_rejects_needs_another_rejects_path(crm: Sandbox, run_task: RunTask, tmp_path: Path) -> None:
    path = str(tmp_path / "r.jsonl")
    with pytest.raises(ValueError, match="use another path"):
        CrmRetryRejectsOperator(task_id="resend", rejects=path, rejects_path=path)
    with pytest.raises(ValueError, match="only='some' is unknown"):
        CrmRetryRejectsOperator(task_id="resend", rejects=path, only="some")
    end = run_task(CrmRetryRejectsOperator, rejects=path, rejects_path="{{ '" + path + "' }}")
    assert "use another path" in str(end.error)


@pytest.mark.parametrize(
    ("kind", "option", "owner"),
    [
        ("contacts", {"every_spelling": False}, "deletions"),
        ("contacts", {"only_from_stages": ["{{ params.stage }}"]}, "deals"),
        ("deals", {"resubscribe": True}, "contacts"),
        ("deals", {"max_deletes": 1}, "deletions"),
    ],
)
def test_retry_rejects_refuses_options_of_another_kind(kind: Any, option: Any, owner: str) -> None:
    with pytest.raises(ValueError, match=f"{next(iter(option))} is for kind='{owner}', not '{kind}'"):
        CrmRetryRejectsOperator(task_id="resend", rejects="r.jsonl", kind=kind, **option)


# -- other ----------------------------------------------------------------------------------------------------


def test_dry_run_method_of_airflow_works() -> None:
    """``airflow tasks test --dry-run`` calls ``dry_run()`` of the base class."""
    CrmLoadContactsOperator(task_id="load", source="in.csv", dry_run=True).dry_run()
