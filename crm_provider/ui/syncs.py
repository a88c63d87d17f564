"""What the page shows of syncs: the list, with the last runs of each. Pure functions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING
from urllib.parse import urlencode

from crm_provider.load.rows import duration
from crm_provider.ui.charts import Trend, TrendPoint, trend_of
from crm_provider.ui.endings import Ending, ending_of
from crm_provider.ui.filters import STATES, Filters
from crm_provider.ui.runs import RunLine, counts_of, line_of
from crm_provider.ui.stored import Run

if TYPE_CHECKING:
    from crm_provider.ui.query import NextRun

PAGE_SIZE, TREND_RUNS, SYNC_PAGE_SIZE = 20, 14, 25
"""Syncs on a page of the list, runs in the trend of each, and runs on a page of a sync."""

MOST_CHOICES = 500
"""Maximum connections, and maximum DAGs, that a filter offers."""


@dataclass(frozen=True, kw_only=True)
class SyncLine:
    """A sync in the list, with its last run."""

    dag_id: str
    task_id: str
    conn_id: str | None
    operator: str
    href: str
    last: RunLine
    next_run: str
    trend: Trend


@dataclass(frozen=True, kw_only=True)
class FilterChoices:
    """What the filters of the list offer."""

    connections: Sequence[str]
    dags: Sequence[str]


def choices_of(runs: Iterable[Run]) -> FilterChoices:
    """What the filters offer, from the last run of each sync."""
    runs = list(runs)
    connections = sorted({run.conn_id for run in runs if run.conn_id})
    dags = sorted({run.found.dag_id for run in runs})
    return FilterChoices(connections=connections[:MOST_CHOICES], dags=dags[:MOST_CHOICES])


def chosen(runs: Iterable[Run], filters: Filters, *, now: datetime) -> list[Run]:
    """The last runs that match the filters, in the given order: the newest first."""
    since, part = filters.since(now), filters.q.casefold()
    return [
        run
        for run in runs
        if (not filters.dag or run.found.dag_id == filters.dag)
        and (not filters.connection or run.conn_id == filters.connection)
        and (since is None or run.found.start >= since)
        and (not part or any(part in text.casefold() for text in _searched(run)))
        and (not filters.state or ending_of(run).tone.value == filters.state)
    ]


def _searched(run: Run) -> tuple[str, ...]:
    return run.found.dag_id, run.found.task_id, run.found.operator, run.conn_id or ""


def count_by_state(runs: Iterable[Run]) -> list[tuple[str, str, int]]:
    """The number of syncs for each ending: filter, label, and number; endings without syncs are left out."""
    counts = Counter(ending_of(run).tone.value for run in runs)
    return [(state, label, counts[state]) for state, label in STATES.items() if counts[state]]


def sync_line(last: Run, runs: Sequence[Run], schedule: NextRun | None, *, root: str, now: datetime) -> SyncLine:
    """A sync in the list.

    :param runs: its last runs, the newest first
    :param root: path of the page
    """
    found = last.found
    return SyncLine(
        dag_id=found.dag_id,
        task_id=found.task_id,
        conn_id=last.conn_id,
        operator=found.operator,
        href=sync_href(root, found.dag_id, found.task_id),
        last=line_of(last, root=root, now=now),
        next_run=next_run(schedule, now),
        trend=trend(runs),
    )


def sync_href(root: str, dag_id: str, task_id: str) -> str:
    """The address of a sync's own page."""
    return f"{root}/sync?{urlencode({'dag_id': dag_id, 'task_id': task_id})}"


def trend(runs: Sequence[Run]) -> Trend:
    """The trend of runs, which come from the database with the newest first."""
    return trend_of([_point(run, ending_of(run)) for run in reversed(runs)])


def _point(run: Run, ending: Ending) -> TrendPoint:
    return TrendPoint(tone=ending.tone.value, counts=counts_of(run), seconds=run.seconds)


def by_sync(runs: Iterable[Run]) -> Mapping[tuple[str, str], list[Run]]:
    """Runs by DAG and task, in the given order."""
    groups: dict[tuple[str, str], list[Run]] = {}
    for run in runs:
        groups.setdefault((run.found.dag_id, run.found.task_id), []).append(run)
    return groups


def next_run(schedule: NextRun | None, now: datetime) -> str:
    """When a DAG runs next, in words."""
    if schedule is None:
        return "not known"
    if schedule.is_paused:
        return "paused"
    if schedule.next_run is None:
        return f"on {schedule.summary}"[:60] if schedule.summary not in ("", "None") else "when it is triggered"
    seconds = (schedule.next_run - now).total_seconds()
    return "now" if seconds <= 0 else f"in {duration(seconds)}"
