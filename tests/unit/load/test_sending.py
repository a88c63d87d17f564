"""The loop of a load, its window replaced by one that a test commands: what leaves in which order, and when it ends."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from crm_provider import errors as e
from crm_provider.errors.on_error import Action
from crm_provider.files.paths import CannotWrite
from crm_provider.load import dispatch
from crm_provider.load.dispatch import WAKE, Dispatcher
from crm_provider.load.rows import Contact, Outcome, Row
from crm_provider.load.state.temp_tables import RowStatus, StagedRow
from crm_provider.load.workers import CancelToken, InFlightRow, RowResult, SentRow
from unit.fakes import FakeClock

from .test_endings import Scene, down, throttled

REFUSED = e.CrmForbiddenError("no", status=403)

Comes = Callable[[InFlightRow], "Outcome | e.CrmError | None"]


class Cut(BaseException):
    """Airflow's time-out, or a signal."""


class Air:
    """In place of the window. Each look lets the first rows land that are not in ``slow``; with none, time passes.

    :param width: how many have room
    :param together: how many land at one look
    """

    def __init__(self, clock: FakeClock, width: int) -> None:
        self.clock, self.width, self.together = clock, width, 1
        self.comes: Comes = lambda flight: Outcome.CREATED
        self.slow: set[int] = set()
        self.flights: list[InFlightRow] = []
        self.launched: list[int] = []
        self.most = self.closed = 0
        self.waits: list[float] = []
        self.looks: list[int] = []
        """How many were on their way at each look."""

    def __len__(self) -> int:
        return len(self.flights)

    @property
    def has_room(self) -> bool:
        return len(self.flights) < self.width

    def launch(self, flight: InFlightRow) -> None:
        self.flights.append(flight)
        self.launched.append(flight.row.number)
        self.most = max(self.most, len(self.flights))

    def landed(self, timeout: float) -> Iterator[RowResult]:
        self.waits.append(timeout)
        self.looks.append(len(self))
        assert len(self.waits) < 1000, "the loop does not end"
        back = [one for one in self.flights if one.row.number not in self.slow][: self.together]
        if not back:
            self.clock.now += timeout
        for flight in back:
            self.flights.remove(flight)
            came = self.comes(flight)
            error = came if isinstance(came, e.CrmError) else None
            yield RowResult(flight, SentRow(came) if isinstance(came, Outcome) else None, error)

    def close(self) -> None:
        self.closed += 1


class Loop(Scene):
    """A loop over rows whose fates are given, with real endings and books."""

    def __init__(self, fates: list[RowStatus] | int, *, width: int = 3, **options: Any) -> None:
        super().__init__(**options)
        self.fates = [RowStatus.SEND] * fates if isinstance(fates, int) else fates
        self.clock, self.interrupt = FakeClock(), CancelToken()
        self.air = Air(self.clock, width)
        self.pinged = self.ticks = 0
        self.ping_fails: Exception | None = None
        self.tick: Callable[[], None] = lambda: None

    def items(self) -> Iterator[StagedRow]:
        for number, fate in enumerate(self.fates, start=1):
            email = f"p{number}@x.org" if fate is not RowStatus.INVALID else "nobody"
            yield StagedRow(Row(number, {"email": email}), fate)

    def run(self) -> None:
        Dispatcher(
            items=self.items(),
            window=self.air,  # type: ignore[arg-type]
            flight_of=lambda item: InFlightRow(item.row, Contact(item.row.values["email"]), None),
            endings=self.endings,
            done=self.ledger.done,
            interrupt=self.interrupt,
            ping=self._ping,
            tick=self._tick,
            clock=self.clock,
        ).run()

    def _ping(self) -> None:
        self.pinged += 1
        if self.ping_fails is not None:
            raise self.ping_fails

    def _tick(self) -> None:
        self.ticks += 1
        self.tick()


# -- the straight way ---------------------------------------------------------------------------------------


def test_rows_leave_in_their_order_as_many_at_once_as_there_is_room_for() -> None:
    it = Loop(7, width=3)
    it.run()
    assert it.air.launched == [1, 2, 3, 4, 5, 6, 7]
    assert it.air.most == 3 and not it.air.flights
    assert it.counts == {"created": 7}
    assert (it.air.closed, it.pinged, it.interrupt.is_set) == (1, 0, False)
    assert set(it.air.waits) == {WAKE}


def test_without_rows_nothing_happens() -> None:
    it = Loop(0)
    it.run()
    assert (it.air.launched, it.air.waits, it.pinged, it.air.closed) == ([], [], 0, 1)


