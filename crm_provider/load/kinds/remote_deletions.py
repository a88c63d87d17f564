"""The contacts of the CRM that a load deletes."""

from __future__ import annotations

import itertools
import logging
import threading
from collections.abc import Mapping
from typing import Any, cast

from crm_provider import errors as e
from crm_provider.client.pagination import Record as Listed
from crm_provider.files.temp_database import TempDatabase
from crm_provider.load.kinds.remote import RemoteRecords, Tick, TrySetup
from crm_provider.load.planner import Plan, pages_of
from crm_provider.load.rows import Contact, Outcome, Record, SourceError
from crm_provider.load.state.temp_tables import digest
from crm_provider.load.workers import InFlightRow, SentRow
from crm_provider.values.addresses import person_key
from crm_provider.values.counted import counted

log = logging.getLogger(__name__)

MOST_READS = 3
"""Maximum reads of the contacts, if some disappear during a read."""

DELETED = "deleted"
"""What the tries of a run keep: the number of contacts that they have deleted together."""

GONE = SentRow(Outcome.UNCHANGED, called=False, message="The CRM has no such contact.")


class RemoteDeletions(RemoteRecords):
    """The contacts of the CRM to delete."""

    def __init__(self, setup: TrySetup) -> None:
        super().__init__(setup)
        self._options = setup.options
        self._lock = threading.Lock()
        self._shows_emails: set[bool] = set()
        self._deleted_before = self._deleted = _count(setup.kept.get(DELETED))
        self._database = TempDatabase("CREATE TABLE found (person BLOB, email TEXT, PRIMARY KEY (person, email))")

    def make_plan(self, *, may_compare: bool) -> Plan:
        if not self.rows:
            return Plan("nothing", 0, "no rows are left to send")
        if not self._options.every_spelling:
            self._check_most(self.rows)
            return Plan("delete", self.rows, "one call for each address, as it is given")
        pages = pages_of(self._client.count_contacts() or 0)
        why = "all contacts are read, to find every spelling of an address"
        if self._options.dry_run:
            self.read_all(lambda count, records: None)
            addresses = counted(self.rows, "address", "addresses")
            why = f"{why}: {_contacts(self._found)} would be deleted for {addresses}"
        return Plan("compare", pages + 1 + self.rows, why)

    @property
    def _found(self) -> int:
        return int(self._database.execute("SELECT count(*) FROM found").fetchone()[0])

    def read_all(self, tick: Tick) -> None:
        """Read all contacts, and keep those that are to be deleted.

        :raises SourceError: if there are more than ``max_deletes``
        :raises CrmProtocolError: if the listing contradicts itself, shrinks each time, or shows no address: a contact
            could be missed
        """
        for _ in range(MOST_READS):
            totals: list[int] = []
            self._read("contacts", self._keep, tick, strict=True, totals=totals)
            if self._shows_emails == {False}:
                raise e.CrmProtocolError("no contact of the listing has an email", method="GET", path="/contacts")
            if all(before <= after for before, after in itertools.pairwise(totals)):
                return self._check_most(self._found)
            log.warning("Contacts were deleted while the listing was read, so others may have moved; reading it again.")
        raise e.CrmProtocolError(
            f"contacts were deleted during each of the {MOST_READS} reads, so one may have been missed; "
            "nothing was deleted. Run this when nothing else deletes contacts",
            method="GET",
            path="/contacts",
        )

    def _keep(self, record: Listed) -> None:
        email = record.get("email")
        self._shows_emails.add(isinstance(email, str) and bool(email))
        if isinstance(email, str) and email and self._staged.sends(person_key(email)):
            self._database.execute("INSERT OR IGNORE INTO found VALUES (?, ?)", (digest(person_key(email)), email))

    def _check_most(self, count: int) -> None:
        most, before = self._options.max_deletes, self._deleted_before
        if self._options.dry_run:
            self._forecast(count, most)
        elif before + count > most:
            raise SourceError(
                f"{_contacts(count)} would be deleted, but max_deletes={most} allows {most:,}{_after(before)}. Check "
                "the source (dry_run=True shows the number), then raise max_deletes"
            )

    def _forecast(self, count: int, most: int) -> None:
        contacts = _contacts(count)
        at_most = "" if self._options.every_spelling else "at most "
        self.forecast = f"{at_most}{contacts} would be deleted"
        self.refusal = f"{contacts}, more than max_deletes={most}" if count > most else ""

    def get(self, record: Record) -> tuple[str, ...]:
        """The addresses of the contacts that are deleted for a row, as the CRM spells them."""
        if not self._options.every_spelling:
            return (cast("Contact", record).email,)
        query = "SELECT email FROM found WHERE person = ? ORDER BY email"
        return tuple(email for (email,) in self._database.execute(query, (digest(record.key),)))

    def send(self, in_flight: InFlightRow) -> SentRow:
        """Delete the contacts of a row. A contact that no longer exists is an error only if no other was deleted."""
        done: set[str] = in_flight.written or set()
        in_flight.written = done
        missing: e.CrmContactNotFoundError | None = None
        for email in in_flight.remote:
            if email in done:
                continue
            try:
                self._client.delete_listed(email)
            except e.CrmContactNotFoundError as gone:
                missing = gone
            else:
                done.add(email)
                with self._lock:
                    self._deleted += 1
                    self.kept[DELETED] = self._deleted
        if missing is not None and not done:
            raise missing
        return SentRow(Outcome.DELETED) if done else GONE

    def naive_calls(self, counts: Mapping[Outcome, int], refused: int) -> int:
        return counts.get(Outcome.DELETED, 0) + counts.get(Outcome.UNCHANGED, 0) + refused

    def close(self) -> None:
        self._database.close()


def _count(kept: Any) -> int:
    return kept if isinstance(kept, int) and not isinstance(kept, bool) and kept > 0 else 0


def _contacts(number: int) -> str:
    return counted(number, "contact")


def _after(before: int) -> str:
    """What has been deleted when a try is refused."""
    if not before:
        return "; nothing was deleted"
    return f" in all tries, and earlier ones have deleted {before:,}; this one deleted nothing"
