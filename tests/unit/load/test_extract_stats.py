"""The counts of an extract, and its progress log."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from crm_provider.client.pagination import ListedPage, Page
from crm_provider.extract.reader import LOG_INTERVAL, ExtractProgress, ExtractStats
from unit.fakes import FakeClock


def page(items: int, total: int | None, *, fresh: int | None = None, earlier: bool = False) -> ListedPage:
    records: list[dict[str, Any]] = [{"id": str(n), "name": "x"} for n in range(items)]
    new = records if fresh is None else records[:fresh]
    return ListedPage(number=0, page=Page(records, total), fresh=new, earlier=earlier)


def counted(*pages: ListedPage) -> ExtractStats:
    stats = ExtractStats()
    for listed in pages:
        stats.note(listed)
    return stats


def test_counts_of_a_listing() -> None:
    stats = counted(page(10, 25), page(10, 25, fresh=7), page(5, 25, earlier=True))
    assert (stats.records, stats.duplicates, stats.pages, stats.calls) == (22, 3, 3, 2)
    assert (stats.totals, stats.total) == ([25], 25)
    assert str(stats) == "records that the CRM reports: 25; read: 22; duplicates: 3"
    assert stats.columns.names() == ["id", "name"]


@pytest.mark.parametrize(
    ("field", "says"),
    [
        ("email", []),
        ("attributes", []),
        ("attributes.name", []),
        ("attributes.address.city", []),  # only one level is known
        ("attributes.nmae", ["'attributes.nmae', so it is empty. Did you mean 'attributes.name'?"]),
        ("origin.url", []),  # no record has an origin yet
        ("Telefone", ["'Telefone', so it is empty. Check its name."]),
    ],
)
def test_field_that_no_record_has_is_logged(field: str, says: list[str], caplog: pytest.LogCaptureFixture) -> None:
    record = {"email": "a@ex.co", "attributes": {"name": None, "address": {"city": "Rio"}}, "origin": None}
    records = [record, {"email": "b@ex.co", "attributes": None}]
    listed = ListedPage(number=0, page=Page(records, 2), fresh=records, earlier=False)
    counted(listed).warn_of_unknown([field])
    counted().warn_of_unknown([field])  # without a record nothing is known
    assert caplog.messages == [f"No record has the field {text}" for text in says]


@pytest.mark.parametrize(
    ("pages", "totals"),
    [
        ([page(10, None)], []),
        ([page(10, 9)], []),  # fewer than it shows: inconsistent
        ([page(10, 10)], [10]),
        ([page(10, 20), page(10, 21), page(10, 20)], [20, 21, 20]),
        ([page(10, 20), page(10, 21), page(10, 21)], [20, 21]),
    ],
)
def test_total_reported_by_the_crm(pages: list[ListedPage], totals: list[int]) -> None:
    stats = counted(*pages)
    assert stats.totals == totals
    assert stats.counts()["total_at_start"] == (totals[0] if totals else None)
    assert stats.total == (totals[-1] if totals else None)
    reported = " -> ".join(map(str, totals)) if totals else "unknown"
    assert f"the CRM reports: {reported};" in str(stats)


@pytest.mark.parametrize(
    ("pages", "changed"),
    [
        ([page(10, 10)], False),
        ([page(10, None)], False),
        ([page(10, 11)], True),
        ([page(10, 10, fresh=9)], True),
        ([page(10, 20), page(10, 21)], True),
        ([page(10, 19), page(10, 20)], True),  # although all records are there in the end
        ([page(10, 10), page(1, 10, fresh=0)], True),
    ],
)
def test_change_of_the_listing_is_detected(pages: list[ListedPage], changed: bool) -> None:
    assert counted(*pages).changed is changed


def reported(stats: ExtractStats, caplog: pytest.LogCaptureFixture) -> str:
    clock = FakeClock()
    progress = ExtractProgress("contacts", clock)
    clock.now += 100.0
    with caplog.at_level(logging.INFO):
        progress.log(stats)
    [line] = caplog.messages
    return line


@pytest.mark.parametrize(
    ("calls", "total", "line"),
    [
        (10, None, "? records, 10 pages, 0.1 pages/s, time left unknown"),
        (0, 1000, "1000 records, 10 pages, 0.0 pages/s, time left unknown"),
        (100, 991, "991 records, 10 pages, 1.0 pages/s, about 2 min left"),  # 90 s
        (100, 990, "990 records, 10 pages, 1.0 pages/s, about 89 s left"),
        (200, 1900, "1900 records, 10 pages, 2.0 pages/s, about 2 min left"),
        (100, 5, "5 records, 10 pages, 1.0 pages/s, about 0 s left"),
    ],
)
def test_progress_text(calls: int, total: int | None, line: str, caplog: pytest.LogCaptureFixture) -> None:
    stats = ExtractStats(records=90, pages=10, calls=calls, totals=[] if total is None else [total])
    assert reported(stats, caplog) == f"Extract of contacts: 90 of {line}"


def test_progress_is_logged_periodically(caplog: pytest.LogCaptureFixture) -> None:
    clock = FakeClock()
    progress, stats = ExtractProgress("deals", clock), ExtractStats(calls=1, pages=1)
    with caplog.at_level(logging.INFO):
        for _ in range(7):
            clock.now += LOG_INTERVAL / 3
            progress.log(stats)
    assert len(caplog.messages) == 2
