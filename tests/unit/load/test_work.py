"""The table between the check and the sending: what is put in comes out, and each row has one fate."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from crm_provider.load.rows import Row, SourceError
from crm_provider.load.state.temp_tables import RowStatus, StagedRow, StagedRows, without_views


@pytest.fixture
def table() -> Iterator[StagedRows]:
    table = StagedRows()
    yield table
    table.close()


def row(number: int, **values: Any) -> Row:
    return Row(number, values, None)


def fates(table: StagedRows) -> list[RowStatus]:
    return [item.fate for item in table.items()]


def test_rows_come_out_in_the_order_of_their_numbers(table: StagedRows) -> None:
    for number in (3, 1, 2):
        table.add(row(number, n=number), RowStatus.SEND, f"key {number}")
    assert list(table.items()) == [StagedRow(row(number, n=number), RowStatus.SEND) for number in (1, 2, 3)]
    assert len(table) == 3


@pytest.mark.parametrize("fate", RowStatus)
def test_those_of_one_fate(table: StagedRows, fate: RowStatus) -> None:
    for number, one in enumerate([*RowStatus, *RowStatus], start=1):
        table.add(row(number), one)
    assert table.count(fate) == 2
    wanted = [fate + 1, fate + 1 + len(RowStatus)]
    assert sorted(table.numbers(fate)) == wanted
    assert [(item.row.number, item.fate) for item in table.items(fate=fate)] == [(n, fate) for n in wanted]
    assert len(table) == len(list(table.items())) == 2 * len(RowStatus)


@pytest.mark.parametrize(
    ("duplicates", "expected"),
    [
        ("last", [RowStatus.DUPLICATE, RowStatus.SEND, RowStatus.DUPLICATE, RowStatus.SEND]),
        ("first", [RowStatus.SEND, RowStatus.SEND, RowStatus.DUPLICATE, RowStatus.DUPLICATE]),
        ("reject", [RowStatus.AMBIGUOUS, RowStatus.SEND, RowStatus.AMBIGUOUS, RowStatus.AMBIGUOUS]),
    ],
)
def test_of_rows_with_one_key_one_is_sent_or_none(
    table: StagedRows, duplicates: Any, expected: list[RowStatus]
) -> None:
    for number, key in enumerate("abaa", start=1):
        table.add(row(number), RowStatus.SEND, key)
    table.settle_duplicates(duplicates)
    assert fates(table) == expected


@pytest.mark.parametrize("duplicates", ["last", "first", "reject"])
def test_rows_without_a_key_are_nobodys_duplicates(table: StagedRows, duplicates: Any) -> None:
    for number, fate in enumerate((RowStatus.INVALID, RowStatus.SUPPRESSED, RowStatus.INVALID), start=1):
        table.add(row(number), fate)
    table.settle_duplicates(duplicates)
    assert fates(table) == [RowStatus.INVALID, RowStatus.SUPPRESSED, RowStatus.INVALID]


def test_what_cannot_be_kept_is_named_by_its_kind_and_not_by_its_value(table: StagedRows) -> None:
    class Lock:
        def __reduce__(self) -> str:
            raise TypeError("cannot pickle p1@x.org")

    with pytest.raises(SourceError) as refused:
        table.add(row(4, email="p1@x.org", lock=Lock()), RowStatus.SEND, "p1@x.org")
    assert str(refused.value).startswith("row 4 has a value of a kind that cannot be kept (its kinds: Lock, str);")
    assert "p1@" not in str(refused.value) and refused.value.__suppress_context__
    assert len(table) == 0 and fates(table) == []


# -- a sample -----------------------------------------------------------------------------------------------


def test_a_sample_is_of_the_rows_to_be_sent_as_they_were_given(table: StagedRows) -> None:
    given = [Row(n, {"n": n}, "odd" if n == 5 else None) for n in range(1, 11)]
    for one in given:
        table.add(one, RowStatus.SEND if one.number % 2 else RowStatus.SAME, str(one.number))
    mixed = sorted(table.mixed(seed=3), key=lambda item: item.row.number)
    assert mixed == [StagedRow(one, RowStatus.SEND) for one in given[::2]]


def test_another_seed_begins_with_other_rows(table: StagedRows) -> None:
    for number in range(1, 1001):
        table.add(row(number), RowStatus.SEND)
    begin = [tuple(item.row.number for item in list(table.mixed(seed))[:20]) for seed in (1, 1, 4_000_000_000)]
    assert begin[0] == begin[1] != begin[2]


# -- views of a driver's memory -----------------------------------------------------------------------------


@pytest.mark.parametrize("view", [memoryview(b"x"), bytearray(b"x")], ids=lambda view: type(view).__name__)
def test_a_view_becomes_bytes_and_the_rest_stays(view: Any) -> None:
    plain = without_views(Row(7, {"picture": view, "name": "Ann", "n": 5}, "odd"))
    assert plain == Row(7, {"picture": b"x", "name": "Ann", "n": 5}, "odd")
    assert type(plain.values["picture"]) is bytes


def test_a_row_without_views_is_not_copied() -> None:
    plain = row(1, name="Ann")
    assert without_views(plain) is plain
