"""Extracting a listing to a file: complete or not at all, each record once, and changes meanwhile are reported."""

from __future__ import annotations

import csv
import gzip
import json
import logging
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet
import pytest
from upath import UPath

from crm_provider import errors as e
from crm_provider.client.client import CrmClient
from crm_provider.client.pagination import ListedPage, ListingProgress, Page, walk_pages
from crm_provider.client.settings import Settings
from crm_provider.extract.extractor import Extractor, ExtractUnsaved
from crm_provider.extract.partial_pages import Owner, PartialPages
from crm_provider.extract.reader import RESTARTS, ListingChanged
from crm_provider.sandbox import Sandbox

Records = list[dict[str, Any]]


def records(start: int, end: int) -> Records:
    return [{"id": f"c-{n}", "email": f"{n}@example.com", "attributes": {"n": n}} for n in range(start, end)]


class FakeClient:
    """Reads pages of the current ``held`` one after the other; calls ``before`` with the number of each page."""

    def __init__(self, held: Records, before: Callable[[int], None] = lambda number: None) -> None:
        self.settings = Settings(api_key="key", base_url="http://127.0.0.1:9/v2", rate_store="off")
        self.held, self.before = held, before
        self.reads: list[int] = []

    def list_pages(
        self, listing: str, *, earlier: Iterable[Page], progress: ListingProgress, use_decimal: bool, at_once: int
    ) -> Iterator[ListedPage]:
        assert use_decimal
        self.at_once = at_once
        return walk_pages(self._fetch, "/contacts", earlier, progress)

    def _fetch(self, number: int) -> Page:
        self.before(number)
        self.reads.append(number)
        return Page(self.held[number * 10 : number * 10 + 10], len(self.held))


def extract(client: Any, target: Any, **options: Any) -> Extractor:
    return Extractor(client, "contacts", target, **options)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def ids_in(path: Path) -> list[str]:
    return [json.loads(line)["id"] for line in path.read_text("utf-8").splitlines()]


# -- a listing that does not change ---------------------------------------------------------------------------


@pytest.mark.parametrize("count", [0, 1, 10, 25])
def test_every_record_is_extracted_once(count: int, tmp_path: Path) -> None:
    target = tmp_path / "new" / "contacts.jsonl"
    client = FakeClient(records(0, count))
    done = extract(client, target).run()
    pages = max(-(-count // 10), 1)
    assert done.pop("seconds") >= 0
    assert done == {
        "records": count,
        "pages": pages,
        "calls": pages,
        "total": count,
        "total_at_start": count,
        "duplicates": 0,
        "changed_during_read": False,
        "path": str(target),
    }
    assert ids_in(target) == [record["id"] for record in client.held]
    assert names(target.parent) == ["contacts.jsonl"]


def test_extracted_fields(tmp_path: Path) -> None:
    target = tmp_path / "contacts.csv.gz"
    extract(FakeClient(records(0, 12)), target, fields=["email", "attributes.n", "none"]).run()
    rows = list(csv.reader(gzip.decompress(target.read_bytes()).decode().splitlines()))
    assert rows[:2] == [["email", "attributes.n", "none"], ["0@example.com", "0", ""]]
    assert len(rows) == 13


@pytest.mark.parametrize(
    ("name", "held", "options", "text"),
    [
        ("c.csv", [], {}, "id\n"),
        ("c.csv", [{"id": "=1+1"}], {}, "id\n=1+1\n"),
        ("c.csv", [{"id": "=1+1"}], {"formula_guard": True}, "id\n'=1+1\n"),
        ("c.jsonl", [{"id": "1", "n": 2}], {}, '{"id": "1", "n": 2}\n'),
        ("c.jsonl", [{"id": "1", "n": 2}], {"fields": ["n"]}, '{"n": 2}\n'),
    ],
)
def test_file_options(name: str, held: Records, options: dict[str, Any], text: str, tmp_path: Path) -> None:
    extract(FakeClient(held), tmp_path / name, **options).run()
    assert (tmp_path / name).read_bytes().decode().replace("\r\n", "\n") == text


def test_parquet_holds_text_unless_types_are_requested(tmp_path: Path) -> None:
    extract(FakeClient([{"id": "1", "n": 2}]), tmp_path / "c.parquet").run()
    assert pyarrow.parquet.read_table(tmp_path / "c.parquet").to_pylist() == [{"id": "1", "n": "2"}]


def test_only_parquet_needs_pyarrow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    client = FakeClient([])
    extract(client, tmp_path / "c.csv")
    with pytest.raises(e.CrmInvalidValueError, match="pyarrow"):
        extract(client, tmp_path / "c.parquet")
    assert client.reads == []


def test_column_that_only_the_last_page_has(tmp_path: Path) -> None:
    held = [*records(0, 24), {"id": "c-24", "attributes": {"late": "x"}}]
    extract(FakeClient(held), tmp_path / "contacts.csv").run()
    rows = list(csv.DictReader((tmp_path / "contacts.csv").read_text().splitlines()))
    assert list(rows[0]) == ["id", "email", "attributes.late", "attributes.n"]
    assert (rows[0]["attributes.late"], rows[-1]["attributes.late"]) == ("", "x")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"target": "contacts.txt"}, "does not show its format"),
        ({"target": ""}, "empty"),
        ({"target": "s3://bucket/contacts.csv"}, "ObjectStoragePath"),
        ({"format": "xlsx"}, "jsonl, csv, parquet"),
        ({"fields": []}, "fields"),
        ({"if_changed": "ignore"}, "warn, fail, restart"),
    ],
)
def test_invalid_options_are_refused_before_any_read(options: dict[str, Any], message: str) -> None:
    client = FakeClient(records(0, 5))
    with pytest.raises(e.CrmInvalidValueError, match=message):
        extract(client, **{"target": "contacts.csv", **options})
    assert client.reads == []


