"""A small in-memory CRM, written from the API reference alone. It handles HTTP requests and responses.

It folds case and composes Unicode in addresses, and shows a membership at once. It logs every change of its
contacts by the load and by other clients.
"""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from email.utils import format_datetime
from typing import Any
from urllib.parse import unquote

from .scenario import LISTS, Beside, Person

EPOCH = datetime(2026, 3, 1, 12, 0, 0, tzinfo=timezone.utc)
"""The time when our clock shows 0."""

CALL_SECONDS = 0.13
"""Seconds of one call."""

AGE = timedelta(days=40)
"""The age of the initial contacts."""

REFUSED_KEY = "User is not authorized to access this resource with an explicit deny in an identity-based policy."

ERRORS: Mapping[str, tuple[int, str]] = {
    "CONTACT_NOT_FOUND": (404, "Contact not found."),
    "CONTACT_ALREADY_EXISTS": (409, "Contact already exists."),
    "CONTACT_ASSOCIATED_WITH_A_DEAL": (409, "Contact already associated with a deal."),
    "SEGMENTATION_LIST_NOT_FOUND": (404, "Segmentation list not found."),
    "DEAL_NOT_FOUND": (404, "Deal not found."),
    "STAGE_NOT_FOUND": (404, "Stage not found."),
}

ERROR_BODIES: Mapping[str, Callable[[str, str], Any]] = {
    "typed": lambda type_, text: {"error": text, "errorCode": type_, "requestId": "req-1"},
    "text": lambda type_, text: {"message": text},
    "bare": lambda type_, text: {},
}
"""The body of an error: with its type, with its text, or neither."""


@dataclass(frozen=True)
class Http:
    """A response."""

    status: int
    body: bytes
    headers: Mapping[str, str] = field(default_factory=dict)
    cut: bool = False
    """Whether the connection ends before the announced length."""


class Refused(Exception):
    """No connection."""


class Lost(Exception):
    """The connection broke after the request was sent."""


class TimedOut(Exception):
    """No response came in time."""


@dataclass(frozen=True)
class FaultKind:
    """A fault of a call.

    :param handled: whether the CRM processes the request
    :param response: the response, which replaces the CRM's own
    :param lasts: whether the fault lasts until the try ends
    """

    handled: bool
    response: Callable[[Http | None], Http]
    lasts: bool = False


def _raise(error: type[Exception]) -> Callable[[Http | None], Http]:
    def response(_: Http | None) -> Http:
        raise error

    return response


def _gateway(status: int, text: str, kind: str = "") -> Callable[[Http | None], Http]:
    headers = {"x-amzn-ErrorType": kind} if kind else {}
    return lambda _: Http(status, json.dumps({"message": text}).encode(), headers)


_HALF = b'{"message": "ok", "data": {"id": "x'


def _halved(_: Http | None) -> Http:
    return Http(200, _HALF)


def _cut(_: Http | None) -> Http:
    return Http(200, _HALF, cut=True)


def _html(_: Http | None) -> Http:
    return Http(200, b"<html><body>Welcome to the hotel's network</body></html>", {"Content-Type": "text/html"})


FAULTS: Mapping[str, FaultKind] = {
    "refused": FaultKind(False, _raise(Refused)),
    "lost before": FaultKind(False, _raise(Lost)),
    "lost after": FaultKind(True, _raise(Lost)),
    "timeout after": FaultKind(True, _raise(TimedOut)),
    "500 before": FaultKind(False, _gateway(500, "Internal server error", "InternalServerErrorException")),
    "500 after": FaultKind(True, _gateway(500, "Internal server error", "InternalServerErrorException")),
    "503 before": FaultKind(False, _gateway(503, "Service Unavailable")),
    "504 after": FaultKind(True, _gateway(504, "Endpoint request timed out")),
    "429": FaultKind(False, _gateway(429, "Too Many Requests", "TooManyRequestsException")),
    "quota": FaultKind(False, _gateway(429, "Limit Exceeded", "LimitExceededException"), lasts=True),
    "key revoked": FaultKind(False, lambda _: Http(403, json.dumps({"Message": REFUSED_KEY}).encode()), lasts=True),
    "truncated after": FaultKind(True, _halved),
    "cut after": FaultKind(True, _cut),
    "html before": FaultKind(False, _html),
    "html after": FaultKind(True, _html),
}


