"""Faults: the requests that a rule matches, and its effect. ``fault_rules`` decides when a rule applies."""

from __future__ import annotations

import fnmatch
import math
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import ClassVar, Literal

from crm_provider.sandbox.responses import ErrorReply, HttpResponse, ResponseWriter, error_reply
from crm_provider.sandbox.settings import BASE_PATH, not_one_of

Effect = Literal[
    "error", "latency", "drip", "large", "drop", "html", "redirect", "truncate", "garbage", "lost", "lost_error"
]  # fmt: skip

EFFECTS: Mapping[str, str] = MappingProxyType(
    {
        "error": "responds with an error from the catalogue (`error`); the request is not carried out",
        "drop": "closes the connection without a response; the request is not carried out",
        "html": "responds with a proxy's HTML page (`status`, default 502); the request is not carried out",
        "redirect": "redirects to another host (`location`, `status`, default 302); the request is not carried out",
        "latency": "carries the request out and delays the response by `latency` seconds",
        "drip": "carries the request out and sends the body of the response one byte at a time, one every `latency` "
        "seconds (default 1)",
        "large": "carries the request out and responds with 100 MB: `variant` `plain` (the default), or `gzip`, where "
        "a few bytes expand to as many",
        "lost": "carries the request out and closes the connection without a response",
        "lost_error": "carries the request out and responds with an error (`error`, default INTERNAL_SERVER_ERROR)",
        "truncate": "carries the request out and cuts the JSON of the response: in a complete HTTP response (`variant` "
        "`length`, the default), or by closing the connection early (`variant` `closed`)",
        "garbage": "carries the request out and responds with something else: `variant` `text` (the default), `list` "
        "or `empty`, or your own `body`; `status` replaces the status",
    }
)
"""What each effect does. The documentation shows this table."""

ELSEWHERE = "https://login.example/"
"""Default target of a redirect: a host that does not exist and must never receive the key."""

LARGE = 100 * 1024 * 1024
"""Bytes of a large response: JSON followed by blanks, which is valid for a client that reads all of it."""

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
class RequestFacts:
    """The properties of a request that rules check.

    :param path: decoded path below ``/v2``
    :param template: the route's path with placeholders
    :param email: the email that the request is about, if any
    """

    method: str
    path: str
    template: str
    email: str | None


