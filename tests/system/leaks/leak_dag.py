"""DAGs with every operator and sensor, against servers with valid, invalid and mirrored responses.

A real Airflow parses this file and stores its text, so the planted values come from the environment.
"""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

from airflow.sdk import DAG, task

from crm_provider.operators.automations import CrmTriggerAutomationOperator
from crm_provider.operators.contacts import CrmDeleteContactOperator, CrmUpsertContactOperator, CrmVerifyEmailOperator
from crm_provider.operators.deals import CrmCreateDealOperator, CrmMoveDealStageOperator
from crm_provider.operators.extract import CrmExtractContactsOperator, CrmExtractDealsOperator, CrmExtractListsOperator
from crm_provider.operators.lists import CrmAddContactToListsOperator
from crm_provider.operators.load import (
    CrmDeleteContactsOperator,
    CrmLoadContactsOperator,
    CrmLoadDealsOperator,
    CrmRetryRejectsOperator,
)
from crm_provider.sandbox import ids
from crm_provider.sensors.contacts import CrmContactSensor
from crm_provider.sensors.deals import CrmDealStageSensor
from crm_provider.sensors.lists import CrmListMembershipSensor, CrmListSensor
from crm_provider.transfers import sql_to_crm
from crm_provider.transfers.crm_to_sql import CrmToSqlOperator

PLANTED: dict[str, str] = json.loads(os.environ["PLANTED"])
EMAIL, NAME, PHONE = (PLANTED[name] for name in ("email", "name", "phone"))
ATTRIBUTES = {"name": NAME, "phone": PHONE}
FOLDER = os.environ["LEAKS_FOLDER"]
CASES = json.loads(os.environ["LEAKS_CASES"])
"""Suffix of a connection id -> its share of the tasks: 1 for all tasks, 3 for every third."""


class FileHook:
    """A hook for SQLite that does not need its provider."""

    def get_records(self) -> None:
        """The method that identifies a database hook."""

    def get_conn(self) -> Any:
        return sqlite3.connect(f"{FOLDER}/leads.db")


sql_to_crm._hook_of = lambda connection, hook_params: FileHook()

MAPPING = {"email": "mail", "name": "name", "phone": "phone"}
LIST = ids.list_id("Awaited")


Make = Callable[..., Any]


def kinds() -> dict[str, Make]:
    """Each operator and sensor, mapped or templated."""
    email = "{{ ti.xcom_pull('rows')[0]['contact_email'] }}"
    attributes = {"name": "{{ ti.xcom_pull('rows')[0]['attributes']['name'] }}", "phone": PHONE}
    new, won = ids.stage_id("Sales", "New"), ids.stage_id("Sales", "Won")
    contact, newsletter = ids.contact_id(EMAIL), ids.list_id("Newsletter")
    place = {"contact_id": contact, "pipeline_id": ids.pipeline_id("Sales"), "stage_id": new}
    upsert = CrmUpsertContactOperator
    hook = {name: f"{{{{ var.value.{name} }}}}" for name in ("webhook_id", "channel_uid", "workflow_id")}
    constants = {"name": {"constant": NAME}, "phone": {"constant": PHONE}}
    waiting = {"poke_interval": 0.01, "timeout": 0.02}

    def operator(cls: Any, **own: Any) -> Make:
        return lambda _, **given: cls(**own, **given)

    return {
        "upsert": lambda rows, **given: upsert.partial(**given).expand_kwargs(rows),
        "create": operator(upsert, mode="create", contact_email=email, attributes=attributes),
        "update": lambda _, **given: upsert.partial(mode="update", attributes=ATTRIBUTES, **given).expand(
            contact_email=[EMAIL]
        ),
        "add": operator(CrmAddContactToListsOperator, contact_email=email, list_ids=[newsletter]),
        "deal": operator(CrmCreateDealOperator, attributes={"pb_name": NAME}, **place),
        "move": operator(CrmMoveDealStageOperator, deal_id=ids.deal_id(contact), stage_id=won),
        "delete": operator(CrmDeleteContactOperator, contact_email=f"x{EMAIL}"),
        "verify": operator(CrmVerifyEmailOperator, contact_email=email),
        "start": operator(CrmTriggerAutomationOperator, contact_email=email, fields={"who": NAME}, **hook),
        "extract": operator(CrmExtractContactsOperator, target="{{ task.task_id }}.csv"),
        "load": lambda rows, **given: CrmLoadContactsOperator(
            source=rows,
            mapping={"email": "contact_email", **constants},
            suppression=[f"x{EMAIL}"],
            rejects_path="{{ task.task_id }}.rejects.jsonl",
            **given,
        ),
        "list": operator(CrmListSensor, list_name="Newsletter", **waiting),
        "members": operator(CrmListMembershipSensor, emails=[email], list_id=newsletter, **waiting),
        "contact": operator(CrmContactSensor, contact_email=email, attributes=attributes, **waiting),
        "deferred": operator(CrmListMembershipSensor, emails=[email], list_id=newsletter, deferrable=True, **waiting),
        "stage": operator(CrmDealStageSensor, deal_id=ids.deal_id(contact), stage_ids=[new], **waiting),
    }


