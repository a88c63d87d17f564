"""What the sandbox received: each request without any value that was sent, and counters over all requests."""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections import Counter, deque
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from http import HTTPStatus
from typing import Any

WINDOW = 1.0
"""Seconds of the window in which ``highest_rate`` counts requests."""


@dataclass(frozen=True, kw_only=True)
class JournalEntry:
    """One request.

    :param seq: number of the request since the start or the last reset, from 1
    :param at: monotonic time of its arrival, in seconds
    :param time: wall time of its arrival
    :param route: the route's path with placeholders, or ``unknown``
    :param status: None if the connection was closed without a response
    :param error: the error's type in the catalogue, even if the response was lost
    :param fault: name of the fault that was applied
    :param applied: whether the request was carried out successfully (never in developer mode)
    :param duplicate: it tried to create a contact, or a contact's deal, that exists
    :param latency: seconds by which the response was delayed
    :param key: keyed hash of the API key that was sent
    :param email: keyed hash of the email that the request was about
    :param fields: names of the body's fields, for example ``attributes.phone``
    :param detail: which rule of the API was broken
    """

    seq: int
    at: float
    time: str
    method: str
    route: str
    request_id: str
    status: int | None
    error: str | None = None
    fault: str | None = None
    applied: bool = False
    duplicate: bool = False
    developer_mode: bool = False
    latency: float = 0.0
    key: str | None = None
    email: str | None = None
    fields: tuple[str, ...] = ()
    detail: str = ""

    def as_json(self) -> dict[str, Any]:
        """All fields by name."""
        return asdict(self)


@dataclass(frozen=True, kw_only=True)
class Counters:
    """Totals since the start or the last reset.

    :param total: number of requests
    :param highest_rate: the most requests within any one second
    :param throttled: responses with status 429
    :param duplicate_contacts: attempts to create a contact that exists
    :param duplicate_deals: attempts to create a deal for a contact that has one
    :param calls: requests by method and route, for example ``GET /contacts/{email}``
    :param errors: errors by type
    :param journal_dropped: requests that no longer fit into the journal
    """

    total: int = 0
    highest_rate: int = 0
    throttled: int = 0
    duplicate_contacts: int = 0
    duplicate_deals: int = 0
    calls: Mapping[str, int] = field(default_factory=dict)
    errors: Mapping[str, int] = field(default_factory=dict)
    journal_dropped: int = 0


class ValueHasher:
    """Keyed hashes of values: equal values have equal hashes, and no hash reveals its value. The key is per process."""

    def __init__(self) -> None:
        self._secret = secrets.token_bytes(16)

    def hash(self, value: str | None) -> str | None:
        """The hash of a value, None for None."""
        if value is None:
            return None
        return hmac.new(self._secret, value.encode(), hashlib.sha256).hexdigest()[:16]


class RequestJournal:
    """The last requests, and the counters over all requests.

    :param size: how many requests are kept
    """

    def __init__(self, size: int) -> None:
        self._entries: deque[JournalEntry] = deque(maxlen=size)
        self._recent: deque[float] = deque()
        self._highest_rate = 0
        self._total = 0
        self._throttled = 0
        self._duplicates: Counter[str] = Counter()
        self._calls: Counter[str] = Counter()
        self._errors: Counter[str] = Counter()

    def add(self, entry: JournalEntry) -> None:
        """Record a request."""
        self._entries.append(entry)
        self._total += 1
        self._throttled += entry.status == HTTPStatus.TOO_MANY_REQUESTS
        self._calls[f"{entry.method} {entry.route}"] += 1
        if entry.error is not None:
            self._errors[entry.error] += 1
        if entry.duplicate:
            self._duplicates[entry.route] += 1
        self._recent.append(entry.at)
        while self._recent[0] <= entry.at - WINDOW:
            self._recent.popleft()
        self._highest_rate = max(self._highest_rate, len(self._recent))

    def entries(
        self,
        *,
        since: int = 0,
        method: str | None = None,
        route: str | None = None,
        status: int | None = None,
        email: str | None = None,
    ) -> list[JournalEntry]:
        """The requests that match all of these, oldest first.

        :param since: only requests with a greater ``seq``
        :param route: the route's path with placeholders
        :param email: keyed hash
        """
        wanted = {"method": method, "route": route, "status": status, "email": email}
        filters = {name: value for name, value in wanted.items() if value is not None}
        return [
            entry
            for entry in self._entries
            if entry.seq > since and all(getattr(entry, name) == value for name, value in filters.items())
        ]

    def counters(self) -> Counters:
        """The current totals."""
        return Counters(
            total=self._total,
            highest_rate=self._highest_rate,
            throttled=self._throttled,
            duplicate_contacts=self._duplicates["/contacts"],
            duplicate_deals=self._duplicates["/deals"],
            calls=dict(self._calls),
            errors=dict(self._errors),
            journal_dropped=self._total - len(self._entries),
        )
