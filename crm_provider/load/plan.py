"""Which calls a load will make: the cheapest way, what it costs, and why.

With ``R`` rows to send, ``T`` contacts in the CRM, a share ``h`` of the rows that exist there and a share ``u`` of
those that are equal already:

===========  ====================================  =====================================
mode         without reading                       ``compare``: read all contacts first
===========  ====================================  =====================================
``upsert``   ``R * (1 + min(h, 1 - h))``           ``T / 10 + R * (1 - h * u)``
``create``   ``R``                                 ``T / 10 + R * (1 - h)``
``update``   ``R``                                 ``T / 10 + R * (1 - h * u)``
===========  ====================================  =====================================

Lists that each contact is added to cost one call a row more, and without ``compare`` another one for each contact that
exists, to see whether it is unsubscribed. ``h`` and ``u`` are estimated by reading a few rows' contacts, and only where
the answer can change the choice.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from crm_provider.load.options import Mode, PlanName
from crm_provider.paging import PAGE_SIZE

SAMPLE_SHARE = 0.01
"""Share of the rows, or of the calls if they are fewer, that is spent on the estimate."""

SAMPLE_LEAST, SAMPLE_MOST = 5, 50
"""Rows of a sample. Fewer say nothing; 50 tell a share to within 7 points, and more hardly change the choice."""

SAMPLE_STEP = 10
"""Rows that are looked at before it is asked for more: where few rows need a call, 1 % of the rows is more than 1 % of
the calls."""


@dataclass(frozen=True)
class Sample:
    """What reading some contacts has shown.

    :param rows: rows looked up
    :param existing: how many of them the CRM has
    :param same: how many of those have all values already
    """

    rows: int = 0
    existing: int = 0
    same: int = 0

    @property
    def share_existing(self) -> float:
        return self.existing / self.rows if self.rows else 0.0

    @property
    def share_same(self) -> float:
        return self.same / self.existing if self.existing else 0.0


@dataclass(frozen=True)
class Plan:
    """What will be done.

    :param name: ``compare``, ``learned``, or the mode where it is the one call
    :param calls: what it is expected to cost, what was spent on choosing included
    :param why: one sentence
    """

    name: str
    calls: int
    why: str

    @property
    def compares(self) -> bool:
        return self.name == "compare"

    def seconds(self, rate: float) -> float:
        """How long it takes with a rate of calls per second all to itself."""
        return self.calls / rate


def calls_without_reading(mode: Mode, rows: int, h: float, *, lists: bool = False) -> float:
    """Calls for all rows if the learned order is used, or the one call of the mode.

    :param lists: whether each contact is added to lists
    """
    plain = rows * (1 + min(h, 1 - h)) if mode == "upsert" else float(rows)
    return plain + rows * (1 if mode == "create" else 1 + h) * lists


def calls_with_compare(mode: Mode, rows: int, total: int, h: float, u: float, *, lists: bool = False) -> float:
    """Calls for all rows if the contacts of the CRM are read first."""
    return pages_of(total) + rows * (1 - (h if mode == "create" else h * u)) + rows * lists


def pages_of(total: int) -> int:
    """Calls that reading all contacts takes."""
    return max(math.ceil(total / PAGE_SIZE), 1)


def choose(
    *,
    mode: Mode,
    wanted: PlanName,
    rows: int,
    total: Callable[[], int | None],
    sample: Callable[[int], Sample],
    lists: bool = False,
    may_compare: bool = True,
) -> tuple[Plan, Sample]:
    """The plan for a load.

    :param wanted: the plan that the user asked for
    :param rows: rows that will be sent, if nothing is known of the CRM
    :param total: reads how many contacts the CRM has (one call), None if it does not say
    :param sample: reads the contacts of so many more rows (one call each), and tells of all that were read
    :param lists: whether each contact is added to lists
    :param may_compare: False if an earlier try was stopped while it read all contacts
    """
    plain = "learned" if mode == "upsert" else mode
    if rows == 0:
        return Plan("nothing", 0, "no row is left to be sent"), Sample()
    if wanted in ("auto", "compare") and not may_compare:
        cost = math.ceil(calls_without_reading(mode, rows, 0.5, lists=lists))
        return Plan(plain, cost, "an earlier try was stopped while it read all contacts; calls at most"), Sample()
    if wanted == "compare":
        count = total()
        cost = rows * (1 + lists) + pages_of(count or 0) + 1
        return Plan("compare", cost, f"as asked for; the CRM tells of {_count(count)}, read ten with a call"), Sample()
    if wanted != "auto":
        return Plan(wanted, math.ceil(rows * (1.5 + 2 * lists)), "as asked for; calls at most"), Sample()
    return _cheapest(mode, rows, total, sample, lists=lists)


def _cheapest(
    mode: Mode, rows: int, total: Callable[[], int | None], sample: Callable[[int], Sample], *, lists: bool
) -> tuple[Plan, Sample]:
    plain = "learned" if mode == "upsert" else mode
    worst = math.ceil(calls_without_reading(mode, rows, 0.5, lists=lists))
    if rows < SAMPLE_LEAST / SAMPLE_SHARE / 10:
        return Plan(plain, worst, f"{rows} row(s) are too few to make up for looking first"), Sample()
    count = total()
    if count is None:
        return Plan(plain, worst + 1, "the CRM does not tell how many contacts it has"), Sample()
    if count == 0:
        return Plan(plain, rows * (1 + lists) + 1, "the CRM has no contact yet, so each row is one call"), Sample()
    if pages_of(count) >= worst:
        why = f"reading {_count(count)} takes {pages_of(count):,} calls, more than it could save"
        return Plan(plain, worst + 1, why), Sample()
    costs = partial(_costs, mode, rows, count, lists)
    size = min(max(int(rows * SAMPLE_SHARE), SAMPLE_LEAST), SAMPLE_MOST)
    seen = Sample()
    for looked in range(0, size, SAMPLE_STEP):
        if looked and looked >= SAMPLE_SHARE * min(costs(seen)):
            break
        seen = sample(min(SAMPLE_STEP, size - looked))
    return _by_sample(mode, count, seen, costs), seen


def _costs(mode: Mode, rows: int, total: int, lists: bool, seen: Sample) -> tuple[float, float]:
    """Calls without reading, and with ``compare``, if the sample is like all rows."""
    h, u = seen.share_existing, seen.share_same
    plain = calls_without_reading(mode, rows, h, lists=lists)
    return plain, calls_with_compare(mode, rows, total, h, u, lists=lists)


def _by_sample(mode: Mode, total: int, seen: Sample, costs: Callable[[Sample], tuple[float, float]]) -> Plan:
    spent = seen.rows + 1
    plain, compare = costs(seen)
    facts = f"of {seen.rows} rows looked up {seen.existing} exist and {seen.same} are equal"
    names = {"upsert": "learned"}.get(mode, mode)
    if compare < plain:
        why = f"{facts}: reading {_count(total)} first costs {compare:,.0f} calls, not reading {plain:,.0f}"
        return Plan("compare", math.ceil(compare) + spent, why)
    why = f"{facts}: {plain:,.0f} calls, and {compare:,.0f} with reading {_count(total)} first"
    return Plan(names, math.ceil(plain) + spent, why)


def _count(total: int | None) -> str:
    return "an unknown number of contacts" if total is None else f"{total:,} contacts"
