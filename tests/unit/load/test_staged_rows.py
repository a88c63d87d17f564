"""Staged rows: they come out unchanged, each row has one status, and the table has a budget."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import closing
from decimal import Decimal
from types import MappingProxyType
from typing import Any

import pytest

from crm_provider.load.preflight import without_views
from crm_provider.load.rows import Contact, EarlierCreation, Row, SourceError
from crm_provider.load.state import temp_tables
from crm_provider.load.state.temp_tables import AT_ONCE, BETWEEN, RowStatus, StagedRow, StagedRows
from crm_provider.values.json_values import lenient_json


@pytest.fixture
def table() -> Iterator[StagedRows]:
    table = StagedRows()
    yield table
    table.close()


def row(number: int, **values: Any) -> Row:
    return Row(number, values, None)


def contact(key: object) -> Contact:
    return Contact(f"{key}@x.org", {"key": str(key)}, {"utmSource": "x"})


def statuses(table: StagedRows) -> list[RowStatus]:
    return [item.status for item in table.rows()]


def test_rows_come_out_in_the_order_of_their_numbers(table: StagedRows) -> None:
    for number in (3, 1, 2):
        table.add(row(number, n=number), RowStatus.SEND, contact(number))
    assert list(table.rows()) == [
        StagedRow(row(number, n=number), RowStatus.SEND, contact(number)) for number in (1, 2, 3)
    ]
    assert len(table) == 3


@pytest.mark.parametrize("status", RowStatus)
def test_rows_are_counted_by_status(table: StagedRows, status: RowStatus) -> None:
    for number, one in enumerate([*RowStatus, *RowStatus], start=1):
        table.add(row(number), one)
    assert table.counts() == dict.fromkeys(RowStatus, 2)
    wanted = [status + 1, status + 1 + len(RowStatus)]
    assert [item.row.number for item in table.rows() if item.status is status] == wanted
    assert len(table) == len(list(table.rows())) == 2 * len(RowStatus)


@pytest.mark.parametrize(
    ("duplicates", "expected"),
    [
        ("last", [RowStatus.DUPLICATE, RowStatus.SEND, RowStatus.DUPLICATE, RowStatus.SEND]),
        ("first", [RowStatus.SEND, RowStatus.SEND, RowStatus.DUPLICATE, RowStatus.DUPLICATE]),
        ("reject", [RowStatus.AMBIGUOUS, RowStatus.SEND, RowStatus.AMBIGUOUS, RowStatus.AMBIGUOUS]),
    ],
)
def test_one_or_no_row_of_each_key_is_sent(table: StagedRows, duplicates: Any, expected: list[RowStatus]) -> None:
    for number, key in enumerate("abaa", start=1):
        table.add(row(number), RowStatus.SEND, contact(key))
    table.mark_duplicates(duplicates)
    assert statuses(table) == expected


@pytest.mark.parametrize("duplicates", ["last", "first", "reject"])
def test_rows_without_a_key_are_no_duplicates(table: StagedRows, duplicates: Any) -> None:
    for number, status in enumerate((RowStatus.INVALID, RowStatus.SUPPRESSED, RowStatus.INVALID), start=1):
        table.add(row(number), status)
    table.mark_duplicates(duplicates)
    assert statuses(table) == [RowStatus.INVALID, RowStatus.SUPPRESSED, RowStatus.INVALID]


def test_value_that_cannot_be_stored_is_kept_as_the_rejects_file_shows_it(table: StagedRows) -> None:
    deep: list[Any] = []
    for _ in range(600):
        deep = [deep]
    given = {"email": "p1@x.org", "lock": threading.Lock(), "deep": deep, "view": MappingProxyType({"n": Decimal(1)})}
    table.add(row(1, **given), RowStatus.INVALID)
    (staged,) = table.rows()
    assert staged.row.values == lenient_json(given)


# -- rows to send -------------------------------------------------------------------------------------------


def test_contact_of_a_row_keeps_its_exact_values(table: StagedRows) -> None:
    attributes = {"n": Decimal("1.50"), "big": 12345678901234567, "list": [1, None], "on": True, "x": 0.1}
    table.add(row(1, n="1,5"), RowStatus.SEND, Contact("Ann@x.org", attributes))
    (staged,) = table.rows()
    assert staged.record == Contact("Ann@x.org", attributes, None)
    assert [type(value) for value in staged.record.attributes.values()] == [Decimal, int, list, bool, float]
    assert table.attribute_names == set(attributes)


def test_invalid_row_keeps_its_problems(table: StagedRows) -> None:
    table.add(row(1, email="nobody"), RowStatus.INVALID, problem="email: no address")
    assert list(table.rows()) == [StagedRow(row(1, email="nobody"), RowStatus.INVALID, None, "email: no address")]


def test_rows_with_different_columns_keep_their_own(table: StagedRows, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(temp_tables, "KEPT_NAMES", 2)
    given = [row(n, **{f"column {n % 5}": n, "same": "x"}) for n in range(1, 11)]
    for one in given:
        table.add(one, RowStatus.SEND, contact(one.number))
    assert [staged.row for staged in table.rows()] == given
    assert [staged.record for staged in table.rows()] == [contact(one.number) for one in given]


def test_done_rows_are_left_out(table: StagedRows) -> None:
    for number in range(1, 9):
        table.add(row(number), RowStatus.SEND if number != 4 else RowStatus.SAME, contact(number))
    assert [staged.row.number for staged in table.rows(after=2, without={5, 7})] == [3, 4, 6, 8]
    assert sorted(staged.row.number for staged in table.mixed(1, after=2, without={5, 7})) == [3, 6, 8]
    assert table.count_to_send(after=2, without={5, 7}) == 3


def test_column_names_are_stored_once_for_all_rows() -> None:
    """A header of ten thousand columns over nearly empty rows must not fill the disk."""
    columns = {f"a column with a long name, {n}": "" for n in range(10_000)}
    with closing(StagedRows(most_bytes=4_000_000)) as table:
        for number in range(1, 101):
            table.add(Row(number, columns), RowStatus.SEND, contact(number))


def test_rows_have_a_budget_and_the_error_names_the_location() -> None:
    with closing(StagedRows(most_bytes=3 << 20)) as table:
        for number in (1, 2):
            table.add(row(number, text=str(number) * (1 << 20)), RowStatus.SEND, contact(number))
        with pytest.raises(SourceError) as refused:
            table.add(
                row(3, text="3" * (1 << 20)), RowStatus.SEND, place=lambda number: f"in.csv, line 9 (row {number})"
            )
    assert str(refused.value) == (
        "in.csv, line 9 (row 3): the rows up to here take more than 3 MiB in the temporary database of the load; split "
        "the source into several loads"
    )


# -- a sample -----------------------------------------------------------------------------------------------


def test_sample_has_rows_to_send_in_source_order(table: StagedRows) -> None:
    given = [Row(n, {"n": n}, "odd" if n == 5 else None) for n in range(1, 11)]
    for one in given:
        table.add(one, RowStatus.SEND if one.number % 2 else RowStatus.SAME, contact(one.number))
    mixed = sorted(table.mixed(seed=3), key=lambda item: item.row.number)
    assert mixed == [StagedRow(one, RowStatus.SEND, contact(one.number)) for one in given[::2]]


def test_another_seed_starts_with_other_rows(table: StagedRows) -> None:
    for number in range(1, 1001):
        table.add(row(number), RowStatus.SEND)
    begin = [tuple(item.row.number for item in list(table.mixed(seed))[:20]) for seed in (1, 1, 4_000_000_000)]
    assert begin[0] == begin[1] != begin[2]


# -- views of a driver's memory -----------------------------------------------------------------------------


@pytest.mark.parametrize("view", [memoryview(b"x"), bytearray(b"x")], ids=lambda view: type(view).__name__)
def test_view_becomes_bytes_and_other_values_stay(view: Any) -> None:
    plain = without_views(Row(7, {"picture": view, "name": "Ann", "n": 5}, "odd"))
    assert plain == Row(7, {"picture": b"x", "name": "Ann", "n": 5}, "odd")
    assert type(plain.values["picture"]) is bytes


def test_row_without_views_is_not_copied() -> None:
    plain = row(1, name="Ann")
    assert without_views(plain) is plain


def test_rows_are_inserted_in_batches(table: StagedRows) -> None:
    """Two of three rows are texts, which :func:`check` has joined."""
    held = []
    rows = [row(n, n=n if n % 3 == 0 else str(n), empty="") for n in range(1, 501)]
    for one in rows:
        text = None if one.number % 3 == 0 else f"{one.number}{BETWEEN}"
        table.add(one, RowStatus.SEND, contact(one.number), text=text)
        held.append(len(table._block_to_write))
    assert max(held) == AT_ONCE - 1
    assert held[AT_ONCE - 1] == held[2 * AT_ONCE - 1] == 0
    assert len(table) == 500
    assert not table._block_to_write
    given = [StagedRow(one, RowStatus.SEND, contact(one.number)) for one in rows]
    both = list(zip(table.rows(), table.mixed(seed=1), strict=True))
    assert [in_order for in_order, _ in both] == given
    assert sorted((mixed for _, mixed in both), key=lambda item: item.row.number) == given


def test_wide_rows_are_inserted_in_smaller_batches(table: StagedRows) -> None:
    """Rows of 400 KB: the third one exceeds 1 MiB."""
    held = []
    for number in range(1, 8):
        table.add(row(number, text=str(number) * 400_000), RowStatus.SEND)
        held.append(len(table._block_to_write))
    assert held == [1, 2, 0, 1, 2, 0, 1]
    assert [len(item.row.values["text"]) for item in table.rows()] == [400_000] * 7
    table.add(row(8, text="8" * 3_000_000), RowStatus.SEND)
    assert not table._block_to_write, "a row of 3 MB is inserted at once"


def test_table_knows_whether_an_earlier_load_may_have_created_a_record(table: StagedRows) -> None:
    table.add(Row(1, {}), RowStatus.SEND, Contact("a@x", {}))
    assert not table.has_made
    table.add(Row(2, {}, made=EarlierCreation()), RowStatus.SEND, Contact("b@x", {}))
    table.add(Row(3, {}), RowStatus.SEND, Contact("c@x", {}))
    assert table.has_made
    assert [item.row.made for item in table.rows()] == [None, EarlierCreation(), None]
