"""Row locations: each row's line is known, and evenly spaced rows take no memory of their own."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crm_provider.load.rows import RowLocations


def noted(lines: list[int]) -> RowLocations:
    places = RowLocations()
    places.begin("a.csv")
    for line in lines:
        places.note(line, None)
    return places


@given(st.lists(st.integers(0, 5) | st.integers(0, 4_000_000_000), max_size=30))
def test_each_row_is_found_at_its_line(lines: list[int]) -> None:
    places = noted(lines)
    expected = [f"a.csv, line {line} (row {n})" if line else f"a.csv, row {n}" for n, line in enumerate(lines, 1)]
    assert [places.place(n) for n in range(1, len(lines) + 1)] == expected
    assert places.place(0) == places.place(len(lines) + 1) == ""


@pytest.mark.parametrize(
    ("lines", "runs"),
    [
        pytest.param([], 0, id="no-rows"),
        pytest.param(list(range(2, 5_000)), 1, id="a-line-each"),
        pytest.param(list(range(2, 5_000, 3)), 1, id="three-lines-each"),
        pytest.param([0] * 5_000, 1, id="a-format-without-lines"),
        pytest.param([2, 3, 4, 9, 10, 11, 12], 2, id="one-row-of-five-lines"),
        pytest.param([*range(2, 900), *range(2, 900)], 2, id="two-files"),
    ],
)
def test_evenly_spaced_rows_are_one_run(lines: list[int], runs: int) -> None:
    assert noted(lines).runs == runs


def test_unreadable_row_is_remembered() -> None:
    places = noted([2, 3])
    places.note(4, "ragged")
    assert [places.is_malformed(n) for n in (1, 2, 3, 4)] == [False, False, True, False]
