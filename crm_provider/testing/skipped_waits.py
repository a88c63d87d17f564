"""Time flies: what ``dag.test`` would wait for between two attempts is due at once."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest

from crm_provider.testing.recording import name_of


@contextmanager
def skipped_waits() -> Iterator[dict[str, list[float]]]:
    """Skip the waits for retries and reschedules in the block; as far as Airflow knows they have been waited for.

    :return: the seconds of each wait, by task instance, filled as they are skipped
    """
    from airflow.sdk.definitions import dag as module

    run_task = module._run_task
    noted: dict[str, list[float]] = {}

    def watched(*, ti: Any, task: Any, **arguments: Any) -> Any:
        result = run_task(ti=ti, task=task, **arguments)
        if ti.state in ("up_for_retry", "up_for_reschedule"):
            noted.setdefault(name_of(ti), []).append(_skip_wait(ti))
        return result

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_run_task", watched)
        yield noted


def _skip_wait(ti: Any) -> float:
    """Move the past of a task instance back by what is left of its wait.

    :return: seconds of the whole wait, from the end of the attempt: however slow this machine is
    """
    from airflow.models.taskinstance import TaskInstance
    from airflow.models.taskreschedule import TaskReschedule
    from airflow.utils.session import create_session
    from sqlalchemy import select

    now = datetime.now(timezone.utc)
    with create_session() as session:
        wanted = {"dag_id": ti.dag_id, "run_id": ti.run_id, "task_id": ti.task_id, "map_index": ti.map_index}
        row = session.scalars(select(TaskInstance).filter_by(**wanted)).one()
        if row.state == "up_for_reschedule":
            rows = select(TaskReschedule).where(TaskReschedule.ti_id == row.id).order_by(TaskReschedule.id)
            reschedules = session.scalars(rows).all()
            last = reschedules[-1]
            whole, left = last.reschedule_date - last.end_date, last.reschedule_date - now
            for reschedule in reschedules:
                reschedule.start_date -= left
                reschedule.end_date -= left
                reschedule.reschedule_date -= left
        else:
            row.task = ti.task
            due = row.next_retry_datetime()
            whole, left = due - row.end_date, due - now
            # dag.test holds the row as well, and would write the old end date back
            ti.end_date = row.end_date = row.end_date - left - timedelta(milliseconds=1)
    return float(whole.total_seconds())
