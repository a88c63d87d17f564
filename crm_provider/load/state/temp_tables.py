"""Tables on disk while a load runs: contacts of the CRM, and rows of the source.

What the CRM was seen to have: contacts read before they are written, on disk, so that memory stays flat.

The rows of a load, on disk between the check and the sending, so that what was checked is what is sent.

The source is read once for each try.
"""

from __future__ import annotations

import hashlib
import json
import pickle
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from enum import IntEnum

from crm_provider.client.remote_contact import ABSENT, RemoteContact
from crm_provider.files.temp_database import TempDatabase
from crm_provider.load.options import Duplicates
from crm_provider.load.rows import Contact, Row, SourceError, key_of


class ContactCache:
    """Contacts that were read, in a temporary database that no other process can open and that ends with this one.

    Used by one thread.
    """

    def __init__(self) -> None:
        self._base = TempDatabase(
            "CREATE TABLE seen (email BLOB PRIMARY KEY, key BLOB, data TEXT); CREATE INDEX by_key ON seen (key)"
        )
        self.complete = False
        """Whether every contact of the CRM was read: then one that is not here is probably new."""

    def __len__(self) -> int:
        return int(self._base.execute("SELECT count(*) FROM seen").fetchone()[0])

    def put(self, email: str, seen: RemoteContact) -> None:
        """Keep what was seen of a contact."""
        created_at = None if seen.created_at is None else seen.created_at.isoformat()
        data = json.dumps([seen.email, dict(seen.attributes), sorted(seen.lists), seen.unwanted, created_at])
        self._base.execute("INSERT OR REPLACE INTO seen VALUES (?, ?, ?)", (digest(email), digest(key_of(email)), data))

    def get(self, contact: Contact) -> RemoteContact | None:
        """What was seen of the contact of a row, None if it was not looked at.

        A contact that is spelled as in the row goes before one that differs in case.
        """
        row = self._base.execute(
            "SELECT data FROM seen WHERE key = ? ORDER BY email = ? DESC LIMIT 1",
            (digest(contact.key), digest(contact.email)),
        ).fetchone()
        if row is None:
            return ABSENT if self.complete else None
        email, attributes, lists, unwanted, created_at = json.loads(row[0])
        created = None if created_at is None else datetime.fromisoformat(created_at)
        return RemoteContact(email, attributes, frozenset(lists), unwanted, created)

    def close(self) -> None:
        self._base.close()


def digest(key: str) -> bytes:
    """Sixteen bytes that stand for a key."""
    return hashlib.blake2b(key.encode(), digest_size=16).digest()


class RowStatus(IntEnum):
    """What the check says about a row."""

    SEND = 0
    INVALID = 1
    DUPLICATE = 2
    """Another row with the same email is sent instead."""
    AMBIGUOUS = 3
    """Several rows with the same email, and none is to be preferred."""
    SUPPRESSED = 4
    SAME = 5
    """It was loaded before, with the same values."""


_LOSERS: Mapping[Duplicates, str] = {
    "last": "UPDATE work SET fate = 2 WHERE key IS NOT NULL AND number NOT IN "
    "(SELECT max(number) FROM work WHERE key IS NOT NULL GROUP BY key)",
    "first": "UPDATE work SET fate = 2 WHERE key IS NOT NULL AND number NOT IN "
    "(SELECT min(number) FROM work WHERE key IS NOT NULL GROUP BY key)",
    "reject": "UPDATE work SET fate = 3 WHERE key IN "
    "(SELECT key FROM work WHERE key IS NOT NULL GROUP BY key HAVING count(*) > 1)",
}
"""Of several rows with one email: those that are not sent (fates ``DUPLICATE`` and ``AMBIGUOUS``)."""


@dataclass(frozen=True)
class StagedRow:
    """A row and what the check says about it."""

    row: Row
    fate: RowStatus


class StagedRows:
    """All rows of a load. Used by one thread."""

    def __init__(self) -> None:
        self._base = TempDatabase("CREATE TABLE work (number INTEGER PRIMARY KEY, fate INTEGER, key BLOB, given BLOB)")
        self._rows = 0

    def __len__(self) -> int:
        return self._rows

    def add(self, row: Row, fate: RowStatus, key: str | None = None) -> None:
        """One more row.

        :param key: of its contact, for rows that may be sent
        """
        try:
            given = pickle.dumps((dict(row.values), row.problem, row.made))
        except (TypeError, AttributeError, pickle.PicklingError):
            kinds = sorted({type(value).__name__ for value in row.values.values()})
            raise SourceError(
                f"row {row.number} has a value of a kind that cannot be kept (its kinds: {', '.join(kinds)}); have the "
                "source give text, a number, a date, or leave the column out"
            ) from None
        hashed = None if key is None else digest(key)
        self._base.execute("INSERT INTO work VALUES (?, ?, ?, ?)", (row.number, int(fate), hashed, given))
        self._rows += 1

    def settle_duplicates(self, duplicates: Duplicates) -> None:
        """Give every email one row to be sent, or none."""
        self._base.execute("CREATE INDEX by_key ON work (key) WHERE key IS NOT NULL")
        self._base.execute(_LOSERS[duplicates])

    def count(self, fate: RowStatus) -> int:
        """How many rows have a fate."""
        return int(self._base.execute("SELECT count(*) FROM work WHERE fate = ?", (int(fate),)).fetchone()[0])

    def numbers(self, fate: RowStatus) -> Iterator[int]:
        """The numbers of the rows that have a fate."""
        for (number,) in self._base.execute("SELECT number FROM work WHERE fate = ?", (int(fate),)):
            yield number

    def items(self, *, fate: RowStatus | None = None) -> Iterator[StagedRow]:
        """The rows in their order.

        :param fate: only these
        """
        query = "SELECT number, fate, given FROM work WHERE ? IS NULL OR fate = ? ORDER BY number"
        wanted = None if fate is None else int(fate)
        for number, found, given in self._base.execute(query, (wanted, wanted)):
            yield _item(number, found, given)

    def mixed(self, seed: int) -> Iterator[StagedRow]:
        """The rows to be sent in an order like chance's, the same for the same seed."""
        query = (
            "SELECT number, fate, given FROM work WHERE fate = 0 "
            "ORDER BY (number * 2654435761 + ?) % 4294967291"  # two primes: neighbours end up far from each other
        )
        for number, fate, given in self._base.execute(query, (seed,)):
            yield _item(number, fate, given)

    def close(self) -> None:
        self._base.close()


def without_views(row: Row) -> Row:
    """Bytes in place of views of a driver's memory (psycopg gives them), which cannot be kept."""
    if not any(isinstance(value, (memoryview, bytearray)) for value in row.values.values()):
        return row
    plain = {n: bytes(v) if isinstance(v, (memoryview, bytearray)) else v for n, v in row.values.items()}
    return replace(row, values=plain)


def _item(number: int, fate: int, given: bytes) -> StagedRow:
    values, problem, made = pickle.loads(given)  # noqa: S301 - written above, into a file that only this process can open
    return StagedRow(Row(number, values, problem, made), RowStatus(fate))
