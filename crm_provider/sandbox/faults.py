"""Faults: rules that make chosen calls go wrong. This file says what a rule is; ``faultbook`` says when it strikes."""

from __future__ import annotations

import fnmatch
import math
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import ClassVar, Literal

from crm_provider.sandbox.choices import not_one_of
from crm_provider.sandbox.problems import Problem, problem_named
from crm_provider.sandbox.routes import BASE_PATH

Effect = Literal[
    "error", "latency", "drip", "large", "drop", "html", "redirect", "truncate", "garbage", "lost", "lost_error"
]  # fmt: skip

EFFECTS: Mapping[str, str] = MappingProxyType(
    {
        "error": "answers with an error of the catalogue (`error`); nothing is carried out",
        "drop": "closes the connection without an answer; nothing is carried out",
        "html": "a proxy's HTML page (`status`, default 502); nothing is carried out",
        "redirect": "a redirect to another host (`location`, `status`, default 302); nothing is carried out",
        "latency": "carries the call out and holds the answer back for `latency` seconds",
        "drip": "carries the call out and sends the answer's body one byte at a time, one in every `latency` seconds "
        "(default 1)",
        "large": "carries the call out and answers with 100 MB: `variant` `plain` (the default), or `gzip`, where few "
        "bytes unpack to as many",
        "lost": "carries the call out and closes the connection without an answer",
        "lost_error": "carries the call out and answers with an error (`error`, default INTERNAL_SERVER_ERROR)",
        "truncate": "carries the call out and cuts the answer's JSON off: complete for HTTP (`variant` `length`, "
        "the default), or with the connection closed too early (`variant` `closed`)",
        "garbage": "carries the call out and answers something else: `variant` `text` (the default), `list` or "
        "`empty`, or your own `body`; `status` replaces the status",
    }
)
"""What each effect does; the documentation shows this table."""

_OPTIONS: Mapping[str, frozenset[str]] = {
    "error": frozenset({"error", "retry_after"}),
    "drop": frozenset(),
    "html": frozenset({"status"}),
    "redirect": frozenset({"status", "location"}),
    "latency": frozenset(),
    "drip": frozenset(),
    "large": frozenset({"variant"}),
    "lost": frozenset(),
    "lost_error": frozenset({"error", "retry_after"}),
    "truncate": frozenset({"variant"}),
    "garbage": frozenset({"variant", "status", "body"}),
}
_VARIANTS: Mapping[str, tuple[str, ...]] = {
    "truncate": ("length", "closed"),
    "garbage": ("text", "list", "empty"),
    "large": ("plain", "gzip"),
}
_STATUSES = range(200, 600)
_METHODS = ("GET", "POST", "PUT", "DELETE")
_LAST_OF_LATIN_1 = "\xff"
_IN_FRONT = frozenset({"drop", "html", "redirect"})


