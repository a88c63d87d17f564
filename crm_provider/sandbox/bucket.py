"""The rate limit in front of the API: a token bucket."""

from __future__ import annotations

from crm_provider.sandbox.clock import Clock

_ROUNDING = 1e-6
"""Part of a token that may be missing: sums of floats drift, and a call exactly on time must not be refused."""


class TokenBucket:
    """Admits ``burst`` calls at once and one more each ``1 / rate`` seconds; a refused call costs nothing.

    Over any ``t`` seconds it admits at most ``burst + rate * t`` calls.

    :param rate: tokens given back per second, None for no limit
    """

    def __init__(self, *, rate: float | None, burst: int, clock: Clock) -> None:
        self._rate = rate
        self._burst = burst
        self._clock = clock
        self._tokens = float(burst)
        self._filled_at = clock.monotonic()

    def take(self) -> bool:
        """Whether a call may pass now."""
        if self._rate is None:
            return True
        now = self._clock.monotonic()
        self._tokens = min(self._burst, self._tokens + (now - self._filled_at) * self._rate)
        self._filled_at = now
        if self._tokens < 1 - _ROUNDING:
            return False
        self._tokens -= 1
        return True
