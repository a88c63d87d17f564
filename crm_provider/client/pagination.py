"""Listings, page after page, and the records in responses.

A listing is read until its end; one that never ends, or ends too early, is an error. Several pages may be requested
at once, because a response takes longer than the interval between two calls.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import nullcontext
from contextvars import copy_context
from dataclasses import dataclass, replace
from decimal import Decimal
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal

from crm_provider import errors as e
from crm_provider.client.request import ERROR_KEYS, Call
from crm_provider.client.retry import Calls
from crm_provider.values.counted import counted

if TYPE_CHECKING:
    from typing_extensions import Self


PAGE_SIZE = 10
"""Records on a page, as documented; it cannot be chosen."""

STALE_PAGES = 3
"""Pages in a row without a new record after which a listing counts as circular. One or two are normal if records are
added in front while the pages are read."""

MOST_PAGES = 1_000_000
"""Pages after which a listing counts as endless: ten million records, 55 hours at 5 calls per second."""


@dataclass(frozen=True)
class Page:
    """One page of a listing.

    :param total: the number of records of the listing, None if the response does not have it
    """

    items: list[dict[str, Any]]
    total: int | None

    @classmethod
    def of(cls, value: Any, route: str) -> Page:
        """A page from a response: ``{page, total, data: [...]}``, or the bare list.

        :raises CrmProtocolError: if it has no list of records
        """
        items, given = (value.get("data"), value.get("total")) if isinstance(value, Mapping) else (value, None)
        total = _count_of(given)
        if isinstance(value, Mapping) and _is_null_list(value) and (given is None or total == 0):
            items = []
        if not isinstance(items, list) or not all(isinstance(item, dict) for item in items):
            raise e.CrmProtocolError("the response has no list of records", method="GET", path=route)
        return cls(items, total)


_ENDLESS = 10**18
"""More records than any account has. A larger number, such as ``1e400``, is not converted."""


def _count_of(reported: Any) -> int | None:
    """A number of records in any JSON form; None if it is not one."""
    if isinstance(reported, str) and re.fullmatch(r"[0-9]{1,1000}", reported.strip()):
        return int(reported)
    if isinstance(reported, (float, Decimal)):
        bounded = min(reported, _ENDLESS)
        reported = int(bounded) if bounded % 1 == 0 else None
    return reported if isinstance(reported, int) and not isinstance(reported, bool) and reported >= 0 else None


def _is_null_list(value: Mapping[str, Any]) -> bool:
    """Whether it has ``data: null``, as some servers write an empty list, and no sign of an error."""
    return "data" in value and value["data"] is None and not any(value.get(key) for key in ERROR_KEYS)


@dataclass(frozen=True, kw_only=True)
class ListedPage:
    """A page and its position in a listing.

    :param number: from 0
    :param fresh: its records that were on no page before
    :param earlier: whether it was known before and not read now
    """

    number: int
    page: Page
    fresh: list[dict[str, Any]]
    earlier: bool = False


def walk(fetch: Callable[[int], Page], route: str) -> Iterator[dict[str, Any]]:
    """All records of a listing, each once.

    :param fetch: reads one page by its number, from 0
    :param route: for messages
    :raises CrmProtocolError: if the listing repeats itself or ends before its own total
    """
    for listed in walk_pages(fetch, route):
        yield from listed.fresh


def walk_pages(
    fetch: Callable[[int], Page], route: str, earlier: Iterable[Page] = (), progress: ListingProgress | None = None
) -> Iterator[ListedPage]:
    """All pages of a listing up to its end, including an empty last page.

    :param fetch: reads one page by its number, from 0
    :param route: for messages
    :param earlier: pages from 0 on that were read before; they are not read again
    :param progress: of a walk that ended with an error: this one continues behind its last page
    :raises CrmProtocolError: if the listing repeats itself or ends before its own total
    """
    progress, known = progress or ListingProgress(route), iter(earlier)
    while True:
        number, page = progress.pages, next(known, None)
        is_earlier = page is not None
        try:
            if page is None:
                page = fetch(number)
        except e.CrmNotFoundError:
            if number == 0:
                raise
            progress.check_complete()
            return
        progress.note_total(page)
        fresh = progress.take(page) if page.items else []
        yield ListedPage(number=number, page=page, fresh=fresh, earlier=is_earlier)
        if not page.items:
            progress.check_complete()
            return
        if progress.is_done:
            return


class ListingProgress:
    """The progress of reading a listing. After an error, another walk can continue with it.

    :param route: for messages
    :ivar pages: number of pages read
    :ivar last_total: the total of the last page, None if it has none
    :ivar is_broken: whether the listing contradicts itself, so that a walk must not continue
    """

    def __init__(self, route: str) -> None:
        self._route = route
        self._seen: set[int] = set()
        self._received = 0
        self._least: int | None = None
        self._stale = 0
        self._repeated_a_page = False
        self._total: int | None = None
        self.pages = 0
        self.last_total: int | None = None
        self.is_broken = False

    def note_total(self, page: Page) -> None:
        """Note the total of a page.

        A total that is smaller than the number of records seen so far is wrong, or counts something else. Then only an
        empty page ends the listing.
        """
        shown = self.pages * PAGE_SIZE + len(page.items) if page.items else 0
        self.last_total = page.total
        if page.total is not None and page.total >= len(page.items):
            self._total = page.total
            self._least = page.total if self._least is None else min(self._least, page.total)
        if self._total is not None and self._total < shown:
            self._total = None

    def take(self, page: Page) -> list[dict[str, Any]]:
        """The new records of a page.

        :raises CrmProtocolError: if the listing repeats itself
        """
        fresh = [item for item in page.items if _is_new(item, self._seen)]
        self.pages += 1
        self._received += len(page.items)
        self._stale = 0 if fresh else self._stale + 1
        self._repeated_a_page = self._repeated_a_page or (not fresh and len(page.items) >= PAGE_SIZE)
        if self.pages >= MOST_PAGES:
            raise self._error(f"does not end: {self.pages} pages were read, and each has new records")
        if self._stale >= STALE_PAGES:
            raise self._error(f"repeats itself: the last {self._stale} pages have no new record")
        return fresh

    @property
    def is_done(self) -> bool:
        """Whether the total is reached, counting repeated records; never on a page without a new record."""
        enough = self._total is not None and self._count >= self._total and not self._stale
        return enough and self._total is not None and self.pages * PAGE_SIZE >= self._total

    @property
    def _count(self) -> int:
        """Records for the comparison with the total. A repeated record counts twice, because another may have moved up.

        If a whole page was repeated, only distinct records count: the page that belonged there is missing.
        """
        return len(self._seen) if self._repeated_a_page else self._received

    def check_complete(self) -> None:
        """Accept an empty or missing page as the end.

        :raises CrmProtocolError: if fewer records were read than the smallest total of the pages
        """
        if self._least is not None and self._count < self._least:
            announced = counted(self._least, "record")
            raise self._error(f"ends early, after {len(self._seen)} of {announced}: page {self.pages} has none")

    def _error(self, what: str) -> e.CrmProtocolError:
        self.is_broken = True
        return e.CrmProtocolError(f"the listing {what}", method="GET", path=self._route)


def _is_new(item: dict[str, Any], seen: set[int]) -> bool:
    text = repr(item) if item.get("id") is None else repr(item["id"])
    key = int.from_bytes(hashlib.blake2b(text.encode(errors="surrogatepass"), digest_size=8).digest(), "big")
    if key in seen:
        return False
    seen.add(key)  # eight bytes: a million of them are 70 MB, their texts 130 MB
    return True


MOST_PAGES_BACK, MOST_TIMES_BACK = 100, 10
"""Pages that are read again before the current one, and how often. A total that falls by more is wrong."""


class MovedRecords:
    """Reads pages so that no record is missed because others were deleted meanwhile.

    A deletion moves all records behind it by one place, one of them to the page before. If a page has a smaller total
    than the one before it, the pages onto which records may have moved are read again, and then the page itself. A
    deletion and a creation between two pages leave the total as it is, and are not noticed.

    :param read: reads the pages in order
    :param again: reads a page anew
    :param total: the total of the page before the first one that is read
    """

    def __init__(self, read: Callable[[int], Page], again: Callable[[int], Page], *, total: int | None = None) -> None:
        self._read, self._again, self._total = read, again, total
        self._is_a_count = True

    def __call__(self, number: int) -> Page:
        page, moved = self._read(number), []
        first = self._first_changed(number, page)
        for _ in range(MOST_TIMES_BACK):
            if first is None:
                break
            earlier = [(before, self._again(before)) for before in range(first, number)]
            moved += [item for _, each in earlier for item in each.items]
            # a total that depends on the page, such as the number of records left, says nothing of deletions
            self._is_a_count = all((each.total or 0) <= (page.total or 0) for _, each in earlier)
            page = self._again(number)
            changed = [self._first_changed(*each) for each in [*earlier, (number, page)]]
            first = min((each for each in changed if each is not None), default=None)
        return Page([*moved, *page.items], page.total) if moved else page

    def _first_changed(self, number: int, page: Page) -> int | None:
        """The first page onto which records have moved since the last page was read, None if none have."""
        before, self._total = self._total, page.total
        if not self._is_a_count or before is None or page.total is None or page.total >= before:
            return None
        return max(number - min(-(-(before - page.total) // PAGE_SIZE), MOST_PAGES_BACK), 0)


AT_ONCE = 4
"""Concurrent requests that use 5 calls per second while a response takes up to 0.8 s."""


class ReadAhead:
    """Reads pages ahead, up to the total of the listing.

    The caller asks for the pages in order; an error is raised with its own page.

    :param read: reads one page by its number, in any thread
    :param at_once: concurrent requests at most, including the requested page
    """

    def __init__(self, read: Callable[[int], Page], *, at_once: int = AT_ONCE) -> None:
        self._read, self._at_once = read, at_once
        self._requested: dict[int, Future[Page]] = {}
        self._threads = ThreadPoolExecutor(at_once, thread_name_prefix="crm-pages")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._threads.shutdown(cancel_futures=True)

    def __call__(self, number: int) -> Page:
        page = self._start(number).result()
        del self._requested[number]
        pages = -(-(page.total or 0) // PAGE_SIZE)  # rounded up; a total may be larger than any float
        for ahead in range(number + 1, min(number + 1 + self._at_once, pages)):
            self._start(ahead)
        return page

    def _start(self, number: int) -> Future[Page]:
        if number not in self._requested:
            self._requested[number] = self._threads.submit(copy_context().run, self._read, number)
        return self._requested[number]


CAREFUL_READINGS = 3
"""Readings at most of a listing that changes, before a record counts as missing and is created a second time."""

LATER_PAGE_TRIES = 8
"""Minimum attempts for a page behind the first one, because an error discards the pages before it. With the default
delays they take 17 to 35 seconds."""

Record = dict[str, Any]
"""A record with the API's own field names."""

