"""What the result of a row means, and where it is entered.

What an error means for its row and for the whole load: the policy's decision in a load's terms.

How a row ends: from what came of its calls to the books, the rejects file and the fingerprints.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum

from crm_provider import errors as e
from crm_provider.errors.on_error import Action
from crm_provider.errors.policy import LONG_WAIT, Decision, ErrorPolicy, RowRule, row_rule, server_delay
from crm_provider.load.options import LoadOptions
from crm_provider.load.preflight import RowMapper
from crm_provider.load.progress import RowCounts
from crm_provider.load.rejects.file import RejectsFile
from crm_provider.load.rejects.formats import Reject
from crm_provider.load.rows import Contact, InvalidRow, Outcome, Row
from crm_provider.load.state.fingerprints import Fingerprints
from crm_provider.load.state.temp_tables import RowStatus, StagedRow
from crm_provider.load.workers import InFlightRow, RowResult

SENDS_OF_A_ROW = 3
"""How often a row is sent whose error says ``retry`` and that is neither throttled nor the server's fault."""


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


def decide_row(error: e.CrmError, policy: ErrorPolicy, *, sends: int) -> RowDecision:
    """What to do about a row's error.

    :param sends: how often this row was sent, this time included
    """
    decision = policy.decide(error)
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
    """What to do about the error of a call that belongs to no row: ``skip`` and ``reject`` are for rows."""
    decision = policy.decide(error)
    if decision.action in (Action.RETRY, Action.FAIL):
        return decision
    return Decision.by_rule(Action.RETRY if is_retryable(error) else Action.FAIL, "a call for the whole load")


def is_retryable(error: e.CrmError) -> bool:
    """Whether the same row may succeed later."""
    return isinstance(error, (e.CrmTransientError, e.CrmThrottledError))


NOT_KNOWN = "Whether it was written is not known."