def test_rows_that_need_no_call_are_entered_on_the_way() -> None:
    it = Loop(
        [RowStatus.SAME, RowStatus.SEND, RowStatus.DUPLICATE, RowStatus.SUPPRESSED, RowStatus.INVALID, RowStatus.SEND]
    )
    it.run()
    assert it.air.launched == [2, 6]
    assert it.counts == {"created": 2, "unchanged": 1, "skipped": 1, "suppressed": 1, "rejected": 1}


def test_after_every_row_there_is_a_chance_to_save() -> None:
    """The saver decides: it must hear of rows that need no call and of those that come back."""
    it, done = Loop([RowStatus.SAME] * 3 + [RowStatus.SEND] * 3, width=1), []
    it.tick = lambda: done.append(it.ledger.rows)
    it.run()
    assert set(range(1, 7)) <= set(done)
    assert done == sorted(done)


def test_a_row_that_is_sent_again_goes_before_those_that_have_not_left() -> None:
    it, left = Loop(4, width=2), {1: 2, 2: 1}

    def comes(flight: InFlightRow) -> Outcome | e.CrmError:
        left[flight.row.number] = left.get(flight.row.number, 0) - 1
        return throttled() if left[flight.row.number] >= 0 else Outcome.CREATED

    it.air.comes = comes
    it.run()
    assert it.air.launched == [1, 2, 1, 2, 1, 3, 4]
    assert it.counts == {"created": 4}


def test_rows_that_are_sent_again_leave_together_and_new_ones_with_them() -> None:
    it, throttles = Loop(5, width=4), {1, 2, 3}
    it.air.together = 4

    def comes(flight: InFlightRow) -> Outcome | e.CrmError:
        if flight.row.number in throttles:
            throttles.remove(flight.row.number)
            return throttled()
        return Outcome.CREATED

    it.air.comes = comes
    it.run()
    assert it.air.launched == [1, 2, 3, 4, 1, 2, 3, 5]
    assert it.air.looks == [4, 4]


def test_no_room_for_a_while_is_not_the_end_of_the_rows() -> None:
    it = Loop(3, width=0)
    it.tick = lambda: setattr(it.air, "width", 2)
    it.run()
    assert it.counts == {"created": 3}


def test_the_last_row_is_sent_again_too() -> None:
    it, throttles = Loop(1), [throttled(), throttled()]
    it.air.comes = lambda flight: throttles.pop() if throttles else Outcome.CREATED
    it.run()
    assert it.air.launched == [1, 1, 1]
    assert (it.counts, it.pinged) == ({"created": 1}, 0)


# -- a checkpoint stays small -------------------------------------------------------------------------------


def test_no_row_is_done_too_far_ahead_of_one_that_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dispatch, "LOOKAHEAD", 5)
    it, ahead = Loop([RowStatus.SEND] + [RowStatus.SAME] * 20), []
    it.air.slow = {1}

    def tick() -> None:
        ahead.append(it.ledger.done.ahead)
        if len(it.air.waits) == 3:
            it.air.slow = set()

    it.tick = tick
    it.run()
    assert max(ahead) == 5
    assert it.counts == {"created": 1, "unchanged": 20}


