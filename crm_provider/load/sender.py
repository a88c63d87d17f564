"""One row to the CRM: which calls, in which order, by what is known of its contact."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from crm_provider import errors as e
from crm_provider.calls.contacts import may_be_absent
from crm_provider.client import CrmClient
from crm_provider.load.known import ABSENT, Seen
from crm_provider.load.options import Mode
from crm_provider.load.rows import Contact, Outcome


class Order(Protocol):
    """Which half of an upsert goes first."""

    @property
    def update_first(self) -> bool: ...

    def learn(self, *, existed: bool) -> None: ...


@dataclass(frozen=True)
class Sent:
    """How a row was sent.

    :param called: whether a write was needed for it
    """

    outcome: Outcome
    called: bool = True


class Sender:
    """Sends contacts; threads may share it.

    A contact that is (or may be) unsubscribed is looked at before anything is written if it is to be added to lists:
    then nothing at all is written of its row.

    :param lists: segmentation lists that each contact is added to
    :param guard: leave out contacts that the CRM shows as unsubscribed or blacklisted, where there are ``lists``
    """

    def __init__(
        self, client: CrmClient, *, mode: Mode, order: Order, lists: tuple[str, ...] = (), guard: bool = True
    ) -> None:
        self._client, self._mode, self._order = client, mode, order
        self._lists = lists
        self._guard = guard and bool(lists)

    def send(self, contact: Contact, seen: Seen | None) -> Sent:
        """Send one contact.

        :param seen: what the CRM was seen to have, None if nobody has looked
        :raises CrmError: what decides about the row; in ``create`` mode also ``CONTACT_ALREADY_EXISTS``
        """
        if self._mode == "create":
            return self._create_only(contact, seen)
        if self._mode == "update":
            return self._update_only(contact, seen)
        return self._upsert(contact, seen)

    # -- modes ----------------------------------------------------------------------------------------------

    def _create_only(self, contact: Contact, seen: Seen | None) -> Sent:
        if seen is not None and seen.exists:
            raise e.CrmContactAlreadyExistsError("Contact already exists.", method="POST", path="/contacts")
        try:
            sent = self._create(contact)
        except e.CrmContactAlreadyExistsError:
            if not self._lists or not contact.attributes:
                raise
            return self._perhaps_own(contact)
        return self._listed(contact, sent)

    def _perhaps_own(self, contact: Contact) -> Sent:
        """A contact that exists. With all values of the row it counts as made by an earlier try.

        That one may not have got as far as the lists.

        :raises CrmContactAlreadyExistsError: if it has others
        """
        seen = self._look(contact)
        if not seen.has(contact):
            raise e.CrmContactAlreadyExistsError("Contact already exists.", method="POST", path="/contacts", status=409)
        return self._change(contact, seen)

    def _update_only(self, contact: Contact, seen: Seen | None) -> Sent:
        if self._guard and (seen is None or not seen.exists):
            return self._change(contact, self._look(contact))
        if seen is not None and seen.exists:
            return self._change(contact, seen)
        return self._listed(contact, self._update(contact, contact.email))

    def _upsert(self, contact: Contact, seen: Seen | None) -> Sent:
        if seen is not None and seen.exists:
            try:
                return self._change(contact, seen)
            except e.CrmNotFoundError as missing:  # gone since it was read
                if not may_be_absent(missing):
                    raise
                return self._listed(contact, self._create(contact))
        if seen is None and self._order.update_first and (contact.attributes or self._guard):
            return self._existing_first(contact)
        return self._new_first(contact)

    def _existing_first(self, contact: Contact) -> Sent:
        try:
            sent = self._change(contact, self._look(contact)) if self._guard else self._overwrite(contact)
        except e.CrmNotFoundError as missing:
            if not may_be_absent(missing):
                raise
            return self._new_first(contact)
        self._order.learn(existed=True)
        return sent

    def _new_first(self, contact: Contact) -> Sent:
        existed = False
        try:
            sent = self._create(contact)
        except e.CrmContactAlreadyExistsError:
            existed = True
        self._order.learn(existed=existed)
        if not existed:
            return self._listed(contact, sent)
        if self._guard or not contact.attributes:
            return self._change(contact, self._look(contact))
        return self._overwrite(contact)

    # -- steps ----------------------------------------------------------------------------------------------

    def _change(self, contact: Contact, seen: Seen) -> Sent:
        """An existing contact that was read: write what differs."""
        if not seen.exists or seen.email is None:
            raise e.CrmContactNotFoundError("Contact not found.", status=404, method="GET", path="/contacts/{email}")
        if seen.unwanted and self._guard:
            return Sent(Outcome.SUPPRESSED)
        sent = Sent(Outcome.UNCHANGED, called=False) if seen.has(contact) else self._update(contact, seen.email)
        return self._listed(contact, sent, seen)

    def _overwrite(self, contact: Contact) -> Sent:
        """An existing contact of which nothing is known."""
        return self._listed(contact, self._update(contact, contact.email))

    def _create(self, contact: Contact) -> Sent:
        self._client.create_contact(contact.email, attributes=contact.attributes or None, origin=contact.origin)
        return Sent(Outcome.CREATED)

    def _update(self, contact: Contact, email: str) -> Sent:
        if not contact.attributes:
            return Sent(Outcome.UNCHANGED, called=False)
        self._client.update_contact(email, attributes=contact.attributes)
        return Sent(Outcome.UPDATED)

    def _look(self, contact: Contact) -> Seen:
        try:
            return Seen.of(self._client.get_contact(contact.email), contact.email)
        except e.CrmContactNotFoundError:
            return ABSENT

    def _listed(self, contact: Contact, sent: Sent, seen: Seen = ABSENT) -> Sent:
        """Add the contact to the lists that it is not in yet; a change of its lists is a change of the contact."""
        missing = [id_ for id_ in self._lists if id_.lower() not in seen.lists]
        if not missing:
            return sent
        self._client.add_contact_to_lists(seen.email or contact.email, missing)
        return Sent(Outcome.UPDATED) if sent.outcome is Outcome.UNCHANGED else sent
