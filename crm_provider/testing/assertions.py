"""Assertions about what the sandbox has seen: the rate, refusals, creations that were repeated."""

from __future__ import annotations

from collections import Counter, deque
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from crm_provider.sandbox import JournalEntry, Sandbox


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
