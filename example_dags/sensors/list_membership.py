"""Waits until contacts are in a list."""

from __future__ import annotations

from airflow.sdk import DAG

from crm_provider.sensors.lists import CrmListMembershipSensor

with DAG("crm_list_membership", schedule=None, default_args={"retries": 2}):
    CrmListMembershipSensor(
        task_id="list_membership",
        emails=["ada@example.com", "barbara@example.com"],
        list_name="Newsletter",
        poke_interval=30,
        timeout=1800,
        soft_fail=True,
    )
