"""Deferred sensors on a real Airflow: they share one poll, and no result is lost or duplicated when triggerers die.

Each test prints its measurements (``pytest -s``).
"""

from __future__ import annotations

import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime, timezone
from itertools import pairwise
from typing import Any

import pytest
from airflow_api import Run, run_path
from airflow_stack import AirflowStack
from airflow_waits import add_triggerer, freeze, seconds_between, triggerer_jobs, until_still

from crm_provider.sandbox import JournalEntry, Sandbox, ids

INTERVAL = 10
SHARE = 2.5
"""Calls per second for waiting: half of the connection's 5."""

SIZE = {"lists": 340, "members": 80, "contacts": 40, "deals": 40}
DISTINCT = {"members": 4, "contacts": 4, "deals": 3}
"""The number of sensors of each kind, and the number of different records that they wait for."""

CALLS_OF_A_ROUND = {"GET /segments": 2, "GET /contacts/{email}": 8, "GET /deals/{dealId}": 3}
"""12 lists are two pages. The number of waiting sensors does not matter."""

SWEEP = sum(CALLS_OF_A_ROUND.values()) / SHARE

TIMEOUT = 45
"""Timeout in seconds of the sensor whose condition never holds."""

SPARE = 20
"""Seconds of tolerance for a slow machine."""

PATIENCE = 300.0
"""Seconds until a wait counts as hanging."""

DAG_FILE = f"""
from airflow.sdk import DAG

from crm_provider.sandbox import ids
from crm_provider.sensors.contacts import CrmContactSensor
from crm_provider.sensors.deals import CrmDealStageSensor
from crm_provider.sensors.lists import CrmListMembershipSensor, CrmListSensor

def email(number):
    return f"contact-{{number:07}}@example.com"

def deal(number):
    return ids.deal_id(ids.contact_id(email(number)))

COMMON = {{"deferrable": True, "poke_interval": {INTERVAL}, "retries": 0}}
WON = ids.stage_id("Sales", "Won")

with DAG("crowd", schedule=None, max_active_tasks=64):
    CrmListSensor.partial(task_id="lists", timeout=3600, **COMMON).expand(
        list_name=[f"crowd-{{n % 20}}" for n in range({SIZE["lists"]})])
    CrmListMembershipSensor.partial(
        task_id="members", timeout=3600, list_id=ids.list_id("Newsletter"), **COMMON).expand(
        emails=[email(1 + n % {DISTINCT["members"]}) for n in range({SIZE["members"]})])
    CrmContactSensor.partial(task_id="contacts", timeout=3600, **COMMON).expand(
        contact_email=[f"absent-{{n % {DISTINCT["contacts"]}}}@example.com" for n in range({SIZE["contacts"]})])
    CrmDealStageSensor.partial(task_id="deals", timeout=3600, stage_ids=WON, **COMMON).expand(
        deal_id=[deal(1 + n % {DISTINCT["deals"]}) for n in range({SIZE["deals"]})])

with DAG("few", schedule=None):
    CrmListSensor.partial(task_id="list", timeout=3600, **COMMON).expand(
        list_name=["{{{{ dag_run.conf['list'] }}}}"] * 4)
    CrmContactSensor(task_id="contact", contact_email="{{{{ dag_run.conf['email'] }}}}", timeout=3600, **COMMON)
    CrmDealStageSensor(task_id="deal", deal_id=deal(5), stage_ids=ids.stage_id("Sales", "Lost"), until="left",
                       timeout=3600, **COMMON)
    CrmListSensor(task_id="in_vain", list_name="never", timeout={TIMEOUT}, **COMMON)
"""


@pytest.fixture(scope="module")
def crm() -> Iterator[Sandbox]:
    """12 lists, contacts, and deals of the first five. No limit during the first checks of hundreds of sensors."""
    with Sandbox(seed="contacts:20", rate=None, journal_size=100_000) as sandbox:
        for number in range(10):
            sandbox.store.add_list(f"other-{number}")
        for number in range(1, 6):
            sandbox.store.create_deal(
                contact_id=ids.contact_id(f"contact-{number:07}@example.com"),
                pipeline_id=ids.pipeline_id("Sales"),
                stage_id=ids.stage_id("Sales", "Lost" if number == 5 else "New"),
            )
        yield sandbox


