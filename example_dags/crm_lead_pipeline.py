"""Leads from a CSV file into the CRM, and one task for each way a task can end.

Runs against the sandbox (``make demo``): the addresses at ``sandbox.test`` misbehave there on purpose.
"""

from __future__ import annotations

import csv
from datetime import timedelta
from pathlib import Path
from typing import Any

from airflow.sdk import DAG, get_current_context, task

from crm_provider.operators.contacts import CrmUpsertContactOperator
from crm_provider.operators.deals import CrmCreateDealOperator, CrmMoveDealStageOperator
from crm_provider.operators.lists import CrmAddContactToListsOperator
from crm_provider.sensors.lists import CrmListMembershipSensor, CrmListSensor
from crm_provider.tasks import ERROR_XCOM

LEADS = Path(__file__).parent / "data" / "leads.csv"

# ids of the sandbox's pipeline "Sales", of its stages, and of the list "Trial users"
PIPELINE_ID = "a17480f5-9e08-57d0-801d-d7187ee171a3"
STAGE_NEW_ID = "af208b81-bd88-5854-93ac-f6eab446a750"
STAGE_QUALIFIED_ID = "f205c4c4-a1de-52c0-9029-b462466be9dd"
TRIAL_USERS_ID = "9d4d439f-864b-55df-9089-4eb32489179d"
MISSING_DEAL_ID = "00000000-0000-4000-8000-000000000000"


def cleaned(row: dict[str, str]) -> dict[str, Any]:
    """The arguments of one upsert, from a row that the sales team typed. Text stays text: 007 does not become 7."""
    cells = {name: " ".join(value.split()) for name, value in row.items() if value and value.strip()}
    attributes = {
        "name": cells.get("Name"),
        "phone": cells.get("Phone", "").replace(" ", "").replace("-", "") or None,
        "company": cells.get("Company"),
        "employees": cells.get("Employees"),
    }
    return {
        "contact_email": cells.get("Email", ""),
        "attributes": {name: value for name, value in attributes.items() if value is not None},
    }


with DAG(
    "crm_lead_pipeline",
    schedule=None,
    tags=["crm"],
    default_args={"retries": 2, "retry_delay": timedelta(seconds=2)},
    doc_md=__doc__,
):

    @task
    def read_leads() -> list[dict[str, Any]]:
        """One lead per address, in any case: the first row wins."""
        leads: dict[str, dict[str, Any]] = {}
        with LEADS.open(encoding="utf-8-sig", newline="") as file:
            for row in csv.DictReader(file):
                lead = cleaned(row)
                leads.setdefault(lead["contact_email"].lower(), lead)
        return list(leads.values())

    @task
    def addresses(leads: list[dict[str, Any]]) -> list[str]:
        return [lead["contact_email"] for lead in leads if "@" in lead["contact_email"]]

    leads = read_leads()
    emails = addresses(leads)

    # a malformed address skips only its own lead; the names in the grid do not contain addresses
    upsert_lead = CrmUpsertContactOperator.partial(
        task_id="upsert_lead",
        on_error={"CrmDataError": "skip"},
        map_index_template="{{ crm_result.outcome if crm_result is defined else 'lead ' ~ ti.map_index }}",
    ).expand_kwargs(leads)

    wait_for_list = CrmListSensor(task_id="wait_for_list", list_name="Trial users", poke_interval=2, timeout=60)

    # a skipped lead does not skip this task; the default trigger rule would
    add_to_list = CrmAddContactToListsOperator.partial(
        task_id="add_to_list",
        list_ids=[TRIAL_USERS_ID],
        trigger_rule="none_failed_min_one_success",
    ).expand(contact_email=emails)

    wait_for_members = CrmListMembershipSensor(
        task_id="wait_for_members",
        emails=emails,
        list_id=TRIAL_USERS_ID,
        mode="reschedule",
        poke_interval=3,
        timeout=120,
    )

    # retries, then succeeds: the CRM fails for some time
    retried = CrmUpsertContactOperator(
        task_id="retried_until_it_works",
        contact_email="outage@sandbox.test",
        attributes={"name": "Patience"},
    )
    create_deal = CrmCreateDealOperator(
        task_id="create_deal",
        contact_id="{{ ti.xcom_pull('retried_until_it_works')['id'] }}",
        pipeline_id=PIPELINE_ID,
        stage_id=STAGE_NEW_ID,
        attributes={"pb_name": "Trial", "pb_amount": "2500.00"},
    )
    move_deal = CrmMoveDealStageOperator(
        task_id="move_deal",
        deal_id="{{ ti.xcom_pull('create_deal')['id'] }}",
        stage_id=STAGE_QUALIFIED_ID,
    )

    # skips by the default table: this contact has a deal
    second_deal = CrmCreateDealOperator(
        task_id="skipped_by_default",
        contact_id="{{ ti.xcom_pull('retried_until_it_works')['id'] }}",
        pipeline_id=PIPELINE_ID,
        stage_id=STAGE_NEW_ID,
    )
    # skips by the on_error of this task
    missing_deal = CrmMoveDealStageOperator(
        task_id="skipped_by_on_error",
        deal_id=MISSING_DEAL_ID,
        stage_id=STAGE_QUALIFIED_ID,
        on_error={"DEAL_NOT_FOUND": "skip"},
    )
    # fails at the first try in spite of retries: the same values would get the same response
    refused = CrmUpsertContactOperator(
        task_id="failed_without_a_retry",
        contact_email="invalid@sandbox.test",
        attributes={"name": "Refused"},
    )

    @task(trigger_rule="all_done", retries=0, multiple_outputs=False)
    def report() -> dict[str, int]:
        """Report how many leads were written, and why each other task ended in its state."""
        ti = get_current_context()["ti"]
        results = [result for result in ti.xcom_pull(task_ids="upsert_lead") or [] if result]
        counts = {name: sum(r["outcome"] == name for r in results) for name in ("created", "updated", "unchanged")}
        print(f"leads: {counts}")
        for ended in (second_deal, missing_deal, refused):
            error = ti.xcom_pull(task_ids=ended.task_id, key=ERROR_XCOM)
            print(f"{ended.task_id}: {error['action']} because of {error['type']}: {error['suggested_action']}")
        return counts

    done = report()
    [upsert_lead, wait_for_list] >> add_to_list >> wait_for_members >> done
    retried >> create_deal >> move_deal >> second_deal >> done
    [missing_deal, refused] >> done
