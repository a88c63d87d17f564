"""Seeds: the data of a sandbox after its start and after a reset, and the file that keeps it.

A seed is a document in the format that :func:`snapshot` returns. A handwritten one may be shorter: ids and dates may be
left out, and a list, pipeline, stage or contact may be referred to by its name (or email) instead of its id::

    {"pipelines": [{"name": "Sales", "stages": [{"name": "New"}, {"name": "Won"}]}],
     "lists": [{"name": "Newsletter"}, {"name": "Late", "appears_after": 5}],
     "contacts": [{"email": "ann@example.com", "attributes": {"name": "Ann"}, "segmentedListsIds": ["Newsletter"]}],
     "deals": [{"contactId": "ann@example.com", "pipelineId": "Sales", "stageId": "New"}]}
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from crm_provider.sandbox import ids
from crm_provider.sandbox.settings import not_one_of
from crm_provider.sandbox.store import (
    ContactRecord,
    CrmStore,
    DealRecord,
    JsonObject,
    Pipeline,
    SegmentationList,
    Stage,
)

SEEDED_AT = "2024-01-01T00:00:00.000Z"
"""``createdAt`` of seeded records: fixed, so that equal seeds are identical, and older than any new record."""

_LONGEST_DELAY = 1e9
"""Seconds."""

_PARTS = ("pipelines", "lists", "contacts", "deals")
_STAGES = ("New", "Qualified", "Proposal", "Won", "Lost")
_PEOPLE = ("Ada", "Alan", "Barbara", "Edsger", "Frances", "Grace", "John", "Katherine", "Ken", "Leslie", "Margaret")


class SeedError(ValueError):
    """A seed cannot be used. The message names the place in it."""


def load_seed(seed: str | Mapping[str, Any]) -> Mapping[str, Any]:
    """The document of a seed.

    :param seed: ``empty``; ``demo``: two pipelines, two lists, some contacts and a deal; ``contacts:N``: the same
        pipelines and lists with N contacts; ``deals:N``: these and a deal for each of them; the path of a JSON file;
        or the document itself
    :raises SeedError: there is no such seed, or the file cannot be read
    """
    if not isinstance(seed, str):
        return _checked(seed, "the seed")
    if seed == "empty":
        return {}
    if seed == "demo":
        return _demo()
    if many := re.fullmatch(r"(contacts|deals):([0-9]{1,7})", seed):
        contacts = list(_crowd(int(many[2])))
        return {**_structure(), "contacts": contacts, "deals": list(_deals_of(contacts)) if many[1] == "deals" else []}
    if not seed.endswith(".json"):
        raise SeedError(
            not_one_of("seed", seed, ["empty", "demo", "contacts:1000", "deals:1000", "a path ending in .json"])
        )
    try:
        return _checked(json.loads(Path(seed).read_text(encoding="utf-8")), seed)
    except (OSError, ValueError) as error:
        raise SeedError(f"seed {seed!r} cannot be read: {error}") from error


def fill(store: CrmStore, document: Mapping[str, Any]) -> None:
    """Add the records of a document to a store.

    :raises SeedError: a field is missing, or refers to something that is not in the document
    """
    for place, record in _records(document, "pipelines"):
        store.put_pipeline(_pipeline(record, place))
    for place, record in _records(document, "lists"):
        store.put_list(_list(record, place, store.clock.monotonic()))
    for place, record in _records(document, "contacts"):
        store.put_contact(_contact(record, place, store))
    for place, record in _records(document, "deals"):
        store.put_deal(_deal(record, place, store))


def snapshot(store: CrmStore) -> JsonObject:
    """The state as a document. Seeding with it restores the state, except for started automations."""
    with store.lock:
        now = store.clock.monotonic()
        lists = [
            {**known.as_json(), "appears_after": max(0.0, known.visible_from - now)} for known in store.lists.values()
        ]
        return {
            "pipelines": [pipeline.as_json() for pipeline in store.pipelines.values()],
            "lists": lists,
            # includes memberships that do not show yet, without the rest of their delay
            "contacts": [contact.as_json(float("inf")) for contact in store.contacts.values()],
            "deals": [deal.as_json() for deal in store.deals.values()],
        }


class StateFile:
    """A file with the state of a sandbox, so that the next sandbox continues with it.

    It holds a seed document and is replaced before a write gets its response, so no confirmed write is lost. Each write
    takes the time to write all records: use it for a few thousand contacts.

    :param path: of a JSON file, which need not exist yet
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._path = Path(path)

    def seed(self, otherwise: str | Mapping[str, Any]) -> str | Mapping[str, Any]:
        """The content of the file, or another seed if there is no file yet.

        :raises ValueError: it cannot be read
        """
        try:
            found: object = json.loads(self._path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return otherwise
        except ValueError as broken:
            raise ValueError(f"the state file {self._path} cannot be read ({broken}); remove it") from None
        if not isinstance(found, dict):
            raise ValueError(f"the state file {self._path} does not contain the state of a sandbox; use another path")
        return found

    def write(self, document: JsonObject) -> None:
        """Replace the file atomically."""
        draft = self._path.with_name(f".{self._path.name}.tmp")
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | getattr(os, "O_NOFOLLOW", 0)  # the folder may be shared
        with open(os.open(draft, flags, 0o600), "w", encoding="utf-8") as file:  # noqa: PTH123
            json.dump(document, file)
        draft.replace(self._path)


# -- built-in seeds -----------------------------------------------------------------------------------------


def _structure() -> JsonObject:
    stages = [{"name": name} for name in _STAGES]
    return {
        "pipelines": [{"name": "Sales", "stages": stages}, {"name": "Partners", "stages": stages}],
        "lists": [{"name": "Newsletter"}, {"name": "Trial users"}],
    }


def _demo() -> JsonObject:
    contacts = [
        {
            "email": f"{name.lower()}@example.com",
            "attributes": {"name": f"{name} Example", "phone": f"+155501000{number:02}"},
            "segmentedListsIds": ["Newsletter"] if number % 2 == 0 else [],
        }
        for number, name in enumerate(_PEOPLE)
    ]
    attributes = {"pb_name": "First order", "pb_amount": "1200.50"}
    deal = {"contactId": "ada@example.com", "pipelineId": "Sales", "stageId": "New", "attributes": attributes}
    return {**_structure(), "contacts": contacts, "deals": [deal]}


def _crowd(size: int) -> Iterator[JsonObject]:
    for number in range(1, size + 1):
        yield {"email": f"contact-{number:07}@example.com", "attributes": {"name": f"Contact {number}"}}


def _deals_of(contacts: Sequence[JsonObject]) -> Iterator[JsonObject]:
    """A deal for each contact; the stages take turns."""
    for number, contact in enumerate(contacts, start=1):
        yield {
            "contactId": contact["email"],
            "pipelineId": "Sales",
            "stageId": _STAGES[(number - 1) % len(_STAGES)],
            "attributes": {"pb_name": f"Deal {number}", "pb_amount": f"{number}.50"},
        }


# -- records of a document ----------------------------------------------------------------------------------


def _checked(document: object, what: str) -> Mapping[str, Any]:
    if not isinstance(document, Mapping):
        raise SeedError(f"{what} must be an object with any of {', '.join(_PARTS)}")
    for part in document:
        if part not in _PARTS:
            raise SeedError(f"in {what}: {not_one_of('part', part, _PARTS)}")
    try:
        json.dumps(document, ensure_ascii=False, allow_nan=False, default=dict).encode()
    except (ValueError, TypeError, RecursionError):
        raise SeedError(f"{what} contains a value that JSON cannot represent") from None
    return document


def _records(document: Mapping[str, Any], part: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    for index, record in enumerate(_sequence(document, part, part)):
        place = f"{part}[{index}]"
        if not isinstance(record, Mapping):
            raise SeedError(f"{place} must be an object")
        yield place, record


def _pipeline(record: Mapping[str, Any], place: str) -> Pipeline:
    name = _required_string(record, "name", place)
    stages = tuple(_stage(stage, at, name) for at, stage in _records(record, "stages"))
    return Pipeline(id=_string(record, "id", place) or ids.pipeline_id(name), name=name, stages=stages)


def _stage(record: Mapping[str, Any], place: str, pipeline: str) -> Stage:
    name = _required_string(record, "name", place)
    return Stage(id=_string(record, "id", place) or ids.stage_id(pipeline, name), name=name)


def _list(record: Mapping[str, Any], place: str, now: float) -> SegmentationList:
    name = _required_string(record, "name", place)
    after = record.get("appears_after", 0)
    if not isinstance(after, (int, float)) or not 0 <= after < _LONGEST_DELAY:
        raise SeedError(f"{place}.appears_after must be a number of seconds from 0")
    return SegmentationList(id=_string(record, "id", place) or ids.list_id(name), name=name, visible_from=now + after)


def _contact(record: Mapping[str, Any], place: str, store: CrmStore) -> ContactRecord:
    email = _required_string(record, "email", place)
    if email in store.contacts:
        raise SeedError(f"{place}.email is used twice")
    contact_id = _string(record, "id", place) or ids.contact_id(email)
    if store.email_of(contact_id):
        raise SeedError(f"{place}.id is used twice")
    lists = {segment.name: segment.id for segment in store.lists.values()}
    named = _sequence(record, "segmentedListsIds", f"{place}.segmentedListsIds")
    memberships = (_resolved(lists, name, f"{place}.segmentedListsIds") for name in named)
    return ContactRecord(
        id=contact_id,
        email=email,
        created_at=_string(record, "createdAt", place) or SEEDED_AT,
        attributes=_object(record, "attributes", place) or {},
        origin=_object(record, "origin", place),
        memberships=dict.fromkeys(memberships, float("-inf")),
        unsubscribed_at=_string(record, "unsubscribedAt", place),
        blacklisted_at=_string(record, "blacklistedAt", place),
        status=_string(record, "status", place) or "active",
        source=_string(record, "source", place) or "PublicApi",
    )


def _deal(record: Mapping[str, Any], place: str, store: CrmStore) -> DealRecord:
    contact = _deal_contact(record.get("contactId"), f"{place}.contactId", store)
    pipelines = {pipeline.name: pipeline.id for pipeline in store.pipelines.values()}
    pipeline = _resolved(pipelines, record.get("pipelineId"), f"{place}.pipelineId")
    stages = {stage.name: stage.id for stage in store.pipelines[pipeline].stages}
    deal_id = _string(record, "id", place) or ids.deal_id(contact)
    if deal_id in store.deals:
        raise SeedError(f"{place}.id is used twice")
    return DealRecord(
        id=deal_id,
        contact_id=contact,
        pipeline_id=pipeline,
        stage_id=_resolved(stages, record.get("stageId"), f"{place}.stageId"),
        created_at=_string(record, "createdAt", place) or SEEDED_AT,
        attributes=_object(record, "attributes", place) or {},
    )


def _deal_contact(named: object, place: str, store: CrmStore) -> str:
    """The id of the contact that a deal refers to. It uses the indexes, because there may be very many contacts."""
    word = str(named)
    contact = word if store.email_of(word) else store.contacts[word].id if word in store.contacts else None
    if contact is None:
        raise SeedError(f"{place}: there is no contact with the email or id {word!r}")
    if store.deal_of(contact):
        raise SeedError(f"{place}: this contact has a deal already")
    return contact


# -- fields of a record -------------------------------------------------------------------------------------


def _required_string(record: Mapping[str, Any], field: str, place: str) -> str:
    value = record.get(field)
    if not isinstance(value, str) or not value:
        raise SeedError(f"{place}.{field} must be a string")
    return value


def _string(record: Mapping[str, Any], field: str, place: str) -> str | None:
    value = record.get(field)
    if value is not None and not isinstance(value, str):
        raise SeedError(f"{place}.{field} must be a string")
    return value


def _object(record: Mapping[str, Any], field: str, place: str) -> JsonObject | None:
    value = record.get(field)
    if value is not None and not isinstance(value, Mapping):
        raise SeedError(f"{place}.{field} must be an object")
    return None if value is None else dict(value)


def _sequence(record: Mapping[str, Any], field: str, place: str) -> Sequence[Any]:
    value = record.get(field, ())
    if not isinstance(value, Sequence) or isinstance(value, str):
        raise SeedError(f"{place} must be a list")
    return value


def _resolved(ids_by_name: Mapping[str, str], named: object, place: str) -> str:
    """The id for a name or an id in a document."""
    word = str(named)
    if word in ids_by_name.values():
        return word
    if word not in ids_by_name:
        raise SeedError(not_one_of(place, named, ids_by_name))
    return ids_by_name[word]
