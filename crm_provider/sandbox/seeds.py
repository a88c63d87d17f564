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
from crm_provider.sandbox import seed_fields as check
from crm_provider.sandbox.choices import not_one_of
from crm_provider.sandbox.records import Contact, Deal, JsonObject, Pipeline, SegmentationList, Stage
from crm_provider.sandbox.seed_fields import SeedError
from crm_provider.sandbox.store import Store

SEEDED_AT = "2025-01-01T00:00:00.000Z"
"""Creation date of seeded records: fixed, so that equal seeds are equal to the letter."""

_LONGEST_DELAY = 1e9
"""Seconds."""

_PARTS = ("pipelines", "lists", "contacts", "deals")
_STAGES = ("New", "Qualified", "Proposal", "Won", "Lost")
_PEOPLE = ("Ada", "Alan", "Barbara", "Edsger", "Frances", "Grace", "John", "Katherine", "Ken", "Leslie", "Margaret")


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
    try:
        json.dumps(document, ensure_ascii=False, allow_nan=False, default=dict).encode()
    except (ValueError, TypeError, RecursionError):
        raise SeedError(f"{what} holds something that JSON has no form for") from None
    return document


def _records(document: Mapping[str, Any], part: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    for index, record in enumerate(check.several(document, part, part)):
        place = f"{part}[{index}]"
        if not isinstance(record, Mapping):
            raise SeedError(f"{place} must be an object")
        yield place, record


def _pipeline(record: Mapping[str, Any], place: str) -> Pipeline:
    name = check.required_text(record, "name", place)
    stages = tuple(_stage(stage, at, name) for at, stage in _records(record, "stages"))
    return Pipeline(id=check.own_id(record, place) or ids.pipeline_id(name), name=name, stages=stages)


def _stage(record: Mapping[str, Any], place: str, pipeline: str) -> Stage:
    name = check.required_text(record, "name", place)
    return Stage(id=check.own_id(record, place) or ids.stage_id(pipeline, name), name=name)


def _list(record: Mapping[str, Any], place: str, now: float) -> SegmentationList:
    name = check.required_text(record, "name", place)
    after = record.get("appears_after", 0)
    if not isinstance(after, (int, float)) or not 0 <= after < _LONGEST_DELAY:
        raise SeedError(f"{place}.appears_after must be a number of seconds from 0")
    return SegmentationList(id=check.own_id(record, place) or ids.list_id(name), name=name, visible_from=now + after)


def _contact(record: Mapping[str, Any], place: str, store: Store) -> Contact:
    email = check.required_text(record, "email", place)
    if email in store.contacts:
        raise SeedError(f"{place}.email is there already")
    contact_id = check.own_id(record, place) or ids.contact_id(email)
    if store.email_of(contact_id):
        raise SeedError(f"{place}.id is there already")
    lists = {segment.name: segment.id for segment in store.lists.values()}
    named = check.several(record, "segmentedListsIds", f"{place}.segmentedListsIds")
    memberships = (check.resolved(lists, name, f"{place}.segmentedListsIds") for name in named)
    return Contact(
        id=contact_id,
        email=email,
        created_at=check.text(record, "createdAt", place) or SEEDED_AT,
        attributes=check.mapping(record, "attributes", place) or {},
        origin=check.mapping(record, "origin", place),
        memberships=dict.fromkeys(memberships, float("-inf")),
        unsubscribed_at=check.text(record, "unsubscribedAt", place),
        blacklisted_at=check.text(record, "blacklistedAt", place),
        status=check.text(record, "status", place) or "active",
        source=check.text(record, "source", place) or "PublicApi",
    )


def _deal(record: Mapping[str, Any], place: str, store: Store) -> Deal:
    contact = _deal_contact(record.get("contactId"), f"{place}.contactId", store)
    pipelines = {pipeline.name: pipeline.id for pipeline in store.pipelines.values()}
    pipeline = check.resolved(pipelines, record.get("pipelineId"), f"{place}.pipelineId")
    stages = {stage.name: stage.id for stage in store.pipelines[pipeline].stages}
    deal_id = check.own_id(record, place) or ids.deal_id(contact)
    if deal_id in store.deals:
        raise SeedError(f"{place}.id is there already")
    return Deal(
        id=deal_id,
        contact_id=contact,
        pipeline_id=pipeline,
        stage_id=check.resolved(stages, record.get("stageId"), f"{place}.stageId"),
        created_at=check.text(record, "createdAt", place) or SEEDED_AT,
        attributes=check.mapping(record, "attributes", place) or {},
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