@pytest.mark.parametrize(("umask", "mode"), [(0, 0o660), (0o022, 0o640), (0o077, 0o600)])
def test_new_file_follows_the_umask_but_hides_from_others(
    umask: int, mode: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, set_umask, meanwhile = os.umask(umask), os.umask, []
    monkeypatch.setattr(os, "umask", lambda mask: meanwhile.append(mask) or set_umask(mask))
    try:
        extract(FakeClient(records(0, 5)), tmp_path / "new" / "contacts.csv").run()
        assert os.umask(umask) == umask, "the umask of the process is unchanged"
    finally:
        os.umask(before)
    assert (tmp_path / "new" / "contacts.csv").stat().st_mode & 0o777 == mode
    assert (tmp_path / "new").stat().st_mode & 0o777 == 0o770 & ~umask
    assert 0o077 in meanwhile, "files that another thread creates meanwhile are private"


def test_replaced_file_keeps_its_permissions(tmp_path: Path) -> None:
    target = tmp_path / "contacts.csv"
    target.touch()
    target.chmod(0o660)
    extract(FakeClient(records(0, 5)), target).run()
    assert target.stat().st_mode & 0o777 == 0o660


@pytest.mark.parametrize(("rate", "at_once"), [(0.05, 1), (1, 1), (2.5, 2), (5, 4), (100, 4)])
def test_pages_in_flight_are_limited_to_one_second_of_the_rate(rate: float, at_once: int, tmp_path: Path) -> None:
    client = FakeClient(records(0, 5))
    client.settings = client.settings.with_(requests_per_second=rate)
    extract(client, tmp_path / "contacts.csv").run()
    assert client.at_once == at_once


# -- stopped and resumed --------------------------------------------------------------------------------------


def stops_at(page: int, error: BaseException) -> Callable[[int], None]:
    """Raises when the given page is about to be read for the first time."""
    left = [error]

    def before(number: int) -> None:
        if number == page and left:
            raise left.pop()

    return before


@pytest.fixture(params=["local", "store"])
def target(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    return tmp_path / "contacts.jsonl" if request.param == "local" else UPath(f"memory://{tmp_path}/contacts.jsonl")


@pytest.mark.parametrize("page", [0, 1, 4])
@pytest.mark.parametrize(
    "error",
    [e.CrmLimitExceededError("Limit Exceeded"), e.CrmProtocolError("not JSON"), KeyboardInterrupt()],
    ids=lambda error: type(error).__name__,
)
def test_next_try_continues_where_the_last_one_stopped(page: int, error: BaseException, target: Any) -> None:
    client = FakeClient(records(0, 45), stops_at(page, error))
    with pytest.raises(type(error)):
        extract(client, target).run()
    assert not target.exists()
    done = extract(client, target).run()
    assert client.reads == list(range(5)), "no page was read twice"
    assert (done["records"], done["pages"], done["calls"]) == (45, 5, 5 - page)
    assert len(target.read_text().splitlines()) == 45
    assert [path.name for path in target.parent.iterdir()] == ["contacts.jsonl"]


def test_stop_while_writing_keeps_the_old_file_and_costs_no_call(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "contacts.jsonl"
    target.write_text("old")
    client = FakeClient(records(0, 25))
    count = [0]

    def stops(value: Any) -> str:
        count[0] += 1
        if count[0] == 15:
            raise KeyboardInterrupt
        return json.dumps(value)

    with monkeypatch.context() as patch:
        patch.setattr("crm_provider.extract.writers.json_text", stops)
        with pytest.raises(KeyboardInterrupt):
            extract(client, target).run()
    assert target.read_text() == "old"
    assert extract(client, target).run()["calls"] == 0
    assert len(ids_in(target)) == 25


def test_clear_starts_anew(tmp_path: Path) -> None:
    target = tmp_path / "contacts.jsonl"
    client = FakeClient(records(0, 25), stops_at(1, e.CrmTimeoutError("no response")))
    with pytest.raises(e.CrmTimeoutError):
        extract(client, target, owner=Owner(work="task", epoch=0)).run()
    assert extract(client, target, owner=Owner(work="task", epoch=1)).run()["calls"] == 3
    assert names(tmp_path) == ["contacts.jsonl"]


def test_discard_removes_the_pages(tmp_path: Path) -> None:
    client = FakeClient(records(0, 25), stops_at(1, e.CrmForbiddenError("no")))
    job = extract(client, tmp_path / "contacts.jsonl")
    with pytest.raises(e.CrmForbiddenError):
        job.run()
    assert names(tmp_path) != []
    job.discard()
    assert names(tmp_path) == []


def test_vanished_parts_never_give_a_partial_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "contacts.jsonl"

    def vanish(number: int) -> None:
        for path in tmp_path.iterdir():
            path.unlink()

    with pytest.raises(ExtractUnsaved, match="another try or program has removed or replaced it"):
        extract(FakeClient(records(0, 25), vanish), target).run()
    assert not target.exists()


def test_pages_of_two_extracts_in_one_file_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(PartialPages, "pages", lambda self: iter(()))
    with pytest.raises(RuntimeError, match="another extract writes the same file"):
        extract(FakeClient(records(0, 25)), tmp_path / "contacts.jsonl").run()
    assert not (tmp_path / "contacts.jsonl").exists()


# -- a listing that changes -----------------------------------------------------------------------------------


def changing(change: Callable[[Records], None], times: int = 1) -> FakeClient:
    """A client of 30 records that change after page 0 was read, in the first N readings."""
    left = [times]

    def before(number: int) -> None:
        if number == 1 and left[0]:
            left[0] -= 1
            change(client.held)

    client = FakeClient(records(0, 30), before)
    return client


def delete_one(held: Records) -> None:
    del held[3]


def delete_ten(held: Records) -> None:
    del held[:10]


def add_in_front(held: Records) -> None:
    held[:0] = records(100 + len(held), 101 + len(held))


def add_at_the_end(held: Records) -> None:
    held += records(100, 101)


def swap_unseen(held: Records) -> None:
    """As many records added as deleted between two pages, which is invisible."""
    delete_one(held)
    add_at_the_end(held)


@pytest.mark.parametrize(
    ("change", "figures"),
    [
        (delete_one, {"records": 29, "total": 29, "total_at_start": 30, "duplicates": 0}),
        (delete_ten, {"records": 20, "total": 20, "total_at_start": 30, "duplicates": 0}),
        (add_in_front, {"records": 30, "total": 31, "total_at_start": 30, "duplicates": 1}),
        (add_at_the_end, {"records": 31, "total": 31, "total_at_start": 30, "duplicates": 0}),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_change_while_reading_is_reported(
    change: Callable[[Records], None], figures: dict[str, int], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    target = tmp_path / "contacts.jsonl"
    done: Any = extract(changing(change), target).run()
    assert done["changed_during_read"] is True
    assert {name: done[name] for name in figures} == figures
    found = ids_in(target)
    assert len(found) == len(set(found)) == figures["records"]
    (line,) = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert f"30 -> {figures['total']}" in line
    assert "may miss others that a deletion moved" in line


def test_invisible_change_is_not_reported(tmp_path: Path) -> None:
    """Documented behaviour. Update the documentation if this improves."""
    target = tmp_path / "contacts.jsonl"
    assert extract(changing(swap_unseen), target).run()["changed_during_read"] is False
    assert "c-10" not in ids_in(target)


def test_change_before_the_next_try_is_reported(tmp_path: Path) -> None:
    client = FakeClient(records(0, 30), stops_at(1, e.CrmTimeoutError("no response")))
    with pytest.raises(e.CrmTimeoutError):
        extract(client, tmp_path / "contacts.jsonl").run()
    delete_one(client.held)
    assert extract(client, tmp_path / "contacts.jsonl").run()["changed_during_read"] is True


def test_fail_writes_nothing_and_the_next_try_reads_anew(tmp_path: Path) -> None:
    client = changing(delete_one)
    with pytest.raises(ListingChanged, match=r"30 -> 29.*Nothing was written"):
        extract(client, tmp_path / "contacts.jsonl", if_changed="fail").run()
    assert names(tmp_path) == []
    assert extract(client, tmp_path / "contacts.jsonl", if_changed="fail").run()["records"] == 29


def test_restart_reads_until_the_listing_is_quiet(tmp_path: Path) -> None:
    client = changing(delete_one, times=RESTARTS)
    done = extract(client, tmp_path / "contacts.jsonl", if_changed="restart").run()
    assert done["changed_during_read"] is False
    assert (done["records"], done["pages"], done["calls"]) == (30 - RESTARTS, 3, 3 * (RESTARTS + 1))
    assert "c-10" in ids_in(tmp_path / "contacts.jsonl")


def test_restart_gives_up_eventually(tmp_path: Path) -> None:
    client = changing(delete_one, times=100)
    with pytest.raises(ListingChanged):
        extract(client, tmp_path / "contacts.jsonl", if_changed="restart").run()
    assert client.reads.count(0) == RESTARTS + 1
    assert names(tmp_path) == []


@pytest.mark.parametrize("is_missing", [False, True], ids=["empty page", "404"])
def test_listing_that_ends_before_its_total_is_an_error(is_missing: bool, tmp_path: Path) -> None:
    reads: list[int] = []

    def fetch(number: int) -> Page:
        reads.append(number)
        if number and is_missing:
            raise e.CrmNotFoundError("no such page")
        return Page(records(0, 10) if number == 0 else [], 30)

    client = FakeClient(records(0, 30))
    client._fetch = fetch  # type: ignore[method-assign]
    with pytest.raises(e.CrmProtocolError, match="ends early"):
        extract(client, tmp_path / "contacts.jsonl").run()
    assert reads == [0, 1], "it has not changed, so another reading would show the same"
    assert names(tmp_path) == [], "a retry reads the listing anew"


def test_listing_that_ends_early_because_it_changes_is_read_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def change_once(number: int) -> None:
        if number == 5 and len(held) == 100:  # page 5 repeats page 4, and one record of those announced is gone
            held[:] = [*records(100, 110), *held[:-1]]

    held = records(0, 100)
    client = FakeClient(held, change_once)
    done = extract(client, tmp_path / "contacts.jsonl").run()
    assert (done["records"], done["pages"], done["calls"]) == (109, 11, 12 + 11)
    assert sorted(ids_in(tmp_path / "contacts.jsonl")) == sorted(record["id"] for record in held)
    assert "ends early, after 99 of 100 records: page 11 has none" in caplog.text


def test_listing_that_ends_early_at_every_reading_is_an_error(tmp_path: Path) -> None:
    client = FakeClient(records(0, 30))

    def fetch(number: int) -> Page:
        client.reads.append(number)
        return Page(records(0, 10) if number < 2 else [], 30 - number)

    client._fetch = fetch  # type: ignore[method-assign]
    with pytest.raises(e.CrmProtocolError, match="ends early"):
        extract(client, tmp_path / "contacts.jsonl").run()
    assert client.reads == [0, 1, 2] * (RESTARTS + 1)
    assert names(tmp_path) == []


def test_seconds_are_those_of_the_run_in_milliseconds(tmp_path: Path) -> None:
    now = [1000.0]

    def takes_a_while(number: int) -> None:
        now[0] += 0.1111

    client = FakeClient(records(0, 25), takes_a_while)
    assert extract(client, tmp_path / "contacts.jsonl", clock=lambda: now[0]).run()["seconds"] == 0.333


# -- logs -----------------------------------------------------------------------------------------------------


def test_progress_is_logged_every_30_seconds_without_values(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    now = [0.0]

    def a_quarter_second(number: int) -> None:
        now[0] += 0.25

    client = FakeClient(records(0, 2500), a_quarter_second)
    extract(client, tmp_path / "contacts.jsonl", clock=lambda: now[0]).run()
    lines = [record.getMessage() for record in caplog.records if "pages/s" in record.getMessage()]
    assert lines == [
        "Extract of contacts: 1200 of 2500 records, 120 pages, 4.0 pages/s, about 32 s left",
        "Extract of contacts: 2400 of 2500 records, 240 pages, 4.0 pages/s, about 2 s left",
    ]
    assert "@example.com" not in caplog.text


@pytest.mark.parametrize("of", ["other key", "other host", "other mode", "other listing"])
def test_pages_of_another_source_are_not_mixed_in(of: str, tmp_path: Path) -> None:
    client = FakeClient(records(0, 25), stops_at(2, e.CrmTimeoutError("no response")))
    with pytest.raises(e.CrmTimeoutError):
        extract(client, tmp_path / "contacts.jsonl").run()
    if of == "other key":
        client.settings = client.settings.with_(api_key="another")
    elif of == "other mode":
        client.settings = client.settings.with_(developer_mode=True)
    elif of == "other host":
        client.settings = client.settings.with_(base_url="http://127.0.0.1:8/v2")
    listing: Any = "deals" if of == "other listing" else "contacts"
    assert Extractor(client, listing, tmp_path / "contacts.jsonl").run()["calls"] == 3  # type: ignore[arg-type]


def test_header_of_the_pages_names_the_source_and_the_time(tmp_path: Path) -> None:
    client = FakeClient(records(0, 25), stops_at(2, e.CrmTimeoutError("no response")))
    with pytest.raises(e.CrmTimeoutError):
        extract(client, tmp_path / "contacts.jsonl", wall_clock=lambda: 1234.5).run()
    (part,) = tmp_path.iterdir()
    source = "a1f8e32d26ae11c1"  # printf 'contacts\nhttp://127.0.0.1:9/v2\nFalse\nkey' | sha256sum
    assert json.loads(part.read_text().splitlines()[0]) == {"version": 1, "source": source, "started": 1234.5}


def test_neither_parts_nor_names_reveal_the_key(tmp_path: Path) -> None:
    client = FakeClient(records(0, 25), stops_at(2, e.CrmTimeoutError("no response")))
    client.settings = client.settings.with_(api_key="Zq8xPlanted")
    with pytest.raises(e.CrmTimeoutError):
        extract(client, tmp_path / "contacts.jsonl", owner=Owner(work="Zq8xPlanted")).run()
    (part,) = tmp_path.iterdir()
    assert "Zq8x" not in part.name + part.read_text()


# -- the sandbox over HTTP ------------------------------------------------------------------------------------


def client_of(sandbox: Sandbox) -> CrmClient:
    return CrmClient(Settings(api_key=sandbox.api_key or "", base_url=sandbox.url, rate_store="off"))


@pytest.mark.crm_sandbox(seed="contacts:3", rate=None)
def test_digits_over_http(crm_sandbox: Sandbox, tmp_path: Path) -> None:
    body = '{"data": {"page": 0, "total": 1, "data": [{"id": "1", "n": 1200.50, "m": 0.1000000000000000055}]}}'
    crm_sandbox.add_fault(effect="garbage", status=200, body=body)
    with client_of(crm_sandbox) as client:
        Extractor(client, "deals", tmp_path / "deals.jsonl").run()
        Extractor(client, "deals", tmp_path / "deals.csv").run()
    assert (tmp_path / "deals.jsonl").read_text() == '{"id": "1", "n": 1200.50, "m": 0.1000000000000000055}\n'
    assert (tmp_path / "deals.csv").read_text().splitlines()[1] == "1,0.1000000000000000055,1200.50"
