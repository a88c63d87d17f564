"""What the result of a row means for the row and for the whole load.

It is recorded in the counts, the rejects file and the fingerprints.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from enum import Enum
from typing import Any

from crm_provider import errors as e
from crm_provider.errors.on_error import Action
from crm_provider.errors.policy import LONG_WAIT, DecidedBy, Decision, ErrorPolicy, RowRule, row_rule, server_delay
from crm_provider.load.options import TAKEN_ROW, LoadOptions
from crm_provider.load.outcomes.file import OutcomesFile
from crm_provider.load.outcomes.formats import RowOutcome
from crm_provider.load.progress import RowCounts
from crm_provider.load.rejects.file import RejectsFile
from crm_provider.load.rejects.formats import Reject
from crm_provider.load.rejects.samples import MOST_SAMPLES, without_row
from crm_provider.load.rows import Outcome, Record, Row, done_to_rows
from crm_provider.load.state.fingerprints import Fingerprints
from crm_provider.load.state.temp_tables import INVALID, UNSENDABLE, RowStatus, StagedRow
from crm_provider.load.workers import InFlightRow, RowResult

SENDS_OF_A_ROW = 3
"""Maximum sends of a row with the action ``retry``, if its error is neither a throttling nor a server error."""


class RowAction(Enum):
    """What happens to the row."""

    UNCHANGED = "count it as unchanged"
    SKIP = "count it as skipped"
    REJECT = "write it to the rejects file"
    HOLD = "write it to the rejects file as retryable, unless the rows after it fail as well"
    RESEND = "send it again; it keeps its place"
    STOP = "end the run; the row stays to be sent"


_ACTIONS: Mapping[RowRule, RowAction] = {
    RowRule.UNCHANGED: RowAction.UNCHANGED,
    RowRule.SKIP: RowAction.SKIP,
    RowRule.REJECT: RowAction.REJECT,
    RowRule.HOLD: RowAction.HOLD,
    RowRule.STOP: RowAction.STOP,
}
"""Rules that always lead to the same action."""


@dataclass(frozen=True)
class RowDecision:
    """What happens to a row, and the policy's decision behind it."""

    action: RowAction
    decision: Decision


def decide_row(error: e.CrmError, policy: ErrorPolicy, *, sends: int, of_the_run: str | None = None) -> RowDecision:
    """What to do about a row's error.

    :param sends: how often this row was sent, including this time
    :param of_the_run: why every row would get the error; ``on_error`` takes precedence
    """
    decision = policy.decide(error)
    if of_the_run is not None and decision.decided_by not in (DecidedBy.TASK, DecidedBy.SITE):
        decision = Decision.by_rule(Action.FAIL, of_the_run)
    rule = row_rule(decision.action, error)
    if rule is RowRule.RESEND_THROTTLED:
        delay = server_delay(error)
        action = RowAction.STOP if delay is not None and delay >= LONG_WAIT else RowAction.RESEND
    elif rule is RowRule.RESEND:
        action = RowAction.RESEND if sends < SENDS_OF_A_ROW else RowAction.REJECT
    else:
        action = _ACTIONS[rule]
    return RowDecision(action, decision)


def decide_run(error: e.CrmError, policy: ErrorPolicy) -> Decision:
    """What to do about an error that belongs to no row; ``skip`` and ``reject`` are for rows."""
    decision = policy.decide(error)
    if decision.action in (Action.RETRY, Action.FAIL):
        return decision
    return Decision.by_rule(Action.RETRY if is_retryable(error) else Action.FAIL, OF_NO_ROW)


OF_NO_ROW = "the rule for errors that belong to no row, such as an argument without a value or a read of all contacts"


def is_retryable(error: e.CrmError) -> bool:
    """Whether the same row may succeed later."""
    return isinstance(error, (e.CrmTransientError, e.CrmThrottledError))


_WITHOUT_CALL: Mapping[RowStatus, tuple[Outcome, str]] = {
    RowStatus.DUPLICATE: (Outcome.SKIPPED, "Another row is sent for the same record (duplicates)."),
    RowStatus.SUPPRESSED: (Outcome.SUPPRESSED, "The address is on the suppression list."),
    RowStatus.REPLACED: (Outcome.SKIPPED, "The load that rejected the row took another row for the same record."),
    RowStatus.SAME: (Outcome.UNCHANGED, "The same row was loaded before (state_path)."),
}
"""Rows that the preflight check has decided: their outcome, and why."""


def _ids(in_flight: InFlightRow | None) -> Mapping[str, Any]:
    """The ids of the records that were written for a row before it failed."""
    return {} if in_flight is None else getattr(in_flight.written, "ids", {})


def _has_written(in_flight: InFlightRow) -> bool:
    """Whether a row was written in part before it failed."""
    return bool(getattr(in_flight.written, "called", in_flight.written))


