"""A load, and a task that sends its retryable rejected rows again."""

from __future__ import annotations

import tempfile
from pathlib import Path

from airflow.sdk import DAG, Param

from crm_provider.operators.load import CrmLoadContactsOperator, CrmRetryRejectsOperator

LEADS = Path(__file__).parents[1] / "data" / "newsletter.csv"
MAPPING = {"email": "E-mail", "name": "Nome"}

with DAG(
    "crm_retry_rejects",
    schedule=None,
    params={"folder": Param(str(Path(tempfile.gettempdir(), "crm")), type="string")},
    default_args={"retries": 3},
    max_active_runs=1,
):
    load = CrmLoadContactsOperator(
        task_id="load_contacts",
        source=str(LEADS),
        mapping=MAPPING,
        max_rejects="50%",
        rejects_path="{{ params.folder }}/rejects-{{ run_id }}.jsonl",
    )
    retry = CrmRetryRejectsOperator(
        task_id="retry_rejects",
        rejects="{{ ti.xcom_pull('load_contacts')['rejects_path'] }}",
        mapping=MAPPING,
        rejects_path="{{ params.folder }}/rejects-{{ run_id }}-again.jsonl",
    )
    load >> retry
