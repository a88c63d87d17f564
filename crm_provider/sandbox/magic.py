"""Magic emails: addresses at ``sandbox.test`` that misbehave by themselves, for demos and quick tests."""

from __future__ import annotations

from dataclasses import dataclass, replace

from crm_provider.sandbox.clock import Clock
from crm_provider.sandbox.faultbook import FaultBook
from crm_provider.sandbox.faults import Fault, Sighting

DOMAIN = "sandbox.test"


@dataclass(frozen=True, kw_only=True)
class MagicEmail:
    """One magic address.

    :param name: what stands before the ``@``; ``name+anything`` works as well, with counters of its own
    :param does: what happens, for people
    :param faults: the rules that make it happen
    :param blocked: the contact is unsubscribed and blacklisted as soon as it is created
    """

    name: str
    does: str
    faults: tuple[Fault, ...] = ()
    blocked: bool = False

    @property
    def email(self) -> str:
        return f"{self.name}@{DOMAIN}"


MAGIC_EMAILS = (
    MagicEmail(
        name="throttled",
        does="the first 2 calls are answered with 429, then all is well",
        faults=(Fault(effect="error", error="throttled", count=2),),
    ),
    MagicEmail(
        name="quota",
        does="every call is answered with 429 Limit Exceeded and Retry-After: 3600",
        faults=(Fault(effect="error", error="quota used up", retry_after=3600),),
    ),
    MagicEmail(
        name="invalid",
        does="POST and PUT are answered with INVALID_INPUT",
        faults=tuple(Fault(effect="error", error="INVALID_INPUT", method=method) for method in ("POST", "PUT")),
    ),
    MagicEmail(
        name="lost",
        does="the first POST is carried out, but its answer is lost: the connection closes",
        faults=(Fault(effect="lost", method="POST", count=1),),
    ),
    MagicEmail(
        name="outage",
        does="the first 7 calls are answered with 503, then all is well",
        faults=(Fault(effect="error", error="unavailable", count=7),),
    ),
    MagicEmail(
        name="error",
        does="every call is answered with 500 INTERNAL_SERVER_ERROR",
        faults=(Fault(effect="error", error="INTERNAL_SERVER_ERROR"),),
    ),
    MagicEmail(
        name="slow",
        does="every answer takes 2 seconds",
        faults=(Fault(effect="latency", latency=2.0),),
    ),
    MagicEmail(
        name="forbidden",
        does="every call is answered with 403 FORBIDDEN",
        faults=(Fault(effect="error", error="FORBIDDEN"),),
    ),
    MagicEmail(
        name="html",
        does="every call is answered with a proxy's HTML page and status 200",
        faults=(Fault(effect="html", status=200),),
    ),
    MagicEmail(
        name="blocked",
        does="the contact has unsubscribedAt and blacklistedAt as soon as it is created",
        blocked=True,
    ),
)
"""The one table of magic addresses: sandbox, command line, documentation and tests read it."""


def magic_email(email: str | None) -> MagicEmail | None:
    """The row of the table that an address belongs to; case and a ``+tag`` do not matter."""
    local, _, domain = (email or "").lower().rpartition("@")
    if domain != DOMAIN:
        return None
    name = local.partition("+")[0]
    return next((row for row in MAGIC_EMAILS if row.name == name), None)


class MagicBook:
    """The rules of the magic addresses at work: each address, with its tag, has counters of its own."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._books: dict[str, FaultBook] = {}

    def pick(self, sighting: Sighting, *, in_front: bool) -> Fault | None:
        """The rule that strikes this call here, if any; see :meth:`FaultBook.pick`."""
        row = magic_email(sighting.email)
        if row is None or sighting.email is None:
            return None
        if sighting.email not in self._books:
            rules = (replace(f, name=f"magic:{row.name}:{number}") for number, f in enumerate(row.faults, start=1))
            self._books[sighting.email] = FaultBook(self._clock, rules)
        return self._books[sighting.email].pick(sighting, in_front=in_front)
