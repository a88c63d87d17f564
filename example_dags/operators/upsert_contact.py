"""Creates a contact, or updates it if it exists."""

from __future__ import annotations

from airflow.sdk import DAG

from crm_provider.operators.contacts import CrmUpsertContactOperator

with DAG("crm_upsert_contact", schedule=None, default_args={"retries": 3}):
    CrmUpsertContactOperator(
        task_id="upsert_contact",
        contact_email="ada@example.com",
        attributes={"name": "Ada Lovelace", "phone": "+442079460958"},
        origin={"url": "https://example.com/landing", "utmSource": "newsletter"},
    )
