"""Sends a call, again where that is safe: the one loop over the attempts of a call.

A call ends in one of four ways:

- an attempt succeeds,
- reading back shows that an attempt whose response was lost has succeeded,
- an attempt fails with an error that must not be repeated,
- the budget of tries, time or rate slots is used up.

The catalogue says which errors may be repeated (:class:`~crm_provider.errors.catalog.Repeat`): after a refusal any
call, after a lost response only calls that are safe to send twice. A POST whose response was lost is verified by
reading before it is sent again.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from crm_provider import errors as e
from crm_provider.client.request import Call
from crm_provider.client.transport import Transport
from crm_provider.errors.catalog import CATALOGUE, Repeat
from crm_provider.rate_limit.limiter import BudgetBusy
from crm_provider.values.backoff import delay

if TYPE_CHECKING:
    import tenacity
    from typing_extensions import Self

    from crm_provider.client.settings import Settings

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class RetryBudget:
    """Limits for the attempts of one call.

    :param tries: maximum attempts, including the first
    :param seconds: no further attempt starts later than this after the first
    :param first_delay: seconds before the second attempt; doubled each time, with jitter
    :param longest_delay: maximum seconds between two attempts, unless the server asks for more
    """

    tries: int = 5
    seconds: float = 60.0
    first_delay: float = 0.5
    longest_delay: float = 10.0


ONE_TRY = RetryBudget(tries=1)

VerifyWrite = Callable[[float], Any]
"""Reads whether a write whose response was lost has happened; returns None if it has not.

The argument is the time of the first attempt, in seconds of the transport's clock.
"""

SHORTEST_WAIT = 1.0
"""Seconds that an attempt waits for a slot even if reading back has used up the budget's time."""

MOST_FIELDS = 20
"""Fields of a refused call that a message names."""


