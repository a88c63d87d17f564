"""Converts an HTTP response to a value or a typed error. Pure functions: no I/O, no state.

The first known property classifies an error: its type (or an alias) in the body, the gateway's error header, its text
within the same status, its status. If none is known, it is a :class:`CrmProtocolError`, which is never retried.
"""

from __future__ import annotations

import codecs
import json
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timezone
from decimal import Decimal
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import urlsplit

from crm_provider import errors as e
from crm_provider.errors.catalog import ALIASES, CATALOGUE, GATEWAY_RESPONSES, ErrorSpec
from crm_provider.values.redaction import SHORTENED, cut, without_values

TYPE_KEYS = ("errorCode", "code", "type", "errorType", "error", "message", "name")
"""Keys of a body that may hold the error type, most specific first (v1 used ``errorCode``; v2 is not documented)."""

PROSE_KEYS = ("error", "message", "name")
"""Keys that also hold texts and names. There only the exact type counts: ``Forbidden`` is a word, too."""

TEXT_KEYS = ("message", "Message", "error", "errorMessage")
"""Keys of a body that may hold a text."""

READ_FOR_MESSAGES = 64 * 1024
"""Bytes of a body, and characters of a text in it, that are read for a message. Far fewer are shown."""

LONGEST_REQUEST_ID = 1000
"""Characters of a request id at most. The start of a longer one could be a sent value that was cut off."""

MAX_RETRY_AFTER = 7 * 24 * 3600.0
"""Seconds; a longer ``Retry-After`` counts as invalid and is ignored."""

WRITES = frozenset({"POST", "PUT", "PATCH", "DELETE"})


@dataclass(frozen=True, kw_only=True)
class CrmResponse:
    """One HTTP response, read to its end.

    :param path: the route for messages, with emails as placeholders
    :param sensitive_values: the values that the call sent, including the key; removed from every text that is shown
    :param allow_any_body: accept a successful response that is not JSON; its content is not needed
    :param use_decimal: parse numbers with a fraction as ``Decimal``, with the digits that were sent
    :param unread: why the body could not be read; empty if it was read
    """

    method: str
    path: str
    status: int
    headers: Mapping[str, str] = field(repr=False)
    body: bytes = field(repr=False)
    sensitive_values: tuple[str, ...] = field(default=(), repr=False)
    allow_any_body: bool = False
    use_decimal: bool = False
    unread: str = ""

    def header(self, name: str) -> str | None:
        """The value of a header.

        :param name: in lower case
        """
        return next((value for own, value in self.headers.items() if own.lower() == name), None)


def value_of(response: CrmResponse) -> Any:
    """The content of a response, its envelope unwrapped once; an empty body is ``{}``.

    :raises CrmError: the typed error, if the response is not a success
    """
    if not 200 <= response.status < 300:
        raise error_of(response)
    parsed = content_of(response.body, use_decimal=response.use_decimal)
    if parsed is UNREADABLE and response.allow_any_body and response.body.lstrip()[:1] not in _STRUCTURED:
        return {}
    if parsed is UNREADABLE:
        raise _error(
            response, parsed, e.CrmProtocolError, None, f"the response is not JSON {_odd_body(response, parsed)}"
        )
    if named := _error_names_in_success(parsed):
        spec = next(filter(None, map(_spec_named, named)), None)
        text = _text_of(parsed) or (spec.messages[0] if spec else "the response names an unknown error")
        raise _error(response, parsed, spec.error if spec else e.CrmProtocolError, spec, text)
    if isinstance(parsed, dict) and isinstance(parsed.get("data"), dict):
        return parsed["data"]
    return {} if parsed is None else parsed


def error_of(response: CrmResponse) -> e.CrmError:
    """The typed error of a response that is not a success."""
    parsed = parsed_body(response.body)
    spec = _spec_by_type(parsed) or _spec_by_header(response) or _spec_by_text(parsed, response.status)
    text = _text_of(parsed)
    if spec is not None:
        return _error(response, parsed, spec.error, spec, text or spec.messages[0])
    text = text or f"status {response.status} {_odd_body(response, parsed)}"
    if response.status in _BY_STATUS:
        spec = CATALOGUE[_BY_STATUS[response.status]]
        error = _error(response, parsed, spec.error, spec, text)
        if response.status in _BLAMES_SENDER and _is_html(response):
            error.own_advice = NOT_FROM_CRM
        return error
    return _error(response, parsed, family_of(response.status), None, text)


