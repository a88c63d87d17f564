"""What the CRM saw of a run, and the bars that ours is held to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from crm_provider.sandbox.journal import JournalEntry

RATE, BURST = 5.0, 2
LATENCY = 0.2
"""Seconds that a call takes."""

WARM_UP = 5.0
"""Seconds at the beginning that do not count for the share of the limit: the bucket is full, and rows are checked."""

MANY = 100_000
LEAST_ROWS = 2_000
"""With fewer rows the looks at the beginning of a load weigh more than 2 %: the bars are for so many and more."""

BUDGET_BAR, CALLS_BAR, REPEAT_BAR = 0.98, 1.02, 1 / 20


@dataclass(frozen=True, kw_only=True)
class Load:
    """What one run of a way was and cost.

    :param span: seconds from the first call to the last
    :param share: of the limit, after the warm-up; None if the run was too short for one
    :param not_loaded: rows that the CRM does not hold as they are, in the end
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
    """Share of the limit that was used between the warm-up and the last call.

    A refused call used nothing. The calls from the first after the warm-up to the one before the last fill the time
    between the first and the last.
    """
    if not journal:
        return None
    admitted = [one.at for one in journal if one.status != 429 and one.at >= journal[0].at + WARM_UP]
    if len(admitted) < 2:
        return None
    return (len(admitted) - 1) / (RATE * (admitted[-1] - admitted[0]))


def seen(journal: Sequence[JournalEntry]) -> dict[str, float | int | None]:
    """The fields of :class:`Load` that the CRM knows."""
    return {
        "calls": len(journal),
        "refused": sum(one.status == 429 for one in journal),
        "span": journal[-1].at - journal[0].at if journal else 0.0,
        "share": share_of_limit(journal),
    }


@dataclass(frozen=True)
class Bar:
    """Something that ours must reach.

    :param met: None if it is not judged in this run
    """

    name: str
    measured: str
    met: bool | None

    @property
    def verdict(self) -> str:
        return {True: "met", False: "MISSED", None: "not judged: too few rows"}[self.met]


def bars(*, first: Load, again: Load, rival_again: Load, fewest: int, wrong: int) -> list[Bar]:
    """The bars, as far as the number of rows lets them be judged.

    :param fewest: calls that the first load needs at least
    :param wrong: wrong outcomes of ours under the faults
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
