"""What only local disks have: locks, and databases that are thrown away.

One run at a time on a file of a local disk.

Tables on disk for as long as a load runs, so that memory stays flat.

SQLite deletes the file as soon as it is open: no other process can read it, and nothing is left behind by a kill.
"""

from __future__ import annotations

import fcntl
import os
import pathlib
import sqlite3
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from crm_provider.files.paths import CannotWrite, open_private, private_folder, writing


class InUse(RuntimeError):
    """Another run has the file; later it may be free."""


class FileLock:
    """Held by an open file, so a kill releases it. The empty file stays.

    :param path: of a file that is for nothing else
    :param what: is locked, for the message
    """

    def __init__(self, path: pathlib.Path, what: str) -> None:
        self._path, self._what = path, what
        self._let_go: weakref.finalize[[int], FileLock] | None = None

    def acquire(self) -> None:
        """Take the lock, or fail at once.

        :raises InUse: if another run has it
        :raises CannotWrite: if it cannot be opened, or others may have put it there
        """
        if self._let_go is not None:
            return
        with writing(self._path):
            private_folder(self._path.parent)
            number = open_private(self._path, os.O_RDWR | os.O_CREAT)
        try:
            fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(number)
            raise InUse(
                f"another run is using {self._what}; let the runs follow each other (max_active_runs=1), or give "
                "each its own file"
            ) from None
        except BaseException:
            os.close(number)
            raise
        self._let_go = weakref.finalize(self, os.close, number)

    def release(self) -> None:
        """Let others have it."""
        if self._let_go is not None:
            self._let_go()
            self._let_go = None


WHERE = "The temporary tables of the load (in the folder that SQLITE_TMPDIR or TMPDIR names, else in /var/tmp or /tmp)"


class TempDatabase(sqlite3.Connection):
    """A temporary database without a name. Used by one thread.

    :param setup: statements that make its tables
    :raises CannotWrite: the folder for temporary files is full, or cannot be used
    """

    def __init__(self, setup: str) -> None:
        with _named():
            super().__init__("", isolation_level=None)
            self.executescript(f"PRAGMA journal_mode=OFF; PRAGMA synchronous=OFF; BEGIN; {setup}")

    def execute(self, sql: str, parameters: Any = (), /) -> sqlite3.Cursor:
        """As of every connection.

        :raises CannotWrite: the folder for temporary files is full, or cannot be used
        """
        with _named():
            return super().execute(sql, parameters)


@contextmanager
def _named() -> Iterator[None]:
    try:
        yield
    except sqlite3.OperationalError as wrong:  # the statements are right: they are those of this package
        raise CannotWrite(WHERE, str(wrong)) from wrong
