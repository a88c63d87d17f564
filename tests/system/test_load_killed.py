"""Loads with killed processes on a real Airflow: each row has one outcome, and few rows are sent twice.

Each test prints its measurements (``pytest -s``).
"""

from __future__ import annotations

import csv
import json
import os
import random
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from airflow_api import run_path
from airflow_stack import AirflowStack
from airflow_waits import until_still

from crm_provider import testing
from crm_provider.load.progress import SENT_ROWS
from crm_provider.sandbox import Sandbox, ids

pytest.importorskip("airflow.models.task_state_store", reason="task state stores came with Airflow 3.3")

RATE = 20
ROWS = 400
DEALS = 200
REFUSED_EVERY = 25
"""The CRM rejects every such row. The row after it has no address and cannot be sent."""

LATENCY = 0.15
WIDTH = 6
"""Calls in flight: 20 calls per second that take 150 ms each, and a few more."""


PATIENCE = 300.0
"""Seconds until a wait counts as hanging."""

LONELY = 120
"""The most calls of a load after its supervisor died: those of six seconds. More rows than that are left at each
kill."""

DAG_FILE = """
from datetime import timedelta

from airflow.sdk import DAG

from crm_provider.operators.load import CrmLoadContactsOperator, CrmLoadDealsOperator

with DAG("deals", schedule=None):
    CrmLoadDealsOperator(
        task_id="load",
        crm_conn_id="deals",
        source="FOLDER/deals.csv",
        mapping={"contact_id": "contact", "pipeline_id": {"constant": "PIPELINE"}, "stage_id": {"constant": "STAGE"}},
        mode="create",
        retries=3,
        retry_delay=timedelta(seconds=3),
    )

for name in ("killed", "stopped"):
    with DAG(name, schedule=None):
        CrmLoadContactsOperator(
            task_id="load",
            crm_conn_id=name,
            source="FOLDER/in.csv",
            mapping={"email": "mail", "name": "name"},
            rejects_path=f"FOLDER/{name}.jsonl",
            outcomes_path=f"FOLDER/{name}-outcomes.jsonl",
            max_rejects=50,
            retries=5 if name == "killed" else 0,
            retry_delay=timedelta(seconds=3),  # so that it shows when a try has ended
        )
"""

Crms = dict[str, Sandbox]


@pytest.fixture(scope="module")
def crms() -> Iterator[Crms]:
    """A CRM for each DAG, with its own rate."""
    with (
        Sandbox(seed="empty", rate=RATE) as killed,
        Sandbox(seed="empty", rate=RATE) as stopped,
        Sandbox(seed=f"contacts:{DEALS}", rate=RATE) as deals,
    ):
        found = {"killed": killed, "stopped": stopped, "deals": deals}
        for crm in found.values():
            crm.add_fault(effect="error", error="INVALID_INPUT", email="refused-*", latency=LATENCY)
            crm.add_fault(effect="latency", latency=LATENCY)
        yield found