@pytest.fixture(scope="module")
def stack(
    crm: Sandbox, airflow_stack: Callable[..., AirflowStack], tmp_path_factory: pytest.TempPathFactory
) -> AirflowStack:
    folder = tmp_path_factory.mktemp("dags")
    (folder / "waiting.py").write_text(DAG_FILE)
    environment = {
        "AIRFLOW_CONN_CRM_DEFAULT": crm.connection_json(),
        "AIRFLOW__CORE__PARALLELISM": "8",
        "AIRFLOW__TRIGGERER__TRIGGERER_HEALTH_CHECK_THRESHOLD": "6",  # seconds
        "AIRFLOW__SCHEDULER__MAX_TIS_PER_QUERY": "32",
    }
    return airflow_stack(folder, env=environment)


# -- 500 on one connection ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def crowd(stack: AirflowStack, crm: Sandbox) -> str:
    """Run id of 500 waiting sensors."""
    stack.api.wait_for_dag("crowd")
    started = time.monotonic()
    run_id = stack.api.trigger("crowd")
    stack.until(
        lambda: count(stack, "crowd", run_id, "deferred") == sum(SIZE.values()), timeout=4 * PATIENCE, every=0.5
    )
    print(f"\n{sum(SIZE.values())} sensors deferred after {time.monotonic() - started:.0f} s")
    crm.configure(rate=5.0)
    return run_id


def test_500_waiting_sensors_make_the_calls_of_one_round_and_use_no_slot(
    stack: AirflowStack, crm: Sandbox, crowd: str
) -> None:
    rounds = wait_for_rounds(stack, crm, 4)
    lasted = rounds[3][0].at - rounds[0][0].at
    assert lasted >= 2 * INTERVAL, "three intervals; two polls would take less than two"
    shortest = min(after[0].at - before[0].at for before, after in pairwise(rounds))
    assert shortest < 2 * INTERVAL, (
        "rounds are not skipped; one short gap proves it, because the machine may pause in the others"
    )
    assert not crm.journal(since=rounds[0][0].seq, status=429)
    pool = stack.api.request("GET", "/api/v2/pools/default_pool")
    assert (pool["occupied_slots"], pool["deferred_slots"]) == (0, sum(SIZE.values()))
    print(f"\nthree rounds in {lasted:.1f} s; pool: {pool['occupied_slots']} slots occupied")


def test_sensors_succeed_within_the_interval_and_one_sweep(stack: AirflowStack, crm: Sandbox, crowd: str) -> None:
    ended = count(stack, "crowd", crowd, "success")
    appeared = time.monotonic()
    crm.store.add_list("crowd-7")
    all_who_wait = ended + SIZE["lists"] // 20
    stack.until(lambda: count(stack, "crowd", crowd, "success") == all_who_wait, timeout=PATIENCE, every=0.5)
    finished = time.monotonic() - appeared
    ends = [task["end_date"] for task in instances(stack, "crowd", crowd, "lists", state="success")]
    noticed = next(entry.at for entry in crm.journal(route="/segments") if entry.at > appeared) - appeared
    assert noticed <= INTERVAL + SWEEP + SPARE
    print(f"\nfirst check after {noticed:.1f} s; first of {len(ends)} ended {min(ends)}, all after {finished:.1f} s")


