"""One attempt of a call over HTTP: wait for a slot, send, read, classify, notify observers.

:mod:`crm_provider.client.retry` decides whether there is another attempt.
"""

from __future__ import annotations

import logging
import platform
import random
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime, timedelta, timezone
from functools import cached_property
from typing import Any

from crm_provider import __version__
from crm_provider import errors as e
from crm_provider.client.observers import Observer, RequestEvent
from crm_provider.client.request import Call
from crm_provider.client.responses import value_of
from crm_provider.client.settings import Settings
from crm_provider.rate_limit.limiter import RateLimiter, end_calls, limiter_for, shared_clock_of
from crm_provider.values.server_clock import ServerClock, ServerMoment

log = logging.getLogger(__name__)

CLOCKS_UNKNOWN = timedelta(hours=3)
"""Assumed maximum difference between this machine's clock and the CRM's if no response shows the CRM's."""

MOST_DATES = 100
"""Maximum ``Date`` headers that are kept until a caller needs the CRM's clock. More would hardly narrow it."""

INTERRUPTED = "INTERRUPTED"
"""The error type of an attempt that neither got a response nor failed, for example because the task was killed."""


class Transport:
    """Sends requests for one connection.

    :param settings: base URL, API key and extras of the account
    :param limiter: the rate limiter; by default that of the settings' key
    :param user_agent: further products for the User-Agent, such as ``airflow/3.3.2``
    :param observer: receives an event after each attempt, including failed ones
    :param wall: seconds since 1970 by this machine's clock
    """

    def __init__(
        self,
        settings: Settings,
        *,
        limiter: RateLimiter | None = None,
        user_agent: str = "",
        observer: Observer | None = None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
        jitter: Callable[[], float] = random.random,
        wall: Callable[[], float] = time.time,
    ) -> None:
        from crm_provider.client.http_session import HttpSession  # brings requests, which a DAG file must not load

        self._limiter = limiter or limiter_for(settings)
        self._observers: tuple[Observer, ...] = ()
        self._failed_observers: set[int] = set()
        if observer is not None:
            self.observe(observer)
        self.clock, self.sleep, self.jitter, self._wall = clock, sleep, jitter, wall
        self._dates: deque[tuple[str | None, float, float]] = deque(maxlen=MOST_DATES)
        self._shared_clock = shared_clock_of(self._limiter)
        products = f"airflow-provider-crm/{__version__} {user_agent} python/{platform.python_version()}"
        self._http = HttpSession(settings, user_agent=" ".join(products.split()))

    @property
    def server_clock(self) -> ServerClock:
        """The CRM's clock, as its responses show it. Their headers are parsed when a caller needs the clock."""
        with suppress(IndexError):  # another thread may take the last one
            while self._dates:
                date, sent, received = self._dates.popleft()
                self._own_clock.note(date, sent=sent, received=received)
        return self._own_clock

    @cached_property
    def _own_clock(self) -> ServerClock:
        return self._shared_clock or ServerClock()

    def server_time(self, at: float | None = None) -> ServerMoment | None:
        """A moment by the CRM's clock; None if no response has shown that clock yet.

        :param at: seconds of the local clock; by default now
        """
        return self.server_clock.at(self.clock() if at is None else at)

    def sent_at(self, at: float) -> ServerMoment:
        """A moment by the CRM's clock, or within hours of this machine's clock if no response has shown the CRM's.

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
        """Close the connections that are kept open, and give the slots of a load back."""
        self._http.close()
        end_calls(self._limiter)

    def wait_for_slot(self, max_wait: float) -> float:
        """Wait for a slot of the rate budget.

        :param max_wait: seconds
        :return: seconds that it took
        :raises BudgetBusy: no slot comes in time
        """
        return self._limiter.acquire(max_wait)

    def send_once(self, call: Call, *, waited: float = 0.0, attempt: int = 1) -> Any:
        """One attempt: send, read, classify, notify observers.

        :param waited: seconds that the attempt has waited for its slot, for the observers
        :param attempt: its number in the call, for the observers
        :return: the content of the response, its envelope unwrapped
        :raises CrmError: the typed error of the response
        """
        started = self.clock()
        status: int | None = None
        error_type: str | None = INTERRUPTED
        try:
            response = self._http.round_trip(call)
            status = response.status
            if status < 400:  # an error may come from something in front of the CRM, which has its own clock
                self._dates.append((response.header("date"), started, self.clock()))
                if self._shared_clock is not None:
                    _ = self.server_clock  # the rate budget uses it, so it must be up to date
            value = value_of(response)
        except e.CrmError as error:
            status, error_type = status or error.status, error.type
            if isinstance(error, e.CrmThrottledError):
                self._limiter.pause(error.retry_after or 0.0)
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
            event = RequestEvent(
                method=call.method,
                route=call.template,
                status=status,
                seconds=seconds,
                waited=waited,
                error_type=error_type,
                attempt=attempt,
            )
            for place, observer in enumerate(self._observers):
                try:
                    observer(event)
                except Exception as failure:  # noqa: BLE001 - an observer that fails does not fail the call
                    self._log_failed_observer(place, failure)

    def _log_failed_observer(self, place: int, failure: Exception) -> None:
        """Log the first failure of an observer."""
        if place not in self._failed_observers:
            self._failed_observers.add(place)
            log.warning("an observer of calls failed; further failures of it are not logged", exc_info=failure)
