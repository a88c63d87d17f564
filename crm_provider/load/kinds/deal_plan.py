"""The plan of a load of deals: which calls are cheapest, what they cost, and why.

With ``R`` rows to send, ``T`` deals in the CRM, a share ``h`` of the rows whose deals exist and a share ``u`` of those
that have all values already:

===================  ==========================  =====================================
mode                 without reading             ``compare``: read all deals first
===================  ==========================  =====================================
``move``, ``update``  ``R``                       ``T / 10 + R * (1 - h * u)``
with a guard         ``R * (1 + h * (1 - u))``   ``T / 10 + R * (1 - h + 2h * (1 - u))``
``create``           ``R``                       only as asked, or to find what an earlier try created
``upsert``           ``R`` if all rows have ids  ``T / 10 + R``: the API cannot search for a contact's deal
===================  ==========================  =====================================

The guard is ``only_from_stages``: a deal is read once more before it is changed. Each row that names its contact by an
address costs one more call, unless reading all contacts costs less.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from crm_provider.load.planner import (
    FEW_ROWS,
    MIN_ROWS,
    SAMPLE_LEAST,
    SAMPLE_MOST,
    SAMPLE_SHARE,
    SAMPLE_STEP,
    Plan,
    Sample,
    facts_of,
    pages_of,
    read_first,
)
from crm_provider.values.counted import counted


@dataclass(frozen=True, kw_only=True)
class DealRows:
    """The rows that are to be sent.

    :param count: all of them
    :param unnamed: those without the id of their deal
    :param addresses: those that name their contact by its address
    :param guarded: whether a deal is read before it is changed
    :param must_read: why all deals must be read first, whatever that costs; None if they need not be
    """

    mode: str
    count: int
    unnamed: int = 0
    addresses: int = 0
    guarded: bool = False
    must_read: str | None = None

    @property
    def most(self) -> int:
        """Calls that they can take at most, their addresses and the reading of all deals excluded."""
        new = self.count if self.mode == "create" else 0
        return new + (self.count - new) * (1 + self.guarded)

    def without_reading(self, h: float, u: float) -> float:
        """Expected calls."""
        return self.count * (1 + h * (1 - u)) if self.guarded else float(self.count)

    def with_compare(self, total: int, h: float, u: float) -> float:
        """Expected calls if all deals are read first."""
        return pages_of(total) + self.count * ((1 - h) + h * (1 - u) * (1 + self.guarded))


def choose_for_deals(
    rows: DealRows,
    *,
    wanted: str,
    total: Callable[[], int | None],
    sample: Callable[[int], Sample],
    may_compare: bool,
) -> Plan:
    """The plan for a load of deals; the calls for addresses come on top.

    :param wanted: the plan that the user asked for
    :param total: reads how many deals the CRM has (one call), None if it does not say
    :param sample: reads the deals of a number of further rows (one call each), and returns the sample so far
    :param may_compare: False if an earlier try was stopped while it read all deals
    """
    if rows.count == 0:
        return Plan("nothing", 0, "no rows are left to send")
    if rows.must_read is not None:
        return _compare(rows, total(), rows.must_read)
    if not may_compare:
        return Plan(rows.mode, rows.most, "an earlier try was stopped while it read all deals; it may take fewer calls")
    if wanted == "compare":
        return _compare(rows, total(), "requested by plan")
    if rows.mode == "create" or rows.count < MIN_ROWS:
        return Plan(rows.mode, rows.most, "each row is one call" if rows.mode == "create" else FEW_ROWS)
    return _cheapest_for_deals(rows, total(), sample)


def _compare(rows: DealRows, total: int | None, why: str) -> Plan:
    calls = rows.most + pages_of(total or 0) + 1
    return Plan("compare", calls, f"{why}; {read_first(total, 'deal')}")


def _cheapest_for_deals(rows: DealRows, total: int | None, sample: Callable[[int], Sample]) -> Plan:
    if total is None:
        return Plan(rows.mode, rows.most + 1, "the CRM does not say how many deals it has; it may take fewer calls")
    if pages_of(total) >= rows.count:
        reading = f"reading {counted(total, 'deal')} takes {pages_of(total):,} calls"
        why = f"{reading}, more than it could save; it may take fewer calls"
        return Plan(rows.mode, rows.most + 1, why)
    size = min(max(int(rows.count * SAMPLE_SHARE), SAMPLE_LEAST), SAMPLE_MOST)
    found = Sample()
    for looked in range(0, size, SAMPLE_STEP):
        if looked and looked >= SAMPLE_SHARE * min(_both(rows, total, found)):
            break
        found = sample(min(SAMPLE_STEP, size - looked))
    without_reading, with_reading = _both(rows, total, found)
    why = (
        f"{facts_of(found)}: about {with_reading:,.0f} calls if the CRM's {counted(total, 'deal')} are read first, and "
        f"{without_reading:,.0f} if not"
    )
    spent = found.rows + 1
    if with_reading < without_reading:
        return Plan("compare", math.ceil(round(with_reading, 6)) + spent, why)
    return Plan(rows.mode, math.ceil(round(without_reading, 6)) + spent, why)


def _both(rows: DealRows, total: int, sample: Sample) -> tuple[float, float]:
    h, u = sample.share_existing, sample.share_same
    return rows.without_reading(h, u), rows.with_compare(total, h, u)
