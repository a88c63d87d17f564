"""Deletes the contacts who asked for it."""

from __future__ import annotations

import tempfile
from pathlib import Path

from airflow.sdk import DAG, Param

from crm_provider.operators.load import CrmDeleteContactsOperator

with DAG(
    "crm_delete_contacts",
    schedule=None,
    params={"folder": Param(str(Path(tempfile.gettempdir(), "crm")), type="string")},
    default_args={"retries": 3},
    max_active_runs=1,
):
    CrmDeleteContactsOperator(
        task_id="delete_contacts",
        source=[{"email": "Ken@Example.com"}, {"email": "nobody@example.com"}],  # or files
        max_deletes=10,
        report_path="{{ params.folder }}/erasure-{{ run_id }}.md",
    )
