"""Listings return every record once and end, whatever the server sends."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crm_provider import errors as e
from crm_provider.client.pagination import ListedPage, MovedRecords, Page, ReadAhead, walk, walk_pages

ROUTE = "/contacts"
MANY = 500
"""More pages than any listing here has: a reader of that many is in a loop."""


class Server:
    """Counts the pages that are read, and fails if that never ends."""

    def __init__(self, response: Callable[[int], Page]) -> None:
        self.response = response
        self.reads = 0

    def __call__(self, number: int) -> Page:
        assert number == self.reads, "each page is read once, in order"
        self.reads += 1
        assert self.reads < MANY, "the listing never ends"
        return self.response(number)


def records(start: int, end: int) -> list[dict[str, Any]]:
    return [{"id": f"c-{n}", "email": f"{n}@example.com"} for n in range(start, end)]


def honest(count: int, *, size: int = 10, total: bool = True) -> Server:
    """A server with this many records that follows the rules."""
    return Server(lambda n: Page(records(n * size, min((n + 1) * size, count)), count if total else None))


def not_found(number: int) -> Page:
    raise e.CrmNotFoundError(f"no page {number}", type="HTTP_404", status=404, method="GET", path=ROUTE)


# -- honest servers ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [0, 1, 9, 10, 11, 20, 25, 100])
def test_no_extra_page_is_read_with_a_total(count: int) -> None:
    server = honest(count)
    assert list(walk(server, ROUTE)) == records(0, count)
    assert server.reads == max(-(-count // 10), 1)


@pytest.mark.parametrize("count", [0, 1, 10, 25])
def test_listing_without_a_total_ends_at_the_empty_page(count: int) -> None:
    server = honest(count, total=False)
    assert list(walk(server, ROUTE)) == records(0, count)
    assert server.reads == -(-count // 10) + 1


def test_listing_without_a_total_ends_at_a_404() -> None:
    pages = honest(20, total=False)
    server = Server(lambda n: pages(n) if n < 2 else not_found(n))
    assert list(walk(server, ROUTE)) == records(0, 20)


def test_records_are_returned_as_soon_as_their_page_arrives() -> None:
    server = honest(100)
    assert list(itertools.islice(walk(server, ROUTE), 10)) == records(0, 10)
    assert server.reads == 1


def test_total_below_the_read_records_is_ignored() -> None:
    pages = honest(30, total=False)
    server = Server(lambda number: replace(pages.response(number), total=[40, 15, 15, 15][number]))
    assert list(walk(server, ROUTE)) == records(0, 30)
    assert server.reads == 4


# -- servers that end too early ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "response",
    [
        lambda n: Page(records(0, 10) if n == 0 else [], 25),
        lambda n: Page(records(0, 10), 25) if n == 0 else not_found(n),
        lambda n: Page(records(0, 10), 25) if n == 0 else Page([], None),
        lambda _: Page([], 25),
        lambda n: Page(records(n * 10, n * 10 + 8) if n < 3 else [], 30),
        not_found,
    ],
    ids=["empty page", "404", "total sent once", "nothing at all", "short pages", "404 at once"],
)
def test_early_end_is_an_error(response: Callable[[int], Page]) -> None:
    with pytest.raises(e.CrmNotFoundError if response is not_found else e.CrmProtocolError):
        list(walk(Server(response), ROUTE))


@pytest.mark.parametrize("total", ["25", 25.0, Decimal("25.0")], ids=repr)
@pytest.mark.parametrize("last", ["404", "null"])
def test_total_of_another_type_counts(total: Any, last: str) -> None:
    def response(number: int) -> Page:
        if number >= 2:
            return not_found(number) if last == "404" else Page.of({"data": None}, ROUTE)
        return Page.of({"data": records(number * 10, number * 10 + 10), "total": total}, ROUTE)

    with pytest.raises(e.CrmProtocolError):
        list(walk(Server(response), ROUTE))


def test_error_reports_how_far_the_listing_was_read() -> None:
    with pytest.raises(e.CrmProtocolError) as raised:
        list(walk(Server(lambda n: Page(records(0, 10) if n == 0 else [], 25)), ROUTE))
    assert str(raised.value).startswith(
        "PROTOCOL on GET /contacts: the listing ends early, after 10 of 25 records: page 1 has none."
    )


def test_records_read_before_the_error_are_returned() -> None:
    listing = walk(Server(lambda n: Page(records(0, 10) if n == 0 else [], 25)), ROUTE)
    assert list(itertools.islice(listing, 10)) == records(0, 10)
    with pytest.raises(e.CrmProtocolError):
        next(listing)


def test_other_errors_are_raised_unchanged() -> None:
    def broken(number: int) -> Page:
        raise e.CrmForbiddenError("no")

    with pytest.raises(e.CrmForbiddenError):
        list(walk(broken, ROUTE))


# -- servers that never end ----------------------------------------------------------------------------------


@pytest.mark.parametrize("total", [None, 10**9], ids=["no total", "huge total"])
@pytest.mark.parametrize(
    "page",
    [
        records(0, 10),
        [{"id": n} for n in range(10)],
        [{"email": f"{n}@example.com"} for n in range(10)],
        [{"id": None, "name": "list"}],
        [{"id": ["x"]}, {"id": {"y": 1}}],
        [{}],
    ],
    ids=["ids", "numeric ids", "no ids", "null ids", "ids of another type", "empty records"],
)
def test_endlessly_repeated_page_is_an_error(page: list[dict[str, Any]], total: int | None) -> None:
    with pytest.raises(e.CrmProtocolError, match="repeats itself"):
        list(walk(Server(lambda _: Page(page, total)), ROUTE))


@pytest.mark.parametrize("ids", [[1, 1], ["a", "a"]], ids=["numbers", "texts"])
def test_record_is_returned_once_with_any_id(ids: list[Any]) -> None:
    page = [{"id": found, "n": n} for n, found in enumerate(ids)]
    assert len(list(walk(Server(lambda n: Page(page if n == 0 else [], None)), ROUTE))) == 1


# -- pages ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "items", "total"),
    [
        ({"page": 0, "total": 2, "data": [{"id": "1"}]}, [{"id": "1"}], 2),
        ({"data": []}, [], None),
        ([{"id": "1"}], [{"id": "1"}], None),
        ([], [], None),
        ({"data": [], "total": 0}, [], 0),
        ({"data": [], "total": "25"}, [], 25),
        ({"data": [], "total": " 25 "}, [], 25),
        ({"data": [], "total": 25.0}, [], 25),
        ({"data": [], "total": Decimal("25.00")}, [], 25),
        ({"data": [], "total": Decimal("2.5E+1")}, [], 25),
        ({"data": [], "total": Decimal("1E+999999")}, [], 10**18),
        ({"data": [], "total": 1e300}, [], 10**18),
        ({"data": [], "total": 10**400}, [], 10**400),
        ({"data": [], "total": 24.5}, [], None),
        ({"data": [], "total": Decimal("24.5")}, [], None),
        ({"data": [], "total": -25.0}, [], None),
        ({"data": [], "total": "-1"}, [], None),
        ({"data": [], "total": "many"}, [], None),
        ({"data": [], "total": ""}, [], None),
        ({"data": [], "total": "\u0662\u0665"}, [], None),
        ({"data": [], "total": "9" * 5000}, [], None),
        ({"data": None}, [], None),
        ({"data": None, "total": None}, [], None),
        ({"data": None, "total": 0, "error": None}, [], 0),
        ({"data": None, "total": "0"}, [], 0),
        ({"data": [], "total": -1}, [], None),
        ({"data": [], "total": True}, [], None),
        ({"data": [], "total": None}, [], None),
    ],
)
def test_valid_page(value: Any, items: list[dict[str, Any]], total: int | None) -> None:
    assert Page.of(value, ROUTE) == Page(items, total)


@pytest.mark.parametrize(
    "value",
    [
        {},
        {"total": 0},
        {"data": None, "total": 1},
        {"data": None, "total": "many"},
        {"data": None, "error": "We are closed."},
        {"data": {"id": "1"}},
        {"data": "x"},
        {"data": ["x"]},
        ["x"],
        "x",
        None,
        5,
    ],
    ids=str,
)
def test_invalid_page_is_an_error(value: Any) -> None:
    with pytest.raises(e.CrmProtocolError, match="has no list of records"):
        Page.of(value, ROUTE)


# -- pages, and resuming after known ones --------------------------------------------------------------------


def listed(server: Callable[[int], Page], earlier: list[Page] | None = None) -> list[ListedPage]:
    return list(walk_pages(server, ROUTE, earlier or []))


def test_pages_have_numbers_totals_and_new_records() -> None:
    pages = [Page(records(0, 10), 12), Page(records(9, 12), 13)]
    assert listed(lambda n: pages[n]) == [
        ListedPage(number=0, page=pages[0], fresh=records(0, 10)),
        ListedPage(number=1, page=pages[1], fresh=records(10, 12)),
    ]


@pytest.mark.parametrize("known", range(6))
@pytest.mark.parametrize("total", [True, False], ids=["total", "no total"])
def test_known_pages_are_not_read_again(known: int, total: bool) -> None:
    whole = listed(honest(45, total=total))
    reads: list[int] = []

    def fetch(number: int) -> Page:
        reads.append(number)
        return honest(45, total=total).response(number)

    resumed = listed(fetch, [page.page for page in whole[:known]])
    assert [(page.number, page.page, page.fresh) for page in resumed] == [(p.number, p.page, p.fresh) for p in whole]
    assert [page.earlier for page in resumed] == [n < known for n in range(len(whole))]
    assert reads == list(range(known, len(whole)))


def test_empty_last_page_is_returned_so_that_it_need_not_be_read_again() -> None:
    whole = listed(honest(20, total=False))
    assert [len(page.page.items) for page in whole] == [10, 10, 0]
    assert listed(not_found, [page.page for page in whole])[-1].earlier


# -- records that move because others are deleted ------------------------------------------------------------


class Shrinking:
    """A listing from which records are deleted just before some of the requests.

    :param deleted: number of the request -> records that are gone then
    """

    def __init__(self, count: int, deleted: Mapping[int, Iterable[int]]) -> None:
        self.ids, self.deleted, self.asked = list(range(count)), deleted, []

    def __call__(self, number: int) -> Page:
        self.ids = [id_ for id_ in self.ids if id_ not in self.deleted.get(len(self.asked), ())]
        self.asked.append(number)
        shown = self.ids[number * 10 : number * 10 + 10]
        return Page([{"id": id_} for id_ in shown], len(self.ids))


def found_in(listing: Callable[[int], Page], *, with_moved: bool = True) -> set[int]:
    return {record["id"] for record in walk(MovedRecords(listing, listing) if with_moved else listing, "/deals")}


@pytest.mark.parametrize(
    ("count", "deleted", "asked"),
    [
        (35, {}, [0, 1, 2, 3]),
        (35, {1: [3]}, [0, 1, 0, 1, 2, 3]),  # record 10 has moved to page 0
        (35, {3: [0, 11, 22]}, [0, 1, 2, 3, 2, 3, 4]),
        (45, {2: range(15)}, [0, 1, 2, 0, 1, 2, 3]),  # 15 fewer: two pages back
        (11, {1: [0]}, [0, 1, 0, 1, 2]),  # the last page is gone
        (35, {1: [3], 2: [4]}, [0, 1, 0, 1, 0, 1, 2, 3]),  # and again, while page 0 is read again
    ],
)
def test_record_that_moves_to_an_earlier_page_is_found(
    count: int, deleted: Mapping[int, Iterable[int]], asked: list[int]
) -> None:
    listing = Shrinking(count, deleted)
    assert found_in(listing) >= set(listing.ids)
    assert listing.asked == asked
    if deleted:
        plain = Shrinking(count, deleted)
        assert not found_in(plain, with_moved=False) >= set(plain.ids), "otherwise it would be missed"


@given(
    count=st.integers(0, 60),
    deleted=st.dictionaries(st.integers(1, 12), st.sets(st.integers(0, 60), max_size=12), max_size=5),
)
def test_no_record_is_missed_however_others_are_deleted(count: int, deleted: dict[int, set[int]]) -> None:
    listing = Shrinking(count, deleted)
    assert found_in(listing) >= set(listing.ids)


def test_totals_that_depend_on_the_page_cost_few_calls() -> None:
    asked: list[int] = []

    def page(number: int) -> Page:
        asked.append(number)
        return Page([{"id": id_} for id_ in range(number * 10, min(number * 10 + 10, 45))], 45 - number * 10)

    assert found_in(page) == set(range(45))
    assert len(asked) <= 6 + 2


def test_endlessly_falling_total_is_not_followed() -> None:
    asked: list[int] = []

    def page(number: int) -> Page:
        asked.append(number)
        return Page([{"id": number}] if number < 2 else [], 10**18 - len(asked))

    read = MovedRecords(page, page)
    assert [len(read(number).items) for number in (0, 1)] == [1, 1 + 10]
    assert asked == [0, 1, *[0, 1] * 10]
    asked.clear()
    list(map(MovedRecords(lambda number: Page([], 10**18 - number * 10**15), page), (0, 500)))
    assert asked[:101] == [*range(400, 501)]


def test_pages_read_ahead_may_show_a_deletion_late() -> None:
    listing = Shrinking(45, {3: [0]})
    with ReadAhead(listing, at_once=3) as ahead:
        pages = list(walk_pages(MovedRecords(ahead, listing), "/deals"))
    assert {record["id"] for page in pages for record in page.fresh} >= set(listing.ids)
