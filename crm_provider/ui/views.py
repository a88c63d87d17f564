"""The values of each page: checks the user's permissions, and reads only what the page needs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Any

from crm_provider import config
from crm_provider.errors import CrmConfigurationError
from crm_provider.load.rejects.resend import TAG, resend_dag_id
from crm_provider.observability.links import web_link
from crm_provider.ui.access import may_start, readable
from crm_provider.ui.endings import Tone
from crm_provider.ui.filters import PERIODS, STATES, Filters, Paging
from crm_provider.ui.query import (
    MOST_RUNS,
    MOST_SYNCS,
    SYNCS,
    all_syncs,
    last_run_for,
    last_runs,
    paused_if_tagged,
    run_of,
    runs_of,
    schedules,
)
from crm_provider.ui.runs import Resend, RunPage, folded, line_of, page_of
from crm_provider.ui.stored import read
from crm_provider.ui.syncs import (
    PAGE_SIZE,
    SYNC_PAGE_SIZE,
    TREND_RUNS,
    by_sync,
    choices_of,
    chosen,
    count_by_state,
    next_run,
    sync_href,
    sync_line,
    trend,
)

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

REFRESH = 5
"""Seconds between two refreshes of a page with a running sync."""

BY_STATE: Mapping[str, dict[str, Any]] = {
    Tone.FAILED.value: {"states": ("failed", "upstream_failed")},
    Tone.REJECTS.value: {"states": ("success",), "rejects": True},
    Tone.SUCCESS.value: {"states": ("success",), "rejects": False},
    Tone.SKIPPED.value: {"states": ("skipped", "removed")},
    Tone.RUNNING.value: {
        "states": (
            "running", "queued", "scheduled", "restarting", "deferred", "up_for_retry", "up_for_reschedule",
        )
    },
}  # fmt: skip
"""The filter by state, in terms of the database."""


def list_of_syncs(session: Session, user: Any, query: Mapping[str, str], *, root: str, now: datetime) -> dict[str, Any]:
    """All syncs that the user may see, with their last runs."""
    filters, syncs = Filters.of(query), all_syncs(session)
    seen = readable(user, (dag_id for dag_id, _ in syncs))
    visible = [sync for sync in syncs if sync[0] in seen]
    considered = [sync for sync in visible if not filters.dag or sync[0] == filters.dag][:MOST_SYNCS]
    last = [read(found, brief=True) for found in last_runs(session, considered, each=1)]
    fitting = chosen(last, filters, now=now)
    paging = Paging(page=filters.page, total=len(fitting), size=PAGE_SIZE)
    shown = fitting[paging.first - 1 : paging.last]
    names = [(run.found.dag_id, run.found.task_id) for run in shown]
    runs = by_sync(read(found, brief=True) for found in last_runs(session, names, each=TREND_RUNS))
    planned = schedules(session, (dag_id for dag_id, _ in names))
    choices = choices_of(last)
    return {
        "tab": "syncs",
        "filters": filters, "states": STATES, "periods": PERIODS, "paging": paging,
        "state_counts": count_by_state(last),
        "connections": choices.connections,
        "dags": sorted({dag_id for dag_id, _ in visible}),
        "too_many": len(visible) if len(visible) > MOST_SYNCS and not filters.dag else 0, "most": MOST_SYNCS,
        "operators": sorted(SYNCS),
        "syncs": [
            sync_line(run, runs.get(name, []), planned.get(name[0]), root=root, now=now)
            for name, run in zip(names, shown, strict=True)
        ],
        "refresh": REFRESH if any(run.found.is_running for run in shown) else 0,
    }  # fmt: skip


def one_sync(
    session: Session, user: Any, query: Mapping[str, str], *, root: str, now: datetime
) -> dict[str, Any] | None:
    """One sync with its runs; None if it does not exist or the user may not see it."""
    sync = (query.get("dag_id", ""), query.get("task_id", ""))
    if not readable(user, [sync[0]]):
        return None
    last = [read(found, brief=True) for found in last_runs(session, [sync], each=2 * TREND_RUNS)]
    if not last:
        return None
    filters = Filters.of(query)
    by_state = BY_STATE.get(filters.state, {})
    offset = (filters.page - 1) * SYNC_PAGE_SIZE
    found, total = runs_of(session, sync, since=filters.since(now), offset=offset, limit=SYNC_PAGE_SIZE, **by_state)
    runs = [read(one, brief=True) for one in found]
    return {
        "tab": "syncs",
        "dag_id": sync[0], "task_id": sync[1], "conn_id": last[0].conn_id, "operator": last[0].found.operator,
        "href": sync_href(root, *sync), "next_run": next_run(schedules(session, [sync[0]]).get(sync[0]), now),
        "trend": trend(last), "last": line_of(last[0], root=root, now=now),
        "groups": folded(line_of(run, root=root, now=now) for run in runs),
        "filters": filters, "states": STATES, "periods": PERIODS, "most": MOST_RUNS,
        "paging": Paging(page=filters.page, total=total, size=SYNC_PAGE_SIZE),
        "refresh": REFRESH if any(run.found.is_running for run in runs) else 0,
    }  # fmt: skip


def one_run(
    session: Session,
    user: Any,
    query: Mapping[str, str],
    *,
    root: str,
    base: str,
    now: datetime,
    link: Callable[[str], str],
) -> dict[str, Any] | None:
    """One run; None if it does not exist or the user may not see it."""
    dag_id, task_id, run_id = (query.get(name, "") for name in ("dag_id", "task_id", "run_id"))
    index = query.get("map_index", "-1")
    if not index.removeprefix("-").isdecimal() or len(index) > 9 or not readable(user, [dag_id]):
        return None
    found = run_of(session, (dag_id, task_id, run_id, int(index)))
    if found is None:
        return None
    run = page_of(read(found), root=root, base=base, now=now, link=link)
    return {
        "tab": "syncs", "run": run, "resend": _resend(session, user, run, (dag_id, task_id), base=base),
        "dag_id": dag_id, "task_id": task_id, "sync": sync_href(root, dag_id, task_id),
        "refresh": REFRESH if found.is_running else 0,
    }  # fmt: skip


def _resend(session: Session, user: Any, run: RunPage, sync: tuple[str, str], *, base: str) -> Resend | None:
    """The DAG that sends the rejected rows of a run again.

    None if there are no such rows, if the load may still add some, or if there is no such DAG that the user may see.
    """
    dag_id = resend_dag_id(*sync)
    if not run.rejects_path or not readable(user, [dag_id]):
        return None
    is_paused = paused_if_tagged(session, dag_id, TAG)
    if is_paused is None:
        return None
    allowed = may_start(user, dag_id)
    last = last_run_for(session, dag_id, run.rejects_path)
    return Resend.of(dag_id, run.rejects_path, base=base, is_paused=is_paused, is_allowed=allowed, last_run=last)


def files_linked() -> Callable[[str], str]:
    """The URL of a file for a browser, by the site's ``file_links``.

    A path that is itself a URL of a website is not linked, because any task can store any path.
    """
    try:
        rules = config.file_links()
    except CrmConfigurationError:
        rules = {}

    def link(path: str) -> str:
        found = "" if path.startswith(("http://", "https://")) else web_link(path, rules)
        return found if found.startswith(("http://", "https://")) else ""

    return link