NOT_FROM_CRM = (
    "a proxy or firewall seems to have refused the call (the CRM's errors are JSON): check the base URL, or ask the "
    "operators of the proxy to let the worker through"
)
"""The advice for an HTML page in place of an error of the CRM."""

_BLAMES_SENDER = frozenset({400, 401, 403, 422})
"""Statuses whose advice is about the key or the values."""


def family_of(status: int) -> type[e.CrmError]:
    """The error class for a response with only a status."""
    return e.CrmTransientError if status // 100 == 5 else _FAMILIES.get(status, e.CrmProtocolError)


def by_status_alone(error: e.CrmError) -> bool:
    """Whether only the status classified the error: type and text were unknown, and no class belongs to the status."""
    return error.type == _unknown_type(error.status)


def _unknown_type(status: int | None) -> str:
    return f"HTTP_{status}"


_BY_STATUS = {
    400: "INVALID_REQUEST",
    401: "UNAUTHORIZED",
    403: "FORBIDDEN",
    422: "INVALID_REQUEST",
    429: "TOO_MANY_REQUESTS",
    500: "INTERNAL_SERVER_ERROR",
    502: "BAD_GATEWAY",
    503: "SERVICE_UNAVAILABLE",
    504: "GATEWAY_TIMEOUT",
}
"""Error types that follow from the status alone."""

_FAMILIES: Mapping[int, type[e.CrmError]] = {
    404: e.CrmNotFoundError,
    409: e.CrmConflictError,
    413: e.CrmRequestError,
    415: e.CrmRequestError,
}


def _error(
    response: CrmResponse, parsed: Any, error: type[e.CrmError], spec: ErrorSpec | None, text: str
) -> e.CrmError:
    unsure = response.method in WRITES and issubclass(error, (e.CrmTransientError, e.CrmProtocolError))
    return error(
        text.strip() if _documented(text, response.status) else cut(_redacted(text, response.sensitive_values)),
        type=spec.error.type if spec else _unknown_type(response.status),
        status=response.status,
        request_id=request_id_of(response, parsed),
        retry_after=retry_after_of(response.header("retry-after"), response.header("date")),
        method=response.method,
        path=response.path,
        outcome_known=not unsure,
    )


# -- the JSON of a body -------------------------------------------------------------------------------------

MAX_NESTING = 100
"""Levels of objects and lists in a success; records have three. Deeper nesting could exceed
Python's recursion limit later."""

UNREADABLE = object()
"""A marker for a body that is not JSON."""


def parsed_body(body: bytes) -> Any:
    """The body as JSON; None if it is empty, :data:`UNREADABLE` if it is not JSON."""
    if not body.strip():
        return None
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        return UNREADABLE


def content_of(body: bytes, *, use_decimal: bool) -> Any:
    """As :func:`parsed_body`, but safe to process: every number is finite, every text can be encoded."""
    if not body.strip():
        return None
    try:
        found = json.loads(body, parse_float=Decimal if use_decimal else _finite, parse_constant=_finite)
    except (ValueError, ArithmeticError, RecursionError):
        return UNREADABLE
    if body.count(b"{") + body.count(b"[") > MAX_NESTING and is_too_deep(found):
        return UNREADABLE
    return _whole_characters(found) if _HALF_CHARACTER.search(body) else found


def is_too_deep(value: Any) -> bool:
    """Whether there are more than :data:`MAX_NESTING` levels of objects and lists in a JSON value."""
    level, depth = [value], 0
    while level and depth <= MAX_NESTING:
        inner = (item.values() if isinstance(item, dict) else item for item in level if isinstance(item, (dict, list)))
        level, depth = [item for items in inner for item in items], depth + 1
    return bool(level)


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError("not a JSON number, or too large")
    return number


_HALF_CHARACTER = re.compile(rb"\\u[dD][89a-fA-F]|\xed[\xa0-\xbf]|\0")
"""Possible forms of half a surrogate pair in JSON. Whole pairs and UTF-16 match, too."""


