"""Temporary tables: those that a test leaves open, because it looks at a part of a load only, are closed behind it.

Python 3.13 warns of a database that nobody has closed, in whichever test runs when it is found.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from crm_provider.load.scratch import Scratch


@pytest.fixture(autouse=True)
def scratches(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Scratch]]:
    """The temporary tables that the test has made."""
    made: list[Scratch] = []
    make = Scratch.__init__

    def noted(self: Scratch, setup: str) -> None:
        make(self, setup)
        made.append(self)

    monkeypatch.setattr(Scratch, "__init__", noted)
    yield made
    for scratch in made:
        scratch.close()
