"""Waits until a contact exists and is active."""

from __future__ import annotations

from airflow.sdk import DAG, Param

from crm_provider.sensors.contacts import CrmContactSensor

with DAG(
    "crm_contact",
    schedule=None,
    params={"email": Param("ada@example.com", type="string", format="email")},
    default_args={"retries": 2},
):
    CrmContactSensor(
        task_id="contact",
        contact_email="{{ params.email }}",
        status="active",
        deferrable=True,
        timeout=3600,
    )
