"""Run every operator and sensor in success and in every kind of failure, and write down all that is left behind.

A program of its own (``python leak_scene.py RESULT``), for what it prints at level DEBUG is a part of the result, and
Airflow's own masking is switched off: nothing may rest on it. What must not leak comes in the environment variable
``PLANTED``, so that it is not in this file, which Airflow stores as the DAG's code.
"""

from __future__ import annotations

import json
import logging
import os
import socket
import sys
import traceback
from collections.abc import Callable, Iterator
from datetime import timedelta
from functools import cache, partial
from pathlib import Path
from typing import Any

PLANTED: dict[str, str] = json.loads(os.environ["PLANTED"])
KEY, EMAIL, NAME, PHONE = (PLANTED[name] for name in ("key", "email", "name", "phone"))
ATTRIBUTES = {"name": NAME, "phone": PHONE}
WEBHOOK = {name: f"{PLANTED['webhook']}-{name}" for name in ("webhook_id", "channel_uid", "workflow_id")}

Fault = dict[str, Any]


def echoes(method: str, *values: str) -> dict[str, Fault]:
    """A server or a proxy may say back whatever it was sent, also the key."""
    said = [*values, KEY, *(value.upper() for value in values if "@" in value)]
    said += [value.replace("+", "%2B").replace("@", "%40") for value in values if "@" in value]
    text = " ".join(said)

    def answer(status: int, body: str) -> Fault:
        return {"effect": "garbage", "method": method, "status": status, "body": body}

    return {
        "echo_text": answer(200, f"you sent {text}"),
        "echo_html": answer(502, f"<html><body>{text}</body></html>"),
        "echo_409": answer(409, json.dumps({"message": f"taken: {text}", "errors": said})),
        "echo_422": answer(
            422, json.dumps({"error": f"bad: {text}", "errorCode": "INVALID_INPUT", "requestId": "r-1"})
        ),
        "echo_500": answer(500, json.dumps({"message": said, "received": {"x-api-key": KEY}})),
        "echo_418": answer(418, json.dumps(said)),
        "echo_id": answer(403, json.dumps({"message": "no", "requestId": text})),
    }


def said_back(email: str) -> dict[str, Fault]:
    """The same, and an answer that is fine and says back the address and the key."""
    body = json.dumps({"data": {"email": email, email: "ok", "domain": email.rpartition("@")[2], "key": KEY}})
    return {**echoes("POST", email), "echo_fine": {"effect": "garbage", "method": "POST", "status": 200, "body": body}}


FAULTS: dict[str, Fault] = {
    "nothing": {},
    "key_refused": {"effect": "error", "error": "key refused"},
    "bad_data": {"effect": "error", "error": "INVALID_INPUT"},
    "missing": {"effect": "error", "error": "CONTACT_NOT_FOUND"},
    "down": {"effect": "error", "error": "INTERNAL_SERVER_ERROR"},
    "dropped": {"effect": "drop"},
    "redirect": {"effect": "redirect", "location": f"https://{KEY}@elsewhere.example/{EMAIL}?name={NAME}&key={KEY}"},
    "cut_off": {"effect": "truncate"},
    "refused": {},
}


ALL_FAULTS = ("upsert",)
"""What meets every fault."""

ANY_KIND = ("nothing", "echo_422", "echo_fine")
"""What all of them meet: success, and answers that say back what was sent."""


