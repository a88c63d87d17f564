"""Waits until a list exists."""

from __future__ import annotations

from airflow.sdk import DAG

from crm_provider.sensors.lists import CrmListSensor

with DAG("crm_list", schedule=None, default_args={"retries": 2}):
    CrmListSensor(
        task_id="list",
        list_name="Trial users",
        mode="reschedule",
        poke_interval=120,
        timeout=6 * 3600,
    )