def _whole_characters(value: Any) -> Any:
    """The value with surrogate halves joined, or replaced if the other half is missing: no encoding accepts them."""
    if isinstance(value, str):
        return value.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    if isinstance(value, list):
        return [_whole_characters(item) for item in value]
    if isinstance(value, dict):
        return {_whole_characters(name): _whole_characters(item) for name, item in value.items()}
    return value


# -- content of the body ------------------------------------------------------------------------------------

_STRUCTURED = (b"{", b"[", b'"', b"<")
"""Starts of JSON and HTML. A body that starts like this and is not JSON is incomplete, or comes from a proxy."""


def _objects(parsed: Any) -> Iterator[dict[str, Any]]:
    """The body, and the objects one level down in ``error``, ``data`` or a list of ``errors``."""
    if isinstance(parsed, str):
        yield {"message": parsed}
    if isinstance(parsed, dict):
        yield parsed
        yield from (parsed[key] for key in ("error", "data") if isinstance(parsed.get(key), dict))
        several = parsed.get("errors")
        for item in several if isinstance(several, list) else [several]:
            if isinstance(item, str):
                yield {"message": item}
            elif isinstance(item, dict) and item is not several:
                yield item


def _spec_by_type(parsed: Any) -> ErrorSpec | None:
    for body in _objects(parsed):
        for key in TYPE_KEYS:
            if spec := _spec_named(body.get(key), prose=key in PROSE_KEYS):
                return spec
    return None


def _spec_named(value: Any, *, prose: bool = False) -> ErrorSpec | None:
    """The record of a type in any spelling: ``CONTACT_NOT_FOUND``, ``contact-not-found``, ``ContactNotFound``."""
    if not isinstance(value, str) or not re.fullmatch(r"[A-Za-z][A-Za-z0-9_-]{2,80}", value.strip()):
        return None
    if prose and value != value.upper():
        return None
    name = _WORD_BEGINS.sub("_", value.strip()).replace("-", "_").upper()
    if name.endswith("_IS_NECESSARY"):
        return CATALOGUE["INVALID_PARAMS"]
    return _RECEIVED.get(ALIASES.get(name, name))


_WORD_BEGINS = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")
"""Where a word begins within a name without separators: ``ContactAssociatedWithADeal``."""

_RECEIVED = {name: spec for name, spec in CATALOGUE.items() if spec.status is not None}
"""The types that a response can have. The client raises the others itself."""

_BY_HEADER = {a.error_type: CATALOGUE[a.type] for a in GATEWAY_RESPONSES if a.error_type and a.status < 500}
"""Without 5xx: the gateway uses one header for several of them, and their status distinguishes them."""


def _spec_by_header(response: CrmResponse) -> ErrorSpec | None:
    value = response.header("x-amzn-errortype") or ""
    return _BY_HEADER.get(value.partition(":")[0].strip())


_TEXTS = {
    (spec.status, text.rstrip(".!").lower()): spec
    for spec in CATALOGUE.values()
    for text in spec.messages
    # the text for a refused key has changed before, so it does not identify the error
    if spec.status is not None and spec.type != "FORBIDDEN"
}


def _spec_by_text(parsed: Any, status: int) -> ErrorSpec | None:
    for body in _objects(parsed):
        for key in TEXT_KEYS:
            text = body.get(key)
            if isinstance(text, str) and (spec := _documented(text, status)):
                return spec
    return None


def _documented(text: str, status: int) -> ErrorSpec | None:
    return _TEXTS.get((status, text.strip().rstrip(".!").lower()))


def _error_names_in_success(parsed: Any) -> list[str]:
    """The error types in a 2xx response: texts under keys that only errors have, beside no data."""
    if not isinstance(parsed, dict) or parsed.get("data"):
        return []
    values = (parsed.get(key) for key in ("errorCode", "errorType"))
    return [value for value in values if isinstance(value, str) and value.strip().casefold() not in _NO_ERROR]


_NO_ERROR = frozenset({"", "ok", "success", "none", "no_error", "0", "200", "201"})
"""Codes that mean success. No success of the API is documented to have a code."""


