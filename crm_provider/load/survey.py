"""Looking at the CRM before the first write: how many contacts there are, a few of them, or all."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable, Collection, Iterator
from functools import cached_property
from typing import Protocol

from crm_provider import errors as e
from crm_provider.client.client import CrmClient
from crm_provider.client.pagination import Record
from crm_provider.client.remote_contact import ABSENT, RemoteContact
from crm_provider.client.upsert import may_be_absent
from crm_provider.load.known import Known
from crm_provider.load.plan import SAMPLE_MOST, Sample
from crm_provider.load.preflight import RowMapper
from crm_provider.load.window import Interrupt, Interrupted
from crm_provider.load.work import Fate, WorkItem, WorkTable

log = logging.getLogger(__name__)

READ_AHEAD = 4
"""Pages that are asked for at once: enough for 5 calls per second up to 600 ms a call."""


class DoneSet(Protocol):
    """Numbers of rows that are done."""

    def __contains__(self, number: int) -> bool: ...


class Survey:
    """What is read of the CRM for a load, each contact once; it is kept, so that no call is in vain.

    :param done: rows that need no look any more
    """

    def __init__(
        self, client: CrmClient, mapper: RowMapper, work: WorkTable, done: DoneSet, interrupt: Interrupt
    ) -> None:
        self._client, self._mapper, self._work, self._done = client, mapper, work, done
        self._interrupt = interrupt
        self.known = Known()
        self._looks: list[tuple[bool, bool]] = []

    @cached_property
    def rows(self) -> int:
        """Rows that are to be sent."""
        return sum(1 for number in self._work.numbers(Fate.SEND) if number not in self._done)

    @cached_property
    def _attributes(self) -> Collection[str]:
        """The attributes that the load writes: of others nothing is kept."""
        names: set[str] = set()
        for item in self._work.items(fate=Fate.SEND):
            names.update(self._mapper(item.row).attributes)
        return names

    def total(self) -> int | None:
        """How many contacts the CRM says it has; one call."""
        return self._client.count_contacts()

    def sample(self, n: int) -> Sample:
        """Look at the contacts of so many more rows.

        :return: what all looks have shown so far
        :raises Interrupted: if the load was told to stop
        """
        self._looks += [self._look(item) for item in itertools.islice(self._candidates, n)]
        existing = [same for exists, same in self._looks if exists]
        return Sample(len(self._looks), len(existing), sum(existing))

    @cached_property
    def _candidates(self) -> Iterator[WorkItem]:
        """The rows of the largest sample; an open query would keep a copy of all."""
        left = (item for item in self._work.mixed(seed=len(self._work)) if item.row.number not in self._done)
        return iter(list(itertools.islice(left, SAMPLE_MOST)))

    def read_all(self, tick: Callable[[int], None]) -> None:
        """Read all contacts, ten with a call, some calls at once.

        A listing that contradicts itself is not relied on for what is missing from it; what it showed counts.

        :param tick: told after each page how many contacts were read
        :raises Interrupted: if the load was told to stop
        """
        count = 0
        try:
            for listed in self._client.list_pages("contacts", at_once=READ_AHEAD):
                self._check_interrupt()
                for record in listed.fresh:
                    self._keep(record)
                count += len(listed.fresh)
                tick(count)
        except e.CrmProtocolError as odd:
            log.warning("Read %d contacts; the rest of the listing is not relied on: %s", count, odd)
            return
        self.known.complete = True
        log.info("Read all %d contacts of the CRM.", count)

    def _keep(self, record: Record) -> None:
        email = record.get("email")
        if isinstance(email, str) and email:
            self.known.put(email, RemoteContact.of(record, email).only(self._attributes))

    def _check_interrupt(self) -> None:
        if self._interrupt.is_set:
            raise Interrupted

    def _look(self, item: WorkItem) -> tuple[bool, bool]:
        """Whether the contact of a row exists, and has its values already."""
        self._check_interrupt()
        contact = self._mapper(item.row)
        try:
            seen = RemoteContact.of(self._client.get_contact(contact.email), contact.email)
        except e.CrmContactNotFoundError:
            seen = ABSENT
        except (e.CrmDataError, e.CrmRequestError):  # of this row: it is heard of again when the row is sent
            return False, False
        except e.CrmNotFoundError as missing:  # the status alone is no knowledge: the calls of the row will tell
            if not may_be_absent(missing):
                raise
            return False, False
        self.known.put(contact.email, seen.only(self._attributes))
        return seen.exists, seen.exists and seen.has(contact.attributes)
