"""The watch without a CRM: new members, the stored members, and the back-off after errors."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crm_provider import errors as e
from crm_provider.client.client import CrmClient
from crm_provider.client.pagination import LATER_PAGE_TRIES
from crm_provider.errors.catalog import CATALOGUE
from crm_provider.errors.policy import QUOTA_DELAY
from crm_provider.triggers import cursor as cursor_module
from crm_provider.triggers.connection import SharedSnapshots
from crm_provider.triggers.cursor import Cursor
from crm_provider.waiting.backoff import MAX_ERRORS_IN_A_ROW
from crm_provider.waiting.changes import (
    LONGEST_BACK_OFF,
    MARKS_IN_A_CHUNK,
    MOST_STALLED,
    SLOW,
    ErrorBackoff,
    SeenIds,
    Snapshot,
    SnapshotReading,
    WatchedListing,
    compare,
    fingerprint,
    pack,
    unpack,
)

from .fakes import Bench, Reply, bench, logged

pytestmark = pytest.mark.usefixtures("no_loop_logs")

GROUP = "list-1"
INTERVAL = 60.0


def sweep(**groups: str) -> Snapshot:
    """``sweep(ada="list-1 list-2", alan="")``."""
    return {name: frozenset(found.split()) for name, found in groups.items()}


def marks(*names: str) -> SeenIds:
    return dict.fromkeys(map(fingerprint, names))


# -- new members --


@pytest.mark.parametrize(
    ("known", "seen", "arrived", "after"),
    [
        pytest.param(None, sweep(ada=GROUP, alan=""), (), marks("ada"), id="the first sweep is the baseline"),
        pytest.param(None, sweep(), (), marks(), id="an empty baseline"),
        pytest.param(marks("ada"), sweep(ada=GROUP), (), marks("ada"), id="nothing new"),
        pytest.param(marks(), sweep(ada=GROUP), ("ada",), marks("ada"), id="one joined"),
        pytest.param(marks(), sweep(bob=GROUP, ada=GROUP), ("bob", "ada"), marks("bob", "ada"), id="listed order"),
        pytest.param(marks(), sweep(ada="list-2"), (), marks(), id="into another list"),
        pytest.param(marks(), sweep(ada=f"list-2 {GROUP}"), ("ada",), marks("ada"), id="in two lists"),
        pytest.param(marks("ada"), sweep(ada="list-2"), (), marks(), id="one left"),
        pytest.param(marks("ada"), sweep(bob=""), (), marks("ada"), id="not shown is not left"),
        pytest.param(marks("ada"), sweep(), (), marks("ada"), id="an empty listing"),
    ],
)
def test_events_of_a_sweep(known: SeenIds | None, seen: Snapshot, arrived: tuple[str, ...], after: SeenIds) -> None:
    change = compare(known, seen, GROUP)
    assert (change.arrived, change.seen) == (arrived, after)


NAMES = [f"contact-{number}" for number in range(6)]
WORLDS = st.lists(
    st.tuples(
        st.sets(st.sampled_from(NAMES)),  # members of the list
        st.sets(st.sampled_from(NAMES), max_size=2),  # members that a shifted page omits
        st.booleans(),  # the triggerer restarts
    ),
    max_size=25,
)


@given(WORLDS)
def test_one_event_each_time_a_contact_enters(worlds: list[Any]) -> None:
    known: SeenIds | None = None
    was: dict[str, bool] = {}  # by contact: its last known state
    for first, (members, hidden, restarted) in enumerate(worlds):
        shown = {name: frozenset([GROUP] if name in members else []) for name in NAMES if name not in hidden}
        expected = [name for name in shown if name in members and not was.get(name)] if first else []
        was |= {name: name in members for name in shown}
        change = compare(known, shown, GROUP)
        assert list(change.arrived) == expected
        known = unpack(pack(change.seen)) if restarted else change.seen


# -- stored state --


@given(st.sets(st.integers(0, 2**64 - 1)))
def test_fingerprints_are_stored_unchanged(found: set[int]) -> None:
    assert unpack(pack(dict.fromkeys(found))) == dict.fromkeys(found)


def test_chunk_fits_the_store_and_a_new_member_changes_only_the_last() -> None:
    many = dict.fromkeys(range(2 * MARKS_IN_A_CHUNK + 10))
    before, after = pack(many), pack({**many, fingerprint("ada"): None})
    assert max(len(json.dumps(chunk)) for chunk in before) <= 65_535
    assert [old == new for old, new in zip(before, after, strict=True)] == [True, True, False]


def test_fingerprint_is_the_same_in_every_process() -> None:
    assert fingerprint("ada") == 1562989052550317351  # as stored by earlier versions


class FakeStore:
    """A state store. :attr:`fail_at` counts down the calls to the one that fails."""

    def __init__(self, kept: Mapping[str, Any] | None = None) -> None:
        self.kept: dict[str, Any] = dict(kept or {})
        self.written: list[str] = []
        self.fail_at = 0

    async def aget(self, key: str, default: Any = None) -> Any:
        self._count()
        return self.kept.get(key, default)

    async def aset(self, key: str, value: Any) -> None:
        self._count()
        self.kept[key] = json.loads(json.dumps(value))
        self.written.append(key)

    def _count(self) -> None:
        self.fail_at -= 1
        if self.fail_at == 0:
            raise OSError("no store")


def loaded(*stores: FakeStore) -> SeenIds | None:
    return asyncio.run(Cursor(stores, "key").load())


def stored(known: SeenIds, *stores: FakeStore) -> Cursor:
    found = Cursor(stores, "key")
    found.note(known)
    asyncio.run(found.save())
    return found


MANY = dict.fromkeys(range(MARKS_IN_A_CHUNK + 1))


@pytest.mark.parametrize("known", [marks(), marks("ada"), marks("ada", "alan"), MANY], ids=len)
def test_cursor_outlives_its_process(known: SeenIds) -> None:
    store = FakeStore()
    assert loaded(store) is None
    stored(known, store)
    assert loaded(store) == known


def test_cursor_without_a_store_lasts_as_long_as_the_object() -> None:
    cursor = stored(marks("ada"))
    assert not cursor.persistent
    assert asyncio.run(cursor.load()) == marks("ada")
    assert loaded() is None


def test_only_changes_are_written() -> None:
    store = FakeStore()
    cursor = stored(MANY, store)
    assert store.written == ["key_0", "key_1", "key"]
    store.written.clear()
    cursor.note(dict(MANY))
    asyncio.run(cursor.save())
    assert store.written == []
    cursor.note({**MANY, fingerprint("ada"): None})
    asyncio.run(cursor.save())
    assert store.written == ["key_1", "key"]


def test_interrupted_first_write_does_not_count() -> None:
    store = FakeStore()
    store.fail_at = 3  # the head
    with pytest.raises(OSError, match="no store"):
        stored(MANY, store)
    assert set(store.kept) == {"key_0", "key_1"}
    assert loaded(store) is None


@pytest.mark.parametrize("fail_at", [1, 2])
def test_unstored_changes_are_known_and_stored_later(fail_at: int) -> None:
    store = FakeStore()
    cursor = stored(marks("ada"), store)
    cursor.note(marks("ada", "alan"))
    store.fail_at = fail_at
    with pytest.raises(OSError, match="no store"):
        asyncio.run(cursor.save())
    assert asyncio.run(cursor.load()) == marks("ada", "alan")
    asyncio.run(cursor.save())
    assert loaded(store) == marks("ada", "alan")


def test_failing_store_is_not_a_first_sweep() -> None:
    store = FakeStore()
    stored(marks("ada"), store)
    store.fail_at = 1
    with pytest.raises(OSError, match="no store"):
        loaded(store)


def test_cursor_notices_another_triggerer() -> None:
    store = FakeStore()
    mine, theirs = Cursor([store], "key"), Cursor([store], "key")
    assert asyncio.run(mine.load()) is None
    assert not asyncio.run(mine.overtaken())
    theirs.note(marks("ada"))
    asyncio.run(theirs.save())
    assert asyncio.run(mine.overtaken()), "it was not the first sweep"
    asyncio.run(mine.load())
    assert not asyncio.run(mine.overtaken())
    asyncio.run(mine.save())
    assert not asyncio.run(theirs.overtaken()), "nothing changed"
    assert not asyncio.run(Cursor([], "key").overtaken())


def test_added_asset_gets_the_whole_cursor() -> None:
    first, second = FakeStore(), FakeStore()
    stored(MANY, second)
    cursor = Cursor([first, second], "key")
    assert asyncio.run(cursor.load()) == MANY
    cursor.note({**MANY, fingerprint("ada"): None})
    asyncio.run(cursor.save())
    assert loaded(first) == loaded(second) == {**MANY, fingerprint("ada"): None}


def test_event_gets_time_to_be_written_and_to_start_its_run(monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[float] = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)

    monkeypatch.setattr(cursor_module, "asyncio", SimpleNamespace(sleep=sleep))  # that module's only
    asyncio.run(Cursor([], "key").wait_for_delivery())
    asyncio.run(Cursor([FakeStore()], "key").wait_for_delivery())
    assert slept == [cursor_module.DELIVERY_DELAY] * 2


# -- reading of a listing --


def listing(records: list[dict[str, Any]]) -> Bench:
    pages = [records[start : start + 10] for start in range(0, len(records), 10)]
    return bench(*(Reply(200, {"data": page, "total": len(records)}) for page in pages))


def never() -> bool:
    return False


LISTED: list[Any] = [
    pytest.param("contacts", {"segmentedListsIds": ["List-1", "list-2"]}, {"list-1", "list-2"}, id="in two lists"),
    pytest.param("contacts", {"segmentedListsIds": []}, set(), id="in no list"),
    pytest.param("contacts", {}, set(), id="lists are not shown"),
    pytest.param("deals", {"stageId": "Stage-1"}, {"stage-1"}, id="in a stage"),
]


@pytest.mark.parametrize(("kind", "fields", "groups"), LISTED)
def test_snapshot_has_the_groups_of_each_record(kind: WatchedListing, fields: dict[str, Any], groups: set[str]) -> None:
    it = listing([{"id": 7, **fields}, {"id": "r-8", **fields}])
    assert SnapshotReading(kind).read(it.client, never) == {"7": groups, "r-8": groups}
    assert it.http.sent == [f"GET /{kind}?page=0"]


@pytest.mark.parametrize("stage", [{}, {"stageId": None}, {"stageId": 7}])
def test_a_listing_of_deals_without_stages_is_an_error(stage: dict[str, Any]) -> None:
    reading = SnapshotReading("deals")
    with pytest.raises(e.CrmProtocolError) as raised:
        reading.read(listing([{"id": "d-1", **stage}, {"id": "d-2", **stage}]).client, never)
    assert str(raised.value).startswith("PROTOCOL on GET /deals: no deal of the listing has a stageId.")
    assert not reading.has_progressed, "the next attempt would leave out the rest of the page"
    assert not reading.can_continue(error_of("SERVICE_UNAVAILABLE"))
    some = listing([{"id": "d-1", "stageId": "s-1"}, {"id": "d-2", **stage}]).client
    assert SnapshotReading("deals").read(some, never) == {"d-1": {"s-1"}, "d-2": set()}


def test_stopped_reading_requests_no_more_pages() -> None:
    it = listing([{"id": f"c-{n}"} for n in range(30)])
    asked = iter([False, True])
    assert list(SnapshotReading("contacts").read(it.client, lambda: next(asked))) == [f"c-{n}" for n in range(10)]
    assert it.http.sent == ["GET /contacts?page=0", "GET /contacts?page=1"]


def page_of(first: int, last: int, total: int) -> Reply:
    return Reply(200, {"data": [{"id": f"c-{n}", "segmentedListsIds": [GROUP]} for n in range(first, last)],
                       "total": total})  # fmt: skip


BROKEN = Reply(200, b"<html>Log in</html>", {"Content-Type": "text/html"})


def test_reading_continues_after_the_pages_before_an_error() -> None:
    it = bench(page_of(0, 10, 25), BROKEN, page_of(10, 20, 25), BROKEN, BROKEN, page_of(20, 25, 25))
    reading, progressed = SnapshotReading("contacts"), []
    for _ in range(3):
        with pytest.raises(e.CrmError):
            reading.read(it.client, never)
        progressed.append(reading.has_progressed)
    assert list(reading.read(it.client, never)) == [f"c-{n}" for n in range(25)]
    assert progressed == [True, True, False]
    assert [call[-1] for call in it.http.sent] == list("011222")


def test_outage_does_not_discard_the_pages_before_it() -> None:
    """An attempt without a page says nothing against them, unless it ends with a permanent error."""
    it = bench(page_of(0, 10, 25), *[BROKEN] * (MOST_STALLED + 2))
    outage, permanent = error_of("SERVICE_UNAVAILABLE"), error_of("CONTACT_NOT_FOUND")
    reading, after_an_outage, after_another = SnapshotReading("contacts"), [], []
    assert not reading.can_continue(outage), "no page was read"
    for _ in range(MOST_STALLED + 2):
        with pytest.raises(e.CrmError):
            reading.read(it.client, never)
        after_an_outage.append(reading.can_continue(outage))
        after_another.append(reading.can_continue(permanent))
    assert after_an_outage == [True] * (MOST_STALLED + 1) + [False]
    assert after_another == [True] + [False] * (MOST_STALLED + 1)


def test_reading_notices_deletions_during_its_interruption() -> None:
    """c-3 is deleted after page 0 was read, which moves c-10 onto that page."""
    moved = Reply(200, {"data": [{"id": f"c-{n}"} for n in range(11) if n != 3], "total": 24})
    it = bench(page_of(0, 10, 25), BROKEN, page_of(11, 21, 24), moved, page_of(11, 21, 24), page_of(21, 25, 24))
    reading = SnapshotReading("contacts")
    with pytest.raises(e.CrmError):
        reading.read(it.client, never)
    assert sorted(reading.read(it.client, never)) == sorted(f"c-{n}" for n in range(25))
    assert [call[-1] for call in it.http.sent] == list("011012")


def test_inconsistent_listing_is_read_from_the_start() -> None:
    it = bench(page_of(0, 10, 25), Reply(200, {"data": [], "total": 25}))
    reading = SnapshotReading("contacts")
    with pytest.raises(e.CrmProtocolError, match="ends early"):
        reading.read(it.client, never)
    assert not reading.has_progressed


# -- snapshots that are shared


class Snapshots:
    """The shared snapshots of one connection, whose client can be replaced."""

    def __init__(self, it: Bench) -> None:
        self.client, self.shared = it.client, SharedSnapshots(self.connect)

    async def connect(self) -> CrmClient:
        return self.client

    def read(self, moment: float) -> Snapshot:
        return asyncio.run(self.shared.since("contacts", moment))


def test_watches_continue_an_unfinished_snapshot(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    outage = [Reply(503)] * LATER_PAGE_TRIES
    it = bench(page_of(0, 10, 12), BROKEN, *outage, page_of(10, 12, 12), page_of(0, 2, 2))
    snapshots = Snapshots(it)
    assert not snapshots.shared.has_progressed("contacts")
    with pytest.raises(e.CrmError):
        snapshots.read(0)
    assert snapshots.shared.has_progressed("contacts")
    assert "Read 10 contacts before an error; the next attempt continues there." in caplog.text
    with pytest.raises(e.CrmServiceUnavailableError):
        snapshots.read(1e12)
    assert not snapshots.shared.has_progressed("contacts")
    assert len(snapshots.read(2e12)) == 12
    assert len(snapshots.read(3e12)) == 2, "a complete snapshot is not continued"
    assert [call[-1] for call in it.http.sent] == list("01" + "1" * LATER_PAGE_TRIES + "10")


def test_unfinished_snapshot_of_another_account_is_not_continued() -> None:
    snapshots = Snapshots(bench(page_of(0, 10, 12), BROKEN))
    with pytest.raises(e.CrmError):
        snapshots.read(0)
    other = bench(page_of(0, 2, 2))
    snapshots.client = other.client
    assert list(snapshots.read(1e12)) == ["c-0", "c-1"]
    assert other.http.sent == ["GET /contacts?page=0"]


def test_watches_warn_once_of_developer_mode(caplog: pytest.LogCaptureFixture) -> None:
    snapshots = Snapshots(bench(page_of(0, 2, 2), page_of(0, 2, 2)))
    snapshots.client.settings = snapshots.client.settings.with_(developer_mode=True)
    snapshots.read(0)
    snapshots.read(1e12)
    assert [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING] == [
        "Developer mode: the CRM returns example data and writes nothing."
    ]


# -- errors


def error_of(type_: str, **fields: Any) -> e.CrmError:
    spec = CATALOGUE[type_]
    found = spec.error(spec.messages[0], status=spec.status, method="GET", path="/contacts", request_id="req-1")
    for name, value in fields.items():
        setattr(found, name, value)
    return found


@pytest.mark.parametrize("type_", CATALOGUE)
def test_no_error_causes_a_hot_loop(type_: str) -> None:
    backoff = ErrorBackoff("Watch", INTERVAL)
    delays = [backoff.record_error(error_of(type_)) for _ in range(40)]
    assert min(delays) >= INTERVAL
    assert max(delays) <= LONGEST_BACK_OFF
    assert delays == sorted(delays)


@pytest.mark.parametrize(
    ("type_", "fields", "interval", "delays"),
    [
        ("INTERNAL_SERVER_ERROR", {}, 60, [60, 120, 240, 480, 900, 900]),
        ("TOO_MANY_REQUESTS", {}, 60, [60, 120, 240]),
        ("TOO_MANY_REQUESTS", {"retry_after": 7}, 60, [60, 120, 240]),
        ("TOO_MANY_REQUESTS", {"retry_after": 5000}, 60, [5000, 5000]),
        ("LIMIT_EXCEEDED", {}, 60, [QUOTA_DELAY, QUOTA_DELAY]),
        ("FORBIDDEN", {}, 60, [SLOW, SLOW]),
        ("FORBIDDEN", {}, 3600, [3600]),
        ("INTERNAL_SERVER_ERROR", {}, 3600, [3600, 3600]),
        ("PROTOCOL", {}, 60, [SLOW, SLOW]),
    ],
)
def test_delay_after_an_error(type_: str, fields: dict[str, float], interval: float, delays: list[float]) -> None:
    backoff = ErrorBackoff("Watch", interval)
    assert [backoff.record_error(error_of(type_, **fields)) for _ in delays] == delays


def test_error_behind_new_pages_is_the_first_in_a_row() -> None:
    backoff, error = ErrorBackoff("Watch", 60), error_of("INTERNAL_SERVER_ERROR")
    progressed = [False, False, True, False, True]
    assert [backoff.record_error(error, has_progressed=each) for each in progressed] == [60, 120, 60, 120, 60]


@pytest.mark.parametrize(
    ("type_", "levels"),
    [
        ("FORBIDDEN", [logging.ERROR]),
        ("INVALID_PARAMS", [logging.ERROR]),
        ("INTERNAL_SERVER_ERROR", [logging.WARNING, logging.ERROR]),
        ("TOO_MANY_REQUESTS", [logging.WARNING, logging.ERROR]),
    ],
)
def test_error_is_logged_once(type_: str, levels: list[int], caplog: pytest.LogCaptureFixture) -> None:
    backoff = ErrorBackoff("Watch of list_id 7", INTERVAL)
    for _ in range(2 * MAX_ERRORS_IN_A_ROW):
        backoff.record_error(error_of(type_))
    assert [record.levelno for record in logged(caplog)] == levels
    texts = [record.getMessage() for record in logged(caplog)]
    assert all("Watch of list_id 7" in text and type_ in text and "req-1" in text for text in texts)


def test_error_is_logged_again_after_a_recovery(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    backoff = ErrorBackoff("Watch", INTERVAL)
    backoff.record_success()
    assert logged(caplog) == []
    for _ in range(2):
        backoff.record_error(error_of("FORBIDDEN"))
        backoff.record_error(error_of("FORBIDDEN"))
        backoff.record_success()
    assert [record.levelno for record in logged(caplog)] == [logging.ERROR, logging.INFO] * 2
    assert backoff.record_error(error_of("INTERNAL_SERVER_ERROR")) == INTERVAL
