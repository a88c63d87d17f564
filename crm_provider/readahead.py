"""A few pages of a listing at once, handed out one after the other: an answer takes longer than a slot of the rate."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import TYPE_CHECKING

from crm_provider.paging import PAGE_SIZE, Page

if TYPE_CHECKING:
    from typing_extensions import Self

AT_ONCE = 4
"""Pages on their way that fill 5 calls per second while an answer takes up to 0.8 s."""


class ReadAhead:
    """Reads pages before they are asked for, as far as the total says that there are any.

    Asked for pages one after the other, it has the next ones on their way; an error comes with its own page.

    :param read: reads one page by its number, in any thread
    :param at_once: pages on their way at most, the one that is asked for included
    """

    def __init__(self, read: Callable[[int], Page], *, at_once: int = AT_ONCE) -> None:
        self._read, self._at_once = read, at_once
        self._on_their_way: dict[int, Future[Page]] = {}
        self._threads = ThreadPoolExecutor(at_once, thread_name_prefix="crm-pages")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._threads.shutdown(cancel_futures=True)

    def __call__(self, number: int) -> Page:
        page = self._start(number).result()
        del self._on_their_way[number]
        pages = -(-(page.total or 0) // PAGE_SIZE)  # rounded up; a total may be larger than any float
        for ahead in range(number + 1, min(number + 1 + self._at_once, pages)):
            self._start(ahead)
        return page

    def _start(self, number: int) -> Future[Page]:
        if number not in self._on_their_way:
            self._on_their_way[number] = self._threads.submit(self._read, number)
        return self._on_their_way[number]
