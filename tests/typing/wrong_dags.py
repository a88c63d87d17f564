"""Mistakes that a type checker finds. A line with ``# E: text`` has an error with this text, each other line has none.

``tests/unit/test_typing.py`` checks this file; it is never run.
"""

from __future__ import annotations

from crm_provider import errors as e
from crm_provider.hooks.crm import CrmHook
from crm_provider.operators.automations import CrmTriggerAutomationOperator
from crm_provider.operators.contacts import CrmDeleteContactOperator, CrmUpsertContactOperator, CrmVerifyEmailOperator
from crm_provider.operators.deals import CrmCreateDealOperator, CrmMoveDealStageOperator
from crm_provider.operators.extract import CrmExtractContactsOperator
from crm_provider.operators.lists import CrmAddContactToListsOperator
from crm_provider.operators.load import CrmLoadContactsOperator, CrmRetryRejectsOperator
from crm_provider.sensors.contacts import CrmContactSensor
from crm_provider.sensors.deals import CrmDealStageSensor
from crm_provider.sensors.lists import CrmListMembershipSensor, CrmListSensor
from crm_provider.transfers.crm_to_sql import CrmToSqlOperator
from crm_provider.transfers.sql_to_crm import SqlToCrmContactsOperator
from crm_provider.triggers.watch import CrmListJoinedTrigger

# misspelt names
CrmUpsertContactOperator(task_id="t", contact_email="a", atributes={})  # E: "atributes" for "CrmUpsertContactOperator"
CrmUpsertContactOperator(task_id="t", contact_email="a", retires=3)  # E: "retires" for "CrmUpsertContactOperator"
CrmCreateDealOperator(task_id="t", contact_id="c", pipeline_id="p", stage_id="s", on_eror={})  # E: "on_eror"
CrmLoadContactsOperator(task_id="t", source="a.csv", rejects_pth="r.csv")  # E: "rejects_pth"
CrmRetryRejectsOperator(task_id="t", rejects="r.csv", maping={})  # E: "maping"
SqlToCrmContactsOperator(task_id="t", sql="q", sql_conn_id="d", list_id="l")  # E: "list_id"
CrmExtractContactsOperator(task_id="t", target="c.csv", field=[])  # E: "field" for "CrmExtractContactsOperator"
CrmListSensor(task_id="t", list_nam="Trial")  # E: "list_nam"
CrmContactSensor(task_id="t", contact_email="a", poke_intervall=3)  # E: "poke_intervall"
CrmListJoinedTrigger(list_id="l", interval=60)  # E: "interval"

# what is gone, or another operator's
CrmDeleteContactOperator(task_id="t", email="ada@example.com")  # E: Missing named argument "contact_email"
CrmLoadContactsOperator(task_id="t", source="a.csv", compare="crm")  # E: "compare"
CrmLoadContactsOperator(task_id="t", source="a.csv", state_path="s", changed_only=True)  # E: "changed_only"
CrmLoadContactsOperator(task_id="t", source="a.csv", check_timeout=False)  # E: "check_timeout"
CrmLoadContactsOperator(task_id="t", source="a.csv", plan="create_first")  # E: "Literal['create_first']"
CrmUpsertContactOperator(task_id="t", contact_email="a", poke_interval=3)  # E: "poke_interval"

# missing
CrmVerifyEmailOperator(contact_email="a")  # E: Missing named argument "task_id"
CrmMoveDealStageOperator(task_id="t", deal_id="d")  # E: Missing named argument "stage_id"
CrmTriggerAutomationOperator(task_id="t", webhook_id="w", channel_uid="c", contact_email="a")  # E: "workflow_id"

# wrong values
CrmUpsertContactOperator(task_id="t", contact_email="a", mode="insert")  # E: "Literal['insert']"
CrmUpsertContactOperator(task_id="t", contact_email=1)  # E: "contact_email" to "CrmUpsertContactOperator"
CrmAddContactToListsOperator(task_id="t", contact_email="a", list_ids=7)  # E: "list_ids"
CrmLoadContactsOperator(task_id="t", source="a.csv", mode="insert")  # E: "Literal['insert']"
CrmLoadContactsOperator(task_id="t", source="a.csv", duplicates="newest")  # E: "Literal['newest']"
CrmLoadContactsOperator(task_id="t", source="a.csv", max_rejects=0.1)  # E: "max_rejects"
CrmToSqlOperator(task_id="t", listing="deals", sql_conn_id="d", table="t", mode="insert")  # E: "Literal['insert']"
CrmExtractContactsOperator(task_id="t", target="c.csv", changes_since="first")  # E: "Literal['first']"
CrmExtractContactsOperator(task_id="t", target="c.csv", if_changed="ignore")  # E: "Literal['ignore']"
CrmDealStageSensor(task_id="t", deal_id="d", stage_ids="s", until="out")  # E: "Literal['out']"
CrmListMembershipSensor(task_id="t", emails="a", list_id="l", mode="wait")  # E: "Literal['wait']"

# on_error
CrmMoveDealStageOperator(task_id="t", deal_id="d", stage_id="s", on_error={"DEAL_NOT_FOUND": "ignore"})  # E: 'ignore'
CrmMoveDealStageOperator(task_id="t", deal_id="d", stage_id="s", on_error={"DEAL_NOT_FOUND": "wait"})  # E: 'wait'
CrmMoveDealStageOperator(task_id="t", deal_id="d", stage_id="s", on_error={404: "skip"})  # E: "int"
CrmMoveDealStageOperator(task_id="t", deal_id="d", stage_id="s", on_error={ValueError: "skip"})  # E: ValueError
CrmLoadContactsOperator(task_id="t", source="a.csv", on_error={"INVALID_INPUT": "wait"})  # E: 'wait'
CrmListSensor(task_id="t", list_id="l", on_error={e.CrmNotFoundError: "reject"})  # E: 'reject'
CrmListSensor(task_id="t", list_id="l", on_error="skip")  # E: "on_error"

# mapped tasks
CrmUpsertContactOperator.partial(task_id="t", atributes={})  # E: "atributes" for "partial"
CrmUpsertContactOperator.partial(contact_email="a")  # E: Missing named argument "task_id"
CrmMoveDealStageOperator.partial(task_id="t", stage_id=1)  # E: "stage_id"
CrmLoadContactsOperator.partial(task_id="t", rejects_pth="r.csv")  # E: "rejects_pth"
CrmLoadContactsOperator.partial(task_id="t", on_error={"INVALID_INPUT": "ignore"})  # E: 'ignore'
CrmExtractContactsOperator.partial(task_id="t", fields=1)  # E: "fields"
CrmContactSensor.partial(task_id="t", mode="insert")  # E: "Literal['insert']"
CrmListSensor.partial(task_id="t", list_nam="Trial")  # E: "list_nam"
CrmHook().load_contacts([], max_reject=1)  # E: "max_reject"
CrmHook().load_deals([], mode="upsrt")  # E: "Literal['upsrt']"
CrmHook().load_deals([], list_ids=["a"])  # E: "list_ids"
