"""Clock changes during a load and deferred sensors on a real Airflow have no effect.

Only this package sees the changed clock, in tasks and in the triggerer (``tests/shared/shifted_clock.py``). The
reaction of Airflow itself is not tested.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import shifted_clock
from airflow_stack import AirflowStack
from airflow_waits import seconds_between
from shifted_clock import set_off

from crm_provider import testing
from crm_provider.sandbox import Sandbox

pytestmark = pytest.mark.reliability("process")

DAY = 24 * 3600.0
JUMPS = (DAY, -DAY, 3600.0, 0.0)

RATE, ROWS = 20, 200
INTERVAL, TIMEOUT = 2, 40
"""Seconds: the poke interval of the sensors, and the timeout of one of them."""

SPARE_CHECKS = 5
"""Further checks: on the worker, at the start and at the end of the wait, and some for a busy machine."""

PATIENCE = 400.0
"""Seconds until a wait counts as hanging."""

DAG_FILE = """
import shifted_clock  # before other modules import time.time

from airflow.sdk import DAG

from crm_provider.operators.load import CrmLoadContactsOperator
from crm_provider.sensors.contacts import CrmContactSensor

with DAG("load", schedule=None):
    CrmLoadContactsOperator(
        task_id="load", crm_conn_id="load", source=[{"email": f"row-{n}@example.com"} for n in range(ROWS)],
        mapping={"email": "email"})

with DAG("waits", schedule=None):
    for name, timeout in (("late", 1800), ("never", TIMEOUT)):
        CrmContactSensor(
            task_id=name, crm_conn_id="waits", contact_email=f"{name}@example.com", deferrable=True,
            poke_interval=INTERVAL, timeout=timeout)
"""

SITE = """
import sys

if "triggerer" in sys.orig_argv:
    import shifted_clock
"""


@pytest.fixture
def crms() -> Iterator[dict[str, Sandbox]]:
    with Sandbox(seed="empty", rate=RATE) as load, Sandbox(seed="empty", rate=None) as waits:
        yield {"load": load, "waits": waits}


@pytest.fixture
def clock(tmp_path: Path) -> Path:
    """The file with the shift of the clocks."""
    file = tmp_path / "clock"
    set_off(file, 0.0)
    return file


@pytest.fixture
def stack(
    crms: dict[str, Sandbox], clock: Path, tmp_path: Path, airflow_stack: Callable[..., AirflowStack]
) -> AirflowStack:
    dags, site = tmp_path / "dags", tmp_path / "site"
    for folder in (dags, site):
        folder.mkdir()
    constants = {"ROWS": ROWS, "TIMEOUT": TIMEOUT, "INTERVAL": INTERVAL}
    text = DAG_FILE
    for name, value in constants.items():
        text = text.replace(name, str(value))
    (dags / "clock.py").write_text(text, encoding="utf-8")
    (site / "sitecustomize.py").write_text(SITE, encoding="utf-8")
    return airflow_stack(
        dags,
        env={
            **{
                f"AIRFLOW_CONN_{name.upper()}": crm.connection_json(requests_per_second=RATE)
                for name, crm in crms.items()
            },
            shifted_clock.VARIABLE: str(clock),
            "PYTHONPATH": f"{site}:{Path(shifted_clock.__file__).parent}",
        },
    )


def test_clock_changes_have_no_effect(
    stack: AirflowStack, crms: dict[str, Sandbox], clock: Path, observed: Callable[..., None]
) -> None:
    load, waits = crms["load"], crms["waits"]
    for dag_id in ("load", "waits"):
        stack.api.wait_for_dag(dag_id)
    began = time.monotonic()
    waiting = stack.api.trigger("waits")
    # The triggerer makes the second check. The deadline is passed to it as a time of day.
    stack.until(lambda: min(checks(waits, "late"), checks(waits, "never")) >= 2, timeout=PATIENCE)
    set_off(clock, DAY)
    stack.until(lambda: checks(waits, "late") >= 4, timeout=PATIENCE)  # a day is not a timeout
    loading = stack.api.trigger("load")
    for number, seconds in enumerate(JUMPS, start=1):
        stack.until(lambda number=number: load.counters().total >= number * ROWS // 5, timeout=PATIENCE)
        set_off(clock, seconds)
    loaded = stack.api.wait("load", loading, timeout=PATIENCE)
    for seconds in JUMPS[:2]:
        set_off(clock, seconds)
        seen = checks(waits, "late")
        stack.until(lambda seen=seen: checks(waits, "late") >= seen + 2, timeout=PATIENCE)
    stack.api.wait("waits", waiting, until=lambda run: run["never"].state == "failed", timeout=PATIENCE)
    waits.store.create_contact(email="late@example.com", attributes={})
    waited = stack.api.wait("waits", waiting, timeout=PATIENCE)
    elapsed = time.monotonic() - began

    assert (loaded["load"].state, loaded["load"].try_number) == ("success", 1)
    assert len(load.store.contacts) == ROWS == stack.api.xcoms(loaded, loaded["load"])["return_value"]["created"]
    assert sum(call.status != 429 for call in load.journal(method="POST")) == ROWS
    assert load.counters().throttled <= ROWS // 10
    testing.assert_rate_kept(load, calls=RATE, burst=RATE)  # tolerance for a busy machine
    assert waited["late"].state == "success"
    never = waited["never"]
    assert seconds_between(never.started_at, never.ended_at) >= TIMEOUT, "by Airflow's clock, which is not shifted"
    assert "AirflowSensorTimeout" in stack.api.log(waited, never)
    assert checks(waits, "never") <= TIMEOUT / INTERVAL + SPARE_CHECKS
    assert checks(waits, "late") <= elapsed / INTERVAL + SPARE_CHECKS
    fault = "the clock changes by a day, back or forth"
    observed(
        fault=fault,
        hits="load",
        ends="success",
        requests="as many as without the fault, and no faster",
        data="nothing lost, nothing duplicated",
        remedy="nothing",
    )
    observed(
        fault=fault,
        hits="deferred sensor",
        ends="the same as without the fault: success, or its timeout",
        requests="one check per interval, as without the fault",
        data="read only",
        remedy="nothing",
    )


def checks(crm: Sandbox, name: str) -> int:
    """The number of reads of a contact."""
    return len(crm.journal(email=f"{name}@example.com"))
