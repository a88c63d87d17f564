"""Back-off between checks, and what a sensor decides after each check."""

from __future__ import annotations

import time
from dataclasses import dataclass

from crm_provider import errors as e
from crm_provider.errors.on_error import Action
from crm_provider.errors.policy import Decision, ErrorPolicy, server_delay
from crm_provider.values.backoff import delay

MAX_ERRORS_IN_A_ROW = 10
"""Consecutive server errors that do not end the wait. Each is a whole check with the client's own retries."""

LONGEST_BACK_OFF = 5 * 60.0
"""Maximum seconds between two checks during an outage, unless the server or the interval asks for more."""


def back_off(failed: int, *, interval: float, jitter: float) -> float:
    """Seconds from a failed check to the next one: the interval, doubled with each consecutive failure.

    :param failed: consecutive failures, including this one
    :param jitter: 0 to 1. It takes off up to half of the delay, so that not all waiting tasks return at once
    """
    longest = max(interval, LONGEST_BACK_OFF)
    return max(delay(failed, first=interval, longest=longest, jitter=jitter), interval)


def next_check(error: e.CrmError, failed: int, now: float, *, interval: float, jitter: float) -> float:
    """The earliest time of the next check after a failed one; 0 if only the interval counts.

    :param failed: consecutive failures, including this one
    :param now: by the caller's clock
    :param jitter: see :func:`back_off`
    """
    if (seconds := server_delay(error)) is not None:
        return now + seconds
    return now + back_off(failed, interval=interval, jitter=jitter) if failed > 1 else 0.0


def to_wall(steady: float) -> float:
    """Convert a time of this process's monotonic clock to seconds since the epoch, for other processes.

    Within a process, waiting uses the monotonic clock, because a system clock that is set back would delay all tasks.
    """
    return steady - time.monotonic() + time.time()


def to_steady(wall: float) -> float:
    """Convert seconds since the epoch to a time of this process's monotonic clock."""
    return wall - time.time() + time.monotonic()


@dataclass
class WaitState:
    """The state of a wait, small enough to be stored between two checks.

    :param limit: consecutive server errors that do not end the wait
    :param errors_in_a_row: consecutive server errors so far
    :param failed_in_a_row: the same plus throttled checks. They space out the checks but do not end the wait
    :param not_before: the earliest time of the next check by the caller's clock, because the server asked for a delay
        or is failing
    :param last_result: the result of the last check, for the message of a timeout
    """

    limit: int = MAX_ERRORS_IN_A_ROW
    errors_in_a_row: int = 0
    failed_in_a_row: int = 0
    not_before: float = 0.0
    last_result: str = "none yet."

    def record_result(self, why: str = "") -> None:
        """Record a check without an error.

        :param why: why the condition does not hold yet; without values
        """
        self.errors_in_a_row = self.failed_in_a_row = 0
        self.last_result = f"not yet: {why}." if why else "not yet."

    def record_error(
        self, error: e.CrmError, policy: ErrorPolicy, now: float, *, interval: float, jitter: float = 1.0
    ) -> Decision:
        """Record a check that failed, and decide what to do.

        :param now: by the caller's clock
        :param interval: seconds between two checks without errors
        :param jitter: see :func:`back_off`
        :return: ``wait``, or the decision that ends the wait
        """
        decision = policy.decide(error)
        if decision.action is not Action.WAIT:
            return decision
        self.last_result = error.happened + (f" Request id: {error.request_id}." if error.request_id else "")
        if isinstance(error, (e.CrmTransientError, e.CrmThrottledError)):
            self.failed_in_a_row += 1
            self.errors_in_a_row += isinstance(error, e.CrmTransientError)
        else:  # the CRM has responded
            self.errors_in_a_row = self.failed_in_a_row = 0
        self.not_before = next_check(error, self.failed_in_a_row, now, interval=interval, jitter=jitter)
        if self.errors_in_a_row > self.limit:
            return Decision.by_rule(Action.RETRY, f"max_errors_in_a_row={self.limit}")
        return decision