Listing = Literal["contacts", "deals", "lists"]

LISTINGS: Mapping[Listing, str] = {"contacts": "/contacts", "deals": "/deals", "lists": "/segments"}
"""The listings of the API and their routes."""


class ListingCalls(Calls):
    """Calls that read listings, page after page."""

    def list_pages(
        self,
        listing: Listing,
        *,
        earlier: Iterable[Page] = (),
        progress: ListingProgress | None = None,
        use_decimal: bool = False,
        at_once: int = 1,
        with_moved: bool = False,
    ) -> Iterator[ListedPage]:
        """All pages of a listing, with their numbers and totals.

        :param earlier: pages from the first on that are known; they are returned and not read again
        :param progress: of a reading that ended with an error: this one continues behind its last page
        :param use_decimal: parse numbers with a fraction as ``Decimal``, with the digits that the CRM sent
        :param at_once: concurrent requests at most; the pages are returned in order. 0: each page is read on
            demand, so that stopping early saves the calls for the others
        :param with_moved: read pages again onto which records have moved because others were deleted
        """
        route = LISTINGS[listing]
        progress = progress or ListingProgress(route)
        total = progress.last_total

        def page(number: int) -> Page:
            return self._page(route, number, use_decimal=use_decimal)

        with ReadAhead(page, at_once=at_once) if at_once else nullcontext(page) as read:
            fetch = MovedRecords(read, page, total=total) if with_moved else read
            yield from walk_pages(fetch, route, earlier, progress)

    def _walk(self, route: str, *, readings: int = 1) -> Iterator[Record]:
        """All records of a listing.

        :param readings: maximum readings of the listing: it is read again while its total changes during a reading. A
            record may then come twice; one that a deletion and a creation between two pages have hidden is found
        """
        for _ in range(readings):
            totals: set[int | None] = set()
            yield from self._reading(route, totals)
            if len(totals) <= 1:
                return

    def _reading(self, route: str, totals: set[int | None]) -> Iterator[Record]:
        """All records of a listing, each once.

        :param totals: receives the total of each page
        """

        def page(number: int) -> Page:
            found = self._page(route, number)
            totals.add(found.total)
            return found

        return walk(MovedRecords(page, page), route)

    def _page(self, route: str, number: int, *, use_decimal: bool = False) -> Page:
        call = Call(method="GET", route=route, query={"page": number}, use_decimal=use_decimal)
        tries = max(self._budget.tries, LATER_PAGE_TRIES) if number else self._budget.tries
        return Page.of(self._send(call, budget=replace(self._budget, tries=tries)), route)


def id_of(value: Any, path: str, method: str = "GET") -> str:
    """The id in a response.

    :raises CrmProtocolError: if there is none
    """
    if isinstance(value, str) and value:
        return value
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    raise e.CrmProtocolError("the response has no id", path=path, method=method, outcome_known=method == "GET")
