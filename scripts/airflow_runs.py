"""Runs, tasks and logs of Airflow's REST API v2 as values."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

FINISHED_RUN_STATES = frozenset({"success", "failed"})


@dataclass(frozen=True)
class Task:
    """The current state of a task instance; ``map_index`` is -1 for an unmapped task."""

    task_id: str
    map_index: int
    state: str | None
    try_number: int
    operator: str | None
    started_at: str | None
    ended_at: str | None
    pid: int | None

    @property
    def name(self) -> str:
        return self.task_id if self.map_index < 0 else f"{self.task_id}[{self.map_index}]"

    @classmethod
    def of(cls, instance: Any) -> Task:
        """Convert a model of the official client."""
        started, ended = (moment and moment.isoformat() for moment in (instance.start_date, instance.end_date))
        state = instance.state and str(instance.state.value)
        number, pid = instance.try_number, instance.pid
        return cls(instance.task_id, instance.map_index, state, number, instance.operator, started, ended, pid)


@dataclass(frozen=True)
class Run:
    """One DAG run with all its task instances, in the order of their start."""

    dag_id: str
    run_id: str
    state: str
    tasks: tuple[Task, ...]

    def __getitem__(self, name: str) -> Task:
        """``run["load"]`` or, mapped, ``run["load[2]"]``."""
        for task in self.tasks:
            if task.name == name:
                return task
        raise KeyError(f"{self.dag_id} has no task {name!r}; it has {[task.name for task in self.tasks]}")

    @property
    def finished(self) -> bool:
        return self.state in FINISHED_RUN_STATES

    def states(self) -> dict[str, str | None]:
        return {task.name: task.state for task in self.tasks}


def in_order(tasks: Iterable[Task]) -> tuple[Task, ...]:
    """Sort by the first start of each task, and keep the instances of a mapped task together."""
    tasks = list(tasks)
    never = "~"  # after every date
    first: dict[str, str] = {}
    for task in tasks:
        first[task.task_id] = min(first.get(task.task_id, never), task.started_at or never)
    return tuple(sorted(tasks, key=lambda task: (first[task.task_id], task.task_id, task.map_index)))


def decode_xcom(value: Any) -> Any:
    """Decode an XCom. The API returns it as JSON text; a text that is not JSON is the value itself."""
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except ValueError:
        return value


def log_line(event: dict[str, Any] | str) -> str:
    """One log event as text. The exception is not part of the event's text, so it is added below it."""
    if isinstance(event, str):
        return event
    line = f"{event.get('timestamp') or ''} {event.get('level') or ''} {event['event']}".strip()
    return "\n".join([line, *(f"    {text}" for text in exceptions_of(event))])


def exceptions_of(event: dict[str, Any] | str) -> list[str]:
    """``["CrmDealNotFoundError: ..."]``: the exception chain of a log event, outermost first."""
    if isinstance(event, str):
        return []
    return [f"{item['exc_type']}: {item['exc_value']}" for item in event.get("error_detail") or []]
