"""The conditions that sensors wait for, independent of how they wait.

A condition reads the CRM through a :class:`Lookup`: either directly through a client, or through a cached look-up that
fetches each record once for all waiting tasks. The result is the same.
"""

from __future__ import annotations

import abc
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple, Protocol

from crm_provider import errors as e
from crm_provider.client import validation
from crm_provider.client.remote_contact import list_ids_of, list_name, pick_list
from crm_provider.values.addresses import person_key
from crm_provider.values.json_values import shows

if TYPE_CHECKING:
    from crm_provider.client.client import CrmClient
    from crm_provider.client.pagination import Record


Match = Literal["all", "any"]
Until = Literal["in", "left"]


class MembershipPage(NamedTuple):
    """The part of one page of contacts that counts members of lists.

    :ivar lists: the ids of the lists that each contact is in, in lower case; a contact appears on one page only
    :ivar total: number of contacts that the CRM reports, None if it does not say or reports less than it has shown
    """

    lists: tuple[frozenset[str], ...]
    total: int | None


def membership_pages(client: CrmClient) -> Iterator[MembershipPage]:
    """All pages of contacts, each read on demand."""
    from crm_provider.client.pagination import PAGE_SIZE

    for listed in client.list_pages("contacts", at_once=0):
        lists = tuple(frozenset(found.lower() for found in list_ids_of(contact)) for contact in listed.fresh)
        total, shown = listed.page.total, listed.number * PAGE_SIZE + len(listed.page.items)
        # a smaller total counts something else than contacts, such as pages: the listing does not end there either
        yield MembershipPage(lists, None if total is not None and total < shown else total)


class Lookup(Protocol):
    """What a condition can read."""

    def lists(self) -> Iterable[Record]:
        """All segmentation lists."""

    def contact(self, email: str) -> Record:
        """One contact."""

    def deal(self, deal_id: str) -> Record:
        """One deal."""

    def memberships(self) -> Iterable[MembershipPage]:
        """The lists of all contacts, page after page."""


@dataclass(frozen=True)
class DirectLookup:
    """Reads from the CRM."""

    client: CrmClient

    def lists(self) -> Iterable[Record]:
        return self.client.list_segmentation_lists()

    def contact(self, email: str) -> Record:
        return self.client.get_contact(email)

    def deal(self, deal_id: str) -> Record:
        return self.client.get_deal(deal_id)

    def memberships(self) -> Iterable[MembershipPage]:
        return membership_pages(self.client)


@dataclass(frozen=True, kw_only=True)
class Condition(abc.ABC):
    """Something to wait for. It can be serialized for another process.

    :ivar reasons: why the last check was "not yet": names, types and counts, no values
    :ivar sweeps: whether a check reads a whole listing. Such conditions have their own poll: a sweep takes long
    """

    sweeps: ClassVar[bool] = False

    reasons: list[str] = field(default_factory=list, init=False, repr=False, compare=False)

    @property
    def why(self) -> str:
        """:attr:`reasons` as text for a log."""
        return "; ".join(self.reasons)

    @abc.abstractmethod
    def check(self, lookup: Lookup) -> dict[str, Any] | None:
        """Check the condition once.

        :return: the XCom (ids, no values) if the condition holds, None if not yet
        :raises CrmError: if a look-up fails
        """

    def as_data(self) -> dict[str, Any]:
        """The condition as JSON-serializable data."""
        values = {f.name: validation.json_value(getattr(self, f.name), f.name) for f in fields(self) if f.init}
        return {"condition": type(self).__name__, **values}

    @staticmethod
    def from_data(data: Mapping[str, Any]) -> Condition:
        """The condition that :meth:`as_data` was called on."""
        kinds = {kind.__name__: kind for kind in Condition.__subclasses__()}
        values = {name: tuple(v) if isinstance(v, list) else v for name, v in data.items() if name != "condition"}
        return kinds[data["condition"]](**values)


@dataclass(frozen=True, kw_only=True)
class ListExists(Condition):
    """A segmentation list with this id exists, or exactly one with this name."""

    list_id: str | None = None
    list_name: str | None = None

    def check(self, lookup: Lookup) -> dict[str, Any]:
        found = pick_list(lookup.lists, name=self.list_name, list_id=self.list_id, field="list_name")
        return {"id": found.get("id"), "name": list_name(found)}


