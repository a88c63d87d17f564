"""Events of a connection's calls, one for each attempt, and counters of them."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field


@dataclass(frozen=True, kw_only=True)
class RequestEvent:
    """One attempt of a call, without ids and values.

    :param route: the path with its parts as placeholders, ``/contacts/{email}``; never a value
    :param status: of the response; None if there was no complete response
    :param seconds: from sending to the last byte of the response
    :param waited: seconds before that, waiting for a slot of the rate budget
    :param error_type: such as ``DEAL_NOT_FOUND``; None for a success
    :param attempt: its number in the call, from 1
    """

    method: str
    route: str
    status: int | None
    seconds: float
    waited: float
    error_type: str | None
    attempt: int

    @property
    def throttled(self) -> bool:
        """Whether the CRM refused it because of the rate."""
        return self.status == 429


Observer = Callable[[RequestEvent], None]


@dataclass(frozen=True, kw_only=True)
class RequestTotals:
    """The counters at one moment.

    :param waited: seconds of waiting for slots of the rate budget, all attempts together
    :param errors: failed attempts by the type of their error
    """

    calls: int = 0
    throttled: int = 0
    waited: float = 0.0
    errors: Counter[str] = field(default_factory=Counter)


class RequestCounter:
    """Counts the events of transports that it observes; threads may share one.

    >>> counter = RequestCounter()
    >>> client = CrmClient(settings, transport=Transport(settings, observer=counter))
    >>> client.ping(); counter.calls
    1
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._totals = RequestTotals()

    def __call__(self, event: RequestEvent) -> None:
        with self._lock:
            before = self._totals
            self._totals = RequestTotals(
                calls=before.calls + 1,
                throttled=before.throttled + event.throttled,
                waited=before.waited + event.waited,
                errors=before.errors if event.error_type is None else before.errors + Counter([event.error_type]),
            )

    def snapshot(self) -> RequestTotals:
        """All counters at one moment."""
        with self._lock:
            return self._totals

    @property
    def calls(self) -> int:
        """Attempts, including failed ones."""
        return self.snapshot().calls

    @property
    def throttled(self) -> int:
        """Attempts with the response 429."""
        return self.snapshot().throttled

    @property
    def waited(self) -> float:
        """Seconds that attempts have waited for the rate budget."""
        return self.snapshot().waited

    @property
    def errors(self) -> Counter[str]:
        """Failed attempts by the type of their error."""
        return Counter(self.snapshot().errors)
