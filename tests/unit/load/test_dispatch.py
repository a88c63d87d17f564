"""The dispatcher with fake workers: the launch order of rows, and when the loop ends."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from types import SimpleNamespace
from typing import Any

import pytest

from crm_provider import errors as e
from crm_provider.errors.on_error import Action
from crm_provider.files.paths import CannotWrite
from crm_provider.load import dispatch
from crm_provider.load.dispatch import WAKE, Dispatcher
from crm_provider.load.rows import Contact, Outcome, Row
from crm_provider.load.state.temp_tables import RowStatus, StagedRows
from crm_provider.load.workers import CancelToken, InFlightRow, RowResult, SentRow
from unit.fakes import FakeClock

from .test_row_results import Scene, down, throttled

REFUSED = e.CrmForbiddenError("no", status=403)

Comes = Callable[[InFlightRow], "Outcome | e.CrmError | None"]


class Cut(BaseException):
    """Airflow's timeout, or a signal."""


class Air:
    """Fake workers. Each poll completes the first rows that are not in ``slow``; if there are none, time passes.

    :param width: how many rows may be in flight
    :param together: how many rows complete in one poll
    """

    def __init__(self, clock: FakeClock, width: int) -> None:
        self.clock, self.room, self.together = clock, width, 1
        self.comes: Comes = lambda in_flight: Outcome.CREATED
        self.slow: set[int] = set()
        self.in_flight: list[InFlightRow] = []
        self.launched: list[int] = []
        self.most = self.closed = 0
        self.waits: list[float] = []
        self.looks: list[int] = []
        """Rows in flight at each poll."""

    def width(self) -> int:
        return self.room

    def submit(self, row: InFlightRow) -> None:
        self.in_flight.append(row)
        self.launched.append(row.row.number)
        self.most = max(self.most, len(self.in_flight))

    def results(self, timeout: float) -> Iterator[RowResult]:
        self.waits.append(timeout)
        self.looks.append(len(self.in_flight))
        assert len(self.waits) < 1000, "the loop never ends"
        back = [one for one in self.in_flight if one.row.number not in self.slow][: self.together]
        if not back:
            self.clock.now += timeout
        for in_flight in back:
            self.in_flight.remove(in_flight)
            came = self.comes(in_flight)
            error = came if isinstance(came, e.CrmError) else None
            yield RowResult(in_flight, SentRow(came) if isinstance(came, Outcome) else None, error)

    def close(self) -> None:
        self.closed += 1


class Loop(Scene):
    """A loop over rows with given results, with the real row results and counts."""

    def __init__(self, fates: list[RowStatus] | int, *, width: int = 3, **options: Any) -> None:
        super().__init__(**options)
        self.fates = [RowStatus.SEND] * fates if isinstance(fates, int) else fates
        self.clock, self.cancel_token = FakeClock(), CancelToken()
        self.air = Air(self.clock, width)
        self.pinged = self.ticks = 0
        self.ping_fails: Exception | None = None
        self.tick: Callable[[], None] = lambda: None

    def staged(self) -> StagedRows:
        rows = StagedRows()
        for number, status in enumerate(self.fates, start=1):
            email = f"p{number}@x.org" if status is not RowStatus.INVALID else "nobody"
            contact = Contact(email, {}) if status is RowStatus.SEND else None
            problem = "email: no email address; correct it" if status is RowStatus.INVALID else ""
            rows.add(Row(number, {"email": email}), status, contact, problem=problem)
        return rows

    def run(self) -> None:
        progress: Any = SimpleNamespace(
            counts=self.row_counts, is_resumed=False, is_cleared=False, began=None, tick=self._tick
        )
        with closing(self.staged()) as staged:
            Dispatcher(
                staged=staged,
                workers=self.air,  # type: ignore[arg-type]
                handler=self.handler,
                remote_of=lambda record: None,
                progress=progress,
                cancel_token=self.cancel_token,
                ping=self._ping,
                clock=self.clock,
            ).run()

    def _ping(self) -> None:
        self.pinged += 1
        if self.ping_fails is not None:
            raise self.ping_fails

    def _tick(self) -> None:
        self.ticks += 1
        self.tick()


# -- the happy path -----------------------------------------------------------------------------------------


def test_rows_are_launched_in_order_up_to_the_width() -> None:
    it = Loop(7, width=3)
    it.run()
    assert it.air.launched == [1, 2, 3, 4, 5, 6, 7]
    assert it.air.most == 3 and not it.air.in_flight
    assert it.counts == {"created": 7}
    assert (it.air.closed, it.pinged, it.cancel_token.is_set) == (1, 0, False)
    assert set(it.air.waits) == {WAKE}


def test_nothing_happens_without_rows() -> None:
    it = Loop(0)
    it.run()
    assert (it.air.launched, it.air.waits, it.pinged, it.air.closed) == ([], [], 0, 1)


