"""The upsert of a contact: which calls, and in which order. The hook and all loads use it.

Create-first or update-first is learned from the last upserts: if a share ``h`` of the contacts exists, create-first
costs ``1 + h`` calls for each contact and update-first ``2 - h``.

Each creation distinguishes a contact that it has *made* from one that it has *found*. A contact that existed before is
treated like any contact that was read, whether a conflict, a listing or reading back after a lost response revealed it.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, Protocol

from crm_provider import errors as e
from crm_provider.client.remote_contact import ABSENT, RemoteContact
from crm_provider.client.responses import by_status_alone
from crm_provider.values.addresses import person_key

MEMORY = 500
"""Rows that the order is learned from. With fewer, chance picks the more expensive order too often: with 500 it costs
0.5 % of the calls at worst (a share of 0.53). With more, a source that is sorted into new and known contacts is
noticed too late."""


class LearnedOrder:
    """Tracks the share of existing contacts among the last rows; threads may share it.

    :param share: an estimate of the share before the first row
    :param weight: rows that this estimate counts for
    """

    def __init__(self, *, share: float = 0.0, weight: float = 0.0) -> None:
        self._rows = weight
        self._existing = share * weight
        self._lock = threading.Lock()

    @property
    def share(self) -> float:
        """The share of contacts that exist, 0 if nothing is known."""
        return self._existing / self._rows if self._rows else 0.0

    @property
    def update_first(self) -> bool:
        return self.share > 0.5

    def learn(self, *, existed: bool) -> None:
        """Count one row."""
        with self._lock:
            if self._rows >= MEMORY:
                keep = (MEMORY - 1) / self._rows
                self._rows, self._existing = self._rows * keep, self._existing * keep
            self._rows += 1
            self._existing += existed


WriteMode = Literal["upsert", "create", "update"]

EXISTS_BUT_MISSING = (
    "write it again later, because the CRM may show a new contact late, or forget a deleted one late; if the error "
    "stays, give the address as the CRM spells it"
)
"""The advice for a contact that can neither be created nor found."""

WriteOutcome = Literal["created", "updated", "unchanged", "suppressed"]


@dataclass(frozen=True)
class Creation:
    """The result of creating a contact.

    :param record: the CRM's response; after a lost response the contact as it was read back
    :param made: False if it existed before
    :param read_back: whether ``record`` is the whole contact
    """

    record: Mapping[str, Any]
    made: bool = True
    read_back: bool = False


@dataclass(frozen=True)
class WriteResult:
    """The result of writing a contact.

    :param outcome: ``suppressed``: nothing was written to a contact that is unsubscribed or blacklisted
    :param called: whether a write was sent
    :param response: the CRM's response to the write, None if nothing was sent
    :param remote: the contact as it was read, None if it was not read
    :param is_whole: False if it was written but not added to the lists, because it had unsubscribed meanwhile
    """

    outcome: WriteOutcome
    called: bool = True
    response: Mapping[str, Any] | None = None
    remote: RemoteContact | None = None
    is_whole: bool = True

    @property
    def ids(self) -> dict[str, Any]:
        """The contact's id as ``contact_id``, if the CRM showed it."""
        found = (self.response or {}).get("id") or (self.remote or ABSENT).id
        return {} if found is None else {"contact_id": found}


class ContactApi(Protocol):
    """The calls of an upsert."""

    def create_or_find(
        self, email: str, *, attributes: Mapping[str, Any] | None, origin: Mapping[str, Any] | None
    ) -> Creation: ...

    def send_update(self, email: str, *, attributes: Mapping[str, Any]) -> Mapping[str, Any]: ...

    def get_contact(self, email: str) -> Mapping[str, Any]: ...

    def add_contact_to_lists(self, email: str, list_ids: Sequence[str]) -> Mapping[str, Any]: ...


class ContactToWrite(Protocol):
    """The target values of a contact."""

    @property
    def email(self) -> str: ...

    @property
    def attributes(self) -> Mapping[str, Any] | None:
        """None or empty: only the contact itself is written."""

    @property
    def origin(self) -> Mapping[str, Any] | None:
        """Used when the contact is created."""


class CallOrder(Protocol):
    """Decides whether an upsert updates or creates first."""

    @property
    def update_first(self) -> bool: ...

    def learn(self, *, existed: bool) -> None: ...