class RetryLoop:
    """The attempts of one call.

    :param transport: makes one attempt
    :param budget: limits for the attempts
    :param verify_write: for a POST: reads whether an attempt whose response was lost has happened
    """

    def __init__(
        self, transport: Transport, call: Call, budget: RetryBudget, verify_write: VerifyWrite | None = None
    ) -> None:
        self._transport, self._call, self._budget = transport, call, budget
        self._verify_write = verify_write if call.method == "POST" else None
        self._attempts = 0
        self._started = self._first_sent = transport.clock()
        self._last_error: e.CrmError | None = None
        self._failed: e.CrmError | None = None
        """The error of the first attempt, until it is decided about."""
        self._maybe_done = False
        """Whether an attempt may have happened."""
        self._response_lost = False
        """Whether the response to any attempt was lost: then a later conflict may be caused by that attempt."""

    def run(self) -> Any:
        """Try until the call ends.

        :return: the content of the response, or what ``verify_write`` has read
        :raises CrmError: the typed error of the last attempt, with the number of attempts and their time
        """
        try:
            result = self._first()
            if result is None:
                result = self._further()
        except BudgetBusy as busy:
            self._attempts -= 1
            raise self._completed(self._last_error or _not_sent(self._call, busy)) from None
        except e.CrmError as error:
            self._completed(error)
            raise
        return result

    def _first(self) -> Any:
        """The first attempt, without tenacity, which takes more time than the rest of this loop.

        :return: None if there may be another attempt
        """
        self._attempts += 1
        try:
            return self._send()
        except e.CrmError as error:
            self._failed = error
            if not self._may_repeat(error):
                raise
        return None

    def _further(self) -> Any:
        """All attempts after the first; its error is the first that tenacity decides about."""
        result = None
        for attempt in self._retrying():
            with attempt:
                if self._failed is not None:
                    failed, self._failed = self._failed, None
                    raise failed
                self._attempts += 1
                result = self._verified()
                if result is None:
                    result = self._send()
        return result

    # -- one attempt ----------------------------------------------------------------------------------------

    def _verified(self) -> Any:
        """The record that an earlier attempt with a lost response wrote, by reading; None if the call must be sent.

        :raises CrmError: the error of that attempt if reading fails, so that nothing is sent before it is known
        """
        lost = self._last_error
        if not self._maybe_done or lost is None or self._verify_write is None:
            return None
        try:
            found = self._verify_write(self._first_sent)
        except (e.CrmAccessError, e.CrmConflictError):
            raise
        except e.CrmError as unread:
            lost.remark = f"reading back whether it happened failed too: {unread.type}"
        else:
            if found is None:
                self._maybe_done, lost.outcome_known = False, True
            return found
        raise lost

    def _send(self) -> Any:
        max_wait = max(self._seconds_left(), SHORTEST_WAIT)
        _ = self._call.path  # refuses an invalid part before it takes a slot
        waited = self._transport.wait_for_slot(max_wait)
        if self._attempts == 1:
            self._first_sent = self._transport.clock()
        try:
            return self._transport.send_once(self._call, waited=waited, attempt=self._attempts)
        except self._call.success_errors:
            found = self._read_own_success()
            if found is None:
                raise
            return found
        except e.CrmError as error:
            self._maybe_done = self._maybe_done or not error.outcome_known
            self._response_lost = self._response_lost or self._maybe_done
            self._last_error = error
            raise

    def _read_own_success(self) -> Any:
        """The result of an earlier attempt, if a conflict or a 404 may be its consequence; None otherwise."""
        if not self._response_lost:
            return None
        return {} if self._verify_write is None else self._verify_write(self._first_sent)

    # -- whether and when there is another attempt ----------------------------------------------------------

    def _retrying(self) -> tenacity.Retrying:
        import tenacity

        return tenacity.Retrying(
            retry=tenacity.retry_if_exception(self._may_repeat),
            stop=self._is_spent,
            wait=self._delay,
            sleep=self._transport.sleep,
            before_sleep=self._log,
            reraise=True,
        )

    def _may_repeat(self, error: BaseException) -> bool:
        if not isinstance(error, e.CrmError):
            return False
        repeat = repeat_for(error)
        if repeat is Repeat.VERIFY_FIRST and self._maybe_done and self._call.method not in ("GET", "PUT", "DELETE"):
            return self._verify_write is not None
        return repeat is not Repeat.NEVER

    def _is_spent(self, state: tenacity.RetryCallState) -> bool:
        return self._attempts >= self._budget.tries or state.upcoming_sleep > self._seconds_left()

    def _delay(self, state: tenacity.RetryCallState) -> float:
        """Doubling with jitter, half fixed and half random; not before the time that the server asked for."""
        error = state.outcome.exception() if state.outcome else None
        asked = error.retry_after if isinstance(error, e.CrmError) else None
        budget, jitter = self._budget, self._transport.jitter
        jittered = delay(self._attempts, first=budget.first_delay, longest=budget.longest_delay, jitter=jitter())
        # callers that got the same Retry-After must not return at the same moment
        return jittered if asked is None else max(asked + 0.5 * jitter(), jittered)

    def _seconds_left(self) -> float:
        return self._budget.seconds - (self._transport.clock() - self._started)

    def _log(self, state: tenacity.RetryCallState) -> None:
        error = state.outcome.exception() if state.outcome else None
        log.info(
            "%s on %s %s: attempt %d of %d, next in %.1f s",
            getattr(error, "type", error), self._call.method, self._call.log_path,
            self._attempts, self._budget.tries, state.upcoming_sleep,
        )  # fmt: skip

    def _completed(self, error: e.CrmError) -> e.CrmError:
        """The error that the caller gets: with the number of attempts, their time, and whether it may have happened."""
        error.attempts, error.elapsed = self._attempts, self._transport.clock() - self._started
        error.outcome_known = error.outcome_known and not self._maybe_done
        return error


def repeat_for(error: e.CrmError) -> Repeat:
    """Whether the client may send the call again after this error."""
    if error.type in CATALOGUE:
        return CATALOGUE[error.type].repeat
    if isinstance(error, e.CrmTransientError):
        return Repeat.VERIFY_FIRST
    return Repeat.ANY_CALL if isinstance(error, e.CrmThrottledError) else Repeat.NEVER


