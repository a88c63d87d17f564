"""Servers that lie about page, total, and order: a listing ends, is complete or an error, and has each record once."""

from __future__ import annotations

import contextlib
import itertools
import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from crm_provider import errors as e
from crm_provider.client import pagination
from crm_provider.client.pagination import PAGE_SIZE, STALE_PAGES, Page, ReadAhead, walk_pages

ROUTE = "/contacts"
ENOUGH = 60
"""More pages than any server here fills with new records."""

Fetch = Callable[[int], Page]


class Server:
    """Counts the pages that are read, and records the last one."""

    def __init__(self, response: Fetch) -> None:
        self.response, self.reads = response, 0
        self.last: Page | None = None
        self.totals: set[int | None] = set()

    def __call__(self, number: int) -> Page:
        assert number == self.reads, "each page is read once, in order"
        assert number < ENOUGH, "the listing never ends"
        self.reads, self.last = self.reads + 1, None
        self.last = self.response(number)
        self.totals.add(self.last.total)
        return self.last


def listing(fetch: Fetch, earlier: list[Page] | None = None) -> tuple[list[Any], e.CrmError | None]:
    """The records, and the error that ended them."""
    got: list[Any] = []
    try:
        for listed in walk_pages(fetch, ROUTE, earlier or []):
            got.extend(listed.fresh)
    except (e.CrmProtocolError, e.CrmNotFoundError) as error:
        return got, error
    return got, None


def no_page(number: int) -> Page:
    raise e.CrmNotFoundError(f"no page {number}", type="HTTP_404", status=404, method="GET", path=ROUTE)


def claims_to_be_the_last(server: Server) -> bool:
    """Whether the server reported a total that makes the last read page the end."""
    end = (server.reads - 1) * PAGE_SIZE + len(server.last.items) if server.last else 0
    return server.last is not None and end in server.totals


# -- correct records, wrong totals ------------------------------------------------------

TOTALS = st.lists(st.none() | st.integers(0, 70), min_size=1, max_size=6)


@given(
    count=st.integers(0, 45),
    size=st.sampled_from([1, 5, 9, 10, 10, 10, 11, 50]),
    totals=TOTALS,
    after=st.sampled_from(["empty", "404"]),
)
@example(count=45, size=10, totals=[25], after="empty")
@example(count=45, size=10, totals=[25, None], after="empty")
@example(count=33, size=50, totals=[20], after="empty")
@example(count=31, size=10, totals=[None, 30], after="empty")
def test_all_records_are_read_whatever_the_total_says(
    count: int, size: int, totals: list[int | None], after: str
) -> None:
    truth = [{"id": n} for n in range(count)]

    def response(number: int) -> Page:
        items = truth[number * size : (number + 1) * size]
        return Page(items, totals[number % len(totals)]) if items or after == "empty" else no_page(number)

    server = Server(response)
    got, error = listing(server)
    assert got == truth[: len(got)]
    if error is None and len(got) < count:
        assert claims_to_be_the_last(server), "truncated without an error"


@given(count=st.integers(0, 45), total=st.booleans(), size=st.sampled_from([1, 5, 9, 10, 11, 50]))
def test_listing_of_an_honest_server_is_complete_with_any_page_size(count: int, total: bool, size: int) -> None:
    truth = [{"id": n} for n in range(count)]
    reported = count if total else None
    assert listing(Server(lambda n: Page(truth[n * size : (n + 1) * size], reported))) == (truth, None)


@given(start=st.integers(0, 35), changes=st.lists(st.tuples(st.booleans(), st.integers(0, 40)), max_size=6))
def test_existing_record_is_missed_only_if_others_are_deleted(start: int, changes: list[tuple[bool, int]]) -> None:
    """Records come and go while the pages are read. The server reports each moment honestly."""
    now, new = list(range(start)), itertools.count(1000)
    deleted: list[int] = []

    def response(number: int) -> Page:
        if 0 < number <= len(changes):
            added, place = changes[number - 1]
            if added:
                now.insert(min(place, len(now)), next(new))
            elif now:
                deleted.append(now.pop(min(place, len(now) - 1)))
        return Page([{"id": n} for n in now[number * 10 : number * 10 + 10]], len(now))

    got, error = listing(Server(response))
    found = [record["id"] for record in got]
    assert len(found) == len(set(found))
    missed = set(range(start)) - set(found) - set(deleted)
    assert error is not None or len(missed) <= len(deleted)


# -- nothing is correct --------------------------------------------------------------------------------------

