"""One poll for all who wait on a connection.

One round of looks: each record is fetched once, whoever asks for it.

One poll for all who wait on a connection.

A :class:`Poller` asks the questions of all its waiters in rounds. In a round each list page, contact or deal is fetched
once, whoever needs it. Rounds of one interval fall together: they start on a common grid of time, not when each waiter
came. A round is spread out, so that waiting takes at most a share of the key's rate budget. While the CRM is out of
order the rounds become rarer.
"""

from __future__ import annotations

import asyncio
import contextvars
import functools
import logging
import math
import random
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from typing import Any

from crm_provider import errors as e
from crm_provider.client.client import CrmClient
from crm_provider.client.pagination import Record
from crm_provider.errors.on_error import Action
from crm_provider.errors.policy import Decision, ErrorPolicy
from crm_provider.waiting.backoff import Waiting, next_look
from crm_provider.waiting.conditions import Condition

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


log = logging.getLogger(__name__)

OFFSET = random.uniform(0.0, 60.0)  # noqa: S311 - not a secret
"""Seconds by which the rounds of this process are off the clock's own grid: two triggerers that wait on one connection
do not begin their rounds at the same instant."""

LAST_LOOK = 30.0
"""Seconds that a last look may come after the deadline at most. Those that are near each other share one."""


@dataclass(eq=False, kw_only=True)
class Waiter:
    """One who waits, and how it ends.

    :param interval: seconds between two looks
    :param policy: what is "not yet"
    :param deadline: when waiting ends
    :param ended: resolved with the answer, or with what ends the wait without one
    :param due: when the next look begins
    """

    question: Condition
    interval: float
    policy: ErrorPolicy
    waiting: Waiting
    deadline: float
    ended: asyncio.Future[Ending]
    due: float = 0.0


@dataclass(frozen=True)
class Ending:
    """How a wait ended: with an answer, with an error and what was decided, or with neither at the deadline."""

    answer: dict[str, Any] | None = None
    error: e.CrmError | None = None
    decision: Decision | None = None


