"""Samples of rejected rows: row, location, and problem, but never a value."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from crm_provider.errors.on_error import Work
from crm_provider.errors.policy import ErrorPolicy
from crm_provider.load.options import ContactOptions
from crm_provider.load.progress import RowCounts
from crm_provider.load.rejects.file import RejectsFile
from crm_provider.load.rejects.formats import Reject
from crm_provider.load.rejects.samples import LONGEST, LONGEST_VALUE, MOST_SAMPLES, samples_of
from crm_provider.load.row_results import RowResultHandler
from crm_provider.load.rows import Row
from crm_provider.load.state.temp_tables import RowStatus, StagedRow

PLACE = "in.csv, line 8 (row 7)"


@pytest.mark.parametrize(
    ("values", "message", "original", "expected"),
    [
        ({"n": "x"}, f"{PLACE}: phone: no phone number", None, (7, "phone: no phone number")),
        ({"n": "x"}, "phone: no\n phone number", 70, (70, "phone: no phone number")),
        ({"n": "Jane Roe"}, "jane roe is taken", None, (7, "[value] is taken")),
        ({"a": {"b": ["deep value", None, True]}}, "not a deep value, but True", None, (7, "not a [value], but True")),
        ({"n": 12345678}, "12345678 is too large", None, (7, "[value] is too large")),
        ({"n": "y" * (LONGEST_VALUE + 5)}, "z" * 400, None, (7, "z" * LONGEST + "...")),
        ({}, "other@example.com is blocked", None, (7, "[email] is blocked")),
    ],
)
def test_sample_of_rejected_rows(values: Any, message: str, original: int | None, expected: tuple[int, str]) -> None:
    reject = Reject(7, values, "INVALID_INPUT", message, original=original)
    (sample,) = samples_of([reject], {7: PLACE}.__getitem__)
    assert sample == {"row": expected[0], "place": PLACE, "type": "INVALID_INPUT", "message": expected[1]}


@pytest.mark.parametrize(
    ("type_", "message", "shown"),
    [
        ("INVALID_VALUE", "phone: not a phone number", "phone: not a phone number"),
        ("DUPLICATE_ROW", "Several rows have this phone", "Several rows have this phone"),
        ("INVALID_VALUE", "cannot be read; no phone", "cannot be read; no [value]"),
    ],
)
def test_words_of_the_loads_own_messages_stay(type_: str, message: str, shown: str) -> None:
    (sample,) = samples_of([Reject(7, {"channel": "phone"}, type_, message)], lambda number: "")
    assert sample["message"] == shown


def test_source_without_locations() -> None:
    (sample,) = samples_of([Reject(7, {}, "INVALID_INPUT", "A: b")], lambda number: "")
    assert (sample["place"], sample["message"]) == ("", "A: b")


def rejects(numbers: range) -> list[Reject]:
    return [Reject(number, {"email": "none"}, "INVALID_INPUT", "No.") for number in numbers]


def test_resumed_load_has_the_samples_of_all_tries(tmp_path: Path) -> None:
    path = tmp_path / "rejects.jsonl"
    first = RejectsFile(path)
    first.start()
    for reject in rejects(range(1, 4)):
        first.write(reject)
    second = RejectsFile(path)
    second.resume({1, 3}.__contains__)
    for reject in rejects(range(4, 40)):
        second.write(reject)
    assert [reject.number for reject in second.samples] == [1, 3, *range(4, 22)]
    assert len(second.samples) == MOST_SAMPLES
    second.start()
    assert second.samples == []


def test_load_without_a_rejects_file_has_the_samples_of_its_try() -> None:
    handler = RowResultHandler(
        counts=RowCounts(),
        options=ContactOptions(),
        policy=ErrorPolicy(work=Work.LOAD),
        rejects=None,
        fingerprints=None,
    )
    for number in range(1, 30):
        handler.without_call(StagedRow(Row(number, {}), RowStatus.INVALID, problem="email: missing"))
    assert [reject.number for reject in handler.samples] == list(range(1, 21))
    assert handler.samples[0].message == "email: missing"
