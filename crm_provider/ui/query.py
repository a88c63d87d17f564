"""Reads syncs from Airflow's database: their tasks, runs, results, errors and checkpoints.

Stored values leave the database as text, cut where they are too long, and never as objects: ``results`` checks them.
Each query follows an index, so its cost grows with what is shown, and with the number of tasks and of a sync's own
runs, but not with the runs of other tasks.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from typing import TYPE_CHECKING, Any

from airflow.models.dag import DagModel, DagTag
from airflow.models.dagrun import DagRun
from airflow.models.renderedtifields import RenderedTaskInstanceFields as Rendered
from airflow.models.taskinstance import TaskInstance
from airflow.models.xcom import XComModel
from sqlalchemy import Text, and_, cast, func, or_, select, tuple_
from sqlalchemy.orm import aliased

from crm_provider.errors.on_error import Work
from crm_provider.errors.policy import OPERATORS
from crm_provider.tasks.outcome import ERROR_XCOM, REASON_XCOM
from crm_provider.tasks.state import STATE_KEY
from crm_provider.ui.results import LARGEST, InvalidStoredValue, json_of
from crm_provider.ui.stored import ENDED, StoredTask

if TYPE_CHECKING:
    from sqlalchemy import Select
    from sqlalchemy.orm import Session

MOST_TASKS = 50_000
"""Maximum tasks of all DAGs that are searched for syncs."""

MOST_SYNCS = 300
"""Maximum syncs whose last run is read for one page."""

MOST_RUNS = 10_000
"""Maximum runs of one sync that are counted and reachable by pages."""

MOST_RESENT = 100
"""Newest runs of a DAG that sends rejected rows again, among which the one for a file is looked for."""

LARGEST_IN_LIST = 32 * 1024
"""Maximum characters of a value in a list of runs; results have a few thousand."""

NEVER_RAN = ("skipped", "removed", "upstream_failed")
"""In these states a task has run only if its process is known."""

VALUES = ("return_value", ERROR_XCOM, REASON_XCOM)
"""XComs that say how a sync ended."""

SYNCS = frozenset(
    name.partition("(")[0]
    for name, work in OPERATORS.items()
    if work is Work.LOAD or name.startswith(("CrmExtract", "CrmTo"))
)
"""Classes of operators that load or extract many records."""

Key = tuple[str, str, str, int]
Sync = tuple[str, str]
"""DAG and task."""


@dataclass(frozen=True, kw_only=True)
class NextRun:
    """When a DAG runs next.

    :param next_run: None if Airflow has not planned one
    :param summary: of its timetable, as Airflow shows it
    """

    next_run: datetime | None
    is_paused: bool
    summary: str


def all_syncs(session: Session) -> list[Sync]:
    """Tasks of all DAGs that are syncs, judged by their task instances.

    The tasks are found one after the other in the index of task instances, without reading the runs of each. The class
    of the operator is that of the last run by name, or of the first.
    """
    return sorted((row.dag_id, row.task_id) for row in session.execute(_statement_for_syncs()))


@cache
def _statement_for_syncs() -> Select[Any]:
    """Built once: it has thousands of parts.

    As new objects of each request they would make Python's full garbage collections, which stop the whole api-server,
    twice as frequent.
    """
    ti = aliased(TaskInstance)
    first = select(func.min(ti.task_id)).where(ti.dag_id == DagModel.dag_id).scalar_subquery()
    tasks = select(DagModel.dag_id.label("dag_id"), first.label("task_id")).cte("tasks", recursive=True)
    following = (
        select(func.min(ti.task_id)).where(ti.dag_id == tasks.c.dag_id, ti.task_id > tasks.c.task_id).scalar_subquery()
    )
    tasks = tasks.union_all(select(tasks.c.dag_id, following).where(tasks.c.task_id.is_not(None)))
    return (
        select(tasks.c.dag_id, tasks.c.task_id)
        .where(tasks.c.task_id.is_not(None))
        .where(or_(*(_operator_of(tasks.c, last=last).in_(SYNCS) for last in (True, False))))
        .limit(MOST_TASKS)
    )


def _operator_of(task: Any, *, last: bool) -> Any:
    ti = aliased(TaskInstance)
    order = (ti.run_id.desc(), ti.map_index.desc()) if last else (ti.run_id, ti.map_index)
    runs = select(ti.operator).where(ti.dag_id == task.dag_id, ti.task_id == task.task_id)
    return runs.order_by(*order).limit(1).scalar_subquery()


def schedules(session: Session, dag_ids: Iterable[str]) -> Mapping[str, NextRun]:
    """When DAGs run next."""
    dag = DagModel
    statement = select(dag.dag_id, dag.next_dagrun_create_after, dag.is_paused, dag.timetable_summary)
    return {
        row.dag_id: NextRun(
            next_run=row.next_dagrun_create_after, is_paused=bool(row.is_paused), summary=row.timetable_summary or ""
        )
        for row in session.execute(statement.where(dag.dag_id.in_(sorted(set(dag_ids)))))
    }


def paused_if_tagged(session: Session, dag_id: str, tag: str) -> bool | None:
    """Whether a DAG with a tag is paused; None if Airflow has no such DAG any more."""
    is_tagged = select(DagTag.dag_id).where(DagTag.dag_id == dag_id, DagTag.name == tag).exists()
    dag = select(DagModel.is_paused).where(DagModel.dag_id == dag_id, DagModel.is_stale.is_(False), is_tagged)
    found: bool | None = session.scalar(dag)
    return found


def last_run_for(session: Session, dag_id: str, rejects: str) -> str | None:
    """The newest run of a DAG whose conf names a rejects file, among its last :data:`MOST_RESENT`."""
    runs = select(DagRun.run_id, _text(DagRun.conf, LARGEST_IN_LIST).label("conf")).where(DagRun.dag_id == dag_id)
    for row in session.execute(runs.order_by(DagRun.id.desc()).limit(MOST_RESENT)):
        try:
            conf = json_of(row.conf or "null")
        except InvalidStoredValue:
            continue
        if isinstance(conf, Mapping) and conf.get("rejects") == rejects:
            return str(row.run_id)
    return None


def last_runs(session: Session, syncs: Collection[Sync], *, each: int) -> list[StoredTask]:
    """The newest runs of each sync, the newest first."""
    if not syncs:
        return []
    ti = TaskInstance
    place = func.row_number().over(
        partition_by=(ti.dag_id, ti.task_id), order_by=(ti.start_date.desc(), ti.run_id.desc(), ti.map_index.desc())
    )
    ranked = select(*_columns(), place.label("place")).where(tuple_(ti.dag_id, ti.task_id).in_(syncs), *_has_run())
    return _with_values(session, ranked.subquery(), each=each, largest=LARGEST_IN_LIST)


def runs_of(
    session: Session,
    sync: Sync,
    *,
    states: Collection[str] = (),
    rejects: bool | None = None,
    since: datetime | None = None,
    offset: int = 0,
    limit: int = 25,
) -> tuple[list[StoredTask], int]:
    """Runs of a sync, the newest first, and how many there are; at most :data:`MOST_RUNS` are counted.

    :param states: only these states of the task; all by default
    :param rejects: only runs with rejected rows, and dry runs that would fail; or only the others
    """
    ti = TaskInstance
    chosen = select(*_columns()).where(ti.dag_id == sync[0], ti.task_id == sync[1], *_has_run())
    if states:
        chosen = chosen.where(ti.state.in_(sorted(states)))
    if since is not None:
        chosen = chosen.where(ti.start_date >= since)
    if rejects is not None:
        chosen = chosen.where(_has_rejects() if rejects else ~_has_rejects())
    counted = session.scalar(select(func.count()).select_from(chosen.limit(MOST_RUNS).subquery()))
    order = (ti.start_date.desc(), ti.run_id.desc(), ti.map_index.desc())
    page = chosen.order_by(*order).limit(limit).offset(min(offset, MOST_RUNS)).subquery()
    return _with_values(session, page, largest=LARGEST_IN_LIST), int(counted or 0)


def run_of(session: Session, key: Key) -> StoredTask | None:
    """One run; None if it does not exist or the task is not a sync."""
    ti = TaskInstance
    dag_id, task_id, run_id, map_index = key
    one = select(*_columns()).where(
        ti.dag_id == dag_id, ti.task_id == task_id, ti.run_id == run_id, ti.map_index == map_index,
        ti.operator.in_(SYNCS),
    )  # fmt: skip
    return next(iter(_with_values(session, one.subquery(), largest=LARGEST)), None)


# -- parts of statements ------------------------------------------------------------------------------------


def _columns() -> tuple[Any, ...]:
    ti = TaskInstance
    return (
        ti.dag_id, ti.task_id, ti.run_id, ti.map_index, ti.operator, ti.state, ti.start_date, ti.end_date,
        ti.max_tries, ti.try_number,
    )  # fmt: skip


def _has_run() -> tuple[Any, ...]:
    ti = TaskInstance
    ran = or_(ti.state.is_(None), ti.state.not_in(NEVER_RAN), ti.pid.is_not(None))
    return ti.operator.in_(SYNCS), ti.start_date.is_not(None), ran


def _has_rejects() -> Any:
    """Whether the result of a task instance counts rejected rows, or is that of a dry run that would fail."""
    of_task = _same_task(XComModel, TaskInstance)
    # SQLite returns numbers here
    rejected, would_fail = (cast(XComModel.value[name].as_string(), Text) for name in ("rejected", "would_fail"))
    has_some = or_(rejected.not_in(("0", "null")), would_fail.in_(("1", "true")))
    return select(XComModel.key).where(of_task, XComModel.key == "return_value", has_some).exists()


def _same_task(model: Any, task: Any) -> Any:
    return and_(
        model.dag_id == task.dag_id, model.task_id == task.task_id,
        model.run_id == task.run_id, model.map_index == task.map_index,
    )  # fmt: skip


def _text(column: Any, largest: int) -> Any:
    """A column as text, with one character more than the maximum to detect longer values."""
    return func.substr(cast(column, Text), 1, largest + 1)


def _with_values(session: Session, runs: Any, *, largest: int, each: int | None = None) -> list[StoredTask]:
    """Runs with their results, errors and checkpoints, the newest first.

    :param runs: the columns of the runs, as a subquery
    :param each: only those with at most this ``place``
    """
    xcom = and_(_same_task(XComModel, runs.c), XComModel.key.in_(VALUES))
    statement = (
        select(
            *(column for column in runs.c if column.key != "place"),
            XComModel.key.label("key"), _text(XComModel.value, largest).label("value"),
            _text(Rendered.rendered_fields, largest).label("rendered"),
        )
        .outerjoin(XComModel, xcom)
        .outerjoin(Rendered, _same_task(Rendered, runs.c))
        .order_by(runs.c.start_date.desc(), runs.c.dag_id, runs.c.task_id, runs.c.run_id, runs.c.map_index)
    )  # fmt: skip
    if each is not None:
        statement = statement.where(runs.c.place <= each)
    rows: dict[Key, Any] = {}
    values: dict[Key, dict[str, str]] = {}
    for row in session.execute(statement):
        key = (row.dag_id, row.task_id, row.run_id, row.map_index)
        rows.setdefault(key, row)
        if row.key is not None and row.value is not None:
            values.setdefault(key, {})[row.key] = row.value
    checkpoints = _checkpoints(session, [key for key, row in rows.items() if _needs_checkpoint(row, values.get(key))])
    return [_found(row, values.get(key, {}), checkpoints.get(key)) for key, row in rows.items()]


def _needs_checkpoint(row: Any, values: Mapping[str, str] | None) -> bool:
    """Whether only the checkpoint shows the progress of a run, or its progress when it was stopped."""
    return row.state not in ENDED or (row.state == "failed" and "return_value" not in (values or {}))


def _found(row: Any, values: Mapping[str, str], checkpoint: str | None) -> StoredTask:
    result, error, reason = (values.get(name) for name in VALUES)
    return StoredTask(
        dag_id=row.dag_id, task_id=row.task_id, run_id=row.run_id, map_index=row.map_index, operator=row.operator,
        state=row.state, start=row.start_date, end=row.end_date, max_tries=row.max_tries, rendered=row.rendered,
        result=result, failure=reason if error is None else error, checkpoint=checkpoint,
    )  # fmt: skip


def _checkpoints(session: Session, tasks: Sequence[Key]) -> Mapping[Key, str]:
    """Checkpoints of loads; Airflow stores them from 3.3 on."""
    try:
        from airflow.models.task_state_store import TaskStateStoreModel as Kept
    except ImportError:
        return {}
    if not tasks:
        return {}
    key = tuple_(Kept.dag_id, Kept.run_id, Kept.task_id, Kept.map_index)
    wanted = [(dag_id, run_id, task_id, map_index) for dag_id, task_id, run_id, map_index in tasks]
    statement = select(Kept.dag_id, Kept.task_id, Kept.run_id, Kept.map_index, _text(Kept.value, LARGEST).label("text"))
    rows = session.execute(statement.where(key.in_(wanted), Kept.key == STATE_KEY))
    return {(row.dag_id, row.task_id, row.run_id, row.map_index): row.text for row in rows}