def key_of(email: str) -> str:
    """One address in all its spellings."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", email.strip()).lower())


@dataclass
class Clock:
    """Our monotonic clock. Nobody waits for it."""

    now: float = 0.0

    def __call__(self) -> float:
        return self.now

    def advance(self, seconds: float) -> None:
        self.now += seconds


@dataclass
class Entry:
    """A contact of the CRM.

    :param chain: the load (with its resent rejects) during which it was created, -1 for before all loads
    :param ours: whether that load created it
    """

    id: str
    email: str
    attributes: dict[str, Any]
    consent: str
    lists: list[str]
    created: datetime
    chain: int = -1
    ours: bool = False

    @property
    def unwanted(self) -> bool:
        return self.consent != "active"

    def as_json(self) -> dict[str, Any]:
        found = {
            "id": self.id,
            "email": self.email,
            "status": "active" if self.consent == "unsubscribedAt" else self.consent,
            "source": "PublicApi",
            "origin": None,
            "segmentedListsIds": list(self.lists),
            "createdAt": self.created.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "attributes": deepcopy(self.attributes),
        }
        if self.consent == "unsubscribedAt":
            found["unsubscribedAt"] = "2026-01-05T10:00:00.000Z"
        return found


@dataclass(frozen=True)
class Event:
    """An event, in the order of time.

    :param actor: ``us`` or ``beside``
    :param what: ``create``, ``update``, ``add``, ``get``, ``page``, ``other``, or the change of another client
    :param key: of the contact, "" for none
    :param status: of the CRM's own response, None if it did not handle it
    :param fault: the fault, if any
    :param unwanted: whether the contact was unsubscribed or blacklisted just before
    :param chain: of the contact just before, None if there was none
    :param effect: whether the CRM processed the request
    :param attempt: number of the try
    """

    actor: str
    what: str
    key: str = ""
    status: int | None = None
    fault: str | None = None
    body: Any = None
    unwanted: bool = False
    chain: int | None = None
    effect: bool = False
    attempt: int = 0

    def __str__(self) -> str:
        parts = [f"{self.actor:6} {self.what:12} {self.key or '-'}"]
        parts += [f"-> {self.status}"] if self.actor == "us" else []
        parts += [f"[{self.fault}]"] if self.fault else []
        parts += [json.dumps(self.body)] if self.body else []
        return f"try {self.attempt} " + " ".join(parts)


class FakeCrm:
    """The CRM of one account.

    :param clock: ours; its own is ``skew`` seconds ahead
    :param dates: see :class:`Scenario`
    :param errors: a key of :data:`ERROR_BODIES`
    :param envelope: whether a success is wrapped in ``data``
    :param several_deals: whether a contact may have more than one deal
    """

    def __init__(
        self,
        clock: Clock,
        *,
        skew: float = 0.0,
        dates: str = "both",
        errors: str = "typed",
        envelope: bool = True,
        several_deals: bool = False,
    ) -> None:
        self.clock, self.skew, self._errors, self._envelope = clock, timedelta(seconds=skew), errors, envelope
        self._several_deals, self._dates = several_deals, dates
        self.contacts: dict[str, Entry] = {}
        self.deals: list[dict[str, Any]] = []
        self.unknown_stages: frozenset[str] = frozenset()
        self.log: list[Event] = []
        self.chain = -1
        self.attempt = 0
        self._ids = 0

    @property
    def now(self) -> datetime:
        return EPOCH + timedelta(seconds=self.clock.now) + self.skew

    def seed(self, person: Person) -> None:
        """A contact that exists before all loads."""
        entry = self._make(person.email, dict(person.attributes), self.now - AGE, ours=False)
        entry.consent, entry.lists = person.consent, [LISTS[place] for place in person.lists]

    def state(self) -> dict[str, Entry]:
        """A copy of all contacts."""
        return deepcopy(self.contacts)

    # -- other clients ---------------------------------------------------------------------------------------

    def change(self, change: Beside) -> None:
        """Another client changes a contact; invalid values change nothing."""
        key = key_of(change.email)
        found = self.contacts.get(key)
        event = Event("beside", change.what, key, body=change.attributes or None, attempt=self.attempt)
        if (found is None) != (change.what == "create"):
            return
        self.log.append(event)
        if found is None:
            self._make(change.email, dict(change.attributes), self.now, ours=False)
        elif change.what == "delete":
            del self.contacts[key]
        elif change.what == "set":
            found.attributes.update(change.attributes)
        elif change.what == "list":
            found.lists = sorted({*found.lists, LISTS[0]})
        elif change.what == "unlist":
            found.lists = []
        else:
            found.consent = {"unsubscribe": "unsubscribed", "blacklist": "blacklisted"}.get(change.what, "active")

    # -- HTTP ------------------------------------------------------------------------------------------------

    def response(self, method: str, path: str, query: Mapping[str, str], body: Any, fault: str | None) -> Http:
        """Respond to a request.

        :raises Refused: as the fault says; also :class:`Lost`, :class:`TimedOut`
        """
        kind = FAULTS[fault] if fault else None
        self.clock.advance(CALL_SECONDS)
        what, key = _what(method, path)
        key = key_of(body["email"]) if what == "create" else key
        found = self.contacts.get(key)
        response = self._handle(what, key, query, body) if kind is None or kind.handled else None
        self.log.append(
            Event(
                "us", what, key, status=response.status if response else None, fault=fault, body=body,
                unwanted=found is not None and found.unwanted, chain=found.chain if found else None,
                effect=response is not None and response.status < 300, attempt=self.attempt,
            )
        )  # fmt: skip
        self.clock.advance(30.0 if fault == "timeout after" else CALL_SECONDS)
        if kind is not None:
            response = kind.response(response)
        assert response is not None
        headers = {"Content-Type": "application/json", **response.headers}
        if self._dates != "no Date":
            headers["Date"] = format_datetime(self.now.replace(microsecond=0), usegmt=True)
        return Http(response.status, response.body, headers, response.cut)

    def _handle(self, what: str, key: str, query: Mapping[str, str], body: Any) -> Http:
        if what == "create":
            return self._create(key, body)
        if what == "deal":
            return self._deal(body)
        if what in ("get deal", "put deal"):
            return self._of_deal(what, key, body)
        if what in ("get", "update", "add"):
            return self._of_contact(what, key, body)
        listings = {
            "page": [self._shown(entry) for entry in self.contacts.values()],
            "deals": self.deals,
            "other": [{"id": id_, "name": f"List {n}"} for n, id_ in enumerate(LISTS)],
        }
        return self._page(listings[what], int(query.get("page", 0)))

    def _create(self, key: str, body: Any) -> Http:
        if key in self.contacts:
            return self._error("CONTACT_ALREADY_EXISTS")
        made = self._make(body["email"], dict(body.get("attributes") or {}), self.now, ours=True)
        return self._ok({"id": made.id, "email": made.email}, 201)

    def _of_contact(self, what: str, key: str, body: Any) -> Http:
        found = self.contacts.get(key)
        if found is None:
            return self._error("CONTACT_NOT_FOUND")
        if what == "get":
            return self._ok(self._shown(found))
        if what == "update":
            found.attributes.update(deepcopy(body))
            return self._ok({"id": found.id, "email": found.email})
        ids = [id_.lower() for id_ in body["segmentedListsIds"]]
        if not set(ids) <= set(LISTS):
            return self._error("SEGMENTATION_LIST_NOT_FOUND")
        found.lists = sorted({*found.lists, *ids})
        return self._ok({})

    def _shown(self, entry: Entry) -> dict[str, Any]:
        shown = entry.as_json()
        if self._dates == "no createdAt":
            del shown["createdAt"]
        return shown

    def _deal(self, body: Any) -> Http:
        owner = next((e for e in self.contacts.values() if e.id == body["contactId"]), None)
        if owner is None:
            return self._error("CONTACT_NOT_FOUND")
        if not self._several_deals and any(deal["contactId"] == owner.id for deal in self.deals):
            return self._error("CONTACT_ASSOCIATED_WITH_A_DEAL")
        if body["stageId"] in self.unknown_stages:
            return self._error("STAGE_NOT_FOUND")
        deal = self.add_deal(**body)
        return self._ok({"id": deal["id"], "contactId": owner.id, "email": owner.email}, 201)

    def _of_deal(self, what: str, key: str, body: Any) -> Http:
        found = next((deal for deal in self.deals if deal["id"] == key), None)
        if found is None:
            return self._error("DEAL_NOT_FOUND")
        if what == "get deal":
            return self._ok(found)
        if body.get("stageId") in self.unknown_stages:
            return self._error("STAGE_NOT_FOUND")
        found.update({name: value for name, value in body.items() if name != "attributes"})
        found["attributes"] = {**found["attributes"], **deepcopy(body.get("attributes") or {})}
        return self._ok({"id": found["id"]})

    def add_deal(self, *, age: timedelta = timedelta(0), **fields: Any) -> dict[str, Any]:
        """A deal, created over HTTP or by another client."""
        created = (self.now - age).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        self.deals.append({"id": self._id(), "attributes": {}, **deepcopy(fields), "createdAt": created})
        return self.deals[-1]

    def _make(self, email: str, attributes: dict[str, Any], created: datetime, *, ours: bool) -> Entry:
        made = Entry(self._id(), email, deepcopy(attributes), "active", [], created, self.chain, ours)
        self.contacts[key_of(email)] = made
        return made

    def _id(self) -> str:
        self._ids += 1
        return f"00000000-0000-4000-8000-{self._ids:012d}"

    def _page(self, records: list[dict[str, Any]], number: int) -> Http:
        shown = records[number * 10 : number * 10 + 10]
        return _json(200, {"message": "ok", "data": {"page": number, "total": len(records), "data": shown}})

    def _ok(self, data: Any, status: int = 200) -> Http:
        return _json(status, {"message": "ok", "data": data} if self._envelope else data)

    def _error(self, type_: str) -> Http:
        status, text = ERRORS[type_]
        return _json(status, ERROR_BODIES[self._errors](type_, text))


def _json(status: int, value: Any) -> Http:
    return Http(status, json.dumps(value).encode())


def _what(method: str, path: str) -> tuple[str, str]:
    """The call, and its contact."""
    head, _, last = path.rpartition("/")
    if (method, path) == ("POST", "/contacts"):
        return "create", ""
    if (method, path) == ("GET", "/contacts"):
        return "page", ""
    if path == "/deals":
        return {"POST": "deal", "GET": "deals"}[method], ""
    if head == "/deals" and method in ("GET", "PUT"):
        return f"{method.lower()} deal", last
    known = {("GET", "/contacts"): "get", ("PUT", "/contacts"): "update", ("POST", "/segments/add-contact"): "add"}
    if (method, head) in known:
        return known[method, head], key_of(unquote(last))
    assert (method, path) == ("GET", "/segments"), f"the API has no endpoint {method} {path}"
    return "other", ""
