"""Close the tables and files that a test leaves open because it runs only a part of a load.

Otherwise a later test fails: it gets Python's ResourceWarning, and warnings are errors.
"""

from __future__ import annotations

import pathlib
from collections.abc import Iterator
from typing import IO

import pytest

from crm_provider.files import journal
from crm_provider.files.paths import private_file
from crm_provider.files.temp_database import TempDatabase


@pytest.fixture(autouse=True)
def databases(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[TempDatabase]]:
    """The temporary tables that the test created."""
    made: list[TempDatabase] = []
    make = TempDatabase.__init__

    def noted(self: TempDatabase, setup: str, *, shared: bool = False) -> None:
        make(self, setup, shared=shared)
        made.append(self)

    monkeypatch.setattr(TempDatabase, "__init__", noted)
    yield made
    for database in made:
        database.close()


@pytest.fixture(autouse=True)
def private_files(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[IO[bytes]]]:
    """The files that the test opened for appending."""
    opened: list[IO[bytes]] = []

    def noted(path: pathlib.Path) -> IO[bytes]:
        file = private_file(path)
        opened.append(file)
        return file

    monkeypatch.setattr(journal, "private_file", noted)
    yield opened
    for file in opened:
        file.close()
