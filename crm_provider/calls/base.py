"""What all calls share: sending, and taking a record or a listing out of the answer."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from crm_provider import errors as e
from crm_provider.paging import Page, walk
from crm_provider.transport import Call, Transport

Record = dict[str, Any]
"""A record with the API's own field names."""


class Calls:
    """Base of the calls.

    :param transport: what sends them
    """

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def _record(self, call: Call) -> Record:
        return mapping_of(self._transport.send(call), call)

    def _walk(self, route: str) -> Iterator[Record]:
        def fetch(number: int) -> Page:
            return Page.of(self._transport.send(Call(method="GET", route=route, query={"page": number})), route)

        return walk(fetch, route)


def mapping_of(value: Any, call: Call) -> Record:
    """The record in an answer.

    :raises CrmProtocolError: if it is no object
    """
    if isinstance(value, dict):
        return value
    raise e.CrmProtocolError(
        f"the answer is a {type(value).__name__}, not an object",
        method=call.method,
        path=call.shown,
        outcome_known=not call.is_write,
    )


def id_of(value: Any, path: str, method: str = "GET") -> str:
    """The id in an answer.

    :raises CrmProtocolError: if there is none
    """
    if isinstance(value, str) and value:
        return value
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    raise e.CrmProtocolError("the answer has no id", path=path, method=method, outcome_known=method == "GET")
