"""Assumptions about lists, deals, email verification and the developer mode."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest
from contract_accounts import LIST, PIPELINE, STAGES, VERIFY, Account, content, shape, unwrapped

Record = Callable[..., None]

OK = range(200, 300)
CHECKS = 5
"""Reads of a contact, one second apart, until it shows its membership."""


def test_add_to_list_shows_the_membership(account: Account, record: Record) -> None:
    if not account.known.list_id:
        pytest.skip(f"{LIST} does not name a list for the test")
    email, list_id = account.new_email(), account.known.list_id
    account.client.create_contact(email)
    response = account.ask("POST", "/segments/add-contact/{email}", email=email, body={"segmentedListsIds": [list_id]})
    record("response to adding to a list", f"{response.status} {shape(content(response))}", holds=response.status in OK)
    for check in range(CHECKS):
        if list_id in (account.client.get_contact(email).get("segmentedListsIds") or []):
            record("delay until a contact shows a membership", f"within {check + 1} s" if check else "at once")
            return
        time.sleep(1)
    record("delay until a contact shows a membership", f"after more than {CHECKS} s")


def test_deal_is_created_moved_and_deleted(account: Account, record: Record) -> None:
    if not account.known.pipeline_id or len(account.known.stage_ids) < 2:
        pytest.skip(f"{PIPELINE} and {STAGES} must name a pipeline and two of its stages")
    first, second = account.known.stage_ids[:2]
    contact_id = account.client.create_contact(account.new_email())["id"]
    deal_id = account.client.create_deal(
        contact_id=contact_id,
        pipeline_id=account.known.pipeline_id,
        stage_id=first,
        attributes={"pb_name": "contract", "pb_amount": "1200.50"},
    )["id"]
    account.note_deal(deal_id)
    account.client.move_deal(deal_id, stage_id=second)
    response = account.ask("GET", "/deals/{deal_id}", deal_id=deal_id)
    deal = unwrapped(response)
    fields = {"id", "contactId", "pipelineId", "stageId", "attributes"}
    record("fields of a deal", shape(deal), holds=isinstance(deal, dict) and fields <= deal.keys())
    assert deal.get("stageId") == second
    amount = (deal.get("attributes") or {}).get("pb_amount")
    kept = amount == "1200.50"
    record("`pb_amount`", "as it was sent" if kept else f"a {type(amount).__name__}, another value", holds=kept)
    deleted = account.ask("DELETE", "/deals/{deal_id}", deal_id=deal_id).status
    record("paths of deals", f"GET {response.status}, DELETE {deleted}", holds=response.status in OK and deleted in OK)


def test_verify_email_succeeds(account: Account, record: Record) -> None:
    if not account.known.verify:
        pytest.skip(f"a verification may cost credits; allow it with {VERIFY}=1")
    response = account.ask("POST", "/email-verification/{email}", email=account.new_email())
    record(
        "response to an email verification",
        f"{response.status} {shape(content(response))}",
        holds=response.status in OK,
    )


def test_developer_mode_leaves_production_unchanged(account: Account, record: Record) -> None:
    email = account.new_email()
    fake = account.settings.with_(developer_mode=True)
    made = account.ask("POST", "/contacts", body={"email": email}, settings=fake)
    read = account.ask("GET", "/contacts/{email}", email=email, settings=fake)
    real = account.ask("GET", "/contacts/{email}", email=email)
    saw = f"POST {made.status}, GET {read.status} with it; without it GET {real.status}"
    record("developer mode", saw, holds=made.status in OK and read.status in OK and real.status == 404)
