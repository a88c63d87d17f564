"""Calls about contacts and segmentation lists."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypedDict

from crm_provider import errors as e
from crm_provider.client import validation
from crm_provider.client.pagination import ListingCalls, Page, Record, id_of
from crm_provider.client.remote_contact import RemoteContact, list_ids_of, made_since, pick_list
from crm_provider.client.request import Call, after_write, mapping_of, unless_refused
from crm_provider.client.responses import by_status_alone
from crm_provider.client.retry import ONE_TRY, RetryBudget
from crm_provider.client.upsert import ContactWriter, Creation, LearnedOrder, WriteOutcome, may_be_absent
from crm_provider.values.json_values import shows


class ContactRef(TypedDict):
    """A contact that was written."""

    id: str
    email: str


class UpsertResult(ContactRef):
    """A contact that was upserted.

    ``unchanged``: it existed, and there was nothing to write.
    """

    outcome: WriteOutcome


@dataclass(frozen=True)
class _NewContact:
    """The contact that a caller wants, for a :class:`~crm_provider.client.upsert.ContactWriter`."""

    email: str
    attributes: Mapping[str, Any] | None
    origin: Mapping[str, Any] | None


class ContactCalls(ListingCalls):
    """Read, create, update, upsert, delete and list contacts."""

    @cached_property
    def _writer(self) -> ContactWriter:
        return ContactWriter(self, order=LearnedOrder())

    def get_contact(self, email: str) -> Record:
        """One contact: ``id``, ``email``, ``status``, ``attributes``, ``segmentedListsIds``, ...

        :raises CrmContactNotFoundError: if there is none
        """
        call = Call(method="GET", route="/contacts/{email}", path_params={"email": validation.email(email)})
        contact = mapping_of(self._send(call), call)
        id_of(contact.get("id"), "/contacts/{email}")
        return contact

    def create_contact(
        self, email: str, *, attributes: Mapping[str, Any] | None = None, origin: Mapping[str, Any] | None = None
    ) -> ContactRef:
        """Create a contact. If the response is lost, the contact is read before anything is sent again.

        :param attributes: ``name``, ``phone`` (E.164 with ``+``) and custom fields
        :param origin: where the contact came from: ``url``, ``utmSource``, ...
        :raises CrmContactAlreadyExistsError: if there is one with this email
        """
        creation = self.create_or_find(email, attributes=attributes, origin=origin)
        if not creation.made:
            raise e.CrmContactAlreadyExistsError(
                "Contact already exists: it was there before this call.", method="POST", path="/contacts"
            )
        return self._contact_ref(creation.record, email, _CREATE)

    def create_or_find(
        self, email: str, *, attributes: Mapping[str, Any] | None = None, origin: Mapping[str, Any] | None = None
    ) -> Creation:
        """Create a contact. If the response is lost, find out whether this call created it or it existed before.

        ``createdAt`` and the CRM's own clock (the header ``Date``) distinguish the two cases, or else the values.

        :raises CrmContactAlreadyExistsError: if the CRM reports this and no response was lost before
        """
        body = _new_contact(email, attributes, origin)
        attributes = body.get("attributes")
        call = Call(method="POST", route="/contacts", body=body, success_errors=(e.CrmConflictError,))
        started = self._transport.clock()
        try:
            made = self._send(call, verify_write=lambda first_sent: self._found(email, attributes, first_sent))
        except e.CrmConflictError as conflict:
            if by_status_alone(conflict) and self._exists(email):
                raise _already_exists(conflict) from conflict
            raise
        if isinstance(made, Creation):
            return made
        if _confirms(mapping_of(made, call)):
            return Creation(made)
        with after_write():
            found = self._found(email, attributes, started, budget=self._budget)
        if found is None:
            raise _unconfirmed(call, "and the contact does not exist")
        return found

    def update_contact(self, email: str, *, attributes: Mapping[str, Any]) -> ContactRef:
        """Write attributes of a contact. Other attributes are kept (*inferred*).

        :raises CrmContactNotFoundError: if there is no contact with this email
        """
        return self._contact_ref(self.send_update(email, attributes=attributes), email, _UPDATE)

    def send_update(self, email: str, *, attributes: Mapping[str, Any]) -> Record:
        """Write attributes of a contact.

        :return: the CRM's response, which need not have an id
        :raises CrmContactNotFoundError: if there is no contact with this email
        """
        attributes = validation.attributes(attributes)
        call = Call(
            method="PUT",
            route="/contacts/{email}",
            path_params={"email": validation.email(email)},
            body=attributes,
            allow_any_body=True,
        )
        response = mapping_of(self._send(call), call)
        if _confirms(response) or not response:  # an empty body is a success, too
            return response
        with after_write():
            found = self.get_contact(email).get("attributes")
        shown = {**dict.fromkeys(attributes), **(found if isinstance(found, Mapping) else {})}  # it may omit empty ones
        if not any(shows(shown, {name: value}) for name, value in attributes.items()):
            raise _unconfirmed(call, "and the contact shows none of the values")
        return {}

    def upsert_contact(
        self, email: str, *, attributes: Mapping[str, Any] | None = None, origin: Mapping[str, Any] | None = None
    ) -> UpsertResult:
        """Create a contact, or update it if it exists: one call or two, the likelier one first.

        If only the status of a response says that the contact is missing, or that it exists, this is checked first: by
        the creation, or by reading the contact.

        :param attributes: ``name``, ``phone`` (E.164 with ``+``) and custom fields
        :param origin: used when the contact is created; an update does not change it
        """
        new = _new_contact(email, attributes, origin)  # everything is checked before the first of the two calls
        written = self._writer.write(_NewContact(email, new.get("attributes"), new.get("origin")))
        call = _CREATE if written.outcome == "created" else _UPDATE
        response = written.response or ({} if written.remote is None else {"id": written.remote.id})
        return {**self._contact_ref(response, email, call), "outcome": written.outcome}

    def delete_contact(self, email: str) -> None:
        """Delete a contact (that it can be deleted is documented, the path is *inferred*).

        :raises CrmContactNotFoundError: if there is none
        """
        self.delete_listed(validation.email(email))

    def delete_listed(self, email: str) -> None:
        """Delete a contact whose address is spelled as the CRM shows it, even if the spelling is unusual.

        :raises CrmContactNotFoundError: if there is none
        """
        call = Call(
            method="DELETE",
            route="/contacts/{email}",
            path_params={"email": email},
            success_errors=(e.CrmContactNotFoundError,),
            allow_any_body=True,
        )
        unless_refused(self._send(call), call)

    def add_contact_to_lists(self, email: str, list_ids: Sequence[str]) -> Record:
        """Add a contact to segmentation lists. If the response is lost, the contact is read before another attempt.

        :param list_ids: ids of the lists
        :raises CrmContactNotFoundError: if there is no such contact
        :raises CrmSegmentationListNotFoundError: if one of the lists does not exist
        """
        ids = validation.uuids(list_ids, "list_ids")
        call = Call(
            method="POST",
            route="/segments/add-contact/{email}",
            path_params={"email": validation.email(email)},
            body={"segmentedListsIds": ids},
            allow_any_body=True,
        )
        response = unless_refused(self._send(call, verify_write=lambda _: self._membership(email, ids)), call)
        return response if isinstance(response, dict) else {}

    def list_contacts(self) -> Iterator[Record]:
        """All contacts, each once, ten per call. The API has no filter."""
        return self._walk("/contacts")

    def count_contacts(self) -> int | None:
        """The number of contacts of the account, None if the CRM does not report it; one call."""
        return Page.of(self._send(Call(method="GET", route="/contacts", query={"page": 0})), "/contacts").total

    def _found(
        self, email: str, attributes: Mapping[str, Any] | None, first_sent: float, *, budget: RetryBudget = ONE_TRY
    ) -> Creation | None:
        """The contact after a creation whose response was lost, None if there is none."""
        record = self._read_back(email, budget=budget)
        if record is None:
            return None
        remote = RemoteContact.of(record, email)
        same = remote.has(attributes) and not remote.unwanted
        return Creation(
            record,
            made=made_since(remote.created_at, self._transport.sent_at(first_sent), same_values=same),
            read_back=True,
        )

    def _membership(self, email: str, ids: list[str]) -> Record | None:
        contact = self._read_back(email)
        return {} if contact and {i.lower() for i in ids} <= {i.lower() for i in list_ids_of(contact)} else None

    def _read_back(self, email: str, *, budget: RetryBudget = ONE_TRY) -> Record | None:
        call = Call(method="GET", route="/contacts/{email}", path_params={"email": validation.email(email)})
        try:
            return mapping_of(self._send(call, budget=budget), call)
        except e.CrmNotFoundError as missing:
            if not may_be_absent(missing):
                raise
            return None

    def _exists(self, email: str) -> bool:
        try:
            self.get_contact(email)
        except e.CrmNotFoundError:
            return False
        return True

    def _contact_ref(self, response: Mapping[str, Any], email: str, written: tuple[str, str]) -> ContactRef:
        """Id and email. The contact is read if the response has no id: two forms of the response are documented.

        :param written: path and method of the write
        """
        found = response.get("id") or self.get_contact(email).get("id")
        return {"id": id_of(found, *written), "email": validation.email(email)}


_CREATE, _UPDATE = ("/contacts", "POST"), ("/contacts/{email}", "PUT")


def _already_exists(conflict: e.CrmConflictError) -> e.CrmContactAlreadyExistsError:
    return e.CrmContactAlreadyExistsError(
        "Contact already exists (it was read after a conflict that did not name its cause).",
        status=conflict.status,
        request_id=conflict.request_id,
        method=conflict.method,
        path=conflict.path,
    )


def _confirms(response: Record) -> bool:
    """Whether the response to a write is about a contact: a proxy's page may have a success status, too."""
    return bool(response.get("id") or response.get("email"))


def _unconfirmed(call: Call, but: str) -> e.CrmProtocolError:
    return e.CrmProtocolError(
        f"the response has neither id nor email of a contact, {but}",
        method=call.method,
        path=call.log_path,
        outcome_known=False,
    )


def _new_contact(email: str, attributes: Mapping[str, Any] | None, origin: Mapping[str, Any] | None) -> Record:
    body: Record = {"email": validation.email(email)}
    if attributes is not None:
        body["attributes"] = validation.attributes(attributes)
    if origin is not None:
        body["origin"] = validation.attributes(origin, "origin", reserved=frozenset())
    return body


class ListCalls(ContactCalls):
    """List and find segmentation lists."""

    def list_segmentation_lists(self) -> Iterator[Record]:
        """All segmentation lists, each once, ten per call."""
        return self._walk("/segments")

    def find_segmentation_list(self, name: str | None = None, *, list_id: str | None = None) -> Record:
        """One segmentation list, by its exact name (reads all pages) or by its id (reads until it is found).

        :raises CrmSegmentationListNotFoundError: if there is none
        :raises CrmInvalidValueError: if several have this name
        """
        return pick_list(self.list_segmentation_lists, name=name, list_id=list_id)