def kinds() -> dict[str, tuple[Callable[..., Any], dict[str, Fault]]]:
    """Each operator and sensor, mapped or templated, and the answers that say back what it sends."""
    from crm_provider.operators.automations import CrmTriggerAutomationOperator
    from crm_provider.operators.contacts import CrmDeleteContactOperator, CrmVerifyEmailOperator
    from crm_provider.operators.contacts import CrmUpsertContactOperator as Upsert
    from crm_provider.operators.deals import CrmCreateDealOperator, CrmMoveDealStageOperator
    from crm_provider.operators.extract import CrmExtractContactsOperator
    from crm_provider.operators.lists import CrmAddContactToListsOperator
    from crm_provider.operators.load import CrmLoadContactsOperator
    from crm_provider.sandbox import ids
    from crm_provider.sensors.contacts import CrmContactSensor
    from crm_provider.sensors.deals import CrmDealStageSensor
    from crm_provider.sensors.lists import CrmListMembershipSensor, CrmListSensor

    email = "{{ ti.xcom_pull('rows')[0]['contact_email'] }}"
    attributes = {"name": "{{ ti.xcom_pull('rows')[0]['attributes']['name'] }}", "phone": PHONE}
    new, won = ids.stage_id("Sales", "New"), ids.stage_id("Sales", "Won")
    contact, newsletter = ids.contact_id(EMAIL), ids.list_id("Newsletter")
    deal = {"contact_id": contact, "pipeline_id": ids.pipeline_id("Sales"), "stage_id": new}
    waiting = {"poke_interval": 0.01, "timeout": 0.02}
    all_of_it = (EMAIL, NAME, PHONE)
    return {
        "upsert": (lambda rows, **given: Upsert.partial(**given).expand_kwargs(rows), echoes("POST", *all_of_it)),
        "create": (
            lambda _, **given: Upsert(mode="create", contact_email=email, attributes=attributes, **given),
            echoes("POST", *all_of_it),
        ),
        "update": (
            lambda _, **given: Upsert.partial(mode="update", attributes=ATTRIBUTES, **given).expand(
                contact_email=[EMAIL]
            ),
            echoes("PUT", *all_of_it),
        ),
        "add": (
            lambda _, **given: CrmAddContactToListsOperator(contact_email=email, list_ids=[newsletter], **given),
            echoes("POST", EMAIL),
        ),
        "deal": (
            lambda _, **given: CrmCreateDealOperator(attributes={"pb_name": NAME}, **deal, **given),
            echoes("POST", NAME, EMAIL),
        ),
        "move": (
            lambda _, **given: CrmMoveDealStageOperator(deal_id=ids.deal_id(contact), stage_id=won, **given),
            echoes("PUT", EMAIL),
        ),
        "delete": (
            lambda _, **given: CrmDeleteContactOperator(contact_email=f"x{EMAIL}", **given),
            echoes("DELETE", EMAIL),
        ),
        "verify": (lambda _, **given: CrmVerifyEmailOperator(contact_email=email, **given), said_back(EMAIL)),
        "start": (
            lambda _, **given: CrmTriggerAutomationOperator(
                contact_email=email,
                fields={"who": NAME},
                **{name: f"{{{{ var.value.{name} }}}}" for name in WEBHOOK},
                **given,
            ),
            echoes("POST", EMAIL, NAME, *WEBHOOK.values()),
        ),
        "extract": (
            lambda _, **given: CrmExtractContactsOperator(target="{{ task.task_id }}.csv", **given),
            echoes("GET", EMAIL),
        ),
        "load": (
            lambda rows, **given: CrmLoadContactsOperator(
                source=rows,
                mapping={"email": "contact_email", "name": {"constant": NAME}, "phone": {"constant": PHONE}},
                suppression=[f"x{EMAIL}"],
                rejects_path="{{ task.task_id }}.rejects.jsonl",
                **given,
            ),
            echoes("POST", *all_of_it),
        ),
        "list": (lambda _, **given: CrmListSensor(list_name="Newsletter", **waiting, **given), echoes("GET")),
        "members": (
            lambda _, **given: CrmListMembershipSensor(emails=[email], list_id=newsletter, **waiting, **given),
            echoes("GET", EMAIL),
        ),
        "contact": (
            lambda _, **given: CrmContactSensor(contact_email=email, attributes=attributes, **waiting, **given),
            echoes("GET", EMAIL),
        ),
        "deferred": (
            lambda _, **given: CrmListMembershipSensor(
                emails=[email], list_id=newsletter, deferrable=True, **waiting, **given
            ),
            echoes("GET", EMAIL),
        ),
        "stage": (
            lambda _, **given: CrmDealStageSensor(deal_id=ids.deal_id(contact), stage_ids=[new], **waiting, **given),
            echoes("GET", EMAIL),
        ),
    }


def make_dag(kind: str, sabotage: Callable[[Fault], Callable[[Any], None]]) -> Any:
    """A DAG for each kind: Airflow 3.1 reads the whole DAG anew for each task."""
    from airflow.sdk import DAG, task

    make, faults = kinds()[kind]
    chosen = {name: fault for name, fault in {**FAULTS, **faults}.items() if kind in ALL_FAULTS or name in ANY_KIND}
    with DAG(f"leaks_{kind}", schedule=None, default_args={"retry_delay": timedelta(0)}) as dag:

        @task
        def rows() -> list[dict[str, Any]]:
            return [{"contact_email": EMAIL, "attributes": ATTRIBUTES}]

        planted = rows()
        for name, fault in chosen.items():
            arguments = {
                "task_id": name,
                "crm_conn_id": "crm_refused" if name == "refused" else "crm_default",
                "retries": int(name in ("down", "bad_data")),
                "on_execute_callback": sabotage(fault),
            }
            planted >> make(planted, **arguments)
    return dag


