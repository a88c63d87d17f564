"""Rare ends of a load, and what is reported."""

from __future__ import annotations

import fcntl
import io
import os
import sqlite3
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from upath import UPath

from crm_provider import errors as e
from crm_provider.client.remote_contact import ABSENT
from crm_provider.errors.on_error import Action
from crm_provider.errors.policy import DecidedBy, Decision
from crm_provider.files import paths
from crm_provider.files.lock import FileLock
from crm_provider.files.paths import CannotWrite, unwritable, writing
from crm_provider.files.temp_database import TempDatabase
from crm_provider.load.dispatch import Dispatcher
from crm_provider.load.kinds.remote import TrySetup
from crm_provider.load.kinds.remote_contacts import RemoteContacts
from crm_provider.load.options import ContactOptions
from crm_provider.load.preflight import check
from crm_provider.load.report import LoadInterrupted, LoadStopped, Summary
from crm_provider.load.rows import SourceError
from crm_provider.load.state.checkpoint import DoneRows
from crm_provider.load.workers import CancelToken

from .fake_crm import FakeCrm, PlainMapper, Rows
from .test_job import Setting, people


def test_terminated_load_reports_its_progress() -> None:
    summary = Summary(rows=3, left=1)
    error = e.CrmForbiddenError("no", status=403)
    stopped = LoadStopped(error, Decision(Action.FAIL, DecidedBy.DEFAULT, "CrmAccessError"), summary)
    assert str(stopped) == f"{error} The load stopped after: {summary.line()}"
    assert str(LoadInterrupted(summary)) == f"The load was interrupted; {summary.line()}"


def test_record_without_an_email_is_no_known_contact() -> None:
    crm = FakeCrm()
    crm.add("a@x")
    crm.contacts["odd"] = {"id": "odd", "email": None}
    preflight = check(Rows([{"email": "a@x"}]), PlainMapper(), ContactOptions())
    setup = TrySetup(
        client=crm,  # type: ignore[arg-type]
        options=ContactOptions(),
        mapper=PlainMapper(),
        preflight=preflight,
        done=DoneRows(),
        cancel_token=CancelToken(),
    )
    sampler = RemoteContacts(setup)
    sampler.read_all(lambda count, records: None)
    assert sampler.contact_cache.complete
    assert len(sampler.contact_cache) == 1
    assert sampler.contact_cache.get("odd") == ABSENT


@pytest.mark.parametrize("how", ["done", "invalid rows", "too long", "no state file"])
def test_load_leaves_no_table_open_however_it_ends(tmp_path: Path, how: str, databases: list[TempDatabase]) -> None:
    it = Setting(tmp_path, [*people(3), {"email": "nobody"}], on_invalid="stop" if how == "invalid rows" else "reject")
    it.state = tmp_path / "state"
    if how == "no state file":
        it.state.write_text("id,email\n")
    if how == "done":
        it.run()
    else:
        with pytest.raises(SourceError):
            it.run(time_limit=0.001 if how == "too long" else None)
    assert databases
    for database in databases:
        with pytest.raises(sqlite3.ProgrammingError, match="closed database"):
            database.execute("SELECT 1")


def test_load_interrupted_while_reading_has_written_nothing(tmp_path: Path) -> None:
    it = Setting(tmp_path, people(30), plan="compare")
    it.crm.add("p1@x.org")

    def trouble(call: str, email: str) -> None:
        it.cancel_token.set()

    it.crm.trouble = trouble
    with pytest.raises(LoadInterrupted):
        it.run()
    assert set(it.crm.counts()) == {"page"}


def test_wrong_counts_are_a_bug_and_no_success(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(Dispatcher, "run", lambda self: None)
    with pytest.raises(RuntimeError, match="the counts do not add up"):
        Setting(tmp_path, people(3)).run()


def test_error_names_the_inner_file_of_nested_writes() -> None:
    with pytest.raises(CannotWrite, match="inner"), writing(Path("outer")), writing(Path("inner")):
        raise OSError(28, "No space left on device")


def test_unwritable_path_is_reported_before_the_load(tmp_path: Path) -> None:
    assert unwritable(tmp_path) == "it is a folder"
    assert unwritable(UPath("memory://bucket/rejects.jsonl")) is None
    assert unwritable(tmp_path / "new" / "rejects.jsonl") is None
    (tmp_path / "there").write_text("x")
    assert unwritable(tmp_path / "there") is None


@pytest.mark.parametrize(
    ("protocol", "found", "problem"),
    [
        ("s3", None, None),
        ("s3", FileNotFoundError(), "there is no bucket 'crm'"),
        ("s3", PermissionError(), None),  # to probe, not to write
        ("webdav", FileNotFoundError(), None),  # it creates missing folders
    ],
)
def test_missing_bucket_is_reported(protocol: str, found: Exception | None, problem: str | None) -> None:
    class Store:
        def info(self, name: str) -> None:
            assert name == "crm"
            if found is not None:
                raise found

    path = SimpleNamespace(protocol=protocol, path="crm/out/rejects.jsonl", fs=Store())
    assert unwritable(path) == problem  # type: ignore[arg-type]


def test_lines_of_a_file_read_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(paths, "_BLOCK", 3)
    for text in (b"", b"\n", b"ab\ncdefghi\n\nj\rk\n", b"abc\nde"):
        assert list(paths.each_line(io.BytesIO(text), "s.txt")) == io.BytesIO(text).readlines()


def test_lock_is_taken_once_and_a_file_that_cannot_be_locked_is_closed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    opened: list[int] = []

    def no_locks(number: int, how: int) -> Any:
        opened.append(number)
        raise OSError(37, "No locks available")

    lock = FileLock(tmp_path / "state.lock", "the state file")
    with monkeypatch.context() as patch:
        patch.setattr(fcntl, "flock", no_locks)
        with pytest.raises(OSError, match="No locks available"):
            lock.acquire()
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(opened[0])
    lock.acquire()
    lock.acquire()
    lock.release()
