"""Deletes a contact."""

from __future__ import annotations

from airflow.sdk import DAG, Param

from crm_provider.operators.contacts import CrmDeleteContactOperator

with DAG(
    "crm_delete_contact",
    schedule=None,
    params={"email": Param("ada@example.com", type="string", format="email")},
    default_args={"retries": 3},
):
    CrmDeleteContactOperator(task_id="delete_contact", contact_email="{{ params.email }}")
