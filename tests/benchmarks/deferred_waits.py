"""The waits of ``bench_waiters.py``: triggers, their rows in Airflow's database, and their ends."""

from __future__ import annotations

import time
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from crm_provider.sandbox import ids

DAG, TASK = "dag_001", "wait"
LISTS, CONTACTS, DEALS = 20, 50, 50
"""Different records in the CRM: 2 pages of lists, and one call per contact and deal."""

SHARED_BY = 20
"""With fewer than a thousand sensors, this many wait for the same contact or deal."""

Spec = tuple[str, dict[str, Any]]
"""The class and arguments of a trigger."""


def core_trigger(file: Path, interval: float) -> Spec:
    """A trigger of Airflow that waits for a file."""
    arguments = {"filepath": str(file), "recursive": False, "poke_interval": interval}
    return "airflow.providers.standard.triggers.file.FileTrigger", arguments


def distinct(waiters: int) -> int:
    """The number of different contacts, and of deals, for this many sensors."""
    return min(CONTACTS, DEALS, max(waiters // SHARED_BY, 1))


def crm_trigger(number: int, interval: float, records: int) -> Spec:
    """The trigger of a CRM sensor: of ten, six wait for a list, two for a contact in a list, two for a deal."""
    from crm_provider.sensors.deals import CrmDealStageSensor
    from crm_provider.sensors.lists import CrmListMembershipSensor, CrmListSensor

    kind, which = number % 10, number // 10
    common: dict[str, Any] = {"task_id": TASK, "poke_interval": interval, "timeout": 24 * 3600, "deferrable": True}
    sensor: CrmListSensor | CrmListMembershipSensor | CrmDealStageSensor
    if kind < 6:
        sensor = CrmListSensor(list_name=f"awaited-{(6 * which + kind) % LISTS}", **common)
    elif kind < 8:
        email = f"p{(2 * which + kind) % records}@example.com"
        sensor = CrmListMembershipSensor(emails=email, list_id=ids.list_id("Joined"), **common)
    else:
        contact = ids.contact_id(f"p{CONTACTS + (2 * which + kind) % records}@example.com")
        sensor = CrmDealStageSensor(deal_id=ids.deal_id(contact), stage_ids=ids.stage_id("Sales", "Won"), **common)
    return sensor.trigger(time.time()).serialize()


def fill(specs: list[Spec]) -> None:
    """Write a run with deferred sensors to the database."""
    from airflow.models.dag_version import DagVersion
    from airflow.models.dagrun import DagRun
    from airflow.models.taskinstance import TaskInstance
    from airflow.models.trigger import Trigger
    from airflow.utils.session import create_session
    from sqlalchemy import insert, select, text

    now = datetime.now(timezone.utc)
    run_id = f"manual__{now.isoformat()}"
    with create_session() as session:
        session.execute(text("TRUNCATE wait_ended"))
        version = session.scalar(select(DagVersion.id).where(DagVersion.dag_id == DAG))
        if version is None:
            row = {"dag_id": DAG, "version_number": 1, "bundle_name": "bench"}
            version = session.scalar(insert(DagVersion.__table__).returning(DagVersion.id), row)
        run = {
            "dag_id": DAG, "run_id": run_id, "run_type": "manual", "logical_date": now, "run_after": now,
            "queued_at": now, "start_date": now, "state": "running", "created_dag_version_id": version,
        }  # fmt: skip
        session.execute(insert(DagRun.__table__), [run])
        triggers = [
            {"classpath": path, "encrypted_kwargs": Trigger.encrypt_kwargs(given), "created_date": now}
            for path, given in specs
        ]
        made = session.scalars(insert(Trigger).returning(Trigger.id), triggers).all()
        session.execute(
            insert(TaskInstance.__table__),
            [
                {
                    "dag_id": DAG, "run_id": run_id, "task_id": TASK, "map_index": index, "pool": "default_pool",
                    "operator": "CrmListSensor", "state": "deferred", "start_date": now, "try_number": 1,
                    "max_tries": 1, "pool_slots": 1, "executor_config": {}, "custom_operator_name": "",
                    "queue": "default", "priority_weight": 1, "trigger_id": trigger, "next_method": "execute_complete",
                    "next_kwargs": {}, "dag_version_id": version,
                }
                for index, trigger in enumerate(made)
            ],
        )  # fmt: skip


def scalar(statement: str) -> int:
    from airflow.utils.session import create_session
    from sqlalchemy import text

    with create_session() as session:
        return int(session.scalar(text(statement)) or 0)


def ends() -> tuple[int, int]:
    """The number of waits that ended once, and of those that ended more than once."""
    each = "SELECT count(*) AS times FROM wait_ended GROUP BY ti"
    return tuple(scalar(f"SELECT count(*) FROM ({each}) AS e WHERE times {how}") for how in ("= 1", "> 1"))  # type: ignore[return-value]


def successes() -> int:
    """The number of waits that ended with success: the result of a CRM sensor, or True of a ``FileTrigger``."""
    return scalar("""SELECT count(*) FROM wait_ended WHERE event ~ '"result"|"event": ?true'""")
