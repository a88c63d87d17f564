"""What an error means for its row and for the whole load: the policy's decision in a load's terms."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum

from crm_provider import errors as e
from crm_provider.errors.on_error import Action
from crm_provider.errors.policy import LONG_WAIT, Decision, ErrorPolicy, RowRule, row_rule, server_delay

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


def judge_run(error: e.CrmError, policy: ErrorPolicy) -> Decision:
    """What to do about the error of a call that belongs to no row: ``skip`` and ``reject`` are for rows."""
    decision = policy.decide(error)
    if decision.action in (Action.RETRY, Action.FAIL):
        return decision
    return Decision.by_rule(Action.RETRY if is_retryable(error) else Action.FAIL, "a call for the whole load")


def is_retryable(error: e.CrmError) -> bool:
    """Whether the same row may succeed later."""
    return isinstance(error, (e.CrmTransientError, e.CrmThrottledError))
