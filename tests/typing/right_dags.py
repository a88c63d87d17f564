"""Correct DAGs, in which a type checker finds nothing.

``tests/unit/test_typing.py`` checks this file; it is never run.
"""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

from airflow.sdk import DAG, Asset, AssetWatcher, ObjectStoragePath, task

from crm_provider import errors as e
from crm_provider.errors import ErrorPolicy
from crm_provider.hooks.crm import CrmHook
from crm_provider.operators.automations import CrmTriggerAutomationOperator
from crm_provider.operators.contacts import (
    CrmDeleteContactOperator,
    CrmUpsertContactOperator,
    CrmVerifyEmailOperator,
)
from crm_provider.operators.deals import CrmCreateDealOperator, CrmMoveDealStageOperator
from crm_provider.operators.extract import (
    CrmExtractContactsOperator,
    CrmExtractDealsOperator,
    CrmExtractListsOperator,
)
from crm_provider.operators.lists import CrmAddContactToListsOperator
from crm_provider.operators.load import CrmLoadContactsOperator, CrmRetryRejectsOperator
from crm_provider.sensors.contacts import CrmContactSensor
from crm_provider.sensors.deals import CrmDealStageSensor
from crm_provider.sensors.lists import CrmListMembershipSensor, CrmListSensor
from crm_provider.tasks import CrmRetryPolicy, LoadOnError, TaskOnError
from crm_provider.transfers.crm_to_sql import CrmToSqlOperator
from crm_provider.transfers.sql_to_crm import SqlToCrmContactsOperator
from crm_provider.triggers.watch import CrmDealStageTrigger, CrmListJoinedTrigger

EMAIL = "ada@example.com"
MAPPING = {"email": "E-mail", "phone": {"column": "Telefone", "type": "phone", "region": "BR"}}
ON_ERROR: TaskOnError = {"DEAL_NOT_FOUND": "skip", e.CrmTransientError: "retry"}
ON_ROW_ERROR: LoadOnError = {"INVALID_INPUT": "reject"}

joined = Asset("joined", watchers=[AssetWatcher(name="joined", trigger=CrmListJoinedTrigger(list_id="x"))])
moved = CrmDealStageTrigger(stage_id="x", crm_conn_id="other", poke_interval=60, include_existing=True, max_per_event=1)


@task
def rows() -> list[dict[str, Any]]:
    return [{"E-mail": EMAIL}]


@task
def deal_id() -> str:
    return "d-1"


@task
def emails() -> list[str]:
    return [EMAIL]


