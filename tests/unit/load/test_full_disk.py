"""Files that cannot be written, at any time of a load or extract: a clear error, and a retry that loses nothing.

The kernel refuses the writes: a file-size limit of the process makes a write at the limit partial.
"""

from __future__ import annotations

import errno
import logging
import os
import pickle
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from crm_provider import errors as e
from crm_provider.extract.extractor import ExtractUnsaved
from crm_provider.files import journal as journal_stores
from crm_provider.files.paths import CannotWrite, atomic_writer
from crm_provider.files.temp_database import TempDatabase
from crm_provider.load import workers
from crm_provider.load.progress import SENT_ROWS
from crm_provider.load.rejects.file import RejectsFile
from crm_provider.load.rejects.formats import Reject
from crm_provider.load.report import LoadStopped, LoadUnsaved
from crm_provider.load.rows import Outcome
from crm_provider.load.state import temp_tables
from crm_provider.load.state.checkpoint import Checkpoint
from crm_provider.load.workers import LEAST
from unit.fakes import FakeClock

from .test_extract import FakeClient, extract, records
from .test_job import INVALID, REFUSED, Setting, outcomes, people

ROWS = 60
REFUSED_ROWS = list(range(3, ROWS + 1, 3))
DOWN = e.CrmServiceUnavailableError("down", status=503)
TOO_LARGE = "cannot be written: File too large"


@contextmanager
def files_up_to(size: int) -> Iterator[None]:
    """Limit the size of every file that this process writes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.fixture
def it(tmp_path: Path) -> Setting:
    """A load with all its files. The CRM rejects every third row."""
    it = Setting(tmp_path, people(ROWS))
    it.state = tmp_path / "loaded.state"
    it.more["clock"] = FakeClock()  # the clock does not advance: rows in flight may take as long as they need
    refused = {f"p{number}@x.org" for number in REFUSED_ROWS}
    it.crm.trouble = lambda call, email: INVALID if email in refused else None
    return it


def reject(number: int, size: int = 10) -> Reject:
    return Reject(
        number=number, values={"name": "x" * size}, type="INVALID_INPUT", message="no", suggested_action="correct it",
        request_id=None, retryable=False,
    )  # fmt: skip


# -- a whole load -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 50, 150, 400, 700, 1100, 1500, 2222, 3000])
def test_retry_continues_after_a_full_disk(it: Setting, size: int) -> None:
    with files_up_to(size), pytest.raises(LoadUnsaved, match=TOO_LARGE) as cut:
        it.run()
    text, summary = str(cut.value), cut.value.summary
    assert str(it.folder) in text
    assert text.endswith(LoadUnsaved.advice)
    assert sum(summary[outcome] for outcome in Outcome) + summary.left == summary.rows == ROWS
    assert "@" not in text, "no value of a row is shown"
    assert set(it.rejected()) <= set(REFUSED_ROWS), "no line is partial"
    calls_before = len(it.crm.calls)

    again = it.run()
    assert outcomes(again)["rejected"] == len(REFUSED_ROWS)
    assert again.left == 0
    assert sorted(it.rejected()) == REFUSED_ROWS
    assert len(it.crm.contacts) == ROWS - len(REFUSED_ROWS)
    twice = SENT_ROWS + LEAST  # rows that were not saved: a refused create, and an update
    assert len(it.crm.calls) <= calls_before + ROWS + twice
    later = it.run(epoch=1)
    assert later[Outcome.UNCHANGED] + later[Outcome.UPDATED] == ROWS - len(REFUSED_ROWS)
    assert later[Outcome.UPDATED] <= LEAST, "all rows except those that completed on a full disk are known to be loaded"


def test_nothing_is_sent_if_the_checkpoint_cannot_be_written(it: Setting) -> None:
    with files_up_to(0), pytest.raises(LoadUnsaved, match=f"checkpoint {TOO_LARGE}"):
        it.run()
    assert not it.crm.contacts


def test_state_file_that_cannot_be_rewritten_at_the_end(it: Setting, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise CannotWrite("loaded.state", "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr("crm_provider.load.state.fingerprints.write_state", full)
        with pytest.raises(LoadUnsaved, match=r"loaded\.state cannot be written: No space left") as cut:
            it.run()
    assert cut.value.summary.left == 0
    calls = len(it.crm.calls)
    assert it.run().left == 0
    assert len(it.crm.calls) == calls, "all rows are done"


@dataclass
class OnFullDisk:
    """Checkpoints that can be written until the disk is full."""

    is_full: bool = False
    is_local: bool = True

    def load(self) -> Checkpoint | None:
        return None

    def save(self, checkpoint: Checkpoint) -> None:
        if self.is_full:
            raise CannotWrite("checkpoint", "No space left on device")

    def clear(self) -> None:
        """Stores nothing."""


def test_earlier_crm_error_is_reported(it: Setting, caplog: pytest.LogCaptureFixture) -> None:
    checkpoints = OnFullDisk()

    def trouble(call: str, email: str) -> e.CrmError | None:
        checkpoints.is_full = checkpoints.is_full or email == "p40@x.org"
        return REFUSED if email == "p40@x.org" else None

    it.crm.trouble = trouble
    with pytest.raises(LoadStopped) as end:
        it.run(checkpoints=checkpoints, rejects=None)
    assert end.value.error is REFUSED
    assert "checkpoint cannot be written: No space left on device" in caplog.text


def test_earlier_bug_is_reported(it: Setting, caplog: pytest.LogCaptureFixture) -> None:
    checkpoints = OnFullDisk()

    def bug(call: str, email: str) -> None:
        checkpoints.is_full = True
        raise KeyError("a bug")

    it.crm.trouble = bug
    with pytest.raises(KeyError, match="a bug"):
        it.run(checkpoints=checkpoints)
    assert "checkpoint cannot be written: No space left on device. The last rows were not saved" in caplog.text


def test_rows_in_flight_are_counted(it: Setting, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first reject does not fit on the disk. The rows in flight are still counted."""
    it.crm.trouble = lambda call, email: INVALID if email in ("p1@x.org", "p2@x.org") else None
    monkeypatch.setattr(workers, "LEAST", 8)
    it.state = None

    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(journal_stores, "append", full)
    with pytest.raises(LoadUnsaved) as cut:
        it.run()
    assert cut.value.summary[Outcome.CREATED] == len(it.crm.contacts) > 0
    assert cut.value.summary[Outcome.REJECTED] == 0


