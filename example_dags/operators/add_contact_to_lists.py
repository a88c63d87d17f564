"""Adds a contact to a list that is found by its name."""

from __future__ import annotations

from airflow.sdk import DAG

from crm_provider.operators.lists import CrmAddContactToListsOperator
from crm_provider.sensors.lists import CrmListSensor

with DAG("crm_add_contact_to_lists", schedule=None, default_args={"retries": 3}):
    trial_users = CrmListSensor(task_id="trial_users", list_name="Trial users", timeout=600)
    add = CrmAddContactToListsOperator(
        task_id="add_contact_to_lists",
        contact_email="ada@example.com",
        list_ids="{{ ti.xcom_pull('trial_users')['id'] }}",
    )
    trial_users >> add
