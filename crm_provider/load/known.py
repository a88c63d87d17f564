"""What the CRM was seen to have: contacts read before they are written, on disk, so that memory stays flat."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from crm_provider.load.rows import Contact, key_of
from crm_provider.load.scratch import Scratch
from crm_provider.segments import list_ids_of

UNWANTED = frozenset({"unsubscribed", "unsubscribe", "blacklisted", "blacklist", "opted_out", "optout", "opted-out"})
"""Values of ``status`` that say that a person does not want to be contacted. The values are not documented; the older
API showed the same as ``unsubscribedAt`` and ``blacklistedAt``, which count too."""


@dataclass(frozen=True)
class Seen:
    """A contact of the CRM, as far as a load needs it.

    :param email: as the CRM writes it, None if the CRM has no such contact
    :param attributes: those that the load may write
    :param lists: ids of the segmentation lists that it is in, in lower case
    :param unwanted: whether it is unsubscribed or blacklisted
    """

    email: str | None
    attributes: Mapping[str, Any] = field(default_factory=dict)
    lists: frozenset[str] = frozenset()
    unwanted: bool = False

    @classmethod
    def of(cls, record: Mapping[str, Any], email: str) -> Seen:
        """From a record of the API.

        :param email: taken if the record has none
        """
        found, own = record.get("attributes"), record.get("email")
        return cls(
            email=own if isinstance(own, str) and own else email,
            attributes=dict(found) if isinstance(found, Mapping) else {},
            lists=frozenset(id_.lower() for id_ in list_ids_of(record)),
            unwanted=is_unwanted(record),
        )

    @property
    def exists(self) -> bool:
        return self.email is not None

    def only(self, names: Collection[str]) -> Seen:
        """With no other attributes than these."""
        return replace(self, attributes={name: value for name, value in self.attributes.items() if name in names})

    def has(self, contact: Contact) -> bool:
        """Whether writing the contact would change nothing. A number and its text count as equal."""
        return all(
            name in self.attributes and _same(self.attributes[name], v) for name, v in contact.attributes.items()
        )


ABSENT = Seen(None)


def is_unwanted(record: Mapping[str, Any]) -> bool:
    """Whether a contact is unsubscribed or blacklisted."""
    status = record.get("status")
    said = isinstance(status, str) and status.strip().casefold() in UNWANTED
    return said or bool(record.get("unsubscribedAt")) or bool(record.get("blacklistedAt"))


def _same(found: Any, wanted: Any) -> bool:
    if found == wanted:
        return type(found) is type(wanted) or (not isinstance(found, bool) and not isinstance(wanted, bool))
    plain = isinstance(found, (str, int, float)) and isinstance(wanted, (str, int, float))
    booleans = isinstance(found, bool) or isinstance(wanted, bool)
    return plain and not booleans and str(found) == str(wanted)


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

    def put(self, email: str, seen: Seen) -> None:
        """Keep what was seen of a contact."""
        data = json.dumps([seen.email, dict(seen.attributes), sorted(seen.lists), seen.unwanted])
        self._base.execute("INSERT OR REPLACE INTO seen VALUES (?, ?, ?)", (digest(email), digest(key_of(email)), data))

    def get(self, contact: Contact) -> Seen | None:
        """What was seen of the contact of a row, None if it was not looked at.

        A contact that is spelled as in the row goes before one that differs in case.
        """
        row = self._base.execute(
            "SELECT data FROM seen WHERE key = ? ORDER BY email = ? DESC LIMIT 1",
            (digest(contact.key), digest(contact.email)),
        ).fetchone()
        if row is None:
            return ABSENT if self.complete else None
        email, attributes, lists, unwanted = json.loads(row[0])
        return Seen(email, attributes, frozenset(lists), unwanted)

    def close(self) -> None:
        self._base.close()


def digest(key: str) -> bytes:
    """Sixteen bytes that stand for a key."""
    return hashlib.blake2b(key.encode(), digest_size=16).digest()
