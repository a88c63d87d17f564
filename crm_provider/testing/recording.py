"""Watching ``dag.test``: each attempt of a task, and what is logged meanwhile."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterator, Mapping, MutableMapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest

from crm_provider.testing.ended import Attempt, FinishedRun, TaskEnd

if TYPE_CHECKING:
    from airflow.models.dagrun import DagRun

MOST_ATTEMPTS = 20
"""A task that was run so often without an end goes in circles."""


def plain(state: Any) -> str:
    """``success`` for ``TaskInstanceState.SUCCESS``."""
    return str(getattr(state, "value", state))


def name_of(ti: Any) -> str:
    """``load``, or ``load[2]`` for a mapped task instance."""
    return str(ti.task_id) if ti.map_index < 0 else f"{ti.task_id}[{ti.map_index}]"


@dataclass
class Recorder:
    """Notes each attempt of a task, and what is logged while it runs.

    :param most_attempts: the test fails if a task is run so often without an end
    """

    most_attempts: int = MOST_ATTEMPTS
    attempts: list[Attempt] = field(default_factory=list)
    lines: list[tuple[str, str]] = field(default_factory=list)
    _current: str = ""

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Watch what runs in the block."""
        from airflow.sdk.definitions import dag as module

        handler = _Handler(self)
        with pytest.MonkeyPatch.context() as patch, _structlog_processor(self._structlog):
            patch.setattr(module, "_run_task", self._watched(module._run_task))
            logging.getLogger().addHandler(handler)
            try:
                yield
            finally:
                logging.getLogger().removeHandler(handler)

    def _watched(self, run_task: Callable[..., Any]) -> Callable[..., Any]:
        """``dag.test`` calls this function for each attempt, in every Airflow since 3.0."""

        def watched(*, ti: Any, task: Any, **arguments: Any) -> Any:
            self._current, try_number = name_of(ti), ti.try_number
            try:
                result = run_task(ti=ti, task=task, **arguments)
            finally:
                self._current = ""
            # There is no result if not the task failed, but what runs it.
            state = plain(result.state) if result else "failed"
            self.attempts.append(Attempt(name_of(ti), try_number, state, result.error if result else None))
            if len(self._of(name_of(ti))) == self.most_attempts and state not in ("success", "skipped", "failed"):
                pytest.fail(f"{name_of(ti)} was run {self.most_attempts} times without an end")  # not an Exception
            return result

        return watched

    def _of(self, task: str) -> tuple[Attempt, ...]:
        return tuple(attempt for attempt in self.attempts if attempt.task == task)

    def note(self, line: str, error: object) -> None:
        """Keep a line of the log, with the exception that was logged with it."""
        if error is True:
            error = sys.exc_info()[1]
        if isinstance(error, tuple):
            error = error[1]
        self.lines.append((self._current, f"{line}\n{type(error).__name__}: {error}" if error else line))

    def _structlog(self, logger: Any, method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        details = {key: value for key, value in event.items() if key in ("reason", "error")}
        self.note(f"{method.upper()} {event['event']} {details or ''}".strip(), event.get("exc_info"))
        return event

    def finished(self, dag_run: DagRun, waits: Mapping[str, Sequence[float]]) -> FinishedRun:
        """What the run left behind."""
        xcoms = _xcoms(dag_run)
        tasks = {
            name_of(ti): TaskEnd(
                state=None if ti.state is None else plain(ti.state),
                try_number=ti.try_number,
                xcoms=xcoms.get((ti.task_id, ti.map_index), {}),
                attempts=self._of(name_of(ti)),
                log="\n".join(line for name, line in self.lines if name == name_of(ti)),
                waits=tuple(waits.get(name_of(ti), ())),
            )
            for ti in dag_run.get_task_instances()
        }
        return FinishedRun(dag_run, plain(dag_run.state), tasks, "\n".join(line for _, line in self.lines))


class _Handler(logging.Handler):
    """Libraries, hooks and tests log through :mod:`logging`."""

    def __init__(self, recorder: Recorder) -> None:
        super().__init__()
        self._recorder = recorder

    def emit(self, record: logging.LogRecord) -> None:
        self._recorder.note(f"{record.levelname} {record.getMessage()}", record.exc_info)


@contextmanager
def _structlog_processor(processor: Callable[..., Any]) -> Iterator[None]:
    """Operators' ``self.log`` and the task runner log through structlog: look at each event before it is written."""
    import structlog

    processors = structlog.get_config()["processors"]
    processors.insert(len(processors) - 1, processor)
    try:
        yield
    finally:
        processors.remove(processor)


def _xcoms(dag_run: DagRun) -> dict[tuple[str, int], dict[str, Any]]:
    from airflow.models.xcom import XComModel
    from airflow.utils.session import create_session
    from sqlalchemy import select

    found: dict[tuple[str, int], dict[str, Any]] = {}
    with create_session() as session:
        rows = select(XComModel).filter_by(dag_id=dag_run.dag_id, run_id=dag_run.run_id)
        for row in session.scalars(rows):
            found.setdefault((row.task_id, row.map_index), {})[row.key] = XComModel.deserialize_value(row)
    return found
