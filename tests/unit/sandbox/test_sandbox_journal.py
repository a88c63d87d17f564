"""The journal and its counters: what they record and what they leave out."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from crm_provider.sandbox import Fault, ManualClock, SandboxSettings
from crm_provider.sandbox.faults import RequestOutcome
from crm_provider.sandbox.gateway import Gateway
from crm_provider.sandbox.journal import JournalEntry, RequestJournal
from crm_provider.sandbox.routes import RawRequest

Send = Callable[..., RequestOutcome]
ADA = "/contacts/ada@example.com"


def entry(seq: int, at: float) -> JournalEntry:
    return JournalEntry(seq=seq, at=at, time="", method="GET", route="/contacts", request_id="", status=200)


def test_journal_entry_describes_the_call(send: Send, gateway: Gateway, clock: ManualClock) -> None:
    clock.advance(1.5)
    gateway.faults.add(Fault(effect="lost", name="mine", latency=2))
    send("POST", "/contacts", {"email": "n@example.com", "attributes": {"phone": "+5531999999999"}, "origin": {}})
    (noted,) = gateway.journal.entries()
    assert noted == JournalEntry(
        seq=1,
        at=1.5,
        time="2025-01-01T00:00:01.500Z",
        method="POST",
        route="/contacts",
        request_id=noted.request_id,
        status=None,
        fault="mine",
        applied=True,
        latency=2,
        key=gateway.hasher.hash("sandbox-key"),
        email=gateway.hasher.hash("n@example.com"),
        fields=("email", "attributes.phone", "origin"),
    )


def test_journal_contains_no_sent_values(send: Send, gateway: Gateway) -> None:
    secrets = ["s3cret-key", "s3cret@example.com", "S3cret Name", "s3cret-path"]
    body = {"email": secrets[1], "attributes": {"name": secrets[2], "phone": secrets[2]}}
    send("POST", "/contacts", body, key=secrets[0])
    send("POST", "/contacts", body)
    send("GET", f"/contacts/{secrets[1]}?page={secrets[3]}")
    send("GET", f"/{secrets[3]}")
    send("POST", f"/webhook/{secrets[3]}/c/x/w/y", {"email": secrets[1]}, key=None)
    send("POST", "/contacts", secrets[2].encode())
    written = json.dumps([noted.as_json() for noted in gateway.journal.entries()])
    assert len(gateway.journal.entries()) == 6
    for secret in secrets:
        assert secret not in written


def test_fingerprints_distinguish_values_and_depend_on_a_secret(gateway: Gateway) -> None:
    one, other = gateway.hasher.hash("a@example.com"), gateway.hasher.hash("b@example.com")
    assert one == gateway.hasher.hash("a@example.com") != other
    assert one != Gateway(SandboxSettings(seed="empty")).hasher.hash("a@example.com")
    assert gateway.hasher.hash(None) is None


def test_journal_filters(send: Send, gateway: Gateway) -> None:
    send("GET", ADA)
    send("GET", "/contacts/no@example.com")
    send("DELETE", ADA)
    find, email = gateway.journal.entries, gateway.hasher.hash("ada@example.com")
    assert [noted.seq for noted in find(since=1)] == [2, 3]
    assert [noted.seq for noted in find(method="GET")] == [1, 2]
    assert [noted.seq for noted in find(route="/contacts/{email}", status=404)] == [2]
    assert [noted.seq for noted in find(email=email)] == [1, 3]
    assert find(method="GET", email=email, since=1) == []


def test_journal_keeps_the_last_calls_and_counts_all(clock: ManualClock) -> None:
    gateway = Gateway(SandboxSettings(rate=None, journal_size=3), clock=clock)
    for _ in range(5):
        gateway.handle(RawRequest(method="GET", raw_path="/v2/contacts", headers={"x-api-key": "sandbox-key"}))
    assert [noted.seq for noted in gateway.journal.entries()] == [3, 4, 5]
    counters = gateway.journal.counters()
    assert (counters.total, counters.calls, counters.journal_dropped) == (5, {"GET /contacts": 5}, 2)


@pytest.mark.parametrize(
    ("times", "highest"),
    [([], 0), ([0, 0.5, 0.999], 3), ([0, 0.5, 1.0], 2), ([0, 0.6, 1.2, 1.3, 1.4, 5.0], 4), ([0, 2, 4], 1)],
)
def test_highest_rate_in_any_second(times: list[float], highest: int) -> None:
    journal = RequestJournal(size=2)  # shorter than the window: the counter must not depend on its size
    for seq, at in enumerate(times, start=1):
        journal.add(entry(seq, at))
    assert journal.counters().highest_rate == highest


def test_journal_counters(send: Send, gateway: Gateway) -> None:
    (deal,) = gateway.store.deals.values()
    again = {"contactId": deal.contact_id, "pipelineId": deal.pipeline_id, "stageId": deal.stage_id}
    send("POST", "/contacts", {"email": "ada@example.com"})
    send("POST", "/deals", again)
    send("POST", "/deals", again)
    gateway.configure(rate=1, burst=1)
    send("GET", ADA)
    send("GET", ADA)
    counters = gateway.journal.counters()
    assert (counters.duplicate_contacts, counters.duplicate_deals, counters.throttled) == (1, 2, 1)
    assert counters.calls == {"POST /contacts": 1, "POST /deals": 2, "GET /contacts/{email}": 2}
    assert counters.errors == {"CONTACT_ALREADY_EXISTS": 1, "CONTACT_ASSOCIATED_WITH_A_DEAL": 2, "TOO_MANY_REQUESTS": 1}


def test_injected_conflict_is_not_counted_as_a_duplicate(send: Send, gateway: Gateway) -> None:
    gateway.faults.add(Fault(effect="error", error="CONTACT_ALREADY_EXISTS"))
    send("POST", "/contacts", {"email": "n@example.com"})
    assert gateway.journal.counters().duplicate_contacts == 0


def test_duplicate_with_lost_response_is_counted(send: Send, gateway: Gateway) -> None:
    gateway.faults.add(Fault(effect="lost"))
    send("POST", "/contacts", {"email": "ada@example.com"})
    assert gateway.journal.counters().duplicate_contacts == 1