def run(sandbox: Any) -> list[BaseException]:
    """Run all DAGs; the exceptions that tasks failed with."""
    from airflow.dag_processing.bundles.manager import DagBundlesManager
    from airflow.sdk.definitions import dag as module
    from airflow.sdk.execution_time import supervisor

    supervisor.in_process_api_server = cache(supervisor.in_process_api_server)  # Airflow 3.1 makes one for each task
    try:
        from airflow.dag_processing.dagbag import DagBag, sync_bag_to_db
    except ImportError:  # Airflow 3.1
        from airflow.models.dagbag import DagBag, sync_bag_to_db

    def sabotage(fault: Fault) -> Callable[[Any], None]:
        def callback(context: Any) -> None:
            sandbox.clear_faults()
            if fault:
                sandbox.add_fault(**fault)

        return callback

    errors: list[BaseException] = []
    run_task = module._run_task

    def noting(**arguments: Any) -> Any:
        result = run_task(**arguments)
        if result is not None and result.error is not None:
            errors.append(result.error)
        return result

    module._run_task = noting
    DagBundlesManager().sync_bundles_to_db()
    for kind in kinds():
        dag = make_dag(kind, sabotage)
        bag = DagBag(dag_folder=os.devnull)
        bag.bag_dag(dag=dag)
        sync_bag_to_db(bag, "dags-folder", None)
        dag.test()
    return errors


def everything_about(error: BaseException) -> Iterator[str]:
    """All texts of an exception and of those it hangs on, also of those that a traceback would not show."""
    yield "".join(traceback.format_exception(error))
    seen: set[int] = set()
    todo: list[BaseException | None] = [error]
    while todo:
        found = todo.pop()
        if found is None or id(found) in seen:
            continue
        seen.add(id(found))
        yield f"{found!s} {found!r} {found.args!r} {vars(found)!r}"
        todo += [found.__cause__, found.__context__]


def tables() -> dict[str, str]:
    """Every table of the metadata database, as text."""
    from airflow import settings
    from sqlalchemy import MetaData, select

    found = MetaData()
    assert settings.engine is not None
    found.reflect(settings.engine)
    with settings.engine.connect() as connection:
        return {
            name: "\n".join(repr(tuple(row)) for row in connection.execute(select(table)))
            for name, table in found.tables.items()
        }


def own_objects() -> list[str]:
    from crm_provider.hooks.crm import CrmHook

    hook = CrmHook()
    client = hook.get_conn()
    transport = client._transport
    objects = [hook, client, client.settings, transport, transport._http, transport._http._session]
    return [text for found in objects for text in (repr(found), str(found))]


def main(result: Path) -> None:
    from airflow.sdk.execution_time import context as sdk_context
    from airflow.utils.db import initdb

    from crm_provider.client import retry
    from crm_provider.operators import automations
    from crm_provider.sandbox import Sandbox, ids

    sdk_context.mask_secret = automations.mask_secret = lambda *args: None
    os.environ.update({f"AIRFLOW_VAR_{name.upper()}": value for name, value in WEBHOOK.items()})
    retry.RetryBudget = partial(retry.RetryBudget, tries=2, first_delay=0.001)  # type: ignore[misc, assignment]
    initdb()
    logging.getLogger("urllib3").setLevel(logging.DEBUG)
    with Sandbox(rate=None, api_key=KEY) as sandbox, socket.socket() as nobody_listens:
        nobody_listens.bind(("127.0.0.1", 0))  # held, so that nobody else is given this port
        host = f"http://127.0.0.1:{nobody_listens.getsockname()[1]}/v2"
        os.environ["AIRFLOW_CONN_CRM_REFUSED"] = json.dumps({"conn_type": "crm", "host": host, "password": KEY})
        os.environ["AIRFLOW_CONN_CRM_DEFAULT"] = sandbox.connection_json(rate_store="off")
        contact = sandbox.store.create_contact(EMAIL, attributes=ATTRIBUTES)
        sandbox.store.create_contact(f"x{EMAIL}")
        sandbox.store.create_deal(
            contact_id=contact.id, pipeline_id=ids.pipeline_id("Sales"), stage_id=ids.stage_id("Sales", "New")
        )
        errors = run(sandbox)
        left = {
            "errors": [text for error in errors for text in everything_about(error)],
            "tables": tables(),
            "objects": own_objects(),
            "calls": len(sandbox.journal()),
        }
    result.write_text(json.dumps(left))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
