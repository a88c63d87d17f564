"""How far the CRM's clock is ahead of a host's, as the responses of the CRM and its refusals show it.

The ``Date`` header of a response has whole seconds, so a response leaves a second of doubt, and further ones narrow it.
If the CRM makes the header only once in a second, a response leaves two seconds of doubt.
It has no clock, lock or I/O.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from crm_provider.values.server_clock import HEADER_STEP

CLEAR = 0.1
"""Maximum seconds of doubt, beyond the round trip, with which a host keeps its slots after a refusal: half a slot."""


@dataclass(frozen=True)
class Offset:
    """The seconds that the CRM's clock is ahead of the host's monotonic clock.

    :param ahead: the estimate
    :param low: minimum
    :param high: maximum
    :param trip: shortest round trip of a response; the doubt cannot be much smaller
    :param step: seconds that a header may be behind its clock
    """

    ahead: float = 0.0
    low: float = -math.inf
    high: float = math.inf
    trip: float = math.inf
    step: float = HEADER_STEP

    @property
    def is_known(self) -> bool:
        """Whether a response has shown it."""
        return self.high < math.inf

    @property
    def likely(self) -> float:
        """The likely maximum: a server makes the header at the end of its work, so most of the round trip is before it.

        Otherwise a host with slow responses would keep a clock of its own that is wrong by nearly a round trip. If
        responses contradict this, the server makes the header earlier, or keeps it.
        """
        return self.high if self.low > self.high - self.trip + CLEAR else min(self.high - self.trip + CLEAR, self.high)

    @property
    def is_behind(self) -> bool:
        """Whether the responses contradict that headers show the second in which the server ends its work."""
        return self.step > HEADER_STEP or self.low > self.high - self.trip + CLEAR

    def seen(self, low: float, high: float, trip: float, own: float, step: float = HEADER_STEP) -> Offset:
        """The offset after responses.

        :param low: minimum that they show
        :param high: maximum that they show
        :param trip: their shortest round trip
        :param own: the offset by the host's own clock, which is used while it is likely
        :param step: seconds that their headers may be behind, as far as the process that has them knows
        """
        behind = max(step, self.step)
        high += behind - step
        both = max(low, self.low), min(high, self.high + behind - self.step)
        if (*both, behind) == (self.low, self.high, self.step):
            return self
        if both[0] <= both[1]:  # otherwise one of the two clocks was set: only the responses count
            (low, high), trip = both, min(trip, self.trip)
        likely = Offset(own, low, high, trip).likely
        return Offset(own if low <= own <= likely else (low + likely) / 2, low, high, trip, behind)

    def refused(self, own: float, part: float) -> Offset:
        """The offset after a refusal: another estimate if it is in doubt and no response fits the host's own clock.

        With the same one the host's calls would be refused again and again, and refusals do not show the CRM's clock.

        :param own: the offset by the host's own clock
        :param part: a random number from 0 to 1
        """
        if not self.is_known:
            return replace(self, ahead=own + part - 0.5)
        if self.high - self.low <= CLEAR + self.trip or self.low <= own <= self.likely:
            return self
        return replace(self, ahead=self.low + (self.likely - self.low) * part)
