"""Loads the rows of a query as contacts."""

from __future__ import annotations

import tempfile
from pathlib import Path

from airflow.sdk import DAG, Param

from crm_provider.transfers.sql_to_crm import SqlToCrmContactsOperator

with DAG(
    "crm_sql_to_crm_contacts",
    schedule=None,
    params={"folder": Param(str(Path(tempfile.gettempdir(), "crm")), type="string")},
    default_args={"retries": 3},
    max_active_runs=1,
):
    SqlToCrmContactsOperator(
        task_id="sql_to_crm_contacts",
        sql="SELECT email, first_name, phone FROM customers ORDER BY id",
        sql_conn_id="warehouse",
        mapping={
            "email": "email",
            "name": "first_name",
            "phone": {"column": "phone", "type": "phone"},
        },
        rejects_path="{{ params.folder }}/customers-{{ run_id }}.jsonl",
    )
