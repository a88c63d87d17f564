"""What all calls share: sending, and taking a record or a listing out of the answer."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Literal

from crm_provider import errors as e
from crm_provider.paging import ListedPage, Page, walk, walk_pages
from crm_provider.readahead import ReadAhead
from crm_provider.transport import Call, Transport

Record = dict[str, Any]
"""A record with the API's own field names."""

Listing = Literal["contacts", "deals", "lists"]

LISTINGS: Mapping[Listing, str] = {"contacts": "/contacts", "deals": "/deals", "lists": "/segments"}
"""What the API lists, and where."""


class Calls:
    """Base of the calls.

    :param transport: what sends them
    """

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def _record(self, call: Call) -> Record:
        return mapping_of(self._transport.send(call), call)

    def list_pages(
        self, listing: Listing, *, earlier: Iterable[Page] = (), exact: bool = False, at_once: int = 1
    ) -> Iterator[ListedPage]:
        """All pages of a listing, with their numbers and totals.

        :param earlier: pages from the first on that are known: they are handed back and not read again
        :param exact: numbers with a fraction as ``Decimal``, with the digits that the CRM sent
        :param at_once: pages on their way at most; they come in order
        """
        route = LISTINGS[listing]
        with ReadAhead(lambda number: self._page(route, number, exact=exact), at_once=at_once) as read:
            yield from walk_pages(read, route, earlier)

    def _walk(self, route: str) -> Iterator[Record]:
        return walk(lambda number: self._page(route, number), route)

    def _page(self, route: str, number: int, *, exact: bool = False) -> Page:
        call = Call(method="GET", route=route, query={"page": number}, exact=exact)
        return Page.of(self._transport.send(call), route)


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
