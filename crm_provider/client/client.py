"""The client of the Pingback Connect API v2: one method for each call.

Facts about the API are documented by the vendor unless marked *inferred*. Every method raises a
:class:`~crm_provider.errors.CrmError`; values are checked before anything is sent.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, unquote

from crm_provider import errors as e
from crm_provider.client import validation
from crm_provider.client.contacts import ListCalls
from crm_provider.client.deals import DealCalls
from crm_provider.client.pagination import Record
from crm_provider.client.remote_contact import CLOCKS_APART
from crm_provider.client.request import Call, unless_refused
from crm_provider.client.retry import ONE_TRY, Calls

if TYPE_CHECKING:
    from datetime import datetime


METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE")


class OtherCalls(Calls):
    """Calls other than those about contacts, deals and lists."""

    def verify_email(self, email: str) -> Record:
        """Have the CRM verify an address; takes up to 29 seconds. The form of the response is not documented."""
        call = Call(
            method="POST",
            route="/email-verification/{email}",
            path_params={"email": validation.email(email)},
            allow_any_body=True,
        )
        return _as_record(self._send(call))

    def trigger_automation(
        self,
        webhook_id: str,
        channel_uid: str,
        workflow_id: str,
        *,
        email: str,
        fields: Mapping[str, Any] | None = None,
    ) -> Record:
        """Start one automation for a contact. Sent without the API key: the ids are the secret.

        :param fields: values of custom fields by their names
        """
        body: Record = {"email": validation.email(email)}
        if fields is not None:
            checked = validation.attributes(fields, "fields", reserved=frozenset())
            body["customFields"] = [{"fieldName": name, "fieldValue": value} for name, value in checked.items()]
        call = Call(
            method="POST",
            route="/webhook/{webhookId}/c/{channelUid}/w/{workflowId}",
            path_params={"webhookId": webhook_id, "channelUid": channel_uid, "workflowId": workflow_id},
            body=body,
            authenticated=False,
            allow_any_body=True,
        )
        return _as_record(unless_refused(self._send(call), call))

    def request(
        self,
        method: str,
        path: str,
        *,
        path_params: Mapping[str, str] | None = None,
        params: Mapping[str, str | int] | None = None,
        json: Any = None,
    ) -> Any:
        """Any other call, with the same rate limit, retries and errors.

        >>> client.request("GET", "/contacts/{email}/notes", path_params={"email": "ada@example.com"})

        :param path: path below the base URL; ``{name}`` is filled from ``path_params``, percent-encoded
        :param params: the query
        :param json: the body
        :return: the content of the response, its envelope unwrapped
        """
        _check_types(method, path, path_params=path_params, params=params)
        if method.upper() not in METHODS:
            raise e.CrmInvalidValueError(f"method is not an HTTP method of the API; use one of {', '.join(METHODS)}")
        if json is not None:
            json = validation.json_value(json, "json")
        route = _literal_route(path, path_params or {})
        call = Call(method=method.upper(), route=route, path_params=path_params or {}, query=params or {}, body=json)
        return self._send(call)

    def ping(self) -> None:
        """One harmless read without a retry. It raises the same errors as any other call."""
        self._send(Call(method="GET", route="/segments", query={"page": 0}), budget=ONE_TRY)


def _as_record(value: Any) -> Record:
    """A response whose form is not documented: an object as it is, anything else under ``result``."""
    return value if isinstance(value, dict) else {"result": value}


def _check_types(method: object, path: object, **mappings: object) -> None:
    """Refuse values of other types. The message names the argument and shows no value."""
    for name, value in (("method", method), ("path", path)):
        if not isinstance(value, str):
            raise e.CrmInvalidValueError(f"{name} must be text but is of type {type(value).__name__}")
    for name, value in mappings.items():
        if value is not None and not isinstance(value, Mapping):
            raise e.CrmInvalidValueError(
                f"{name} must be a mapping of name to value but is of type {type(value).__name__}"
            )


def _decoded(path: str) -> str:
    """The path as the last of several servers reads it if each decodes it once."""
    while (once := unquote(path)) != path:
        path = once
    return path


def _literal_route(path: str, path_params: Mapping[str, str]) -> str:
    if not path.startswith("/") or path.startswith("//") or "?" in path or "#" in path:
        raise e.CrmInvalidValueError("path must start with one '/' and have no '?' or '#'; put the query into params")
    decoded = _decoded(path)
    if {".", ".."} & set(re.split(r"[/\\]", decoded)):
        raise e.CrmInvalidValueError("path must not have '.' or '..' as a part; name the resource directly")
    if not decoded.isprintable():
        raise e.CrmInvalidValueError("path has a control character; remove it")
    named = re.findall(r"\{(\w+)\}", path)
    if re.search(r"[{}]", re.sub(r"\{\w+\}", "", path)):
        raise e.CrmInvalidValueError("path has a brace that encloses no name; write placeholders like {email}")
    if set(named) != set(path_params):
        odd = min(set(named) ^ set(path_params))
        raise e.CrmInvalidValueError(f"path and path_params differ in {odd!r}; each placeholder needs its value")
    return quote(path, safe="/%{}~")


class CrmClient(ListCalls, DealCalls, OtherCalls):
    """Calls of one account: its contacts, deals and segmentation lists. Threads may share a client.

    >>> client = CrmClient(Settings(api_key=key))
    >>> client.upsert_contact("ada@example.com", attributes={"name": "Ada"})["outcome"]
    'created'

    :param settings: base URL, API key and extras of the account
    :param transport: makes one attempt of a call; by default one for these settings
    :param budget: limits for the attempts of one call
    :param user_agent: further products for the User-Agent header of the default transport
    """

    def start_of_writes(self) -> datetime | None:
        """A moment by the CRM's clock. Records that this client creates from now on are younger, all others are older.

        If no response has shown the clock yet, one harmless call is made. Then the method waits for some seconds,
        until the clock is certain enough.

        :return: None if the CRM's responses do not show its clock
        """
        moment = self._transport.server_time()
        if moment is None:
            self.ping()
            moment = self._transport.server_time()
        if moment is None:
            return None
        self._transport.sleep((moment.latest - moment.earliest + 2 * CLOCKS_APART).total_seconds())
        return moment.latest + CLOCKS_APART
