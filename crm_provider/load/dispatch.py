"""The loop of a load: launch rows while there is room, handle their results, until all rows are done."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from crm_provider import errors as e
from crm_provider.files.paths import CannotWrite
from crm_provider.load.progress import LoadProgress
from crm_provider.load.row_results import RowResultHandler
from crm_provider.load.rows import EarlierCreation, Record
from crm_provider.load.state.temp_tables import RowStatus, StagedRow, StagedRows
from crm_provider.load.workers import CancelToken, InFlightRow, WorkerPool

LOOKAHEAD = 500
"""Rows that may be done after one that is not done. A limit keeps checkpoints small, because they list these rows."""

LAST_WAIT = 5.0
"""Seconds that calls in flight may still take after an interruption of the load."""

WAKE = 0.5
"""Seconds after which the loop continues even if there is no result."""


class Dispatcher:
    """Sends the staged rows in order, except those that are done.

    :param remote_of: returns what is known of a record in the CRM
    :param progress: saves a checkpoint and logs, when it is time
    :param ping: makes one harmless call, which fails if the CRM does not work
    :param clock: seconds
    """

    def __init__(
        self,
        *,
        staged: StagedRows,
        workers: WorkerPool,
        handler: RowResultHandler,
        remote_of: Callable[[Record], Any],
        progress: LoadProgress,
        cancel_token: CancelToken,
        ping: Callable[[], object],
        clock: Callable[[], float],
    ) -> None:
        self._workers, self._handler, self._progress = workers, handler, progress
        self._remote_of = remote_of
        self._cancel_token, self._ping, self._clock = cancel_token, ping, clock
        self._done = progress.counts.done
        self._rows = staged.rows(after=self._done.upto, without=frozenset(self._done.above))
        self._is_resumed, self._is_cleared, self._began = progress.is_resumed, progress.is_cleared, progress.began
        self._made_before = frozenset(progress.counts.unfinished)

    def run(self) -> None:
        """Send until all rows are done, an error ends the run, or the load is cancelled."""
        try:
            self._send()
            while self._workers.in_flight:  # finish the calls in flight: otherwise their rows would be sent again
                self._handle_results(WAKE)
        except BaseException:  # a time-out or a signal of Airflow's, or a bug
            self._cancel_token.set()
            self._handle_last_results()
            raise
        finally:
            self._workers.close()

    @property
    def _is_ending(self) -> bool:
        return self._handler.stop is not None or self._cancel_token.is_set

    def _send(self) -> None:
        while not self._is_ending:
            is_exhausted = self._fill()
            if not self._workers.in_flight and not self._handler.resend:
                if self._handler.held:
                    self._decide_held_rows()
                if is_exhausted:
                    return
            self._handle_results(WAKE)

    def _decide_held_rows(self) -> None:
        """Find out whether the CRM works, because no call in flight will show it."""
        try:
            self._ping()
        except (e.CrmTransientError, e.CrmThrottledError) as error:
            self._handler.server_is_down(error)
        self._handler.reject_held()

    def _fill(self) -> bool:
        """Send rows while there is room.

        :return: whether all rows are sent or done
        """
        width = self._workers.width()
        while len(self._workers.in_flight) < width and not self._is_ending:
            if self._handler.resend:
                self._launch(self._handler.resend.popleft())
                continue
            # of an earlier try more rows may be done already; if nothing is waited for, the next row is the open one
            is_waiting = self._workers.in_flight or self._handler.held
            if is_waiting and len(self._done.above) >= LOOKAHEAD:
                return False
            staged = next(self._rows, None)
            if staged is None:
                return True
            if staged.status is RowStatus.SEND and staged.record is not None:
                self._launch(self._prepared(staged, staged.record))
            else:
                self._handler.without_call(staged)
            self._progress.tick()
        return False

    def _prepared(self, staged: StagedRow, record: Record) -> InFlightRow:
        made = staged.row.made
        if made is None and self._is_resumed:
            number = staged.row.number
            made = EarlierCreation(self._began, certain=number in self._made_before, earlier_load=self._is_cleared)
        return InFlightRow(staged.row, record, self._remote_of(record), made=made)

    def _launch(self, row: InFlightRow) -> None:
        self._handler.launched += 1
        row.order = self._handler.launched
        self._progress.counts.unsure.add(row.row.number)
        self._workers.submit(row)

    def _handle_results(self, timeout: float) -> None:
        for result in self._workers.results(timeout):
            self._handler.handle(result)
        self._progress.tick()

    def _handle_last_results(self) -> None:
        """Handle the results that arrive soon; the next try sends the other rows again."""
        deadline = self._clock() + LAST_WAIT
        while self._workers.in_flight and self._clock() < deadline:
            try:
                self._handle_results(WAKE / 5)
            except CannotWrite:
                continue  # the first error is being raised; rows that are not recorded are sent again, the others are