class RowResultHandler:
    """Decides about each row that has landed, and enters it. Used by one thread."""

    def __init__(
        self,
        *,
        ledger: RowCounts,
        options: LoadOptions,
        policy: ErrorPolicy,
        mapper: RowMapper,
        rejects: RejectsFile | None,
        fingerprints: Fingerprints | None,
    ) -> None:
        self._ledger, self._options, self._policy, self._mapper = ledger, options, policy, mapper
        self._rejects, self._fingerprints = rejects, fingerprints
        self._held: deque[tuple[InFlightRow, e.CrmError, int]] = deque()
        """Rows that failed for the server's sake, and how many rows had been launched by then."""
        self._unfinished: set[int] = set()
        self._launched = 0
        self._throttled_in_a_row = 0
        self.again: deque[InFlightRow] = deque()
        """Rows that are to be sent once more."""
        self.stop: tuple[e.CrmError, Decision] | None = None
        """The error that ends the run, once there is one."""

    def launching(self, flight: InFlightRow) -> InFlightRow:
        """A row is about to be sent."""
        self._launched += 1
        flight.order = self._launched
        return flight

    def landed(self, landed: RowResult) -> None:
        """A row has come back from its calls."""
        if landed.error is not None:
            self._failed(landed.flight, landed.error)
        elif landed.sent is not None:
            self._throttled_in_a_row = 0
            self.reject_held(before=landed.flight)
            self._ledger.enter(landed.flight.row.number, landed.sent.outcome, sent=landed.sent.called)
            self._unfinished.discard(landed.flight.row.number)
            if landed.sent.outcome is not Outcome.SUPPRESSED and landed.sent.is_whole:
                self._remember(landed.flight.contact)

    def without_call(self, item: StagedRow) -> None:
        """A row about which the check has decided."""
        number = item.row.number
        if item.fate in (RowStatus.INVALID, RowStatus.AMBIGUOUS):
            self._reject_unsendable(item)
        elif item.fate is RowStatus.DUPLICATE:
            self._ledger.enter(number, Outcome.SKIPPED)
        else:
            self._ledger.enter(number, Outcome.SUPPRESSED if item.fate is RowStatus.SUPPRESSED else Outcome.UNCHANGED)

    @property
    def made(self) -> list[int]:
        """Rows that are not done and whose contacts this load has made: the next try must not take them for others'."""
        return sorted(self._unfinished)

    @property
    def is_holding(self) -> bool:
        """Whether rows that failed for the server's sake wait for a sign that it works."""
        return bool(self._held)

    def server_is_down(self, error: e.CrmError) -> None:
        """A call that is no row's has failed as the rows that are held have: the next try sends them again."""
        self._end_run(error, Decision.by_rule(Action.RETRY, "the CRM does not work, so no row is at fault"))

    def reject_held(self, *, before: InFlightRow | None = None) -> None:
        """The CRM works: rows that failed for its sake are rejected.

        :param before: a row that got an answer; what was on its way when another failed says nothing about after that
        """
        if self.stop is not None:
            return  # the next try sends them again
        while self._held and (before is None or self._held[0][2] < before.order):
            flight, error, _ = self._held.popleft()
            self._forget(flight.contact)
            self._reject(flight, error)

    # -- errors ----------------------------------------------------------------------------------------------

    def _failed(self, flight: InFlightRow, error: e.CrmError) -> None:
        if flight.made is not None and flight.made.certain:
            self._unfinished.add(flight.row.number)
        decided = decide_row(error, self._policy, sends=flight.sends)
        if decided.action is RowAction.HOLD:
            self._hold(flight, error)
        elif decided.action is RowAction.RESEND:
            self._send_again(flight, error, decided)
        elif decided.action is RowAction.STOP:
            self._end_run(error, decided.decision)
        else:
            self._throttled_in_a_row = 0
            self.reject_held(before=flight)
            self._answered(flight, error, decided)

    def _answered(self, flight: InFlightRow, error: e.CrmError, decided: RowDecision) -> None:
        number = flight.row.number
        self._unfinished.discard(number)
        if decided.action is RowAction.UNCHANGED:
            self._remember(flight.contact)
            self._ledger.enter(number, Outcome.UNCHANGED, sent=error.status is not None)
        else:
            self._forget(flight.contact)
            if decided.action is RowAction.REJECT:
                self._reject(flight, error)
            else:
                self._ledger.enter(number, Outcome.SKIPPED, error=error.type, sent=True)

    def _hold(self, flight: InFlightRow, error: e.CrmError) -> None:
        """Keep a row that failed for the server's sake until it is known whether all do."""
        self._held.append((flight, error, self._launched))
        if len(self._held) >= self._options.errors_in_a_row:
            self._end_run(error, Decision.by_rule(Action.RETRY, f"errors_in_a_row={self._options.errors_in_a_row}"))

    def _send_again(self, flight: InFlightRow, error: e.CrmError, decided: RowDecision) -> None:
        if isinstance(error, e.CrmThrottledError):
            self._throttled_in_a_row += 1
            if self._throttled_in_a_row >= self._options.errors_in_a_row:
                self._end_run(error, decided.decision)
        flight.sends += 1
        self.again.append(flight)

    def _end_run(self, error: e.CrmError, decision: Decision) -> None:
        self.stop = self.stop or (error, decision)

    # -- rejects and fingerprints ----------------------------------------------------------------------------

    def _reject(self, flight: InFlightRow, error: e.CrmError) -> None:
        row = flight.row
        self._unfinished.discard(row.number)
        message = error.message if error.outcome_known else f"{error.message.rstrip('.')}. {NOT_KNOWN}"
        reject = Reject(
            number=row.number,
            values=row.values,
            type=error.type,
            message=message,
            suggested_action=error.suggested_action,
            request_id=error.request_id,
            retryable=is_retryable(error),
            made=flight.made,
        )
        self._write(reject, sent=True)

    def _reject_unsendable(self, item: StagedRow) -> None:
        type_, message = "DUPLICATE_ROW", "Several rows have this email (duplicates='reject')."
        if item.fate is RowStatus.INVALID:
            type_, message = "INVALID_VALUE", self._what_is_wrong(item.row)
        reject = Reject(
            number=item.row.number,
            values=item.row.values,
            type=type_,
            message=message,
            suggested_action="Correct the row in its source.",
            request_id=None,
            retryable=False,
        )
        self._write(reject, sent=False)

    def _what_is_wrong(self, row: Row) -> str:
        try:
            self._mapper(row)
        except InvalidRow as invalid:
            return str(invalid)
        raise AssertionError("the mapping of a row does not depend on when it is made")

    def _write(self, reject: Reject, *, sent: bool) -> None:
        if self._rejects is not None:
            self._rejects.write(reject)
        self._ledger.enter(reject.number, Outcome.REJECTED, error=reject.type, sent=sent)

    def _remember(self, contact: Contact) -> None:
        if self._fingerprints is not None:
            self._fingerprints.remember(contact)

    def _forget(self, contact: Contact) -> None:
        if self._fingerprints is not None:
            self._fingerprints.forget(contact)
