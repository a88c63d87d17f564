"""One poll for all who wait on a connection.

A :class:`Poller` asks the questions of all its waiters in rounds. In a round each list page, contact or deal is fetched
once, whoever needs it. Rounds of one interval fall together: they start on a common grid of time, not when each waiter
came. A round is spread out, so that waiting takes at most a share of the key's rate budget.
"""

from __future__ import annotations

import asyncio
import contextvars
import functools
import itertools
import logging
import math
import random
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from typing import Any

from crm_provider import errors as e
from crm_provider.calls.base import Record
from crm_provider.client import CrmClient
from crm_provider.policy import Action, Decision, ErrorPolicy
from crm_provider.questions import Question
from crm_provider.waiting import Waiting

log = logging.getLogger(__name__)

HOPELESS = 3
"""Failed calls in a row after which a round asks no further: the CRM is out of order, not one record."""


class Round:
    """A lookup that fetches each record once, an error included.

    After a refusal of the key, a throttled call, or several failed ones in a row it fetches no more: the waiters that
    are left get the same error. The next round starts afresh.

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

    def contact(self, email: str) -> Record:
        return self._once(("contact", email), lambda: self._client.get_contact(email))

    def deal(self, deal_id: str) -> Record:
        return self._once(("deal", deal_id), lambda: self._client.get_deal(deal_id))

    def lists(self) -> Iterator[Record]:
        """All lists; pages are fetched as far as anyone reads."""
        for n in itertools.count():
            if n == len(self._lists) and not self._next_list():
                return
            yield self._lists[n]

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
            if self._failures >= HOPELESS or isinstance(error, e.CrmThrottledError):
                self._hopeless = error
            raise
        except e.CrmError as error:  # an answer: the CRM works
            self._failures = 0
            if isinstance(error, e.CrmAccessError):
                self._hopeless = error
            raise
        self._failures = 0
        return fetched


@dataclass(eq=False, kw_only=True)
class Waiter:
    """One who waits, and how it ends.

    :param interval: seconds between two looks
    :param policy: what is "not yet"
    :param ended: resolved with the answer, or with the error that ends the wait
    """

    question: Question
    interval: float
    policy: ErrorPolicy
    waiting: Waiting
    ended: asyncio.Future[Ending]
    due: float = 0.0


@dataclass(frozen=True)
class Ending:
    """How a wait ended: with an answer, or with an error and what was decided about it."""

    answer: dict[str, Any] | None = None
    error: e.CrmError | None = None
    decision: Decision | None = None


class Poller:
    """Asks for all its waiters, round after round, until the last one leaves.

    :param connect: gives the client for a round (a new one if the connection has changed)
    :param clock: seconds since the epoch: the grid of rounds is the same in every process
    """

    def __init__(
        self,
        connect: Callable[[], Awaitable[CrmClient]],
        *,
        clock: Callable[[], float] = time.time,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._connect, self._clock, self._sleep = connect, clock, sleep
        self._waiters: dict[int, Waiter] = {}
        self._task: asyncio.Task[None] | None = None

    async def wait(self, question: Question, *, interval: float, policy: ErrorPolicy, waiting: Waiting) -> Ending:
        """Wait for the answer to a question, together with all others."""
        waiter = Waiter(
            question=question,
            interval=max(interval, 1.0),
            policy=policy,
            waiting=waiting,
            ended=asyncio.get_running_loop().create_future(),
        )
        waiter.due = self._next_due(waiter, self._clock())
        self._waiters[id(waiter)] = waiter
        if self._task is None or self._task.done():
            # in a context of its own: a triggerer would write all it logs into the task log of whoever came first
            self._task = contextvars.Context().run(asyncio.create_task, self._run())
        try:
            return await waiter.ended
        finally:
            del self._waiters[id(waiter)]
            if not self._waiters and self._task is not None:
                self._task.cancel()
                self._task = None

    @staticmethod
    def _next_due(waiter: Waiter, looked: float) -> float:
        """The next point of the waiter's grid, the same for all of one interval; later if the server asked for it.

        :param looked: when the last look began. (Not when it ended: a round that is longer than the interval would end
            beyond different points for different waiters, and they would be asked for in different rounds from then on)
        """
        after = max(looked, waiter.waiting.not_before)
        return (math.floor(after / waiter.interval) + 1) * waiter.interval

    async def _run(self) -> None:
        try:
            await self._rounds()
        except Exception as broken:  # a bug: nobody may wait for ever on a loop that has ended
            for waiter in self._waiters.values():
                if not waiter.ended.done():
                    waiter.ended.set_exception(broken)
            raise

    async def _rounds(self) -> None:
        while True:
            wait = min(waiter.due for waiter in self._waiters.values()) - self._clock()
            # a newcomer may be due earlier: never sleep past its grid
            await self._sleep(min(max(wait, 0.0), 1.0))
            due = [waiter for waiter in self._waiters.values() if waiter.due <= self._clock()]
            if due:
                await self._round(due)

    async def _round(self, due: list[Waiter]) -> None:
        loop, started = asyncio.get_running_loop(), self._clock()
        try:
            client = await self._connect()
        except e.CrmError as error:
            for waiter in due:
                self._met(waiter, error, started)
            return
        random.shuffle(due)  # records that always fail must not be before the same others each time: see HOPELESS
        await asyncio.to_thread(self._ask_all, due, Round(client), started, loop)
        log.info(
            "Asked for %d waiter(s) in %.1f s; %d still wait.", len(due), self._clock() - started, len(self._waiters)
        )

    def _ask_all(self, due: list[Waiter], lookup: Round, started: float, loop: asyncio.AbstractEventLoop) -> None:
        """Runs in a thread: ask for each waiter, and hand each result to the event loop as soon as it is there."""
        for waiter in due:
            if waiter.ended.done():
                continue
            try:
                answer = waiter.question.answer(lookup)
            except e.CrmError as error:
                loop.call_soon_threadsafe(self._met, waiter, error, started)
            except Exception as bug:  # noqa: BLE001 - it is raised where this one waiter waits; the others wait on
                loop.call_soon_threadsafe(self._broke, waiter, bug, started)
            else:
                loop.call_soon_threadsafe(self._answered, waiter, answer, started)

    def _answered(self, waiter: Waiter, answer: dict[str, Any] | None, started: float) -> None:
        waiter.waiting.answered()
        waiter.due = self._next_due(waiter, started)
        if answer is not None:
            self._end(waiter, Ending(answer=answer))

    def _met(self, waiter: Waiter, error: e.CrmError, started: float) -> None:
        decision = waiter.waiting.met(error, waiter.policy, self._clock())
        waiter.due = self._next_due(waiter, started)
        if decision.action is not Action.WAIT:
            self._end(waiter, Ending(error=error, decision=decision))

    def _broke(self, waiter: Waiter, bug: Exception, started: float) -> None:
        waiter.due = self._next_due(waiter, started)
        if not waiter.ended.done():
            waiter.ended.set_exception(bug)

    @staticmethod
    def _end(waiter: Waiter, ending: Ending) -> None:
        if not waiter.ended.done():
            waiter.ended.set_result(ending)
