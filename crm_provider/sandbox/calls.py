"""A call as it arrives, and what can be seen in it before anything is decided."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl

from crm_provider.sandbox import developer
from crm_provider.sandbox.faults import Sighting
from crm_provider.sandbox.operations import Request
from crm_provider.sandbox.problems import RefusedError
from crm_provider.sandbox.records import JsonObject
from crm_provider.sandbox.routes import Body, Route, decoded_path, find_route
from crm_provider.sandbox.tables import Tables
from crm_provider.sandbox.validation import parse_body

KEY_HEADER = "x-api-key"
UNKNOWN_ROUTE = "unknown"
"""Stands for the route in the journal where there is none: the path itself may hold anything."""


@dataclass(frozen=True, kw_only=True)
class Call:
    """One HTTP request.

    :param raw_path: the path as it came over the wire, still percent-encoded
    :param query: what follows the ``?``
    :param headers: names in lower case
    """

    method: str
    raw_path: str
    query: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""


@dataclass(frozen=True, kw_only=True)
class Visit:
    """A call and what can be seen in it.

    :param route: None if the gateway knows no such route
    :param refusal: set if the body cannot be read; only the backend minds
    """

    method: str
    route: Route | None
    request: Request
    refusal: RefusedError | None
    sighting: Sighting
    key: str | None
    developer_mode: bool


def look_at(call: Call, state: Tables) -> Visit:
    """What can be seen in a call.

    :param state: tells whose deal a call is about
    """
    route, params = find_route(call.method, call.raw_path) or (None, {})
    body, refusal = _read_body(call.body, route)
    email = _email_of(params, body, state)
    template = route.template if route else UNKNOWN_ROUTE
    query = dict(parse_qsl(call.query, keep_blank_values=True))
    return Visit(
        method=call.method,
        route=route,
        request=Request(params=params, query=query, body=body),
        refusal=refusal,
        sighting=Sighting(method=call.method, path=decoded_path(call.raw_path), template=template, email=email),
        key=call.headers.get(KEY_HEADER) or None,
        developer_mode=call.headers.get(developer.HEADER, "").lower() == "true",
    )


def field_names(body: Mapping[str, Any]) -> tuple[str, ...]:
    """The names of a body's fields, those of objects in it included: never a value."""
    names: list[str] = []
    for name, value in body.items():
        names += [f"{name}.{inner}" for inner in value] if isinstance(value, dict) and value else [name]
    return tuple(names)


def _read_body(body: bytes, route: Route | None) -> tuple[JsonObject, RefusedError | None]:
    if route is None or route.body is Body.NONE or (route.body is Body.OPTIONAL and not body.strip()):
        return {}, None
    try:
        return parse_body(body), None
    except RefusedError as refusal:
        return {}, refusal


def _email_of(params: Mapping[str, str], body: Mapping[str, Any], state: Tables) -> str | None:
    """The email that a call is about: in the path, in the body, or that of the deal's contact."""
    named = params.get("email") or body.get("email")
    if isinstance(named, str):
        return named
    deal = state.deals.get(params.get("dealId", ""))
    return state.email_of(deal.contact_id if deal else str(body.get("contactId")))
