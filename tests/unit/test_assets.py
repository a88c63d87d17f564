"""``crm://`` assets: one canonical form each, and the data that a load adds to their events."""

from __future__ import annotations

from contextlib import suppress
from types import SimpleNamespace
from typing import Any
from urllib.parse import urlsplit

import pytest
from airflow.sdk import Asset, AssetAlias
from airflow.sdk.execution_time.context import OutletEventAccessors

from crm_provider.load.kinds import contacts, deals
from crm_provider.observability.assets import (
    convert_asset_to_openlineage,
    create_asset,
    crm_assets,
    dataset_of,
    note_listing,
    note_load,
    sanitize_uri,
)

CONTACTS = "crm://connect.pingback.com/contacts"


@pytest.mark.parametrize(
    ("written", "uri"),
    [
        (CONTACTS, CONTACTS),
        ("CRM://Connect.Pingback.com/contacts/", CONTACTS),
        (f"{CONTACTS}#top", CONTACTS),
        ("crm://localhost:8080/deals", "crm://localhost:8080/deals"),
        ("crm://connect.pingback.com/Acme/lists", "crm://connect.pingback.com/Acme/lists"),
    ],
)
def test_canonical_uri_is_accepted(written: str, uri: str) -> None:
    assert Asset(uri=written).uri == uri


@pytest.mark.parametrize(
    "written", ["crm:///contacts", "crm://host", "crm://host/people", "crm://host/a/b/contacts", "crm://host//contacts"]
)
def test_other_forms_are_refused_when_the_dag_is_parsed(written: str) -> None:
    with pytest.raises(ValueError, match=r"a CRM asset is written crm://host/contacts .* contacts, deals, lists"):
        Asset(uri=written)


@pytest.mark.parametrize("written", ["crm://key@host/contacts", "crm://host/contacts?page=1"])
def test_key_or_query_is_refused(written: str) -> None:
    with pytest.raises(ValueError, match="no user, key or query"):
        sanitize_uri(urlsplit(written))


def test_query_is_refused_when_the_dag_is_parsed() -> None:
    with pytest.raises(ValueError, match="no user, key or query"):
        Asset(uri="crm://host/contacts?page=1")


@pytest.mark.filterwarnings("ignore:An Asset URI should not contain auth info")  # Airflow 3.1.0, which drops it
def test_key_is_not_kept() -> None:
    with suppress(ValueError):
        assert Asset(uri="crm://key@host/contacts").uri == "crm://host/contacts"


def test_asset_factory() -> None:
    assert create_asset().uri == CONTACTS
    assert create_asset(listing="deals", account="acme", host="h").uri == "crm://h/acme/deals"
    assert create_asset(extra={"team": "sales"}).extra == {"team": "sales"}
    with pytest.raises(ValueError, match="a CRM asset is written"):
        create_asset(listing="people")


def test_asset_as_an_openlineage_dataset() -> None:
    pytest.importorskip("openlineage.client", reason="an optional extra")
    dataset = convert_asset_to_openlineage(create_asset(account="acme"), None)
    assert (dataset.namespace, dataset.name) == dataset_of(create_asset(account="acme").uri)
    assert (dataset.namespace, dataset.name) == ("crm://connect.pingback.com", "acme/contacts")


def test_crm_outlets_of_a_task() -> None:
    outlets = [
        create_asset(),
        create_asset(listing="deals"),
        AssetAlias("crm"),
        Asset("file:///x/contacts"),
        Asset("plain"),
    ]
    assert list(crm_assets(outlets, "contacts")) == [outlets[0]]
    assert list(crm_assets(None, "contacts")) == []


RESULT = {"rows": 5, "created": 2, "updated": 1, "rejected": 2, "errors": {"INVALID_INPUT": 2}, "dry_run": False}


def load(outlets: list[Any], kind: Any = contacts.CONTACTS, **result: Any) -> tuple[list[Any], OutletEventAccessors]:
    events = OutletEventAccessors()
    task = SimpleNamespace(outlets=outlets, kind=kind)
    note_load(task, {"outlet_events": events}, {**RESULT, **result})
    return task.outlets, events


def test_event_has_the_counts() -> None:
    other = create_asset(listing="deals")
    outlets, events = load([create_asset(), other])
    assert outlets == [create_asset(), other]
    assert len(events) == 1
    assert events[create_asset()].extra == {"rows": 5, "created": 2, "updated": 1, "rejected": 2}


def test_deal_load_writes_the_asset_of_deals() -> None:
    outlets = [create_asset(), create_asset(listing="deals")]
    _, events = load(outlets, kind=deals.DEALS)
    assert "rows" not in events[outlets[0]].extra
    assert events[outlets[1]].extra["rows"] == 5


@pytest.mark.parametrize(
    ("task", "result", "extra"),
    [
        (
            {"listing": "contacts", "mode": "append"},
            {"records": 35, "rows": 2, "calls": 4, "table": "t", "seconds": 0.5, "changes": {"created": 2}, "pages": 4},
            {
                "listing": "contacts", "mode": "append", "records": 35, "rows": 2, "calls": 4, "table": "t",
                "seconds": 0.5, "changes": {"created": 2},
            },
        ),
        ({"listing": "deals"}, {"records": 1, "path": "/x"}, {"listing": "deals", "records": 1}),
    ],
)  # fmt: skip
def test_listing_adds_its_counts_to_the_event_of_its_target(
    task: dict[str, Any], result: dict[str, Any], extra: dict[str, Any]
) -> None:
    events, table = OutletEventAccessors(), Asset("postgres://db/warehouse/public/t")
    outlets = [create_asset(), AssetAlias("any"), table]
    note_listing(SimpleNamespace(outlets=outlets, **task), {"outlet_events": events}, result)
    assert (len(events), events[table].extra) == (1, extra)


def test_dry_run_creates_no_event() -> None:
    other = Asset("file:///out")
    outlets, events = load([create_asset(), other], dry_run=True)
    assert outlets == [other]
    assert len(events) == 0
