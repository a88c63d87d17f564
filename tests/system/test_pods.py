"""Killed tasks continue on a real Airflow, although each try has a new pod with an empty disk.

Each try runs in a process group with an empty disk (:mod:`pod_executor`). State is kept only in Airflow's task state
store, or only in an object store.
"""

from __future__ import annotations

import json
import os
import signal
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from airflow_api import Run, run_path
from airflow_stack import AirflowStack
from pod_executor import executor_env
from s3_server import S3Server

from crm_provider.extract.partial_pages import PAGES_AT_ONCE
from crm_provider.load.progress import REMOTE_EVERY, SENT_ROWS
from crm_provider.sandbox import Sandbox, ids

pytest.importorskip("airflow.models.task_state_store", reason="task state stores came with Airflow 3.3")
pytest.importorskip("airflow.providers.amazon", reason="the extra 'servers' is not installed")

RATE = 10
ROWS = 300
DEALS = 250
CONTACTS = 2400
REFUSED_EVERY = 20
"""The CRM rejects every such row. The row after it has no address and cannot be sent."""

IN_FLIGHT = 16
"""The most calls in flight when a task is killed."""

PATIENCE = 300.0
"""Seconds until a wait counts as hanging."""

DAG_FILE = """
from datetime import timedelta

from airflow.sdk import DAG

from crm_provider.operators.extract import CrmExtractContactsOperator
from crm_provider.operators.load import CrmLoadContactsOperator, CrmLoadDealsOperator

ROWS = [
    {"mail": "" if n % EVERY == 1 else f"{'row' if n % EVERY else 'refused'}-{n}@example.com", "name": f"name {n}"}
    for n in range(1, COUNT + 1)
]
MAPPING = {"email": "mail", "name": "name"}


def in_s3(*names):
    return {name: f"s3://aws@BUCKET/{file}" for name, file in FILES.items() if name in names}


FILES = {
    "rejects_path": "rejects.jsonl", "outcomes_path": "outcomes.jsonl", "state_path": "state",
    "checkpoint_path": "checkpoint", "report_path": "report.md",
}

arguments = {"retries": 2, "retry_delay": timedelta(seconds=1), "max_rejects": 100}
with DAG("airflow_only", schedule=None, default_args=arguments):
    CrmLoadContactsOperator(task_id="task", crm_conn_id="airflow_only", source=ROWS, mapping=MAPPING)
with DAG("objects_only", schedule=None, default_args=arguments):
    CrmLoadContactsOperator(
        task_id="task", crm_conn_id="objects_only", source="s3://aws@BUCKET/in.csv", mapping=MAPPING, **in_s3(*FILES)
    )
with DAG("deals", schedule=None, default_args=arguments):
    CrmLoadDealsOperator(
        task_id="task",
        crm_conn_id="deals",
        source="s3://aws@BUCKET/deals.csv",
        mapping={"contact_id": "contact", "pipeline_id": {"constant": "PIPELINE"}, "stage_id": {"constant": "STAGE"}},
        mode="create",
        outcomes_path="s3://aws@BUCKET/deals.parquet",
        outcome_keys="contact",
    )
with DAG("extract", schedule=None, default_args=arguments):
    CrmExtractContactsOperator(task_id="task", crm_conn_id="extract", target="s3://aws@BUCKET/contacts.jsonl")
"""

NAMES = ("airflow_only", "objects_only", "deals", "extract")
GOOD = [number for number in range(1, ROWS + 1) if number % REFUSED_EVERY > 1]
REJECTED = sorted(set(range(1, ROWS + 1)) - set(GOOD))


@dataclass
class Ended:
    """A task that was killed in its first try."""

    crm: Sandbox
    result: dict[str, Any]
    log: str
    calls_before: int
    """Calls before the kill."""
    saved: int
    """Saved rows of the checkpoint, or saved pages, at the kill."""


@pytest.fixture(scope="module")
def bucket(s3: S3Server, crms: dict[str, Sandbox]) -> str:
    """A bucket with the sources."""
    bucket = s3.new_bucket()
    rows = [(email(number), f"name {number}") for number in range(1, ROWS + 1)]
    s3.write(bucket, "in.csv", "\n".join(["mail,name", *map(",".join, rows)]).encode())
    contacts = [contact.id for contact in crms["deals"].store.contacts.values()]
    s3.write(bucket, "deals.csv", "\n".join(["contact", *contacts]).encode())
    return bucket


def email(number: int) -> str:
    if number % REFUSED_EVERY == 1:
        return ""
    return f"{'row' if number % REFUSED_EVERY else 'refused'}-{number}@example.com"


