"""Killed processes on a real Airflow: tasks, the scheduler and the sandbox.

The moments are random. ``FAULT_SEED`` repeats the moments of a run; each test prints its seed (``pytest -s``).
"""

from __future__ import annotations

import csv
import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from airflow_api import Run, run_path
from airflow_env import ReservedPort
from airflow_stack import AirflowStack

from crm_provider import testing
from crm_provider.client.pagination import AT_ONCE, PAGE_SIZE
from crm_provider.load.progress import SENT_ROWS
from crm_provider.sandbox import Sandbox
from crm_provider.sandbox.journal import JournalEntry

pytest.importorskip("airflow.models.task_state_store", reason="task state stores came with Airflow 3.3")

pytestmark = pytest.mark.reliability("process")

RATE = 20
SLOW = 8
"""Calls per second of the load that runs while the scheduler is down. The load must take longer than that."""

ROWS = 300
REFUSED_EVERY = 10
LATENCY = 0.15
WIDTH = 6
"""Calls in flight: the rate times the latency, and a few more."""

PAGES_AHEAD = AT_ONCE + 1
"""Pages that are read again, because they were unsaved or in flight at the kill."""

INTERVAL = 2
"""The poke interval of the sensors in seconds."""

SPARE_CHECKS = 5
"""Further checks: on the worker, at the start of the wait, and some for a busy machine."""

HELD = 90.0
"""Delay of a response in seconds: longer than a kill of the waiting process takes."""

PATIENCE = 400.0
"""Seconds until a wait counts as hanging."""

DAG_FILE = """
from datetime import timedelta

from airflow.sdk import DAG

from crm_provider.operators.automations import CrmTriggerAutomationOperator
from crm_provider.operators.contacts import CrmUpsertContactOperator
from crm_provider.operators.deals import CrmCreateDealOperator
from crm_provider.operators.extract import CrmExtractContactsOperator
from crm_provider.operators.load import CrmLoadContactsOperator
from crm_provider.sandbox import ids
from crm_provider.sensors.contacts import CrmContactSensor

AGAIN = {"retries": 5, "retry_delay": timedelta(seconds=3)}


def load(name, folder, **arguments):
    CrmLoadContactsOperator(
        task_id="load", crm_conn_id=name, source="FOLDER/in.csv", mapping={"email": "mail", "name": "name"},
        rejects_path=f"{folder}/rejects.jsonl", max_rejects=1000, **AGAIN, **arguments)


with DAG("singles", schedule=None):
    CrmUpsertContactOperator(
        task_id="upsert", crm_conn_id="singles", contact_email="new@example.com", attributes={"name": "New"}, **AGAIN)
    CrmCreateDealOperator(
        task_id="deal", crm_conn_id="singles", contact_id=ids.contact_id("contact-0000001@example.com"),
        pipeline_id=ids.pipeline_id("Sales"), stage_id=ids.stage_id("Sales", "New"), **AGAIN)
    CrmTriggerAutomationOperator(
        task_id="automation", crm_conn_id="singles", webhook_id="w", channel_uid="c", workflow_id="f",
        contact_email="contact-0000002@example.com", **AGAIN)
    CrmExtractContactsOperator(task_id="extract", crm_conn_id="singles", target="FOLDER/contacts.csv", **AGAIN)

with DAG("scheduled", schedule=None):
    load("scheduled", "FOLDER/scheduled")

with DAG("waits", schedule=None):
    CrmContactSensor(
        task_id="wait", crm_conn_id="waits", contact_email="{{ dag_run.conf['email'] }}", deferrable=True,
        poke_interval=INTERVAL, timeout=1800, retries=0)

with DAG("down", schedule=None):
    load("down", "FOLDER/down", state_path="FOLDER/down/loaded.state")
"""

Crms = dict[str, Sandbox]
Observed = Callable[..., None]


@pytest.fixture(scope="module")
def chance() -> random.Random:
    """The source of the random moments."""
    seed = int(os.environ.get("FAULT_SEED") or random.SystemRandom().randrange(10_000))
    print(f"\nFAULT_SEED={seed}")
    return random.Random(seed)


