"""One call over HTTP: paced, sent, read, classified, and sent again where that is harmless.

What is sent again is said by the catalogue (:class:`~crm_provider.errors.catalog.Repeat`): after a refusal any call,
after a failure in mid-flight only what may be repeated. A POST that may have happened is first *settled* by reading.
"""

from __future__ import annotations

import logging
import platform
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from crm_provider import __version__
from crm_provider import errors as e
from crm_provider.client.observers import Observer, ObserverList, RequestEvent
from crm_provider.client.request import Call
from crm_provider.client.responses import CrmResponse, value_of
from crm_provider.client.settings import Settings
from crm_provider.errors.catalog import Repeat, repeat_for
from crm_provider.rate_limit.limiter import BudgetBusy, RateLimiter, limiter_for
from crm_provider.values.backoff import delay
from crm_provider.values.server_clock import ServerClock, ServerMoment

if TYPE_CHECKING:
    import tenacity


log = logging.getLogger(__name__)

INTERRUPTED = "INTERRUPTED"
"""What observers are told of an attempt that was neither answered nor failed, such as one of a task that was killed."""


@dataclass(frozen=True, kw_only=True)
class RetryBudget:
    """How long one call may go on trying.

    :param tries: attempts at most, the first included
    :param seconds: no further attempt starts later than this after the first
    :param first_delay: seconds before the second attempt; doubled each time, with jitter
    :param longest_delay: seconds between two attempts at most, unless the server asks for more
    """

    tries: int = 5
    seconds: float = 60.0
    first_delay: float = 0.5
    longest_delay: float = 10.0


ONE_TRY = RetryBudget(tries=1)

FirstSent = Callable[[], "ServerMoment | None"]
"""When a write was first sent, by the CRM's clock; None while no answer has shown that clock."""

ReadBack = Callable[[FirstSent], Any]
"""Reads whether a write without an answer has happened; returns None if it has not."""

SHORTEST_WAIT = 1.0
"""Seconds that an attempt waits for a slot even when reading back has used up the budget's time."""


