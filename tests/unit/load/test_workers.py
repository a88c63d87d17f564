"""The workers: the number of rows in flight, their results, and the end of waits and threads."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextvars import ContextVar

import pytest

from crm_provider import errors as e
from crm_provider.client.observers import RequestEvent
from crm_provider.client.pagination import Page, ReadAhead
from crm_provider.client.remote_contact import RemoteContact
from crm_provider.load import workers as module
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
    in_order,
    width_for,
)

PATIENCE = 120.0
"""Seconds until a thread of a test times out; no passing test takes this long."""


class Gate:
    """A fake sender of rows that completes when the gate is opened.

    :param shut: addresses whose rows wait at the gate; None for all
    """

    def __init__(self, shut: set[str] | None = None) -> None:
        self._shut, self._open, self._lock = shut, threading.Event(), threading.Lock()
        self.began: list[tuple[str, RemoteContact | None]] = []
        self.ended: list[str] = []
        self.threads: list[str] = []
        self.all_began = threading.Semaphore(0)

    def __call__(self, in_flight: InFlightRow) -> SentRow:
        contact = in_flight.record
        with self._lock:
            self.began.append((contact.email, in_flight.remote))
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
    """Gates that are always open at the end."""
    gates: list[Gate] = []

    def later(gate: Gate) -> Gate:
        gates.append(gate)
        return gate

    yield later
    for gate in gates:
        gate.open()


def in_flight(number: int, seen: RemoteContact | None = None) -> InFlightRow:
    return InFlightRow(Row(number, {}), Contact(f"p{number}@x", {}), seen)


def results(workers: WorkerPool) -> list[int]:
    """The numbers of all rows in the order of completion."""
    numbers = []
    while workers.in_flight:
        numbers += [one.in_flight.row.number for one in workers.results(PATIENCE)]
    return numbers


def pool_of(send: Callable[[InFlightRow], SentRow], stats: RequestStats | None = None) -> WorkerPool:
    return WorkerPool(send, 5.0, stats or RequestStats())


# -- rows in flight -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rate", "latency", "width"),
    [(5, 0, LEAST), (5, 0.05, LEAST), (5, 0.5, LEAST), (5, 1.0, 7), (5, 2.0, 12), (50, 0.2, 12), (1000, 10, MOST)],
)
def test_width(rate: float, latency: float, width: int) -> None:
    assert width_for(rate, latency) == width
    assert width >= rate * latency or width == MOST


def test_width_follows_the_latency() -> None:
    stats = RequestStats()
    workers = pool_of(Gate(), stats)
    assert workers.width() == LEAST
    stats(call_of(2.0))
    assert workers.width() == width_for(5.0, 2.0) == 12
    workers.close()


def call_of(seconds: float) -> RequestEvent:
    return RequestEvent(method="GET", route="/x", status=200, seconds=seconds, waited=0, error_type=None, attempt=1)


def test_latency_is_an_average_of_the_last_calls() -> None:
    stats = RequestStats()
    assert stats.latency == 0
    for _ in range(100):
        stats(call_of(1.0))
    assert stats.latency == pytest.approx(1.0)
    for _ in range(50):
        stats(call_of(3.0))
    assert stats.latency == pytest.approx(3.0, rel=0.01)
    assert stats.calls == 150


def test_latency_starts_with_the_first_call_and_follows_slowly() -> None:
    stats = RequestStats()
    stats(call_of(2.0))
    assert stats.latency == 2.0
    stats(call_of(4.0))
    assert stats.latency == pytest.approx(REMEMBERED * 2.0 + (1 - REMEMBERED) * 4.0)


def test_rows_stay_in_flight_until_their_results_are_taken(open_later: Callable[[Gate], Gate]) -> None:
    gate = open_later(Gate())
    workers = pool_of(gate)
    for number in (1, 2, 3):
        workers.submit(in_flight(number))
    assert len(workers.in_flight) == 3
    assert list(workers.results(0.01)) == []
    gate.open()
    assert sorted(results(workers)) == [1, 2, 3]
    workers.close()


def test_all_threads_work_at_once(open_later: Callable[[Gate], Gate]) -> None:
    gate = open_later(Gate())
    workers = pool_of(gate)
    for number in range(1, MOST + 1):
        workers.submit(in_flight(number))
    gate.wait_for(MOST)
    assert {name.rpartition("_")[0] for name in gate.threads} == {"crm-load"}
    gate.open()
    assert len(results(workers)) == MOST
    workers.close()


# -- results ------------------------------------------------------------------------------------------------


def test_row_is_sent_with_its_cached_contact() -> None:
    gate, seen = Gate(shut=set()), RemoteContact("P1@x", {"name": "Ann"})
    workers = pool_of(gate)
    sent = in_flight(1, seen)
    workers.submit(sent)
    (one,) = workers.results(PATIENCE)
    assert gate.began == [("p1@x", seen)]
    assert one.in_flight is sent
    assert one.sent == SentRow(Outcome.CREATED)
    workers.close()


def test_first_result_does_not_wait_for_the_others(open_later: Callable[[Gate], Gate]) -> None:
    gate = open_later(Gate(shut={"p1@x", "p3@x"}))
    workers = pool_of(gate)
    for number in (1, 2, 3):
        workers.submit(in_flight(number))
    assert [one.in_flight.row.number for one in workers.results(PATIENCE)] == [2]
    assert len(workers.in_flight) == 2
    assert gate.ended == ["p2@x"], "nobody waited until a thread timed out"
    gate.open()
    assert sorted(results(workers)) == [1, 3]
    workers.close()


def test_result_that_is_not_taken_is_returned_again() -> None:
    workers = pool_of(Gate(shut=set()))
    for number in (1, 2):
        workers.submit(in_flight(number))
    while len(workers.in_flight) == 2:
        one = next(workers.results(PATIENCE), None)  # the other one is left
        assert one is not None
    assert results(workers) == [3 - one.in_flight.row.number]
    workers.close()


def test_empty_workers_do_not_wait() -> None:
    workers = pool_of(lambda row: SentRow(Outcome.CREATED))
    assert list(workers.results(1e9)) == []
    workers.close()


@pytest.mark.parametrize("raised", [Cancelled(), e.CrmForbiddenError("no"), KeyError("a bug")])
def test_results_and_errors_of_a_worker(raised: Exception) -> None:
    def send(in_flight: InFlightRow) -> SentRow:
        raise raised

    workers = pool_of(send)
    workers.submit(in_flight(1))
    if isinstance(raised, KeyError):
        with pytest.raises(KeyError):
            list(workers.results(PATIENCE))
    else:
        (one,) = workers.results(PATIENCE)
        assert one.sent is None
        assert one.error is (raised if isinstance(raised, e.CrmError) else None)
    assert len(workers.in_flight) == 0
    workers.close()


def test_closing_waits_for_no_call_and_starts_none(
    monkeypatch: pytest.MonkeyPatch, open_later: Callable[[Gate], Gate]
) -> None:
    monkeypatch.setattr(module, "MOST", 1)
    gate = open_later(Gate())
    workers = pool_of(gate)
    workers.submit(in_flight(1))
    workers.submit(in_flight(2))  # waits for the only thread
    gate.wait_for(1)
    workers.close()
    assert gate.ended == []
    gate.open()
    (first, second) = workers.in_flight
    assert first.result(PATIENCE) == SentRow(Outcome.CREATED)
    assert second.cancelled()
    assert [email for email, _ in gate.began] == ["p1@x"]


# -- a cancel token --------------------------------------------------------------------------------------------


def test_cancel_ends_a_sleep() -> None:
    cancel_token = CancelToken()
    cancel_token.sleep(0)
    assert not cancel_token.is_set
    threading.Timer(0.05, cancel_token.set).start()
    with pytest.raises(Cancelled):
        cancel_token.sleep(60)
    assert cancel_token.is_set


def test_no_sleep_starts_after_a_cancel() -> None:
    """Even before the thread that wakes the sleepers has run."""
    cancel_token = CancelToken()
    cancel_token._event.set = lambda: None  # type: ignore[method-assign]
    cancel_token.set()
    with pytest.raises(Cancelled):
        cancel_token.sleep(PATIENCE)


def test_signal_handler_does_not_wait_for_the_thread_it_interrupted() -> None:
    """That thread holds the event's lock if it was about to sleep."""
    cancel_token, before = CancelToken(), threading.enumerate()
    with cancel_token._event._cond:  # type: ignore[attr-defined]
        cancel_token.set()
        assert cancel_token.is_set
        (waker,) = (thread for thread in threading.enumerate() if thread not in before)
        assert waker.name == "crm-load-cancel"
        assert waker.daemon, "otherwise the process would not end during the wait"
    waker.join(PATIENCE)
    assert cancel_token._event.is_set()