def _not_sent(call: Call, busy: BudgetBusy) -> e.CrmTooManyRequestsError:
    """The error of a call whose first attempt found no slot in time."""
    return e.CrmTooManyRequestsError(
        f"not sent: the next free slot of this key's rate budget is {busy.seconds:.0f} s away",
        retry_after=busy.seconds,
        method=call.method,
        path=call.log_path,
    )


class Calls:
    """Base of the groups of calls: sends each call through one transport.

    :param settings: base URL, API key and extras of the account
    :param transport: makes one attempt; by default one for these settings
    :param budget: limits for the attempts of one call
    :param user_agent: further products for the User-Agent header of the default transport
    """

    def __init__(
        self,
        settings: Settings,
        *,
        transport: Transport | None = None,
        budget: RetryBudget | None = None,
        user_agent: str = "",
    ) -> None:
        self.settings = settings
        self._transport = transport or Transport(settings, user_agent=user_agent)
        self._budget = budget or RetryBudget()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections that are kept open."""
        self._transport.close()

    def _send(self, call: Call, *, verify_write: VerifyWrite | None = None, budget: RetryBudget | None = None) -> Any:
        """Send a call until it succeeds, must not be repeated, or the budget is used up.

        :param verify_write: for a POST: reads whether an attempt whose response was lost has happened
        :param budget: for this call, instead of the client's own
        :return: the content of the response, its envelope unwrapped
        :raises CrmError: the typed error of the last attempt, with the number of attempts and their time
        """
        try:
            return RetryLoop(self._transport, call, budget or self._budget, verify_write).run()
        except e.CrmError as error:
            error.remark = error.remark or _remark(error, call, self.settings)
            raise


def _remark(error: e.CrmError, call: Call, settings: Settings) -> str | None:
    """What the response does not say: the connection, the ids of the records that may be missing, or the fields."""
    if isinstance(error, ABOUT_THE_CONNECTION) and not isinstance(error, e.CrmConfigurationError):
        return _connection(settings.conn_id, settings.shown_url)
    if isinstance(error, e.CrmNotFoundError):
        ids = call.ids_in_body(*NAMED_BY.get(type(error), ()))
        return f"The call named {' and '.join(ids)}{LIKELY_CAUSE.get(type(error), '')}" if ids else None
    names = call.field_names if isinstance(error, (e.CrmDataError, e.CrmInvalidParamsError)) else ()
    if error.status is None or not names:
        return None
    more = f" and {len(names) - MOST_FIELDS} more" if len(names) > MOST_FIELDS else ""
    return f"Fields that were sent: {', '.join(names[:MOST_FIELDS])}{more}"


def _connection(conn_id: str | None, base_url: str | None) -> str | None:
    """Which connection was used. Each part may be unknown."""
    if base_url is None:
        return f"This is Airflow's connection {conn_id!r}" if conn_id else None
    whose = f"Airflow's connection {conn_id!r}" if conn_id else "this client"
    # the URL does not come last: Airflow's log view would take the full stop for a part of the link
    return f"The base URL {base_url} is that of {whose}"


ABOUT_THE_CONNECTION = (e.CrmAccessError, e.CrmUnknownRouteError, e.CrmConnectionError, e.CrmTimeoutError)
"""Errors whose cause may be the Airflow connection."""

NAMED_BY: Mapping[type[e.CrmError], tuple[str, ...]] = {
    e.CrmContactNotFoundError: ("contactId",),
    e.CrmPipelineNotFoundError: ("pipelineId",),
    e.CrmStageNotFoundError: ("stageId", "pipelineId"),
    e.CrmSegmentationListNotFoundError: ("segmentedListsIds",),
}
"""The fields of a call whose ids may be those of the missing record."""

LIKELY_CAUSE: Mapping[type[e.CrmError], str] = {
    e.CrmPipelineNotFoundError: "; it may be of another account",
    e.CrmStageNotFoundError: "; the stage may belong to another pipeline than the deal's",
}
"""What the ids of a call do not show."""
