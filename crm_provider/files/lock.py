"""One run at a time: a lock on a file of a local disk, which a kill releases."""

from __future__ import annotations

import fcntl
import os
import pathlib
import weakref

from crm_provider.files.paths import private_folder, writing
from crm_provider.files.private import open_private


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
