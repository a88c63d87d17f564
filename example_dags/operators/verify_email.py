"""Has the CRM verify an address."""

from __future__ import annotations

from airflow.sdk import DAG

from crm_provider.operators.contacts import CrmVerifyEmailOperator

with DAG("crm_verify_email", schedule=None, default_args={"retries": 3}):
    CrmVerifyEmailOperator(task_id="verify_email", contact_email="ada@example.com")
