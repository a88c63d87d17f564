"""The schedule of a key in a small locked file: one budget for all processes of a user on this host.

Nothing stays open between two calls, so that forks, deleted files and killed processes do no harm: the kernel releases
the lock of a dead process, and a checksum detects a record that a kill left incomplete.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import stat
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from crm_provider.files.private import open_own_folder, open_regular
from crm_provider.rate_limit.schedule import RECORD_SIZE, Grant, Lane, Pace, Schedule, StoreUnusable, Ticket, number_for

LOCK_PATIENCE = 3.0
"""Seconds that a caller waits for the lock. It is held for microseconds, or while a disk or a processor has too much to
do; only a stopped process holds it longer. Without the lock, each process uses the whole rate for seconds."""

LOCK_RETRY = 0.0005

UNUSED = 3600.0
"""Seconds after which the file of a budget may be deleted: all its times are in the past."""

_FILE = os.O_RDWR | os.O_NOFOLLOW


def state_folder() -> Path:
    """The folder for the state files of this user."""
    return Path(tempfile.gettempdir()) / f"crm-provider-{os.geteuid()}"


def file_name(base_url: str, key_fingerprint: str) -> str:
    """The name of a key's state file. It reveals neither URL nor key."""
    return hashlib.sha256(f"{base_url}\n{key_fingerprint}".encode()).hexdigest()[:32] + ".rate"


class HostFile:
    """A small file in the private folder, which the processes of this host read and change one at a time.

    :param name: of the file in the folder
    :raises StoreUnusable: on opening, if the file cannot be used
    """

    def __init__(self, name: str, *, folder: Path | None = None, sleep: Callable[[float], None] = time.sleep) -> None:
        self._name, self._folder, self._sleep = name, folder or state_folder(), sleep

    @contextmanager
    def open(self) -> Iterator[int]:
        """The file's descriptor, locked."""
        try:
            with self._open_folder() as folder, self._open_locked(folder) as file:
                if not os.fstat(file).st_size:
                    self._delete_unused_files(folder)
                yield file
        except OSError as error:
            raise StoreUnusable(
                f"the rate budget of this host cannot be kept in {self._folder} ({error.strerror or error})"
            ) from None

    @contextmanager
    def _open_folder(self) -> Iterator[int]:
        """The private folder, created if it is missing.

        :raises OSError: if it cannot be created, or other users have rights in it
        """
        folder = open_own_folder(self._folder)
        try:
            yield folder
        finally:
            os.close(folder)

    @contextmanager
    def _open_locked(self, folder: int) -> Iterator[int]:
        """The state file, locked. It is opened again if it was deleted between opening and locking."""
        while True:
            file = open_regular(Path(self._name), _FILE | os.O_CREAT, folder=folder)
            try:
                self._lock(file)
                if os.fstat(file).st_nlink:
                    yield file
                    return
            finally:
                os.close(file)

    def _lock(self, file: int) -> None:
        """Lock by descriptor, not by process, so that threads exclude each other, too.

        :raises OSError: if the lock is held for too long
        """
        deadline = time.monotonic() + LOCK_PATIENCE
        while not _try_lock(file):
            if time.monotonic() > deadline:
                raise TimeoutError(None, "a stopped process holds the lock")
            self._sleep(LOCK_RETRY)

    def _delete_unused_files(self, folder: int) -> None:
        """Delete the files of budgets that are no longer used, such as those of sandboxes."""
        for name in os.listdir(folder):
            with suppress(OSError):
                self._delete_unused(name, folder)

    def _delete_unused(self, name: str, folder: int) -> None:
        if name == self._name or not _is_unused(os.stat(name, dir_fd=folder, follow_symlinks=False)):
            return
        file = open_regular(Path(name), _FILE, folder=folder)
        try:
            if _try_lock(file) and _is_unused(os.fstat(file)):
                os.unlink(name, dir_fd=folder)
        finally:
            os.close(file)


class HostFileStore:
    """One schedule for the processes of this host.

    :param name: name of the file in the private folder
    :param clock: a clock that all processes of the host share, such as the monotonic clock
    """

    def __init__(
        self,
        name: str,
        *,
        folder: Path | None = None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._file, self._clock = HostFile(name, folder=folder, sleep=sleep), clock

    def ask(self, lane: Lane, ticket: Ticket | None, pace: Pace, patience: float) -> tuple[Grant, Ticket]:
        with self._schedule() as schedule:
            grant = schedule.ask(self._clock(), lane, number_for(self, ticket), pace, patience)
        return grant, Ticket(id(self), grant.ticket)

    def pause(self, seconds: float, phase: float, pace: Pace) -> None:
        with self._schedule() as schedule:
            schedule.pause(self._clock(), seconds, phase, pace)

    @contextmanager
    def _schedule(self) -> Iterator[Schedule]:
        """The locked schedule; changes are written back."""
        with self._file.open() as file:
            record = os.pread(file, RECORD_SIZE + 1, 0)
            schedule = Schedule.from_bytes(record) or Schedule(next=self._clock())
            yield schedule
            os.pwrite(file, schedule.to_bytes(), 0)
            if len(record) > RECORD_SIZE:
                os.ftruncate(file, RECORD_SIZE)


def _try_lock(file: int) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _is_unused(about: os.stat_result) -> bool:
    return stat.S_ISREG(about.st_mode) and time.time() - about.st_mtime > UNUSED
