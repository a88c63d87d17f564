"""Assumptions about listings."""

from __future__ import annotations

from collections.abc import Callable
from itertools import islice
from typing import Any

from contract_accounts import Account, shape, unwrapped

Record = Callable[..., None]

PAGE = 10
FEW_PAGES = 12
"""Listings of at most this many pages are read completely."""


def page(account: Account, route: str, number: int) -> tuple[int, dict[str, Any], list[dict[str, Any]]]:
    """The status, the envelope and the records of a page."""
    response = account.ask("GET", route, query={"page": number})
    parsed = unwrapped(response)
    around = parsed if isinstance(parsed, dict) else {}
    records = around.get("data", parsed)
    return response.status, around, records if isinstance(records, list) else []


def ids_of(records: list[dict[str, Any]]) -> list[Any]:
    return [record.get("id") for record in records]


def test_contact_pages_have_the_assumed_form(account: Account, record: Record) -> None:
    _, first, contacts = page(account, "/contacts", 0)
    size = f"{len(contacts)} records on page {first.get('page')}"
    record("page numbers", size, holds=len(contacts) <= PAGE and first.get("page") in (0, "0", None))
    record("`status` values", ", ".join(sorted({str(contact.get("status")) for contact in contacts})) or "no contacts")
    record("order of a listing", _order([str(contact.get("createdAt")) for contact in contacts]))

    again = page(account, "/contacts", 0)[2]
    record("the same page twice", "the same records" if ids_of(again) == ids_of(contacts) else "other records")
    second = page(account, "/contacts", 1)[2]
    common = set(ids_of(contacts)) & set(ids_of(second))
    record("neighbouring pages", f"{len(common)} records in common", holds=not common if second else None)

    total = first.get("total")
    if not isinstance(total, int):
        record("`total` of contacts", shape(total))
        return
    last = max((total - 1) // PAGE, 0)
    status, after, records = page(account, "/contacts", last + 1)
    record("past the last page", f"{status} with {len(records)} records", holds=status == 404 or not records)
    rest = page(account, "/contacts", last)[2]
    holds = len(rest) == total - last * PAGE if after.get("total", total) == total else None
    record("`total` of contacts", f"{total}, and {len(rest)} records on page {last}", holds=holds)


def _order(times: list[str]) -> str:
    if len(set(times)) < 2:
        return "unknown: the times are equal"
    if times == sorted(times):
        return "oldest first by `createdAt`"
    return "newest first by `createdAt`" if times == sorted(times, reverse=True) else "not by `createdAt`"


def test_list_contacts_returns_each_contact_once(account: Account) -> None:
    total = account.client.count_contacts()
    found = [contact["id"] for contact in islice(account.client.list_contacts(), FEW_PAGES * PAGE)]
    assert len(set(found)) == len(found)
    if total is not None and total <= FEW_PAGES * PAGE:
        assert abs(len(found) - total) <= 1, "another program may have added or removed one meanwhile"


def test_list_pages_have_ids_and_names(account: Account, record: Record) -> None:
    status, around, lists = page(account, "/segments", 0)
    names = [item.get("name") or item.get("title") for item in lists]
    holds = all(names) and all(ids_of(lists)) if lists else None
    record("listing of lists", f"{status} {shape(lists[:1])} in {shape({**around, 'data': None})}", holds=holds)


def test_deal_pages_have_the_assumed_form(account: Account, record: Record) -> None:
    status, around, deals = page(account, "/deals", 0)
    record("listing of deals", f"{status} {shape(deals[:1])} in {shape({**around, 'data': None})}", holds=status == 200)