def rows() -> list[dict[str, Any]]:
    return [{"contact_email": EMAIL, "attributes": ATTRIBUTES}]


def loads(case: str) -> None:
    """Loads from files and a database, and of rejected rows."""
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


def more_loads(case: str) -> None:
    """Loads of deals and deletions with the outcome of each row, and a table of the CRM's contacts."""
    given: dict[str, Any] = {"crm_conn_id": f"crm_{case}", "source": f"{FOLDER}/leads.csv"}
    deal = {
        "contact_email": "mail", "pb_name": "name", "pipeline_id": {"constant": ids.pipeline_id("Sales")},
        "stage_id": {"constant": ids.stage_id("Sales", "New")},
    }  # fmt: skip

    def files(name: str) -> dict[str, str]:
        return {
            "rejects_path": f"{FOLDER}/out/{case}.{name}.rejects.jsonl",
            "outcomes_path": f"{FOLDER}/out/{case}.{name}.outcomes.jsonl",
            "checkpoint_path": f"{FOLDER}/out/{case}.{name}.checkpoint",
        }

    made = CrmLoadDealsOperator(
        task_id=f"deals_{case}", mapping=deal, mode="upsert", max_rejects="100%", **files("deals"), **given
    )
    table = CrmToSqlOperator(
        task_id=f"table_{case}", crm_conn_id=f"crm_{case}", listing="contacts", sql_conn_id="leaks_db",
        table=f"people_{case}", mode="append", create_table=True, changes_since="last",
        state_path=f"{FOLDER}/out/{case}.people.seen", trigger_rule="all_done",
    )  # fmt: skip
    erased = CrmDeleteContactsOperator(
        task_id=f"erase_{case}", mapping={"email": "mail"}, max_deletes=10, max_rejects="100%",
        trigger_rule="all_done", **files("erase"), **given,
    )  # fmt: skip
    made >> [table, erased]


with DAG("leaks", schedule=None, default_args={"retry_delay": timedelta(seconds=1)}, max_active_tasks=32):
    rows_task = task(rows)()
    for place, (kind, make) in enumerate(kinds().items()):
        for turn, (case, share) in enumerate(CASES.items()):
            if (place + turn) % share == 0:
                rows_task >> make(rows_task, task_id=f"{kind}_{case}", crm_conn_id=f"crm_{case}", retries=0)

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

        email, attributes = EMAIL, ATTRIBUTES  # local variables of a frame in the traceback
        CrmHook(f"crm_{case}").upsert_contact(email, attributes=attributes)

    for case in ("m422", "m418"):
        own_task.override(task_id=f"own_{case}")(case)

with DAG("leaks_in_tables", schedule=None, max_active_tasks=32):
    for case in ("ok", "m422"):
        more_loads(case)

with DAG("leaks_deferred", schedule=None, max_active_tasks=32):
    for case in ("ok", "m502", "m403"):
        CrmListMembershipSensor(
            task_id=f"waits_{case}",
            crm_conn_id=f"crm_{case}",
            emails=["{{ var.value.leaks_email }}"],
            list_id=LIST,
            deferrable=True,
            poke_interval=2,
            timeout=600 if case == "ok" else 15,  # this sensor ends when the contact is in the list
        )

with DAG("leaks_control", schedule=None):

    @task
    def leaky() -> str:
        from airflow.providers.common.compat.sdk import Stats
        from opentelemetry import trace

        control = os.environ["LEAKS_CONTROL"]
        print(control)
        Stats.incr(f"crm.{control}")
        trace.get_tracer("control").start_span(control).end()
        Path(FOLDER, "out", "control.txt").write_text(control)
        return control

    CrmUpsertContactOperator(
        task_id="shows", contact_email=f"{os.environ['LEAKS_CONTROL']}@example.com", crm_conn_id="crm_ok"
    )
    leaky()
