"""What cannot be answered, kept or sent is refused when it comes in, with the place, and never a status 500 later."""

from __future__ import annotations

import math
from typing import Any

import pytest

from crm_provider.sandbox import CrmStore, Fault, ManualClock, RefusedError, SandboxSettings, SeedError
from crm_provider.sandbox.operations import parse_body
from crm_provider.sandbox.seeds import fill, load_seed

BODIES = [
    b'{"email": "\xed\xa0\x80@example.com"}',
    '{"email": "\ud800@example.com"}'.encode("utf-16-le", "surrogatepass"),
    b'{"email": "\\ud800@example.com"}',
    b'{"attributes": {"n": 1e999}}',
    b'{"attributes": {"n": NaN}}',
    b'{"attributes": {"n": ' + b"[" * 200 + b"]" * 200 + b"}}",
    b"[" * 100_000,
    b"9" * 5000,
    b"\xff",
]


@pytest.mark.parametrize("body", BODIES, ids=range(len(BODIES)))
def test_a_body_that_could_not_be_said_back(body: bytes) -> None:
    with pytest.raises(RefusedError) as refused:
        parse_body(body)
    assert refused.value.reply.type == "INVALID_INPUT"


CONTACT = {"email": "ann@example.com"}
SEEDS: list[tuple[dict[str, Any], str]] = [
    ({"pipelines": 5}, "pipelines must be a list"),
    ({"lists": None}, "lists must be a list"),
    ({"contacts": "abc"}, "contacts must be a list"),
    ({"contacts": ["ann"]}, r"contacts\[0\] must be an object"),
    ({"pipelines": [{"name": "Sales", "stages": 7}]}, r"pipelines\[0\].*stages must be a list|stages must be a list"),
    ({"pipelines": [{"name": "Sales", "stages": [{"id": "1"}]}]}, r"stages\[0\]\.name must be a string"),
    ({"lists": [{"name": "a", "appears_after": []}]}, r"lists\[0\]\.appears_after must be a number"),
    ({"lists": [{"name": "a", "appears_after": -1}]}, r"lists\[0\]\.appears_after must be a number"),
    ({"lists": [{"name": "a", "id": {}}]}, r"lists\[0\]\.id must be a string"),
    ({"contacts": [{**CONTACT, "id": 5}]}, r"contacts\[0\]\.id must be a string"),
    ({"contacts": [{**CONTACT, "attributes": "xy"}]}, r"contacts\[0\]\.attributes must be an object"),
    ({"contacts": [{**CONTACT, "origin": 5}]}, r"contacts\[0\]\.origin must be an object"),
    ({"contacts": [{**CONTACT, "status": 5}]}, r"contacts\[0\]\.status must be a string"),
    ({"contacts": [{**CONTACT, "segmentedListsIds": None}]}, r"contacts\[0\]\.segmentedListsIds must be a list"),
    ({"contacts": [{**CONTACT, "id": "1"}, {"email": "x@y.z", "id": "1"}]}, r"contacts\[1\]\.id is used twice"),
    ({"contacts": [{**CONTACT, "attributes": {"n": math.inf}}]}, "that JSON cannot represent"),
    ({"contacts": [{**CONTACT, "attributes": {"n": "\ud800"}}]}, "that JSON cannot represent"),
    ({"contacts": [{**CONTACT, "attributes": {"n": object()}}]}, "that JSON cannot represent"),
]


@pytest.mark.parametrize(("seed", "message"), SEEDS, ids=[message for _, message in SEEDS])
def test_a_seed_that_could_not_be_shown(seed: dict[str, Any], message: str) -> None:
    with pytest.raises(SeedError, match=message):
        fill(CrmStore(ManualClock()), load_seed(seed))


def test_two_deals_of_one_id() -> None:
    deals = [
        {"id": "1", "contactId": email, "pipelineId": "Sales", "stageId": "New"} for email in ("a@b.c", "d@b.c")
    ]  # fmt: skip
    seed = {
        "pipelines": [{"name": "Sales", "stages": [{"name": "New"}]}],
        "contacts": [{"email": "a@b.c"}, {"email": "d@b.c"}],
        "deals": deals,
    }
    with pytest.raises(SeedError, match=r"deals\[1\]\.id is used twice"):
        fill(CrmStore(ManualClock()), load_seed(seed))


@pytest.mark.parametrize(
    "changes",
    [
        {"rate": math.nan},
        {"rate": math.inf},
        {"burst": 10**400},
        {"journal_size": 10**30},
        {"membership_delay": math.nan},
        {"membership_delay": math.inf},
    ],
    ids=str,
)
def test_settings_that_no_clock_and_no_memory_can_hold(changes: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(changes))):
        SandboxSettings(**changes)


@pytest.mark.parametrize(
    "fields",
    [
        {"effect": "latency", "latency": math.nan},
        {"effect": "latency", "latency": math.inf},
        {"effect": "drop", "seconds": math.inf},
        {"effect": "error", "error": "TOO_MANY_REQUESTS", "retry_after": "1\r\nx: y"},
        {"effect": "error", "error": "TOO_MANY_REQUESTS", "retry_after": "\u20ac"},
        {"effect": "redirect", "location": "https://evil.example/\n"},
        {"effect": "redirect", "location": "https://\u20ac.example/"},
    ],
    ids="-".join,
)
def test_faults_that_no_answer_can_carry(fields: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=list(fields)[-1]):
        Fault(**fields)