def test_rows_without_a_call_are_counted_in_passing() -> None:
    it = Loop(
        [RowStatus.SAME, RowStatus.SEND, RowStatus.DUPLICATE, RowStatus.SUPPRESSED, RowStatus.INVALID, RowStatus.SEND]
    )
    it.run()
    assert it.air.launched == [2, 6]
    assert it.counts == {"created": 2, "unchanged": 1, "skipped": 1, "suppressed": 1, "rejected": 1}


def test_saver_runs_after_every_row() -> None:
    """The saver decides when to save: it must see rows without a call and rows that complete."""
    it, done = Loop([RowStatus.SAME] * 3 + [RowStatus.SEND] * 3, width=1), []
    it.tick = lambda: done.append(it.row_counts.rows)
    it.run()
    assert set(range(1, 7)) <= set(done)
    assert done == sorted(done)


def test_retried_row_goes_before_rows_not_yet_launched() -> None:
    it, left = Loop(4, width=2), {1: 2, 2: 1}

    def comes(in_flight: InFlightRow) -> Outcome | e.CrmError:
        left[in_flight.row.number] = left.get(in_flight.row.number, 0) - 1
        return throttled() if left[in_flight.row.number] >= 0 else Outcome.CREATED

    it.air.comes = comes
    it.run()
    assert it.air.launched == [1, 2, 1, 2, 1, 3, 4]
    assert it.counts == {"created": 4}


def test_retried_rows_are_launched_together_with_new_ones() -> None:
    it, throttles = Loop(5, width=4), {1, 2, 3}
    it.air.together = 4

    def comes(in_flight: InFlightRow) -> Outcome | e.CrmError:
        if in_flight.row.number in throttles:
            throttles.remove(in_flight.row.number)
            return throttled()
        return Outcome.CREATED

    it.air.comes = comes
    it.run()
    assert it.air.launched == [1, 2, 3, 4, 1, 2, 3, 5]
    assert it.air.looks == [4, 4]


def test_no_free_worker_for_a_while_loses_no_rows() -> None:
    it = Loop(3, width=0)
    it.tick = lambda: setattr(it.air, "room", 2)
    it.run()
    assert it.counts == {"created": 3}


def test_last_row_can_be_retried() -> None:
    it, throttles = Loop(1), [throttled(), throttled()]
    it.air.comes = lambda in_flight: throttles.pop() if throttles else Outcome.CREATED
    it.run()
    assert it.air.launched == [1, 1, 1]
    assert (it.counts, it.pinged) == ({"created": 1}, 0)


# -- a checkpoint stays small -------------------------------------------------------------------------------


def test_no_row_completes_too_far_ahead_of_an_open_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dispatch, "LOOKAHEAD", 5)
    it, ahead = Loop([RowStatus.SEND] + [RowStatus.SAME] * 20), []
    it.air.slow = {1}

    def tick() -> None:
        ahead.append(len(it.row_counts.done.above))
        if len(it.air.waits) == 3:
            it.air.slow = set()

    it.tick = tick
    it.run()
    assert max(ahead) == 5
    assert it.counts == {"created": 1, "unchanged": 20}


def test_row_held_for_a_server_response_does_not_block_later_rows_forever(monkeypatch: pytest.MonkeyPatch) -> None:
    """No row is in flight to prove that the server responds, and no further row may be launched before it."""
    monkeypatch.setattr(dispatch, "LOOKAHEAD", 5)
    it = Loop([RowStatus.SEND] + [RowStatus.SAME] * 20)
    it.air.comes = lambda in_flight: down()
    it.run()
    assert it.pinged == 1
    assert it.counts == {"rejected": 1, "unchanged": 20}


def test_resumed_load_sends_the_open_row_though_many_rows_after_it_are_done(monkeypatch: pytest.MonkeyPatch) -> None:
    """The last try was killed while a row held up all others."""
    monkeypatch.setattr(dispatch, "LOOKAHEAD", 5)
    it = Loop(20)
    for number in (1, *range(3, 9)):
        it.row_counts.done.add(number)
    it.run()
    assert it.air.launched == [2, *range(9, 21)]


# -- server errors ------------------------------------------------------------------------------------------


def test_probe_call_at_the_end_shows_whether_held_rows_are_at_fault() -> None:
    it = Loop(4)
    it.air.comes = lambda in_flight: down() if in_flight.row.number > 2 else Outcome.CREATED
    it.run()
    assert it.pinged == 1
    assert it.rejected == [3, 4]
    assert it.handler.stop is None


@pytest.mark.parametrize("error", [down(), throttled()], ids=lambda error: error.type)
def test_failed_probe_ends_the_run_and_rejects_nothing(error: e.CrmError) -> None:
    it = Loop(4)
    it.air.comes = lambda in_flight: down() if in_flight.row.number > 2 else Outcome.CREATED
    it.ping_fails = error
    it.run()
    assert it.pinged == 1
    assert it.handler.stop is not None
    assert (it.handler.stop[0], it.handler.stop[1].action) == (error, Action.RETRY)
    assert it.rejected == [] and it.counts == {"created": 2}
    assert it.air.closed == 1


