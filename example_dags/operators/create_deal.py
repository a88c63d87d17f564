"""Creates a deal for the contact that the previous task wrote."""

from __future__ import annotations

from airflow.sdk import DAG

from crm_provider.operators.contacts import CrmUpsertContactOperator
from crm_provider.operators.deals import CrmCreateDealOperator

with DAG("crm_create_deal", schedule=None, default_args={"retries": 3}):
    contact = CrmUpsertContactOperator(
        task_id="upsert_contact",
        contact_email="grace.hopper@example.com",
        attributes={"name": "Grace Hopper"},
    )
    deal = CrmCreateDealOperator(
        task_id="create_deal",
        contact_id="{{ ti.xcom_pull('upsert_contact')['id'] }}",
        pipeline_id="a17480f5-9e08-57d0-801d-d7187ee171a3",  # of the sandbox: replace with your own
        stage_id="af208b81-bd88-5854-93ac-f6eab446a750",
        attributes={"pb_name": "Compiler", "pb_amount": "1200.50"},
    )
    contact >> deal