with DAG("right"):
    upsert = CrmUpsertContactOperator(
        task_id="upsert",
        contact_email="{{ params.email }}",
        attributes={"name": "Ada", "vip": True},
        origin={"url": "https://example.com"},
        mode="create",
        crm_conn_id="other",
        on_error={"CONTACT_ALREADY_EXISTS": "fail"},
        retries=3,
        retry_delay=timedelta(minutes=1),
        email="alerts@example.com",
        pool="crm",
        trigger_rule="all_done",
        depends_on_past=True,
        execution_timeout=timedelta(hours=1),
        default_args={"retries": 1},
        on_failure_callback=lambda context: print(context.get("ti")),
        doc_md=__doc__,
    )
    deal = CrmCreateDealOperator(
        task_id="deal",
        contact_id="{{ ti.xcom_pull('upsert')['id'] }}",
        pipeline_id="p",
        stage_id="s",
        attributes={"pb_amount": "1.50"},
        on_error={e.CrmContactAssociatedWithADealError: "skip", "CrmTransientError": "retry"},
    )
    move = CrmMoveDealStageOperator(
        task_id="move", deal_id=deal_id(), stage_id="s", on_error=ON_ERROR, retry_policy=CrmRetryPolicy()
    )
    CrmMoveDealStageOperator(task_id="policy", deal_id="d", stage_id="s", on_error=ErrorPolicy({"CrmError": "skip"}))
    CrmDeleteContactOperator(task_id="delete", contact_email=EMAIL, retry_policy=None)
    CrmVerifyEmailOperator(task_id="verify", contact_email=EMAIL)
    CrmAddContactToListsOperator(task_id="one_list", contact_email=EMAIL, list_ids="l")
    CrmAddContactToListsOperator(task_id="lists", contact_email=EMAIL, list_ids=["l", "m"])
    CrmTriggerAutomationOperator(
        task_id="start", webhook_id="w", channel_uid="c", workflow_id="f", contact_email=EMAIL, fields={"size": 3}
    )

    CrmExtractContactsOperator(task_id="file", target=Path("contacts.csv"), fields=["id"], formula_guard=True)
    CrmExtractDealsOperator(task_id="url", target=ObjectStoragePath("s3://b/d.jsonl"), if_changed="restart")
    CrmExtractListsOperator(task_id="format", target="lists", format="parquet")
    CrmExtractContactsOperator(task_id="changes", target="c.csv", changes_since="last", state_path=Path("seen"))

    load = CrmLoadContactsOperator(
        task_id="load",
        source=["a.csv", Path("b.csv")],
        source_format="csv",
        source_options={"delimiter": ";"},
        mapping=MAPPING,
        mode="upsert",
        plan="compare",
        full_refresh=True,
        duplicates="first",
        empty="clear",
        region="BR",
        lowercase_email=True,
        suppression={"never@example.com"},
        list_ids=["l"],
        resubscribe=False,
        on_invalid="stop",
        max_rejects="1%",
        rejects_path=Path("rejects.jsonl"),
        state_path="s3://b/state",
        report_path="report.md",
        checkpoint_path=ObjectStoragePath("s3://b/checkpoint"),
        errors_in_a_row=3,
        dry_run=True,
        on_error=ON_ROW_ERROR,
    )
    CrmLoadContactsOperator(task_id="rows", source=[{"email": EMAIL, "name": None}], on_error={"CrmError": "reject"})
    CrmLoadContactsOperator(task_id="output", source=rows())
    CrmRetryRejectsOperator(
        task_id="again", rejects="{{ ti.xcom_pull('load')['rejects_path'] }}", only="all", max_rejects=5
    )
    CrmToSqlOperator(
        task_id="to_sql", listing="deals", sql_conn_id="db", table="t", mode="merge", columns={"id": "uuid"}
    )
    SqlToCrmContactsOperator(task_id="sql", sql="SELECT 1", sql_conn_id="db", parameters={"a": 1}, fetch_size=100)

    CrmContactSensor(
        task_id="contact",
        contact_email=EMAIL,
        status="active",
        attributes={"vip": True},
        mode="reschedule",
        poke_interval=timedelta(minutes=1),
        timeout=600,
        soft_fail=True,
        deferrable=True,
        share_poll=False,
        max_errors_in_a_row=3,
        on_error={"CONTACT_NOT_FOUND": "wait", e.CrmAccessError: "fail"},
    )
    CrmDealStageSensor(task_id="stage", deal_id=deal_id(), stage_ids=["a", "b"], until="left")
    CrmListSensor(task_id="list", list_name="Trial users")
    CrmListMembershipSensor(task_id="members", emails=emails(), list_id="l", match="any")

    CrmUpsertContactOperator.partial(task_id="mapped", on_error={"CrmDataError": "skip"}, pool="crm").expand(
        contact_email=emails()
    )
    CrmLoadContactsOperator.partial(task_id="files", mapping=MAPPING, max_rejects=1).expand(source=["a.csv", "b.csv"])
    CrmContactSensor.partial(task_id="sensors", deferrable=True, poke_interval=60).expand(contact_email=emails())


class OwnOperator(CrmUpsertContactOperator):
    """An operator of a user's own."""

    def __init__(self, *, shop: str, **kwargs: Any) -> None:
        super().__init__(attributes={"shop": shop}, **kwargs)


OwnOperator(task_id="own", shop="north", contact_email=EMAIL)


@task
def own_load(rows: list[dict[str, str]]) -> int:
    hook = CrmHook()
    made = (row for row in rows)
    summary = hook.load_contacts(made, mapping=MAPPING, list_ids=["a"], outcomes_path=Path("o.csv"), outcome_keys="id")
    hook.load_deals("deals.csv", mode="move", on_error={"DEAL_NOT_FOUND": "skip"}, only_from_stages=["s"])
    return int(summary["rows"])
