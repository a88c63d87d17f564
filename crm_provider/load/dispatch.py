"""The loop of a load: rows out while there is room, rows in as they come back, until all are done."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from crm_provider import errors as e
from crm_provider.files.paths import CannotWrite
from crm_provider.load.row_results import RowResultHandler
from crm_provider.load.state.checkpoint import DoneRows
from crm_provider.load.state.temp_tables import RowStatus, StagedRow
from crm_provider.load.workers import CancelToken, InFlightRow, WorkerPool

LOOKAHEAD = 500
"""Rows that may be done ahead of one that still is not: what a checkpoint must list stays small."""

LAST_WAIT = 5.0
"""Seconds that calls on their way may still take when the load is cut off."""

WAKE = 0.5
"""Seconds after which the loop looks around even if no call has come back."""


class Dispatcher:
    """Sends rows in their order.

    :param items: the rows that are still to be done
    :param flight_of: what is sent for a row
    :param ping: one harmless call, which fails if the CRM does not work
    :param tick: called often: saves, and says how far the load is
    """

    def __init__(
        self,
        *,
        items: Iterator[StagedRow],
        window: WorkerPool,
        flight_of: Callable[[StagedRow], InFlightRow],
        endings: RowResultHandler,
        done: DoneRows,
        interrupt: CancelToken,
        ping: Callable[[], object],
        tick: Callable[[], None],
        clock: Callable[[], float],
    ) -> None:
        self._items, self._window, self._flight_of = items, window, flight_of
        self._endings, self._done, self._interrupt = endings, done, interrupt
        self._ping, self._tick, self._clock = ping, tick, clock

    def run(self) -> None:
        """Send until all rows are done, an error ends the run, or the load is interrupted."""
        try:
            self._send()
            while self._window:  # calls that are on their way are finished: else their rows would be sent again
                self._land(WAKE)
        except BaseException:  # a time-out or a signal of Airflow's, or a bug
            self._interrupt.set()
            self._land_the_last()
            raise
        finally:
            self._window.close()

    @property
    def _is_ending(self) -> bool:
        return self._endings.stop is not None or self._interrupt.is_set

    def _send(self) -> None:
        while not self._is_ending:
            exhausted = self._fill()
            if not self._window and not self._endings.again:
                self._settle_held()
                if exhausted:
                    return
            self._land(WAKE)

    def _settle_held(self) -> None:
        """Nothing is on its way any more that could show whether the CRM works."""
        if self._endings.is_holding:
            try:
                self._ping()
            except (e.CrmTransientError, e.CrmThrottledError) as error:
                self._endings.server_is_down(error)
            self._endings.reject_held()

    def _fill(self) -> bool:
        """Send rows while there is room.

        :return: whether all rows are sent or done
        """
        while self._window.has_room and not self._is_ending:
            if self._endings.again:
                self._launch(self._endings.again.popleft())
                continue
            if self._done.ahead >= LOOKAHEAD:
                return False
            item = next(self._items, None)
            if item is None:
                return True
            if item.fate is RowStatus.SEND:
                self._launch(self._flight_of(item))
            else:
                self._endings.without_call(item)
            self._tick()
        return False

    def _launch(self, flight: InFlightRow) -> None:
        self._window.launch(self._endings.launching(flight))

    def _land(self, timeout: float) -> None:
        for landed in self._window.landed(timeout):
            self._endings.landed(landed)
        self._tick()

    def _land_the_last(self) -> None:
        """Take in what is back soon; the rest is sent again by the next try."""
        deadline = self._clock() + LAST_WAIT
        while self._window and self._clock() < deadline:
            try:
                self._land(WAKE / 5)
            except CannotWrite:
                continue  # the first one is being raised; a row that is not entered is sent again, the others are in
