"""Starts when contacts join a list, and creates a deal for each of them."""

from __future__ import annotations

from airflow.sdk import DAG, Asset, AssetWatcher, task

from crm_provider.operators.deals import CrmCreateDealOperator
from crm_provider.triggers.watch import CrmListJoinedTrigger

# ids of the sandbox: replace them with your own, which the CRM's web app shows
TRIAL_USERS = "9d4d439f-864b-55df-9089-4eb32489179d"
PIPELINE = "a17480f5-9e08-57d0-801d-d7187ee171a3"
FIRST_STAGE = "af208b81-bd88-5854-93ac-f6eab446a750"

joined = Asset(
    "crm_trial_users",
    watchers=[AssetWatcher(name="joined", trigger=CrmListJoinedTrigger(list_id=TRIAL_USERS, poke_interval=60))],
)

with DAG("crm_list_watcher", schedule=joined, tags=["crm"], default_args={"retries": 3}):

    @task
    def newcomers(triggering_asset_events=None):
        """Ids of the contacts, each once: a run may have several events, and an event may be repeated after a crash."""
        events = [event for found in triggering_asset_events.values() for event in found]
        payloads = [event.extra["payload"] for event in events]
        return sorted({contact_id for payload in payloads for contact_id in payload["contact_ids"]})

    deals = CrmCreateDealOperator.partial(
        task_id="create_deal",
        pipeline_id=PIPELINE,
        stage_id=FIRST_STAGE,
        attributes={"pb_name": "Trial"},
    ).expand(contact_id=newcomers())  # a contact that already has a deal is skipped

    @task(trigger_rule="none_failed")  # with the default rule, one skipped deal would skip this task, too
    def count(results) -> int:
        """How many deals were created."""
        return len(list(results))

    count(deals.output)
