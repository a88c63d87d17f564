"""Airflow metrics: calls to the CRM, throttled calls, time spent waiting for a slot, loads, and rows by outcome."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any, Literal

from crm_provider.load.rows import Outcome

if TYPE_CHECKING:
    from crm_provider.client.observers import RequestEvent
    from crm_provider.load.report import Summary


CALLS, THROTTLED, WAITED = "crm.calls", "crm.throttled", "crm.waited"
LOADS, ROWS = "crm.loads", "crm.load.rows"

LoadEnd = Literal["done", "too_many_rejects", "stopped", "interrupted"]


class CallMetrics:
    """Observer of a transport that sends metrics if Airflow's ``[metrics]`` settings enable them.

    ``crm.calls`` (counter) and ``crm.waited`` (time for the rate budget) of each attempt, ``crm.throttled`` (counter)
    of each 429. Tags: ``method``, ``route`` with placeholders, and for ``crm.calls`` the ``outcome``: ``ok`` or the
    error's type. Never an id or a value.
    """

    def __call__(self, event: RequestEvent) -> None:
        stats = _stats()
        tags = {"method": event.method, "route": event.route}
        stats.incr(CALLS, tags={**tags, "outcome": event.error_type or "ok"})
        stats.timing(WAITED, timedelta(seconds=event.waited), tags=tags)
        if event.status == 429:
            stats.incr(THROTTLED, tags=tags)


def count_load(ti: Any, ended: LoadEnd, summary: Summary | None = None) -> None:
    """Count a try of a load, and the rows of a completed load. A dry run is not counted.

    ``crm.loads`` (counter) has the tag ``ending``, ``crm.load.rows`` (counter) the tag ``outcome``; both have
    ``dag_id`` and ``task_id``, like Airflow's own task metrics.

    :param summary: the summary of a completed load. It contains the rows of all tries, which are counted once
    """
    if summary is not None and summary.dry_run:
        return
    stats = _stats()
    tags = {"dag_id": ti.dag_id, "task_id": ti.task_id}
    stats.incr(LOADS, tags={**tags, "ending": ended})
    for outcome in Outcome if summary is not None else ():
        if summary is not None and summary[outcome]:
            stats.incr(ROWS, summary[outcome], tags={**tags, "outcome": outcome.value})


def _stats() -> Any:
    try:
        from airflow.providers.common.compat.sdk import Stats
    except ImportError:  # the version that came with Airflow 3.1 lacks it
        from airflow.stats import Stats
    return Stats
