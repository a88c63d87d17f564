"""DAGs with every operator and sensor, against servers that answer well, badly, and with what they were sent.

Read by a real Airflow. What is planted comes in the environment, so that it is not in this file, which Airflow stores.
"""

from __future__ import annotations

import json
import os
import sqlite3
from datetime import timedelta
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

from airflow.sdk import DAG, task

from crm_provider.operators.contacts import CrmUpsertContactOperator
from crm_provider.operators.extract import CrmExtractDealsOperator, CrmExtractListsOperator
from crm_provider.operators.load import CrmLoadContactsOperator, CrmRetryRejectsOperator
from crm_provider.sandbox import ids
from crm_provider.sensors.lists import CrmListMembershipSensor
from crm_provider.transfers import sql_to_crm

FOLDER = os.environ["LEAKS_FOLDER"]
CASES = json.loads(os.environ["LEAKS_CASES"])
"""Suffix of a connection's id -> its share of the tasks: 1 for all of them, 3 for every third."""

spec = spec_from_file_location("leak_scene", os.environ["LEAKS_SCENE"])
assert spec is not None
assert spec.loader is not None
scene = module_from_spec(spec)
spec.loader.exec_module(scene)


class FileHook:
    """SQLite, whose provider need not be installed."""

    def get_records(self) -> None:
        """What tells a database's hook."""

    def get_conn(self) -> Any:
        return sqlite3.connect(f"{FOLDER}/leads.db")


sql_to_crm._hook_of = lambda connection, hook_params: FileHook()

MAPPING = {"email": "mail", "name": "name", "phone": "phone"}
LIST = ids.list_id("Awaited")


def rows() -> list[dict[str, Any]]:
    return [{"contact_email": scene.EMAIL, "attributes": scene.ATTRIBUTES}]


def loads(case: str) -> None:
    """Files, a database, and what was rejected once more."""
    given: dict[str, Any] = {"mapping": MAPPING, "crm_conn_id": f"crm_{case}"}
    kept = {
        "rejects_path": f"{FOLDER}/out/{case}.rejects.csv",
        "state_path": f"{FOLDER}/out/{case}.state",
        "checkpoint_path": f"{FOLDER}/out/{case}.checkpoint",
    }
    first = CrmLoadContactsOperator(task_id=f"file_{case}", source=f"{FOLDER}/leads.csv", **given, **kept)
    again = CrmRetryRejectsOperator(
        task_id=f"again_{case}",
        rejects=kept["rejects_path"],
        only="all",
        rejects_path=f"{FOLDER}/out/{case}.again.jsonl",
        trigger_rule="all_done",
        **given,
    )
    first >> again
    sql_to_crm.SqlToCrmContactsOperator(
        task_id=f"sql_{case}", sql="SELECT * FROM leads ORDER BY mail", sql_conn_id="leaks_db", **given
    )


with DAG("leaks", schedule=None, default_args={"retry_delay": timedelta(seconds=1)}, max_active_tasks=32):
    planted = task(rows)()
    for place, (kind, (make, _)) in enumerate(scene.kinds().items()):
        for turn, (case, share) in enumerate(CASES.items()):
            if (place + turn) % share == 0:
                planted >> make(planted, task_id=f"{kind}_{case}", crm_conn_id=f"crm_{case}", retries=0)

with DAG("leaks_in_bulk", schedule=None, max_active_tasks=32):
    for case in ("ok", "m422"):
        loads(case)
    CrmExtractDealsOperator(task_id="deals", crm_conn_id="crm_ok", target=f"{FOLDER}/out/deals.jsonl")
    CrmExtractListsOperator(task_id="lists", crm_conn_id="crm_ok", target=f"{FOLDER}/out/lists.csv")
    CrmLoadContactsOperator(task_id="no_header", crm_conn_id="crm_ok", source=f"{FOLDER}/headless.csv", mapping=MAPPING)
    CrmUpsertContactOperator(task_id="no_redis", crm_conn_id="crm_redis", contact_email="plain@example.com")

    @task(retries=1, retry_delay=timedelta(0))
    def own_task(case: str) -> None:
        from crm_provider.hooks.crm import CrmHook

        email, attributes = scene.EMAIL, scene.ATTRIBUTES  # locals of a frame that the traceback shows
        CrmHook(f"crm_{case}").upsert_contact(email, attributes=attributes)

    for case in ("m422", "m418"):
        own_task.override(task_id=f"own_{case}")(case)

with DAG("leaks_deferred", schedule=None, max_active_tasks=32):
    for case in ("ok", "m502", "m403"):
        CrmListMembershipSensor(
            task_id=f"waits_{case}",
            crm_conn_id=f"crm_{case}",
            emails=["{{ var.value.leaks_email }}"],
            list_id=LIST,
            deferrable=True,
            poke_interval=2,
            timeout=600 if case == "ok" else 15,  # that one ends when the contact is in the list
        )

with DAG("leaks_control", schedule=None):

    @task
    def tells() -> str:
        from airflow.providers.common.compat.sdk import Stats
        from opentelemetry import trace

        told = os.environ["LEAKS_CONTROL"]
        print(told)
        Stats.incr(f"crm.{told}")
        trace.get_tracer("control").start_span(told).end()
        Path(FOLDER, "out", "control.txt").write_text(told)
        return told

    CrmUpsertContactOperator(
        task_id="shows", contact_email=f"{os.environ['LEAKS_CONTROL']}@example.com", crm_conn_id="crm_ok"
    )
    tells()
