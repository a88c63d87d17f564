"""What a run of a DAG left behind: states, tries, XComs, errors, logs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from airflow.models.dagrun import DagRun


@dataclass(frozen=True)
class Attempt:
    """One run of a task instance.

    :param state: the state right after it: ``up_for_retry``, ``up_for_reschedule`` or the last one
    :param error: the exception that failed it; None if it did not fail
    """

    task: str
    try_number: int
    state: str
    error: BaseException | None


@dataclass(frozen=True)
class TaskEnd:
    """A task instance after the run.

    :param xcoms: what it has left, by key
    :param log: what was logged while it ran
    :param waits: seconds of the waits between its attempts that were skipped
    """

    state: str | None
    try_number: int
    xcoms: dict[str, Any]
    attempts: tuple[Attempt, ...]
    log: str
    waits: tuple[float, ...] = ()

    @property
    def states(self) -> list[str]:
        """The state after each attempt, for example ``["up_for_retry", "success"]``."""
        return [attempt.state for attempt in self.attempts]

    @property
    def error(self) -> BaseException | None:
        """The exception that failed the last attempt."""
        return self.attempts[-1].error if self.attempts else None

    @property
    def result(self) -> Any:
        """What the task returned."""
        return self.xcoms.get("return_value")


@dataclass(frozen=True)
class FinishedRun:
    """A DAG run that has ended. ``run["load"]`` or, mapped, ``run["load[2]"]`` is a task instance of it.

    :param log: what was logged meanwhile, by tasks and around them, exceptions included
    """

    dag_run: DagRun
    state: str
    tasks: dict[str, TaskEnd]
    log: str

    def __getitem__(self, task: str) -> TaskEnd:
        return self.tasks[task]

    def states(self) -> dict[str, str | None]:
        """The state of each task instance."""
        return {name: task.state for name, task in self.tasks.items()}
