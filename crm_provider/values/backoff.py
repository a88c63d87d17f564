"""Exponential back-off with jitter: the one implementation, used by calls, polls and watches."""

from __future__ import annotations

_MOST_DOUBLINGS = 64
"""Far beyond every limit, and far below what a float can hold."""


def delay(attempt: int, *, first: float, longest: float, jitter: float) -> float:
    """Seconds to wait after a failed attempt: doubled with each attempt, half of it fixed and half of it jitter.

    >>> delay(3, first=1.0, longest=60.0, jitter=1.0)
    4.0

    :param attempt: number of the attempt that failed, from 1
    :param first: seconds after the first attempt
    :param longest: upper limit in seconds
    :param jitter: from 0 (half of the delay) to 1 (all of it); callers draw it, so that they do not return at once
    """
    doubled = min(first * 2.0 ** min(max(attempt - 1, 0), _MOST_DOUBLINGS), longest)
    return doubled * (0.5 + 0.5 * jitter)
