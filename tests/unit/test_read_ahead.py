"""Pages read ahead: the same pages in the same order, faster."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from crm_provider import errors as e
from crm_provider.client.pagination import Page, ReadAhead, walk_pages

ROUTE = "/contacts"


class Server:
    """A listing that records its reads, and how many run at once."""

    def __init__(self, count: int, *, total: bool = True, together: int = 1, broken: int | None = None) -> None:
        self.count, self.total, self.broken = count, total, broken
        self.reads: list[int] = []
        self.barrier = threading.Barrier(together)

    def __call__(self, number: int) -> Page:
        self.reads.append(number)
        if number > 0:
            self.barrier.wait(60)  # breaks, and fails the test, unless that many are read at once
        if number == self.broken:
            raise e.CrmInternalServerError("broken")
        items: list[dict[str, Any]] = [{"id": n} for n in range(number * 10, min(number * 10 + 10, self.count))]
        return Page(items, self.count if self.total else None)


def ids(server: Server, *, at_once: int = 4, earlier: int = 0) -> list[int]:
    known = [Server(server.count, total=server.total)(n) for n in range(earlier)]
    with ReadAhead(server, at_once=at_once) as read:
        return [record["id"] for listed in walk_pages(read, ROUTE, known) for record in listed.fresh]


@pytest.mark.parametrize("count", [0, 1, 10, 11, 95])
@pytest.mark.parametrize("at_once", [1, 4])
def test_read_ahead_gives_the_same_records_in_order_without_extra_calls(count: int, at_once: int) -> None:
    server = Server(count)
    assert ids(server, at_once=at_once) == list(range(count))
    assert sorted(server.reads) == list(range(max(-(-count // 10), 1)))


def test_nothing_is_read_ahead_without_a_total() -> None:
    server = Server(25, total=False)
    assert ids(server) == list(range(25))
    assert server.reads == [0, 1, 2, 3]


def test_four_pages_are_read_at_once() -> None:
    assert ids(Server(130, together=4)) == list(range(130))


def test_read_ahead_after_known_pages() -> None:
    server = Server(65)
    assert ids(server, earlier=3) == list(range(65))
    assert sorted(server.reads) == [3, 4, 5, 6]


def test_error_is_raised_at_its_page_after_those_before_it() -> None:
    with ReadAhead(Server(95, broken=3)) as read:
        pages = walk_pages(read, ROUTE)
        assert [next(pages).number for _ in range(3)] == [0, 1, 2]
        with pytest.raises(e.CrmInternalServerError):
            next(pages)


def test_early_stop_leaves_no_thread() -> None:
    before = readers()
    with ReadAhead(Server(95)) as read:
        next(walk_pages(read, ROUTE))
        assert readers() - before
    assert readers() - before == set()


def readers() -> set[threading.Thread]:
    return {thread for thread in threading.enumerate() if thread.name.startswith("crm-pages")}