@pytest.fixture(scope="module")
def folder(crms: Crms, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the sources and the rejects."""
    folder = tmp_path_factory.mktemp("load")
    contacts = [contact.id for contact in crms["deals"].store.contacts.values()]
    (folder / "deals.csv").write_text("\n".join(["contact", *contacts]))
    with (folder / "in.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([["mail", "name"], *([email, name] for email, name in source())])
    return folder


@pytest.fixture(scope="module")
def stack(
    crms: Crms, folder: Path, airflow_stack: Callable[..., AirflowStack], tmp_path_factory: pytest.TempPathFactory
) -> AirflowStack:
    dags = tmp_path_factory.mktemp("dags")
    (dags / "loads.py").write_text(
        DAG_FILE.replace("FOLDER", str(folder))
        .replace("PIPELINE", ids.pipeline_id("Sales"))
        .replace("STAGE", ids.stage_id("Sales", "New"))
    )
    environment = {
        **{f"AIRFLOW_CONN_{name.upper()}": crm.connection_json(requests_per_second=RATE) for name, crm in crms.items()},
        # seconds until Airflow gives up a task of a dead worker
        "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT": "30",
        "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT_DETECTION_INTERVAL": "2",
    }
    return airflow_stack(dags, env=environment)


def source() -> list[tuple[str, str]]:
    """The address and name of each row."""
    return [(address(number), f"name {number}") for number in range(1, ROWS + 1)]


def address(number: int) -> str:
    if number % REFUSED_EVERY == 1:
        return ""
    return f"{'refused' if number % REFUSED_EVERY == 0 else 'row'}-{number}@example.com"


GOOD = {email: name for email, name in source() if email.startswith("row-")}
REJECTED = [number for number in range(1, ROWS + 1) if address(number) not in GOOD]


# -- killed -------------------------------------------------------------------------------------------------

KILLS = ("task", "worker")
"""The processes to kill, one after the other: the task and its supervisor."""


@pytest.mark.reliability("process")
@pytest.mark.skipif(sys.platform != "linux", reason="only Linux shows the supervisor of a task")
def test_killed_load_loses_and_duplicates_no_row(
    stack: AirflowStack, crms: Crms, folder: Path, observed: Callable[..., None]
) -> None:
    crm = crms["killed"]
    seed = int(os.environ.get("FAULT_SEED") or random.randrange(1000))
    moments = sorted(random.Random(seed).sample(range(30, ROWS - LONELY), len(KILLS)))
    print(f"\nkilled after {moments} calls (seed {seed})")
    run_id = start(stack, "killed")
    kept = []
    for number, (what, moment) in enumerate(zip(KILLS, moments, strict=True)):
        pid = process_of(stack, "killed", run_id, number + 1)  # before the moment: Airflow may respond slowly
        stack.until(lambda moment=moment: crm.counters().total >= moment, timeout=PATIENCE)
        os.kill(pid if what == "task" else parent(pid), signal.SIGKILL)
        calls = crm.counters().total
        calls_go_on_for = quiet_after(stack, crm)
        assert crm.counters().total - calls <= LONELY, "a load without its supervisor ends"
        kept.append(checkpoint(stack, "killed", run_id)["done_upto"])
        print(
            f"{what}: {calls_go_on_for:.1f} s until the last call, {kept[-1]} rows done; {crm.counters().total} calls"
        )
    run = stack.api.wait("killed", run_id, timeout=PATIENCE)
    assert run["load"].state == "success", stack.api.log(run, run["load"])
    assert run["load"].try_number == len(KILLS) + 1

    result = stack.api.xcoms(run, run["load"])["return_value"]
    assert_loaded(crm, result)
    assert_rejects(folder / "killed.jsonl")
    outcomes = [json.loads(line) for line in (folder / "killed-outcomes.jsonl").read_text("utf-8").splitlines()]
    assert sorted(line["row_number"] for line in outcomes) == list(range(1, ROWS + 1)), (
        "the file has one outcome per row"
    )
    assert sorted(line["row_number"] for line in outcomes if line["outcome"] == "rejected") == REJECTED
    assert result["resumed_at"] >= kept[-1] > 0
    unsaved = result["updated"] + result["unchanged"]
    sent = Counter(call.email for call in crm.journal() if call.applied or call.error == "INVALID_INPUT")
    again = sum(sent[email] - 1 for email in sent if email is not None)
    print(f"{unsaved} rows were done but not saved, {again} were sent again; {crm.counters().total} calls")
    assert max(unsaved, again) <= len(KILLS) * (SENT_ROWS + WIDTH)
    assert_rate_kept(crm)
    observed(
        fault="the task, then its worker is killed (SIGKILL)",
        hits="load",
        ends=f"success, after {len(KILLS) + 1} tries",
        requests=f"at most {SENT_ROWS} rows and those in flight again after each kill",
        data="nothing lost, nothing duplicated; each rejected row in the file once",
        said="nothing: the process is dead",
        remedy="nothing: the next try continues where the last one stopped",
    )


def parent(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux shows the supervisor of a task")
def test_killed_load_creates_no_second_deal(stack: AirflowStack, crms: Crms) -> None:
    crm = crms["deals"]
    run_id = start(stack, "deals")
    pid = process_of(stack, "deals", run_id, 1)
    stack.until(lambda: crm.counters().total >= DEALS // 3, timeout=PATIENCE)
    os.kill(pid, signal.SIGKILL)
    run = stack.api.wait("deals", run_id, timeout=PATIENCE)
    assert run["load"].state == "success", stack.api.log(run, run["load"])
    assert run["load"].try_number == 2
    result = stack.api.xcoms(run, run["load"])["return_value"]
    assert (result["created"], result["rows"]) == (DEALS, DEALS), "the deals of the killed try are found"
    posts = [call for call in crm.journal() if (call.method, call.route) == ("POST", "/deals")]
    created = [call for call in posts if call.status != 429]
    assert len(created) == len(crm.store.deals) == DEALS, [call for call in created if call.duplicate]


# -- stopped by a user --------------------------------------------------------------------------------------


def test_load_stops_when_marked_failed_and_restarts_when_cleared(stack: AirflowStack, crms: Crms, folder: Path) -> None:
    crm = crms["stopped"]
    run_id = start(stack, "stopped")
    stack.until(lambda: crm.counters().total >= 80, timeout=PATIENCE)
    stack.api.request("PATCH", f"{run_path('stopped', run_id)}/taskInstances/load", {"new_state": "failed"})
    went_on_for = quiet_after(stack, crm)
    assert len(crm.store.contacts) < len(GOOD), "the load stops before its end"
    first = crm.counters().total
    done = checkpoint(stack, "stopped", run_id)
    outcomes = sum(count for name, count in done["counts"].items() if name != "refused")
    print(f"\nthe last call {went_on_for:.1f} s later; {outcomes} rows done, {first} calls")
    assert outcomes >= len(crm.store.contacts) > 0, "the checkpoint has all sent rows"

    run = stack.api.wait("stopped", run_id, timeout=PATIENCE)
    assert run["load"].state == "failed"
    cleared = {
        "dag_run_id": run_id,
        "task_ids": ["load"],
        "only_failed": False,
        "reset_dag_runs": True,
        "dry_run": False,
    }
    stack.api.request("POST", "/api/v2/dags/stopped/clearTaskInstances", cleared)
    run = stack.api.wait(
        "stopped", run_id, timeout=PATIENCE, until=lambda run: run.finished and run["load"].try_number > 1
    )
    assert run["load"].state == "success", stack.api.log(run, run["load"])
    assert "the task was cleared since the checkpoint was written" in stack.api.log(run, run["load"])
    result = stack.api.xcoms(run, run["load"])["return_value"]
    assert result["resumed_at"] == 0
    assert result["updated"] + result["unchanged"] == done["counts"]["created"], "all rows are loaded again"
    assert_loaded(crm, result)
    assert_rejects(folder / "stopped.jsonl")
    assert_rate_kept(crm)


# -- helpers ------------------------------------------------------------------------------------------------


def assert_loaded(crm: Sandbox, result: dict[str, Any]) -> None:
    """Each row has one outcome, and the CRM matches the outcomes."""
    assert {email: contact.attributes.get("name") for email, contact in crm.store.contacts.items()} == GOOD
    assert result["rows"] == ROWS
    assert result["created"] + result["updated"] + result["unchanged"] == len(GOOD)
    assert result["rejected"] == len(REJECTED) == ROWS - len(GOOD)
    assert result["left"] == 0
    assert result["errors"] == {"INVALID_INPUT": ROWS // REFUSED_EVERY, "INVALID_VALUE": ROWS // REFUSED_EVERY}


def assert_rejects(path: Path) -> None:
    """The file has each rejected row once."""
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    assert sorted(line["row"] for line in lines) == REJECTED


def assert_rate_kept(crm: Sandbox) -> None:
    """A few refusals are allowed: slots are 50 ms apart, and a busy machine may delay a process for longer."""
    testing.assert_rate_kept(
        crm, calls=RATE, burst=RATE
    )  # tolerance for a machine that pauses and then sends its calls together
    assert crm.counters().throttled <= 0.05 * crm.counters().total


def start(stack: AirflowStack, dag_id: str) -> str:
    stack.api.wait_for_dag(dag_id)
    return stack.api.trigger(dag_id)


def process_of(stack: AirflowStack, dag_id: str, run_id: str, try_number: int) -> int:
    """Wait until this try is running and return the id of its process."""
    found: list[int] = []

    def is_running() -> bool:
        tasks = stack.api.run(dag_id, run_id).tasks
        found.extend(
            task.pid for task in tasks if task.pid and (task.state, task.try_number) == ("running", try_number)
        )
        return bool(found)

    stack.until(is_running, timeout=PATIENCE)
    return found[0]


def checkpoint(stack: AirflowStack, dag_id: str, run_id: str) -> dict[str, Any]:
    """The checkpoint in Airflow's task state store."""
    path = f"{run_path(dag_id, run_id)}/taskInstances/load/state-store/crm_load"
    found: Any = stack.api.request("GET", path)["value"]
    kept: dict[str, Any] = json.loads(found) if isinstance(found, str) else found
    return kept


def quiet_after(stack: AirflowStack, crm: Sandbox) -> float:
    """Wait until no more calls arrive, and return the seconds until the last one."""
    began = time.monotonic()
    until_still(stack, lambda: crm.counters().total, seconds=2, timeout=PATIENCE)
    return max(crm.journal()[-1].at - began, 0.0)