def test_a_row_that_waits_for_a_sign_of_the_server_does_not_keep_those_behind_it_for_ever(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Nothing is on its way that could give the sign, and no further row may leave before it."""
    monkeypatch.setattr(dispatch, "LOOKAHEAD", 5)
    it = Loop([RowStatus.SEND] + [RowStatus.SAME] * 20)
    it.air.comes = lambda flight: down()
    it.run()
    assert it.pinged == 1
    assert it.counts == {"rejected": 1, "unchanged": 20}


# -- the server is out of order -----------------------------------------------------------------------------


def test_at_the_end_a_harmless_call_tells_if_the_rows_that_are_held_are_to_blame() -> None:
    it = Loop(4)
    it.air.comes = lambda flight: down() if flight.row.number > 2 else Outcome.CREATED
    it.run()
    assert it.pinged == 1
    assert it.rejected == [3, 4]
    assert it.endings.stop is None


@pytest.mark.parametrize("error", [down(), throttled()], ids=lambda error: error.type)
def test_if_that_call_fails_too_the_run_ends_and_rejects_nothing(error: e.CrmError) -> None:
    it = Loop(4)
    it.air.comes = lambda flight: down() if flight.row.number > 2 else Outcome.CREATED
    it.ping_fails = error
    it.run()
    assert it.pinged == 1
    assert it.endings.stop is not None
    assert (it.endings.stop[0], it.endings.stop[1].action) == (error, Action.RETRY)
    assert it.rejected == [] and it.counts == {"created": 2}
    assert it.air.closed == 1


def test_a_row_that_is_to_be_sent_again_is_the_sign() -> None:
    """No further call is made while there are rows that have to be sent anyway."""
    it, seen = Loop(2, width=2), set()

    def comes(flight: InFlightRow) -> Outcome | e.CrmError:
        if flight.row.number == 1:
            return down()
        first = 2 not in seen
        seen.add(2)
        return throttled() if first else Outcome.CREATED

    it.air.comes = comes
    it.run()
    assert it.air.launched == [1, 2, 2]
    assert it.pinged == 0
    assert it.counts == {"created": 1, "rejected": 1}


# -- ends before the last row -------------------------------------------------------------------------------


def test_after_an_error_of_the_run_no_row_leaves_and_those_on_their_way_are_waited_for() -> None:
    it = Loop(20, width=4)
    it.air.slow = {3}

    def tick() -> None:
        if it.air.waits.count(WAKE) == 8:
            it.air.slow = set()

    it.tick = tick
    it.air.comes = lambda flight: REFUSED if flight.row.number == 2 else Outcome.CREATED
    it.run()
    assert it.endings.stop is not None and it.endings.stop[0] is REFUSED
    assert it.air.launched == [1, 2, 3, 4, 5]
    assert not it.air.flights
    assert it.counts == {"created": 4}, "the slow one, too: else it would be sent again"
    assert len(it.air.waits) >= 8 and set(it.air.waits) == {WAKE}
    assert (it.pinged, it.air.closed) == (0, 1)


def test_a_row_that_was_to_be_sent_again_stays_for_the_next_try_if_the_run_ends() -> None:
    it = Loop(20, width=2)
    it.air.comes = lambda flight: throttled() if flight.row.number == 1 else REFUSED
    it.air.slow = {1}
    it.tick = lambda: it.air.slow.clear() if it.endings.stop is not None else None
    it.run()
    assert it.air.launched == [1, 2]
    assert it.counts == {}


def test_an_interrupt_is_heard_between_two_rows() -> None:
    it = Loop([RowStatus.SEND, *[RowStatus.SAME] * 10, RowStatus.SEND])
    it.tick = lambda: it.interrupt.set() if it.ledger.rows == 4 else None
    it.run()
    assert it.air.launched == [1]
    assert it.counts == {"created": 1, "unchanged": 4}
    assert not it.air.flights and it.air.closed == 1


def test_an_interrupt_before_the_first_row() -> None:
    it = Loop(3)
    it.interrupt.set()
    it.run()
    assert it.air.launched == [] and it.pinged == 0


# -- cut off ------------------------------------------------------------------------------------------------


def test_a_load_that_is_cut_off_takes_in_what_comes_back_soon_and_begins_nothing_new() -> None:
    it = Loop(20, width=4)

    def cut_once() -> None:
        if it.ledger.rows == 2:
            it.tick = lambda: None
            raise Cut

    it.tick = cut_once
    with pytest.raises(Cut):
        it.run()
    assert it.interrupt.is_set, "calls that wait for their slot are not made"
    assert it.counts == {"created": len(it.air.launched)}
    assert max(it.air.launched) <= 2 + 4
    assert not it.air.flights and it.air.closed == 1


def test_what_does_not_come_back_is_waited_for_a_little_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dispatch, "LAST_WAIT", 0.5)
    monkeypatch.setattr(dispatch, "WAKE", 0.625)
    it = Loop(4, width=4)
    it.air.slow = {1, 2, 3, 4}
    it.tick = lambda: _cut(it)
    with pytest.raises(Cut):
        it.run()
    assert it.air.waits == [0.125] * 4, "short looks, half a second in all"
    assert len(it.air.flights) == 4 and it.counts == {}
    assert it.air.closed == 1


def _cut(it: Loop) -> None:
    """Once, as soon as all have left."""
    if len(it.air.flights) == 4:
        it.tick = lambda: None
        raise Cut


def test_a_full_disk_does_not_lose_the_rows_that_come_back_after(monkeypatch: pytest.MonkeyPatch) -> None:
    it, full = Loop(6, width=6), {1, 2, 4}
    enter = it.ledger.enter

    def enter_if_there_is_room(number: int, outcome: Outcome, **more: Any) -> None:
        if number in full:
            raise CannotWrite(f"row {number}", "No space left on device")
        enter(number, outcome, **more)

    monkeypatch.setattr(it.ledger, "enter", enter_if_there_is_room)
    with pytest.raises(CannotWrite, match="row 1"):
        it.run()
    assert it.counts == {"created": 3}
    assert [number in it.ledger.done for number in range(1, 7)] == [False, False, True, False, True, True]
    assert it.air.closed == 1


def test_a_bug_ends_the_threads_too() -> None:
    it = Loop(3)

    def comes(flight: InFlightRow) -> Outcome:
        raise KeyError("a bug")

    it.air.comes = comes
    with pytest.raises(KeyError):
        it.run()
    assert it.air.closed == 1 and it.interrupt.is_set
