"""One attempt of a call over HTTP: wait for a slot, send, read, classify, notify observers.

:mod:`crm_provider.client.retry` decides whether a call is sent again.
"""

from __future__ import annotations

import logging
import platform
import random
import time
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from functools import cached_property
from typing import Any

from crm_provider import __version__
from crm_provider import errors as e
from crm_provider.client import retry
from crm_provider.client.observers import Observer, RequestEvent
from crm_provider.client.request import Call
from crm_provider.client.responses import CrmResponse, value_of
from crm_provider.client.settings import Settings
from crm_provider.rate_limit.limiter import RateLimiter, limiter_for, server_clock_of
from crm_provider.values.server_clock import ServerClock, ServerMoment

log = logging.getLogger(__name__)

MOST_FIELDS = 20
"""Fields of a refused call that a message names."""

CLOCKS_UNKNOWN = timedelta(hours=3)
"""How far this machine's clock may be from the CRM's, if no answer shows the CRM's clock."""

INTERRUPTED = "INTERRUPTED"
"""The error type of an attempt that neither got an answer nor failed, such as one of a task that was killed."""


class Transport:
    """Sends calls for one connection.

    :param settings: where to, and with which key
    :param budget: how long one call may go on trying
    :param pacer: the rate budget; by default the one of the settings' key
    :param user_agent: further products for the User-Agent, such as ``airflow/3.3.2``
    :param observer: receives an event after each attempt, also after a failed one
    """

    def __init__(
        self,
        settings: Settings,
        *,
        budget: retry.RetryBudget | None = None,
        pacer: RateLimiter | None = None,
        user_agent: str = "",
        observer: Observer | None = None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
        jitter: Callable[[], float] = random.random,
        wall: Callable[[], float] = time.time,
    ) -> None:
        from crm_provider.client.http_session import HttpSession  # brings requests, which a DAG file must not load

        self._conn_id = settings.conn_id
        self.budget = budget or retry.RetryBudget()
        self._pacer = pacer or limiter_for(settings)
        self._observers: tuple[Observer, ...] = ()
        self._failed_observers: set[int] = set()
        if observer is not None:
            self.observe(observer)
        self.clock, self.sleep, self.jitter, self._wall = clock, sleep, jitter, wall
        products = f"airflow-provider-crm/{__version__} {user_agent} python/{platform.python_version()}"
        self._wire = HttpSession(settings, user_agent=" ".join(products.split()))

    @cached_property
    def server_clock(self) -> ServerClock:
        """The CRM's clock, as its answers show it."""
        return server_clock_of(self._pacer)

    def server_time(self, at: float | None = None) -> ServerMoment | None:
        """A moment by the CRM's clock; None while no answer has shown that clock.

        :param at: seconds of the local clock; by default now
        """
        return self.server_clock.at(self.clock() if at is None else at)

    def sent_at(self, at: float) -> ServerMoment:
        """A moment by the CRM's clock; within hours of this machine's clock if no answer has shown the CRM's.

        :param at: seconds of the local clock
        """
        shown = self.server_clock.at(at)
        if shown is not None:
            return shown
        moment = datetime.fromtimestamp(self._wall() - (self.clock() - at), tz=timezone.utc)
        return ServerMoment(moment - CLOCKS_UNKNOWN, moment + CLOCKS_UNKNOWN)

    def observe(self, observer: Observer) -> None:
        """Notify this observer, too, of each attempt from now on."""
        self._observers = (*self._observers, observer)

    def close(self) -> None:
        """Close the connections that are kept open."""
        self._wire.close()

    def send(
        self, call: Call, *, verify_write: retry.ReadBack | None = None, budget: retry.RetryBudget | None = None
    ) -> Any:
        """Send a call until it succeeds, cannot be repeated, or the budget is used up.

        :param verify_write: for a POST: reads whether an attempt without an answer has happened
        :param budget: another budget than the transport's own
        :return: the content of the answer, its envelope unwrapped
        :raises CrmError: the last attempt's typed error, with how often and how long it was tried
        """
        _ = call.path  # refuses a wrong part before a slot is taken
        try:
            return retry.Attempts(self, call, verify_write, budget or self.budget).run()
        except e.CrmError as error:
            error.remark = error.remark or self._remark(error, call)
            raise

    def _remark(self, error: e.CrmError, call: Call) -> str | None:
        """What only this side knows of an answer: whose key was refused, or which fields were sent."""
        if error.status is None:
            return None
        if isinstance(error, e.CrmAccessError) and self._conn_id is not None:
            return f"This is Airflow's connection {self._conn_id!r}."
        names = call.field_names if isinstance(error, (e.CrmDataError, e.CrmInvalidParamsError)) else ()
        if not names:
            return None
        more = f" and {len(names) - MOST_FIELDS} more" if len(names) > MOST_FIELDS else ""
        return f"Fields that were sent: {', '.join(names[:MOST_FIELDS])}{more}"

    def once(
        self, call: Call, max_wait: float, *, attempt: int = 1, leaving: Callable[[float], None] = lambda at: None
    ) -> Any:
        """One attempt: wait for a slot, send, read, classify.

        :param leaving: called with the clock's seconds when the slot has come, just before the request leaves
        :raises BudgetBusy: no slot came in time, nothing was sent
        """
        waited = self._pacer.acquire(max_wait)
        started = self.clock()
        leaving(started)
        status: int | None = None
        error_type: str | None = INTERRUPTED
        try:
            answer = self._wire.round_trip(call)
            status = answer.status
            if answer.status < 400:  # an error may come from something in front of the CRM, which has its own clock
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
            self._notify(
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

    def _notify(self, seen: RequestEvent) -> None:
        """Notify observers; a failure of theirs does not become the call's. The first one of each is logged."""
        for place, observer in enumerate(self._observers):
            try:
                observer(seen)
            except Exception:
                if place not in self._failed_observers:
                    self._failed_observers.add(place)
                    log.warning("an observer of calls failed; further failures of it are not logged", exc_info=True)


class Calls:
    """Base of the groups of calls.

    :param settings: where to, and with which key
    :param transport: sends the calls; by default one made from the settings
    :param user_agent: further products for the User-Agent header
    """

    def __init__(self, settings: Settings, *, transport: Transport | None = None, user_agent: str = "") -> None:
        self.settings = settings
        self._transport = transport or Transport(settings, user_agent=user_agent)
