"""Tables on disk for as long as a load runs, so that its memory use stays flat.

SQLite deletes the file as soon as it is open: no other process can read it, and a kill leaves nothing behind.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from crm_provider.files.paths import CannotWrite

WHERE = "The temporary tables of the load (in the folder that SQLITE_TMPDIR or TMPDIR names, else in /var/tmp or /tmp)"


class TempDatabase(sqlite3.Connection):
    """A temporary database without a name, for one thread, unless it is shared.

    :param setup: statements that create its tables
    :param shared: whether several threads use it, one at a time
    :raises CannotWrite: if the folder for temporary files is full, or cannot be used
    """

    def __init__(self, setup: str, *, shared: bool = False) -> None:
        with _named():
            super().__init__("", isolation_level=None, check_same_thread=not shared)
            self.executescript(f"PRAGMA journal_mode=OFF; PRAGMA synchronous=OFF; BEGIN; {setup}")

    def execute(self, sql: str, parameters: Any = (), /) -> sqlite3.Cursor:
        """Execute a statement.

        :raises CannotWrite: if the folder for temporary files is full, or cannot be used
        """
        with _named():
            return super().execute(sql, parameters)


@contextmanager
def _named() -> Iterator[None]:
    try:
        yield
    except sqlite3.OperationalError as wrong:  # not an invalid statement: all of them are constants of this package
        raise CannotWrite(WHERE, str(wrong)) from wrong
