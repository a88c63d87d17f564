"""One call of the API as data: the request, and the parts of it that messages may show."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from typing import Any
from urllib.parse import quote

from crm_provider import errors as e
from crm_provider.client import validation
from crm_provider.client.responses import WRITES
from crm_provider.values.redaction import PRIVATE_PATH, private_path, without_values

SHOWN_PARTS = frozenset({"deal_id"})
"""Parts of a path that messages show. The others stay placeholders: they are personal data or a webhook's secret."""

_TEMPLATE_PART = re.compile(r"\{\w+\}|[a-z-]{0,20}")
"""A part of a path that is a placeholder or a plain word. Ids and addresses do not match."""


_ID = re.compile(r"[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")


@lru_cache(maxsize=256)  # of the few routes; without it, a call spends more on this than on its JSON
def _may_be_shown(path: str) -> bool:
    """Whether a path has only placeholders, plain words and ids, and none of them where personal data stands."""
    parts_are_plain = all(_TEMPLATE_PART.fullmatch(part) or _ID.fullmatch(part) for part in path.split("/"))
    return parts_are_plain and not PRIVATE_PATH.search(path)


@dataclass(frozen=True, kw_only=True)
class Call:
    """One call of the API.

    :param route: the path with its parts as placeholders, ``/contacts/{email}``
    :param path_params: the values of the placeholders
    :param body: JSON body; None sends none
    :param authenticated: False sends no API key, for the one call whose URL is the secret
    :param success_errors: errors that mean success if the response to an earlier attempt of this call was lost
    :param allow_any_body: accept a successful response whose body is not JSON; its content is not needed
    :param use_decimal: parse numbers with a fraction as ``Decimal``, with the digits that were sent
    """

    method: str
    route: str
    path_params: Mapping[str, str] = field(default_factory=dict, repr=False)
    query: Mapping[str, str | int] = field(default_factory=dict, repr=False)
    body: Any = field(default=None, repr=False)
    authenticated: bool = True
    success_errors: tuple[type[e.CrmError], ...] = ()
    allow_any_body: bool = False
    use_decimal: bool = False

    @cached_property
    def path(self) -> str:
        """The path as sent: each part percent-encoded, except for unreserved characters."""
        encoded = {name: quote(validation.path_part(value, name), safe="") for name, value in self.path_params.items()}
        return re.sub(r"\{(\w+)\}", lambda m: encoded[m[1]], self.route)

    @cached_property
    def log_path(self) -> str:
        """The path as messages show it."""
        filled = re.sub(r"\{(\w+)\}", lambda m: self.path_params[m[1]] if m[1] in SHOWN_PARTS else m[0], self.route)
        return filled if _may_be_shown(filled) else without_values(private_path(filled), ())

    @property
    def template(self) -> str:
        """The route without values: a part that is neither a placeholder nor a plain word becomes ``...``."""
        if _may_be_shown(self.route) and not _ID.search(self.route):
            return self.route
        return "/".join(
            part if _TEMPLATE_PART.fullmatch(part) else "..." for part in private_path(self.route).split("/")
        )

    @property
    def sensitive_values(self) -> tuple[str, ...]:
        """The values that are sent and must not appear in a message."""
        hidden = [value for name, value in self.path_params.items() if name not in SHOWN_PARTS]
        return tuple(dict.fromkeys([*hidden, *map(quote, hidden), *map(str, self.query.values()), *_leaves(self.body)]))

    @property
    def field_names(self) -> tuple[str, ...]:
        """The fields of the body, without values: ``email``, ``attributes.name``. Unusual names are left out."""
        if not isinstance(self.body, Mapping):
            return ()
        return tuple(name for name in _names(self.body) if _FIELD_NAME.fullmatch(name))

    def ids_in_body(self, *fields: str) -> list[str]:
        """The ids in these fields of the body, each with its field: ``stageId 3f...``; other values are left out."""
        body = self.body if isinstance(self.body, Mapping) else {}
        given = {name: body[name] for name in fields if name in body}
        several = [(name, value if isinstance(value, list) else [value]) for name, value in given.items()]
        found = [(name, [str(item) for item in items if _ID.fullmatch(str(item))]) for name, items in several]
        return [f"{name} {', '.join(ids[:MOST_IDS])}{_more(len(ids) - MOST_IDS)}" for name, ids in found if ids]

    @property
    def is_write(self) -> bool:
        return self.method in WRITES


MOST_IDS = 5
"""Ids of one field that a message names."""


def _more(count: int) -> str:
    return f" and {count} more" if count > 0 else ""


_FIELD_NAME = re.compile(r"[A-Za-z_][\w.-]{0,59}")
"""Addresses, numbers and sentences do not match: a source without a header line makes field names of its first row."""


def _names(body: Mapping[str, Any]) -> Iterator[str]:
    for name, value in body.items():
        if isinstance(value, Mapping):
            yield from (f"{name}.{inner}" for inner in _names(value))
        else:
            yield str(name)


def _leaves(value: Any) -> list[str]:
    if isinstance(value, Mapping):
        return [leaf for item in value.values() for leaf in _leaves(item)]
    if isinstance(value, (list, tuple)):
        return [leaf for item in value for leaf in _leaves(item)]
    return [] if value is None or isinstance(value, bool) else [str(value)]


def mapping_of(value: Any, call: Call) -> dict[str, Any]:
    """The record in a response; empty for ``true``, a text or a number where any body is allowed.

    :raises CrmProtocolError: if it is not an object
    """
    if isinstance(value, dict):
        return value
    if call.allow_any_body and value is not False and not isinstance(value, list):
        return {}
    raise e.CrmProtocolError(
        f"the response is a {type(value).__name__}, not an object",
        method=call.method,
        path=call.log_path,
        outcome_known=not call.is_write,
    )


@contextmanager
def after_write() -> Iterator[None]:
    """For the reading after a write with a success status: if it fails, the outcome of the write is not known."""
    try:
        yield
    except e.CrmError as unread:
        unread.outcome_known = False
        raise


ERROR_KEYS = ("error", "errors", "errorCode", "errorType", "errorMessage")
"""Keys of a body that has an error."""


def unless_refused(value: Any, call: Call) -> Any:
    """The content of a success whose form is not documented.

    :raises CrmProtocolError: if it says that the call has failed: ``false``, ``success: false``, or an error
    """
    says_no = isinstance(value, dict) and (value.get("success") is False or any(map(value.get, ERROR_KEYS)))
    if value is False or says_no:
        raise e.CrmProtocolError(
            "the response has a success status but says that the call failed",
            method=call.method,
            path=call.log_path,
            outcome_known=False,
        )
    return value
