"""The CRM's side of one try of a load: what all kinds of records share."""

from __future__ import annotations

import abc
import itertools
import json
import logging
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from crm_provider import errors as e
from crm_provider.client.client import CrmClient
from crm_provider.client.pagination import AT_ONCE, Listing
from crm_provider.client.pagination import Record as Listed
from crm_provider.client.remote_contact import ABSENT, RemoteContact
from crm_provider.files.temp_database import TempDatabase
from crm_provider.load.planner import Plan
from crm_provider.load.preflight import Preflight, RowMapper
from crm_provider.load.rows import Outcome, Record
from crm_provider.load.state.checkpoint import DoneRows
from crm_provider.load.state.fingerprints import Fingerprints
from crm_provider.load.state.temp_tables import RowStatus, digest
from crm_provider.load.workers import Cancelled, CancelToken, InFlightRow, SentRow
from crm_provider.values.addresses import person_key

log = logging.getLogger(__name__)

Tick = Callable[[int, str], None]
"""Takes the number of records read so far, and the CRM's name for them."""


@dataclass(frozen=True, kw_only=True)
class TrySetup:
    """What one try of a load gives to the CRM's side of it.

    :param done: rows that are done
    :param is_resumed: whether an earlier try may have sent rows that are not done
    :param fingerprints: of what was loaded before, None if there are none
    :param kept: ``RemoteRecords.kept`` of the last try of the same run, also if the input has changed
    """

    client: CrmClient
    options: Any
    mapper: RowMapper
    preflight: Preflight
    done: DoneRows
    cancel_token: CancelToken
    is_resumed: bool = False
    fingerprints: Fingerprints | None = None
    kept: Mapping[str, Any] = field(default_factory=dict)


class RemoteRecords(abc.ABC):
    """The CRM's side of one try: what is known of its records, the plan, and the calls of a row.

    The engine calls :meth:`make_plan`, then :meth:`read_all` if the plan is ``compare``, then for each row :meth:`get`
    and in another thread :meth:`send`, and at last :meth:`close`.
    """

    needs_start = False
    """Whether the load must know the time at which it began, by the CRM's clock: see ``began``."""

    began: datetime | None = None
    """Newer records may have been created by this load; None if that time is unknown."""

    forecast = ""
    """What a real run would do, as a dry run has found out beside the plan."""

    refusal = ""
    """Why a real run would write nothing and fail, as a dry run has found out."""

    def __init__(self, setup: TrySetup) -> None:
        self._client, self._cancel_token = setup.client, setup.cancel_token
        self.kept = dict(setup.kept)
        """What later tries of the same run must know, even if their input differs. JSON-compatible, without values."""
        self._staged, self._seed = setup.preflight.staged, setup.preflight.rows
        self._after, self._without = setup.done.upto, frozenset(setup.done.above)
        some_are_done = self._after or self._without
        self.rows = self._count_left() if some_are_done else setup.preflight.counts[RowStatus.SEND]
        """Rows that are to be sent."""

    @abc.abstractmethod
    def make_plan(self, *, may_compare: bool) -> Plan:
        """Choose the plan; may make calls.

        :param may_compare: False if an earlier try was stopped while it read all records
        :raises Cancelled: if the load was cancelled
        """

    @abc.abstractmethod
    def read_all(self, tick: Tick) -> None:
        """Read all records, before the first write.

        :param tick: called after each page, and for each record that is read alone
        :raises Cancelled: if the load was cancelled
        """

    @abc.abstractmethod
    def get(self, record: Record) -> Any:
        """What is known of a record in the CRM, None if nothing is."""

    @abc.abstractmethod
    def send(self, in_flight: InFlightRow) -> SentRow:
        """Send one row; in a thread of its own.

        :raises CrmError: the error that decides about the row
        """

    @abc.abstractmethod
    def naive_calls(self, counts: Mapping[Outcome, int], refused: int) -> int:
        """Calls that a load without a plan would have made.

        :param refused: rows that a call has ended without success
        """

    def of_the_run(self, error: e.CrmError) -> str | None:
        """Why every row would get an error of a row, None if not."""
        return None

    @abc.abstractmethod
    def close(self) -> None:
        """Drop what was read."""

    # -- for subclasses --------------------------------------------------------------------------------------

    def _count_left(self) -> int:
        return self._staged.count_to_send(after=self._after, without=self._without)

    def _mixed(self, most: int) -> Iterator[Record]:
        """Records to be sent in a pseudo-random order; an open query would keep all their numbers."""
        mixed = self._staged.mixed(self._seed, after=self._after, without=self._without)
        return iter([row.record for row in itertools.islice(mixed, most) if row.record is not None])

    def _read(
        self,
        listing: Listing,
        keep: Callable[[Listed], None],
        tick: Tick,
        *,
        strict: bool = False,
        totals: list[int] | None = None,
    ) -> bool:
        """Read a whole listing, ten records with each call and several calls at once.

        If a listing contradicts itself, a record that it lacks may still exist. The records that it has are used.

        :param keep: takes each record
        :param strict: raise an error for such a listing, and read pages again onto which records have moved
        :param totals: receives the total of each page, and finally the number of records
        :return: whether it is complete
        """
        count = 0
        try:
            for listed in self._client.list_pages(listing, at_once=AT_ONCE, with_moved=strict):
                self._check_cancelled()
                for record in listed.fresh:
                    keep(record)
                count += len(listed.fresh)
                tick(count, listing)
                if totals is not None and listed.page.total is not None:
                    totals.append(listed.page.total)
        except e.CrmProtocolError as odd:
            if strict:
                raise
            log.warning("Read the listing of %s only up to %d: %s", listing, count, odd)
            return False
        if totals:
            totals.append(count)
        log.info("Read all %s of the CRM: %d.", listing, count)
        return True

    def _check_cancelled(self) -> None:
        if self._cancel_token.is_set:
            raise Cancelled


