"""Pytest fixtures and assertions for tests of DAGs that use this provider.

Installed as a pytest plugin: the fixtures are there without an import. A DAG that runs against a CRM which loses an
answer, and must not create the contact twice::

    from crm_provider.testing import assert_no_duplicates, assert_rate_kept

    def test_load_survives_a_lost_answer(crm_sandbox, crm_connection):
        crm_sandbox.add_fault(effect="lost", method="POST", path="/contacts", count=1)
        my_dag.test()
        assert len(crm_sandbox.store.contacts) == 12
        assert_no_duplicates(crm_sandbox)
        assert_rate_kept(crm_sandbox)

The sandbox starts as ``Settings()`` does (seed ``demo``, 5 calls per second, burst 2); a marker changes that::

    @pytest.mark.crm_sandbox(seed="empty", rate=None, envelope="v2")
    def test_on_an_empty_crm(crm_sandbox): ...
"""

from __future__ import annotations

import os
from collections import Counter, deque
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

# The sandbox is imported in the fixtures only: this module is loaded by every pytest run in the environment.
if TYPE_CHECKING:
    from crm_provider.sandbox import JournalEntry, Sandbox

CONNECTION_ID = "crm_default"
CONNECTION_VARIABLE = "AIRFLOW_CONN_CRM_DEFAULT"


def pytest_configure(config: pytest.Config) -> None:
    """Make the marker known."""
    config.addinivalue_line(
        "markers", "crm_sandbox(**settings): settings of the CRM sandbox, for example seed='empty' or rate=None"
    )


@pytest.fixture(scope="session")
def _crm_sandbox_server() -> Iterator[Sandbox]:
    """One server for the whole session, so that each test only pays for a reset."""
    from crm_provider.sandbox import Sandbox

    with Sandbox() as sandbox:
        yield sandbox


@pytest.fixture
def crm_sandbox(request: pytest.FixtureRequest, _crm_sandbox_server: Sandbox) -> Sandbox:
    """A running :class:`crm_provider.sandbox.Sandbox` in fresh state; the marker ``crm_sandbox`` changes settings."""
    from crm_provider.sandbox import Settings

    marker = request.node.get_closest_marker("crm_sandbox")
    _crm_sandbox_server.reset(Settings(**marker.kwargs) if marker else Settings())
    return _crm_sandbox_server


@pytest.fixture
def crm_connection(crm_sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> str:
    """The id of an Airflow connection to ``crm_sandbox``, set in the environment for this test."""
    monkeypatch.setenv(CONNECTION_VARIABLE, crm_sandbox.connection_json())
    for name in ("NO_PROXY", "no_proxy"):  # the developer's proxy cannot reach this machine's loopback
        monkeypatch.setenv(name, ",".join(filter(None, [os.environ.get(name), "127.0.0.1"])))
    return CONNECTION_ID


def assert_rate_kept(sandbox: Sandbox, *, calls: int = 5, seconds: float = 1.0, burst: int | None = None) -> None:
    """The calls kept to the rate: at most ``calls + burst`` arrived within any ``seconds``.

    That is what a token bucket admits that gives back ``calls`` tokens in ``seconds`` and holds ``burst`` of them: from
    full, the whole burst and then all that comes back. Calls that were refused with 429 count as well.

    Example::

        assert_rate_kept(crm_sandbox)                        # 5 per second, burst 2: at most 7 in any second
        assert_rate_kept(crm_sandbox, calls=50, seconds=10)  # at most 52 in any 10 seconds

    :param burst: capacity of the bucket; by default the sandbox's
    :raises AssertionError: names the fullest window
    :raises ValueError: the journal no longer has all calls
    """
    dropped = sandbox.counters().journal_dropped
    if dropped:
        raise ValueError(f"the journal has lost {dropped} calls: give the sandbox a greater journal_size")
    bound = calls + (sandbox.settings.burst if burst is None else burst)
    fullest = _fullest_window(sandbox.journal(), seconds)
    if len(fullest) > bound:
        routes = Counter(f"{entry.method} {entry.route}" for entry in fullest)
        raise AssertionError(
            f"{len(fullest)} calls within {seconds:g} s from call {fullest[0].seq} on, but the rate admits {bound}: "
            + ", ".join(f"{count} x {route}" for route, count in routes.most_common())
        )


def assert_never_throttled(sandbox: Sandbox) -> None:
    """No call was answered with 429.

    :raises AssertionError: says how many were, and on which routes
    """
    refused = Counter(f"{entry.method} {entry.route}" for entry in sandbox.journal(status=429))
    count = sandbox.counters().throttled
    if count:
        raise AssertionError(f"{count} calls were answered with 429: {dict(refused)}")


def assert_no_duplicates(sandbox: Sandbox) -> None:
    """Nothing was created that was there already: no POST was repeated blindly.

    :raises AssertionError: says which creations were repeated, by the number of the call in the journal
    """
    counters = sandbox.counters()
    if counters.duplicate_contacts or counters.duplicate_deals:
        repeated = [entry.seq for entry in sandbox.journal() if entry.duplicate]
        raise AssertionError(
            f"{counters.duplicate_contacts} contacts and {counters.duplicate_deals} deals were created although they "
            f"were there: calls {repeated} of the journal"
        )


def _fullest_window(entries: list[JournalEntry], seconds: float) -> list[JournalEntry]:
    """The most calls that arrived within any ``seconds``."""
    window: deque[JournalEntry] = deque()
    fullest: list[JournalEntry] = []
    for entry in entries:
        window.append(entry)
        while window[0].at <= entry.at - seconds:
            window.popleft()
        if len(window) > len(fullest):
            fullest = list(window)
    return fullest
