"""The plan of a load of contacts: which calls are cheapest, what they cost, and why.

With ``R`` rows to send, ``T`` contacts in the CRM, a share ``h`` of the rows that exist there and a share ``u`` of
those that are equal already:

===========  ====================================  =====================================
mode         without reading                       ``compare``: read all contacts first
===========  ====================================  =====================================
``upsert``   ``R * (1 + min(h, 1 - h))``           ``T / 10 + R * (1 - h * u)``
``create``   ``R``                                 ``T / 10 + R * (1 - h)``
``update``   ``R``                                 ``T / 10 + R * (1 - h * u)``
===========  ====================================  =====================================

Lists that contacts are added to cost one call more for each contact, and another one for each contact that exists, to
see whether it is unsubscribed (not with ``resubscribe``); in mode ``create`` only new contacts are added. ``h`` and
``u`` are estimated by reading a few rows' contacts, and only where the answer can change the choice. Where nothing is
estimated, a plan's calls are the most that it can take (:func:`most_calls`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

from crm_provider.client.pagination import PAGE_SIZE
from crm_provider.load.options import Mode, PlanName
from crm_provider.values.counted import counted

SAMPLE_SHARE = 0.01
"""Share of the rows, or of the calls if they are fewer, that is spent on the estimate."""

SAMPLE_LEAST, SAMPLE_MOST = 5, 50
"""Rows of a sample. Fewer show nothing; 50 show a share to within 7 points, and more hardly change the choice."""

MIN_ROWS = int(SAMPLE_LEAST / SAMPLE_SHARE / 10)
"""Rows of the smallest load for which a sample pays off."""

FEW_ROWS = f"fewer than {MIN_ROWS} rows, for which a sample does not pay off; it may take fewer calls"
"""Why a small load reads no sample."""

SAMPLE_STEP = 10
"""Rows that are sampled before the next decision: where few rows need a call, 1 % of the rows is more than 1 % of the
calls."""


@dataclass(frozen=True)
class Sample:
    """What reading a few contacts has shown.

    :param rows: rows of the sample
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
    """What a load will do.

    :param name: ``compare``, ``learned``, the mode where it is the one call, ``nothing``, or
        :data:`~crm_provider.load.options.NO_PLAN`
    :param calls: expected calls, including those spent on choosing the plan
    :param why: one sentence
    """

    name: str
    calls: int
    why: str

    def seconds(self, rate: float) -> float:
        """Seconds that the calls take if nothing else uses the rate.

        :param rate: calls per second
        """
        return self.calls / rate


@dataclass(frozen=True)
class ListCosts:
    """The cost of the lists that contacts are added to.

    :param wanted: whether there are any
    :param guarded: whether each contact that exists is read first, to see whether it is unsubscribed
    """

    wanted: bool = False
    guarded: bool = False

    def calls(self, mode: Mode, rows: float, h: float) -> float:
        """Expected calls for rows of which a share ``h`` exists."""
        listed = rows * (1 - h) if mode == "create" else rows * h if mode == "update" else rows
        read = rows * h if self.guarded and mode != "create" else 0.0
        return (listed + read) * self.wanted


NO_LISTS = ListCosts()

_MOST: Mapping[Mode, tuple[int, int, int]] = {
    # calls of one row at most: without lists, with lists, with lists and the guard
    "upsert": (2, 3, 4),
    "create": (1, 2, 2),
    "update": (1, 2, 3),
}


def most_calls(mode: Mode, rows: int, lists: ListCosts = NO_LISTS, *, compares: bool = False) -> int:
    """Calls that rows can take at most if no call fails and nobody else changes the contacts meanwhile.

    :param compares: whether all contacts were read before; their reading is not counted
    """
    each = _MOST[mode][lists.wanted + (lists.wanted and lists.guarded)]
    first = mode == "create" and lists.wanted  # one read shows the CRM's clock
    return rows * (each - 1 if compares and mode == "upsert" else each) + first


def calls_without_reading(mode: Mode, rows: int, h: float, *, lists: ListCosts = NO_LISTS) -> float:
    """Expected calls for all rows if the learned order is used, or the one call of the mode."""
    writes = rows * (1 + min(h, 1 - h)) if mode == "upsert" else float(rows)
    return writes + lists.calls(mode, rows, h)