@pytest.fixture(scope="module")
def crms() -> Iterator[Crms]:
    """A CRM for each scenario, with its own rate."""
    with (
        Sandbox(seed="contacts:200", rate=RATE) as singles,
        Sandbox(seed="empty", rate=SLOW) as scheduled,
        Sandbox(seed="empty", rate=None) as waits,
    ):
        scheduled.add_fault(effect="error", error="INVALID_INPUT", email="refused-*", latency=LATENCY)
        scheduled.add_fault(effect="latency", latency=LATENCY)
        yield {"singles": singles, "scheduled": scheduled, "waits": waits}


class Process:
    """A sandbox in its own process, which keeps its records when it is killed and restarted."""

    def __init__(self, folder: Path) -> None:
        self._port, self._log = ReservedPort(), folder / "sandbox.log"
        self.url = f"http://127.0.0.1:{self._port.number}/v2"
        self._command = [
            *(sys.executable, "-m", "crm_provider.sandbox", "--port", str(self._port.number), "--rate", str(RATE)),
            *("--seed", "empty", "--state", str(folder / "crm.json")),
        ]
        self.state = folder / "crm.json"

    def start(self) -> None:
        with self._log.open("ab") as log:
            self.process = subprocess.Popen(self._command, stdout=log, stderr=subprocess.STDOUT)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def end(self) -> None:
        self.kill()
        self._port.release()

    @property
    def contacts(self) -> list[dict[str, Any]]:
        return json.loads(self.state.read_text("utf-8"))["contacts"] if self.state.exists() else []


