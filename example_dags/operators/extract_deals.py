"""Extracts all deals, unchanged, as JSON lines."""

from __future__ import annotations

import tempfile
from pathlib import Path

from airflow.sdk import DAG, Param

from crm_provider.operators.extract import CrmExtractDealsOperator

with DAG(
    "crm_extract_deals",
    schedule=None,
    params={"folder": Param(str(Path(tempfile.gettempdir(), "crm")), type="string")},
    default_args={"retries": 3},
    max_active_runs=1,
):
    CrmExtractDealsOperator(
        task_id="extract_deals",
        target="{{ params.folder }}/deals.jsonl",  # or s3://conn_id@bucket/deals.jsonl
    )
