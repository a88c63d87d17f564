"""Reads from Airflow's database what it holds about loads: task instances, results, connections and checkpoints.

Stored values leave the database as text, cut where they are too long, and never as objects: ``results`` checks them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from airflow.models.renderedtifields import RenderedTaskInstanceFields as Rendered
from airflow.models.taskinstance import TaskInstance
from airflow.models.xcom import XComModel
from sqlalchemy import Text, and_, cast, func, or_, select

from crm_provider.errors.on_error import Work
from crm_provider.errors.policy import OPERATORS
from crm_provider.tasks.state import STATE_KEY
from crm_provider.ui.reading import ENDED, Found
from crm_provider.ui.results import LARGEST

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

LIMIT = 50
"""Loads on the page."""

LOADS = frozenset(name.partition("(")[0] for name, work in OPERATORS.items() if work is Work.LOAD)
"""Classes of operators that load."""

NEVER_RAN = ("skipped", "removed", "upstream_failed")
"""In these states a task has run only if it has left a result."""

Key = tuple[str, str, str, int]


def dags_with_loads(session: Session) -> set[str]:
    """Ids of all DAGs in which a load has run."""
    return set(session.scalars(select(TaskInstance.dag_id).where(TaskInstance.operator.in_(LOADS)).distinct()))


def recent_loads(session: Session, *, dag_ids: Iterable[str], limit: int = LIMIT) -> list[Found]:
    """The newest loads of these DAGs, the newest first."""
    ti = TaskInstance
    statement = (
        select(
            ti.dag_id, ti.task_id, ti.run_id, ti.map_index, ti.operator, ti.state, ti.start_date, ti.end_date,
            ti.max_tries, _text(XComModel.value).label("result"), _text(Rendered.rendered_fields).label("rendered"),
        )
        .outerjoin(XComModel, and_(_same_task(XComModel), XComModel.key == "return_value"))
        .outerjoin(Rendered, _same_task(Rendered))
        .where(ti.dag_id.in_(sorted(dag_ids)), ti.operator.in_(LOADS), ti.start_date.is_not(None))
        .where(or_(XComModel.key.is_not(None), ti.state.not_in(NEVER_RAN)))
        .order_by(ti.start_date.desc(), ti.dag_id, ti.task_id, ti.map_index)
        .limit(limit)
    )  # fmt: skip
    rows = session.execute(statement).all()
    unfinished = [row for row in rows if row.state not in ENDED]
    checkpoints = _checkpoints(session, [(row.dag_id, row.task_id, row.run_id, row.map_index) for row in unfinished])
    return [
        Found(
            dag_id=row.dag_id, task_id=row.task_id, run_id=row.run_id, map_index=row.map_index,
            operator=row.operator, state=row.state, start=row.start_date, end=row.end_date, max_tries=row.max_tries,
            rendered=row.rendered, result=row.result,
            checkpoint=checkpoints.get((row.dag_id, row.task_id, row.run_id, row.map_index)),
        )
        for row in rows
    ]  # fmt: skip


def _text(column: Any) -> Any:
    """A column as text. One character more than is read shows that the value is too long."""
    return func.substr(cast(column, Text), 1, LARGEST + 1)


def _same_task(model: Any) -> Any:
    ti = TaskInstance
    return and_(
        model.dag_id == ti.dag_id, model.task_id == ti.task_id,
        model.run_id == ti.run_id, model.map_index == ti.map_index,
    )  # fmt: skip


def _checkpoints(session: Session, tasks: list[Key]) -> Mapping[Key, str]:
    """Checkpoints of loads that have not ended; Airflow stores them from 3.3 on."""
    try:
        from airflow.models.task_state_store import TaskStateStoreModel as Kept
    except ImportError:
        return {}
    found = {}
    for dag_id, task_id, run_id, map_index in tasks:
        wanted = {"dag_id": dag_id, "task_id": task_id, "run_id": run_id, "map_index": map_index, "key": STATE_KEY}
        text = session.scalar(select(_text(Kept.value)).filter_by(**wanted))
        if text is not None:
            found[dag_id, task_id, run_id, map_index] = text
    return found