@pytest.fixture(scope="module")
def down(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Process]:
    process = Process(tmp_path_factory.mktemp("sandbox"))
    process.start()
    yield process
    process.end()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the source and of the loads' files."""
    folder = tmp_path_factory.mktemp("files")
    with (folder / "in.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([["mail", "name"], *([address(n), f"name {n}"] for n in range(1, ROWS + 1))])
    return folder


@pytest.fixture(scope="module")
def stack(
    crms: Crms,
    down: Process,
    folder: Path,
    airflow_stack: Callable[..., AirflowStack],
    tmp_path_factory: pytest.TempPathFactory,
) -> AirflowStack:
    dags = tmp_path_factory.mktemp("dags")
    (dags / "faults.py").write_text(DAG_FILE.replace("FOLDER", str(folder)).replace("INTERVAL", str(INTERVAL)))
    rates = {**dict.fromkeys(crms, RATE), "scheduled": SLOW}
    waits = {**dict.fromkeys(crms, 30), "singles": HELD + 10}
    connections = {
        name: crm.connection_json(requests_per_second=rates[name], timeout=waits[name]) for name, crm in crms.items()
    }
    connections["down"] = json.dumps(
        {"conn_type": "crm", "host": down.url, "password": "sandbox-key", "extra": {"requests_per_second": RATE}}
    )
    environment = {
        **{f"AIRFLOW_CONN_{name.upper()}": connection for name, connection in connections.items()},
        # seconds until Airflow gives up tasks and triggers of a dead worker, scheduler or triggerer
        "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT": "30",
        "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT_DETECTION_INTERVAL": "2",
        "AIRFLOW__SCHEDULER__SCHEDULER_HEALTH_CHECK_THRESHOLD": "20",
        "AIRFLOW__SCHEDULER__ORPHANED_TASKS_CHECK_INTERVAL": "3",
        "AIRFLOW__TRIGGERER__TRIGGERER_HEALTH_CHECK_THRESHOLD": "6",
    }
    return airflow_stack(dags, env=environment)


def address(number: int) -> str:
    return f"{'refused' if number % REFUSED_EVERY == 0 else 'row'}-{number}@example.com"


GOOD = {address(number): f"name {number}" for number in range(1, ROWS + 1) if number % REFUSED_EVERY}
REFUSED = [number for number in range(1, ROWS + 1) if number % REFUSED_EVERY == 0]


# -- tasks --------------------------------------------------------------------------------------------------


def test_tasks_killed_during_a_call(
    stack: AirflowStack, crms: Crms, folder: Path, chance: random.Random, observed: Observed
) -> None:
    """Each task is killed after the CRM has handled its request and before the response arrives."""
    crm, target = crms["singles"], folder / "contacts.csv"
    target.write_text(OLD, encoding="utf-8")
    calls = {"upsert": "/contacts", "deal": "/deals", "automation": "/webhook/"}
    for effect in calls.values():
        crm.add_fault(effect="latency", method="POST", path=f"{effect}*", latency=HELD, count=1)
    page = chance.randrange(1, 15)
    crm.add_fault(effect="latency", method="GET", path="/contacts", latency=HELD, after=page, count=1)
    run_id = start(stack, "singles")
    waiting = {**dict.fromkeys(calls, "POST"), "extract": "GET"}
    deadline = time.monotonic() + PATIENCE
    while waiting:
        assert time.monotonic() < deadline, f"not killed within {PATIENCE:g} s: {sorted(waiting)}"
        run = stack.api.run("singles", run_id)
        held = [entry for entry in crm.journal() if entry.latency == HELD]
        for task, method in list(waiting.items()):
            route = calls.get(task, "/contacts")
            here = [e for e in held if e.method == method and (e.route or "").startswith(route)]
            if here and run[task].pid and run[task].state == "running":
                time.sleep(chance.random())
                os.kill(run[task].pid, signal.SIGKILL)
                del waiting[task]
                if task == "extract":
                    assert target.read_text(encoding="utf-8") == OLD, "a partial file never has the target's name"
        stack.check()
        time.sleep(0.1)
    texts: list[str] = []

    def ended(run: Run) -> bool:
        texts.append(target.read_text(encoding="utf-8"))
        return run.finished

    run = stack.api.wait("singles", run_id, timeout=PATIENCE, until=ended)
    print(f"\nextract killed at page {page}; {run.states()}")
    assert run.states() == {"upsert": "success", "deal": "success", "automation": "failed", "extract": "success"}
    assert_singles(stack, run, crm, folder)
    assert set(texts) <= {OLD, target.read_text(encoding="utf-8")}, "the old file, or the complete new one"
    upserting = len(taken(crm, email="new@example.com"))
    dealing, starting = (sum(e.route.startswith(route) for e in taken(crm)) for route in ("/deals", "/webhook/"))
    pages_again = len(taken(crm, method="GET", route="/contacts")) - pages_of(crm)
    print(f"{upserting=}, {dealing=}, {starting=}, {pages_again=}")
    assert 0 <= pages_again <= PAGES_AHEAD
    killed = "the task is killed (SIGKILL) while the response of a call is in flight"
    dead = {"said": "nothing: the process is dead"}
    observed(
        fault=killed,
        hits="upsert",
        ends="success, after 2 tries",
        requests=f"that call, and {upserting - 1} in the second try",
        data="one contact, with the task's values",
        remedy="nothing: the second try updates the contact that the first created",
        **dead,
    )
    observed(
        fault=killed,
        hits="create a deal",
        ends="success, after 2 tries",
        requests=f"that call, and {dealing - 1} in the second try",
        data="one deal",
        remedy="nothing: the second try looks for the deal before it creates one, and finds it",
        **dead,
    )
    observed(
        fault=killed,
        hits="start an automation",
        ends="failed, after 2 tries",
        requests="that call, and none in the second try" if starting == 1 else starting,
        data="started once",
        said=f"`CrmConnectionError`: {CUT_OFF}",
        remedy=LOOK,
    )
    observed(
        fault=killed,
        hits="extract",
        ends="success, after 2 tries",
        requests=f"each page, and at most {PAGES_AHEAD} of them again",
        data="the old file until the new one is complete; the new one has each record once",
        remedy="nothing: the second try continues after the last saved page",
        **dead,
    )


OLD = "the extract of yesterday\n"

CUT_OFF = "an earlier try was interrupted during the call: nothing was sent now"
LOOK = "Check in the CRM whether the automation was started, before you clear the task"


def assert_singles(stack: AirflowStack, run: Run, crm: Sandbox, folder: Path) -> None:
    assert all(len(stack.api.tries(run, task)) == 2 for task in run.tasks)
    assert crm.store.contacts["new@example.com"].attributes == {"name": "New"}
    assert stack.api.xcoms(run, run["upsert"])["return_value"]["outcome"] == "updated"
    assert len(crm.store.deals) == 1
    assert stack.api.xcoms(run, run["deal"])["return_value"]["outcome"] == "found"
    assert len(crm.store.automations) == 1
    log = stack.api.log(run, run["automation"])
    assert CUT_OFF in log
    assert LOOK in log
    with (folder / "contacts.csv").open(newline="", encoding="utf-8") as file:
        emails = [row["email"] for row in csv.DictReader(file)]
    assert len(emails) == len(set(emails))
    assert {*emails, "new@example.com"} == set(crm.store.contacts)
    assert not list(folder.glob("contacts.csv.part-*"))


# -- the scheduler --------------------------------------------------------------------------------


def test_scheduler_killed_during_a_load(
    stack: AirflowStack, crms: Crms, folder: Path, chance: random.Random, observed: Observed
) -> None:
    """Only the scheduler. Its tasks continue for a while, and the new scheduler may start second tries."""
    crm, moment = crms["scheduled"], chance.randrange(20, 80)
    began = time.monotonic()
    waiting = start(stack, "waits", {"email": "first@example.com"})
    run_id = start(stack, "scheduled")
    stack.until(lambda: crm.counters().total >= moment, timeout=PATIENCE)
    stack.until(lambda: state(stack, "waits", waiting, "wait") == "deferred", timeout=PATIENCE)
    stack.kill("scheduler", with_children=False)
    time.sleep(chance.random() * 3)
    stack.restart("scheduler")
    crms["waits"].store.create_contact(email="first@example.com", attributes={})
    run = stack.api.wait("scheduled", run_id, timeout=PATIENCE)
    assert run["load"].state == "success", stack.api.log(run, run["load"])
    waited = stack.api.wait("waits", waiting, timeout=PATIENCE)
    tries, again = len(stack.api.tries(run, run["load"])), sent_again(crm)
    checks = len(crms["waits"].journal(email="first@example.com"))
    print(
        f"\nkilled after {moment} calls; {tries} tries, {crm.counters().total} calls, {sum(again.values())} once more"
    )
    assert max(again.values(), default=0) <= tries - 1, "each try sends a row at most once"
    assert 0 < checks <= (time.monotonic() - began) / INTERVAL + SPARE_CHECKS
    assert_loaded(crm, stack.api.xcoms(run, run["load"])["return_value"], folder / "scheduled")
    testing.assert_rate_kept(
        crm, calls=SLOW, burst=SLOW
    )  # tolerance for a machine that pauses and then sends its calls together
    assert waited["wait"].state == "success"
    assert stack.api.log(waited, waited["wait"]).count("Found:") == 1
    killed = "the scheduler is killed (SIGKILL) and started again"
    observed(
        fault=killed,
        hits="load",
        ends="success; Airflow may have started a second try meanwhile",
        requests="as many as without the fault; a second try may send rows again",
        data="nothing lost, nothing duplicated",
        remedy="nothing: the load continues without it",
    )
    observed(fault=killed, hits="deferred sensor", ends="success", data="read only",
             requests="one check per interval, as without the fault",
             remedy="nothing: it waits in the triggerer")  # fmt: skip


# -- the sandbox --------------------------------------------------------------------------------------------


REFUSED_CONNECTION = "the connection was refused"


def test_sandbox_killed_during_a_load(
    stack: AirflowStack, down: Process, folder: Path, chance: random.Random, observed: Observed
) -> None:
    moment = chance.randrange(20, ROWS // 2)  # far from the end, so that the load still runs at the kill
    run_id = start(stack, "down")
    stack.until(lambda: len(down.contacts) >= moment, timeout=PATIENCE)
    down.kill()
    run = stack.api.wait(
        "down", run_id, timeout=PATIENCE, until=lambda run: run.finished or run["load"].state == "up_for_retry"
    )
    assert run["load"].state == "up_for_retry", stack.api.log(run, run["load"])
    reported = "A retry continues from there"  # the log line follows the state
    stack.until(lambda: reported in stack.api.log(run, run["load"], 1), timeout=PATIENCE)
    first = stack.api.log(run, run["load"], 1)
    assert "CrmConnectionError" in first
    assert REFUSED_CONNECTION in first
    down.start()
    run = stack.api.wait("down", run_id, timeout=PATIENCE)
    assert run["load"].state == "success", stack.api.log(run, run["load"])
    result = stack.api.xcoms(run, run["load"])["return_value"]
    print(f"\nkilled with {moment} contacts; went on after {result['resumed_at']} rows")
    found = Counter(contact["email"] for contact in down.contacts)
    assert found == Counter(address(number) for number in range(1, ROWS + 1))
    assert result["resumed_at"] > 0
    again = result["updated"] + result["unchanged"]
    assert again <= SENT_ROWS + WIDTH
    assert re.search(rf"The load stopped after: {ROWS} rows: \d+ created", first)
    print(f"{again} rows once more")
    assert result["created"] + result["updated"] + result["unchanged"] == result["rows"] == ROWS
    assert (result["rejected"], result["left"]) == (0, 0)
    assert not (folder / "down" / "rejects.jsonl").exists()
    observed(fault="the CRM (the sandbox) is killed during a load and comes back", hits="load",
             ends="success, after some tries", requests=f"at most {SENT_ROWS} rows and those in flight again",
             data="nothing lost, nothing duplicated, nothing rejected",
             said=f"`CrmConnectionError`: {REFUSED_CONNECTION}. The load stopped after: the counts. A retry "
             "continues from there", remedy="nothing while retries are left")  # fmt: skip


# -- helpers ------------------------------------------------------------------------------------------------


def assert_loaded(crm: Sandbox, result: dict[str, Any], folder: Path) -> None:
    """Each row has one outcome, the CRM matches the outcomes, and the file has each rejected row once."""
    assert {email: contact.attributes.get("name") for email, contact in crm.store.contacts.items()} == GOOD
    assert (result["rows"], result["left"], result["rejected"]) == (ROWS, 0, len(REFUSED))
    assert result["created"] + result["updated"] + result["unchanged"] == len(GOOD)
    lines = [json.loads(line) for line in (folder / "rejects.jsonl").read_text(encoding="utf-8").splitlines()]
    assert sorted(line["row"] for line in lines) == REFUSED


def pages_of(crm: Sandbox) -> int:
    """The number of pages of its contacts."""
    return -(-len(crm.store.contacts) // PAGE_SIZE)


def taken(crm: Sandbox, **which: str) -> list[JournalEntry]:
    """Calls that were not refused by the rate limit."""
    return [call for call in crm.journal(**which) if call.status != 429]  # type: ignore[arg-type]


def sent_again(crm: Sandbox) -> Counter[str]:
    """The number of repeated rows, by the fingerprints of their addresses."""
    sent = Counter(str(call.email) for call in taken(crm, method="POST", route="/contacts"))
    return sent - Counter(dict.fromkeys(sent, 1))


def start(stack: AirflowStack, dag_id: str, conf: dict[str, Any] | None = None) -> str:
    stack.api.wait_for_dag(dag_id)
    return stack.api.trigger(dag_id, conf)


def state(stack: AirflowStack, dag_id: str, run_id: str, task_id: str) -> str | None:
    return stack.api.request("GET", f"{run_path(dag_id, run_id)}/taskInstances/{task_id}")["state"]
