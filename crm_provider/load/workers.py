"""The workers of a load: a few threads that send rows, enough to use up the rate budget and no more."""

from __future__ import annotations

import concurrent.futures
import math
import queue
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from contextvars import copy_context
from dataclasses import dataclass, field
from typing import Any, TypeVar

from crm_provider import errors as e
from crm_provider.client.observers import RequestCounter, RequestEvent
from crm_provider.load.rows import EarlierCreation, Outcome, Record, Row

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


@dataclass
class InFlightRow:
    """A row that is being sent.

    :param record: the mapped row
    :param remote: its record as read from the CRM, None if it was not read
    :param sends: how often the row was sent, including this time
    :param order: 1-based launch order
    :param made: the record that an earlier send, try or load may have created, None if there was none
    :param written: what an earlier send of this try has written, if not all of the row
    :param maybe_written: whether an earlier send of this try has written something, or may have
    """

    row: Row
    record: Record
    remote: Any
    sends: int = 1
    order: int = 0
    made: EarlierCreation | None = None
    written: Any = None
    maybe_written: bool = False


@dataclass(frozen=True)
class SentRow:
    """The result of sending a row.

    :param called: whether a write was needed
    :param is_whole: whether the CRM now has everything in the row; False if something was left out on purpose
    :param ids: ids of records from the CRM's responses, by ``contact_id`` and ``deal_id``
    :param message: why the row was not written, or not all of it
    """

    outcome: Outcome
    called: bool = True
    is_whole: bool = True
    ids: Mapping[str, Any] = field(default_factory=dict, compare=False)
    message: str | None = field(default=None, compare=False)


LEAST, MOST = 4, 64
"""Threads. Four use up 5 calls per second if a call takes at most 600 ms; 64 use up 30 calls per second at 2 s."""

REMEMBERED = 0.9
"""Weight of the earlier calls, against the newest one, in the average time of a call."""


class Cancelled(Exception):
    """The load was cancelled; the outcome of the row is unknown."""


class CancelToken:
    """Cancels a load from another thread or a signal handler, also while it waits."""

    def __init__(self) -> None:
        self._event = threading.Event()
        self.is_set = False

    def set(self) -> None:
        """Ask the load to stop: calls in flight are finished, no new one is started."""
        self.is_set = True
        # not here: a signal handler would wait forever if the interrupted thread holds the event's lock
        threading.Thread(target=self._event.set, name="crm-load-cancel", daemon=True).start()

    def sleep(self, seconds: float) -> None:
        """Sleep, for the transport of a load.

        :raises Cancelled: as soon as the load is cancelled
        """
        if self.is_set or self._event.wait(seconds):
            raise Cancelled


class RequestStats(RequestCounter):
    """Counts the requests of a load and measures how long one takes."""

    def __init__(self) -> None:
        super().__init__()
        self.latency = 0.0
        """Seconds from sending a request to its response, an average of the last ones."""
        self._has_latency = False

    def __call__(self, event: RequestEvent) -> None:
        super().__call__(event)
        weight = REMEMBERED if self._has_latency else 0.0
        self.latency, self._has_latency = weight * self.latency + (1 - weight) * event.seconds, True


def width_for(rate: float, latency: float) -> int:
    """How many calls must be in flight to use up the rate (Little's law), and one to spare."""
    return min(max(math.ceil(rate * latency * 1.1) + 1, LEAST), MOST)


@dataclass(frozen=True)
class RowResult:
    """A row that was sent, and its outcome or its error; neither if the load was cancelled."""

    in_flight: InFlightRow
    sent: SentRow | None = None
    error: e.CrmError | None = None


def in_order(call: Callable[[_Item], _Result], items: Iterable[_Item], at_once: int) -> Iterator[_Result]:
    """The results of a call for each item, in their order. Several calls are made at once.

    :param call: in a thread of its own; its error is raised in its turn, and no other call begins after that
    :param at_once: calls at most
    """
    threads = concurrent.futures.ThreadPoolExecutor(at_once, thread_name_prefix="crm-look-up")
    waiting: deque[concurrent.futures.Future[_Result]] = deque()
    try:
        for item in items:
            waiting.append(threads.submit(copy_context().run, call, item))
            if len(waiting) == at_once:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        threads.shutdown(cancel_futures=True)


class WorkerPool:
    """Sends rows in threads; used by one thread.

    :param send: sends one row
    :param rate: calls per second that the key is allowed
    :param stats: of the load's requests
    """

    def __init__(self, send: Callable[[InFlightRow], SentRow], rate: float, stats: RequestStats) -> None:
        self._send, self._rate, self._stats = send, rate, stats
        self._executor = concurrent.futures.ThreadPoolExecutor(MOST, thread_name_prefix="crm-load")
        self.in_flight: dict[concurrent.futures.Future[SentRow], InFlightRow] = {}
        """Rows whose results were not read yet."""
        self._ended: queue.SimpleQueue[None] = queue.SimpleQueue()
        """Wakes the thread that waits; ``concurrent.futures.wait`` takes five times as long, because it locks all."""

    def width(self) -> int:
        """Maximum number of rows in flight, for the latency measured so far."""
        return width_for(self._rate, self._stats.latency)

    def submit(self, row: InFlightRow) -> None:
        """Send a row in a thread, with the caller's context: Airflow's log takes the ids of the task from it."""
        future = self._executor.submit(copy_context().run, self._send, row)
        self.in_flight[future] = row
        future.add_done_callback(lambda _: self._ended.put(None))

    def results(self, timeout: float) -> Iterator[RowResult]:
        """The results that arrive within ``timeout`` seconds. A result that is not read is returned again.

        :raises Exception: a bug in the code that sends
        """
        if not self.in_flight:
            return
        if not any(future.done() for future in self.in_flight):
            self._wait(timeout)
        for future in [future for future in self.in_flight if future.done()]:
            yield self._result(future)

    def _wait(self, timeout: float) -> None:
        """Wait until a row has ended; it may be one whose result was read before."""
        with suppress(queue.Empty):
            self._ended.get(timeout=timeout)
            while True:
                self._ended.get_nowait()

    def _result(self, future: concurrent.futures.Future[SentRow]) -> RowResult:
        in_flight = self.in_flight.pop(future)
        try:
            return RowResult(in_flight, sent=future.result())
        except Cancelled:
            return RowResult(in_flight)
        except e.CrmError as error:
            return RowResult(in_flight, error=error)

    def close(self) -> None:
        """End the threads; a busy one ends with its call."""
        self._executor.shutdown(wait=False, cancel_futures=True)
