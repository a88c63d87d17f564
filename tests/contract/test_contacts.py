"""Assumptions about contacts."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Any

import pytest
from contract_accounts import Account, content, shape, unwrapped

from crm_provider import errors as e

Record = Callable[..., None]

PHONE = "+5531999999999"
OK = range(200, 300)


def test_contact_is_created_updated_and_deleted(account: Account, record: Record) -> None:
    email = account.new_email()
    with pytest.raises(e.CrmContactNotFoundError):
        account.client.get_contact(email)
    outcomes = [account.client.upsert_contact(email, attributes={"name": name})["outcome"] for name in ("Ann", "Anna")]
    outcomes.append(account.client.upsert_contact(email)["outcome"])
    assert outcomes == ["created", "updated", "unchanged"]
    with pytest.raises(e.CrmContactAlreadyExistsError):
        account.client.create_contact(email, attributes={"name": "Bob"})
    contact = account.client.get_contact(email)
    assert contact["attributes"]["name"] == "Anna"
    account.client.delete_contact(email)
    with pytest.raises(e.CrmContactNotFoundError):
        account.client.update_contact(email, attributes={"name": "Ann"})


def test_create_contact_returns_an_id(account: Account, record: Record) -> None:
    response = account.ask("POST", "/contacts", body={"email": account.new_email(), "attributes": {"name": "Ann"}})
    record("status of a creation", str(response.status), holds=response.status in OK)
    _record_envelope(record, content(response), "id")
    made = unwrapped(response)
    record("response to a creation", shape(content(response)), holds=isinstance(made, dict) and bool(made.get("id")))


def _record_envelope(record: Record, parsed: Any, name: str) -> None:
    wrapped = isinstance(parsed, dict) and isinstance(parsed.get("data"), dict) and name in parsed["data"]
    flat = isinstance(parsed, dict) and name in parsed
    where = "under `data`" if wrapped else "at the top level" if flat else f"neither: {shape(parsed)}"
    record("success envelope", where, holds=wrapped or flat)


def test_update_contact_keeps_other_attributes(account: Account, record: Record) -> None:
    email = account.new_email()
    account.client.create_contact(email, attributes={"name": "Ann", "phone": PHONE})
    response = account.ask("PUT", "/contacts/{email}", email=email, body={"name": "Anna"})
    parsed = content(response)
    fine = response.status in OK and (not response.body or isinstance(parsed, dict))
    record("response to an update", f"{response.status} {shape(parsed)}", holds=fine)
    found = account.client.get_contact(email)["attributes"]
    written = found.get("name") == "Anna"
    record("attributes in an update", "the value is there" if written else f"it is not: {shape(found)}", holds=written)
    kept = "phone" in found
    record("update keeps fields that are not sent", "it is kept" if kept else "it is gone", holds=kept)
    same = found.get("phone") == PHONE
    record("form of a phone number", "as it was sent" if same else "in another form", holds=same if kept else None)


def test_update_with_unknown_attribute(account: Account, record: Record) -> None:
    email = account.new_email()
    account.client.create_contact(email)
    response = account.ask("PUT", "/contacts/{email}", email=email, body={"no_such_field_of_ours": "x"})
    shown = account.client.get_contact(email).get("attributes") or {}
    stored = "stored" if "no_such_field_of_ours" in shown else "not stored"
    record("attribute that does not exist", f"{response.status} {shape(content(response))}; {stored}")


def test_delete_contact_frees_the_address(account: Account, record: Record) -> None:
    email = account.new_email()
    account.client.create_contact(email)
    responses = [account.ask("DELETE", "/contacts/{email}", email=email) for _ in range(2)]
    record(
        "response to a deletion",
        f"{responses[0].status} {shape(content(responses[0]))}",
        holds=responses[0].status in OK,
    )
    gone = account.ask("GET", "/contacts/{email}", email=email).status == 404
    record("path of a deletion", "the contact is gone" if gone else "the contact is still there", holds=gone)
    record("deleting twice", f"{responses[1].status} {shape(content(responses[1]))}", holds=responses[1].status == 404)
    again = account.ask("POST", "/contacts", body={"email": email})
    record("creating after deleting", f"{again.status} {shape(content(again))}", holds=again.status in OK)


def test_email_in_lower_case(account: Account, record: Record) -> None:
    email = account.new_email("-Case")
    account.client.create_contact(email)
    found = account.ask("GET", "/contacts/{email}", email=email.lower()).status in OK
    kept = account.client.get_contact(email)["email"] == email
    shown = "shown as given" if kept else "shown in another form"
    record("letter case of an email", f"{'the same contact' if found else 'another contact'} in lower case; {shown}")


def test_email_with_a_plus(account: Account, record: Record) -> None:
    email = account.new_email("+tag")
    account.client.create_contact(email)
    found = account.ask("GET", "/contacts/{email}", email=email)
    contact = unwrapped(found)
    same = isinstance(contact, dict) and contact.get("email") == email
    record("a `+` in an email", f"{found.status}, {'the same' if same else 'not the same'} address", holds=same)


def test_contact_fields_have_the_assumed_types(account: Account, record: Record) -> None:
    email = account.new_email()
    account.client.create_contact(email)
    contact = account.client.get_contact(email)
    created = str(contact.get("createdAt"))
    try:
        datetime.fromisoformat(created.replace("Z", "+00:00"))
    except ValueError:
        record("`createdAt`", shape(contact.get("createdAt")), holds=None if "createdAt" not in contact else False)
    else:
        record("`createdAt`", "an ISO 8601 time", holds=True)
    lists = contact.get("segmentedListsIds")
    record("membership on a contact", shape(lists), holds=isinstance(lists, list))
