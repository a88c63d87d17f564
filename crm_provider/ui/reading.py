"""Turns what Airflow's database holds about a load into what the page shows. Pure functions, without Airflow."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from urllib.parse import quote

from crm_provider.errors.catalog import CATALOGUE
from crm_provider.load.progress import left_of
from crm_provider.load.report import duration
from crm_provider.load.state.checkpoint import VERSION, Checkpoint
from crm_provider.ui.results import OUTCOMES, LoadResult, Unreadable, checkpoint_of, conn_id_of, result_of

ENDED = ("success", "failed", "skipped", "removed", "upstream_failed")
"""States of a task that does not run again by itself."""

BAR_WIDTH, LEAST_WIDTH = 1000.0, 6.0
"""Width of the whole bar, and of its smallest part: one rejected row of a million must be visible."""

SHOWN_KINDS = 20
"""Error types, and kinds of problems, that are shown of one load; the rest is summed up in one line."""

SHOWN_CHARACTERS = 300
"""Characters of a problem that are shown."""


@dataclass(frozen=True, kw_only=True)
class Found:
    """A task instance of a load, as it is in the database.

    :param rendered: JSON text of the rendered fields; Airflow keeps them for the last runs of a task
    :param result: JSON text of the XCom ``return_value``
    :param checkpoint: JSON text of the checkpoint of a load that has not ended
    :param max_tries: shows whether the checkpoint belongs to this run, or to one before the task was cleared
    """

    dag_id: str
    task_id: str
    run_id: str
    map_index: int
    operator: str
    state: str | None
    start: datetime
    end: datetime | None
    rendered: str | None = None
    result: str | None = None
    checkpoint: str | None = None
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
    """Why rows were not written, and what to do about it."""

    type: str
    rows: int
    advice: str


@dataclass(frozen=True, kw_only=True)
class LoadView:
    """A load as it is shown.

    :param when: how long it took, or since when it runs, in words
    :param facts: label and value
    :param note: explains why there are no counts, or that they are not final
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
        """The bar in words, for screen readers."""
        return ", ".join(f"{part.rows:,} {part.name}" for part in self.parts)


@dataclass(frozen=True)
class ConnectionView:
    """The loads of one connection, the newest first."""

    conn_id: str | None
    loads: Sequence[LoadView] = field(default_factory=tuple)

    @property
    def total(self) -> str:
        """The sum of all loads; dry runs do not count."""
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
    """One load. If its stored result cannot be read, the view says so.

    :param base: path of Airflow's address
    """
    running = found.state not in ENDED
    common: dict[str, Any] = {
        "conn_id": conn_id_of(found.rendered), "name": _name_of(found), "href": _link_to(found, base),
        "operator": found.operator, "state": found.state or "none", "run_id": found.run_id, "start": found.start,
        "when": _when(found, now, running=running), "is_running": running,
    }  # fmt: skip
    try:
        result = None if found.result is None else result_of(found.result)
    except Unreadable:
        return LoadView(**common, note="Its result cannot be read: it is not what a load writes. See the task's page.")
    if result is None:
        return LoadView(**common, **_without_result(found))
    return LoadView(**{**common, "conn_id": result.conn_id or common["conn_id"]}, **_with_result(result, running))


def _with_result(result: LoadResult, running: bool) -> dict[str, Any]:
    labels = {
        "rejects_path": "Rejected rows", "outcomes_path": "Outcomes of all rows", "report_path": "Report",
        "state_path": "State",
    }  # fmt: skip
    return {
        "dry_run": result.dry_run,
        "rows": result.rows,
        "parts": parts_of(result.counts),
        "facts": _facts(result),
        "reasons": reasons_of(result.errors),
        "problems": _problems(result.problems),
        "paths": [(labels[name], path) for name, path in result.paths.items() if path],
        "note": "It stopped early; its next try goes on with the rows that are left." if running else "",
    }


def parts_of(counts: Mapping[str, int]) -> list[Part]:
    """The parts of the bar: as wide as their share, but wide enough to be seen."""
    some = {name: counts[name] for name in OUTCOMES if counts.get(name)}
    total = sum(some.values())
    wished = {name: max(count / total * BAR_WIDTH, LEAST_WIDTH) for name, count in some.items()}
    scale = BAR_WIDTH / sum(wished.values()) if wished else 1.0
    parts, x = [], 0.0
    for name, count in some.items():
        width = wished[name] * scale
        parts.append(Part(name=name, rows=count, x=round(x, 2), width=round(width, 2)))
        x += width
    return parts


def reasons_of(errors: Mapping[str, int]) -> list[Reason]:
    """Rows by error type, the most frequent first, each with the catalogue's advice."""
    return [
        Reason(type=name, rows=rows, advice=CATALOGUE[name].advice if name in CATALOGUE else "")
        for name, rows in _most_frequent(errors, "types")
    ]


def _problems(problems: Mapping[str, int]) -> list[tuple[str, int]]:
    return [(_shortened(text), rows) for text, rows in _most_frequent(problems, "kinds")]


def _most_frequent(counts: Mapping[str, int], noun: str) -> list[tuple[str, int]]:
    """The first :data:`SHOWN_KINDS` by rows, and one line for all others."""
    ordered = sorted(((name, rows) for name, rows in counts.items() if rows), key=lambda item: (-item[1], item[0]))
    shown, others = ordered[:SHOWN_KINDS], ordered[SHOWN_KINDS:]
    rest = [(f"{len(others):,} more {noun}", sum(rows for _, rows in others))] if others else []
    return [*shown, *rest]


def _shortened(text: str) -> str:
    return text if len(text) <= SHOWN_CHARACTERS else f"{text[:SHOWN_CHARACTERS]}…"


# -- helpers ------------------------------------------------------------------------------------------------


def _without_result(found: Found) -> dict[str, Any]:
    """What is known of a load that has left no counts (yet)."""
    if found.state in ENDED:
        if found.result in (None, "null"):
            return {"note": "It ended before its first row. The task's log says why."}
        return {"note": "Its result is kept elsewhere, by a custom XCom backend; see the task's page."}
    if found.checkpoint is None:
        return {"note": "Its counts appear here when it ends; the task's log shows how far it is."}
    try:
        checkpoint = checkpoint_of(found.checkpoint)
    except Unreadable:
        return {"note": "Its checkpoint cannot be read. Its counts appear here when it ends; see the task's log."}
    if (checkpoint.version, checkpoint.epoch) != (VERSION, found.max_tries) or not checkpoint.rows:
        return {"note": "It has ended no row yet."}
    return _progress(checkpoint)


def _progress(checkpoint: Checkpoint) -> dict[str, Any]:
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


def _facts(result: LoadResult) -> list[tuple[str, str]]:
    figures = [
        ("Calls", None if result.calls is None else f"{result.calls:,}"),
        ("Calls saved", f"{result.calls_saved:,}" if result.calls_saved else None),
        ("Throttled", f"{result.throttled:,}" if result.throttled else None),
        ("Rate used", f"{result.budget_used:.0%}" if result.budget_used else None),
        ("Time", None if result.seconds is None else duration(result.seconds)),
        ("Plan", result.plan),
    ]
    return [(label, value) for label, value in figures if value is not None]


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
