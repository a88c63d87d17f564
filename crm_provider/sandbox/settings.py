"""The set-up of a sandbox: its settings, its clock, and the hosts that it serves."""

from __future__ import annotations

import ipaddress
import math
import re
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from difflib import get_close_matches
from email.utils import format_datetime
from typing import Any, ClassVar, Literal, Protocol, TypedDict, get_args

BASE_PATH = "/v2"
"""All API routes are below this path. Elsewhere the gateway knows no route."""

ADMIN_PATH = "/__sandbox__"
"""All admin routes are below this path."""

DEFAULT_API_KEY = "sandbox-key"

Envelope = Literal["v1", "v2", "v2-text", "gateway"]
"""The format of errors. Only v1 is documented, so a client must understand all of them."""

SuccessShape = Literal["wrapped", "flat"]
"""Whether the data of a success is under ``data`` or at the top level. The vendor's pages show both."""

_MAX_SIZE = 1_000_000_000
"""Upper limit of a burst and of the journal's size. Larger values change nothing and overflow elsewhere."""

_HOST = re.compile(r"(?:\[(?P<address>[0-9A-Fa-f:.]+)\]|(?P<name>[A-Za-z0-9._-]+))(?::(?P<port>[0-9]{1,5}))?")


# -- settings -----------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class SandboxSettings:
    """Everything that can be configured about a sandbox.

    :param seed: ``empty``, ``demo``, ``contacts:N``, ``deals:N``, the path of a JSON file, or a document (see
        ``seeds``)
    :param rate: tokens per second that the token bucket gets back; None turns the rate limit off
    :param burst: capacity of the token bucket
    :param envelope: the format of errors. The gateway's own errors always use the gateway's format
    :param success: ``wrapped`` is ``{"message", "data"}``, ``flat`` has the data at the top level
    :param api_key: the only key that is accepted; None rejects every key
    :param membership_delay: seconds until a new list membership shows on the contact
    :param magic: whether the addresses at ``sandbox.test`` misbehave
    :param journal_size: how many requests the journal keeps
    :raises ValueError: a value is invalid; the message names the nearest valid choice
    """

    seed: str | Mapping[str, Any] = "demo"
    rate: float | None = 5.0
    burst: int = 2
    envelope: Envelope = "v1"
    success: SuccessShape = "wrapped"
    api_key: str | None = DEFAULT_API_KEY
    membership_delay: float = 0.0
    magic: bool = True
    journal_size: int = 10_000

    # pydantic reads this at the admin route: a misspelt name is rejected instead of ignored
    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    def __post_init__(self) -> None:
        if self.envelope not in get_args(Envelope):
            raise ValueError(not_one_of("envelope", self.envelope, get_args(Envelope)))
        if self.success not in get_args(SuccessShape):
            raise ValueError(not_one_of("success", self.success, get_args(SuccessShape)))
        if self.rate is not None and not 0 < self.rate < math.inf:
            raise ValueError(f"rate must be above 0, or None for no limit; got {self.rate}")
        if self.burst < 1 or self.journal_size < 1:
            raise ValueError(f"burst and journal_size must be at least 1; got {self.burst} and {self.journal_size}")
        if self.burst > _MAX_SIZE or self.journal_size > _MAX_SIZE:
            raise ValueError(f"burst and journal_size must be at most {_MAX_SIZE}")
        if not 0 <= self.membership_delay < math.inf:
            raise ValueError(f"membership_delay must be finite and not negative; got {self.membership_delay}")
        if self.api_key is not None and not self.api_key.strip():
            raise ValueError("api_key must not be blank; None rejects every key")


class SandboxOptions(TypedDict, total=False):
    """The fields of :class:`SandboxSettings` as keyword arguments."""

    seed: str | Mapping[str, Any]
    rate: float | None
    burst: int
    envelope: Envelope
    success: SuccessShape
    api_key: str | None
    membership_delay: float
    magic: bool
    journal_size: int


def not_one_of(what: str, value: object, valid: Iterable[str]) -> str:
    """The message for an unknown word: it suggests the nearest valid word, or lists all of them.

    >>> not_one_of("envelope", "v3", ["v1", "gateway"])
    "envelope 'v3' is not known: did you mean 'v1'?"
    """
    known = {word.lower(): word for word in valid}
    near = get_close_matches(str(value).lower(), known, n=1, cutoff=0.5)
    if near:
        return f"{what} {value!r} is not known: did you mean {known[near[0]]!r}?"
    return f"{what} {value!r} is not known: it must be one of {', '.join(map(repr, known.values()))}"


# -- clock --------------------------------------------------------------------------------------------------


class Clock(Protocol):
    """The time of a sandbox."""

    def monotonic(self) -> float:
        """Seconds that never go back, for the rate limit, delays and lifetimes."""

    def now(self) -> datetime:
        """The wall time with a time zone, for ``createdAt`` and the header ``Date``."""


class SystemClock:
    """The time of this machine."""

    def monotonic(self) -> float:
        return time.monotonic()

    def now(self) -> datetime:
        return datetime.now(timezone.utc)


class ManualClock:
    """A clock that stands still until :meth:`advance` is called, so that no test has to sleep.

    Example::

        clock = ManualClock()
        with Sandbox(membership_delay=60, clock=clock) as sandbox:
            ...                  # add a contact to a list: the membership does not show yet
            clock.advance(60)    # now it shows
    """

    def __init__(self, start: datetime = datetime(2025, 1, 1, tzinfo=timezone.utc)) -> None:
        self._start = start
        self._elapsed = 0.0

    def monotonic(self) -> float:
        return self._elapsed

    def now(self) -> datetime:
        return self._start + timedelta(seconds=self._elapsed)

    def advance(self, seconds: float) -> None:
        """Move the time forward.

        :param seconds: how far
        :raises ValueError: ``seconds`` is negative
        """
        if seconds < 0:
            raise ValueError(f"a clock does not go back: {seconds}")
        self._elapsed += seconds


def timestamp(moment: datetime) -> str:
    """A moment in the API's format, for example ``2025-12-22T18:11:43.719Z``."""
    return moment.astimezone(timezone.utc).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def http_date(moment: datetime) -> str:
    """A moment in the format of the header ``Date``, for example ``Mon, 22 Dec 2025 18:11:43 GMT``."""
    return format_datetime(moment.astimezone(timezone.utc), usegmt=True)


# -- hosts --------------------------------------------------------------------------------------------------


def is_loopback(name: str) -> bool:
    """Whether a host name or an address (IPv6 without brackets) always means this machine."""
    try:
        return name == "localhost" or ipaddress.ip_address(name).is_loopback
    except ValueError:  # any other name: DNS decides what it means
        return False


def split_host(host: str) -> tuple[str, int | None]:
    """Name and port of a ``Host`` header. The name is in lower case, IPv6 addresses lose their brackets.

    >>> split_host("[::1]:8000")
    ('::1', 8000)

    :return: the port is None if the header has none
    :raises ValueError: this is not a host
    """
    found = _HOST.fullmatch(host)
    if found is None:
        raise ValueError(f"{host!r} is not a host name with an optional port, for example crm-sandbox:8000")
    return (found["address"] or found["name"]).lower(), int(found["port"]) if found["port"] else None
