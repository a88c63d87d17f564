"""Listings: every record once, all of them, and an end — whatever the server says."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import replace
from decimal import Decimal
from typing import Any

import pytest

from crm_provider import errors as e
from crm_provider.client.pagination import ListedPage, Page, walk, walk_pages

ROUTE = "/contacts"
MANY = 500
"""More pages than any listing here has: a reader of that many repeats itself."""


class Server:
    """Counts the pages that are read, and says when that never ends."""

    def __init__(self, answer: Callable[[int], Page]) -> None:
        self.answer = answer
        self.reads = 0

    def __call__(self, number: int) -> Page:
        assert number == self.reads, "pages are read one after the other, each once"
        self.reads += 1
        assert self.reads < MANY, "the listing never ends"
        return self.answer(number)


def records(start: int, end: int) -> list[dict[str, Any]]:
    return [{"id": f"c-{n}", "email": f"{n}@example.com"} for n in range(start, end)]


def honest(count: int, *, size: int = 10, total: bool = True) -> Server:
    """A server with so many records that keeps to the rules."""
    return Server(lambda n: Page(records(n * size, min((n + 1) * size, count)), count if total else None))


def not_found(number: int) -> Page:
    raise e.CrmNotFoundError(f"no page {number}", type="HTTP_404", status=404, method="GET", path=ROUTE)


# -- honest servers ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [0, 1, 9, 10, 11, 20, 25, 100])
def test_with_a_total_no_page_is_read_for_nothing(count: int) -> None:
    server = honest(count)
    assert list(walk(server, ROUTE)) == records(0, count)
    assert server.reads == max(-(-count // 10), 1)


@pytest.mark.parametrize("count", [0, 1, 10, 25])
def test_without_a_total_it_ends_at_the_empty_page(count: int) -> None:
    server = honest(count, total=False)
    assert list(walk(server, ROUTE)) == records(0, count)
    assert server.reads == -(-count // 10) + 1


def test_a_404_past_the_end_ends_a_listing_without_a_total() -> None:
    pages = honest(20, total=False)
    server = Server(lambda n: pages(n) if n < 2 else not_found(n))
    assert list(walk(server, ROUTE)) == records(0, 20)


def test_records_come_as_soon_as_their_page_is_there() -> None:
    server = honest(100)
    assert list(itertools.islice(walk(server, ROUTE), 10)) == records(0, 10)
    assert server.reads == 1


def test_after_a_total_below_what_was_seen_only_an_empty_page_ends_it() -> None:
    pages = honest(30, total=False)
    server = Server(lambda number: replace(pages.answer(number), total=[40, 15, 15, 15][number]))
    assert list(walk(server, ROUTE)) == records(0, 30)
    assert server.reads == 4


# -- servers that end too early ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "answer",
    [
        lambda n: Page(records(0, 10) if n == 0 else [], 25),
        lambda n: Page(records(0, 10), 25) if n == 0 else not_found(n),
        lambda n: Page(records(0, 10), 25) if n == 0 else Page([], None),
        lambda _: Page([], 25),
        lambda n: Page(records(n * 10, n * 10 + 8) if n < 3 else [], 30),
        not_found,
    ],
    ids=["empty page", "404", "total told once", "nothing at all", "short pages", "404 at once"],
)
def test_an_early_end_is_an_error(answer: Callable[[int], Page]) -> None:
    with pytest.raises((e.CrmProtocolError, e.CrmNotFoundError)):
        list(walk(Server(answer), ROUTE))


@pytest.mark.parametrize("total", ["25", 25.0, Decimal("25.0")], ids=repr)
@pytest.mark.parametrize("last", ["404", "null"])
def test_a_total_of_another_type_counts_too(total: Any, last: str) -> None:
    def answer(number: int) -> Page:
        if number >= 2:
            return not_found(number) if last == "404" else Page.of({"data": None}, ROUTE)
        return Page.of({"data": records(number * 10, number * 10 + 10), "total": total}, ROUTE)

    with pytest.raises((e.CrmProtocolError, e.CrmNotFoundError)):
        list(walk(Server(answer), ROUTE))


def test_the_error_says_how_far_it_came() -> None:
    with pytest.raises(e.CrmProtocolError) as raised:
        list(walk(Server(lambda n: Page(records(0, 10) if n == 0 else [], 25)), ROUTE))
    assert str(raised.value).startswith(
        "PROTOCOL on GET /contacts: the listing ends early: page 1 is empty after 10 of 25 records."
    )


def test_what_was_read_before_the_error_is_not_lost() -> None:
    listing = walk(Server(lambda n: Page(records(0, 10) if n == 0 else [], 25)), ROUTE)
    assert list(itertools.islice(listing, 10)) == records(0, 10)
    with pytest.raises(e.CrmProtocolError):
        next(listing)


def test_any_other_error_is_passed_on() -> None:
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
    ids=["ids", "ids that are numbers", "no ids", "ids that are null", "ids of an odd kind", "empty records"],
)
def test_the_same_page_for_ever_is_an_error(page: list[dict[str, Any]], total: int | None) -> None:
    with pytest.raises(e.CrmProtocolError, match="repeats itself"):
        list(walk(Server(lambda _: Page(page, total)), ROUTE))


@pytest.mark.parametrize("ids", [[1, 1], ["a", "a"]], ids=["numbers", "texts"])
def test_a_record_comes_once_whatever_its_id_is(ids: list[Any]) -> None:
    page = [{"id": found, "n": n} for n, found in enumerate(ids)]
    assert len(list(walk(Server(lambda n: Page(page if n == 0 else [], None)), ROUTE))) == 1


# -- what a page is ------------------------------------------------------------------------------------------


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
def test_page(value: Any, items: list[dict[str, Any]], total: int | None) -> None:
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
def test_what_is_no_page_is_an_error(value: Any) -> None:
    with pytest.raises(e.CrmProtocolError, match="has no list of records"):
        Page.of(value, ROUTE)


# -- pages, and going on after some that are known -----------------------------------------------------------


def listed(server: Callable[[int], Page], earlier: list[Page] | None = None) -> list[ListedPage]:
    return list(walk_pages(server, ROUTE, earlier or []))


def test_pages_come_with_their_numbers_totals_and_what_is_new() -> None:
    pages = [Page(records(0, 10), 12), Page(records(9, 12), 13)]
    assert listed(lambda n: pages[n]) == [
        ListedPage(number=0, page=pages[0], fresh=records(0, 10)),
        ListedPage(number=1, page=pages[1], fresh=records(10, 12)),
    ]


@pytest.mark.parametrize("known", range(6))
@pytest.mark.parametrize("total", [True, False], ids=["total", "no total"])
def test_known_pages_are_not_read_again_and_change_nothing(known: int, total: bool) -> None:
    whole = listed(honest(45, total=total))
    reads: list[int] = []

    def fetch(number: int) -> Page:
        reads.append(number)
        return honest(45, total=total).answer(number)

    resumed = listed(fetch, [page.page for page in whole[:known]])
    assert [(page.number, page.page, page.fresh) for page in resumed] == [(p.number, p.page, p.fresh) for p in whole]
    assert [page.earlier for page in resumed] == [n < known for n in range(len(whole))]
    assert reads == list(range(known, len(whole)))


def test_an_empty_last_page_is_a_page_so_that_it_need_not_be_asked_for_again() -> None:
    whole = listed(honest(20, total=False))
    assert [len(page.page.items) for page in whole] == [10, 10, 0]
    assert listed(not_found, [page.page for page in whole])[-1].earlier