@pytest.fixture(scope="module")
def crms() -> Iterator[dict[str, Sandbox]]:
    """A CRM for each DAG."""
    seeds = dict(zip(NAMES, ("empty", "empty", f"contacts:{DEALS}", f"contacts:{CONTACTS}"), strict=True))
    with ExitStack() as running:
        found = {name: running.enter_context(Sandbox(seed=seed, rate=RATE)) for name, seed in seeds.items()}
        for crm in found.values():
            crm.add_fault(effect="error", error="INVALID_INPUT", email="refused-*")
        yield found


@pytest.fixture(scope="module")
def ended(
    s3: S3Server,
    bucket: str,
    crms: dict[str, Sandbox],
    airflow_stack: Callable[..., AirflowStack],
    tmp_path_factory: pytest.TempPathFactory,
) -> dict[str, Ended]:
    """Run all tasks in parallel and kill each with its pod as soon as it has saved something."""
    dags = tmp_path_factory.mktemp("dags")
    texts = {
        "BUCKET": bucket, "PIPELINE": ids.pipeline_id("Sales"), "STAGE": ids.stage_id("Sales", "New"),
        "EVERY": str(REFUSED_EVERY), "COUNT": str(ROWS),
    }  # fmt: skip
    text = DAG_FILE
    for name, value in texts.items():
        text = text.replace(name, value)
    (dags / "pods.py").write_text(text)
    environment = {
        **{f"AIRFLOW_CONN_{name.upper()}": crm.connection_json(requests_per_second=RATE) for name, crm in crms.items()},
        "AIRFLOW_CONN_AWS": s3.connection_json(),
        **executor_env(),
    }
    stack = airflow_stack(dags, env=environment)
    for name in NAMES:
        stack.api.wait_for_dag(name)
    runs = {name: stack.api.trigger(name) for name in NAMES}
    left, before = set(NAMES), {}

    def all_killed() -> bool:
        for name in sorted(left):
            if (saved := saved_of(name, runs[name], stack, s3, bucket)) and (pid := pid_of(stack, name, runs[name])):
                os.killpg(os.getpgid(pid), signal.SIGKILL)
                before[name] = (crms[name].counters().total, saved)
                left.remove(name)
        return not left

    stack.until(all_killed, timeout=PATIENCE, every=0.5)
    found = {}
    for name in NAMES:
        run = stack.api.wait(name, runs[name], timeout=PATIENCE)
        log = stack.api.log(run, run["task"])
        assert (run["task"].state, run["task"].try_number) == ("success", 2), log
        found[name] = Ended(crms[name], stack.api.xcoms(run, run["task"])["return_value"], log, *before[name])
    stack.stop()
    return found


def saved_of(name: str, run_id: str, stack: AirflowStack, s3: S3Server, bucket: str) -> int:
    """The rows or pages that a task has saved for its next try."""
    if name == "extract":
        return PAGES_AT_ONCE * sum(key.startswith("contacts.jsonl.part-") for key in s3.keys(bucket))
    if name == "objects_only":
        return rows_of(json.loads(s3.read(bucket, "checkpoint"))) if "checkpoint" in s3.keys(bucket) else 0
    try:
        found: Any = stack.api.request("GET", f"{run_path(name, run_id)}/taskInstances/task/state-store/crm_load")
    except Exception:  # noqa: BLE001 - nothing is saved yet
        return 0
    kept = found["value"]
    return rows_of(json.loads(kept) if isinstance(kept, str) else kept)


def rows_of(checkpoint: dict[str, Any]) -> int:
    """The rows of a checkpoint, or 0 while it contains no rejected rows."""
    done = int(checkpoint["done_upto"])
    return done if done > 2 * REFUSED_EVERY else 0


def pid_of(stack: AirflowStack, name: str, run_id: str) -> int | None:
    """The process id of the first try, if it is running."""
    run: Run = stack.api.run(name, run_id)
    task = run["task"] if run.tasks else None
    return task.pid if task and task.state == "running" and task.try_number == 1 else None


def lines_in(s3: S3Server, bucket: str, key: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in s3.read(bucket, key).decode().splitlines()]


# -- loads --------------------------------------------------------------------------------------------------