@dataclass(frozen=True, kw_only=True)
class Fault:
    """A rule: which calls it strikes, what happens to them, and how long it lives.

    Example: the second creation of a contact at example.com is carried out, but its answer gets lost::

        Fault(effect="lost", method="POST", path="/contacts", email="*@example.com", nth=2)

    :param effect: one of :data:`EFFECTS`
    :param name: shown in the journal; made up if empty
    :param method: HTTP method; None for all
    :param path: pattern (``fnmatch``) for the decoded path below ``/v2``, or a route such as ``/contacts/{email}``
    :param email: pattern for the email that the call is about (in the path, in the body, or that of the deal's
        contact), without regard to case; None for all, also calls without any
    :param nth: strikes only the n-th call that matches, counted from 1
    :param after: strikes no call before this many have matched
    :param error: for ``error``, ``lost_error``: a type, an alias or a case of the gateway (see ``problem_named``)
    :param retry_after: header ``Retry-After`` of that error: seconds, or an HTTP date as text
    :param latency: seconds for which the answer is held back; goes with every effect. For ``drip``, between two bytes
    :param variant: for ``truncate``, ``garbage``, ``large``
    :param status: for ``html``, ``redirect``, ``garbage``
    :param body: for ``garbage``: exactly this text
    :param location: for ``redirect``: where to
    :param count: strikes at most this often
    :param seconds: lives this long after it was added
    :param probability: strikes a matching call with this probability
    :param seed: of the random numbers for ``probability``: the same seed strikes the same calls
    """

    effect: Effect
    name: str = ""
    method: str | None = None
    path: str = "*"
    email: str | None = None
    nth: int | None = None
    after: int = 0
    error: str | None = None
    retry_after: int | str | None = None
    latency: float = 0.0
    variant: str | None = None
    status: int | None = None
    body: str | None = None
    location: str | None = None
    count: int | None = None
    seconds: float | None = None
    probability: float = 1.0
    seed: int = 0

    # read by pydantic at the admin API: a misspelt name is refused instead of ignored
    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    def __post_init__(self) -> None:
        if self.effect not in EFFECTS:
            raise ValueError(not_one_of("effect", self.effect, EFFECTS))
        self._check_pattern()
        self._check_options()
        self._check_numbers()
        if self.effect == "error" and self.error is None:
            raise ValueError("the effect 'error' needs an error, for example error='TOO_MANY_REQUESTS'")
        if self.error is not None:
            problem_named(self.error)  # raises with the nearest name
        if self.effect == "latency" and not self.latency:
            raise ValueError("the effect 'latency' needs latency, in seconds")

    @property
    def problem(self) -> Problem:
        """The error that ``error`` and ``lost_error`` answer with."""
        return problem_named(self.error or "INTERNAL_SERVER_ERROR")

    @property
    def in_front(self) -> bool:
        """Whether it strikes before the rate limit, as the gateway and what is in front of it do."""
        return self.effect in _IN_FRONT or (self.effect == "error" and self.problem.gateway is not None)

    def matches(self, sighting: Sighting) -> bool:
        """Whether the rule is about this call, counters and life left aside."""
        if self.method is not None and self.method.upper() != sighting.method:
            return False
        if self.path != sighting.template and not fnmatch.fnmatchcase(sighting.path, self.path):
            return False
        if self.email is None:
            return True
        return sighting.email is not None and fnmatch.fnmatchcase(sighting.email.lower(), self.email.lower())

    def _check_pattern(self) -> None:
        if self.method is not None and self.method.upper() not in _METHODS:
            raise ValueError(not_one_of("method", self.method, _METHODS))
        if not self.path.startswith(("/", "*")) or self.path.startswith(f"{BASE_PATH}/"):
            raise ValueError(
                f"path is a pattern for what follows {BASE_PATH}, for example '/contacts*'; got {self.path!r}"
            )

    def _check_options(self) -> None:
        for option in ("error", "retry_after", "variant", "status", "body", "location"):
            if getattr(self, option) is not None and option not in _OPTIONS[self.effect]:
                raise ValueError(f"the effect {self.effect!r} has no option {option!r}")
        if self.variant is not None and self.variant not in _VARIANTS[self.effect]:
            raise ValueError(not_one_of("variant", self.variant, _VARIANTS[self.effect]))
        for header in ("retry_after", "location"):
            text = f"{getattr(self, header)}"
            if not text.isprintable() or max(text, default="") > _LAST_OF_LATIN_1:
                raise ValueError(f"{header} is sent in a header, which holds one line of Latin-1")

    def _check_numbers(self) -> None:
        for name, value in (("nth", self.nth), ("count", self.count)):
            if value is not None and value < 1:
                raise ValueError(f"{name} counts from 1; got {value}")
        if self.after < 0 or not 0 <= self.latency < math.inf:
            raise ValueError("after and latency must not be negative, and latency must end")
        if self.seconds is not None and not 0 < self.seconds < math.inf:
            raise ValueError("seconds must be above 0; leave it out for a rule that does not end")
        if not 0 <= self.probability <= 1:
            raise ValueError(f"probability must be between 0 and 1; got {self.probability}")
        if self.status is not None and self.status not in _STATUSES:
            raise ValueError(f"status must be from {_STATUSES.start} to {_STATUSES.stop - 1}; got {self.status}")


@dataclass(frozen=True, kw_only=True)
class Sighting:
    """What rules look at in a call.

    :param path: decoded path below ``/v2``
    :param template: the route's path with placeholders
    :param email: the email that the call is about, if any
    """

    method: str
    path: str
    template: str
    email: str | None
