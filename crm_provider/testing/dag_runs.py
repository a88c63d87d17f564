"""Runs a DAG to its end in this process and records the states, attempts, XComs, errors, waits and logs of its tasks.

``dag.test`` provides the real task runner, database, XComs, retries, reschedules and deferral. The recorder observes
each attempt. Waits between attempts are skipped.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterator, Mapping, MutableMapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from crm_provider.testing.airflow_home import dag_bag, prepare_airflow, rare_collections, serialize

if TYPE_CHECKING:
    from airflow.models.dagrun import DagRun
    from airflow.sdk import DAG


@dataclass(frozen=True)
class Attempt:
    """One run of a task instance.

    :param state: the state after the attempt: ``up_for_retry``, ``up_for_reschedule`` or a final one
    :param error: the exception that failed it; None if it did not fail
    """

    task: str
    try_number: int
    state: str
    error: BaseException | None


@dataclass(frozen=True)
class TaskEnd:
    """A task instance after the run.

    :param xcoms: its XComs, by key
    :param log: what was logged while it ran
    :param waits: seconds of the skipped waits between its attempts
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

    :param log: everything that was logged during the run, inside and outside tasks, with exceptions
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


MOST_ATTEMPTS = 20
"""A task with this many attempts and no final state will never reach one."""


def plain(state: Any) -> str:
    """``success`` for ``TaskInstanceState.SUCCESS``."""
    return str(getattr(state, "value", state))


def name_of(ti: Any) -> str:
    """``load``, or ``load[2]`` for a mapped task instance."""
    return str(ti.task_id) if ti.map_index < 0 else f"{ti.task_id}[{ti.map_index}]"


@dataclass
class Recorder:
    """Records each attempt of a task, and what is logged while it runs.

    :param most_attempts: the test fails if a task has this many attempts and no final state
    """

    most_attempts: int = MOST_ATTEMPTS
    attempts: list[Attempt] = field(default_factory=list)
    lines: list[tuple[str, str]] = field(default_factory=list)
    _current: str = ""

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Record what runs in the block."""
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
        """``dag.test`` of every supported Airflow calls this function for each attempt."""

        def watched(*, ti: Any, task: Any, **arguments: Any) -> Any:
            self._current, try_number = name_of(ti), ti.try_number
            try:
                result = run_task(ti=ti, task=task, **arguments)
            finally:
                self._current = ""
            # There is no result if the task runner itself failed.
            state = plain(result.state) if result else "failed"
            self.attempts.append(Attempt(name_of(ti), try_number, state, result.error if result else None))
            if len(self._of(name_of(ti))) == self.most_attempts and state not in ("success", "skipped", "failed"):
                pytest.fail(f"{name_of(ti)} was run {self.most_attempts} times without an end")  # not an Exception
            return result

        return watched

    def _of(self, task: str) -> tuple[Attempt, ...]:
        return tuple(attempt for attempt in self.attempts if attempt.task == task)

    def note(self, line: str, error: object) -> None:
        """Record a line of the log, with the exception that was logged with it."""
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
        """The recorded run."""
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
    """Records what libraries, hooks and tests log through :mod:`logging`."""

    def __init__(self, recorder: Recorder) -> None:
        super().__init__()
        self._recorder = recorder

    def emit(self, record: logging.LogRecord) -> None:
        self._recorder.note(f"{record.levelname} {record.getMessage()}", record.exc_info)


@contextmanager
def _structlog_processor(processor: Callable[..., Any]) -> Iterator[None]:
    """Pass each structlog event to ``processor``: operators' ``self.log`` and the task runner log through structlog."""
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


@contextmanager
def skipped_waits() -> Iterator[dict[str, list[float]]]:
    """Skip the waits for retries and reschedules in the block; Airflow believes that the time has passed.

    :return: the seconds of each skipped wait, by task instance; filled during the run
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
    """Move the dates of a task instance back by the rest of its wait.

    :return: seconds of the whole wait, counted from the end of the attempt; the speed of the machine does not matter
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
            # dag.test also holds the row, and would write the old end date back
            ti.end_date = row.end_date = row.end_date - left - timedelta(milliseconds=1)
    return float(whole.total_seconds())


QUICK_INTERVAL = 0.1
"""Seconds between two checks of a sensor that waits inside its task."""


def load_dag(path: str | Path, dag_id: str | None = None) -> DAG:
    """Load a DAG from a file, parsed as Airflow parses it.

    Example::

        dag = load_dag("dags/leads.py")

    :param dag_id: which one; needed if the file has several
    :raises ValueError: the file cannot be imported (with the reason), or it does not contain the DAG
    """
    prepare_airflow()
    bag = dag_bag(str(path))
    if bag.import_errors:
        raise ValueError(f"{path} cannot be imported: {next(iter(bag.import_errors.values()))}")
    dag: DAG | None = bag.dags.get(dag_id or next(iter(bag.dags), ""))
    if dag is None or (dag_id is None and len(bag.dags) > 1):
        raise ValueError(f"{path} has the DAGs {', '.join(sorted(bag.dags)) or '(none)'}; say which with dag_id")
    return dag


def run_dag(dag: DAG, *, real_time: bool = False, most_attempts: int = MOST_ATTEMPTS, **arguments: Any) -> FinishedRun:
    """Run a DAG with ``dag.test()`` and report how each task ended, on Airflow 3.1 and newer.

    It needs no scheduler and no other process. The DAG is first written into the database, as the dag-processor would:
    ``dag.test()`` runs only such DAGs. The tables are created if they are missing (see :func:`fresh_airflow_home`).

    Example::

        run = run_dag(dag, run_conf={"email": "ada@example.com"})
        assert run.states() == {"upsert_contact": "success", "create_deal": "skipped"}
        assert run["upsert_contact"].result["outcome"] == "updated"
        assert run["upsert_contact"].waits == ()  # seconds that it would have waited between its tries

    :param real_time: wait as in production. By default the waits for retries and reschedules are skipped (Airflow
        believes that the time has passed), and sensors that wait without a reschedule check ten times a second. Their
        ``timeout`` does not change
    :param most_attempts: the test fails if a task has this many attempts and no final state
    :param arguments: more of ``dag.test()``: ``run_conf``, ``logical_date``, ...
    """
    prepare_airflow()
    serialize(dag)
    recorder = Recorder(most_attempts)
    with ExitStack() as stack:
        waits = {} if real_time else stack.enter_context(_hurried(dag))
        stack.enter_context(recorder.watching())
        stack.enter_context(rare_collections())
        dag_run = dag.test(**arguments)
    return recorder.finished(dag_run, waits)


@contextmanager
def _hurried(dag: DAG) -> Iterator[Mapping[str, list[float]]]:
    """Skip the waits between attempts, and shorten those inside a task."""
    sensors = [task for task in dag.tasks if hasattr(task, "poke_interval") and _waits_in_place(task)]
    before = [task.poke_interval for task in sensors]
    for task in sensors:
        task.poke_interval = min(task.poke_interval, QUICK_INTERVAL)
    try:
        with skipped_waits() as waits:
            yield waits
    finally:
        for task, interval in zip(sensors, before, strict=True):
            task.poke_interval = interval


def _waits_in_place(sensor: Any) -> bool:
    return bool(sensor.mode == "poke" or getattr(sensor, "deferrable", False))
