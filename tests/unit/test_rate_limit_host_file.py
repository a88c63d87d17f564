"""The file of a host's budget: its name, the wait for its lock, and the files swept with it."""

from __future__ import annotations

import fcntl
import os
import re
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from crm_provider.rate_limit import host_file
from crm_provider.rate_limit.host_file import (
    LOCK_RETRY,
    UNUSED,
    HostFileStore,
    file_name,
    state_folder,
)
from crm_provider.rate_limit.schedule import GrantStatus, Lane, Pace, StoreUnusable, Ticket

from .fakes import FakeClock
from .rate_limit_scene import NEVER_MIND

PACE = Pace.of(5.0, 2)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "state"


def ask(store: HostFileStore, ticket: Ticket | None = None) -> tuple[GrantStatus, float, Ticket]:
    grant, ticket = store.ask(Lane.SINGLE, ticket, PACE, NEVER_MIND)
    return grant.status, grant.seconds, ticket


# -- location ------------------------------------------------------------------------------------------------


def test_each_user_has_a_folder_and_each_key_a_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    assert state_folder() == tmp_path / f"crm-provider-{os.geteuid()}"
    names = {file_name(url, key) for url in ("http://a", "http://b") for key in ("1", "2")}
    assert len(names) == 4
    assert all(re.fullmatch(r"[0-9a-f]{32}\.rate", name) for name in names)
    HostFileStore("key.rate", clock=FakeClock()).pause(1.0, 0.0, PACE)
    assert (state_folder() / "key.rate").exists()


