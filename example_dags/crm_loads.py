"""A load that rejects rows, a second load that sends the retryable rows again, and a load of deals.

Runs against the sandbox (``make demo``): the addresses at ``sandbox.test`` misbehave there on purpose.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from airflow.sdk import DAG, Param

from crm_provider.operators.load import CrmLoadContactsOperator, CrmLoadDealsOperator, CrmRetryRejectsOperator

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

# ids of the sandbox: a deal of its contact ada@example.com, a missing deal, and the stage "Qualified"
DEALS = [
    {"deal": "28e755f9-af39-59fe-8b9c-13be9e47d8ee", "worth": "1450.00"},
    {"deal": "00000000-0000-4000-8000-000000000000", "worth": "80.00"},
]
STAGE_QUALIFIED_ID = "f205c4c4-a1de-52c0-9029-b462466be9dd"

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
    deals = CrmLoadDealsOperator(
        task_id="load_deals",
        source=DEALS,
        mapping={
            "deal_id": "deal",
            "stage_id": {"constant": STAGE_QUALIFIED_ID},
            "pb_amount": {"column": "worth", "type": "number"},
        },
        mode="update",
        max_rejects=1,
        rejects_path="{{ params.folder }}/deals-{{ run_id }}.jsonl",
    )
    load >> resend >> deals