def calls_with_compare(mode: Mode, rows: int, total: int, h: float, u: float, *, lists: ListCosts = NO_LISTS) -> float:
    """Expected calls for all rows if the contacts of the CRM are read first."""
    return pages_of(total) + rows * (1 - (h if mode == "create" else h * u)) + lists.calls(mode, rows, h)


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
    lists: ListCosts = NO_LISTS,
    may_compare: bool = True,
) -> tuple[Plan, Sample]:
    """The plan for a load.

    :param wanted: the plan that the user asked for
    :param rows: rows that are left to send
    :param total: reads how many contacts the CRM has (one call), None if it does not say
    :param sample: reads the contacts of a number of further rows (one call each), and returns the sample so far
    :param lists: the cost of the lists that each contact is added to
    :param may_compare: False if an earlier try was stopped while it read all contacts
    """
    order = "learned" if mode == "upsert" else mode
    if rows == 0:
        return Plan("nothing", 0, "no rows are left to send"), Sample()
    most = most_calls(mode, rows, lists)
    if wanted in ("auto", "compare") and not may_compare:
        why = "an earlier try was stopped while it read all contacts; it may take fewer calls"
        return Plan(order, most, why), Sample()
    if wanted == "compare":
        count = total()
        cost = most_calls(mode, rows, lists, compares=True) + pages_of(count or 0) + 1
        return Plan("compare", cost, f"requested by plan; {read_first(count, 'contact')}"), Sample()
    if wanted != "auto":
        return Plan(wanted, most, "requested by plan; it may take fewer calls"), Sample()
    return _cheapest(mode, rows, total, sample, lists=lists)


def _cheapest(
    mode: Mode, rows: int, total: Callable[[], int | None], sample: Callable[[int], Sample], *, lists: ListCosts
) -> tuple[Plan, Sample]:
    order = "learned" if mode == "upsert" else mode
    most = most_calls(mode, rows, lists)
    if rows < MIN_ROWS:
        return Plan(order, most, FEW_ROWS), Sample()
    count = total()
    if count is None:
        return Plan(order, most + 1, "the CRM does not say how many contacts it has; it may take fewer calls"), Sample()
    if count == 0:
        calls = most_calls("create", rows, lists) + 1
        return Plan(order, calls, "the CRM has no contacts yet, so every row is new"), Sample()
    if pages_of(count) >= math.ceil(calls_without_reading(mode, rows, 0.5, lists=lists)):
        reading = f"reading {counted(count, 'contact')} takes {pages_of(count):,} calls"
        why = f"{reading}, more than it could save; it may take fewer calls"
        return Plan(order, most + 1, why), Sample()
    costs = partial(_costs, mode, rows, count, lists)
    size = min(max(int(rows * SAMPLE_SHARE), SAMPLE_LEAST), SAMPLE_MOST)
    found = Sample()
    for looked in range(0, size, SAMPLE_STEP):
        if looked and looked >= SAMPLE_SHARE * min(costs(found)):
            break
        found = sample(min(SAMPLE_STEP, size - looked))
    return _by_sample(mode, count, found, costs), found


def _costs(mode: Mode, rows: int, total: int, lists: ListCosts, sample: Sample) -> tuple[float, float]:
    """Calls without reading, and with ``compare``, if the sample is like all rows."""
    h, u = sample.share_existing, sample.share_same
    without_reading = calls_without_reading(mode, rows, h, lists=lists)
    return without_reading, calls_with_compare(mode, rows, total, h, u, lists=lists)


def _by_sample(mode: Mode, total: int, sample: Sample, costs: Callable[[Sample], tuple[float, float]]) -> Plan:
    spent = sample.rows + 1
    without_reading, with_reading = costs(sample)
    why = (
        f"{facts_of(sample)}: about {with_reading:,.0f} calls if the CRM's {counted(total, 'contact')} are read first, "
        f"and {without_reading:,.0f} if not"
    )
    if with_reading < without_reading:
        return Plan("compare", math.ceil(with_reading) + spent, why)
    return Plan({"upsert": "learned"}.get(mode, mode), math.ceil(without_reading) + spent, why)


def facts_of(sample: Sample) -> str:
    """What a sample has shown, for people."""
    return f"of {counted(sample.rows, 'sampled row')}, {sample.existing} exist and {sample.same} are equal"


def read_first(total: int | None, noun: str) -> str:
    """What the calls of the plan ``compare`` mean, for people.

    :param total: records that the CRM reports, None if it does not say
    """
    if total is None:
        return f"the CRM does not say how many {noun}s it has; reading them, ten per call, takes more calls than these"
    return f"the CRM reports {counted(total, noun)}, read ten per call; it may take fewer calls"
