"""From what Airflow's database knows about a load to what the page shows. Pure functions: no Airflow, no database."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, TypeGuard
from urllib.parse import quote

from crm_provider.errors.catalog import CATALOGUE
from crm_provider.load.progress import left_of
from crm_provider.load.report import duration
from crm_provider.load.rows import Outcome
from crm_provider.load.state.checkpoint import VERSION, Checkpoint

OUTCOMES = (*(outcome.value for outcome in Outcome), "left")
"""Parts of the bar, in this order."""

ENDED = ("success", "failed", "skipped", "removed", "upstream_failed")
"""States of a task that will not go on by itself."""

BAR_WIDTH, LEAST_WIDTH = 1000.0, 6.0
"""Of the whole bar, and of its smallest part: a single rejected row of a million is to be seen."""


@dataclass(frozen=True, kw_only=True)
class Found:
    """A task instance of a load, as it is in the database.

    :param conn_id: the rendered ``crm_conn_id``; Airflow keeps it for the last runs of a task
    :param result: XCom ``return_value``
    :param checkpoint: the data of a checkpoint, of a load that is not done
    :param max_tries: tells whether the checkpoint is of this run, or of one before the task was cleared
    """

    dag_id: str
    task_id: str
    run_id: str
    map_index: int
    operator: str
    state: str | None
    start: datetime
    end: datetime | None
    conn_id: str | None = None
    result: Any = None
    checkpoint: Any = None
    max_tries: int = 0


@dataclass(frozen=True, kw_only=True)
class Part:
    """A piece of the outcome bar."""

    name: str
    rows: int
    x: float
    width: float


@dataclass(frozen=True, kw_only=True)
class Reason:
    """Why rows were not written, and what to do."""

    type: str
    rows: int
    advice: str


@dataclass(frozen=True, kw_only=True)
class LoadView:
    """A load as it is shown.

    :param when: in words: since when it runs, or how long it took
    :param facts: label and value
    :param note: what is to be said when there are no counts, or before they are all there
    """

    conn_id: str | None
    name: str
    href: str
    operator: str
    state: str
    run_id: str
    start: datetime
    when: str
    is_running: bool
    dry_run: bool = False
    rows: int = 0
    parts: Sequence[Part] = ()
    facts: Sequence[tuple[str, str]] = ()
    reasons: Sequence[Reason] = ()
    problems: Sequence[tuple[str, int]] = ()
    paths: Sequence[tuple[str, str]] = ()
    note: str = ""

    @property
    def bar_text(self) -> str:
        """The bar for those who do not see it."""
        return ", ".join(f"{part.rows:,} {part.name}" for part in self.parts)


@dataclass(frozen=True)
class ConnectionView:
    """The loads of one connection, the newest first."""

    conn_id: str | None
    loads: Sequence[LoadView] = field(default_factory=tuple)

    @property
    def total(self) -> str:
        """What they come to."""
        counts = dict.fromkeys(OUTCOMES, 0)
        for load in self.loads:
            for part in () if load.dry_run else load.parts:
                counts[part.name] += part.rows
        texts = [f"{counts[name]:,} {name}" for name in OUTCOMES if counts[name] and name != "left"]
        loads = "1 load" if len(self.loads) == 1 else f"{len(self.loads)} loads"
        return " · ".join([loads, *texts])


def by_connection(found: Iterable[Found], *, base: str, now: datetime) -> list[ConnectionView]:
    """The loads of each connection; the connection with the newest load first.

    :param base: path of Airflow's address
    """
    groups: dict[str | None, list[LoadView]] = {}
    for load in found:
        view = view_of(load, base=base, now=now)
        groups.setdefault(view.conn_id, []).append(view)
    return [ConnectionView(conn_id, tuple(loads)) for conn_id, loads in groups.items()]


def view_of(found: Found, *, base: str, now: datetime) -> LoadView:
    """One load."""
    running = found.state not in ENDED
    common: dict[str, Any] = {
        "conn_id": found.conn_id, "name": _name_of(found), "href": _link_to(found, base), "operator": found.operator,
        "state": found.state or "none", "run_id": found.run_id, "start": found.start,
        "when": _when(found, now, running=running), "is_running": running,
    }  # fmt: skip
    result = found.result
    if not _is_summary(result):
        return LoadView(**common, **_without_result(found))
    common["conn_id"] = _text(result.get("crm_conn_id")) or found.conn_id
    return LoadView(
        **common,
        dry_run=result.get("dry_run") is True,
        rows=result["rows"],
        parts=parts_of(result),
        facts=_facts(result),
        reasons=reasons_of(result.get("errors")),
        problems=[(str(text), rows) for text, rows in _counts(result.get("problems")).items()],
        paths=[
            (label, path)
            for label, key in (("Rejected rows", "rejects_path"), ("Report", "report_path"), ("State", "state_path"))
            if (path := _text(result.get(key)))
        ],
        note="It stopped early; its next try goes on with the rows that are left." if running else "",
    )


def parts_of(counts: Mapping[str, Any]) -> list[Part]:
    """The pieces of the bar: as wide as their share, but never too narrow to be seen."""
    rows = {name: counts.get(name) for name in OUTCOMES}
    some = {name: count for name, count in rows.items() if _is_count(count) and count}
    total = sum(some.values())
    if not total:
        return []
    wished = {name: max(count / total * BAR_WIDTH, LEAST_WIDTH) for name, count in some.items()}
    scale = BAR_WIDTH / sum(wished.values())
    parts, x = [], 0.0
    for name, count in some.items():
        width = wished[name] * scale
        parts.append(Part(name=name, rows=count, x=round(x, 2), width=round(width, 2)))
        x += width
    return parts


def reasons_of(errors: Any) -> list[Reason]:
    """Rows by error type, the most frequent first, each with the catalogue's advice."""
    counts = sorted(_counts(errors).items(), key=lambda item: (-item[1], item[0]))
    return [
        Reason(type=name, rows=rows, advice=CATALOGUE[name].advice if name in CATALOGUE else "")
        for name, rows in counts
    ]


