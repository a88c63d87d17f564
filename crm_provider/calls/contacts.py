"""Calls about contacts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypedDict

from crm_provider import errors as e
from crm_provider import validate
from crm_provider.calls.base import Calls, Record, id_of, mapping_of
from crm_provider.ordering import UpsertOrder
from crm_provider.paging import Page
from crm_provider.responses import by_status_alone
from crm_provider.transport import ONE_TRY, Call, Transport


class ContactRef(TypedDict):
    """What the API answers to a write of a contact."""

    id: str
    email: str


class UpsertResult(ContactRef):
    """A contact that was upserted.

    ``unchanged``: it existed, and there were no attributes to write.
    """

    outcome: Literal["created", "updated", "unchanged"]


@dataclass(frozen=True)
class _ReadBack:
    """A record that was found by reading, after the answer to its creation was lost."""

    record: Record


class ContactCalls(Calls):
    """Read, create, update, upsert, delete and list contacts."""

    def __init__(self, transport: Transport) -> None:
        super().__init__(transport)
        self._order = UpsertOrder()

    def get_contact(self, email: str) -> Record:
        """One contact: ``id``, ``email``, ``status``, ``attributes``, ``segmentedListsIds``, ...

        :raises CrmContactNotFoundError: if there is none
        """
        contact = self._record(Call(method="GET", route="/contacts/{email}", parts={"email": validate.email(email)}))
        id_of(contact.get("id"), "/contacts/{email}")
        return contact

    def create_contact(
        self, email: str, *, attributes: Mapping[str, Any] | None = None, origin: Mapping[str, Any] | None = None
    ) -> ContactRef:
        """Create a contact. If the answer is lost, the contact is read before anything is sent again.

        :param attributes: ``name``, ``phone`` (E.164 with ``+``) and custom fields
        :param origin: where the contact came from: ``url``, ``utmSource``, ...
        :raises CrmContactAlreadyExistsError: if there is one with this email
        """
        made = self._create_contact(email, attributes, origin)
        if isinstance(made, _ReadBack) and _is_other(made.record, attributes):
            raise e.CrmContactAlreadyExistsError(
                "Contact already exists, with other attributes.", method="POST", path="/contacts"
            )
        return self._contact_ref(made.record if isinstance(made, _ReadBack) else made, email, _CREATE)

    def update_contact(self, email: str, *, attributes: Mapping[str, Any]) -> ContactRef:
        """Write attributes of a contact; attributes that are not named are kept (*inferred*).

        :raises CrmContactNotFoundError: if there is no contact with this email
        """
        call = Call(
            method="PUT",
            route="/contacts/{email}",
            parts={"email": validate.email(email)},
            body=validate.attributes(attributes),
            loose=True,
        )
        return self._contact_ref(self._record(call), email, _UPDATE)

    def upsert_contact(
        self, email: str, *, attributes: Mapping[str, Any] | None = None, origin: Mapping[str, Any] | None = None
    ) -> UpsertResult:
        """Create a contact, or update it if it exists: one call or two, the likelier one first.

        An answer of which only the status tells that it does not exist, or that it does, is put to the proof first: by
        the creation, or by reading the contact.

        :param attributes: ``name``, ``phone`` (E.164 with ``+``) and custom fields
        :param origin: used when the contact is created; an update leaves it alone
        """
        _new_contact(email, attributes, origin)  # everything is checked before either half is sent
        if attributes is not None and self._order.update_first:
            try:
                ref = self.update_contact(email, attributes=attributes)
            except e.CrmNotFoundError as missing:
                if not may_be_absent(missing):
                    raise
                return self._create_or_update(email, attributes, origin)
            self._order.learn(existed=True)
            return {**ref, "outcome": "updated"}
        return self._create_or_update(email, attributes, origin)

    def delete_contact(self, email: str) -> None:
        """Delete a contact (that it can be deleted is documented, the path is *inferred*).

        :raises CrmContactNotFoundError: if there is none
        """
        self._transport.send(
            Call(
                method="DELETE",
                route="/contacts/{email}",
                parts={"email": validate.email(email)},
                done_if=(e.CrmContactNotFoundError,),
                loose=True,
            )
        )

    def list_contacts(self) -> Iterator[Record]:
        """All contacts, each once, ten with a call; the API has no filter."""
        return self._walk("/contacts")

    def count_contacts(self) -> int | None:
        """How many contacts the account has, None if the CRM does not tell; one call."""
        return Page.of(
            self._transport.send(Call(method="GET", route="/contacts", query={"page": 0})), "/contacts"
        ).total

    def _create_or_update(
        self, email: str, attributes: Mapping[str, Any] | None, origin: Mapping[str, Any] | None
    ) -> UpsertResult:
        try:
            made = self._create_contact(email, attributes, origin)
        except e.CrmContactAlreadyExistsError:
            self._order.learn(existed=True)
            return self._update_or_read(email, attributes)
        if isinstance(made, _ReadBack) and not has_attributes(made.record, attributes):
            return self._update_or_read(email, attributes)
        self._order.learn(existed=False)
        ref = self._contact_ref(made.record if isinstance(made, _ReadBack) else made, email, _CREATE)
        return {**ref, "outcome": "created"}

    def _update_or_read(self, email: str, attributes: Mapping[str, Any] | None) -> UpsertResult:
        if attributes is None:
            return {
                "id": id_of(self.get_contact(email).get("id"), "/contacts/{email}"),
                "email": validate.email(email),
                "outcome": "unchanged",
            }
        return {**self.update_contact(email, attributes=attributes), "outcome": "updated"}

    def _create_contact(
        self, email: str, attributes: Mapping[str, Any] | None, origin: Mapping[str, Any] | None
    ) -> Record | _ReadBack:
        body = _new_contact(email, attributes, origin)
        call = Call(method="POST", route="/contacts", body=body, done_if=(e.CrmConflictError,))
        try:
            made = self._transport.send(call, settle=lambda: self._read_back(email))
        except e.CrmConflictError as conflict:
            if by_status_alone(conflict) and self._exists(email):
                raise _already_exists(conflict) from conflict
            raise
        return made if isinstance(made, _ReadBack) else mapping_of(made, call)

    def _read_back(self, email: str) -> _ReadBack | None:
        call = Call(method="GET", route="/contacts/{email}", parts={"email": validate.email(email)})
        try:
            return _ReadBack(mapping_of(self._transport.send(call, budget=ONE_TRY), call))
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

    def _contact_ref(self, answer: Record, email: str, written: tuple[str, str]) -> ContactRef:
        """Id and email; read once more if the answer has no id, for its form is documented in two ways.

        :param written: path and method of the call that was answered
        """
        found = answer.get("id") or self.get_contact(email).get("id")
        return {"id": id_of(found, *written), "email": validate.email(email)}


_CREATE, _UPDATE = ("/contacts", "POST"), ("/contacts/{email}", "PUT")


def may_be_absent(error: e.CrmNotFoundError) -> bool:
    """Whether there may be no such contact: the CRM says so, or only the status of a call about the contact does.

    A 404 alone may come from a wrong base URL or a proxy: only a creation that succeeds after it proves it.
    """
    return isinstance(error, e.CrmContactNotFoundError) or (by_status_alone(error) and error.path == _UPDATE[0])


def _already_exists(conflict: e.CrmConflictError) -> e.CrmContactAlreadyExistsError:
    return e.CrmContactAlreadyExistsError(
        "Contact already exists (it was read after a conflict that did not say what is in the way).",
        status=conflict.status,
        request_id=conflict.request_id,
        method=conflict.method,
        path=conflict.path,
    )


def _new_contact(email: str, attributes: Mapping[str, Any] | None, origin: Mapping[str, Any] | None) -> Record:
    body: Record = {"email": validate.email(email)}
    if attributes is not None:
        body["attributes"] = validate.attributes(attributes)
    if origin is not None:
        body["origin"] = validate.attributes(origin, "origin", reserved=frozenset())
    return body


def has_attributes(contact: Mapping[str, Any], attributes: Mapping[str, Any] | None) -> bool:
    """Whether a contact shows all of these attribute values."""
    found = contact.get("attributes")
    values = found if isinstance(found, Mapping) else {}
    return all(values.get(name) == value for name, value in (attributes or {}).items())


def _is_other(contact: Mapping[str, Any], attributes: Mapping[str, Any] | None) -> bool:
    """Whether a contact that was read back after a lost create is not our own: it shows none of the values sent.

    Some may differ in an own one, for the CRM may write a phone number its own way.
    """
    found = contact.get("attributes")
    shown = [name for name in attributes or {} if isinstance(found, Mapping) and name in found]
    return bool(shown) and all(str(found[name]) != str((attributes or {})[name]) for name in shown)  # type: ignore[index]
