"""Moves a deal to another stage."""

from __future__ import annotations

from airflow.sdk import DAG, Param

from crm_provider.operators.deals import CrmMoveDealStageOperator

UUID = {"type": "string", "format": "uuid"}

with DAG(
    "crm_move_deal_stage",
    schedule=None,
    params={  # of the sandbox: replace with your own
        "deal_id": Param("28e755f9-af39-59fe-8b9c-13be9e47d8ee", **UUID),
        "stage_id": Param("f205c4c4-a1de-52c0-9029-b462466be9dd", **UUID),
    },
    default_args={"retries": 3},
):
    CrmMoveDealStageOperator(
        task_id="move_deal_stage",
        deal_id="{{ params.deal_id }}",
        stage_id="{{ params.stage_id }}",
        on_error={"DEAL_NOT_FOUND": "skip"},
    )