class RowResultHandler:
    """Decides about each result and records it. Used by one thread.

    :param of_the_run: why every row would get an error of a row, None if not
    :param kind: of the records that the rows become
    :param is_for_invalid: number of a row -> whether a row that cannot be sent is for the same record
    """

    def __init__(
        self,
        *,
        counts: RowCounts,
        options: LoadOptions,
        policy: ErrorPolicy,
        rejects: RejectsFile | None,
        fingerprints: Fingerprints | None,
        outcomes: OutcomesFile | None = None,
        of_the_run: Callable[[e.CrmError], str | None] = lambda error: None,
        kind: str = "contacts",
        is_for_invalid: Callable[[int], bool] = lambda number: False,
    ) -> None:
        self._of_the_run, self._kind, self._is_for_invalid = of_the_run, kind, is_for_invalid
        self._counts, self._options, self._policy = counts, options, policy
        self._rejects, self._fingerprints, self._outcomes = rejects, fingerprints, outcomes
        self._unsure_before = frozenset(counts.unsure)
        self._samples: list[Reject] = []
        self.held: deque[tuple[InFlightRow, e.CrmError, int]] = deque()
        """Rows that failed because of the server, and the number of rows launched by then. They wait until a response
        shows that the server works."""
        self.launched = 0
        """Rows that were launched, resent ones included."""
        self._throttled_in_a_row = 0
        self.resend: deque[InFlightRow] = deque()
        """Rows to send once more."""
        self.stop: tuple[e.CrmError, Decision] | None = None
        """The error that ends the run, once there is one."""

    def handle(self, result: RowResult) -> None:
        """Decide about a row that was sent."""
        in_flight, sent = result.in_flight, result.sent
        if result.error is not None:
            self._failed(in_flight, result.error)
        elif sent is not None:
            self._throttled_in_a_row = 0
            self.reject_held(before=in_flight)
            self._note(in_flight.row, sent.outcome, message=sent.message, ids=sent.ids)
            if sent.outcome is Outcome.SKIPPED:
                self._note_skipped(in_flight.row.number)
            self._counts.enter(in_flight.row.number, sent.outcome, sent=sent.called)
            if sent.outcome is not Outcome.SUPPRESSED and sent.is_whole:
                self._remember(in_flight.record)

    @property
    def samples(self) -> list[Reject]:
        """The first rejected rows; without a rejects file those of this try."""
        return self._samples if self._rejects is None else self._rejects.samples

    def without_call(self, staged: StagedRow) -> None:
        """Record a row that the preflight check has decided."""
        if staged.status in INVALID and self._options.skips_invalid:
            self._note(staged.row, Outcome.SKIPPED, error_type="INVALID_VALUE", message=staged.problem)
            self._counts.enter(staged.row.number, Outcome.SKIPPED, error="INVALID_VALUE")
        elif staged.status in UNSENDABLE:
            self._reject_unsendable(staged)
        else:
            outcome, message = _WITHOUT_CALL[staged.status]
            self._note(staged.row, outcome, message=message)
            self._counts.enter(staged.row.number, outcome)

    def server_is_down(self, error: e.CrmError) -> None:
        """End the run: a call that belongs to no row failed like the held rows. The next try sends them again."""
        self._end_run(error, Decision.by_rule(Action.RETRY, "the CRM is failing, so no row is at fault"))

    def reject_held(self, *, before: InFlightRow | None = None) -> None:
        """Reject rows that failed because of the server: it works now.

        :param before: a row with a response; it says nothing about rows that failed after it was launched
        """
        if self.stop is not None:
            return  # the next try sends them again
        while self.held and (before is None or self.held[0][2] < before.order):
            in_flight, error, _ = self.held.popleft()
            self._forget(in_flight.record)
            self._reject(in_flight, error)

    # -- errors ----------------------------------------------------------------------------------------------

    def _failed(self, in_flight: InFlightRow, error: e.CrmError) -> None:
        if in_flight.made is not None and in_flight.made.certain:
            self._counts.unfinished.add(in_flight.row.number)
        in_flight.maybe_written |= not error.outcome_known or _has_written(in_flight)
        if not in_flight.maybe_written:
            self._counts.unsure -= {in_flight.row.number} - self._unsure_before
        decided = decide_row(error, self._policy, sends=in_flight.sends, of_the_run=self._of_the_run(error))
        if decided.action is RowAction.HOLD:
            self._hold(in_flight, error)
        elif decided.action is RowAction.RESEND:
            self._send_again(in_flight, error, decided)
        elif decided.action is RowAction.STOP:
            self._end_run(error, decided.decision)
        else:
            self._throttled_in_a_row = 0
            self.reject_held(before=in_flight)
            self._handle_error(in_flight, error, decided)

    def _handle_error(self, in_flight: InFlightRow, error: e.CrmError, decided: RowDecision) -> None:
        number = in_flight.row.number
        if decided.action is RowAction.UNCHANGED:
            self._remember(in_flight.record)
            why = without_row(error.message, in_flight.row.values, type_=error.type)
            self._note(in_flight.row, Outcome.UNCHANGED, message=why, request_id=error.request_id)
            self._counts.enter(number, Outcome.UNCHANGED, sent=error.status is not None)
        else:
            self._forget(in_flight.record)
            if decided.action is RowAction.REJECT:
                self._reject(in_flight, error)
            else:
                about = {"error_type": error.type, "message": self._message(error), "request_id": error.request_id}
                self._note(in_flight.row, Outcome.SKIPPED, **about, ids=_ids(in_flight))
                self._note_skipped(number)
                self._counts.enter(number, Outcome.SKIPPED, error=error.type, sent=True)

    def _message(self, error: e.CrmError) -> str:
        """The message of a row's error, with a note if the row may have been written."""
        if error.outcome_known:
            return error.message
        return f"{error.message.rstrip('.')}. Whether it was {done_to_rows(self._options.outcomes)} is not known."

    def _note_skipped(self, number: int) -> None:
        """Remember that a row was not taken, if that matters for rows that cannot be sent."""
        if self._is_for_invalid(number):
            self._counts.skipped.add(number)

    def _hold(self, in_flight: InFlightRow, error: e.CrmError) -> None:
        """Keep a row that failed because of the server until it is known whether all rows do."""
        self.held.append((in_flight, error, self.launched))
        if len(self.held) >= self._options.errors_in_a_row:
            self._end_run(error, Decision.by_rule(Action.RETRY, f"errors_in_a_row={self._options.errors_in_a_row}"))

    def _send_again(self, in_flight: InFlightRow, error: e.CrmError, decided: RowDecision) -> None:
        if isinstance(error, e.CrmThrottledError):
            self._throttled_in_a_row += 1
            if self._throttled_in_a_row >= self._options.errors_in_a_row:
                self._end_run(error, decided.decision)
        in_flight.sends += 1
        self.resend.append(in_flight)

    def _end_run(self, error: e.CrmError, decision: Decision) -> None:
        self.stop = self.stop or (error, decision)

    # -- rejects and fingerprints ----------------------------------------------------------------------------

    def _reject(self, in_flight: InFlightRow, error: e.CrmError) -> None:
        row = in_flight.row
        reject = Reject(
            number=row.number,
            values=row.values,
            type=error.type,
            message=self._message(error),
            suggested_action=error.suggested_action,
            request_id=error.request_id,
            retryable=is_retryable(error),
            made=in_flight.made,
            replaced=row.replaced,  # it was for another record then; a later correction may undo that
        )
        self._write(row, reject, in_flight=in_flight)

    def _reject_unsendable(self, staged: StagedRow) -> None:
        type_, message = "DUPLICATE_ROW", f"Several rows have this {self._options.shared} (duplicates='reject')."
        if staged.status is not RowStatus.AMBIGUOUS:
            type_, message = "INVALID_VALUE", staged.problem
        reject = Reject(
            number=staged.row.number,
            values=staged.row.values,
            type=type_,
            message=message,
            suggested_action="correct the row in its source",
            request_id=None,
            retryable=False,
            made=staged.row.made,
            replaced="" if staged.status in INVALID else staged.row.replaced,
        )
        # until the other row has ended: it may be sent before this process is killed
        self._write(staged.row, reject, mark=staged.row.replaced if staged.status is RowStatus.STALE else "")

    def _write(self, row: Row, reject: Reject, *, in_flight: InFlightRow | None = None, mark: str = "") -> None:
        if self._rejects is not None:
            written = replace(reject, kind=self._kind)
            self._rejects.write(written.marked(mark, TAKEN_ROW[self._options.duplicates]) if mark else written)
        elif len(self._samples) < MOST_SAMPLES:
            self._samples.append(reject)
        about = {"error_type": reject.type, "message": reject.message, "request_id": reject.request_id}
        self._note(row, Outcome.REJECTED, **about, ids=_ids(in_flight))
        self._counts.enter(
            reject.number,
            Outcome.REJECTED,
            error=reject.type,
            sent=in_flight is not None,
            retryable=reject.retryable,
        )

    def _note(self, row: Row, outcome: Outcome, **about: Any) -> None:
        """Write how a row ended, before it counts as done."""
        if self._outcomes is not None:
            self._outcomes.write(RowOutcome(number=row.number, outcome=outcome, values=row.values, **about))

    def _remember(self, record: Record) -> None:
        if self._fingerprints is not None:
            self._fingerprints.remember(record)

    def _forget(self, record: Record) -> None:
        if self._fingerprints is not None:
            self._fingerprints.forget(record)