# -- helpers ------------------------------------------------------------------------------------------------


def _without_result(found: Found) -> dict[str, Any]:
    """What is known of a load that has left no counts (yet)."""
    if found.state in ENDED:
        if found.result is None:
            return {"note": "It ended before its first row. The task's log says why."}
        return {"note": "Its result is kept elsewhere, by a custom XCom backend; see the task's page."}
    try:
        checkpoint = Checkpoint.from_data(found.checkpoint)
    except ValueError:
        return {"note": "Its counts appear here when it ends; the task's log shows how far it is."}
    if (checkpoint.version, checkpoint.epoch) != (VERSION, found.max_tries) or not checkpoint.rows:
        return {"note": "It has ended no row yet."}
    left = left_of(checkpoint)
    if left is None:
        return {"note": f"{checkpoint.rows:,} rows done.", "reasons": reasons_of(checkpoint.errors)}
    rows, seconds = left
    return {
        "rows": rows,
        "parts": parts_of({**checkpoint.counts, "left": max(rows - checkpoint.rows, 0)}),
        "facts": [("Calls", f"{checkpoint.calls:,}")],
        "reasons": reasons_of(checkpoint.errors),
        "note": f"{checkpoint.rows:,} of {rows:,} rows done; about {duration(seconds)} left at the pace so far.",
    }


def _facts(result: Mapping[str, Any]) -> list[tuple[str, str]]:
    facts = []
    for label, key in (("Calls", "calls"), ("Calls saved", "calls_saved"), ("Throttled", "throttled")):
        count = result.get(key)
        if _is_count(count) and (count or key == "calls"):
            facts.append((label, f"{count:,}"))
    used, seconds, plan = result.get("budget_used"), result.get("seconds"), result.get("plan")
    if _is_number(used) and used:
        facts.append(("Rate used", f"{used:.0%}"))
    if _is_number(seconds):
        facts.append(("Time", duration(seconds)))
    if isinstance(plan, Mapping) and isinstance(plan.get("name"), str):
        facts.append(("Plan", plan["name"]))
    return facts


def _when(found: Found, now: datetime, *, running: bool) -> str:
    if found.state == "running":
        return f"running for {duration((now - found.start).total_seconds())}"
    if running or found.end is None:
        return f"started {duration((now - found.start).total_seconds())} ago"
    return f"took {duration((found.end - found.start).total_seconds())}"


def _name_of(found: Found) -> str:
    index = f" [{found.map_index}]" if found.map_index >= 0 else ""
    return f"{found.dag_id} / {found.task_id}{index}"


def _link_to(found: Found, base: str) -> str:
    dag, run, task = (quote(text, safe="") for text in (found.dag_id, found.run_id, found.task_id))
    index = f"/mapped/{found.map_index}" if found.map_index >= 0 else ""
    return f"{base}/dags/{dag}/runs/{run}/tasks/{task}{index}"


def _is_summary(result: Any) -> bool:
    return isinstance(result, Mapping) and _is_count(result.get("rows")) and _is_count(result.get("rejected"))


def _is_count(value: Any) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _is_number(value: Any) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _counts(value: Any) -> dict[str, int]:
    if not isinstance(value, Mapping):
        return {}
    return {str(name): count for name, count in value.items() if _is_count(count) and count}


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) and value else None
