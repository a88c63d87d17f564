"""From an HTTP answer to a value or a typed error. Pure functions: no I/O, no state.

An error is classified by the first that is known: its type (or an alias) in the body, the gateway's error header, its
text within the same status, its status. What none of them knows is a :class:`CrmProtocolError`, which is never retried.
"""

from __future__ import annotations

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
from crm_provider.errors.catalog import ALIASES, CATALOGUE, GATEWAY_ANSWERS, ErrorSpec
from crm_provider.values.redaction import SHORTENED, cut, without_values

TYPE_KEYS = ("errorCode", "code", "type", "errorType", "error", "message", "name")
"""Where a body may carry the error type, most telling first (v1 used ``errorCode``; v2 is not documented)."""

PROSE_KEYS = ("error", "message", "name")
"""Keys that hold texts and names too: there only the exact type counts (``Forbidden`` is a word)."""

TEXT_KEYS = ("message", "Message", "error", "errorMessage")
"""Where a body may carry a text."""

READ_FOR_MESSAGES = 64 * 1024
"""Bytes of a body, and characters of a text in it, that are looked at for a message; far more than is shown."""

LONGEST_REQUEST_ID = 1000
"""Characters of what may be a request id; of a longer one that is a value cut off, the start would not be known."""

MAX_RETRY_AFTER = 7 * 24 * 3600.0
"""Seconds; a longer ``Retry-After`` is taken for nonsense and ignored."""

WRITES = frozenset({"POST", "PUT", "PATCH", "DELETE"})