class Poller:
    """Asks for all its waiters, round after round, until the last one leaves.

    :param connect: gives the client for a round (a new one if the connection has changed)
    :param clock: one that nobody sets: set back, it would stop the rounds. All times here are those of this clock
    :param jitter: 0 to 1, for the back-off; drawn once for all in a round, so that they stay together
    :param offset: seconds by which the grid of rounds is off the clock's; by default that of the process
    """

    def __init__(
        self,
        connect: Callable[[], Awaitable[CrmClient]],
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        jitter: Callable[[], float] = random.random,
        offset: float | None = None,
    ) -> None:
        self._connect, self._clock, self._sleep, self._jitter = connect, clock, sleep, jitter
        self._offset = OFFSET if offset is None else offset
        self._waiters: dict[int, Waiter] = {}
        self._task: asyncio.Task[None] | None = None
        self._in_vain = 0
        """Rounds in a row without any answer."""
        self._not_before = 0.0

    async def wait(
        self,
        question: Condition,
        *,
        interval: float,
        policy: ErrorPolicy,
        waiting: Waiting,
        deadline: float = math.inf,
    ) -> Ending:
        """Wait for the answer to a question, together with all others.

        :param deadline: when waiting ends. The last look begins after it, and at most :data:`LAST_LOOK` (or the
            interval, if that is shorter) later
        """
        waiter = Waiter(
            question=question,
            interval=max(interval, 1.0),
            policy=policy,
            waiting=waiting,
            deadline=deadline,
            ended=asyncio.get_running_loop().create_future(),
        )
        if self._task is None or self._task.done():
            self._in_vain, self._not_before = 0, 0.0  # of another time
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

    def _next_due(self, waiter: Waiter, looked: float) -> float:
        """The next point of the waiter's grid, the same for all of one interval; later if the server asked for it.

        :param looked: when the last look began. (Not when it ended: a round that is longer than the interval would end
            beyond different points for different waiters, and they would be asked for in different rounds from then on)
        """
        due = self._grid(max(looked, waiter.waiting.not_before, self._not_before), waiter.interval)
        if waiter.deadline == math.inf:
            return due
        return min(due, self._grid(max(looked, waiter.deadline), min(waiter.interval, LAST_LOOK)))

    def _grid(self, after: float, step: float) -> float:
        """The first point of the grid that is later."""
        point = (math.floor((after - self._offset) / step) + 1) * step + self._offset
        return point if point > after else point + step  # floats round

    async def _run(self) -> None:
        try:
            await self._rounds()
        except Exception as broken:  # a bug: nobody may wait for ever on a loop that has ended
            for waiter in self._waiters.values():
                self._fail(waiter, broken)
            raise

    async def _rounds(self) -> None:
        while True:
            wait = min(waiter.due for waiter in self._waiters.values()) - self._clock()
            # a newcomer may be due earlier: never sleep past its grid
            await self._sleep(min(max(wait, 0.0), 1.0))
            now = self._clock()
            due = [waiter for waiter in self._waiters.values() if waiter.due <= now]
            for waiter in due:
                if self._held_back(waiter, now):
                    self._end(waiter, Ending())
            due = [waiter for waiter in due if not waiter.ended.done()]
            if due:
                await self._round(due)

    def _held_back(self, waiter: Waiter, now: float) -> bool:
        """Whether its time is over before it may look again."""
        return now >= waiter.deadline and now < max(waiter.waiting.not_before, self._not_before)

    async def _round(self, due: list[Waiter]) -> None:
        loop, look = asyncio.get_running_loop(), _Look(self._clock(), self._jitter())
        try:
            lookup = Round(await self._connect())
        except e.CrmError as error:
            for waiter in due:
                self._met(waiter, error, look)
            return
        random.shuffle(due)  # records that always fail must not be before the same others each time: see HOPELESS
        interval = min(waiter.interval for waiter in due)
        await asyncio.to_thread(self._ask_all, due, lookup, look, loop)
        self._learn(lookup.failure, interval, look)
        seconds = self._clock() - look.started
        log.info("Asked for %d waiter(s) in %.1f s; %d still wait.", len(due), seconds, len(self._waiters))

    def _ask_all(self, due: list[Waiter], lookup: Round, look: _Look, loop: asyncio.AbstractEventLoop) -> None:
        """Runs in a thread: ask for each waiter, and hand each result to the event loop as soon as it is there."""
        for waiter in due:
            if waiter.ended.done():
                continue
            try:
                answer = waiter.question.answer(lookup)
            except e.CrmError as error:
                loop.call_soon_threadsafe(self._met, waiter, error, look)
            except Exception as bug:  # noqa: BLE001 - it is raised where this one waiter waits; the others wait on
                loop.call_soon_threadsafe(self._broke, waiter, bug, look)
            else:
                loop.call_soon_threadsafe(self._answered, waiter, answer, look)

    def _learn(self, failure: e.CrmError | None, interval: float, look: _Look) -> None:
        """After rounds in vain all wait longer, newcomers too: else each of them would cost a round of its own."""
        self._in_vain, self._not_before = (self._in_vain + 1 if failure else 0), 0.0
        if failure is None:
            return
        self._not_before = next_look(failure, self._in_vain, self._clock(), interval=interval, jitter=look.jitter)
        log.warning("No answer at all, %d time(s) in a row; asked ever more slowly. %s", self._in_vain, failure)
        for waiter in self._waiters.values():
            waiter.due = max(waiter.due, self._next_due(waiter, look.started))

    def _answered(self, waiter: Waiter, answer: dict[str, Any] | None, look: _Look) -> None:
        waiter.waiting.answered(waiter.question.why)
        if answer is not None:
            self._end(waiter, Ending(answer=answer))
        self._wait_on(waiter, look)

    def _met(self, waiter: Waiter, error: e.CrmError, look: _Look) -> None:
        decision = waiter.waiting.met(error, waiter.policy, self._clock(), interval=waiter.interval, jitter=look.jitter)
        if decision.action is not Action.WAIT:
            self._end(waiter, Ending(error=error, decision=decision))
        self._wait_on(waiter, look)

    def _broke(self, waiter: Waiter, bug: Exception, look: _Look) -> None:
        self._fail(waiter, bug)
        self._wait_on(waiter, look)

    def _wait_on(self, waiter: Waiter, look: _Look) -> None:
        waiter.due = self._next_due(waiter, look.started)
        if look.started >= waiter.deadline:
            self._end(waiter, Ending())

    @staticmethod
    def _fail(waiter: Waiter, bug: Exception) -> None:
        if not waiter.ended.done():
            waiter.ended.set_exception(bug)

    @staticmethod
    def _end(waiter: Waiter, ending: Ending) -> None:
        if not waiter.ended.done():
            waiter.ended.set_result(ending)


@dataclass(frozen=True)
class _Look:
    """What all looks of a round have in common.

    :param started: when the round began
    :param jitter: for the back-off of all that fail
    """

    started: float
    jitter: float
