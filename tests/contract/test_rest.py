"""What is assumed about lists, deals, email verification and the developer mode."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest
from contract_accounts import LIST, PIPELINE, STAGES, VERIFY, Account, content, shape, unwrapped

Learn = Callable[..., None]

OK = range(200, 300)
LOOKS = 5
"""At a contact, a second apart, until a membership shows."""


def test_adding_to_a_list(account: Account, learn: Learn) -> None:
    if not account.known.list_id:
        pytest.skip(f"{LIST} does not name a list that contacts may be added to")
    email, list_id = account.new_email(), account.known.list_id
    account.client.create_contact(email)
    answer = account.ask("POST", "/segments/add-contact/{email}", email=email, body={"segmentedListsIds": [list_id]})
    learn("answer to adding to a list", f"{answer.status} {shape(content(answer))}", holds=answer.status in OK)
    for look in range(LOOKS):
        if list_id in (account.client.get_contact(email).get("segmentedListsIds") or []):
            learn("when a membership shows", f"within {look + 1} s" if look else "at once")
            return
        time.sleep(1)
    learn("when a membership shows", f"later than after {LOOKS} s")


def test_the_life_of_a_deal(account: Account, learn: Learn) -> None:
    if not account.known.pipeline_id or len(account.known.stage_ids) < 2:
        pytest.skip(f"{PIPELINE} and {STAGES} do not name a pipeline and two of its stages")
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
    answer = account.ask("GET", "/deals/{deal_id}", deal_id=deal_id)
    deal = unwrapped(answer)
    fields = {"id", "contactId", "pipelineId", "stageId", "attributes"}
    learn("fields of a deal", shape(deal), holds=isinstance(deal, dict) and fields <= deal.keys())
    assert deal.get("stageId") == second
    amount = (deal.get("attributes") or {}).get("pb_amount")
    kept = amount == "1200.50"
    learn("`pb_amount`", "as it was sent" if kept else f"a {type(amount).__name__}, otherwise", holds=kept)
    deleted = account.ask("DELETE", "/deals/{deal_id}", deal_id=deal_id).status
    learn("paths of deals", f"GET {answer.status}, DELETE {deleted}", holds=answer.status in OK and deleted in OK)


def test_email_verification(account: Account, learn: Learn) -> None:
    if not account.known.verify:
        pytest.skip(f"it may cost credits: {VERIFY}=1 allows it")
    answer = account.ask("POST", "/email-verification/{email}", email=account.new_email())
    learn("answer to an email verification", f"{answer.status} {shape(content(answer))}", holds=answer.status in OK)


def test_developer_mode(account: Account, learn: Learn) -> None:
    email = account.new_email()
    fake = account.settings.with_(developer_mode=True)
    made = account.ask("POST", "/contacts", body={"email": email}, settings=fake)
    read = account.ask("GET", "/contacts/{email}", email=email, settings=fake)
    real = account.ask("GET", "/contacts/{email}", email=email)
    saw = f"POST {made.status}, GET {read.status} with it; without it GET {real.status}"
    learn("developer mode", saw, holds=made.status in OK and read.status in OK and real.status == 404)
