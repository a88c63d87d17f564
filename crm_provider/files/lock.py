"""One run at a time: a lock on a file of a local disk, which a kill releases."""

from __future__ import annotations

import fcntl
import os
import pathlib
import weakref

from crm_provider.files.paths import private_folder, writing
from crm_provider.files.private import open_private


class InUse(RuntimeError):
    """Another run holds the lock; it may be free later."""


class FileLock:
    """A lock held through an open file. The empty file stays.

    :param path: a file that is used for nothing else
    :param what: what is locked, for the message
    """

    def __init__(self, path: pathlib.Path, what: str) -> None:
        self._path, self._what = path, what
        self._close: weakref.finalize[[int], FileLock] | None = None

    def acquire(self) -> None:
        """Take the lock without waiting.

        :raises InUse: if another run holds it
        :raises CannotWrite: if it cannot be opened, or others may have put it there
        """
        if self._close is not None:
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
        self._close = weakref.finalize(self, os.close, number)

    def release(self) -> None:
        """Release the lock."""
        if self._close is not None:
            self._close()
            self._close = None
