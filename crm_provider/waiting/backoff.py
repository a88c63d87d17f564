"""Waiting: what a server's answer says about when to come back, and what a sensor decides after each check."""

from __future__ import annotations

import time
from dataclasses import dataclass

from crm_provider import errors as e
from crm_provider.errors.on_error import Action
from crm_provider.errors.policy import Decision, ErrorPolicy, server_delay

MAX_ERRORS_IN_A_ROW = 10
"""Server errors in a row after which waiting ends; each stands for a whole check with its own retries."""


LONGEST_BACK_OFF = 5 * 60.0
"""Seconds between two looks while the CRM is out of order, unless the server or the interval says more."""


def back_off(failed: int, *, interval: float, jitter: float) -> float:
    """Seconds from a failed look to the next one: the interval, doubled with each that fails in a row.

    :param failed: how many there were in a row, this one included
    :param jitter: 0 to 1. At 0 a quarter is taken off: not all who wait come back in the same instant
    """
    longest = max(interval, LONGEST_BACK_OFF)
    doubled = min(interval * 2.0 ** min(failed - 1, 32), longest)
    return max(doubled * (0.75 + 0.25 * jitter), interval)


def next_look(error: e.CrmError, failed: int, now: float, *, interval: float, jitter: float) -> float:
    """The earliest time of the next look after one that failed; 0 if the interval says all.

    :param failed: how many failed in a row, this one included
    :param now: by the clock of whoever waits
    :param jitter: see :func:`back_off`
    """
    if (delay := server_delay(error)) is not None:
        return now + delay
    return now + back_off(failed, interval=interval, jitter=jitter) if failed > 1 else 0.0


def to_wall(steady: float) -> float:
    """A time of this process's monotonic clock in seconds since the epoch, for others.

    Within a process waiting goes by the monotonic clock: one that is set back would hold up all who wait.
    """
    return steady - time.monotonic() + time.time()


def to_steady(wall: float) -> float:
    """A time in seconds since the epoch by this process's monotonic clock."""
    return wall - time.time() + time.monotonic()


@dataclass
class Waiting:
    """The memory of a wait, small enough to be kept anywhere between two checks.

    :param limit: server errors in a row that are waited through
    :param errors_in_a_row: how many there have been
    :param failed_in_a_row: the same and throttled checks: they space out the checks, but do not end the wait
    :param not_before: time of the earliest next check by the clock of whoever waits: a server asked for it, or it is
        out of order
    :param last_answer: for the message of a timeout
    """

    limit: int = MAX_ERRORS_IN_A_ROW
    errors_in_a_row: int = 0
    failed_in_a_row: int = 0
    not_before: float = 0.0
    last_answer: str = "none yet."

    def answered(self, why: str = "") -> None:
        """A check got a proper answer.

        :param why: it is not yet what the sensor waits for; without values
        """
        self.errors_in_a_row = self.failed_in_a_row = 0
        self.last_answer = f"not yet: {why}." if why else "not yet."

    def met(
        self, error: e.CrmError, policy: ErrorPolicy, now: float, *, interval: float, jitter: float = 1.0
    ) -> Decision:
        """Decide about an error that a check met.

        :param now: by the clock of whoever waits
        :param interval: seconds between two checks when all is well
        :param jitter: see :func:`back_off`
        :return: ``wait``, or what ends the wait
        """
        decision = policy.decide(error)
        if decision.action is not Action.WAIT:
            return decision
        self.last_answer = str(error)
        if isinstance(error, (e.CrmTransientError, e.CrmThrottledError)):
            self.failed_in_a_row += 1
            self.errors_in_a_row += isinstance(error, e.CrmTransientError)
        else:  # an answer: the CRM works
            self.errors_in_a_row = self.failed_in_a_row = 0
        self.not_before = next_look(error, self.failed_in_a_row, now, interval=interval, jitter=jitter)
        if self.errors_in_a_row > self.limit:
            return Decision.by_rule(Action.RETRY, f"max_errors_in_a_row={self.limit}")
        return decision