@dataclass(frozen=True, kw_only=True)
class InList(Condition):
    """All of these contacts, or any of them, are in a segmentation list. Contacts found once are not read again."""

    emails: tuple[str, ...]
    list_id: str | None = None
    list_name: str | None = None
    match: Match = "all"
    seen: dict[str, str] = field(default_factory=dict, init=False, repr=False, compare=False)

    def check(self, lookup: Lookup) -> dict[str, Any] | None:
        if not self.emails:
            raise e.CrmInvalidValueError("emails is empty; give at least one address")
        validation.refuse_list_as_text(self.emails[0], "emails")
        checked = [validation.email(email, f"emails[{n}]") for n, email in enumerate(self.emails)]
        people = {person_key(email): email for email in reversed(checked)}
        list_id = self._list_id(lookup)
        absent: e.CrmContactNotFoundError | None = None
        for person in dict.fromkeys(map(person_key, checked)):
            try:
                self._find_person(person, people[person], list_id, lookup)
            except e.CrmContactNotFoundError as error:
                absent = absent or error
            if (person in self.seen) == (self.match == "any"):
                break  # one contact decides: the first that is found (any) or the first that is missing (all)
        if len(self.seen) == (len(people) if self.match == "all" else 1):
            return {"list_id": list_id, "contact_ids": list(self.seen.values())}
        if absent is not None:
            raise absent
        self.reasons[:] = [f"contacts found in the list: {len(self.seen)} of {len(people)}"]
        return None

    def _find_person(self, person: str, email: str, list_id: str, lookup: Lookup) -> None:
        if person in self.seen:
            return
        contact = lookup.contact(email)
        if list_id in [found.lower() for found in list_ids_of(contact)]:
            self.seen[person] = str(contact.get("id"))

    def _list_id(self, lookup: Lookup) -> str:
        return _found_list_id(lookup, self.list_id, self.list_name)


def _found_list_id(lookup: Lookup, list_id: str | None, list_name: str | None) -> str:
    """The id of a list in lower case. A given id needs no look-up."""
    if list_id is not None and list_name is None:
        return validation.uuid(list_id, "list_id").lower()
    return str(pick_list(lookup.lists, name=list_name, list_id=list_id, field="list_name")["id"]).lower()


@dataclass(frozen=True, kw_only=True)
class ListHasMembers(Condition):
    """A segmentation list has at least this many members. The API has no count, so contacts are read until it is clear.

    :param min_members: at least 1
    """

    sweeps = True
    min_members: int
    list_id: str | None = None
    list_name: str | None = None

    def check(self, lookup: Lookup) -> dict[str, Any] | None:
        wanted = checked_minimum(self.min_members)
        list_id = _found_list_id(lookup, self.list_id, self.list_name)
        members = seen = 0
        for page in lookup.memberships():
            members += sum(list_id in lists for lists in page.lists)
            seen += len(page.lists)
            if members >= wanted:
                return {"id": list_id, "members": members}
            if page.total is not None and members + page.total - seen < wanted:
                break  # not even if all others were members
        self.reasons[:] = [f"members found: {members} of {wanted}, among contacts read: {seen}"]
        return None


def checked_minimum(value: object) -> int:
    """A number of members.

    :raises CrmInvalidValueError: if it is not a whole number of at least 1
    """
    if isinstance(value, str) and value.strip().isdecimal():  # from a template
        value = int(value)
    return validation.count(value, "min_members")


@dataclass(frozen=True, kw_only=True)
class ContactIs(Condition):
    """A contact exists and has the given status and attribute values, if any."""

    email: str
    status: str | None = None
    attributes: Mapping[str, Any] | None = None

    def check(self, lookup: Lookup) -> dict[str, Any] | None:
        wanted = {} if self.attributes in (None, {}) else validation.attributes(self.attributes, reserved=frozenset())
        status = None if self.status is None else validation.text(self.status, "status")
        contact = lookup.contact(validation.email(self.email, "contact_email"))
        found = contact.get("attributes")
        values = found if isinstance(found, Mapping) else {}
        self.reasons[:] = [
            *(["the status is different"] if status not in (None, contact.get("status")) else []),
            *(_difference(name, values, value) for name, value in wanted.items() if not shows(values, {name: value})),
        ]
        if self.reasons:
            return None
        return {"id": contact.get("id"), "status": contact.get("status")}


@dataclass(frozen=True, kw_only=True)
class DealInStage(Condition):
    """A deal is in one of these stages, or has left them all."""

    deal_id: str
    stage_ids: tuple[str, ...]
    until: Until = "in"

    def check(self, lookup: Lookup) -> dict[str, Any] | None:
        wanted = [stage.lower() for stage in validation.uuids(list(self.stage_ids), "stage_ids")]
        deal = lookup.deal(validation.uuid(self.deal_id, "deal_id"))
        stage = deal.get("stageId")
        if not isinstance(stage, str):
            raise e.CrmProtocolError("the deal has no stageId", method="GET", path=f"/deals/{self.deal_id}")
        if (stage.lower() in wanted) != (self.until == "in"):
            self.reasons[:] = [f"the deal is in stage {stage}"]
            return None
        return {"id": deal.get("id", self.deal_id), "stage_id": stage}


def _difference(name: str, values: Mapping[str, Any], wanted: Any) -> str:
    """Describe how an attribute differs from the expected value, with names and types only."""
    if name not in values:
        return f"the contact has no attribute {name!r}"
    return f"attribute {name!r} has another value ({_json_type(values[name])}; wanted is {_json_type(wanted)})"


def _json_type(value: Any) -> str:
    if value is None or isinstance(value, bool):
        return "null" if value is None else "a boolean"
    kinds = {str: "a text", int: "a number", float: "a number", list: "a list", dict: "an object"}
    return kinds.get(type(value), f"of type {type(value).__name__}")