def test_state_file_that_cannot_be_closed_hides_no_error(
    it: Setting, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    fingerprints = it.load().fingerprints
    assert fingerprints is not None

    def lost() -> None:
        raise CannotWrite("loaded.state.journal", "Input/output error")

    def refuse(call: str, email: str) -> e.CrmError:
        monkeypatch.setattr(fingerprints._journal, "sync", lost)
        return REFUSED

    it.crm.trouble = refuse
    with pytest.raises(LoadStopped):
        it.run(fingerprints=fingerprints)
    assert "loaded.state.journal cannot be written: Input/output error" in caplog.text
    it.load().fingerprints.load()  # not locked


def test_full_temporary_folder_ends_the_load(it: Setting, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(temp_tables, "TempDatabase", lambda setup: TempDatabase(f"PRAGMA max_page_count=4; {setup}"))
    it.source.given = people(ROWS, note="x" * 500)
    with pytest.raises(LoadUnsaved, match=r"temporary tables .* cannot be written: database or disk is full") as cut:
        it.run()
    assert cut.value.summary.rows == 0
    assert not it.crm.calls


def test_removed_rejects_are_reported_and_written_again(it: Setting) -> None:
    """They are removed just before the end, when the checkpoint says that all rows are done."""

    class Rejects(RejectsFile):
        def finish(self, rejected: int = 0) -> None:
            kept = self.path.read_text().splitlines(keepends=True)[:-1]
            self.path.write_text("".join(kept))
            super().finish(rejected)

    with pytest.raises(LoadUnsaved, match="1 rejected rows are no longer in it") as cut:
        it.run(rejects=Rejects(it.rejects_path))
    assert (cut.value.summary.left, len(it.rejected())) == (0, len(REFUSED_ROWS) - 1)
    again = it.run()
    assert sorted(it.rejected()) == REFUSED_ROWS
    assert (again.resumed_at, again[Outcome.REJECTED], again.left) == (0, len(REFUSED_ROWS), 0)


def test_rejects_lost_with_their_disk_are_written_again(it: Setting, caplog: pytest.LogCaptureFixture) -> None:
    """The next try notices this before its first call. It sends the rows again itself."""
    it.options["errors_in_a_row"] = 1
    refused = it.crm.trouble
    it.crm.trouble = lambda call, email: DOWN if email == "p40@x.org" else refused(call, email)
    with pytest.raises(LoadStopped):
        it.run()
    lost = len(it.rejected())
    it.rejects_path.unlink()
    it.crm.trouble = refused
    with caplog.at_level(logging.INFO):
        again = it.run()
    assert f"Starting from the first row: {lost} rejected rows of earlier tries are no longer in" in caplog.text
    assert sorted(it.rejected()) == REFUSED_ROWS
    assert (again.resumed_at, again[Outcome.REJECTED], again.left) == (0, len(REFUSED_ROWS), 0)


# -- the files of a load ------------------------------------------------------------------------------------


def test_file_with_a_failed_fsync_is_never_called_safe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel reports a failed write only once: a second fsync succeeds."""
    file = RejectsFile(tmp_path / "rejects.jsonl")
    file.write(reject(1))

    def lost(_: int) -> None:
        monkeypatch.undo()
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "fsync", lost)
    for _ in range(2):
        with pytest.raises(CannotWrite, match=r"rejects\.jsonl cannot be written: Input/output error"):
            file.sync()


@pytest.mark.parametrize("is_read_only", [False, True])
def test_failed_replacement_keeps_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_read_only: bool
) -> None:
    def refuse(_: Path) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    path = tmp_path / "whole.txt"
    path.write_text("before")
    if is_read_only:  # since the draft was made
        monkeypatch.setattr(Path, "unlink", refuse)
    with files_up_to(10), pytest.raises(CannotWrite, match=f"{path} {TOO_LARGE}"), atomic_writer(path) as file:
        file.write("a" * 100)
    assert path.read_text() == "before"
    assert len(list(tmp_path.iterdir())) == (2 if is_read_only else 1)


def test_error_names_the_file_and_survives_pickling() -> None:
    error = pickle.loads(pickle.dumps(CannotWrite("/data/r.jsonl", "No space left on device")))
    assert str(error) == "/data/r.jsonl cannot be written: No space left on device"
    assert (error.what, error.reason) == ("/data/r.jsonl", "No space left on device")


# -- an extract ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["contacts.jsonl", "contacts.csv.gz", "contacts.parquet"])
@pytest.mark.parametrize("share", [0.0, 0.3, 0.8])
def test_extract_onto_a_full_disk(tmp_path: Path, name: str, share: float) -> None:
    """First the pages do not fit, then only the file. The old file stays until the end."""
    target = tmp_path / name
    target.write_text("of yesterday")
    client = FakeClient(records(0, 75))
    size = 4096  # more than the file, gzipped or as a table, and less than the parts
    with files_up_to(int(share * size)), pytest.raises(ExtractUnsaved, match=TOO_LARGE) as cut:
        extract(client, target).run()
    kept = len(client.reads) - 1
    assert str(target) in str(cut.value)
    pages = "1 page of contacts is" if kept == 1 else f"{kept} pages of contacts are"
    assert f"{pages} kept beside {target}, which is unchanged" in str(cut.value)
    assert target.read_text() == "of yesterday"

    client.reads.clear()
    with files_up_to(0), pytest.raises(ExtractUnsaved):
        extract(client, target).run()
    assert target.read_text() == "of yesterday"
    client.reads.clear()
    done = extract(client, target).run()
    assert (done["records"], done["pages"]) == (75, 8)
    assert client.reads[0] == kept
    assert sorted(path.name for path in tmp_path.iterdir()) == [name]
