"""Starts an automation for a contact."""

from __future__ import annotations

from airflow.sdk import DAG

from crm_provider.operators.automations import CrmTriggerAutomationOperator

with DAG("crm_trigger_automation", schedule=None, default_args={"retries": 3}):
    CrmTriggerAutomationOperator(
        task_id="trigger_automation",
        webhook_id="{{ var.value.crm_webhook_id }}",
        channel_uid="{{ var.value.crm_channel_uid }}",
        workflow_id="{{ var.value.crm_workflow_id }}",
        contact_email="ada@example.com",
        fields={"plan": "trial"},
    )
