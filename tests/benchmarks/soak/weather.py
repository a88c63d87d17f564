"""Random faults: their kinds, frequency and duration."""

from __future__ import annotations

import random
import threading
from typing import Any

KINDS: dict[str, list[dict[str, Any]]] = {
    "rate limit": [
        {"effect": "error", "error": "throttled", "probability": 0.2},
        {"effect": "error", "error": "throttled", "retry_after": 2, "count": 3},
        {"effect": "error", "error": "TOO_MANY_REQUESTS", "probability": 0.2},
    ],
    "server error": [
        {"effect": "error", "error": "INTERNAL_SERVER_ERROR", "probability": 0.3},
        {"effect": "error", "error": "unavailable"},
        {"effect": "error", "error": "unavailable", "probability": 0.5},
    ],
    "lost response": [
        {"effect": "lost", "probability": 0.2},
        {"effect": "lost_error", "probability": 0.2},
        {"effect": "lost", "method": "POST", "probability": 0.5},
    ],
    "slow response": [
        {"effect": "latency", "latency": 1.0, "probability": 0.3},
        {"effect": "latency", "latency": 8.0, "probability": 0.05},
        {"effect": "drip", "latency": 0.02, "probability": 0.1},
    ],
    "broken connection": [
        {"effect": "drop", "probability": 0.3},
        {"effect": "drop"},
        {"effect": "truncate", "variant": "closed", "probability": 0.1},
    ],
    "login page": [
        {"effect": "html", "status": 200, "count": 2},
        {"effect": "redirect", "count": 1},
        {"effect": "html", "status": 502, "probability": 0.3},
    ],
    "invalid JSON": [
        {"effect": "truncate", "variant": "length", "count": 2},
        {"effect": "garbage", "variant": "text", "count": 1},
        {"effect": "garbage", "variant": "list", "count": 1},
    ],
}
"""Rules of the sandbox by kind of fault. The timeout of the soak's connections is shorter than eight seconds."""

LISTINGS_LAST = frozenset({"login page", "invalid JSON"})
"""Kinds that end a sensor and pause a watch for five minutes, as documented."""


class Weather(threading.Thread):
    """Adds faults to one account until it is stopped.

    :param calm: minimum and maximum of seconds between two faults
    :param spare_waiting: whether kinds of :data:`LISTINGS_LAST` affect writes only
    """

    def __init__(self, crms: Any, account: int, seed: int, *, calm: tuple[float, float], spare_waiting: bool) -> None:
        super().__init__(daemon=True, name=f"weather {account}")
        self._crms, self._account, self._random = crms, account, random.Random(f"{seed} weather {account}")
        self._calm, self._spare = calm, spare_waiting
        self.ended = threading.Event()

    def run(self) -> None:
        number = 0
        while not self.ended.wait(self._random.uniform(*self._calm)):
            number += 1
            self._crms("add_fault", self._account, self.fault(number))

    def fault(self, number: int) -> dict[str, Any]:
        kind = self._random.choice(list(KINDS))
        fault = {**self._random.choice(KINDS[kind]), "seconds": self._random.uniform(3, 12), "seed": number}
        if kind in LISTINGS_LAST and self._spare:
            fault["method"] = self._random.choice(["POST", "PUT", "DELETE"])
        return {**fault, "name": f"{kind}-{number}"}

    def clear(self) -> None:
        """Remove all faults."""
        self.ended.set()
        self.join()
        self._crms("clear_faults", self._account)