@dataclass(frozen=True, kw_only=True)
class Fault:
    """A rule: which requests it applies to, what happens to them, and how long the rule lives.

    Example: the second creation of a contact at example.com is carried out, but its response is lost::

        Fault(effect="lost", method="POST", path="/contacts", email="*@example.com", nth=2)

    :param effect: what happens, see :data:`EFFECTS`
    :param name: shown in the journal and used to remove the rule; by default effect and number, for example ``lost-1``
    :param method: the HTTP method; None for all
    :param path: pattern for the decoded path below ``/v2``, or a route such as ``/contacts/{email}``
    :param email: pattern for the email that the request is about (in the path, in the body, or that of the deal's
        contact), case is ignored; None for all requests, also those without an email
    :param nth: applies only to the n-th request that matches, counted from 1
    :param after: skips this many matching requests first
    :param error: for ``error`` and ``lost_error``: a type, an alias or a case of the gateway (see ``error_reply``)
    :param retry_after: the header ``Retry-After`` of that error: seconds, or an HTTP date
    :param latency: seconds by which the response is delayed, for every effect. For ``drip``: between two bytes
    :param variant: for ``truncate``, ``garbage``, ``large``
    :param status: for ``html``, ``redirect``, ``garbage``
    :param body: for ``garbage``: the body to send
    :param location: for ``redirect``: the target
    :param count: applies at most this often
    :param seconds: the rule ends this long after it was added
    :param probability: applies to a matching request with this probability
    :param seed: seed of the random numbers for ``probability``: the same seed selects the same requests
    :raises ValueError: the rule is invalid; the message names the nearest valid choice
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

    # pydantic reads this at the admin route: a misspelt name is rejected instead of ignored
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
            error_reply(self.error)  # raises with the nearest name
        if self.effect == "latency" and not self.latency:
            raise ValueError("the effect 'latency' needs latency, in seconds")

    @property
    def reply(self) -> ErrorReply:
        """The error that ``error`` and ``lost_error`` respond with."""
        return error_reply(self.error or "INTERNAL_SERVER_ERROR")

    @property
    def in_front(self) -> bool:
        """Whether it applies before the rate limit, as errors of the gateway and of proxies do."""
        return self.effect in _IN_FRONT or (self.effect == "error" and self.reply.gateway is not None)

    def matches(self, facts: RequestFacts) -> bool:
        """Whether the rule matches this request, regardless of counters and lifetime."""
        if self.method is not None and self.method.upper() != facts.method:
            return False
        if self.path != facts.template and not fnmatch.fnmatchcase(facts.path, self.path):
            return False
        if self.email is None:
            return True
        return facts.email is not None and fnmatch.fnmatchcase(facts.email.lower(), self.email.lower())

    def _check_pattern(self) -> None:
        if "/" in self.name or not self.name.isprintable():
            raise ValueError("name is part of an admin route: one line of text without a slash")
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
            raise ValueError("after and latency must not be negative, and latency must be finite")
        if self.seconds is not None and not 0 < self.seconds < math.inf:
            raise ValueError("seconds must be above 0 and finite; leave it out for a rule that does not end")
        if not 0 <= self.probability <= 1:
            raise ValueError(f"probability must be between 0 and 1; got {self.probability}")
        if self.status is not None and self.status not in _STATUSES:
            raise ValueError(f"status must be from {_STATUSES.start} to {_STATUSES.stop - 1}; got {self.status}")


# -- what a fault does ----------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class RequestOutcome:
    """What the sandbox does with a request.

    :param response: None if the connection is closed without one
    :param delay: seconds by which the response, or closing the connection, is delayed
    :param drip: seconds between two bytes of the body; 0 sends it at once
    :param padding: number of blanks after the body
    :param cut: close the connection after this many bytes of the body; None sends all of them
    :param error: the error's type in the catalogue
    :param fault: name of the fault that was applied
    :param applied: whether the request was carried out successfully
    :param duplicate: it tried to create something that exists
    :param detail: which rule of the API was broken
    """

    response: HttpResponse | None
    delay: float = 0.0
    drip: float = 0.0
    padding: int = 0
    cut: int | None = None
    error: str | None = None
    fault: str | None = None
    applied: bool = False
    duplicate: bool = False
    detail: str = ""


def apply_fault(fault: Fault | None, writer: ResponseWriter, backend: Callable[[], RequestOutcome]) -> RequestOutcome:
    """The outcome of a request under a fault, or without one.

    :param backend: carries the request out; not called by a fault that replaces it
    """
    if fault is None:
        return backend()
    if replacement := _INSTEAD.get(fault.effect):
        outcome = replacement(fault, writer)
    else:
        outcome = _AFTERWARDS[fault.effect](fault, writer, backend())
    return replace(outcome, fault=fault.name, delay=0.0 if outcome.drip else fault.latency)


# instead of the backend


def _error(fault: Fault, writer: ResponseWriter) -> RequestOutcome:
    response = writer.fail(fault.reply, retry_after=fault.retry_after)
    return RequestOutcome(response=response, error=fault.reply.type)


def _drop(_fault: Fault, _writer: ResponseWriter) -> RequestOutcome:
    return RequestOutcome(response=None)


def _html(fault: Fault, _writer: ResponseWriter) -> RequestOutcome:
    status = fault.status or 502
    page = (
        f"<!DOCTYPE html>\n<html><head><title>{status}</title></head>"
        f"<body><h1>{status}</h1><p>This page comes from a proxy, not from the API.</p></body></html>\n"
    )
    headers = {"content-type": "text/html; charset=utf-8"}
    return RequestOutcome(response=HttpResponse(status=status, headers=headers, body=page.encode()))


def _redirect(fault: Fault, _writer: ResponseWriter) -> RequestOutcome:
    headers = {"location": fault.location or ELSEWHERE}
    return RequestOutcome(response=HttpResponse(status=fault.status or 302, headers=headers, body=b""))


# after the backend

_GARBAGE = {"text": "upstream said something", "list": '["not", "an", "object"]', "empty": ""}


def _latency(_fault: Fault, _writer: ResponseWriter, outcome: RequestOutcome) -> RequestOutcome:
    return outcome


def _drip(fault: Fault, _writer: ResponseWriter, outcome: RequestOutcome) -> RequestOutcome:
    return replace(outcome, drip=fault.latency or 1.0)


def _large(fault: Fault, _writer: ResponseWriter, outcome: RequestOutcome) -> RequestOutcome:
    if outcome.response is None or fault.variant != "gzip":
        return replace(outcome, padding=LARGE)
    headers = {**outcome.response.headers, "content-encoding": "gzip"}
    body = _gzip_bomb(outcome.response.body)
    return replace(outcome, response=replace(outcome.response, headers=headers, body=body))


def _gzip_bomb(body: bytes) -> bytes:
    packer = zlib.compressobj(level=1, wbits=zlib.MAX_WBITS | 16)
    blanks = b" " * 1024 * 1024
    pieces = [packer.compress(body), *(packer.compress(blanks) for _ in range(LARGE // len(blanks))), packer.flush()]
    return b"".join(pieces)


def _lost(_fault: Fault, _writer: ResponseWriter, outcome: RequestOutcome) -> RequestOutcome:
    return replace(outcome, response=None)


def _lost_error(fault: Fault, writer: ResponseWriter, outcome: RequestOutcome) -> RequestOutcome:
    response = writer.fail(fault.reply, retry_after=fault.retry_after)
    return replace(outcome, response=response, error=fault.reply.type)


def _truncate(fault: Fault, _writer: ResponseWriter, outcome: RequestOutcome) -> RequestOutcome:
    if outcome.response is None:
        return outcome
    body = outcome.response.body
    if fault.variant == "closed":
        return replace(outcome, cut=len(body) // 2)
    return replace(outcome, response=replace(outcome.response, body=body[: len(body) // 2]))


def _garbage(fault: Fault, _writer: ResponseWriter, outcome: RequestOutcome) -> RequestOutcome:
    if outcome.response is None:
        return outcome
    body = _GARBAGE[fault.variant or "text"] if fault.body is None else fault.body
    status = fault.status or outcome.response.status
    return replace(outcome, response=replace(outcome.response, status=status, body=body.encode()))


_INSTEAD: Mapping[str, Callable[[Fault, ResponseWriter], RequestOutcome]] = {
    "error": _error,
    "drop": _drop,
    "html": _html,
    "redirect": _redirect,
}
_AFTERWARDS: Mapping[str, Callable[[Fault, ResponseWriter, RequestOutcome], RequestOutcome]] = {
    "latency": _latency,
    "drip": _drip,
    "large": _large,
    "lost": _lost,
    "lost_error": _lost_error,
    "truncate": _truncate,
    "garbage": _garbage,
}
