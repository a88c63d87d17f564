"""What a load did, small enough for an XCom: counts, never rows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from crm_provider.load.rows import Outcome


@dataclass(frozen=True, kw_only=True)
class Summary:
    """The result of a load, over all its tries.

    :param rows: rows of the source; the outcomes add up to it once all is done
    :param counts: rows by outcome
    :param errors: rows by the type of the error that decided them
    :param problems: what the check found -> rows; no text holds a value
    :param calls: calls made, refused ones included
    :param calls_saved: what creating each row, and updating it on a conflict, would have cost more; 0 if it had not
    :param throttled: calls of this try that were refused for their rate
    :param seconds: time spent, waiting between tries excluded
    :param left: rows that are still to be sent: the run ended early
    :param budget_used: share of the key's rate that this try took; a burst is not counted beyond it
    """

    rows: int
    counts: Mapping[Outcome, int] = field(default_factory=dict)
    errors: Mapping[str, int] = field(default_factory=dict)
    problems: Mapping[str, int] = field(default_factory=dict)
    calls: int = 0
    calls_saved: int = 0
    throttled: int = 0
    seconds: float = 0.0
    left: int = 0
    budget_used: float = 0.0
    resumed_at: int = 0
    plan: str = "nothing"
    plan_why: str = ""
    plan_calls: int = 0
    plan_seconds: float = 0.0
    dry_run: bool = False
    paths: Mapping[str, str | None] = field(default_factory=dict)

    def __getitem__(self, outcome: Outcome) -> int:
        return self.counts.get(outcome, 0)

    def as_dict(self) -> dict[str, Any]:
        """JSON-able; the XCom of the operator."""
        return {
            "rows": self.rows,
            **{outcome.value: self[outcome] for outcome in Outcome},
            "left": self.left,
            "calls": self.calls,
            "calls_saved": self.calls_saved,
            "throttled": self.throttled,
            "errors": dict(self.errors),
            "problems": dict(self.problems),
            "plan": {
                "name": self.plan,
                "why": self.plan_why,
                "calls": self.plan_calls,
                "seconds": round(self.plan_seconds, 1),
            },
            "seconds": round(self.seconds, 1),
            "budget_used": round(self.budget_used, 3),
            "resumed_at": self.resumed_at,
            "dry_run": self.dry_run,
            **{f"{name}_path": path for name, path in self.paths.items()},
        }

    def line(self) -> str:
        """One line for the log."""
        counts = ", ".join(f"{self[outcome]:,} {outcome.value}" for outcome in Outcome if self[outcome])
        left = f", {self.left:,} left" if self.left else ""
        saved = f", {self.calls_saved:,} saved by the plan" if self.calls_saved else ""
        return (
            f"{self.rows:,} rows: {counts or 'none done'}{left}; {self.calls:,} calls in {duration(self.seconds)} "
            f"({self.budget_used:.0%} of the budget){saved}"
        )


def duration(seconds: float) -> str:
    """A time for people.

    >>> duration(20000)
    '5 h 33 min'
    """
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 90:
        return f"{minutes} min"
    return f"{minutes // 60} h {minutes % 60:02} min"