def test_folder_created_by_another_process_meanwhile_is_used(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    mkdir = Path.mkdir

    def late(self: Path, mode: int) -> None:
        mkdir(self, mode=mode)
        mkdir(self, mode=mode)

    monkeypatch.setattr(Path, "mkdir", late)
    assert ask(HostFileStore("key.rate", folder=folder, clock=FakeClock()))[:2] == (GrantStatus.GRANTED, 0.0)


@pytest.mark.parametrize("mode", [0o770, 0o710, 0o707, 0o704, 0o701], ids=oct)
def test_folder_accessible_to_others_is_not_used(folder: Path, mode: int) -> None:
    folder.mkdir()
    folder.chmod(mode)
    with pytest.raises(StoreUnusable, match="it must have mode 0700"):
        ask(HostFileStore("key.rate", folder=folder, clock=FakeClock()))
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize("left", [None, b"", b"of another version"])
def test_new_budget_starts_without_a_burst(folder: Path, left: bytes | None) -> None:
    """Calls that are no longer known may have been made a moment ago."""
    folder.mkdir(mode=0o700)
    if left is not None:
        (folder / "key.rate").write_bytes(left)
    pace, store = Pace.of(5.0, 20), HostFileStore("key.rate", folder=folder, clock=FakeClock())
    slots = [store.ask(Lane.SINGLE, None, pace, NEVER_MIND)[0].seconds for _ in range(2)]
    assert slots == pytest.approx([0.0, pace.spacing])


def test_ticket_keeps_its_position_in_the_file(folder: Path) -> None:
    clock = FakeClock()
    store = HostFileStore("key.rate", folder=folder, clock=clock)
    for _ in range(2):
        ask(store)
    status, _, ticket = ask(store)
    assert (status, ticket) == (GrantStatus.RETRY_AFTER, Ticket(id(store), 2))
    assert ask(store, ticket)[2] == ticket
    clock.now += 10
    assert ask(store, ticket)[:2] == (GrantStatus.GRANTED, 0.0)


def test_refusal_shifts_the_phase_in_the_file(folder: Path) -> None:
    store = HostFileStore("key.rate", folder=folder, clock=FakeClock())
    store.pause(0.125, 0.0625, PACE)
    assert ask(store)[:2] == (GrantStatus.GRANTED, pytest.approx(0.1875))


# -- lock ----------------------------------------------------------------------------------------------------


class Holder:
    """Another process that holds the lock until this one has napped several times. It replaces the module ``time``."""

    def __init__(self, path: Path, waits: float) -> None:
        self._file, self._waits = path.open("rb"), waits
        fcntl.flock(self._file, fcntl.LOCK_EX)
        self.now, self.slept = 100.0, list[float]()

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += 0.75
        if len(self.slept) >= self._waits:
            self._file.close()


@pytest.fixture
def hold(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[float], tuple[HostFileStore, Holder]]:
    def held(waits: float) -> tuple[HostFileStore, Holder]:
        clock = FakeClock()
        ask(HostFileStore("key.rate", folder=folder, clock=clock))
        holder = Holder(folder / "key.rate", waits)
        monkeypatch.setattr(host_file, "time", holder)
        return HostFileStore("key.rate", folder=folder, clock=clock, sleep=holder.sleep), holder

    return held


def test_lock_is_waited_for(hold: Callable[[float], tuple[HostFileStore, Holder]]) -> None:
    """A disk with too much to do may keep it for two seconds."""
    store, holder = hold(3)
    assert ask(store)[:2] == (GrantStatus.GRANTED, pytest.approx(PACE.spacing))
    assert holder.slept == [LOCK_RETRY] * 3


def test_wait_for_a_lock_is_limited(hold: Callable[[float], tuple[HostFileStore, Holder]]) -> None:
    store, holder = hold(1e9)
    with pytest.raises(StoreUnusable, match=r"kept in .*state \(a stopped process holds the lock\)$"):
        ask(store)
    assert len(holder.slept) == 5, "four times 0.75 s do not exceed it"
    holder._file.close()


# -- sweeping ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("age", "swept"), [(UNUSED, False), (UNUSED + 1, True), (-UNUSED - 1, False)])
def test_file_is_swept_once_nobody_can_need_it(
    folder: Path, monkeypatch: pytest.MonkeyPatch, age: float, swept: bool
) -> None:
    now = 2_000_000_000.0
    monkeypatch.setattr(host_file, "time", SimpleNamespace(time=lambda: now, monotonic=time.monotonic))
    folder.mkdir(mode=0o700)
    (folder / "old.rate").touch()
    os.utime(folder / "old.rate", (now - age, now - age))
    ask(HostFileStore("new.rate", folder=folder, clock=FakeClock()))
    assert (folder / "old.rate").exists() is not swept


def test_only_old_files_are_swept_and_nothing_else_is_touched(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Opening and locking the file of a budget in use would make its callers wait."""
    folder.mkdir(mode=0o700)
    (folder / "a folder").mkdir()
    (folder / "a link").symlink_to(tmp_path / "victim")
    (folder / "a young.rate").touch()
    for path in (tmp_path / "victim", folder / "z.rate"):
        path.touch()
        os.utime(path, (0, 0))
    os.utime(folder / "a folder", (0, 0))
    files = Files(monkeypatch)
    ask(HostFileStore("key.rate", folder=folder, clock=FakeClock()))
    assert list(map(str, files.asked_for)) == [str(folder), "key.rate", "z.rate"]
    assert sorted(path.name for path in folder.iterdir()) == ["a folder", "a link", "a young.rate", "key.rate"]
    assert sorted(files.opened) == sorted(files.closed)


def test_link_that_takes_the_place_of_an_old_file_is_not_followed(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder.mkdir(mode=0o700)
    (tmp_path / "victim").touch()
    (folder / "a link").symlink_to(tmp_path / "victim")
    monkeypatch.setattr(host_file, "_is_unused", lambda about: True)  # it was a file when it was looked at
    ask(HostFileStore("key.rate", folder=folder, clock=FakeClock()))
    assert (folder / "a link").is_symlink()


def test_own_file_is_not_swept(folder: Path) -> None:
    """An empty file was just created, whatever age its folder reports."""
    folder.mkdir(mode=0o700)
    (folder / "key.rate").touch()
    os.utime(folder / "key.rate", (0, 0))
    store = HostFileStore("key.rate", folder=folder, clock=FakeClock())
    assert [ask(store)[1], ask(store)[1]] == [0.0, pytest.approx(PACE.spacing)]


class Files:
    """Records the opened and closed files."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.asked_for: list[Any] = []
        self.opened: list[int] = []
        self.closed: list[int] = []
        self._real = os.open, os.close
        monkeypatch.setattr(os, "open", self._open)
        monkeypatch.setattr(os, "close", self._close)

    def _open(self, path: Any, *arguments: Any, **more: Any) -> int:
        self.asked_for.append(path)
        self.opened.append(self._real[0](path, *arguments, **more))
        return self.opened[-1]

    def _close(self, file: int) -> None:
        self.closed.append(file)
        self._real[1](file)
