"""One poll for all waiting tasks of a connection.

A :class:`Poller` checks the conditions of all its waiters in rounds. In a round, a :class:`CachedLookup` fetches each
list page, contact and deal once. Waiters with the same interval share their rounds: rounds start on a common time grid,
not when each waiter joined. The calls of a round are paced, so that waiting uses at most a share of the key's rate.
During an outage the rounds become less frequent.
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
from typing import Any, Generic, TypeVar

from crm_provider import errors as e
from crm_provider.client.client import CrmClient
from crm_provider.client.pagination import Record
from crm_provider.errors.on_error import Action
from crm_provider.errors.policy import Decision, ErrorPolicy
from crm_provider.waiting.backoff import WaitState, next_check
from crm_provider.waiting.conditions import Condition, MembershipPage, membership_pages

MAX_FAILURES = 3
"""Consecutive failed calls after which a round stops calling: the CRM is failing, not a single record."""


Item = TypeVar("Item")


Guard = Callable[[Callable[[], Any]], Any]
"""Calls a function that reads from the CRM."""


class _SharedListing(Generic[Item]):
    """A listing for several readers: each item is fetched once, when the first reader needs it.

    :param items: reads them
    """

    def __init__(self, items: Iterator[Item]) -> None:
        self._rest = items
        self._items: list[Item] = []
        self._complete = False
        self._error: e.CrmError | None = None

    def read(self, guard: Guard) -> Iterator[Item]:
        """All items."""
        n = 0
        while n < len(self._items) or self._next(guard):
            yield self._items[n]
            n += 1

    def _next(self, guard: Guard) -> bool:
        if self._complete:
            return False
        if self._error is not None:
            raise self._error.with_traceback(None)
        try:
            found = guard(functools.partial(next, self._rest, None))
        except e.CrmError as error:
            self._error = error
            raise
        if found is not None:
            self._items.append(found)
        self._complete = found is None
        return found is not None


class CachedLookup:
    """A look-up for one round that fetches each record once and caches records and errors.

    It stops fetching after a refused key, a throttled call, or several consecutive failures: the remaining waiters get
    the same error. Cached records and list pages still serve the waiters that need nothing else. Each round has a new
    look-up.

    :param client: fetches the records
    :ivar abandoned: whether the waiter whose condition is checked has left
    """

    def __init__(self, client: CrmClient) -> None:
        self._client = client
        self.abandoned: Callable[[], bool] = lambda: False
        self._kept: dict[tuple[str, str], Record | e.CrmError] = {}
        self._lists = _SharedListing(_lists(client))
        self._memberships = _SharedListing(membership_pages(client))
        self._failures = 0
        self._stopped_by: e.CrmError | None = None
        self._responses = 0
        self._failure: e.CrmError | None = None

    @property
    def failure(self) -> e.CrmError | None:
        """The last error if every call of the round failed, else None."""
        return None if self._responses else self._failure

    def contact(self, email: str) -> Record:
        return self._once(("contact", email), lambda: self._client.get_contact(email))

    def deal(self, deal_id: str) -> Record:
        return self._once(("deal", deal_id), lambda: self._client.get_deal(deal_id))

    def lists(self) -> Iterator[Record]:
        """All lists. A page is fetched when a waiter first reads it."""
        return self._lists.read(self._guarded)

    def memberships(self) -> Iterator[MembershipPage]:
        """The lists of all contacts. A page is fetched when a waiter first reads it, unless that waiter has left."""
        return itertools.takewhile(lambda _: not self.abandoned(), self._memberships.read(self._guarded))

    def _once(self, key: tuple[str, str], fetch: Callable[[], Record]) -> Record:
        if key not in self._kept:
            try:
                self._kept[key] = self._guarded(fetch)
            except e.CrmError as error:
                self._kept[key] = error
        kept = self._kept[key]
        if isinstance(kept, e.CrmError):
            raise kept.with_traceback(None)  # otherwise each raise extends it: 20,000 frames for 10,000 waiters
        return kept

    def _guarded(self, fetch: Callable[[], Any]) -> Any:
        if self._stopped_by is not None:
            raise self._stopped_by.with_traceback(None)
        try:
            fetched = fetch()
        except (e.CrmTransientError, e.CrmThrottledError) as error:
            self._failures += 1
            self._failure = error
            if self._failures >= MAX_FAILURES or isinstance(error, e.CrmThrottledError):
                self._stopped_by = error
            raise
        except e.CrmError as error:  # the CRM has responded
            self._count_response()
            if isinstance(error, e.CrmAccessError):
                self._stopped_by = error
            raise
        self._count_response()
        return fetched

    def _count_response(self) -> None:
        self._failures = 0
        self._responses += 1


def _lists(client: CrmClient) -> Iterator[Record]:
    """All lists; the first call is made when the first one is read."""
    yield from client.list_segmentation_lists()


log = logging.getLogger(__name__)
"""Never used in the event loop. A triggerer's parent process reads the log lines of its triggers, except while it sends
them something. If the pipe of the lines is full then, a line that is written in the event loop stops both forever."""

OFFSET = random.uniform(0.0, 60.0)  # noqa: S311 - not a secret
"""Seconds by which this process shifts the time grid of its rounds, so that two triggerers do not start their rounds of
one connection at the same instant."""

LAST_CHECK = 30.0
"""Maximum seconds between a deadline and its last check. Deadlines close to each other share one."""


@dataclass(eq=False, kw_only=True)
class Waiter:
    """A waiting task and its future result.

    :param interval: seconds between two checks
    :param policy: decides which errors mean "not yet"
    :param deadline: when the wait ends
    :param ended: resolved when the wait ends
    :param due: when the next check starts
    """

    condition: Condition
    interval: float
    policy: ErrorPolicy
    waiting: WaitState
    deadline: float
    ended: asyncio.Future[WaitResult]
    due: float = 0.0


@dataclass(frozen=True)
class WaitResult:
    """How a wait ended: with a result, with an error and its decision, or with neither at the deadline."""

    result: dict[str, Any] | None = None
    error: e.CrmError | None = None
    decision: Decision | None = None


class Poller:
    """Checks the conditions of all its waiters in rounds until the last one leaves.

    :param connect: returns the client for a round (a new one if the connection has changed)
    :param clock: a monotonic clock: if it were set back, the rounds would stop. All times here use this clock
    :param jitter: 0 to 1, for the back-off; drawn once per round, so that its waiters stay together
    :param offset: seconds by which the grid of rounds is shifted; by default :data:`OFFSET`
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
        self._failed_rounds = 0
        """Consecutive rounds in which every call failed."""
        self._not_before = 0.0

    async def wait(
        self,
        condition: Condition,
        *,
        interval: float,
        policy: ErrorPolicy,
        waiting: WaitState,
        deadline: float = math.inf,
    ) -> WaitResult:
        """Wait for a condition, together with all other waiters.

        :param deadline: when the wait ends. The last check starts after it, at most :data:`LAST_CHECK` (or the
            interval, if shorter) later
        """
        waiter = Waiter(
            condition=condition,
            interval=max(interval, 1.0),
            policy=policy,
            waiting=waiting,
            deadline=deadline,
            ended=asyncio.get_running_loop().create_future(),
        )
        if self._task is None or self._task.done():
            self._failed_rounds, self._not_before = 0, 0.0  # of an earlier outage
        waiter.due = self._next_due(waiter, self._clock())
        self._waiters[id(waiter)] = waiter
        if self._task is None or self._task.done():
            # in its own context: otherwise a triggerer logs its records in the task log of the first waiter
            self._task = contextvars.Context().run(asyncio.create_task, self._run())
        try:
            return await waiter.ended
        finally:
            del self._waiters[id(waiter)]
            if not self._waiters and self._task is not None:
                self._task.cancel()
                self._task = None

    def _next_due(self, waiter: Waiter, checked: float) -> float:
        """The next point of the waiter's grid, the same for all with its interval; later if the server asked for it.

        :param checked: when the last check started. (Not when it ended: a round longer than the interval ends after
            different points for different waiters, which would then no longer share their rounds)
        """
        due = self._grid(max(checked, waiter.waiting.not_before, self._not_before), waiter.interval)
        if waiter.deadline == math.inf:
            return due
        return min(due, self._grid(max(checked, waiter.deadline), min(waiter.interval, LAST_CHECK)))

    def _grid(self, after: float, step: float) -> float:
        """The first grid point after a time."""
        point = (math.floor((after - self._offset) / step) + 1) * step + self._offset
        return point if point > after else point + step  # rounding of floats

    async def _run(self) -> None:
        try:
            await self._rounds()
        except Exception as broken:  # a bug: no task may wait forever on a loop that has ended
            for waiter in self._waiters.values():
                self._fail(waiter, broken)
            raise

    async def _rounds(self) -> None:
        while True:
            wait = min(waiter.due for waiter in self._waiters.values()) - self._clock()
            # a new waiter may be due earlier: never sleep past its grid point
            await self._sleep(min(max(wait, 0.0), 1.0))
            now = self._clock()
            due = [waiter for waiter in self._waiters.values() if waiter.due <= now]
            for waiter in due:
                if self._held_back(waiter, now):
                    self._end(waiter, WaitResult())
            due = [waiter for waiter in due if not waiter.ended.done()]
            if due:
                await self._round(due)

    def _held_back(self, waiter: Waiter, now: float) -> bool:
        """Whether the deadline is over before the next check is allowed."""
        return now >= waiter.deadline and now < max(waiter.waiting.not_before, self._not_before)

    async def _round(self, due: list[Waiter]) -> None:
        loop, start = asyncio.get_running_loop(), _RoundStart(self._clock(), self._jitter())
        try:
            lookup = CachedLookup(await self._connect())
        except e.CrmError as error:
            for waiter in due:
                self._failed(waiter, error, start)
            return
        random.shuffle(due)  # records that always fail must not be the first in each round: see MAX_FAILURES
        interval = min(waiter.interval for waiter in due)
        await asyncio.to_thread(self._check_all, due, lookup, start, loop)
        self._space_out(lookup.failure, interval, start)
        await asyncio.to_thread(self._log_round, len(due), self._clock() - start.started, lookup.failure)

    def _log_round(self, due: int, seconds: float, failure: e.CrmError | None) -> None:
        """Log the result of a round, in a thread: see :data:`log`."""
        if failure is not None:
            log.warning(
                "All calls failed. Rounds in a row: %d. The next round starts later. %s", self._failed_rounds, failure
            )
        log.info("Conditions checked: %d, in %.1f s. Still waiting: %d.", due, seconds, len(self._waiters))

    def _check_all(
        self, due: list[Waiter], lookup: CachedLookup, start: _RoundStart, loop: asyncio.AbstractEventLoop
    ) -> None:
        """Check each waiter's condition, in a thread, and pass each result to the event loop at once."""
        for waiter in due:
            if waiter.ended.done():
                continue
            lookup.abandoned = waiter.ended.done
            try:
                found = waiter.condition.check(lookup)
            except e.CrmError as error:
                loop.call_soon_threadsafe(self._failed, waiter, error, start)
            except Exception as bug:  # noqa: BLE001 - raised to this waiter only; the others continue
                loop.call_soon_threadsafe(self._crashed, waiter, bug, start)
            else:
                loop.call_soon_threadsafe(self._checked, waiter, found, start)

    def _space_out(self, failure: e.CrmError | None, interval: float, start: _RoundStart) -> None:
        """After failed rounds all wait longer, new waiters too: otherwise each of them would cause its own round."""
        self._failed_rounds, self._not_before = (self._failed_rounds + 1 if failure else 0), 0.0
        if failure is None:
            return
        self._not_before = next_check(
            failure, self._failed_rounds, self._clock(), interval=interval, jitter=start.jitter
        )
        for waiter in self._waiters.values():
            waiter.due = max(waiter.due, self._next_due(waiter, start.started))

    def _checked(self, waiter: Waiter, found: dict[str, Any] | None, start: _RoundStart) -> None:
        waiter.waiting.record_result(waiter.condition.why)
        if found is not None:
            self._end(waiter, WaitResult(result=found))
        self._wait_on(waiter, start)

    def _failed(self, waiter: Waiter, error: e.CrmError, start: _RoundStart) -> None:
        decision = waiter.waiting.record_error(
            error, waiter.policy, self._clock(), interval=waiter.interval, jitter=start.jitter
        )
        if decision.action is not Action.WAIT:
            self._end(waiter, WaitResult(error=error, decision=decision))
        self._wait_on(waiter, start)

    def _crashed(self, waiter: Waiter, bug: Exception, start: _RoundStart) -> None:
        self._fail(waiter, bug)
        self._wait_on(waiter, start)

    def _wait_on(self, waiter: Waiter, start: _RoundStart) -> None:
        waiter.due = self._next_due(waiter, start.started)
        if start.started >= waiter.deadline:
            self._end(waiter, WaitResult())

    @staticmethod
    def _fail(waiter: Waiter, bug: Exception) -> None:
        if not waiter.ended.done():
            waiter.ended.set_exception(bug)

    @staticmethod
    def _end(waiter: Waiter, result: WaitResult) -> None:
        if not waiter.ended.done():
            waiter.ended.set_result(result)


@dataclass(frozen=True)
class _RoundStart:
    """The data that all checks of a round share.

    :param started: when the round started
    :param jitter: for the back-off after failures
    """

    started: float
    jitter: float