@dataclass(frozen=True, kw_only=True)
class CrmResponse:
    """One HTTP answer, read to its end.

    :param path: the route for messages, emails left as placeholders
    :param sensitive_values: values that the call sent, the key among them; they are cut out of every text that is shown
    :param allow_any_body: the form of a successful answer is not documented and not needed: a plain text will do
    :param use_decimal: numbers with a fraction become ``Decimal``, with the digits that were sent
    :param unread: why there is no body, if there was one that could not be read
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
        """The value of a header, by its name in lower case."""
        return next((value for own, value in self.headers.items() if own.lower() == name), None)


def value_of(answer: CrmResponse) -> Any:
    """The answer's content, its envelope unwrapped once; an empty body is ``{}``.

    :raises CrmError: the class that the answer stands for, if it is not a success
    """
    if not 200 <= answer.status < 300:
        raise error_of(answer)
    parsed = content_of(answer.body, use_decimal=answer.use_decimal)
    if parsed is UNREADABLE and answer.allow_any_body and answer.body.lstrip()[:1] not in _STRUCTURED:
        return {}
    if parsed is UNREADABLE:
        raise _error(answer, parsed, e.CrmProtocolError, None, f"the answer is not JSON {_odd_body(answer, parsed)}")
    if spec := _spec_in_success(parsed):
        raise _error(answer, parsed, spec.error, spec, _text_of(parsed) or spec.messages[0])
    if isinstance(parsed, dict) and isinstance(parsed.get("data"), dict):
        return parsed["data"]
    return {} if parsed is None else parsed


def error_of(answer: CrmResponse) -> e.CrmError:
    """The typed error that an answer without success stands for."""
    parsed = parsed_body(answer.body)
    spec = _spec_by_type(parsed) or _spec_by_header(answer) or _spec_by_text(parsed, answer.status)
    text = _text_of(parsed)
    if spec is not None:
        return _error(answer, parsed, spec.error, spec, text or spec.messages[0])
    text = text or f"status {answer.status} {_odd_body(answer, parsed)}"
    if answer.status in _BY_STATUS:
        spec = CATALOGUE[_BY_STATUS[answer.status]]
        return _error(answer, parsed, spec.error, spec, text)
    return _error(answer, parsed, family_of(answer.status), None, text)


def family_of(status: int) -> type[e.CrmError]:
    """The class of an answer of which only the status is known."""
    return e.CrmTransientError if status // 100 == 5 else _FAMILIES.get(status, e.CrmProtocolError)


def by_status_alone(error: e.CrmError) -> bool:
    """Whether neither type nor text of the answer was known, and no class of its own belongs to its status."""
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
"""Types that a status alone tells."""

_FAMILIES: Mapping[int, type[e.CrmError]] = {
    404: e.CrmNotFoundError,
    409: e.CrmConflictError,
    413: e.CrmRequestError,
    415: e.CrmRequestError,
}


def _error(answer: CrmResponse, parsed: Any, error: type[e.CrmError], spec: ErrorSpec | None, text: str) -> e.CrmError:
    unsure = answer.method in WRITES and issubclass(error, (e.CrmTransientError, e.CrmProtocolError))
    return error(
        cut(text if _documented(text, answer.status) else _without_sent(text, answer.sensitive_values)),
        type=spec.error.type if spec else _unknown_type(answer.status),
        status=answer.status,
        request_id=request_id_of(answer, parsed),
        retry_after=retry_after_of(answer.header("retry-after"), answer.header("date")),
        method=answer.method,
        path=answer.path,
        outcome_known=not unsure,
    )


# -- the JSON of a body -------------------------------------------------------------------------------------

MAX_NESTING = 100
"""Levels of objects and lists in a success; records have three. What is deeper breaks whoever walks through it."""

UNREADABLE = object()
"""Stands for a body that is no JSON."""


def parsed_body(body: bytes) -> Any:
    """The body as JSON, as far as Python can read it; None if it is empty, :data:`UNREADABLE` if it is no JSON."""
    if not body.strip():
        return None
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        return UNREADABLE


def content_of(body: bytes, *, use_decimal: bool) -> Any:
    """As :func:`parsed_body`, for who goes on with it: every number is one, every text can be written somewhere."""
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
        raise ValueError("no number of JSON, or too large for one")
    return number


_HALF_CHARACTER = re.compile(rb"\\u[dD][89a-fA-F]|\xed[\xa0-\xbf]|\0")
"""How half a surrogate pair may look in JSON; whole ones and UTF-16 too."""


def _whole_characters(value: Any) -> Any:
    """Halves of characters put together or, where the other half is cut off, replaced: nothing can be made of them."""
    if isinstance(value, str):
        return value.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    if isinstance(value, list):
        return [_whole_characters(item) for item in value]
    if isinstance(value, dict):
        return {_whole_characters(name): _whole_characters(item) for name, item in value.items()}
    return value


# -- what the body says -------------------------------------------------------------------------------------

_STRUCTURED = (b"{", b"[", b'"', b"<")
"""How JSON and HTML begin: what begins so and is no JSON is cut off, or from somebody else."""


def _objects(parsed: Any) -> Iterator[dict[str, Any]]:
    """The body, and what lies one level down in ``error``, ``data`` or a list of ``errors``."""
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
    """The record of a type in whatever spelling: ``CONTACT_NOT_FOUND``, ``contact-not-found``, ``ContactNotFound``."""
    if not isinstance(value, str) or not re.fullmatch(r"[A-Za-z][A-Za-z0-9_-]{2,80}", value.strip()):
        return None
    if prose and value != value.upper():
        return None
    name = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", value.strip()).replace("-", "_").upper()
    if name.endswith("_IS_NECESSARY"):
        return CATALOGUE["INVALID_PARAMS"]
    return _ANSWERED.get(ALIASES.get(name, name))


_ANSWERED = {name: spec for name, spec in CATALOGUE.items() if spec.status is not None}
"""The types that an answer can have; the others are found on this side."""

_BY_HEADER = {a.error_type: CATALOGUE[a.type] for a in GATEWAY_ANSWERS if a.error_type and a.status < 500}
"""5xx are told apart by their status: the gateway uses one header for several."""


def _spec_by_header(answer: CrmResponse) -> ErrorSpec | None:
    value = answer.header("x-amzn-errortype") or ""
    return _BY_HEADER.get(value.partition(":")[0].strip())


_TEXTS = {
    (spec.status, text.rstrip(".!").lower()): spec
    for spec in CATALOGUE.values()
    for text in spec.messages
    # the wording of a refused key has changed before: never told by its text
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


def _spec_in_success(parsed: Any) -> ErrorSpec | None:
    """An error that hides in a 2xx: a known type under a key that only errors have, and no data beside it."""
    if not isinstance(parsed, dict) or parsed.get("data"):
        return None
    return _spec_named(parsed.get("errorCode")) or _spec_named(parsed.get("errorType"))


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


def _odd_body(answer: CrmResponse, parsed: Any) -> str:
    if 300 <= answer.status < 400:
        target = answer.header("location") or ""
        return f"(a redirect to {_host_of(target) or 'this host'}: not followed, the key stays here)"
    if parsed is None:
        return f"({answer.unread or 'the answer is empty'})"
    if isinstance(parsed, dict):
        return "(the answer has no text)"
    if answer.body.lstrip()[:1] == b"<":
        return "(the answer is HTML, not JSON: is a proxy in the way?)"
    return f"(the answer is {shortened(answer)})"


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


def request_id_of(answer: CrmResponse, parsed: Any) -> str | None:
    """The id that the vendor's support asks for: from the body, else from the gateway's headers."""
    for body in _objects(parsed):
        if found := _as_request_id(body.get("requestId"), answer.sensitive_values):
            return found
    values = (answer.header(name) for name in ("x-amzn-requestid", "x-amz-apigw-id"))
    return next(filter(None, (_as_request_id(value, answer.sensitive_values) for value in values)), None)


def retry_after_of(value: str | None, date: str | None = None) -> float | None:
    """Seconds to wait, from a ``Retry-After`` header in seconds or as an HTTP date; None if it makes no sense.

    :param date: the answer's own ``Date`` header: an HTTP date is measured by the server's clock where it is known
    """
    if value is None:
        return None
    if re.fullmatch(r"\d{1,9}(\.\d{1,6})?", value.strip()):
        seconds = float(value.strip())  # float takes off less than strip does
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


def shortened(answer: CrmResponse) -> str:
    """The start of a body, fit for a message; of JSON only its shape, for its values may be a contact's."""
    start = answer.body[:READ_FOR_MESSAGES].decode("utf-8", "replace")
    is_whole = len(answer.body) <= READ_FOR_MESSAGES
    text = _without_sent(start, answer.sensitive_values, is_whole=is_whole)[: 4 * SHORTENED]
    return cut(re.sub(r"\d{4,}", "...", _JSON_STRING.sub(lambda m: m[0] if m["key"] else '"..."', text)))


def _without_sent(text: str, sent: tuple[str, ...], *, is_whole: bool = True) -> str:
    """As :func:`without_values`; of a long text only the start, without what may be the first part of a value."""
    shown = without_values(text[:READ_FOR_MESSAGES], sent)
    if is_whole and len(text) <= READ_FOR_MESSAGES:
        return shown
    return shown[: max(len(shown) - LONGEST_SPELLING * max(map(len, sent), default=0), 0)]


LONGEST_SPELLING = 12
"""Times: a character of four bytes in a URL."""

_JSON_STRING = re.compile(r'"(?:[^"\\]|\\(?:.|$))*(?:"|$)(?P<key>\s*:)?', re.DOTALL)
