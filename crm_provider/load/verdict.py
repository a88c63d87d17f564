"""What an error means for its row and for the whole load: the policy's decision in a load's terms."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from crm_provider import errors as e
from crm_provider.load.options import Mode
from crm_provider.policy import Action, Decision, ErrorPolicy
from crm_provider.waiting import LONG_WAIT, server_delay

SENDS_OF_A_ROW = 3
"""How often a row is sent whose error says ``retry`` and that is neither throttled nor the server's fault."""


class Step(Enum):
    """What happens to the row."""

    UNCHANGED = "count it as unchanged"
    SKIP = "count it as skipped"
    REJECT = "into the rejects file"
    HOLD = "into the rejects file as retryable, unless the rows after it fail as well"
    AGAIN = "send it again; it keeps its place"
    STOP = "end the run; the row stays to be sent"


@dataclass(frozen=True)
class Verdict:
    """A step and the decision that it comes from."""

    step: Step
    decision: Decision


def judge(error: e.CrmError, policy: ErrorPolicy, *, mode: Mode, sends: int) -> Verdict:
    """What to do about a row's error.

    :param sends: how often this row was sent, this time included
    """
    decision = policy.decide(error)
    if isinstance(error, e.CrmContactAlreadyExistsError) and mode == "create" and not decision.is_asked_for:
        return Verdict(Step.UNCHANGED, decision)
    if decision.action in (Action.RETRY, Action.REJECT) and isinstance(error, e.CrmTransientError):
        return Verdict(Step.HOLD, decision)
    if decision.action is Action.RETRY:
        return Verdict(_repeated(error, sends), decision)
    return Verdict({Action.SKIP: Step.SKIP, Action.REJECT: Step.REJECT}.get(decision.action, Step.STOP), decision)


def judge_run(error: e.CrmError, policy: ErrorPolicy) -> Decision:
    """What to do about the error of a call that is no row's: ``skip`` and ``reject`` are for rows."""
    decision = policy.decide(error)
    if decision.action in (Action.RETRY, Action.FAIL):
        return decision
    return Decision(Action.RETRY if is_retryable(error) else Action.FAIL, "a call for the whole load")


def is_retryable(error: e.CrmError) -> bool:
    """Whether the same row may succeed later."""
    return isinstance(error, (e.CrmTransientError, e.CrmThrottledError))


def _repeated(error: e.CrmError, sends: int) -> Step:
    if isinstance(error, e.CrmThrottledError):
        delay = server_delay(error)
        return Step.STOP if delay is not None and delay >= LONG_WAIT else Step.AGAIN
    return Step.AGAIN if sends < SENDS_OF_A_ROW else Step.REJECT
