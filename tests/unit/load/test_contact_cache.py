"""The cache of CRM contacts, and when a write would change nothing."""

from __future__ import annotations

from typing import Any

import pytest

from crm_provider.client.remote_contact import ABSENT, RemoteContact, is_unwanted
from crm_provider.load.kinds.remote import ContactCache
from crm_provider.load.state.temp_tables import digest

ADA = "ada@x.org"


@pytest.mark.parametrize(
    ("found", "wanted", "same"),
    [
        ({"a": "x"}, {"a": "x"}, True),
        ({"a": "x", "b": "y"}, {"a": "x"}, True),
        ({"a": "x"}, {}, True),
        ({}, {"a": "x"}, False),
        ({"a": None}, {"a": "x"}, False),
        ({"a": None}, {"a": None}, True),
        ({"a": "x"}, {"a": "X"}, False),
        ({"a": 5}, {"a": "5"}, True),
        ({"a": "5"}, {"a": 5}, True),
        ({"a": "5.0"}, {"a": 5}, False),
        ({"a": 5.0}, {"a": 5}, True),
        ({"a": True}, {"a": 1}, False),
        ({"a": 0}, {"a": False}, False),
        ({"a": True}, {"a": "True"}, False),
        ({"a": "True"}, {"a": True}, False),
        ({"a": True}, {"a": True}, True),
        ({"a": [1, 2]}, {"a": [1, 2]}, True),
        ({"a": [1, 2]}, {"a": [2, 1]}, False),
        ({"a": [1]}, {"a": "[1]"}, False),
        ({"a": "[1]"}, {"a": [1]}, False),
        ({"a": "x", "b": "y"}, {"a": "x", "b": "z"}, False),
    ],
)
def test_contact_has_the_wanted_values(found: dict[str, Any], wanted: dict[str, Any], same: bool) -> None:
    assert RemoteContact(ADA, found).has(wanted) is same


@pytest.mark.parametrize(
    ("record", "unwanted"),
    [
        ({}, False),
        ({"status": "active"}, False),
        ({"status": None}, False),
        ({"status": "UNSUBSCRIBED "}, True),
        ({"status": "blacklisted"}, True),
        ({"status": "active", "unsubscribedAt": "2026-01-01"}, True),
        ({"unsubscribedAt": None, "blacklistedAt": None}, False),
        ({"blacklistedAt": 1767225600}, True),
    ],
)
def test_unsubscribed_and_blacklisted_contacts_are_unwanted(record: dict[str, Any], unwanted: bool) -> None:
    assert is_unwanted(record) is unwanted


def test_record_of_any_form_can_be_cached() -> None:
    remote = RemoteContact.of({"attributes": None, "segmentedListsIds": None, "email": 5}, ADA)
    assert (remote.email, remote.attributes, remote.lists) == (ADA, {}, frozenset())


def test_cached_fields_of_a_record() -> None:
    record = {
        "id": "7",
        "email": "Ada@x.org",
        "attributes": {"name": "Ada", "n": 5},
        "segmentedListsIds": ["A1-x", "b2"],
        "status": "unsubscribed",
    }
    assert RemoteContact.of(record, ADA) == RemoteContact(
        "Ada@x.org", {"name": "Ada", "n": 5}, frozenset({"a1-x", "b2"}), unwanted=True, id="7"
    )
    assert RemoteContact.of({}, ADA) == RemoteContact.of({"email": ""}, ADA) == RemoteContact(ADA)


def test_cache_returns_the_same_contact() -> None:
    cache = ContactCache()
    remote = RemoteContact("Ada@x.org", {"name": "Ada", "n": 5}, frozenset({"l1"}), unwanted=True)
    cache.put("Ada@x.org", remote)
    assert cache.get("ada@X.ORG") == remote
    assert cache.get("bob@x.org") is None
    cache.complete = True
    assert cache.get("bob@x.org") == ABSENT


def test_contact_with_the_exact_spelling_is_preferred() -> None:
    cache = ContactCache()
    for email in ("ADA@x.org", "ada@x.org", "Ada@x.org"):
        cache.put(email, RemoteContact(email))
    for email in ("ADA@x.org", "ada@x.org", "Ada@x.org"):
        found = cache.get(email)
        assert found is not None
        assert found.email == email


def test_only_written_attributes_are_cached() -> None:
    assert RemoteContact(ADA, {"a": 1, "b": 2}).only({"b", "c"}).attributes == {"b": 2}


def test_last_value_wins_and_contacts_are_counted_once() -> None:
    cache = ContactCache()
    for name in ("old", "new"):
        cache.put(ADA, RemoteContact(ADA, {"name": name}))
    assert len(cache) == 1
    assert cache.get(ADA) == RemoteContact(ADA, {"name": "new"})
    cache.put("bob@x.org", ABSENT)
    assert len(cache) == 2
    assert cache.get("bob@x.org") == ABSENT
    cache.close()


def test_lists_in_any_order_are_cached() -> None:
    cache, lists = ContactCache(), frozenset(f"list {n}" for n in range(20))
    cache.put(ADA, RemoteContact(ADA, {}, lists))
    assert cache.get(ADA) == RemoteContact(ADA, {}, lists)


def test_addresses_are_cached_as_sixteen_bytes() -> None:
    assert len(digest(ADA)) == 16
    assert len({digest(ADA), digest("ada@x.or"), digest("Ada@x.org")}) == 3
