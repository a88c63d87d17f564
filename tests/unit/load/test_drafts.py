"""Drafts of files: what a killed writer leaves, and two writers of one file."""

from __future__ import annotations

import fcntl
import signal
import subprocess
import sys
import uuid
from pathlib import Path

import pytest
from fsspec.implementations.memory import MemoryFileSystem
from upath import UPath

from crm_provider.files.paths import atomic_writer, remove

KILLED = """
import os, pathlib, signal, sys
from crm_provider.files.paths import atomic_writer
with atomic_writer(pathlib.Path(sys.argv[1])) as file:
    file.write("a long text of a writer that is killed")
    file.flush()
    os.kill(os.getpid(), signal.SIGKILL)
"""


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def write(path: Path | UPath, text: str) -> None:
    with atomic_writer(path) as file:
        file.write(text)


@pytest.fixture
def left(tmp_path: Path) -> Path:
    """A file that does not exist, with the draft of a killed writer beside it."""
    path = tmp_path / "x.json"
    ended = subprocess.run([sys.executable, "-c", KILLED, str(path)], check=False)
    assert ended.returncode == -signal.SIGKILL
    assert names(tmp_path) == [".x.json.crm.tmp"]
    return path


def test_draft_of_a_killed_writer_is_used_again(left: Path) -> None:
    write(left, "short")
    assert names(left.parent) == ["x.json"]
    assert left.read_text() == "short"


def test_file_is_removed_with_its_draft(left: Path) -> None:
    remove(left)
    remove(left)
    assert names(left.parent) == []


def test_each_of_two_writers_at_once_has_its_own_draft(tmp_path: Path) -> None:
    path = tmp_path / "x"
    with atomic_writer(path) as first:
        first.write("first")
        write(path, "second")
        assert path.read_text() == "second"
        remove(path)
        assert names(tmp_path) == [".x.crm.tmp"]
    assert names(tmp_path) == ["x"]
    assert path.read_text() == "first"


def test_draft_of_a_writer_that_begins_after_a_rename_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, replace = tmp_path / "x", Path.replace
    following = atomic_writer(path)

    def replace_and_begin(draft: Path, final: Path) -> None:
        monkeypatch.undo()
        replace(draft, final)
        following.__enter__().write("following")

    monkeypatch.setattr(Path, "replace", replace_and_begin)
    write(path, "first")
    assert path.read_text() == "first"
    following.__exit__(None, None, None)
    assert names(tmp_path) == ["x"]
    assert path.read_text() == "following"


def test_draft_that_is_renamed_before_it_is_locked_is_not_overwritten(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def finish_other_writer_and_lock(number: int, how: int) -> None:
        (tmp_path / ".x.crm.tmp").write_text("other")
        (tmp_path / ".x.crm.tmp").rename(tmp_path / "x")
        monkeypatch.undo()
        fcntl.flock(number, how)

    monkeypatch.setattr(fcntl, "flock", finish_other_writer_and_lock)
    with atomic_writer(tmp_path / "x") as file:
        assert (tmp_path / "x").read_text() == "other"
        file.write("ours")
    assert names(tmp_path) == ["x"]
    assert (tmp_path / "x").read_text() == "ours"


def test_link_in_place_of_a_draft_is_not_followed(tmp_path: Path) -> None:
    tmp_path.chmod(0o770)  # a folder that a group shares
    (tmp_path / "other").write_text("of another user")
    (tmp_path / ".x.crm.tmp").symlink_to(tmp_path / "other")
    write(tmp_path / "x", "ours")
    remove(tmp_path / "x")
    assert names(tmp_path) == [".x.crm.tmp", "other"]
    assert (tmp_path / "other").read_text() == "of another user"


def test_draft_of_an_object_has_no_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    path = UPath(f"memory://bucket-{uuid.uuid4().hex}/x")
    with atomic_writer(path) as file:
        file.write("whole")
        file.flush()
        assert names(tmp_path) == []
    assert path.read_bytes() == b"whole"


def test_store_that_copies_links_gets_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As sshfs, the file system of Airflow's SFTP provider, does."""
    put_file = MemoryFileSystem.put_file

    def put_file_or_link(store: MemoryFileSystem, source: str, target: str) -> None:
        assert not Path(source).is_symlink()
        put_file(store, source, target)

    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr(MemoryFileSystem, "put_file", put_file_or_link)
    monkeypatch.setattr("crm_provider.files.paths.COPY_LINKS", {"memory"})
    path = UPath(f"memory://bucket-{uuid.uuid4().hex}/x")
    write(path, "whole")
    assert path.read_bytes() == b"whole"
    assert names(tmp_path) == []
