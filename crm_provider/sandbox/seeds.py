"""Seeds: what a sandbox holds when it starts and after a reset.

A seed is a document in the form that :func:`snapshot` writes. By hand less is enough: ids and dates may be left out,
and wherever a document names a list, pipeline, stage or contact it may give the name (or email) instead of the id::

    {"pipelines": [{"name": "Sales", "stages": [{"name": "New"}, {"name": "Won"}]}],
     "lists": [{"name": "Newsletter"}, {"name": "Late", "appears_after": 5}],
     "contacts": [{"email": "ann@example.com", "attributes": {"name": "Ann"}, "segmentedListsIds": ["Newsletter"]}],
     "deals": [{"contactId": "ann@example.com", "pipelineId": "Sales", "stageId": "New"}]}
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from crm_provider.sandbox import ids
from crm_provider.sandbox.choices import not_one_of
from crm_provider.sandbox.records import Contact, Deal, JsonObject, Pipeline, SegmentationList, Stage
from crm_provider.sandbox.store import Store

SEEDED_AT = "2025-01-01T00:00:00.000Z"
"""Creation date of seeded records: fixed, so that equal seeds are equal to the letter."""

_PARTS = ("pipelines", "lists", "contacts", "deals")
_STAGES = ("New", "Qualified", "Proposal", "Won", "Lost")
_PEOPLE = ("Ada", "Alan", "Barbara", "Edsger", "Frances", "Grace", "John", "Katherine", "Ken", "Leslie", "Margaret")


class SeedError(ValueError):
    """A seed that cannot be used; the message names the place in it."""


def load_seed(seed: str | Mapping[str, Any]) -> Mapping[str, Any]:
    """The document of a seed.

    :param seed: ``empty``; ``demo``: two pipelines, two lists, some contacts and a deal; ``contacts:N``: the same
        pipelines and lists with N contacts; the path of a JSON file; or the document itself
    :raises SeedError: there is no such seed, or the file is not one
    """
    if not isinstance(seed, str):
        return _checked(seed, "the seed")
    if seed == "empty":
        return {}
    if seed == "demo":
        return _demo()
    if many := re.fullmatch(r"contacts:([0-9]{1,7})", seed):
        return {**_structure(), "contacts": list(_crowd(int(many[1])))}
    if not seed.endswith(".json"):
        raise SeedError(not_one_of("seed", seed, ["empty", "demo", "contacts:1000", "a path ending in .json"]))
    try:
        return _checked(json.loads(Path(seed).read_text(encoding="utf-8")), seed)
    except (OSError, ValueError) as error:
        raise SeedError(f"seed {seed!r} cannot be read: {error}") from error


def fill(store: Store, document: Mapping[str, Any]) -> None:
    """Add what a document holds to a store.

    :raises SeedError: a field is missing, or names something that is not in the document
    """
    for place, record in _records(document, "pipelines"):
        store.put_pipeline(_pipeline(record, place))
    for place, record in _records(document, "lists"):
        store.put_list(_list(record, place, store.clock.monotonic()))
    for place, record in _records(document, "contacts"):
        store.put_contact(_contact(record, place, store))
    for place, record in _records(document, "deals"):
        store.put_deal(_deal(record, place, store))


def snapshot(store: Store) -> JsonObject:
    """The state as a document: seeding with it restores the state. Automations that were started are not in it."""
    with store.lock:
        now = store.clock.monotonic()
        lists = [
            {**known.as_json(), "appears_after": max(0.0, known.visible_from - now)} for known in store.lists.values()
        ]
        return {
            "pipelines": [pipeline.as_json() for pipeline in store.pipelines.values()],
            "lists": lists,
            # memberships still to come are in it as well, without their delay
            "contacts": [contact.as_json(float("inf")) for contact in store.contacts.values()],
            "deals": [deal.as_json() for deal in store.deals.values()],
        }


# -- the seeds that come with it ----------------------------------------------------------------------------


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


# -- records of a document ----------------------------------------------------------------------------------


def _checked(document: object, what: str) -> Mapping[str, Any]:
    if not isinstance(document, Mapping):
        raise SeedError(f"{what} must be an object with any of {', '.join(_PARTS)}")
    for part in document:
        if part not in _PARTS:
            raise SeedError(f"in {what}: {not_one_of('part', part, _PARTS)}")
    return document


def _records(document: Mapping[str, Any], part: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    for index, record in enumerate(document.get(part, ())):
        place = f"{part}[{index}]"
        if not isinstance(record, Mapping):
            raise SeedError(f"{place} must be an object")
        yield place, record


def _pipeline(record: Mapping[str, Any], place: str) -> Pipeline:
    name = _required(record, "name", place)
    stages = tuple(
        Stage(id=stage.get("id") or ids.stage_id(name, _required(stage, "name", at)), name=stage["name"])
        for at, stage in _records(record, "stages")
    )
    return Pipeline(id=record.get("id") or ids.pipeline_id(name), name=name, stages=stages)


def _list(record: Mapping[str, Any], place: str, now: float) -> SegmentationList:
    name = _required(record, "name", place)
    after = float(record.get("appears_after", 0))
    return SegmentationList(id=record.get("id") or ids.list_id(name), name=name, visible_from=now + after)


def _contact(record: Mapping[str, Any], place: str, store: Store) -> Contact:
    email = _required(record, "email", place)
    if email in store.contacts:
        raise SeedError(f"{place}.email is there already")
    lists = {segment.name: segment.id for segment in store.lists.values()}
    memberships = (_resolve(lists, name, f"{place}.segmentedListsIds") for name in record.get("segmentedListsIds", ()))
    optional = {name: record[name] for name in ("status", "source") if name in record}
    return Contact(
        id=record.get("id") or ids.contact_id(email),
        email=email,
        created_at=record.get("createdAt", SEEDED_AT),
        attributes=dict(record.get("attributes") or {}),
        origin=record.get("origin"),
        memberships=dict.fromkeys(memberships, float("-inf")),
        unsubscribed_at=record.get("unsubscribedAt"),
        blacklisted_at=record.get("blacklistedAt"),
        **optional,
    )


def _deal(record: Mapping[str, Any], place: str, store: Store) -> Deal:
    contact = _deal_contact(record.get("contactId"), f"{place}.contactId", store)
    pipelines = {pipeline.name: pipeline.id for pipeline in store.pipelines.values()}
    pipeline = _resolve(pipelines, record.get("pipelineId"), f"{place}.pipelineId")
    stages = {stage.name: stage.id for stage in store.pipelines[pipeline].stages}
    return Deal(
        id=record.get("id") or ids.deal_id(contact),
        contact_id=contact,
        pipeline_id=pipeline,
        stage_id=_resolve(stages, record.get("stageId"), f"{place}.stageId"),
        created_at=record.get("createdAt", SEEDED_AT),
        attributes=dict(record.get("attributes") or {}),
    )


def _deal_contact(named: object, place: str, store: Store) -> str:
    """The id of the contact that a deal names; looked up in the indexes, because there may be very many."""
    word = str(named)
    contact = word if store.email_of(word) else store.contacts[word].id if word in store.contacts else None
    if contact is None:
        raise SeedError(f"{place}: there is no contact with the email or id {word!r}")
    if store.deal_of(contact):
        raise SeedError(f"{place}: this contact has a deal already")
    return contact


def _required(record: Mapping[str, Any], field: str, place: str) -> str:
    value = record.get(field)
    if not isinstance(value, str) or not value:
        raise SeedError(f"{place}.{field} must be a text")
    return value


def _resolve(ids_by_name: Mapping[str, str], named: object, place: str) -> str:
    """The id that a document means by a name or an id."""
    word = str(named)
    if word in ids_by_name.values():
        return word
    if word not in ids_by_name:
        raise SeedError(not_one_of(place, named, ids_by_name))
    return ids_by_name[word]