def test_mark_failed_stops_the_calls_of_that_sensor_only(stack: AirflowStack, crm: Sandbox, crowd: str) -> None:
    """After all sensors of one contact are marked failed, this contact is no longer read, and all others are."""
    mine = [n for n in range(SIZE["contacts"]) if n % DISTINCT["contacts"] == 0]
    for number in mine:
        path = f"{run_path('crowd', crowd)}/taskInstances/contacts/{number}"
        stack.api.request("PATCH", path, {"new_state": "failed"})
    one_contact_less = {**CALLS_OF_A_ROUND, "GET /contacts/{email}": CALLS_OF_A_ROUND["GET /contacts/{email}"] - 1}
    # until Airflow has cancelled the triggers and the current round has ended
    until_still(
        stack, lambda: len(crm.journal(email="absent-0@example.com")), seconds=2 * INTERVAL + SWEEP, timeout=PATIENCE
    )
    rounds = wait_for_rounds(stack, crm, 2, one_contact_less)
    asked = {entry.seq for calls in rounds for entry in calls}
    assert not asked.intersection(entry.seq for entry in crm.journal(email="absent-0@example.com"))
    assert sum(entry.seq in asked for entry in crm.journal(email="absent-1@example.com")) == len(rounds)


def test_end_of_the_run_ends_the_poll(stack: AirflowStack, crm: Sandbox, crowd: str) -> None:
    stack.api.request("PATCH", run_path("crowd", crowd), {"state": "failed"})
    until_still(stack, lambda: crm.counters().total, seconds=2 * INTERVAL, timeout=PATIENCE)


# -- triggerers that die ------------------------------------------------------------------------------------


@pytest.mark.reliability("process")
def test_killed_triggerer_loses_no_result_and_keeps_the_timeout(
    stack: AirflowStack, crm: Sandbox, observed: Callable[..., None]
) -> None:
    run_id = start_few(stack, crm, "after-kill")
    stack.kill("triggerer")
    bring(crm, "after-kill")  # while there is no triggerer
    # an earlier check may still arrive
    until_still(stack, lambda: crm.counters().total, seconds=2 * INTERVAL, timeout=PATIENCE)
    before = crm.counters().total
    started = stack.api.run("few", run_id)["in_vain"].started_at
    stack.until(lambda: seconds_between(started, now()) > TIMEOUT, timeout=PATIENCE)
    assert crm.counters().total == before, "no check is made without a triggerer"
    stack.restart("triggerer")
    run = stack.api.wait("few", run_id, timeout=PATIENCE)
    assert_all_ended_once(stack, run)
    in_vain = run["in_vain"]
    assert f"timed out after {TIMEOUT} s" in stack.api.log(run, in_vain)
    lasted = seconds_between(in_vain.started_at, in_vain.ended_at)
    first_check, *_ = crm.journal(since=before)
    went_on = seconds_between(first_check.time, in_vain.ended_at)
    print(f"\nin_vain lasted {lasted:.1f} s of {TIMEOUT} s over the restart, and ended {went_on:.1f} s after it")
    assert went_on < TIMEOUT, "the timeout does not start again"
    observed(fault="the triggerer is killed (SIGKILL) and started again", hits="deferred sensor",
             ends="success, in the same try", requests="none while it is down", data="read only",
             remedy="nothing: the first check sees what happened meanwhile")  # fmt: skip


def test_two_triggerers_report_one_result(stack: AirflowStack, crm: Sandbox) -> None:
    """One triggerer is frozen until the other has taken its triggers, and continues while their conditions hold."""
    old_jobs = triggerer_jobs(stack)
    add_triggerer(stack, "second")
    run_id = start_few(stack, crm, "two")
    job = max(holders(stack, run_id))
    frozen = stack.components["triggerer" if job in old_jobs else "second"]
    print(f"\n{frozen.name} holds triggers and is frozen")
    freeze(stack, frozen)
    try:
        stack.until(lambda: job not in holders(stack, run_id), timeout=PATIENCE, every=0.5)
        bring(crm, "two")
        stack.until(lambda: count(stack, "few", run_id, "success") > 0, timeout=PATIENCE, every=0.5)
    finally:
        frozen.signal_group(signal.SIGCONT)
    run = stack.api.wait("few", run_id, timeout=PATIENCE)
    assert_all_ended_once(stack, run)
    stack.kill("second")


# -- helpers ------------------------------------------------------------------------------------------------


