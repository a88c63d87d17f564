"""The workers of a load: rows on their way to the CRM, and the calls of one row.

One row to the CRM: the contact, then its lists; what was written is kept for the case that the row is sent again.

Rows on their way: a few threads, enough to fill the rate budget and no more.
"""

from __future__ import annotations

import concurrent.futures
import math
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from functools import partial

from crm_provider import errors as e
from crm_provider.client.observers import RequestEvent, RequestTally
from crm_provider.client.remote_contact import RemoteContact
from crm_provider.client.upsert import ContactWriter, Written
from crm_provider.load.rows import Contact, Made, Outcome, Row


@dataclass
class InFlightRow:
    """A row that is being sent.

    :param contact: what it becomes
    :param seen: its contact as the CRM was seen to have it, None if nobody has looked
    :param sends: how often, this time included
    :param order: 1-based launch order
    :param made: what an earlier send, try or load may have made of it, None if there was none
    :param written: what an earlier send of this try has written; then only its lists are left
    """

    row: Row
    contact: Contact
    seen: RemoteContact | None
    sends: int = 1
    order: int = 0
    made: Made | None = None
    written: Written | None = None


@dataclass(frozen=True)
class SentRow:
    """How a row was sent.

    :param called: whether a write was needed for it
    :param is_whole: whether the CRM now has all that the row says; False if it was kept out of the lists
    """

    outcome: Outcome
    called: bool = True
    is_whole: bool = True


class RowSender:
    """Sends rows; threads may share it.

    :param began: when this load began, by the CRM's clock: a contact that is older was not made by it
    """

    def __init__(self, writer: ContactWriter, *, began: datetime | None = None) -> None:
        self._writer, self._began = writer, began

    def send(self, flight: InFlightRow) -> SentRow:
        """Send one row.

        :raises CrmError: what decides about the row; in ``create`` mode also ``CONTACT_ALREADY_EXISTS``
        """
        again = flight.written is not None
        contact = flight.written or self._write(flight)
        listed = self._writer.add_to_lists(flight.contact, contact, again=again)
        outcome = Outcome(listed.outcome)
        if contact.outcome == "unchanged" and self._writer.mode == "create" and flight.row.made is None:
            outcome = Outcome.CREATED  # by an earlier try of this load
        return SentRow(outcome, called=contact.called or listed.called, is_whole=listed.is_whole)

    def _write(self, flight: InFlightRow) -> Written:
        is_ours = None if flight.made is None else partial(self._is_ours, flight, flight.made)
        try:
            written = self._writer.write(flight.contact, flight.seen, is_ours=is_ours)
        except e.CrmError as error:
            if not error.outcome_known and flight.made is None:
                flight.made = Made(self._began)
            raise
        flight.written = written
        if written.outcome == "created":
            flight.made = Made(self._began, certain=True)
        return written

    @staticmethod
    def _is_ours(flight: InFlightRow, made: Made, remote: RemoteContact) -> bool:
        """Whether a contact that exists is the one that an earlier send, try or load has made."""
        if remote.created_at is None or made.since is None:
            return made.certain and remote.has(flight.contact.attributes)
        return remote.created_at >= made.since


LEAST, MOST = 4, 64
"""Threads. Four fill 5 calls per second as long as a call takes up to 600 ms; 64 fill 30 at 2 s."""

REMEMBERED = 0.9
"""Weight of the calls before against the newest one in the average time of a call."""


class Cancelled(Exception):
    """The load was told to stop; the row's outcome is not known."""


class CancelToken:
    """Ends a load from another thread or a signal handler, waits included."""

    def __init__(self) -> None:
        self._event = threading.Event()
        self._asked = False

    def set(self) -> None:
        """Ask the load to stop: calls in flight are finished, no new one is begun."""
        self._asked = True
        # not here: a signal handler would wait for ever if the thread that it interrupts holds the event's lock
        threading.Thread(target=self._event.set, name="crm-load-interrupt", daemon=True).start()

    @property
    def is_set(self) -> bool:
        return self._asked

    def sleep(self, seconds: float) -> None:
        """Sleep, for the transport of a load.

        :raises Interrupted: as soon as the load is told to stop
        """
        if self._asked or self._event.wait(seconds):
            raise Cancelled


class RequestStats(RequestTally):
    """A tally of the load's calls that knows how long one takes."""

    def __init__(self) -> None:
        super().__init__()
        self._latency = 0.0
        self._seen_one = False

    def __call__(self, seen: RequestEvent) -> None:
        super().__call__(seen)
        weight = REMEMBERED if self._seen_one else 0.0
        self._latency, self._seen_one = weight * self._latency + (1 - weight) * seen.seconds, True

    @property
    def latency(self) -> float:
        """Seconds from sending a call to its answer, an average of the last ones."""
        return self._latency


def width_for(rate: float, latency: float) -> int:
    """How many calls must be on their way so that the rate is used up (Little's law), and one to spare."""
    return min(max(math.ceil(rate * latency * 1.1) + 1, LEAST), MOST)


@dataclass(frozen=True)
class RowResult:
    """A row that was sent, with what came of it; neither if the load was interrupted."""

    flight: InFlightRow
    sent: SentRow | None = None
    error: e.CrmError | None = None


class WorkerPool:
    """Sends rows in threads; used by one thread.

    :param send: sends one
    :param width: how many at once, asked again each time
    """

    def __init__(self, send: Callable[[InFlightRow], SentRow], width: Callable[[], int]) -> None:
        self._send, self._width = send, width
        self._pool = concurrent.futures.ThreadPoolExecutor(MOST, thread_name_prefix="crm-load")
        self._flights: dict[concurrent.futures.Future[SentRow], InFlightRow] = {}

    def __len__(self) -> int:
        return len(self._flights)

    @property
    def has_room(self) -> bool:
        return len(self._flights) < self._width()

    def launch(self, flight: InFlightRow) -> None:
        """Send a row in a thread."""
        self._flights[self._pool.submit(self._send, flight)] = flight

    def landed(self, timeout: float) -> Iterator[RowResult]:
        """Rows whose sending has ended, after at most ``timeout`` seconds; one that is not taken comes again.

        :raises Exception: a bug met on the way
        """
        if not self._flights:
            return
        first = concurrent.futures.FIRST_COMPLETED
        done, _ = concurrent.futures.wait(self._flights, timeout=timeout, return_when=first)
        for future in done:
            yield self._ended(future)

    def _ended(self, future: concurrent.futures.Future[SentRow]) -> RowResult:
        flight = self._flights.pop(future)
        try:
            return RowResult(flight, sent=future.result())
        except Cancelled:
            return RowResult(flight)
        except e.CrmError as error:
            return RowResult(flight, error=error)

    def close(self) -> None:
        """End the threads; those at work end with their call."""
        self._pool.shutdown(wait=False, cancel_futures=True)
