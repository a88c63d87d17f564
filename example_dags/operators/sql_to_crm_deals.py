"""Creates deals from the rows of a query."""

from __future__ import annotations

import tempfile
from pathlib import Path

from airflow.sdk import DAG, Param

from crm_provider.transfers.sql_to_crm import SqlToCrmDealsOperator

with DAG(
    "crm_sql_to_crm_deals",
    schedule=None,
    params={"folder": Param(str(Path(tempfile.gettempdir(), "crm")), type="string")},
    default_args={"retries": 3},
    max_active_runs=1,
):
    SqlToCrmDealsOperator(
        task_id="sql_to_crm_deals",
        sql="SELECT email, title, worth FROM offers ORDER BY id",
        sql_conn_id="warehouse",
        mapping={  # pipeline and stage of the sandbox: replace with your own
            "contact_email": "email",
            "pipeline_id": {"constant": "a17480f5-9e08-57d0-801d-d7187ee171a3"},
            "stage_id": {"constant": "af208b81-bd88-5854-93ac-f6eab446a750"},
            "pb_name": "title",
            "pb_amount": {"column": "worth", "type": "number"},
        },
        mode="create",
        rejects_path="{{ params.folder }}/offers-{{ run_id }}.jsonl",
    )
