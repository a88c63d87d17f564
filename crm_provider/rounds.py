"""One round of looks: each record is fetched once, whoever asks for it."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Any

from crm_provider import errors as e
from crm_provider.client.client import CrmClient
from crm_provider.client.pagination import Record

HOPELESS = 3
"""Failed calls in a row after which a round asks no further: the CRM is out of order, not one record."""


class Round:
    """A lookup that fetches each record once, an error included.

    After a refusal of the key, a throttled call, or several failed ones in a row it fetches no more: the waiters that
    are left get the same error. What was read until then stays known, pages of lists included: whoever has his answer
    in it gets it. The next round starts afresh.

    :param client: what fetches
    """

    def __init__(self, client: CrmClient) -> None:
        self._client = client
        self._kept: dict[tuple[str, str], Record | e.CrmError] = {}
        self._pages: Iterator[Record] | None = None
        self._lists: list[Record] = []
        self._lists_complete = False
        self._lists_error: e.CrmError | None = None
        self._failures = 0
        self._hopeless: e.CrmError | None = None
        self._answers = 0
        self._failure: e.CrmError | None = None

    @property
    def failure(self) -> e.CrmError | None:
        """Why the round was in vain: the error that came last, if no call at all was answered."""
        return None if self._answers else self._failure

    def contact(self, email: str) -> Record:
        return self._once(("contact", email), lambda: self._client.get_contact(email))

    def deal(self, deal_id: str) -> Record:
        return self._once(("deal", deal_id), lambda: self._client.get_deal(deal_id))

    def lists(self) -> Iterator[Record]:
        """All lists; pages are fetched as far as anyone reads."""
        n = 0
        while n < len(self._lists) or self._next_list():
            yield self._lists[n]
            n += 1

    def _next_list(self) -> bool:
        if self._lists_complete:
            return False
        if self._lists_error is not None:
            raise self._lists_error.with_traceback(None)
        if self._pages is None:
            self._pages = self._client.list_segmentation_lists()
        try:
            found = self._guarded(functools.partial(next, self._pages, None))
        except e.CrmError as error:
            self._lists_error = error
            raise
        if found is not None:
            self._lists.append(found)
        self._lists_complete = found is None
        return found is not None

    def _once(self, key: tuple[str, str], fetch: Callable[[], Record]) -> Record:
        if key not in self._kept:
            try:
                self._kept[key] = self._guarded(fetch)
            except e.CrmError as error:
                self._kept[key] = error
        kept = self._kept[key]
        if isinstance(kept, e.CrmError):
            raise kept.with_traceback(None)  # else each raise adds to it: for 10,000 waiters it holds 20,000 frames
        return kept

    def _guarded(self, fetch: Callable[[], Any]) -> Any:
        if self._hopeless is not None:
            raise self._hopeless.with_traceback(None)
        try:
            fetched = fetch()
        except (e.CrmTransientError, e.CrmThrottledError) as error:
            self._failures += 1
            self._failure = error
            if self._failures >= HOPELESS or isinstance(error, e.CrmThrottledError):
                self._hopeless = error
            raise
        except e.CrmError as error:  # an answer: the CRM works
            self._answered()
            if isinstance(error, e.CrmAccessError):
                self._hopeless = error
            raise
        self._answered()
        return fetched

    def _answered(self) -> None:
        self._failures = 0
        self._answers += 1
