"""The API's routes, and the parsing of a request before any decision about it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any
from urllib.parse import parse_qsl, unquote

from crm_provider.sandbox import operations as op
from crm_provider.sandbox.faults import RequestFacts
from crm_provider.sandbox.responses import RefusedError
from crm_provider.sandbox.settings import BASE_PATH
from crm_provider.sandbox.store import CrmStore, JsonObject

KEY_HEADER = "x-api-key"
DEVELOPER_HEADER = "x-developer-mode"
UNKNOWN_ROUTE = "unknown"
"""The journal's word for a path without a route: the path itself may hold anything."""


# -- routes -------------------------------------------------------------------------------------------------


class BodyRule(Enum):
    """Whether a route reads a body."""

    NONE = "none"
    OPTIONAL = "optional"
    REQUIRED = "required"


@dataclass(frozen=True, kw_only=True)
class Route:
    """One route of the API.

    :param blank: the text of the INVALID_PARAMS error for a blank placeholder in the path
    :param keyless: no key is required, because the path itself is the secret
    """

    method: str
    template: str
    operation: Callable[[CrmStore, op.ApiRequest], op.ApiSuccess]
    body: BodyRule = BodyRule.NONE
    blank: str = "CONTACT_EMAIL_IS_NECESSARY"
    keyless: bool = False

    @property
    def name(self) -> str:
        """Method and template, for example ``GET /contacts/{email}``."""
        return f"{self.method} {self.template}"

    def match(self, segments: list[str]) -> dict[str, str] | None:
        """The values of the placeholders if these segments of a path belong to this route, else None."""
        own = self.template.split("/")[1:]
        if len(own) != len(segments):
            return None
        pairs = list(zip(own, segments, strict=True))
        if any(mine != theirs for mine, theirs in pairs if not _is_placeholder(mine)):
            return None
        return {mine[1:-1]: unquote(theirs) for mine, theirs in pairs if _is_placeholder(mine)}


_DEAL = "DEAL_ID_IS_NECESSARY"
_WEBHOOK = "/webhook/{webhookId}/c/{channelUid}/w/{workflowId}"

ROUTES = (
    Route(method="POST", template="/contacts", operation=op.create_contact, body=BodyRule.REQUIRED),
    Route(method="GET", template="/contacts", operation=op.list_contacts),
    Route(method="GET", template="/contacts/{email}", operation=op.get_contact),
    Route(method="PUT", template="/contacts/{email}", operation=op.update_contact, body=BodyRule.REQUIRED),
    Route(method="DELETE", template="/contacts/{email}", operation=op.delete_contact),
    Route(method="POST", template="/deals", operation=op.create_deal, body=BodyRule.REQUIRED),
    Route(method="GET", template="/deals", operation=op.list_deals),
    Route(method="GET", template="/deals/{dealId}", operation=op.get_deal, blank=_DEAL),
    Route(method="PUT", template="/deals/{dealId}", operation=op.update_deal, body=BodyRule.REQUIRED, blank=_DEAL),
    Route(method="DELETE", template="/deals/{dealId}", operation=op.delete_deal, blank=_DEAL),
    Route(method="GET", template="/segments", operation=op.list_segments),
    Route(
        method="POST", template="/segments/add-contact/{email}", operation=op.add_to_segments, body=BodyRule.REQUIRED
    ),
    Route(
        method="POST",
        template="/email-verification/{email}",
        operation=op.verify_email,
        body=BodyRule.OPTIONAL,
        blank="EMAIL_IS_NECESSARY",
    ),
    Route(method="POST", template=_WEBHOOK, operation=op.start_automation, body=BodyRule.REQUIRED, keyless=True),
)


def find_route(method: str, raw_path: str) -> tuple[Route, Mapping[str, str]] | None:
    """The route of a request and the decoded values in its path; None if the gateway knows no such route.

    The path is split into segments first and decoded once afterwards, so an encoded slash stays part of an email.

    :param raw_path: the path as it was sent, still percent-encoded, with ``/v2``
    """
    prefix, _, rest = raw_path.partition(f"{BASE_PATH}/")
    if prefix or not rest:
        return None
    segments = rest.split("/")
    for route in ROUTES:
        if route.method == method and (params := route.match(segments)) is not None:
            return route, params
    return None


def decoded_path(raw_path: str) -> str:
    """The path below ``/v2``, decoded once, for the patterns of faults."""
    return unquote(raw_path.removeprefix(BASE_PATH))


def _is_placeholder(segment: str) -> bool:
    return segment.startswith("{")


# -- requests -----------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class RawRequest:
    """One HTTP request as it was received.

    :param raw_path: the path, still percent-encoded
    :param query: the query string
    :param headers: names in lower case
    """

    method: str
    raw_path: str
    query: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""


@dataclass(frozen=True, kw_only=True)
class ParsedRequest:
    """A request and its parsed parts.

    :param route: None if the gateway knows no such route
    :param refusal: set if the body cannot be read; only the backend reports it
    """

    method: str
    route: Route | None
    request: op.ApiRequest
    refusal: RefusedError | None
    facts: RequestFacts
    key: str | None
    developer_mode: bool


def parse_request(raw: RawRequest, store: CrmStore) -> ParsedRequest:
    """Read a request.

    :param store: knows whose deal a request is about
    """
    route, params = find_route(raw.method, raw.raw_path) or (None, {})
    body, refusal = _read_body(raw.body, route)
    email = _email_of(params, body, store)
    template = route.template if route else UNKNOWN_ROUTE
    query = dict(parse_qsl(raw.query, keep_blank_values=True))
    return ParsedRequest(
        method=raw.method,
        route=route,
        request=op.ApiRequest(params=params, query=query, body=body),
        refusal=refusal,
        facts=RequestFacts(method=raw.method, path=decoded_path(raw.raw_path), template=template, email=email),
        key=raw.headers.get(KEY_HEADER) or None,
        developer_mode=raw.headers.get(DEVELOPER_HEADER, "").lower() == "true",
    )


def field_names(body: Mapping[str, Any]) -> tuple[str, ...]:
    """The names of a body's fields, including those of nested objects, without any value."""
    names: list[str] = []
    for name, value in body.items():
        names += [f"{name}.{inner}" for inner in value] if isinstance(value, dict) and value else [name]
    return tuple(names)


def _read_body(body: bytes, route: Route | None) -> tuple[JsonObject, RefusedError | None]:
    if route is None or route.body is BodyRule.NONE or (route.body is BodyRule.OPTIONAL and not body.strip()):
        return {}, None
    try:
        return op.parse_body(body), None
    except RefusedError as refusal:
        return {}, refusal


def _email_of(params: Mapping[str, str], body: Mapping[str, Any], store: CrmStore) -> str | None:
    """The email that a request is about: in the path, in the body, or that of the deal's contact."""
    named = params.get("email") or body.get("email")
    if isinstance(named, str):
        return named
    deal = store.deals.get(params.get("dealId", ""))
    return store.email_of(deal.contact_id if deal else str(body.get("contactId")))
