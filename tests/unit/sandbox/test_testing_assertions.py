"""The assertions of ``crm_provider.testing`` fail when they should."""

from __future__ import annotations

import pytest

from crm_provider.sandbox import ManualClock, Sandbox, ids
from crm_provider.sandbox.routes import RawRequest
from crm_provider.testing import assert_never_throttled, assert_no_duplicates, assert_rate_kept


def calls(sandbox: Sandbox, count: int, method: str = "GET", path: str = "/contacts", body: bytes = b"") -> None:
    headers = {"x-api-key": "sandbox-key"}
    for _ in range(count):
        # call the gateway directly: a journal needs no server
        sandbox._gateway.handle(RawRequest(method=method, raw_path=f"/v2{path}", headers=headers, body=body))


@pytest.fixture
def sandbox(clock: ManualClock) -> Sandbox:
    return Sandbox(rate=None, burst=2, clock=clock)


def test_bound_is_burst_plus_calls_in_any_window(sandbox: Sandbox, clock: ManualClock) -> None:
    assert_rate_kept(sandbox)
    calls(sandbox, 4)
    clock.advance(0.999)
    calls(sandbox, 3)
    assert_rate_kept(sandbox)
    assert_rate_kept(sandbox, calls=7, burst=0)
    calls(sandbox, 1, "POST", "/deals")
    with pytest.raises(AssertionError, match=r"8 calls within 1 s from call 1 .*admits 7: 7 x GET /contacts, 1 x POST"):
        assert_rate_kept(sandbox)


def test_window_slides(sandbox: Sandbox, clock: ManualClock) -> None:
    for _ in range(20):
        calls(sandbox, 7)
        clock.advance(1.0)
    assert_rate_kept(sandbox)
    with pytest.raises(AssertionError, match="14 calls within 2 s"):
        assert_rate_kept(sandbox, calls=5, seconds=2)


def test_incomplete_journal_proves_nothing(clock: ManualClock) -> None:
    sandbox = Sandbox(rate=None, journal_size=2, clock=clock)
    calls(sandbox, 3)
    with pytest.raises(ValueError, match=r"lost calls \(1\)"):
        assert_rate_kept(sandbox)


def test_throttled_calls_are_named(clock: ManualClock) -> None:
    sandbox = Sandbox(rate=5, burst=2, clock=clock)
    calls(sandbox, 2)
    assert_never_throttled(sandbox)
    calls(sandbox, 1, "POST")
    with pytest.raises(AssertionError, match=r"calls with the response 429: 1, .*POST /contacts"):
        assert_never_throttled(sandbox)


def test_repeated_creations_are_named(sandbox: Sandbox) -> None:
    calls(sandbox, 1, "POST", body=b'{"email": "n@example.com"}')
    assert_no_duplicates(sandbox)
    calls(sandbox, 1, "POST", body=b'{"email": "n@example.com"}')
    with pytest.raises(AssertionError, match=r"contacts 1, deals 0; calls \[2\]"):
        assert_no_duplicates(sandbox)
    assert ids.contact_id("n@example.com") == sandbox.store.contacts["n@example.com"].id
