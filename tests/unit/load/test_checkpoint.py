"""Checkpoints: small, exact, and refused by other loads."""

from __future__ import annotations

import dataclasses
import json
import logging
import stat
import uuid
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from upath import UPath

from crm_provider.files.paths import is_local
from crm_provider.load.state.checkpoint import Checkpoint, DoneRows, FileCheckpoints, NoCheckpoints, resumable

FULL = Checkpoint(
    epoch=3, fingerprint="f" * 32, done_upto=1_000_000, done_above=tuple(range(1_000_002, 1_001_002, 2)),
    counts={"created": 5, "updated": 6}, errors={"INVALID_INPUT": 2}, calls=17, seconds=1.5, notes={"plan": "compare"},
)  # fmt: skip


def test_json_round_trip() -> None:
    data = json.dumps(FULL.as_data())
    assert Checkpoint.from_data(json.loads(data)) == FULL
    assert len(data) < 16_000
    assert FULL.rows == 1_000_500


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({}, None),
        ({"version": 2}, "the checkpoint is of version 2 of this package's data, which is now 1"),
        ({"epoch": 4}, "the task was cleared since the checkpoint was written"),
        ({"fingerprint": "other"}, "the input, the mapping or an option has changed since the checkpoint was written"),
    ],
)
def test_resumable_or_reason_why_not(change: dict[str, Any], reason: str | None) -> None:
    assert resumable(dataclasses.replace(FULL, **change), 3, "f" * 32) == reason


def test_checkpoint_of_another_version_is_not_parsed() -> None:
    found = Checkpoint.from_data({**FULL.as_data(), "version": 99, "anything": "else"})
    assert found == Checkpoint(epoch=-1, fingerprint="", version=99)
    assert "version 99" in str(resumable(found, -1, ""))


def test_smallest_and_largest_numbers() -> None:
    """Other programs would not read larger numbers exactly."""
    first, last = Checkpoint(epoch=0, fingerprint=""), dataclasses.replace(FULL, calls=2**53 - 1, done_upto=2**53 - 1)
    assert [Checkpoint.from_data(found.as_data()) for found in (first, last)] == [first, last]
    with pytest.raises(ValueError, match="invalid parts"):
        Checkpoint.from_data({**FULL.as_data(), "calls": 2**53})


def test_seconds_are_kept_to_the_millisecond() -> None:
    assert dataclasses.replace(FULL, seconds=1.23456).as_data()["seconds"] == 1.235


@pytest.mark.parametrize(
    "data",
    [
        None,
        [],
        {},
        {"version": "1"},
        {"version": 1},
        {**FULL.as_data(), "more": 1},
        {**FULL.as_data(), "done_above": "x"},
    ],
)
def test_invalid_checkpoint_is_refused(data: Any) -> None:
    with pytest.raises(ValueError, match="checkpoint"):
        Checkpoint.from_data(data)


@given(st.lists(st.integers(1, 40)), st.integers(0, 10), st.lists(st.integers(1, 40), max_size=5))
def test_done_rows_survive_a_round_trip(numbers: list[int], upto: int, above: list[int]) -> None:
    rows = DoneRows(upto, above)
    for number in numbers:
        rows.add(number)
    wanted = {*range(1, upto + 1), *above, *numbers}
    assert {number for number in range(-1, 50) if number in rows} == wanted
    assert len(rows) == len(wanted)
    low, high = rows.as_data()
    assert set(range(1, low + 1)) | set(high) == wanted
    assert low + 1 not in wanted and all(number > low for number in high)
    assert list(high) == sorted(high) and len(rows.above) == len(high)
    again = DoneRows(low, high)
    assert again.as_data() == (low, high)


def test_done_rows_hold_numbers_only() -> None:
    rows = DoneRows(3, [5])
    assert [thing in rows for thing in (3, 5, 4, "3", None)] == [True, True, False, False, False]
    rows.add(2)  # already done
    assert rows.as_data() == (3, (5,))
    assert DoneRows().as_data() == (0, ())


@pytest.fixture(params=["disk", "store"])
def path(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    return tmp_path / "new" / "c.json" if request.param == "disk" else UPath(f"memory://c/{uuid.uuid4().hex}/c.json")


def test_file_checkpoints(path: Any) -> None:
    kept = FileCheckpoints(path)
    kept.clear()
    assert kept.load() is None
    kept.save(FULL)
    kept.save(dataclasses.replace(FULL, calls=18))
    assert FileCheckpoints(path).load() == dataclasses.replace(FULL, calls=18)
    assert [p.name for p in path.parent.iterdir()] == ["c.json"]
    if is_local(path):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    kept.clear()
    assert kept.load() is None


@pytest.mark.parametrize("body", [b"", b"{", b"\xff", b"[]", b'{"version": 1}'])
def test_unreadable_checkpoint_is_logged_only(body: bytes, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "c.json"
    path.write_bytes(body)
    with caplog.at_level(logging.WARNING):
        assert FileCheckpoints(path).load() is None
    assert len(caplog.records) == 1 and "starts from the first row" in caplog.text


def test_no_checkpoints_keeps_nothing() -> None:
    none = NoCheckpoints()
    none.save(FULL)
    none.clear()
    assert none.load() is None
