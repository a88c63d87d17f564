"""Three tasks: write a contact, create a deal for it, and move the deal to the next stage."""

from __future__ import annotations

from airflow.sdk import DAG, Param

from crm_provider.operators.contacts import CrmUpsertContactOperator
from crm_provider.operators.deals import CrmCreateDealOperator, CrmMoveDealStageOperator

UUID = {"type": "string", "format": "uuid"}

with DAG(
    "crm_quickstart",
    schedule=None,
    tags=["crm"],
    # ids of the sandbox: replace them with your own, which the CRM's web app shows
    params={
        "email": Param("grace.hopper@example.com", type="string", format="email"),
        "pipeline_id": Param("a17480f5-9e08-57d0-801d-d7187ee171a3", **UUID),
        "first_stage_id": Param("af208b81-bd88-5854-93ac-f6eab446a750", **UUID),
        "next_stage_id": Param("f205c4c4-a1de-52c0-9029-b462466be9dd", **UUID),
    },
    default_args={"retries": 3},
):
    contact = CrmUpsertContactOperator(
        task_id="upsert_contact",
        contact_email="{{ params.email }}",
        attributes={"name": "Grace Hopper"},
    )
    deal = CrmCreateDealOperator(
        task_id="create_deal",
        contact_id="{{ ti.xcom_pull('upsert_contact')['id'] }}",
        pipeline_id="{{ params.pipeline_id }}",
        stage_id="{{ params.first_stage_id }}",
        attributes={"pb_name": "First order", "pb_amount": "1200.50"},
    )
    move = CrmMoveDealStageOperator(
        task_id="move_deal",
        deal_id="{{ ti.xcom_pull('create_deal')['id'] }}",
        stage_id="{{ params.next_stage_id }}",
        on_error={"DEAL_NOT_FOUND": "skip"},
    )
    contact >> deal >> move
