"""Loads in user code: ``CrmHook.load_contacts`` in a task and in a script, and tables as sources."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pyarrow
import pytest
from airflow.sdk import DAG, task

from crm_provider._compat import HAS_RETRY_POLICY
from crm_provider.errors import CrmLimitExceededError, CrmServiceUnavailableError
from crm_provider.files.paths import CannotWrite
from crm_provider.hooks.crm import CrmHook
from crm_provider.load.report import LoadStopped, TooManyRejects
from crm_provider.load.rows import SourceError
from crm_provider.load.state import checkpoint
from crm_provider.operators.load import CrmLoadContactsOperator
from crm_provider.sandbox import Sandbox, SandboxSettings
from crm_provider.tasks import crm_errors

RunDag = Callable[..., Any]

COUNT = 12


@pytest.fixture
def crm(crm: Sandbox) -> Sandbox:
    """A CRM without contacts."""
    crm.reset(SandboxSettings(seed="empty", rate=None))
    return crm


@pytest.fixture
def run_function(run_dag: RunDag) -> Callable[..., Any]:
    """Run a function as a task with ``retries=1`` and return its result."""

    def run(function: Callable[[], Any], **arguments: Any) -> Any:
        with DAG("own_load", schedule=None) as dag:
            task(task_id="task", **{"retries": 1, "retry_delay": timedelta(0), **arguments})(function)()
        return run_dag(dag)["task"]

    return run


def rows() -> Iterator[dict[str, str]]:
    for number in range(1, COUNT + 1):
        yield {"mail": f"p{number}@ex.co", "first": f"P{number}"}


MAPPING = {"email": "mail", "name": "first"}


def outage(crm: Sandbox) -> None:
    """A server error stops the load once."""
    crm.add_fault(effect="error", error="unavailable", email="p7@*", method="POST", count=1)


def test_hook_load_resumes_and_returns_the_summary(
    crm: Sandbox, run_function: Callable[..., Any], tmp_path: Path
) -> None:
    path = tmp_path / "outcomes.jsonl"
    outage(crm)

    def load() -> Any:
        with crm_errors():
            return CrmHook().load_contacts(
                rows(), mapping=MAPPING, plan="learned", errors_in_a_row=1, outcomes_path=path, outcome_keys="first",
                **({} if HAS_RETRY_POLICY else {"checkpoint_path": tmp_path / "checkpoint"}),
            )  # fmt: skip

    end = run_function(load)
    assert end.states == ["up_for_retry", "success"]
    assert (end.result["rows"], end.result["created"], end.result["crm_conn_id"]) == (COUNT, COUNT, "crm_default")
    assert end.result["resumed_at"] > 0
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert sorted(line["row_number"] for line in lines) == list(range(1, COUNT + 1))
    assert {line["first"] for line in lines} == {row["first"] for row in rows()}


def too_many() -> Any:
    return CrmHook().load_contacts([{"email": "nobody"}])


def no_source() -> Any:
    return CrmHook().load_contacts([{"email": "a@ex.co"}], mode="upsrt")  # type: ignore[arg-type]


def no_file() -> Any:
    return CrmHook().load_contacts("/no/such/file.csv")


@pytest.mark.parametrize(
    ("load", "states", "message"),
    [
        (too_many, ["failed"], "1 of 1 row was rejected; max_rejects=0 allows none"),
        (no_source, ["failed"], "mode='upsrt' is unknown; did you mean 'upsert'?"),
        (no_file, ["up_for_retry", "failed"], "there is no file /no/such/file.csv"),
    ],
)
def test_hook_load_error_sets_the_task_state(
    crm: Sandbox, run_function: Callable[..., Any], load: Callable[[], Any], states: list[str], message: str
) -> None:
    def guarded() -> Any:
        with crm_errors():
            return load()

    end = run_function(guarded)
    assert end.states == states
    assert message in str(end.error)


def test_each_hook_load_of_a_task_has_its_own_files(crm: Sandbox, run_dag: RunDag, tmp_path: Path) -> None:
    with DAG("own_loads_mapped") as dag:

        @task
        def load(name: str) -> list[int]:
            hook = CrmHook()
            given = [{"email": f"{name}@ex.co"}]
            path = tmp_path / "outcomes.csv"
            return [hook.load_contacts(given, outcomes_path=path)[name] for name in ("created", "unchanged")]

        load.expand(name=["a", "b"])
    run = run_dag(dag)
    assert [run[f"load[{index}]"].result for index in (0, 1)] == [[1, 1], [1, 1]]
    assert sorted(path.name for path in tmp_path.glob("*.csv")) == ["outcomes.0.csv", "outcomes.1.csv"]


def test_on_error_decides_about_rows_that_are_not_valid(crm: Sandbox, tmp_path: Path) -> None:
    hook, given, path = CrmHook(), [{"email": "nobody"}, {"email": "a@ex.co"}], tmp_path / "outcomes.jsonl"
    skip: dict[str, Any] = {"on_error": {"CrmDataError": "skip"}, "outcomes_path": path}
    for dry_run in (True, False):
        result = hook.load_contacts(given, **skip, dry_run=dry_run, report_path=tmp_path / "report.md")
        skipped = re.search(r"^\| skipped \| (\d)", (tmp_path / "report.md").read_text(), re.MULTILINE)
        assert (skipped and skipped[1], result["rejected"], result.get("would_fail")) == (
            "1",
            0,
            False if dry_run else None,
        )
    assert (result["skipped"], result["created"], result["errors"]) == (1, 1, {"INVALID_VALUE": 1})
    first = json.loads(path.read_text().splitlines()[0])
    assert (first["outcome"], first["error_type"]) == ("skipped", "INVALID_VALUE") and "no @" in first["message"]
    crm.reset()
    for settings in ({"on_error": {"INVALID_VALUE": "fail"}}, {"on_invalid": "stop", "on_error": skip["on_error"]}):
        assert hook.load_contacts(given, **settings, dry_run=True)["would_fail"]
        with pytest.raises(SourceError, match="1 of 2 rows cannot be sent; nothing was sent"):
            hook.load_contacts(given, **settings)
    assert not crm.journal()


def test_script_resumes_from_its_checkpoint(crm: Sandbox, tmp_path: Path) -> None:
    outage(crm)
    settings: dict[str, Any] = {
        "mapping": MAPPING, "plan": "learned", "errors_in_a_row": 1, "checkpoint_path": str(tmp_path / "checkpoint"),
    }  # fmt: skip
    with pytest.raises(CrmServiceUnavailableError) as stopped:
        CrmHook().load_contacts(rows(), **settings)
    assert isinstance(stopped.value.__cause__, LoadStopped)
    assert "A retry continues from there" in str(stopped.value)
    done = CrmHook().load_contacts(rows(), **settings)
    assert (done["resumed_at"] > 0, done["created"], done["left"]) == (True, COUNT, 0)
    assert list(tmp_path.iterdir()) == []


def test_script_load_without_a_checkpoint_says_that_a_retry_starts_again(crm: Sandbox) -> None:
    outage(crm)
    starts_again = "A retry starts with the first row, because this load keeps no checkpoint (set checkpoint_path)"
    with pytest.raises(CrmServiceUnavailableError, match=re.escape(starts_again)):
        CrmHook().load_contacts(rows(), mapping=MAPPING, plan="learned", errors_in_a_row=1)
    crm.add_fault(effect="error", error="quota used up", method="GET")
    with pytest.raises(CrmLimitExceededError, match=r"A retry starts with the first row\."):
        CrmHook().load_contacts([{"email": f"p{n}@ex.co"} for n in range(60)], dry_run=True)


def test_script_load_raises_for_rejects(
    crm: Sandbox, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def kept(path: Path) -> None:
        raise CannotWrite(str(path), "Read-only file system")

    monkeypatch.setattr(checkpoint, "remove", kept)
    place = tmp_path / "checkpoint"
    with pytest.raises(TooManyRejects, match="1 of 1 row was rejected") as many:
        CrmHook().load_contacts([{"email": "nobody"}], checkpoint_path=str(place))
    assert many.value.result["rejected"] == 1
    assert f"{place} cannot be written: Read-only file system. Remove it: it says that all rows are" in caplog.text


def test_hook_load_rejects_unknown_arguments() -> None:
    with pytest.raises(TypeError, match=r"a load has no argument 'max_reject' \(did you mean 'max_rejects'\?\)"):
        CrmHook().load_contacts([], max_reject=1)
    with pytest.raises(SourceError, match="outcome_keys needs outcomes_path"):
        CrmHook().load_contacts([], outcome_keys="a")


def test_arrow_stream_is_a_source(crm: Sandbox) -> None:
    table = pyarrow.table({"mail": ["s1@ex.co", "s2@ex.co"], "first": ["S1", "S2"]})
    assert CrmHook().load_contacts(table.to_reader(), mapping=MAPPING)["created"] == 2


def test_dataframe_is_a_source_of_an_operator(crm: Sandbox, run_dag: RunDag) -> None:
    table = pyarrow.table({"mail": ["p1@ex.co", "p2@ex.co"], "first": ["P1", "P2"]})
    with DAG("own_table") as dag:
        CrmLoadContactsOperator(task_id="load", source=table, mapping=MAPPING)
    end = run_dag(dag)["load"]
    assert (end.states, end.result["created"]) == (["success"], 2)
    assert {email: contact.attributes["name"] for email, contact in crm.store.contacts.items()} == {
        "p1@ex.co": "P1", "p2@ex.co": "P2",
    }  # fmt: skip