def test_results_come_in_order_and_no_call_starts_after_an_error() -> None:
    begun: list[int] = []

    def call(item: int) -> int:
        begun.append(item)
        if item == 3:
            raise e.CrmInternalServerError("down", status=500)
        return item * 10

    assert list(in_order(call, [], 2)) == []
    assert list(in_order(call, [0, 1, 2], 2)) == list(in_order(call, [0, 1, 2], 9)) == [0, 10, 20]
    begun.clear()
    results = in_order(call, range(9), 1)
    assert [next(results) for _ in range(3)] == [0, 10, 20]
    with pytest.raises(e.CrmInternalServerError):
        next(results)
    assert begun == [0, 1, 2, 3]


TASK: ContextVar[str] = ContextVar("TASK", default="none")  # Airflow's log takes the ids of a task from such variables


def test_threads_have_the_context_of_their_caller() -> None:
    seen: list[str] = []

    def send(row: InFlightRow) -> SentRow:
        seen.append(TASK.get())
        return SentRow(Outcome.UPDATED)

    workers, token = pool_of(send), TASK.set("load")
    try:
        workers.submit(in_flight(1))
        assert (results(workers), seen) == ([1], ["load"])
        assert list(in_order(lambda item: TASK.get(), [1], 2)) == ["load"]
        with ReadAhead(lambda number: Page([{"of": TASK.get()}], 20), at_once=2) as read:
            assert [read(number).items for number in (0, 1)] == [[{"of": "load"}], [{"of": "load"}]]
    finally:
        TASK.reset(token)
        workers.close()
