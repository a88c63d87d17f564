"""Deals of the CRM, as a load sees them."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace
from functools import cached_property
from typing import cast

from crm_provider import errors as e
from crm_provider.client.deals import no_contacts, shows_contact
from crm_provider.client.pagination import AT_ONCE
from crm_provider.client.pagination import Record as Listed
from crm_provider.client.remote_contact import ABSENT, RemoteContact
from crm_provider.load.kinds.deal_cache import DealCache, RemoteDeal
from crm_provider.load.kinds.deal_plan import DealRows, choose_for_deals
from crm_provider.load.kinds.deal_sender import DealSender
from crm_provider.load.kinds.remote import ContactCache, RemoteRecords, Tick, TrySetup
from crm_provider.load.mapping.deal_mapper import Deal, DealMapper
from crm_provider.load.planner import MIN_ROWS, SAMPLE_MOST, Plan, Sample, pages_of
from crm_provider.load.rows import Outcome, Record, SourceError
from crm_provider.load.state.temp_tables import RowStatus, StagedRow
from crm_provider.load.workers import InFlightRow, SentRow, in_order
from crm_provider.values.addresses import person_key
from crm_provider.values.counted import counted

log = logging.getLogger(__name__)


class RemoteDeals(RemoteRecords):
    """Deals of the CRM; what was read is kept."""

    def __init__(self, setup: TrySetup) -> None:
        super().__init__(setup)
        self._options = setup.options
        self._mapper = cast("DealMapper", setup.mapper)
        self._is_resumed = setup.is_resumed
        self.cache, self.contacts = DealCache(), ContactCache(shared=True)
        self._compared: list[tuple[bool, bool]] = []
        self._reads_deals = self._reads_contacts = False
        self._shows_contacts: set[bool] = set()
        self._given: frozenset[tuple[str, str]] = frozenset()
        self._names = frozenset(self._staged.attribute_names)
        self._fingerprints = setup.fingerprints
        self.needs_start = bool(self._deal_rows.unnamed)

    # -- the plan --------------------------------------------------------------------------------------------

    def make_plan(self, *, may_compare: bool) -> Plan:
        plan = choose_for_deals(
            self._deal_rows, wanted=self._options.plan, total=self._total, sample=self.sample, may_compare=may_compare
        )
        self._reads_deals = plan.name == "compare"
        for_the_clock = 1 if self.needs_start else 0  # if no response shows it until then
        calls = plan.calls + self._calls_for_addresses(may_read=may_compare) + for_the_clock
        if self._reads_contacts:
            plan = replace(
                plan, name="compare", why=f"{plan.why}; all contacts are read to find those of the addresses"
            )
        return replace(plan, calls=calls)

    @cached_property
    def _deal_rows(self) -> DealRows:
        mode, unnamed, addresses = self._options.mode, 0, 0
        if self.rows:
            for deal in self._deals_to_send():
                unnamed += deal.deal_id is None
                addresses += deal.contact_email is not None
        must_read = None
        if mode == "upsert" and unnamed:
            must_read = "the API cannot search for the deal of a contact"
        elif unnamed and (self._is_resumed or self._staged.has_made):
            must_read = "an earlier try may have made some of the deals"
        if mode == "upsert" and self.rows > unnamed and (earlier := list(self._earlier_unnamed())):
            must_read = must_read or "a row that was sent before may be for the same deal"
            addresses += sum(earlier)
        return DealRows(
            mode=mode,
            count=self.rows,
            unnamed=unnamed,
            addresses=addresses,
            guarded=bool(self._options.only_from_stages),
            must_read=must_read,
        )

    def _deals_to_send(self) -> Iterator[Deal]:
        return (_deal(row.record) for row in self._staged.rows() if self._is_to_send(row) and row.record is not None)

    def _is_to_send(self, row: StagedRow) -> bool:
        number = row.row.number
        return row.status is RowStatus.SEND and number > self._after and number not in self._without

    def _earlier_unnamed(self) -> Iterator[bool]:
        """Of each row without the id of its deal that is not sent now: whether it names its contact by an address."""
        for row in self._staged.rows():
            if row.record is not None and not self._is_to_send(row) and _deal(row.record).deal_id is None:
                yield _deal(row.record).contact_email is not None

    def _total(self) -> int | None:
        return self._client.count_deals()

    def _calls_for_addresses(self, *, may_read: bool) -> int:
        """Calls that finding the contacts of addresses takes."""
        rows = self._deal_rows
        first = bool(rows.unnamed and not self._reads_deals)  # one call shows the CRM's clock
        if rows.addresses < MIN_ROWS or not may_read:
            return rows.addresses + first
        total = self._client.count_contacts()
        self._reads_contacts = total is not None and pages_of(total) < rows.addresses
        return 1 + (pages_of(total or 0) if self._reads_contacts else rows.addresses)

    def sample(self, n: int) -> Sample:
        """Read the deals of more rows.

        :param n: how many rows
        :return: the sample so far
        :raises Cancelled: if the load was cancelled
        """
        self._compared += [self._compare(deal) for deal in itertools.islice(self._candidates, n)]
        existing = [is_same for exists, is_same in self._compared if exists]
        return Sample(len(self._compared), len(existing), sum(existing))

    @cached_property
    def _candidates(self) -> Iterator[Deal]:
        return map(_deal, self._mixed(SAMPLE_MOST))

    def _compare(self, deal: Deal) -> tuple[bool, bool]:
        """Whether a deal exists, and whether it already has the values of its row."""
        self._check_cancelled()
        try:  # only where each row has the id of its deal
            remote = RemoteDeal.of(self._client.get_deal(str(deal.deal_id)), self._names)
        except (e.CrmNotFoundError, e.CrmDataError, e.CrmRequestError):
            return False, False  # of this row, which gets the error again when it is sent
        self.cache.put(remote)
        return True, not remote.changes(deal, deal.contact_id)

    # -- what was read ---------------------------------------------------------------------------------------

    def read_all(self, tick: Tick) -> None:
        """Read all deals, and all contacts if that is cheaper than a call for each address.

        :raises CrmProtocolError: if a row needs the deal of a contact, and the listing does not show whose a deal is
        """
        if self._reads_deals:
            must_be_whole = bool(self._deal_rows.unnamed) or self._deal_rows.must_read is not None
            self.cache.complete = self._read("deals", self._keep, tick, strict=must_be_whole)
            if self._deal_rows.unnamed and self._shows_contacts == {False}:
                raise no_contacts()
        if self._reads_contacts:
            self.contacts.complete = self._read("contacts", self._keep_contact, tick)
        if any(deal.deal_id for deal in self._deals()):
            self._settle_same_deals(tick)
            self._given = frozenset(self._given_pairs())

    def _settle_same_deals(self, tick: Tick) -> None:
        """Treat a row with a deal's id and a row with its contact and pipeline as rows of one deal.

        :raises SourceError: with ``on_invalid="stop"`` and ``duplicates="reject"``, if there are such rows
        """
        self._look_up_contacts(tick)
        found = {deal.key: id_ for deal in self._unnamed() if (id_ := self._id_in_rows(deal)) is not None}
        if not found:
            return
        deals = counted(len(found), "deal is", "deals are")
        log.warning(
            "%s in rows with their deal_id and in rows with their contact and pipeline: duplicates=%r decides which "
            "row is sent.",
            deals, self._options.duplicates,
        )  # fmt: skip
        if self._options.duplicates == "reject" and self._options.on_invalid == "stop":
            raise SourceError(
                f"{deals} in several rows, by deal_id and by contact and pipeline; nothing was written "
                "(on_invalid='stop')"
            )
        self._forget({*found, *found.values()})
        for key, deal_id in found.items():
            self._staged.take_for_same(key, deal_id)
        self._staged.mark_duplicates(self._options.duplicates)

    def _forget(self, keys: Collection[str]) -> None:
        """Forget what was loaded of deals: one row changes what another one has loaded under its own key."""
        if self._fingerprints is not None:
            for deal in self._deals():
                if deal.key in keys:
                    self._fingerprints.forget(deal)

    def _deals(self) -> Iterator[Deal]:
        """The deals of all rows that are or were sent, or were loaded before."""
        for row in self._staged.rows():
            self._check_cancelled()
            if row.record is not None:
                yield _deal(row.record)

    def _unnamed(self) -> Iterator[Deal]:
        """Deals without an id that may be those of rows with an id. If no row with an id is sent, only those sent."""
        deals = self._deals() if self.rows > self._deal_rows.unnamed else self._deals_to_send()
        return (deal for deal in deals if deal.deal_id is None)

    def _named(self) -> Iterator[Deal]:
        """Deals with an id that are sent, if there are others without one."""
        deals = self._deals_to_send() if self._deal_rows.unnamed else iter(())
        return (deal for deal in deals if deal.deal_id is not None)

    def _given_pairs(self) -> Iterator[tuple[str, str]]:
        """The contact and the pipeline of each deal that a row gives to another contact."""
        for deal in self._named():
            remote, contact_id = self.cache.get(str(deal.deal_id)), self._contact_of(deal)
            if remote is not None and remote.pipeline_id is not None and contact_id not in (None, remote.contact_id):
                yield str(contact_id), remote.pipeline_id

    def _contact_of(self, deal: Deal) -> str | None:
        """The id of a row's contact in lower case, if it has one that is known."""
        known = deal.contact_id if deal.contact_email is None else self._known_contact(deal.contact_email)
        return None if known is None else known.lower()

    def _id_in_rows(self, deal: Deal) -> str | None:
        """The id of the deal of a contact in a pipeline, if a row has this id; in lower case."""
        contact_id, pipeline_id = self._contact_of(deal), deal.pipeline_id
        found = [] if contact_id is None or pipeline_id is None else self.cache.of(contact_id, pipeline_id)
        id_ = found[0].id.lower() if len(found) == 1 else None
        return id_ if id_ is not None and self._staged.has(id_) else None

    def _known_contact(self, email: str) -> str | None:
        """The id of a contact that was read; None if there is no such contact."""
        known = self.contacts.get(email)
        return known.id if known is not None and isinstance(known.id, str) else None

    def _look_up_contacts(self, tick: Tick) -> None:
        """Find the contacts of addresses, several at once. They are kept until their rows are sent."""
        asked: set[str] = set()
        for count, (email, found) in enumerate(in_order(self._look_up, self._unknown(asked), AT_ONCE), start=1):
            self._check_cancelled()
            self.contacts.put(email, found)
            asked.discard(person_key(email))
            tick(count, "contacts")

    def _unknown(self, asked: set[str]) -> Iterator[str]:
        """Addresses whose contacts are not known.

        :param asked: keys of those that are being looked up; a new one is added
        """
        for deal in itertools.chain(self._unnamed(), self._named()):
            email = deal.contact_email
            if email is not None and person_key(email) not in asked and self.contacts.get(email) is None:
                asked.add(person_key(email))
                yield email

    def _look_up(self, email: str) -> tuple[str, RemoteContact]:
        try:
            return email, RemoteContact.of(self._client.get_contact(email), email).only(())
        except (e.CrmNotFoundError, e.CrmDataError, e.CrmRequestError):
            return email, ABSENT  # the row gets the error when it is sent

    def get(self, record: Record) -> None:
        return None  # the threads that send look it up: it may need a call to know which deal it is

    def _keep(self, record: Listed) -> None:
        self._shows_contacts.add(shows_contact(record))
        self.cache.put(RemoteDeal.of(record, self._names))

    def _keep_contact(self, record: Listed) -> None:
        email = record.get("email")
        if isinstance(email, str) and email:
            self.contacts.put(email, RemoteContact.of(record, email).only(()))

    def close(self) -> None:
        self.cache.close()
        self.contacts.close()

    # -- the calls -------------------------------------------------------------------------------------------

    def send(self, in_flight: InFlightRow) -> SentRow:
        return self._sender.send(in_flight, _deal(in_flight.record))

    @cached_property
    def _sender(self) -> DealSender:
        options = self._options
        return DealSender(
            self._client,
            self.cache,
            names=self._names,
            contact_id=self._contact_id,
            finds=options.mode == "upsert",
            given=self._given,
            refuses=options.mode == "create" and options.plan == "compare" and self._reads_deals,
            stages=options.stages(),
            began=self.began,
        )

    def _contact_id(self, email: str) -> str:
        """The id of the contact with an address.

        :raises CrmContactNotFoundError: if there is none
        """
        known = self.contacts.get(email) or ABSENT
        if known.exists and isinstance(known.id, str) and known.id:
            return known.id
        return str(self._client.get_contact(email)["id"])

    def of_the_run(self, error: e.CrmError) -> str | None:
        """A stage or a pipeline that is the same in every row is wrong in every row."""
        fields = {"STAGE_NOT_FOUND": "stage_id", "PIPELINE_NOT_FOUND": "pipeline_id"}
        name = fields.get(error.type)
        if name is None or name not in self._mapper.constants:
            return None
        return f"{name} is a constant of the mapping"

    def naive_calls(self, counts: Mapping[Outcome, int], refused: int) -> int:
        return sum(counts.get(each, 0) for each in (Outcome.CREATED, Outcome.UPDATED, Outcome.UNCHANGED)) + refused


def _deal(record: Record) -> Deal:
    return cast("Deal", record)
