"""A value that Python or a database's driver has no value for: kept as the text that the database sent."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Unreadable:
    """Stands for such a value in a row, so that only a row that sends it is rejected.

    :param text: as the database wrote it, for the rejects file
    """

    text: str

    def __repr__(self) -> str:
        return "Unreadable(...)"

    def __str__(self) -> str:
        return self.text
