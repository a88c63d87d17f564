"""The rows that are on their way: how many, what comes back, and how waits and threads end."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator

import pytest

from crm_provider import errors as e
from crm_provider.client.observers import RequestEvent
from crm_provider.client.remote_contact import RemoteContact
from crm_provider.load import workers as windows
from crm_provider.load.rows import Contact, Outcome, Row
from crm_provider.load.workers import (
    LEAST,
    MOST,
    REMEMBERED,
    Cancelled,
    CancelToken,
    InFlightRow,
    RequestStats,
    SentRow,
    WorkerPool,
    width_for,
)

PATIENCE = 120.0
"""Seconds until a thread of a test gives up; none takes as long if all is well."""


class Gate:
    """In place of the sending of a row: it ends when the gate is opened.

    :param shut: addresses whose sending waits at it, all if None
    """

    def __init__(self, shut: set[str] | None = None) -> None:
        self._shut, self._open, self._lock = shut, threading.Event(), threading.Lock()
        self.began: list[tuple[str, RemoteContact | None]] = []
        self.ended: list[str] = []
        self.threads: list[str] = []
        self.all_began = threading.Semaphore(0)

    def __call__(self, flight: InFlightRow) -> SentRow:
        contact = flight.contact
        with self._lock:
            self.began.append((contact.email, flight.seen))
            self.threads.append(threading.current_thread().name)
        self.all_began.release()
        if self._shut is None or contact.email in self._shut:
            self._open.wait(PATIENCE)
        with self._lock:
            self.ended.append(contact.email)
        return SentRow(Outcome.CREATED)

    def open(self) -> None:
        self._open.set()

    def wait_for(self, count: int) -> None:
        assert all(self.all_began.acquire(timeout=PATIENCE) for _ in range(count))


@pytest.fixture
def open_later() -> Iterator[Callable[[Gate], Gate]]:
    """Gates that are open at the end, whatever happens."""
    gates: list[Gate] = []

    def later(gate: Gate) -> Gate:
        gates.append(gate)
        return gate

    yield later
    for gate in gates:
        gate.open()


def flight(number: int, seen: RemoteContact | None = None) -> InFlightRow:
    return InFlightRow(Row(number, {}), Contact(f"p{number}@x"), seen)


def landed(window: WorkerPool) -> list[int]:
    """The numbers of all rows, as they come back."""
    numbers = []
    while window:
        numbers += [one.flight.row.number for one in window.landed(PATIENCE)]
    return numbers


# -- how many -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rate", "latency", "width"),
    [(5, 0, LEAST), (5, 0.05, LEAST), (5, 0.5, LEAST), (5, 1.0, 7), (5, 2.0, 12), (50, 0.2, 12), (1000, 10, MOST)],
)
def test_width(rate: float, latency: float, width: int) -> None:
    assert width_for(rate, latency) == width
    assert width >= rate * latency or width == MOST


def call_of(seconds: float) -> RequestEvent:
    return RequestEvent(method="GET", route="/x", status=200, seconds=seconds, waited=0, error_type=None, attempt=1)


def test_the_pulse_is_an_average_of_the_last_calls() -> None:
    pulse = RequestStats()
    assert pulse.latency == 0
    for _ in range(100):
        pulse(call_of(1.0))
    assert pulse.latency == pytest.approx(1.0)
    for _ in range(50):
        pulse(call_of(3.0))
    assert pulse.latency == pytest.approx(3.0, rel=0.01)
    assert pulse.calls == 150


def test_the_pulse_begins_with_the_first_call_and_follows_slowly() -> None:
    pulse = RequestStats()
    pulse(call_of(2.0))
    assert pulse.latency == 2.0
    pulse(call_of(4.0))
    assert pulse.latency == pytest.approx(REMEMBERED * 2.0 + (1 - REMEMBERED) * 4.0)


def test_the_window_sends_at_most_its_width_at_once(open_later: Callable[[Gate], Gate]) -> None:
    gate = open_later(Gate())
    window = WorkerPool(gate, lambda: 3)
    launched = 0
    while window.has_room:
        launched += 1
        window.launch(flight(launched))
    assert (launched, len(window)) == (3, 3)
    assert list(window.landed(0.01)) == []
    gate.open()
    assert sorted(landed(window)) == [1, 2, 3]
    window.close()


def test_as_many_are_at_work_as_the_widest_window_holds(open_later: Callable[[Gate], Gate]) -> None:
    gate = open_later(Gate())
    window = WorkerPool(gate, lambda: MOST)
    for number in range(1, MOST + 1):
        window.launch(flight(number))
    gate.wait_for(MOST)
    assert not window.has_room
    assert {name.rpartition("_")[0] for name in gate.threads} == {"crm-load"}
    gate.open()
    assert len(landed(window)) == MOST
    window.close()


# -- what comes back ----------------------------------------------------------------------------------------


def test_a_row_is_sent_with_what_was_seen_of_its_contact() -> None:
    gate, seen = Gate(shut=set()), RemoteContact("P1@x", {"name": "Ann"})
    window = WorkerPool(gate, lambda: 1)
    sent = flight(1, seen)
    window.launch(sent)
    (one,) = window.landed(PATIENCE)
    assert gate.began == [("p1@x", seen)]
    assert one.flight is sent
    assert one.sent == SentRow(Outcome.CREATED)
    window.close()


def test_the_first_row_that_is_back_is_not_kept_waiting_by_the_others(open_later: Callable[[Gate], Gate]) -> None:
    gate = open_later(Gate(shut={"p1@x", "p3@x"}))
    window = WorkerPool(gate, lambda: 3)
    for number in (1, 2, 3):
        window.launch(flight(number))
    assert [one.flight.row.number for one in window.landed(PATIENCE)] == [2]
    assert len(window) == 2
    assert gate.ended == ["p2@x"], "nobody has waited until a thread gave up"
    gate.open()
    assert sorted(landed(window)) == [1, 3]
    window.close()


def test_a_row_that_is_not_taken_comes_again() -> None:
    window = WorkerPool(Gate(shut=set()), lambda: 2)
    for number in (1, 2):
        window.launch(flight(number))
    while len(window) == 2:
        one = next(window.landed(PATIENCE), None)  # the other one is left
        assert one is not None
    assert landed(window) == [3 - one.flight.row.number]
    window.close()


def test_of_an_empty_window_nothing_is_waited_for() -> None:
    window = WorkerPool(lambda contact, seen: SentRow(Outcome.CREATED), lambda: 1)
    assert list(window.landed(1e9)) == []
    window.close()


@pytest.mark.parametrize("raised", [Cancelled(), e.CrmForbiddenError("no"), KeyError("a bug")])
def test_what_comes_back_from_a_flight(raised: Exception) -> None:
    def send(flight: InFlightRow) -> SentRow:
        raise raised

    window = WorkerPool(send, lambda: 1)
    window.launch(flight(1))
    if isinstance(raised, KeyError):
        with pytest.raises(KeyError):
            list(window.landed(PATIENCE))
    else:
        (one,) = window.landed(PATIENCE)
        assert one.sent is None
        assert one.error is (raised if isinstance(raised, e.CrmError) else None)
    assert len(window) == 0
    window.close()


def test_closing_waits_for_no_call_and_begins_none(
    monkeypatch: pytest.MonkeyPatch, open_later: Callable[[Gate], Gate]
) -> None:
    monkeypatch.setattr(windows, "MOST", 1)
    gate = open_later(Gate())
    window = WorkerPool(gate, lambda: 2)
    window.launch(flight(1))
    window.launch(flight(2))  # waits for the only thread
    gate.wait_for(1)
    window.close()
    assert gate.ended == []
    gate.open()
    (first, second) = window._flights
    assert first.result(PATIENCE) == SentRow(Outcome.CREATED)
    assert second.cancelled()
    assert [email for email, _ in gate.began] == ["p1@x"]


# -- an interrupt -------------------------------------------------------------------------------------------


def test_an_interrupt_ends_a_sleep() -> None:
    interrupt = CancelToken()
    interrupt.sleep(0)
    assert not interrupt.is_set
    threading.Timer(0.05, interrupt.set).start()
    with pytest.raises(Cancelled):
        interrupt.sleep(60)
    assert interrupt.is_set


def test_after_an_interrupt_nobody_begins_to_sleep() -> None:
    """Even before the thread that wakes the sleepers has run."""
    interrupt = CancelToken()
    interrupt._event.set = lambda: None  # type: ignore[method-assign]
    interrupt.set()
    with pytest.raises(Cancelled):
        interrupt.sleep(PATIENCE)


def test_a_signal_handler_that_interrupts_does_not_wait_for_the_thread_that_it_has_stopped() -> None:
    """That thread holds the event's lock if it was just about to sleep."""
    interrupt, before = CancelToken(), threading.enumerate()
    with interrupt._event._cond:  # type: ignore[attr-defined]
        interrupt.set()
        assert interrupt.is_set
        (waker,) = (thread for thread in threading.enumerate() if thread not in before)
        assert waker.name == "crm-load-interrupt"
        assert waker.daemon, "else the process would not end while it waits"
    waker.join(PATIENCE)
    assert interrupt._event.is_set()