class ContactWriter:
    """Writes contacts; threads may share it.

    With the guard, an existing contact is read before anything is written to it. Nothing is written if the CRM shows it
    as unsubscribed or blacklisted.

    :param order: decides whether an upsert updates or creates first
    :param lists: segmentation lists that each contact is added to
    :param guard: skip unsubscribed and blacklisted contacts; has an effect only if there are ``lists``
    """

    def __init__(
        self,
        api: ContactApi,
        *,
        order: CallOrder,
        mode: WriteMode = "upsert",
        lists: tuple[str, ...] = (),
        guard: bool = True,
    ) -> None:
        self.mode = mode
        self._api, self._order, self._lists = api, order, lists
        self._guard = guard and bool(lists)

    def write(
        self,
        contact: ContactToWrite,
        remote: RemoteContact | None = None,
        *,
        is_ours: Callable[[RemoteContact], bool] | None = None,
    ) -> WriteResult:
        """Create or update a contact. :meth:`add_to_lists` adds it to its lists afterwards.

        :param remote: the contact as it was read some time ago, None if it was not read
        :param is_ours: in mode ``create``: whether an earlier attempt at this row has made a contact that exists; then
            it is ``unchanged``, and may be added to lists. None if there was no such attempt
        :raises CrmContactAlreadyExistsError: in mode ``create``, if the contact existed before
        :raises CrmContactNotFoundError: in mode ``update``, if there is no such contact
        """
        if self.mode == "create":
            return self._create_only(contact, remote, is_ours)
        if self.mode == "update":
            return self._update_only(contact, remote)
        return self._upsert(contact, remote)

    def add_to_lists(self, contact: ContactToWrite, written: WriteResult, *, again: bool = False) -> WriteResult:
        """Add a contact that was written to the lists that it is not in yet.

        An unchanged contact that is added to a list counts as updated.

        :param again: whether time has passed since it was written; then the guard reads the contact again
        """
        if written.outcome == "suppressed" or not self._lists:
            return written
        email = _as_shown(contact.email, written.response)
        remote = self._read(email) if again and self._guard else written.remote
        if remote is not None and remote.unwanted and self._guard:
            return replace(written, is_whole=False)
        missing = (remote or ABSENT).lacks(self._lists)
        if not missing:
            return written
        self._api.add_contact_to_lists((remote or ABSENT).email or email, missing)
        outcome: WriteOutcome = "updated" if written.outcome == "unchanged" else written.outcome
        return WriteResult(outcome, response=written.response, remote=remote)

    # -- modes ----------------------------------------------------------------------------------------------

    def _create_only(
        self,
        contact: ContactToWrite,
        remote: RemoteContact | None,
        is_ours: Callable[[RemoteContact], bool] | None,
    ) -> WriteResult:
        if remote is not None and remote.exists:
            if is_ours is None or not is_ours(remote):
                raise _already_exists(None)
            return self._own(self._read(contact.email), is_ours)
        try:
            creation = self._create(contact)
        except e.CrmContactAlreadyExistsError:
            if is_ours is None:
                raise
            return self._own(self._read(contact.email), is_ours)
        if creation.made:
            return self._made(contact, creation)
        return self._own(RemoteContact.of(creation.record, contact.email), is_ours)

    @staticmethod
    def _own(remote: RemoteContact, is_ours: Callable[[RemoteContact], bool] | None) -> WriteResult:
        """The result for a contact that exists, if an earlier attempt at its row has made it."""
        if is_ours is None or not remote.exists or not is_ours(remote):
            raise _already_exists(409)
        return WriteResult("unchanged", called=False, remote=remote)

    def _update_only(self, contact: ContactToWrite, remote: RemoteContact | None) -> WriteResult:
        if remote is not None and remote.exists:
            return self._change(contact, remote)
        if self._guard or not (contact.attributes or self._lists):
            return self._change(contact, self._read(contact.email), fresh=True)
        return self._overwrite(contact)  # if there is no such contact, this call or the one for the lists fails

    def _upsert(self, contact: ContactToWrite, remote: RemoteContact | None) -> WriteResult:
        if remote is not None and remote.exists:
            try:
                return self._change(contact, remote)
            except e.CrmNotFoundError as missing:  # deleted since it was read
                if not may_be_absent(missing):
                    raise
                return self._new_first(contact, learn=False)
        if remote is None and self._order.update_first and (contact.attributes or self._guard):
            return self._existing_first(contact)
        return self._new_first(contact)

    def _existing_first(self, contact: ContactToWrite) -> WriteResult:
        try:
            if self._guard:
                written = self._change(contact, self._read(contact.email), fresh=True)
            else:
                written = self._overwrite(contact)
        except e.CrmNotFoundError as missing:
            if not may_be_absent(missing):
                raise
            return self._new_first(contact)
        self._order.learn(existed=True)
        return written

    def _new_first(self, contact: ContactToWrite, *, learn: bool = True) -> WriteResult:
        creation: Creation | None = None
        with contextlib.suppress(e.CrmContactAlreadyExistsError):
            creation = self._create(contact)
        made = creation is not None and creation.made
        if learn:
            self._order.learn(existed=not made)
        if creation is not None and made:
            return self._made(contact, creation)
        if creation is not None:
            return self._change(contact, RemoteContact.of(creation.record, contact.email), fresh=True)
        try:
            if self._guard:
                return self._change(contact, self._read(contact.email), fresh=True)
            return self._overwrite(contact)
        except e.CrmContactNotFoundError as missing:
            missing.message = f"{missing.message.rstrip('.')}, although the CRM has just refused to create it (409)."
            missing.own_advice = EXISTS_BUT_MISSING
            raise

    # -- steps ----------------------------------------------------------------------------------------------

    def _create(self, contact: ContactToWrite) -> Creation:
        return self._api.create_or_find(contact.email, attributes=contact.attributes or None, origin=contact.origin)

    def _made(self, contact: ContactToWrite, creation: Creation) -> WriteResult:
        """The result for a contact that this creation has made.

        A contact that was read back need not show all values, because the CRM may format some differently. An upsert
        then writes them once more, which is harmless.
        """
        if not creation.read_back:
            return WriteResult("created", response=creation.record)
        remote = RemoteContact.of(creation.record, contact.email)
        if self.mode == "upsert" and contact.attributes and not remote.has(contact.attributes):
            self._api.send_update(contact.email, attributes=contact.attributes)
        return WriteResult("created", response=creation.record, remote=remote)

    def _change(self, contact: ContactToWrite, remote: RemoteContact, *, fresh: bool = False) -> WriteResult:
        """Write the differences to an existing contact that was read.

        :param fresh: whether it was read just now
        """
        if remote.unwanted and self._guard:
            return WriteResult("suppressed", called=False, remote=remote)
        is_done = remote.exists and remote.has(contact.attributes) and not remote.lacks(self._lists)
        if self._guard and not fresh and not is_done:
            return self._change(contact, self._read(contact.email), fresh=True)
        if not remote.exists or remote.email is None:
            raise e.CrmContactNotFoundError("Contact not found.", status=404, method="GET", path="/contacts/{email}")
        if remote.has(contact.attributes) or not contact.attributes:
            return WriteResult("unchanged", called=False, remote=remote)
        response = self._api.send_update(remote.email, attributes=contact.attributes)
        return WriteResult("updated", response=response, remote=remote)

    def _overwrite(self, contact: ContactToWrite) -> WriteResult:
        """Write an existing contact that was not read."""
        if not contact.attributes:
            return WriteResult("unchanged", called=False)
        return WriteResult("updated", response=self._api.send_update(contact.email, attributes=contact.attributes))

    def _read(self, email: str) -> RemoteContact:
        try:
            return RemoteContact.of(self._api.get_contact(email), email)
        except e.CrmContactNotFoundError:
            return ABSENT


def _as_shown(email: str, response: Mapping[str, Any] | None) -> str:
    """An address as the response to its write spells it: the CRM may keep another case, and know only that one."""
    shown = (response or {}).get("email")
    return shown if isinstance(shown, str) and person_key(shown) == person_key(email) else email


def may_be_absent(error: e.CrmNotFoundError) -> bool:
    """Whether the contact may be missing: the CRM says so, or at least the status of a call about the contact.

    A bare 404 may also come from a wrong base URL or a proxy. Only a creation that succeeds proves that it was missing.
    """
    if isinstance(error, e.CrmContactNotFoundError):
        return True
    return by_status_alone(error) and error.path == "/contacts/{email}"


def _already_exists(status: int | None) -> e.CrmContactAlreadyExistsError:
    """The conflict if the CRM has not reported it for this call.

    :param status: None if no call was made
    """
    return e.CrmContactAlreadyExistsError("Contact already exists.", status=status, method="POST", path="/contacts")
