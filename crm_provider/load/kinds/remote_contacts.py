"""Contacts of the CRM, as a load sees them.

A row is sent in two steps, the contact and then its lists. What was written is recorded, in case the row is sent again.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from datetime import datetime
from functools import cached_property, partial
from typing import cast

from crm_provider import errors as e
from crm_provider.client.pagination import Record as Listed
from crm_provider.client.remote_contact import ABSENT, RemoteContact
from crm_provider.client.upsert import ContactWriter, LearnedOrder, WriteMode, WriteResult, may_be_absent
from crm_provider.load.kinds.remote import ContactCache, RemoteRecords, Tick, TrySetup
from crm_provider.load.options import ContactOptions, Mode, PlanName
from crm_provider.load.planner import SAMPLE_MOST, ListCosts, Plan, Sample, choose
from crm_provider.load.rows import Contact, EarlierCreation, Outcome, Record
from crm_provider.load.workers import InFlightRow, SentRow

UNWANTED = "The CRM shows the contact as unsubscribed or blacklisted: it was not added to the lists."


class ContactSender:
    """Sends rows; threads may share it."""

    def __init__(self, writer: ContactWriter, *, began: datetime | None = None) -> None:
        self._writer, self._began = writer, began

    def send(self, in_flight: InFlightRow) -> SentRow:
        """Send one row.

        :raises CrmError: the error that decides about the row; in ``create`` mode also ``CONTACT_ALREADY_EXISTS``
        """
        again = in_flight.written is not None
        contact: WriteResult = in_flight.written or self._write(in_flight)
        listed = self._writer.add_to_lists(_contact(in_flight.record), contact, again=again)
        outcome = Outcome(listed.outcome)
        made = in_flight.made
        if contact.outcome == "unchanged" and self._writer.mode == "create" and made and not made.earlier_load:
            outcome = Outcome.CREATED  # by an earlier try of this load
        return SentRow(
            outcome,
            called=contact.called or listed.called,
            is_whole=listed.is_whole,
            ids=contact.ids,
            message=UNWANTED if outcome is Outcome.SUPPRESSED or not listed.is_whole else None,
        )

    def _write(self, in_flight: InFlightRow) -> WriteResult:
        is_ours = None if in_flight.made is None else partial(self._is_ours, in_flight, in_flight.made)
        try:
            written = self._writer.write(_contact(in_flight.record), in_flight.remote, is_ours=is_ours)
        except e.CrmError as error:
            if not error.outcome_known and in_flight.made is None:
                in_flight.made = EarlierCreation(self._began)
            raise
        in_flight.written = written
        if written.outcome == "created":
            in_flight.made = EarlierCreation(self._began, certain=True)
        return written

    @staticmethod
    def _is_ours(in_flight: InFlightRow, made: EarlierCreation, remote: RemoteContact) -> bool:
        """Whether an earlier send, try or load created an existing contact."""
        if remote.created_at is None or made.since is None:
            return made.certain and remote.has(in_flight.record.attributes)
        return remote.created_at >= made.since


class RemoteContacts(RemoteRecords):
    """Contacts of the CRM. Each is read once and kept, so that no call is wasted."""

    def __init__(self, setup: TrySetup) -> None:
        super().__init__(setup)
        self._options: ContactOptions = setup.options
        self.contact_cache = ContactCache()
        self._compared: list[tuple[bool, bool]] = []
        self.order = LearnedOrder()
        self.needs_start = bool(self._options.mode == "create" and self._options.list_ids and self.rows)

    # -- the plan --------------------------------------------------------------------------------------------

    def make_plan(self, *, may_compare: bool) -> Plan:
        plan, sample = choose(
            mode=cast("Mode", self._options.mode),
            wanted=cast("PlanName", self._options.plan),
            rows=self.rows,
            lists=ListCosts(bool(self._options.list_ids), guarded=not self._options.resubscribe),
            may_compare=may_compare,
            total=self.total,
            sample=self.sample,
        )
        if sample.rows:
            self.order = LearnedOrder(share=sample.share_existing, weight=sample.rows)
        return plan

    def total(self) -> int | None:
        """The number of contacts that the CRM reports; one call."""
        return self._client.count_contacts()

    def sample(self, n: int) -> Sample:
        """Read the contacts of more rows.

        :param n: how many rows
        :return: the sample so far
        :raises Cancelled: if the load was cancelled
        """
        self._compared += [self._compare(contact) for contact in itertools.islice(self._candidates, n)]
        existing = [same for exists, same in self._compared if exists]
        return Sample(len(self._compared), len(existing), sum(existing))

    @cached_property
    def _candidates(self) -> Iterator[Contact]:
        """The contacts of the largest sample."""
        return map(_contact, self._mixed(SAMPLE_MOST))

    def _compare(self, contact: Contact) -> tuple[bool, bool]:
        """Whether a contact exists, and whether it already has the values of its row."""
        self._check_cancelled()
        try:
            remote = RemoteContact.of(self._client.get_contact(contact.email), contact.email)
        except e.CrmContactNotFoundError:
            remote = ABSENT
        except (e.CrmDataError, e.CrmRequestError):  # of this row, which gets the error again when it is sent
            return False, False
        except e.CrmNotFoundError as missing:  # the status alone proves nothing; the row's own calls will show it
            if not may_be_absent(missing):
                raise
            return False, False
        self._put(contact.email, remote)
        return remote.exists, remote.exists and remote.has(contact.attributes)

    # -- what was read ---------------------------------------------------------------------------------------

    def read_all(self, tick: Tick) -> None:
        self.contact_cache.complete = self._read("contacts", self._keep, tick)

    def get(self, record: Record) -> RemoteContact | None:
        return self.contact_cache.get(_contact(record).email)

    def _keep(self, record: Listed) -> None:
        email = record.get("email")
        if isinstance(email, str) and email:
            self._put(email, RemoteContact.of(record, email))

    def _put(self, email: str, remote: RemoteContact) -> None:
        """Keep a contact, of its attributes only those that the load writes."""
        self.contact_cache.put(email, remote.only(self._staged.attribute_names))

    def close(self) -> None:
        self.contact_cache.close()

    # -- the calls -------------------------------------------------------------------------------------------

    def send(self, in_flight: InFlightRow) -> SentRow:
        return self._sender.send(in_flight)

    @cached_property
    def _sender(self) -> ContactSender:
        options = self._options
        writer = ContactWriter(
            self._client,
            mode=cast("WriteMode", options.mode),
            order=self.order,
            lists=options.checked_lists() if options.list_ids else (),
            guard=not options.resubscribe,
        )
        return ContactSender(writer, began=self.began)

    def naive_calls(self, counts: Mapping[Outcome, int], refused: int) -> int:
        """Calls that a create-then-update loop would have made."""
        existing = counts.get(Outcome.UPDATED, 0) + counts.get(Outcome.UNCHANGED, 0)
        created = counts.get(Outcome.CREATED, 0)
        writes = created + existing * (2 if self._options.mode == "upsert" else 1)
        listed = created + existing if self._options.list_ids else 0
        return writes + listed + refused


def _contact(record: Record) -> Contact:
    return cast("Contact", record)
