"""The attempts of one call: when it is sent again, and how it ends.

A call ends in one of four ways: an answer with success; reading back shows that an attempt without an answer had
succeeded; an error that must not be repeated; the budget of time, tries or slots is used up.

The catalogue says which errors may be repeated (:class:`~crm_provider.errors.catalog.Repeat`): after a refusal any
call, after a lost answer only calls that do no harm twice. A POST whose answer was lost is first verified by reading.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from crm_provider import errors as e
from crm_provider.client.request import Call
from crm_provider.errors.catalog import CATALOGUE, Repeat
from crm_provider.rate_limit.limiter import BudgetBusy
from crm_provider.values.backoff import delay
from crm_provider.values.server_clock import ServerMoment

if TYPE_CHECKING:
    import tenacity

log = logging.getLogger(__name__)


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


class Sender(Protocol):
    """What the attempts of a call are made with: a :class:`~crm_provider.client.transport.Transport`."""

    clock: Callable[[], float]
    sleep: Callable[[float], None]
    jitter: Callable[[], float]

    def once(self, call: Call, max_wait: float, *, attempt: int = 1, leaving: Callable[[float], None] = ...) -> Any: ...

    def sent_at(self, at: float) -> ServerMoment: ...


class Attempts:
    """The attempts of one call.

    :param transport: makes one attempt
    :param verify_write: for a POST: reads whether an attempt without an answer has happened
    :param budget: how long the call may go on trying
    """

    def __init__(self, transport: Sender, call: Call, verify_write: ReadBack | None, budget: RetryBudget) -> None:
        self.transport, self.call, self.verify_write, self.budget = transport, call, verify_write, budget
        self.maybe_done = False
        """Whether an attempt may have happened, as far as is known now."""
        self.lost_one = False
        """Whether any attempt got no answer: a later conflict may be our own doing."""
        self.last_error: e.CrmError | None = None
        self.started = transport.clock()
        self.first_left = transport.clock()
        """When the first attempt left."""
        self.attempts = 0
        self.no_slot = False
        """Whether no slot came in time for another attempt."""

    def run(self) -> Any:
        import tenacity

        retrying = tenacity.Retrying(
            retry=tenacity.retry_if_exception(self._may_repeat),
            wait=self._delay,
            stop=self._is_spent,
            sleep=self.transport.sleep,
            before_sleep=self._log,
            reraise=True,
        )
        try:
            return retrying(self._attempt)
        except e.CrmError as error:
            error.attempts, error.elapsed = self.attempts, self.transport.clock() - self.started
            error.outcome_known = error.outcome_known and not self.maybe_done
            raise

    def _attempt(self) -> Any:
        self.attempts += 1
        if self.maybe_done and self.last_error and self.call.method == "POST" and self.verify_write is not None:
            found = self._verified(self.last_error)
            if found is not None:
                return found
            self.maybe_done, self.last_error.outcome_known = False, True
        try:
            max_wait = max(self._left(), SHORTEST_WAIT)
            return self.transport.once(self.call, max_wait, attempt=self.attempts, leaving=self._note_leaving)
        except BudgetBusy as busy:
            raise self._not_sent(busy) from None
        except self.call.success_errors:
            found = self._read_back() if self.lost_one else None
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
        self.attempts -= 1
        self.no_slot = True
        return self.last_error or e.CrmTooManyRequestsError(
            f"not sent: the next free slot of this key's rate budget is {busy.seconds:.0f} s away",
            retry_after=busy.seconds,
            method=self.call.method,
            path=self.call.log_path,
        )

    def _note_leaving(self, now: float) -> None:
        if self.attempts == 1:
            self.first_left = now

    def _read_back(self) -> Any:
        """What reading says; a call that is not read back counts as done."""
        return {} if self.verify_write is None else self.verify_write(lambda: self.transport.sent_at(self.first_left))

    def _verified(self, original: e.CrmError) -> Any:
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
        jittered = delay(self.attempts, first=budget.first_delay, longest=budget.longest_delay, jitter=jitter())
        # callers that got the same Retry-After must not return at the same moment
        return jittered if asked is None else max(asked + 0.5 * jitter(), jittered)

    def _is_spent(self, state: tenacity.RetryCallState) -> bool:
        return self.no_slot or self.attempts >= self.budget.tries or state.upcoming_sleep > self._left()

    def _left(self) -> float:
        return self.budget.seconds - (self.transport.clock() - self.started)

    def _log(self, state: tenacity.RetryCallState) -> None:
        error = state.outcome.exception() if state.outcome else None
        log.info(
            "%s on %s %s: attempt %d of %d, next in %.1f s",
            getattr(error, "type", error), self.call.method, self.call.log_path,
            self.attempts, self.budget.tries, state.upcoming_sleep,
        )  # fmt: skip


def repeat_for(error: e.CrmError) -> Repeat:
    """Whether the client may send the call again after this error."""
    if error.type in CATALOGUE:
        return CATALOGUE[error.type].repeat
    if isinstance(error, e.CrmTransientError):
        return Repeat.VERIFY_FIRST
    return Repeat.ANY_CALL if isinstance(error, e.CrmThrottledError) else Repeat.NEVER