ODD_TOTAL = st.one_of(
    st.none(),
    st.integers(-5, 70),
    st.integers(0, 70).map(str),
    st.integers(0, 70).map(float),
    st.sampled_from([10**400, "many", True, [], {}, "-1", 24.5]),
)
RECORD = st.one_of(
    st.integers(0, 40).map(lambda n: {"id": n}),
    st.integers(0, 40).map(lambda n: {"id": f"c-{n}"}),
    st.sampled_from([{"id": None}, {}, {"id": ["x"]}, {"id": {"y": 1}}, {"id": ""}, {"email": "a@b.c"}]),
)
BODY = st.one_of(
    st.fixed_dictionaries(
        {"data": st.lists(RECORD, max_size=13) | st.none()},
        optional={"total": ODD_TOTAL, "page": st.integers(-2, 60) | st.text(max_size=3) | st.none()},
    ),
    st.lists(RECORD, max_size=13),
)
BODIES = st.lists(BODY, min_size=1, max_size=7)
AFTER = st.sampled_from(["empty", "404", "again", "last"])


def lying(bodies: list[Any], after: str) -> Fetch:
    def response(number: int) -> Page:
        if number >= len(bodies) and after == "404":
            return no_page(number)
        if number >= len(bodies) and after == "empty":
            return Page.of([], ROUTE)
        return Page.of(bodies[number % len(bodies) if after == "again" else min(number, len(bodies) - 1)], ROUTE)

    return response


TWENTY = [[{"id": n} for n in range(start, start + 10)] for start in (0, 10)]


@given(bodies=BODIES, after=AFTER)
@example(bodies=[{"data": page, "total": "25"} for page in TWENTY], after="404")
@example(bodies=[{"data": page, "total": 25.0} for page in TWENTY], after="empty")
@example(bodies=[*({"data": page, "total": 25} for page in TWENTY), {"data": None}], after="404")
def test_listing_ends_without_duplicates_or_silent_loss(bodies: list[Any], after: str) -> None:
    server = Server(lying(bodies, after))
    got, error = listing(server)
    ids = [json.dumps(record["id"]) for record in got if record.get("id") is not None]
    assert len(ids) == len(set(ids))
    if error is None:
        at_its_end = server.last is None or not server.last.items
        read = [bodies[n % len(bodies) if after == "again" else min(n, len(bodies) - 1)] for n in range(server.reads)]
        received, reported = reported_in(read[: len(bodies)] if after in ("empty", "404") else read)
        assert at_its_end or (reported and min(reported) <= received), "ended before the last page"
        assert received >= min(reported, default=0), "truncated without an error"


def reported_in(read: list[Any]) -> tuple[int, list[int]]:
    """The number of records with repetitions, and the reported totals that count records and not pages."""
    received, reported = 0, []
    for body in read:
        items = (body["data"] if isinstance(body, dict) else body) or []
        total = body.get("total") if isinstance(body, dict) else None
        received += len(items)
        if str(total).removesuffix(".0").isdecimal() and float(total) >= len(items):
            reported.append(int(total))
    return received, reported


@given(bodies=BODIES, after=AFTER, at_once=st.integers(1, 5), known=st.integers(0, 7))
@example(bodies=[{"data": [{"id": 1}], "total": 10**400}], after="empty", at_once=4, known=0)
def test_read_ahead_and_resume_change_nothing(bodies: list[Any], after: str, at_once: int, known: int) -> None:
    fetch = lying(bodies, after)
    plain, error = listing(fetch)
    with ReadAhead(fetch, at_once=at_once) as read:
        ahead, error_ahead = listing(read)
    earlier: list[Page] = []
    with contextlib.suppress(e.CrmProtocolError, e.CrmNotFoundError):
        earlier.extend(listed.page for listed in itertools.islice(walk_pages(fetch, ROUTE), known))
    resumed, error_resumed = listing(fetch, earlier)
    assert ahead == resumed == plain
    assert str(error_ahead) == str(error_resumed) == str(error)


@pytest.mark.parametrize("total", [None, lambda number: (number + 2) * 10], ids=["no total", "an ever-growing total"])
def test_endless_listing_of_new_records_is_an_error(
    monkeypatch: pytest.MonkeyPatch, total: Callable[[int], int] | None
) -> None:
    monkeypatch.setattr(pagination, "MOST_PAGES", 50)

    def response(number: int) -> Page:
        return Page([{"id": number * 10 + n} for n in range(10)], total(number) if total else None)

    got, error = listing(Server(response))
    assert error is not None and "does not end: 50 pages were read" in str(error)
    assert [record["id"] for record in got] == list(range(490))


def test_loops_are_reported_after_few_pages() -> None:
    server = Server(lambda _: Page([{"id": 1}], 500))
    assert "repeats itself" in str(listing(server)[1])
    assert server.reads == STALE_PAGES + 1
