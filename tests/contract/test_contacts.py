"""What is assumed about contacts."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Any

import pytest
from contract_accounts import Account, content, shape, unwrapped

from crm_provider import errors as e

Learn = Callable[..., None]

PHONE = "+5531999999999"
OK = range(200, 300)


def test_the_life_of_a_contact(account: Account, learn: Learn) -> None:
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


def test_a_creation(account: Account, learn: Learn) -> None:
    answer = account.ask("POST", "/contacts", body={"email": account.new_email(), "attributes": {"name": "Ann"}})
    learn("status of a creation", str(answer.status), holds=answer.status in OK)
    _learn_envelope(learn, content(answer), "id")
    made = unwrapped(answer)
    learn("answer to a creation", shape(content(answer)), holds=isinstance(made, dict) and bool(made.get("id")))


def _learn_envelope(learn: Learn, parsed: Any, name: str) -> None:
    wrapped = isinstance(parsed, dict) and isinstance(parsed.get("data"), dict) and name in parsed["data"]
    flat = isinstance(parsed, dict) and name in parsed
    where = "under `data`" if wrapped else "at the top level" if flat else f"neither: {shape(parsed)}"
    learn("success envelope", where, holds=wrapped or flat)


def test_an_update(account: Account, learn: Learn) -> None:
    email = account.new_email()
    account.client.create_contact(email, attributes={"name": "Ann", "phone": PHONE})
    answer = account.ask("PUT", "/contacts/{email}", email=email, body={"name": "Anna"})
    parsed = content(answer)
    fine = answer.status in OK and (not answer.body or isinstance(parsed, dict))
    learn("answer to an update", f"{answer.status} {shape(parsed)}", holds=fine)
    found = account.client.get_contact(email)["attributes"]
    written = found.get("name") == "Anna"
    learn("attributes in an update", "the value is there" if written else f"it is not: {shape(found)}", holds=written)
    kept = "phone" in found
    learn("update keeps what is not sent", "it is kept" if kept else "it is gone", holds=kept)
    same = found.get("phone") == PHONE
    learn("form of a phone number", "as it was sent" if same else "written another way", holds=same if kept else None)


def test_an_attribute_that_does_not_exist(account: Account, learn: Learn) -> None:
    email = account.new_email()
    account.client.create_contact(email)
    answer = account.ask("PUT", "/contacts/{email}", email=email, body={"no_such_field_of_ours": "x"})
    shown = account.client.get_contact(email).get("attributes") or {}
    stored = "stored" if "no_such_field_of_ours" in shown else "not stored"
    learn("attribute that does not exist", f"{answer.status} {shape(content(answer))}; {stored}")


def test_a_deletion(account: Account, learn: Learn) -> None:
    email = account.new_email()
    account.client.create_contact(email)
    answers = [account.ask("DELETE", "/contacts/{email}", email=email) for _ in range(2)]
    learn("answer to a deletion", f"{answers[0].status} {shape(content(answers[0]))}", holds=answers[0].status in OK)
    gone = account.ask("GET", "/contacts/{email}", email=email).status == 404
    learn("path of a deletion", "the contact is gone" if gone else "the contact is still there", holds=gone)
    learn("deleting twice", f"{answers[1].status} {shape(content(answers[1]))}", holds=answers[1].status == 404)
    again = account.ask("POST", "/contacts", body={"email": email})
    learn("creating after deleting", f"{again.status} {shape(content(again))}", holds=again.status in OK)


def test_the_letter_case_of_an_email(account: Account, learn: Learn) -> None:
    email = account.new_email("-Case")
    account.client.create_contact(email)
    found = account.ask("GET", "/contacts/{email}", email=email.lower()).status in OK
    kept = account.client.get_contact(email)["email"] == email
    shown = "shown as given" if kept else "shown otherwise"
    learn("letter case of an email", f"{'the same contact' if found else 'another contact'} in lower case; {shown}")


def test_a_plus_in_an_email(account: Account, learn: Learn) -> None:
    email = account.new_email("+tag")
    account.client.create_contact(email)
    found = account.ask("GET", "/contacts/{email}", email=email)
    contact = unwrapped(found)
    same = isinstance(contact, dict) and contact.get("email") == email
    learn("a `+` in an email", f"{found.status}, {'the same' if same else 'not the same'} address", holds=same)


def test_the_fields_of_a_contact(account: Account, learn: Learn) -> None:
    email = account.new_email()
    account.client.create_contact(email)
    contact = account.client.get_contact(email)
    created = str(contact.get("createdAt"))
    try:
        datetime.fromisoformat(created.replace("Z", "+00:00"))
    except ValueError:
        learn("`createdAt`", shape(contact.get("createdAt")), holds=None if "createdAt" not in contact else False)
    else:
        learn("`createdAt`", "an ISO 8601 time", holds=True)
    lists = contact.get("segmentedListsIds")
    learn("membership on a contact", shape(lists), holds=isinstance(lists, list))
