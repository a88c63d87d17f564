"""Callers of a rate budget in simulated time: their requests, their slots, and the CRM's refusals."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from crm_provider.rate_limit.schedule import Grant, GrantStatus, Lane, Pace, Schedule

NEVER_MIND = 1e9
"""Seconds that a patient caller waits at most."""

Ask = Callable[[float, Lane, "int | None", Pace, float], Grant]


@dataclass(frozen=True)
class Caller:
    """A worker that calls, waits for the response, and calls again.

    :param begins: when it makes its first call
    :param rest: seconds from a call to its next
    :param calls: number of calls
    :param late: seconds by which it wakes up late
    :param dies: when it is killed, whatever it is doing
    """

    lane: Lane = Lane.SINGLE
    begins: float = 0.0
    rest: float = 0.0
    calls: int = 1_000_000
    late: float = 0.0
    dies: float = NEVER_MIND


@dataclass(frozen=True)
class Sent:
    """A call: its caller, the time of its first request, and its slot."""

    caller: int
    lane: Lane
    asked: float
    at: float


@dataclass
class TokenBucket:
    """The gateway: refuses a call that finds no token."""

    rate: float
    burst: int
    tokens: float = 0.0
    last: float = 0.0

    def __post_init__(self) -> None:
        self.tokens = self.burst

    def takes(self, now: float) -> bool:
        self.tokens = min(self.burst, self.tokens + (now - self.last) * self.rate)
        self.last = now
        if self.tokens < 1 - 1e-6:  # a rounding error is no refusal
            return False
        self.tokens -= 1
        return True


@dataclass
class Scene:
    """Runs callers against a schedule until a time.

    :param ask: replaces the request to its own schedule
    """

    pace: Pace
    callers: Sequence[Caller]
    until: float
    ask: Ask = field(default_factory=lambda: Schedule().ask)
    began: float = 1000.0
    asked: int = 0

    def run(self) -> list[Sent]:
        """All calls by slot, in seconds from the beginning."""
        sent: list[Sent] = []
        order = itertools.count()
        events: list[tuple[float, int, int, int, int | None, float]] = []

        def wake(at: float, who: int, left: int, ticket: int | None, since: float) -> None:
            caller = self.callers[who]
            if left and at + caller.late < min(self.until, caller.dies):
                heapq.heappush(events, (at + caller.late, next(order), who, left, ticket, since))

        for who, caller in enumerate(self.callers):
            wake(caller.begins, who, caller.calls, None, caller.begins)
        while events:
            now, _, who, left, ticket, since = heapq.heappop(events)
            caller = self.callers[who]
            grant = self.ask(self.began + now, caller.lane, ticket, self.pace, NEVER_MIND)
            self.asked += 1
            then = now + grant.seconds
            if grant.status is GrantStatus.RETRY_AFTER:
                wake(then, who, left, grant.ticket, since)
            elif then < caller.dies:
                sent.append(Sent(who, caller.lane, since, then))
                wake(then + caller.rest, who, left - 1, None, then + caller.rest)
        return sorted(sent, key=lambda call: call.at)


def jain(counts: Sequence[int]) -> float:
    """1 if all received the same number, 1/n if one received all."""
    return sum(counts) ** 2 / (len(counts) * sum(count * count for count in counts))
