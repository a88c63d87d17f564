"""The notes that a try of a load saves beside the counts, and their use in the next try."""

from __future__ import annotations

import logging
from dataclasses import replace
from datetime import datetime, timezone
from typing import Any

import pytest

from crm_provider.client.observers import RequestEvent
from crm_provider.load.progress import INTERVAL, LoadProgress, cleared, left_of
from crm_provider.load.rows import Outcome
from crm_provider.load.state.checkpoint import Checkpoint, NoCheckpoints
from crm_provider.load.workers import RequestStats
from unit.fakes import FakeClock

NOON = "2026-03-01T12:00:00+00:00"
BEFORE = Checkpoint(epoch=3, fingerprint="f", done_upto=1, counts={"created": 1}, calls=50, seconds=10.0)
WITH_NOTES = replace(BEFORE, notes={"reading_stopped": True, "cleared": True, "began": NOON, "made": [1, 3, "x"]})


class Kept(NoCheckpoints):
    """Checkpoints in a list."""

    def __init__(self) -> None:
        self.saved: list[Checkpoint] = []

    def save(self, checkpoint: Checkpoint) -> None:
        self.saved.append(checkpoint)


def progress_of(before: Checkpoint | None, **given: Any) -> LoadProgress:
    parts: dict[str, Any] = {"checkpoints": Kept(), "stats": RequestStats(), "clock": FakeClock(), **given}
    return LoadProgress(
        before, rows=5, fingerprint="f", epoch=3, files=(), fingerprints=None, rate=5.0,
 **parts,
    )  # fmt: skip


def test_notes_reach_the_next_try() -> None:
    kept = Kept()
    progress = progress_of(WITH_NOTES, checkpoints=kept)
    assert progress.began == datetime(2026, 3, 1, 12, tzinfo=timezone.utc)
    assert (progress.reading_stopped, progress.is_cleared, progress.counts.unfinished) == (True, True, {3})
    progress.plan_calls = 40
    progress.save()
    assert kept.saved[-1].notes == {
        "rows": 5, "calls_left": 40, "reading_stopped": True, "cleared": True, "began": NOON, "made": [3],
    }  # fmt: skip
    progress.counts.enter(3, Outcome.CREATED)
    progress.save()
    assert "made" not in kept.saved[-1].notes, "a completed row needs no note"


@pytest.mark.parametrize(
    ("before", "kept_by_kind", "notes"),
    [
        (BEFORE, {}, None),
        (BEFORE, {"deleted": 3}, {"kept": {"deleted": 3}}),
        (WITH_NOTES, {}, {"cleared": True, "began": NOON, "made": [3]}),
        (replace(BEFORE, notes={"began": NOON}), {"deleted": 3},
         {"cleared": True, "began": NOON, "kept": {"deleted": 3}}),
    ],
)  # fmt: skip
def test_restarted_load_knows_what_it_created(before: Checkpoint, kept_by_kind: Any, notes: Any) -> None:
    kept = Kept()
    progress = progress_of(before, checkpoints=kept)
    progress.kept = kept_by_kind
    progress.start_again()
    assert kept.saved == ([] if notes is None else [Checkpoint(epoch=3, fingerprint="f", notes=notes)])


def test_try_without_notes_saves_none() -> None:
    kept = Kept()
    progress = progress_of(replace(BEFORE, done_upto=5, counts={"created": 5}), checkpoints=kept)
    assert (progress.began, progress.reading_stopped, progress.is_cleared) == (None, False, False)
    progress.save()
    assert kept.saved[-1].notes == {"rows": 5, "calls_left": 0}


def test_calls_are_saved_once() -> None:
    kept, stats = Kept(), RequestStats()
    progress = progress_of(None, checkpoints=kept, stats=stats)
    progress.save_calls()
    assert kept.saved == []
    stats(RequestEvent(method="GET", route="/x", status=200, seconds=0.1, waited=0, error_type=None, attempt=1))
    progress.save_calls()
    progress.save_calls()
    assert [checkpoint.calls for checkpoint in kept.saved] == [1]


def test_log_names_the_records(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    clock = FakeClock()
    progress = progress_of(None, clock=clock)
    clock.now += INTERVAL
    progress.tick_reading(150, "deals")
    assert caplog.messages == ["Read 150 deals of the CRM; 0.00 calls/s."]


@pytest.mark.parametrize(
    ("notes", "calls", "left"),
    [
        ({"rows": 90, "calls_left": 40}, 50, (90, 8.0)),
        ({"rows": 90, "calls_left": 40}, 0, None),
        ({"rows": 90}, 50, None),
        ({"calls_left": 40}, 50, None),
        ({}, 50, None),
    ],
)
def test_remaining_calls_and_seconds(notes: dict[str, Any], calls: int, left: tuple[int, float] | None) -> None:
    assert left_of(replace(BEFORE, notes=notes, calls=calls)) == left


@pytest.mark.parametrize(
    ("before", "kept"),
    [
        (WITH_NOTES, {"began": NOON, "made": [1, 3, "x"], "cleared": True}),
        (replace(BEFORE, notes={"began": NOON}), {"began": NOON, "cleared": True}),
        (replace(WITH_NOTES, fingerprint="other"), {"began": NOON, "cleared": True}),
        (replace(WITH_NOTES, version=0), None),
        (replace(BEFORE, notes={"made": [3]}), None),
    ],
)
def test_notes_kept_by_a_task_that_starts_again(before: Checkpoint, kept: dict[str, Any] | None) -> None:
    expected = None if kept is None else Checkpoint(epoch=4, fingerprint="f", notes=kept)
    assert cleared(before, 4, "f") == expected