def _text_of(parsed: Any) -> str | None:
    for body in _objects(parsed):
        for key in TEXT_KEYS:
            text = body.get(key)
            if isinstance(text, list):
                texts = [part.get("message") if isinstance(part, dict) else part for part in text]
                text = "; ".join(part for part in texts if isinstance(part, str))
            if isinstance(text, str) and text.strip():
                return text
    return None


def _odd_body(response: CrmResponse, parsed: Any) -> str:
    if 300 <= response.status < 400:
        target = response.header("location") or ""
        return f"(a redirect to {_host_of(target) or 'this host'}: not followed, the key stays here)"
    if parsed is None:
        return f"({response.unread or 'the response is empty'})"
    if isinstance(parsed, dict):
        return "(the response has no text)"
    if _is_html(response):
        return "(the response is HTML, not JSON: is a proxy in the way?)"
    return f"(the response is {shortened(response)})"


def _is_html(response: CrmResponse) -> bool:
    return response.body.removeprefix(codecs.BOM_UTF8).lstrip()[:1] == b"<"


def _host_of(url: str) -> str | None:
    try:
        return urlsplit(url).hostname
    except ValueError:
        return "a broken URL"


_REQUEST_ID = re.compile(r"[\w=.:+/-]{1,100}")


def _as_request_id(value: Any, sent: tuple[str, ...]) -> str | None:
    if not isinstance(value, str) or len(value) > LONGEST_REQUEST_ID or without_values(value, sent) != value:
        return None
    return value[:100] if _REQUEST_ID.fullmatch(value[:100]) else None


def request_id_of(response: CrmResponse, parsed: Any) -> str | None:
    """The id that the vendor's support asks for, from the body or from the gateway's headers."""
    for body in _objects(parsed):
        if found := _as_request_id(body.get("requestId"), response.sensitive_values):
            return found
    values = (response.header(name) for name in ("x-amzn-requestid", "x-amz-apigw-id"))
    return next(filter(None, (_as_request_id(value, response.sensitive_values) for value in values)), None)


def retry_after_of(value: str | None, date: str | None = None) -> float | None:
    """Seconds to wait, from a ``Retry-After`` header in seconds or as an HTTP date; None if it is invalid.

    :param date: the ``Date`` header of the response: an HTTP date is compared with the server's clock if it is known
    """
    if value is None:
        return None
    if re.fullmatch(r"\d{1,9}(\.\d{1,6})?", value.strip()):
        seconds = float(value.strip())  # float strips fewer characters than strip does
    else:
        until = _http_date(value)
        if until is None:
            return None
        seconds = (until - (_http_date(date) or datetime.now(timezone.utc))).total_seconds()
    return max(seconds, 0.0) if seconds <= MAX_RETRY_AFTER else None


def _http_date(value: str | None) -> datetime | None:
    try:
        parsed = parsedate_to_datetime(value or "")
    except (ValueError, TypeError, IndexError, OverflowError):
        return None
    return parsed if parsed.tzinfo else parsed.replace(tzinfo=timezone.utc)


# -- what may be shown --------------------------------------------------------------------------------------


def shortened(response: CrmResponse) -> str:
    """The start of a body for a message. For JSON only the shape is shown, because its values may be personal data."""
    start = response.body[:READ_FOR_MESSAGES].decode("utf-8", "replace")
    is_whole = len(response.body) <= READ_FOR_MESSAGES
    text = _redacted(start, response.sensitive_values, is_whole=is_whole)[: 4 * SHORTENED]
    return cut(re.sub(r"\d{4,}", "...", _JSON_STRING.sub(lambda m: m[0] if m["key"] else '"..."', text)))


def _redacted(text: str, sent: tuple[str, ...], *, is_whole: bool = True) -> str:
    """As :func:`without_values`. A long text is cut, and so is its end if a value may begin there."""
    shown = without_values(text[:READ_FOR_MESSAGES], sent)
    if is_whole and len(text) <= READ_FOR_MESSAGES:
        return shown
    return shown[: max(len(shown) - LONGEST_SPELLING * max(map(len, sent), default=0), 0)]


LONGEST_SPELLING = 12
"""Characters that one character of a value takes at most: percent-encoded, its four bytes are twelve characters."""

_JSON_STRING = re.compile(r'"(?:[^"\\]|\\(?:.|$))*(?:"|$)(?P<key>\s*:)?', re.DOTALL)
