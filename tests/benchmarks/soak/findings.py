"""Counts and violations of the soak."""

from __future__ import annotations

import threading
import time
from collections import Counter


class Findings:
    """Collects counts and violations from all threads.

    :ivar wrong: each violation once, in the order of the findings
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._started = time.monotonic()
        self.counts: Counter[str] = Counter()
        self.longest: dict[str, float] = {}
        self.wrong: list[str] = []

    def count(self, what: str, number: int = 1) -> None:
        with self._lock:
            self.counts[what] += number

    def measure(self, what: str, seconds: float) -> None:
        """Keep the maximum of these values."""
        with self._lock:
            self.longest[what] = max(seconds, self.longest.get(what, 0.0))

    def require(self, holds: bool, text: str) -> bool:
        """Record a violation unless the condition holds. The text has no varying values except names of jobs."""
        if not holds:
            with self._lock:
                self.wrong.append(f"after {time.monotonic() - self._started:.0f} s: {text}")
                print("WRONG", self.wrong[-1], flush=True)
        return holds