def assert_contacts(end: Ended, saved_every: int) -> None:
    """Each row has one outcome, and only rows after the checkpoint were sent again."""
    assert {contact.attributes["name"] for contact in end.crm.store.contacts.values()} == {f"name {n}" for n in GOOD}
    result = end.result
    assert (result["rows"], result["rejected"], result["left"]) == (ROWS, len(REJECTED), 0)
    assert result["created"] + result["updated"] + result["unchanged"] == len(GOOD)
    assert result["resumed_at"] >= end.saved > 0
    created = Counter(call.email for call in end.crm.journal() if call.applied and call.method == "POST")
    assert max(created.values()) == 1, "no contact was created twice"
    written = Counter(call.email for call in end.crm.journal() if call.applied and call.method != "GET")
    again = sum(count - 1 for count in written.values())
    print(f"{end.saved} rows saved after {end.calls_before} calls; {again} rows were written again")
    assert again <= saved_every + IN_FLIGHT


def test_killed_load_continues_from_the_task_state_store(ended: dict[str, Ended]) -> None:
    end = ended["airflow_only"]
    assert_contacts(end, SENT_ROWS)
    assert "The checkpoint of this load is kept in Airflow's task state store" in end.log


@pytest.mark.reliability("process")
def test_killed_load_continues_from_an_object_store(
    ended: dict[str, Ended], s3: S3Server, bucket: str, observed: Callable[..., None]
) -> None:
    end = ended["objects_only"]
    assert_contacts(end, int(RATE * REMOTE_EVERY))
    assert f"The checkpoint of this load is kept in s3://aws@{bucket}/checkpoint" in end.log
    rejects, outcomes = lines_in(s3, bucket, "rejects.jsonl"), lines_in(s3, bucket, "outcomes.jsonl")
    assert sorted(line["row"] for line in rejects) == REJECTED
    assert sorted(line["row_number"] for line in outcomes) == list(range(1, ROWS + 1))
    assert sorted(line["row_number"] for line in outcomes if line["outcome"] == "rejected") == REJECTED
    kept = [key for key in s3.keys(bucket) if key.startswith(("rejects", "outcomes", "state", "checkpoint", "report"))]
    assert sorted(kept) == ["outcomes.jsonl", "rejects.jsonl", "report.md", "state"], "no part of a file is left"
    assert len(s3.read(bucket, "state").splitlines()) == 1 + len(GOOD)
    observed(
        fault="the pod of the task is killed (SIGKILL), and its disk is gone",
        hits="load",
        ends="success, after 2 tries",
        requests="the rows of at most 15 s and those in flight again; at most 10 and those in a load without files",
        data="nothing lost, nothing duplicated; each rejected row in the file once, each row's outcome once",
        said="nothing: the process is dead",
        remedy="nothing: the next pod continues from Airflow's task state store or the object store",
    )


def test_killed_load_in_a_pod_creates_no_second_deal(
    ended: dict[str, Ended], s3: S3Server, bucket: str, tmp_path: Path
) -> None:
    pyarrow = pytest.importorskip("pyarrow.parquet")
    end = ended["deals"]
    assert (end.result["rows"], end.result["created"], end.result["left"]) == (DEALS, DEALS, 0)
    assert end.result["resumed_at"] >= end.saved > 0
    created = [call for call in end.crm.journal() if call.applied and call.method == "POST" and call.route == "/deals"]
    assert len(created) == len(end.crm.store.deals) == DEALS
    (tmp_path / "deals.parquet").write_bytes(s3.read(bucket, "deals.parquet"))
    table = pyarrow.read_table(tmp_path / "deals.parquet").to_pydict()
    assert sorted(table["row_number"]) == list(range(1, DEALS + 1))
    assert sorted(table["contact"]) == sorted(contact.id for contact in end.crm.store.contacts.values())


# -- extracts -----------------------------------------------------------------------------------------------


@pytest.mark.reliability("process")
def test_killed_extract_reads_only_the_missing_pages(
    ended: dict[str, Ended], s3: S3Server, bucket: str, observed: Callable[..., None]
) -> None:
    end = ended["extract"]
    found = lines_in(s3, bucket, "contacts.jsonl")
    assert sorted(record["id"] for record in found) == sorted(c.id for c in end.crm.store.contacts.values())
    assert not [key for key in s3.keys(bucket) if key.startswith("contacts.jsonl.part-")]
    pages = CONTACTS // 10
    assert end.result["calls"] <= pages - end.saved + 1
    again = end.crm.counters().total - pages
    print(f"{end.saved} of {pages} pages saved after {end.calls_before} calls; {again} pages were read again")
    assert again <= PAGES_AT_ONCE + IN_FLIGHT
    observed(
        fault="the pod of the task is killed (SIGKILL), and its disk is gone",
        hits="extract",
        ends="success, after 2 tries",
        requests="each page, and at most 50 and those in flight again",
        data="none of the target until it is complete; it has each record once",
        said="nothing: the process is dead",
        remedy="nothing: the next pod continues from the pages in the object store",
    )
