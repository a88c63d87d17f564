"""One row to the CRM: the contact, then its lists; what was written is kept for the case that the row is sent again."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from functools import partial

from crm_provider import errors as e
from crm_provider.client.remote_contact import RemoteContact
from crm_provider.client.upsert import ContactWriter, Written
from crm_provider.load.rows import Contact, Made, Outcome, Row


@dataclass
class Flight:
    """A row that is being sent.

    :param contact: what it becomes
    :param seen: its contact as the CRM was seen to have it, None if nobody has looked
    :param sends: how often, this time included
    :param order: 1-based launch order
    :param made: what an earlier send, try or load may have made of it, None if there was none
    :param written: what an earlier send of this try has written; then only its lists are left
    """

    row: Row
    contact: Contact
    seen: RemoteContact | None
    sends: int = 1
    order: int = 0
    made: Made | None = None
    written: Written | None = None


@dataclass(frozen=True)
class Sent:
    """How a row was sent.

    :param called: whether a write was needed for it
    :param is_whole: whether the CRM now has all that the row says; False if it was kept out of the lists
    """

    outcome: Outcome
    called: bool = True
    is_whole: bool = True


class Sender:
    """Sends rows; threads may share it.

    :param began: when this load began, by the CRM's clock: a contact that is older was not made by it
    """

    def __init__(self, writer: ContactWriter, *, began: datetime | None = None) -> None:
        self._writer, self._began = writer, began

    def send(self, flight: Flight) -> Sent:
        """Send one row.

        :raises CrmError: what decides about the row; in ``create`` mode also ``CONTACT_ALREADY_EXISTS``
        """
        again = flight.written is not None
        contact = flight.written or self._write(flight)
        listed = self._writer.add_to_lists(flight.contact, contact, again=again)
        outcome = Outcome(listed.outcome)
        if contact.outcome == "unchanged" and self._writer.mode == "create" and flight.row.made is None:
            outcome = Outcome.CREATED  # by an earlier try of this load
        return Sent(outcome, called=contact.called or listed.called, is_whole=listed.is_whole)

    def _write(self, flight: Flight) -> Written:
        is_ours = None if flight.made is None else partial(self._is_ours, flight, flight.made)
        try:
            written = self._writer.write(flight.contact, flight.seen, is_ours=is_ours)
        except e.CrmError as error:
            if not error.outcome_known and flight.made is None:
                flight.made = Made(self._began)
            raise
        flight.written = written
        if written.outcome == "created":
            flight.made = Made(self._began, certain=True)
        return written

    @staticmethod
    def _is_ours(flight: Flight, made: Made, remote: RemoteContact) -> bool:
        """Whether a contact that exists is the one that an earlier send, try or load has made."""
        if remote.created_at is None or made.since is None:
            return made.certain and remote.has(flight.contact.attributes)
        return remote.created_at >= made.since
