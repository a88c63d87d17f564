"""Waits until a deal is in one of two stages."""

from __future__ import annotations

from airflow.sdk import DAG, Param

from crm_provider.sensors.deals import CrmDealStageSensor

# of the sandbox: replace with your own
NEW, QUALIFIED = "af208b81-bd88-5854-93ac-f6eab446a750", "f205c4c4-a1de-52c0-9029-b462466be9dd"

with DAG(
    "crm_deal_stage",
    schedule=None,
    params={"deal_id": Param("28e755f9-af39-59fe-8b9c-13be9e47d8ee", type="string", format="uuid")},
    default_args={"retries": 2},
):
    CrmDealStageSensor(
        task_id="deal_stage",
        deal_id="{{ params.deal_id }}",
        stage_ids=[NEW, QUALIFIED],
        deferrable=True,
        timeout=24 * 3600,
    )
