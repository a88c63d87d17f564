"""Measurements of a run at the CRM, and the targets of the load."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from crm_provider.sandbox.journal import JournalEntry

RATE, BURST = 5.0, 2
LATENCY = 0.2
"""Duration of a call in seconds."""

WARM_UP = 5.0
"""Seconds at the start that do not count for the share of the limit: the bucket is full, and rows are checked."""

MANY = 100_000
LEAST_ROWS = 2_000
"""The fewest rows for the targets: with fewer, the initial reads of a load are more than 2 % of its calls."""

BUDGET_BAR, CALLS_BAR, REPEAT_BAR = 0.98, 1.02, 1 / 20


@dataclass(frozen=True, kw_only=True)
class Load:
    """The result and cost of one run of a client.

    :param span: seconds from the first call to the last
    :param share: of the limit, after the warm-up; None if the run was too short for one
    :param not_loaded: rows that are missing or different in the CRM at the end
    """

    rows: int
    calls: int
    refused: int
    span: float
    share: float | None
    seconds: float
    cpu: float
    peak_mb: float
    base_mb: float
    not_loaded: int
    state: str

    @property
    def calls_per_row(self) -> float:
        return self.calls / self.rows

    @property
    def hours(self) -> float:
        """Hours for 100,000 such rows."""
        return self.seconds / self.rows * MANY / 3600

    @property
    def cpu_minutes(self) -> float:
        """Processor time for 100,000 such rows."""
        return self.cpu / self.rows * MANY / 60


def share_of_limit(journal: Sequence[JournalEntry]) -> float | None:
    """The used share of the limit between the warm-up and the last call.

    Refused calls do not count. The calls from the first after the warm-up to the last but one fill the time between the
    first and the last.
    """
    if not journal:
        return None
    admitted = [one.at for one in journal if one.status != 429 and one.at >= journal[0].at + WARM_UP]
    if len(admitted) < 2:
        return None
    return (len(admitted) - 1) / (RATE * (admitted[-1] - admitted[0]))


def seen(journal: Sequence[JournalEntry]) -> dict[str, float | int | None]:
    """The fields of :class:`Load` that come from the CRM."""
    return {
        "calls": len(journal),
        "refused": sum(one.status == 429 for one in journal),
        "span": journal[-1].at - journal[0].at if journal else 0.0,
        "share": share_of_limit(journal),
    }


@dataclass(frozen=True)
class Bar:
    """A target of the load.

    :param met: None if the run has too few rows to judge it
    """

    name: str
    measured: str
    met: bool | None

    @property
    def verdict(self) -> str:
        return {True: "met", False: "MISSED", None: "not judged: too few rows"}[self.met]


def bars(*, first: Load, again: Load, rival_again: Load, fewest: int, wrong: int) -> list[Bar]:
    """The targets, judged if the number of rows allows it.

    :param fewest: minimum of calls of the first load
    :param wrong: wrong outcomes of the load under the faults
    """
    enough = first.rows >= LEAST_ROWS
    share, over, of_rival = first.share or 0.0, first.calls / fewest, again.calls_per_row / rival_again.calls_per_row
    return [
        Bar(f"at least {BUDGET_BAR:.0%} of the limit used", f"{share:.1%}", share >= BUDGET_BAR if enough else None),
        Bar(
            f"calls per row within {CALLS_BAR - 1:.0%} of the minimum",
            f"{first.calls:,} calls, minimum {fewest:,}: {over - 1:+.1%}",
            over <= CALLS_BAR if enough else None,
        ),
        Bar(
            f"a day later at most 1/{1 / REPEAT_BAR:.0f} of the loop's calls",
            f"{again.calls_per_row:.3f} and {rival_again.calls_per_row:.3f} per row: 1/{1 / of_rival:.0f}",
            of_rival <= REPEAT_BAR,
        ),
        Bar("no wrong outcome", f"{wrong}", wrong == 0),
    ]
