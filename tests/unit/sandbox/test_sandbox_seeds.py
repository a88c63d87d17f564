"""Seeds: names, documents, files, and snapshots."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from crm_provider.sandbox import CrmStore, ManualClock, SeedError, ids
from crm_provider.sandbox.seeds import fill, load_seed, snapshot

CONTACT = {"email": "ann@example.com"}
SEED: dict[str, Any] = {
    "pipelines": [{"name": "Sales", "stages": [{"name": "New"}, {"id": "my-won", "name": "Won"}]}],
    "lists": [{"name": "Newsletter"}, {"id": "my-list", "name": "Late", "appears_after": 5}],
    "contacts": [
        {"email": "ann@example.com", "attributes": {"name": "Ann"}, "segmentedListsIds": ["Newsletter", "my-list"]},
        {"id": "my-bob", "email": "bob@example.com", "blacklistedAt": "2025-01-01T00:00:00.000Z", "status": "odd"},
    ],
    "deals": [
        {"contactId": "ann@example.com", "pipelineId": "Sales", "stageId": "New"},
        {"id": "my-deal", "contactId": "my-bob", "pipelineId": ids.pipeline_id("Sales"), "stageId": "my-won"},
    ],
}


def filled(seed: Any, clock: ManualClock | None = None) -> CrmStore:
    store = CrmStore(clock or ManualClock())
    fill(store, load_seed(seed))
    return store


def test_demo_seed_matches_the_documentation() -> None:
    store = filled("demo")
    assert {pipeline.name: [stage.name for stage in pipeline.stages] for pipeline in store.pipelines.values()} == {
        name: ["New", "Qualified", "Proposal", "Won", "Lost"] for name in ("Sales", "Partners")
    }
    assert [known.name for known in store.visible_lists] == ["Newsletter", "Trial users"]
    assert len(store.contacts) == 11  # more than one page
    assert store.deal_of(ids.contact_id("ada@example.com")) is not None


def test_empty_seed() -> None:
    assert snapshot(filled("empty")) == {"pipelines": [], "lists": [], "contacts": [], "deals": []}


def test_many_contacts_seed() -> None:
    store = filled("contacts:25")
    assert len(store.contacts) == 25
    assert len(store.pipelines) == 2
    assert not store.deals


def test_many_deals_seed() -> None:
    store = filled("deals:7")
    deals = [store.deal_of(contact.id) for contact in store.contacts.values()]
    stages = ["New", "Qualified", "Proposal", "Won", "Lost", "New", "Qualified"]
    assert [deal and (deal.pipeline_id, deal.stage_id) for deal in deals] == [
        (ids.pipeline_id("Sales"), ids.stage_id("Sales", stage)) for stage in stages
    ]
    assert deals[1] is not None
    assert deals[1].attributes == {"pb_name": "Deal 2", "pb_amount": "2.50"}


def test_document_accepts_names_and_ids() -> None:
    store = filled(SEED)
    ann, bob = store.contact("ann@example.com"), store.contact("bob@example.com")
    assert list(ann.memberships) == [ids.list_id("Newsletter"), "my-list"]
    assert (bob.id, bob.status, bob.blacklisted_at) == ("my-bob", "odd", "2025-01-01T00:00:00.000Z")
    assert store.deals["my-deal"].stage_id == "my-won"
    assert store.deals[ids.deal_id(ann.id)].stage_id == ids.stage_id("Sales", "New")
    assert len(store.visible_lists) == 1


@pytest.mark.parametrize("seed", ["empty", "demo", "contacts:3", "deals:3", SEED], ids=str)
def test_snapshot_restores_the_state(seed: Any) -> None:
    taken = snapshot(filled(seed))
    assert snapshot(filled(json.loads(json.dumps(taken)))) == taken


def test_snapshot_keeps_the_remaining_list_delay() -> None:
    clock = ManualClock()
    store = filled(SEED, clock)
    clock.advance(2)
    assert [known["appears_after"] for known in snapshot(store)["lists"]] == [0, 3]


def test_seed_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "seed.json"
    path.write_text(json.dumps(SEED), encoding="utf-8")
    assert len(filled(str(path)).contacts) == 2


@pytest.mark.parametrize(
    ("seed", "message"),
    [
        ("demmo", "did you mean 'demo'"),
        ("contacts:x", "did you mean 'contacts:1000'"),
        ("deals:x", "did you mean 'deals:1000'"),
        ("missing.json", "cannot be read"),
        ([], "must be an object"),
        ({"contact": []}, "did you mean 'contacts'"),
        ({"contacts": ["x"]}, r"contacts\[0\] must be an object"),
        ({"contacts": [{}]}, r"contacts\[0\].email must be a string"),
        ({"contacts": [{"email": "a@b.co"}, {"email": "a@b.co"}]}, r"contacts\[1\].email is used twice"),
        ({**SEED, "contacts": [{"email": "a@b.co", "segmentedListsIds": ["Newsleter"]}]}, "did you mean 'Newsletter'"),
        ({**SEED, "deals": [{}]}, r"deals\[0\].contactId: there is no contact"),
        ({**SEED, "deals": [SEED["deals"][0]] * 2}, r"deals\[1\].contactId: this contact has a deal already"),
        ({**SEED, "deals": [{**SEED["deals"][0], "stageId": "Nw"}]}, r"deals\[0\].stageId 'Nw'.*did you mean 'New'"),
        ({**SEED, "deals": [{**SEED["deals"][0], "pipelineId": "Sale"}]}, "did you mean 'Sales'"),
        ({"pipelines": [{"name": "A", "stages": [{}]}]}, r"stages\[0\].name must be a string"),
        ({"lists": [{"name": ""}]}, r"lists\[0\].name must be a string"),
        ({"pipelines": 5}, "pipelines must be a list"),
        ({"lists": None}, "lists must be a list"),
        ({"contacts": "abc"}, "contacts must be a list"),
        (
            {"pipelines": [{"name": "Sales", "stages": 7}]},
            r"pipelines\[0\].*stages must be a list|stages must be a list",
        ),
        ({"lists": [{"name": "a", "appears_after": []}]}, r"lists\[0\]\.appears_after must be a number"),
        ({"lists": [{"name": "a", "appears_after": -1}]}, r"lists\[0\]\.appears_after must be a number"),
        ({"lists": [{"name": "a", "id": {}}]}, r"lists\[0\]\.id must be a string"),
        ({"contacts": [{**CONTACT, "id": 5}]}, r"contacts\[0\]\.id must be a string"),
        ({"contacts": [{**CONTACT, "attributes": "xy"}]}, r"contacts\[0\]\.attributes must be an object"),
        ({"contacts": [{**CONTACT, "origin": 5}]}, r"contacts\[0\]\.origin must be an object"),
        ({"contacts": [{**CONTACT, "status": 5}]}, r"contacts\[0\]\.status must be a string"),
        ({"contacts": [{**CONTACT, "segmentedListsIds": None}]}, r"contacts\[0\]\.segmentedListsIds must be a list"),
        ({"contacts": [{**CONTACT, "id": "1"}, {"email": "x@y.z", "id": "1"}]}, r"contacts\[1\]\.id is used twice"),
        ({"contacts": [{**CONTACT, "attributes": {"n": math.inf}}]}, "that JSON cannot represent"),
        ({"contacts": [{**CONTACT, "attributes": {"n": "\ud800"}}]}, "that JSON cannot represent"),
        ({"contacts": [{**CONTACT, "attributes": {"n": object()}}]}, "that JSON cannot represent"),
        ({**SEED, "deals": [{**SEED["deals"][0], "id": "my-deal"}, SEED["deals"][1]]}, r"deals\[1\]\.id is used twice"),
    ],
)
def test_bad_seed_is_refused_with_its_location(seed: Any, message: str) -> None:
    with pytest.raises(SeedError, match=message):
        filled(seed)


def test_seed_file_that_is_not_json_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "seed.json"
    path.write_text("{", encoding="utf-8")
    with pytest.raises(SeedError, match="cannot be read"):
        load_seed(str(path))
