"""Extracts all segmentation lists into a CSV file."""

from __future__ import annotations

import tempfile
from pathlib import Path

from airflow.sdk import DAG, Param

from crm_provider.operators.extract import CrmExtractListsOperator

with DAG(
    "crm_extract_lists",
    schedule=None,
    params={"folder": Param(str(Path(tempfile.gettempdir(), "crm")), type="string")},
    default_args={"retries": 3},
    max_active_runs=1,
):
    CrmExtractListsOperator(
        task_id="extract_lists",
        target="{{ params.folder }}/lists.csv",  # or s3://conn_id@bucket/lists.csv
    )
