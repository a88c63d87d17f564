"""Extracts five fields of all contacts into a compressed CSV file."""

from __future__ import annotations

import tempfile
from pathlib import Path

from airflow.sdk import DAG, Param

from crm_provider.operators.extract import CrmExtractContactsOperator

with DAG(
    "crm_extract_contacts",
    schedule=None,
    params={"folder": Param(str(Path(tempfile.gettempdir(), "crm")), type="string")},
    default_args={"retries": 3},
    max_active_runs=1,
):
    CrmExtractContactsOperator(
        task_id="extract_contacts",
        target="{{ params.folder }}/contacts.csv.gz",  # or s3://conn_id@bucket/contacts.csv.gz
        fields=["id", "email", "status", "attributes.name", "attributes.phone"],
    )