def test_retried_row_replaces_the_probe() -> None:
    """No probe is made while there are rows to send anyway."""
    it, seen = Loop(2, width=2), set()

    def comes(in_flight: InFlightRow) -> Outcome | e.CrmError:
        if in_flight.row.number == 1:
            return down()
        first = 2 not in seen
        seen.add(2)
        return throttled() if first else Outcome.CREATED

    it.air.comes = comes
    it.run()
    assert it.air.launched == [1, 2, 2]
    assert it.pinged == 0
    assert it.counts == {"created": 1, "rejected": 1}


# -- early ends ---------------------------------------------------------------------------------------------


def test_after_an_error_of_the_run_no_row_is_launched_and_those_in_flight_are_awaited() -> None:
    it = Loop(20, width=4)
    it.air.slow = {3}

    def tick() -> None:
        if it.air.waits.count(WAKE) == 8:
            it.air.slow = set()

    it.tick = tick
    it.air.comes = lambda in_flight: REFUSED if in_flight.row.number == 2 else Outcome.CREATED
    it.run()
    assert it.handler.stop is not None and it.handler.stop[0] is REFUSED
    assert it.air.launched == [1, 2, 3, 4, 5]
    assert not it.air.in_flight
    assert it.counts == {"created": 4}, "the slow row, too: otherwise the next try would send it again"
    assert len(it.air.waits) >= 8 and set(it.air.waits) == {WAKE}
    assert (it.pinged, it.air.closed) == (0, 1)


def test_retry_is_left_for_the_next_try_if_the_run_ends() -> None:
    it = Loop(20, width=2)
    it.air.comes = lambda in_flight: throttled() if in_flight.row.number == 1 else REFUSED
    it.air.slow = {1}
    it.tick = lambda: it.air.slow.clear() if it.handler.stop is not None else None
    it.run()
    assert it.air.launched == [1, 2]
    assert it.counts == {}


def test_interrupt_is_noticed_between_two_rows() -> None:
    it = Loop([RowStatus.SEND, *[RowStatus.SAME] * 10, RowStatus.SEND])
    it.tick = lambda: it.cancel_token.set() if it.row_counts.rows == 4 else None
    it.run()
    assert it.air.launched == [1]
    assert it.counts == {"created": 1, "unchanged": 4}
    assert not it.air.in_flight and it.air.closed == 1


def test_interrupt_before_the_first_row() -> None:
    it = Loop(3)
    it.cancel_token.set()
    it.run()
    assert it.air.launched == [] and it.pinged == 0


# -- cut off by an exception --------------------------------------------------------------------------------


def test_interrupted_load_counts_rows_that_complete_soon_and_starts_nothing() -> None:
    it = Loop(20, width=4)

    def cut_once() -> None:
        if it.row_counts.rows == 2:
            it.tick = lambda: None
            raise Cut

    it.tick = cut_once
    with pytest.raises(Cut):
        it.run()
    assert it.cancel_token.is_set, "calls that wait for a slot are not made"
    assert it.counts == {"created": len(it.air.launched)}
    assert max(it.air.launched) <= 2 + 4
    assert not it.air.in_flight and it.air.closed == 1


def test_interrupted_load_waits_only_briefly_for_rows_in_flight(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dispatch, "LAST_WAIT", 0.5)
    monkeypatch.setattr(dispatch, "WAKE", 0.625)
    it = Loop(4, width=4)
    it.air.slow = {1, 2, 3, 4}
    it.tick = lambda: _cut(it)
    with pytest.raises(Cut):
        it.run()
    assert it.air.waits == [0.125] * 4, "short polls, half a second in total"
    assert len(it.air.in_flight) == 4 and it.counts == {}
    assert it.air.closed == 1


def _cut(it: Loop) -> None:
    """Raise once, as soon as all rows are launched."""
    if len(it.air.in_flight) == 4:
        it.tick = lambda: None
        raise Cut


def test_rows_completed_after_a_full_disk_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    it, full = Loop(6, width=6), {1, 2, 4}
    enter = it.row_counts.enter

    def enter_if_there_is_room(number: int, outcome: Outcome, **more: Any) -> None:
        if number in full:
            raise CannotWrite(f"row {number}", "No space left on device")
        enter(number, outcome, **more)

    monkeypatch.setattr(it.row_counts, "enter", enter_if_there_is_room)
    with pytest.raises(CannotWrite, match="row 1"):
        it.run()
    assert it.counts == {"created": 3}
    assert [number in it.row_counts.done for number in range(1, 7)] == [False, False, True, False, True, True]
    assert it.air.closed == 1


def test_bug_closes_the_workers() -> None:
    it = Loop(3)

    def comes(in_flight: InFlightRow) -> Outcome:
        raise KeyError("a bug")

    it.air.comes = comes
    with pytest.raises(KeyError):
        it.run()
    assert it.air.closed == 1 and it.cancel_token.is_set
