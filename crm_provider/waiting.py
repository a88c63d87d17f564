"""Waiting: what a server's answer says about when to come back, and what a sensor decides after each check."""

from __future__ import annotations

from dataclasses import dataclass

from crm_provider import errors as e
from crm_provider.policy import Action, Decision, ErrorPolicy

MAX_ERRORS_IN_A_ROW = 10
"""Server errors in a row after which waiting ends; each stands for a whole check with its own retries."""

QUOTA_DELAY = 15 * 60.0
"""Seconds until a used-up quota is tried again if the server does not say when."""


def server_delay(error: e.CrmError) -> float | None:
    """Seconds that the server wants us to wait before the task is tried again, None if it does not say."""
    if error.retry_after is not None:
        return error.retry_after
    return QUOTA_DELAY if isinstance(error, e.CrmLimitExceededError) else None


@dataclass
class Waiting:
    """The memory of a wait, small enough to be kept anywhere between two checks.

    :param limit: server errors in a row that are waited through
    :param errors_in_a_row: how many there have been
    :param not_before: time of the earliest next check, in seconds since the epoch: a server asked for it
    :param last_answer: for the message of a timeout
    """

    limit: int = MAX_ERRORS_IN_A_ROW
    errors_in_a_row: int = 0
    not_before: float = 0.0
    last_answer: str = "none yet."

    def answered(self) -> None:
        """A check got a proper answer."""
        self.errors_in_a_row = 0
        self.last_answer = "not yet."

    def met(self, error: e.CrmError, policy: ErrorPolicy, now: float) -> Decision:
        """Decide about an error that a check met.

        :param now: seconds since the epoch
        :return: ``wait``, or what ends the wait
        """
        decision = policy.decide(error)
        if decision.action is not Action.WAIT:
            return decision
        self.last_answer = str(error)
        if (delay := server_delay(error)) is not None:
            self.not_before = now + delay
        if isinstance(error, e.CrmTransientError):
            self.errors_in_a_row += 1
            if self.errors_in_a_row > self.limit:
                return Decision(Action.RETRY, f"max_errors_in_a_row={self.limit}")
        elif not isinstance(error, e.CrmThrottledError):
            self.errors_in_a_row = 0
        return decision