class Transport:
    """Sends calls for one connection.

    :param settings: where to, and with which key
    :param budget: how long one call may go on trying
    :param pacer: the rate budget; by default the one of the settings' key
    :param user_agent: further products for the User-Agent, such as ``airflow/3.3.2``
    :param observer: is told every attempt after it, also a failed one
    """

    def __init__(
        self,
        settings: Settings,
        *,
        budget: RetryBudget | None = None,
        pacer: RateLimiter | None = None,
        user_agent: str = "",
        observer: Observer | None = None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        from crm_provider.client.http_session import (
            HttpSession,
        )  # it stands on requests, which importing a DAG must not load

        self.budget = budget or RetryBudget()
        self._pacer = pacer or limiter_for(settings)
        self._told = ObserverList()
        if observer is not None:
            self.observe(observer)
        self.clock, self.sleep, self.jitter = clock, sleep, jitter
        self.server_clock = ServerClock()
        products = f"airflow-provider-crm/{__version__} {user_agent} python/{platform.python_version()}"
        self._wire = HttpSession(settings, user_agent=" ".join(products.split()))

    def server_time(self) -> ServerMoment | None:
        """Now, by the CRM's clock; None while no answer has shown it."""
        return self.server_clock.at(self.clock())

    def observe(self, observer: Observer) -> None:
        """Tell this observer too, from now on."""
        self._told.add(observer)

    def close(self) -> None:
        """Close the connections that are kept open."""
        self._wire.close()

    def send(self, call: Call, *, verify_write: ReadBack | None = None, budget: RetryBudget | None = None) -> Any:
        """Send a call until it succeeds, cannot be repeated, or the budget is spent.

        :param settle: for a POST: reads whether an attempt that got no answer has happened
        :param budget: another budget than the transport's own
        :return: the content of the answer, its envelope unwrapped
        :raises CrmError: the last attempt's typed error, with how often and how long it was tried
        """
        _ = call.path  # refuses a wrong part before a slot is taken
        return _Sending(self, call, verify_write, budget or self.budget).run()

    def once(
        self, call: Call, max_wait: float, *, attempt: int = 1, leaving: Callable[[float], None] | None = None
    ) -> Any:
        """One attempt: wait for a slot, send, read, classify.

        :param leaving: called with the clock's seconds when the slot has come, just before the request leaves
        :raises BudgetBusy: no slot came in time, nothing was sent
        """
        waited = self._pacer.acquire(max_wait)
        started = self.clock()
        if leaving is not None:
            leaving(started)
        status: int | None = None
        error_type: str | None = INTERRUPTED
        try:
            answer = self._wire.round_trip(call)
            status = answer.status
            self.server_clock.note(answer.header("date"), sent=started, received=self.clock())
            value = self._value(answer)
        except e.CrmError as error:
            status, error_type = status or error.status, error.type
            raise
        else:
            error_type = None
            return value
        finally:
            seconds = self.clock() - started
            log.debug(
                "%s %s -> %s in %.3f s, waited %.3f s for the rate budget",
                call.method, call.log_path, status or error_type, seconds, waited,
            )  # fmt: skip
            self._told(
                RequestEvent(
                    method=call.method,
                    route=call.template,
                    status=status,
                    seconds=seconds,
                    waited=waited,
                    error_type=error_type,
                    attempt=attempt,
                )
            )

    def _value(self, answer: CrmResponse) -> Any:
        try:
            return value_of(answer)
        except e.CrmThrottledError as throttled:
            self._pacer.pause(throttled.retry_after or 0.0)
            raise


class _Sending:
    """The attempts of one call."""

    def __init__(self, transport: Transport, call: Call, verify_write: ReadBack | None, budget: RetryBudget) -> None:
        self.transport, self.call, self.verify_write, self.budget = transport, call, verify_write, budget
        self.maybe_done = False
        """Whether an attempt may have happened, as far as is known now."""
        self.lost_one = False
        """Whether any attempt got no answer: a later conflict may be our own doing."""
        self.last_error: e.CrmError | None = None
        self.started = transport.clock()
        self.first_left: float | None = None
        """When the first attempt left."""
        self.rounds = 0
        self.over = False
        """Whether no slot came in time for another attempt."""

    def run(self) -> Any:
        import tenacity

        retrying = tenacity.Retrying(
            retry=tenacity.retry_if_exception(self._may_repeat),
            wait=self._delay,
            stop=self._is_spent,
            sleep=self.transport.sleep,
            before_sleep=self._tell,
            reraise=True,
        )
        try:
            return retrying(self._attempt)
        except e.CrmError as error:
            error.attempts, error.elapsed = self.rounds, self.transport.clock() - self.started
            error.outcome_known = error.outcome_known and not self.maybe_done
            raise

    def _attempt(self) -> Any:
        self.rounds += 1
        if self.maybe_done and self.last_error and self.call.method == "POST" and self.verify_write is not None:
            found = self._settled(self.last_error)
            if found is not None:
                return found
            self.maybe_done, self.last_error.outcome_known = False, True
        try:
            max_wait = max(self._left(), SHORTEST_WAIT)
            return self.transport.once(self.call, max_wait, attempt=self.rounds, leaving=self._note_leaving)
        except BudgetBusy as busy:
            raise self._not_sent(busy) from None
        except self.call.success_errors:
            found = (self._read_back() if self.verify_write else {}) if self.lost_one else None
            if found is None:
                raise
            return found
        except e.CrmError as error:
            self.maybe_done = self.maybe_done or not error.outcome_known
            self.lost_one = self.lost_one or self.maybe_done
            self.last_error = error
            raise

    def _not_sent(self, busy: BudgetBusy) -> e.CrmError:
        """The error for an attempt that found no slot in time: the last attempt's own, if there was one."""
        self.rounds -= 1
        self.over = True
        return self.last_error or e.CrmTooManyRequestsError(
            f"not sent: the next free slot of this key's rate budget is {busy.seconds:.0f} s away",
            retry_after=busy.seconds,
            method=self.call.method,
            path=self.call.log_path,
        )

    def _note_leaving(self, now: float) -> None:
        if self.first_left is None:
            self.first_left = now

    def _read_back(self) -> Any:
        first_left = self.first_left
        if self.verify_write is None or first_left is None:
            return None
        return self.verify_write(lambda: self.transport.server_clock.at(first_left))

    def _settled(self, original: e.CrmError) -> Any:
        """What reading says about the attempt that got no answer; the original error if reading fails."""
        try:
            return self._read_back()
        except (e.CrmAccessError, e.CrmConflictError):
            raise
        except e.CrmError as unread:
            original.remark = f"reading back whether it happened failed too: {unread.type}"
        raise original

    def _may_repeat(self, error: BaseException) -> bool:
        if not isinstance(error, e.CrmError):
            return False
        repeat = repeat_for(error)
        if repeat is Repeat.VERIFY_FIRST and self.call.method not in ("GET", "PUT", "DELETE") and self.maybe_done:
            return self.verify_write is not None
        return repeat is not Repeat.NEVER

    def _delay(self, state: tenacity.RetryCallState) -> float:
        """Doubling with jitter, half fixed and half random; not before the time that the server asked for."""
        error = state.outcome.exception() if state.outcome else None
        asked = error.retry_after if isinstance(error, e.CrmError) else None
        budget, jitter = self.budget, self.transport.jitter
        jittered = delay(self.rounds, first=budget.first_delay, longest=budget.longest_delay, jitter=jitter())
        # all who were told the same second must not come back in the same instant
        return jittered if asked is None else max(asked + 0.5 * jitter(), jittered)

    def _is_spent(self, state: tenacity.RetryCallState) -> bool:
        return self.over or self.rounds >= self.budget.tries or state.upcoming_sleep > self._left()

    def _left(self) -> float:
        return self.budget.seconds - (self.transport.clock() - self.started)

    def _tell(self, state: tenacity.RetryCallState) -> None:
        error = state.outcome.exception() if state.outcome else None
        log.info(
            "%s on %s %s: attempt %d of %d, next in %.1f s",
            getattr(error, "type", error), self.call.method, self.call.log_path,
            self.rounds, self.budget.tries, state.upcoming_sleep,
        )  # fmt: skip
