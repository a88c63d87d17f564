"""A load that rejects rows, the rows that may succeed later sent again, and what each row became.

Runs against the sandbox (``make demo``): the addresses at ``sandbox.test`` misbehave there on purpose.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from airflow.sdk import DAG, Param

from crm_provider.operators.load import CrmLoadContactsOperator, CrmRetryRejectsOperator

MAPPING = {"email": "email", "name": "name", "company": "company"}

ROWS = [
    {"email": "ada@example.com", "name": "Ada King", "company": "Analytical Engines"},
    {"email": "hedy@example.com", "name": "Hedy Lamarr", "company": "Hop & Co"},
    {"email": "annie@example.com", "name": "Annie Easley", "company": "Centaur"},
    {"email": "outage+load@sandbox.test", "name": "Out for now", "company": "Later"},  # may succeed as it is
    {"email": "invalid+load@sandbox.test", "name": "Refused", "company": "Never"},  # the CRM refuses it
    {"email": "no-address", "name": "Nobody", "company": ""},  # is not sent
    {"email": "unsubscribed@example.com", "name": "Carlos", "company": ""},
]

with DAG(
    "crm_loads",
    schedule=None,
    tags=["crm"],
    doc_md=__doc__,
    # a folder that all workers share
    params={"folder": Param(str(Path(tempfile.gettempdir(), "crm_loads")), type="string")},
    max_active_runs=1,
):
    load = CrmLoadContactsOperator(
        task_id="load",
        source=ROWS,
        mapping=MAPPING,
        suppression=["unsubscribed@example.com"],
        max_rejects="50%",
        rejects_path="{{ params.folder }}/rejects-{{ run_id }}.jsonl",
    )
    resend = CrmRetryRejectsOperator(
        task_id="resend",
        rejects="{{ ti.xcom_pull('load')['rejects_path'] }}",
        only="retryable",
        mapping=MAPPING,
    )
    load >> resend
