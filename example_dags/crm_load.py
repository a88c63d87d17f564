"""Loads a file of contacts into the CRM: checks and maps it, sends it with few calls, and keeps the rejected rows."""

from __future__ import annotations

import tempfile
from pathlib import Path

from airflow.sdk import DAG, Param

from crm_provider.operators.load import CrmLoadContactsOperator, CrmRetryRejectsOperator

DATA = Path(__file__).parent / "data"

MAPPING = {
    "email": "E-mail",
    "name": "Nome",
    "phone": {"column": "Telefone", "type": "phone"},
    "company": "Empresa",
    "origin.utmSource": {"constant": "newsletter"},
}

with DAG(
    "crm_load",
    schedule=None,
    tags=["crm"],
    # a folder that all workers share, because rejects and state are files
    params={"folder": Param(str(Path(tempfile.gettempdir(), "crm_load")), type="string")},
    default_args={"retries": 3},
    max_active_runs=1,
):
    load = CrmLoadContactsOperator(
        task_id="load",
        source=str(DATA / "newsletter.csv"),
        mapping=MAPPING,
        region="BR",
        suppression=["unsubscribed@example.com"],
        max_rejects="20%",
        rejects_path="{{ params.folder }}/rejects-{{ run_id }}.csv",
        state_path="{{ params.folder }}/newsletter.state",
    )
    retry = CrmRetryRejectsOperator(
        task_id="retry_later",
        rejects="{{ ti.xcom_pull('load')['rejects_path'] }}",
        only="retryable",
        mapping=MAPPING,
        region="BR",
    )
    load >> retry
