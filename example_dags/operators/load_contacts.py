"""Loads a file of contacts into the CRM."""

from __future__ import annotations

import tempfile
from pathlib import Path

from airflow.sdk import DAG, Param

from crm_provider.operators.load import CrmLoadContactsOperator

LEADS = Path(__file__).parents[1] / "data" / "newsletter.csv"

with DAG(
    "crm_load_contacts",
    schedule=None,
    params={
        "source": Param(str(LEADS), type="string"),
        "folder": Param(str(Path(tempfile.gettempdir(), "crm")), type="string"),
    },
    default_args={"retries": 3},
    max_active_runs=1,
):
    CrmLoadContactsOperator(
        task_id="load_contacts",
        source="{{ params.source }}",  # or s3://conn_id@bucket/leads-{{ dag_run.run_after | ds }}.csv.gz
        mapping={
            "email": "E-mail",
            "name": "Nome",
            "phone": {"column": "Telefone", "type": "phone", "region": "BR"},
        },
        max_rejects="20%",
        rejects_path="{{ params.folder }}/rejects-{{ run_id }}.jsonl",
        state_path="{{ params.folder }}/leads.state",
    )