def start_few(stack: AirflowStack, crm: Sandbox, name: str) -> str:
    """Start the sensors of DAG ``few`` and wait until a triggerer has their triggers."""
    move_deal(crm, "Lost")
    stack.api.wait_for_dag("few")
    run_id = stack.api.trigger("few", {"list": name, "email": f"{name}@example.com"})

    def all_wait() -> bool:
        deferred, ended = (count(stack, "few", run_id, state) for state in ("deferred", "failed"))
        return deferred + ended == 7  # on a very slow machine the sensor in_vain has already timed out

    stack.until(all_wait, timeout=PATIENCE, every=0.5)
    stack.until(lambda: NOBODY not in holders(stack, run_id), timeout=PATIENCE, every=0.5)
    return run_id


def bring(crm: Sandbox, name: str) -> None:
    """Make the conditions of DAG ``few`` hold."""
    crm.store.add_list(name)
    crm.store.create_contact(email=f"{name}@example.com", attributes={})
    move_deal(crm, "Won")


def move_deal(crm: Sandbox, stage: str) -> None:
    """Move the deal that a sensor of ``few`` waits for."""
    crm.store.update_deal(
        ids.deal_id(ids.contact_id("contact-0000005@example.com")), stage_id=ids.stage_id("Sales", stage)
    )


def assert_all_ended_once(stack: AirflowStack, run: Run) -> None:
    good = [f"list[{n}]" for n in range(4)] + ["contact", "deal"]
    assert run.states() == {**dict.fromkeys(good, "success"), "in_vain": "failed"}
    for task in run.tasks:
        assert len(stack.api.tries(run, task)) == 1
        log = stack.api.log(run, task)
        assert log.count("Found:") == (task.name != "in_vain"), log
    assert seconds_between(run["in_vain"].started_at, run["in_vain"].ended_at) >= TIMEOUT, "never too early"


NOBODY = 0
"""In place of a job id, while no triggerer has the trigger."""


def holders(stack: AirflowStack, run_id: str) -> set[int]:
    """Job ids of the triggerers with triggers of the run."""
    path = f"{run_path('few', run_id)}/taskInstances?state=deferred&limit=100"
    found = stack.api.request("GET", path)["task_instances"]
    return {task["triggerer_job"]["id"] if task["triggerer_job"] else NOBODY for task in found}


def count(stack: AirflowStack, dag_id: str, run_id: str, state: str) -> int:
    response = stack.api.request("GET", f"{run_path(dag_id, run_id)}/taskInstances?state={state}&limit=1")
    return int(response["total_entries"])


def instances(stack: AirflowStack, dag_id: str, run_id: str, task_id: str, *, state: str) -> list[dict[str, Any]]:
    path = f"{run_path(dag_id, run_id)}/taskInstances?task_id={task_id}&state={state}&limit=100"
    found: list[dict[str, Any]] = stack.api.request("GET", path)["task_instances"]
    return found


Calls = list[JournalEntry]


def wait_for_rounds(
    stack: AirflowStack, crm: Sandbox, number: int, wanted: Mapping[str, int] = CALLS_OF_A_ROUND
) -> list[Calls]:
    """Wait for this many consecutive rounds and return the calls of each.

    Rounds are recognized by their requests, not by the time between them, because the machine may pause.
    """
    since, size = crm.counters().total, sum(wanted.values())
    found: list[Calls] = []

    def seen() -> bool:
        calls = crm.journal(since=since)
        for first in range(len(calls) - number * size + 1):
            rounds = [calls[first + n * size : first + (n + 1) * size] for n in range(number)]
            if all(is_round(each, wanted) for each in rounds):
                found.extend(rounds)
                return True
        return False

    stack.until(seen, timeout=PATIENCE, every=0.5)
    return found


def is_round(calls: Calls, wanted: Mapping[str, int]) -> bool:
    """Whether these are the calls of one round, with each contact and deal once."""
    records = [(entry.route, entry.email) for entry in calls if entry.route != "/segments"]
    return Counter(f"{entry.method} {entry.route}" for entry in calls) == wanted and len({*records}) == len(records)


def now() -> str:
    return datetime.now(timezone.utc).isoformat()
