"""Airflow metrics of the calls to the CRM: how many, refused for their rate, and how long they waited for a slot."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from crm_provider.traffic import CallSeen

CALLS, THROTTLED, WAITED = "crm.calls", "crm.throttled", "crm.waited"


class CallMetrics:
    """Observer of a transport; sends what Airflow's ``[metrics]`` settings ask for, and nothing without them.

    ``crm.calls`` (counter) and ``crm.waited`` (time for the rate budget) of each attempt, ``crm.throttled`` (counter)
    of each 429. Tags: ``method``, ``route`` with placeholders, and for ``crm.calls`` the ``outcome``: ``ok`` or the
    error's type. Never an id or a value.
    """

    def __call__(self, seen: CallSeen) -> None:
        stats = _stats()
        tags = {"method": seen.method, "route": seen.route}
        stats.incr(CALLS, tags={**tags, "outcome": seen.error_type or "ok"})
        stats.timing(WAITED, timedelta(seconds=seen.waited), tags=tags)
        if seen.throttled:
            stats.incr(THROTTLED, tags=tags)


def _stats() -> Any:
    try:
        from airflow.providers.common.compat.sdk import Stats
    except ImportError:  # with Airflow 3.1 came one without it
        from airflow.stats import Stats
    return Stats