class ContactCache:
    """Contacts that were read, in a temporary database that no other process can open and that ends with this one.

    Used by one thread, unless it is shared.
    """

    def __init__(self, *, shared: bool = False) -> None:
        self._shared = shared
        self._lock = threading.Lock()
        self._database: TempDatabase | None = None
        self.complete = False
        """Whether every contact of the CRM was read, so that one that is missing here is probably new."""

    def __len__(self) -> int:
        return 0 if self._database is None else self._database.execute("SELECT count(*) FROM contacts").fetchone()[0]

    def put(self, email: str, remote: RemoteContact) -> None:
        """Keep a contact as it was read."""
        if self._database is None:
            self._database = TempDatabase(
                "CREATE TABLE contacts (email BLOB PRIMARY KEY, person BLOB, data TEXT); "
                "CREATE INDEX by_person ON contacts (person)",
                shared=self._shared,
            )
        created_at = None if remote.created_at is None else remote.created_at.isoformat()
        found = [remote.email, dict(remote.attributes), sorted(remote.lists), remote.unwanted, created_at, remote.id]
        data = json.dumps(found)
        self._database.execute(
            "INSERT OR REPLACE INTO contacts VALUES (?, ?, ?)", (digest(email), digest(person_key(email)), data)
        )

    def get(self, email: str) -> RemoteContact | None:
        """The contact with this address, None if it was not read.

        A contact with the same spelling takes precedence over one with another spelling of the address.
        """
        row = None
        if self._database is not None:
            with self._lock:
                row = self._database.execute(
                    "SELECT data FROM contacts WHERE person = ? ORDER BY email = ? DESC LIMIT 1",
                    (digest(person_key(email)), digest(email)),
                ).fetchone()
        if row is None:
            return ABSENT if self.complete else None
        found, attributes, lists, unwanted, created_at, id_ = json.loads(row[0])
        created = None if created_at is None else datetime.fromisoformat(created_at)
        return RemoteContact(found, attributes, frozenset(lists), unwanted, created, id_)

    def close(self) -> None:
        """Drop the table."""
        if self._database is not None:
            self._database.close()
