"""What the CRM was seen to have: contacts read before they are written, on disk, so that memory stays flat."""

from __future__ import annotations

import hashlib
import json
from datetime import datetime

from crm_provider.client.remote_contact import ABSENT, RemoteContact
from crm_provider.files.local import Scratch
from crm_provider.load.rows import Contact, key_of


class Known:
    """Contacts that were read, in a temporary database that no other process can open and that ends with this one.

    Used by one thread.
    """

    def __init__(self) -> None:
        self._base = Scratch(
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
