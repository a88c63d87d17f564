"""Moves the deals of a list to the stages in its rows."""

from __future__ import annotations

import tempfile
from pathlib import Path

from airflow.sdk import DAG, Param

from crm_provider.operators.load import CrmLoadDealsOperator

WON = "9c22b25c-bf18-5376-b8d2-a9dc563ef7fa"  # stages and deals of the sandbox: replace with your own
NEW = "af208b81-bd88-5854-93ac-f6eab446a750"

with DAG(
    "crm_load_deals",
    schedule=None,
    params={"folder": Param(str(Path(tempfile.gettempdir(), "crm")), type="string")},
    default_args={"retries": 3},
    max_active_runs=1,
):
    CrmLoadDealsOperator(
        task_id="load_deals",
        source=[  # or files, or the result of another task
            {"deal": "28e755f9-af39-59fe-8b9c-13be9e47d8ee", "stage": WON, "worth": "1200.50"},
            {"deal": "00000000-0000-4000-8000-000000000000", "stage": WON, "worth": "80"},
        ],
        mapping={"deal_id": "deal", "stage_id": "stage", "pb_amount": {"column": "worth", "type": "number"}},
        mode="update",
        only_from_stages=[NEW],
        max_rejects=1,
        rejects_path="{{ params.folder }}/deals-{{ run_id }}.jsonl",
    )
