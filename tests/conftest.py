"""Tests with Airflow: a home of their own for each pytest process, and DAGs made inside tests run for real.

``run_dag(dag)`` runs a DAG with ``dag.test()``: the real task runner, database, XComs, retries, reschedules, deferral;
no scheduler, no other process. It works on Airflow 3.1, 3.2 and 3.3. What it does not show needs a system test.
"""

from __future__ import annotations

import functools
import logging
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, MutableMapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from airflow.models.dagrun import DagRun
    from airflow.sdk import DAG

# -- before the first import of airflow: it reads the environment then, and without a home makes ~/airflow

if "airflow" in sys.modules:
    raise RuntimeError("airflow was imported before tests/conftest.py gave it a home: a pytest plugin must not do that")
for _name in [name for name in os.environ if name.startswith(("AIRFLOW_", "_AIRFLOW_"))]:
    del os.environ[_name]  # the developer's own settings
AIRFLOW_HOME = Path(tempfile.mkdtemp(prefix="crm-tests-"))
(AIRFLOW_HOME / "dags").mkdir()
os.environ.update(
    AIRFLOW_HOME=str(AIRFLOW_HOME),
    AIRFLOW__CORE__DAGS_FOLDER=str(AIRFLOW_HOME / "dags"),
    AIRFLOW__CORE__LOAD_EXAMPLES="False",
    AIRFLOW__CORE__MIN_SERIALIZED_DAG_UPDATE_INTERVAL="0",  # else a DAG of the same id stays as it was for 30 s
    AIRFLOW__DATABASE__SQL_ALCHEMY_CONN=f"sqlite:///{AIRFLOW_HOME}/airflow.db",
    AIRFLOW__LOGGING__LOGGING_LEVEL="INFO",
    AIRFLOW__USAGE_DATA_COLLECTION__ENABLED="False",
)


def pytest_unconfigure(config: pytest.Config) -> None:
    shutil.rmtree(AIRFLOW_HOME, ignore_errors=True)


@pytest.fixture(scope="session")
def airflow_db() -> Path:
    """Airflow's database, empty; the home it is in."""
    from airflow.utils.db import initdb

    initdb()
    _mend_dag_test()
    return AIRFLOW_HOME


def _mend_dag_test() -> None:
    """Make ``dag.test`` of older Airflows as quick, and as right, as that of the newest."""
    from airflow.sdk.api.client import TaskInstanceOperations
    from airflow.sdk.execution_time import supervisor

    if not hasattr(supervisor.in_process_api_server, "cache_info"):
        # Below 3.3 it makes a new API server for every try of a task: 1-2 s each.
        supervisor.in_process_api_server = functools.cache(supervisor.in_process_api_server)

    get_date = TaskInstanceOperations.get_reschedule_start_date

    def get_parsed_date(self: Any, *arguments: Any, **keywords: Any) -> Any:
        answer = get_date(self, *arguments, **keywords)
        return type(answer).model_validate(answer.model_dump())  # 3.1.0 hands the task a text

    TaskInstanceOperations.get_reschedule_start_date = get_parsed_date


# -- what a run left behind


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
    """A task instance after the run."""

    state: str | None
    try_number: int
    xcoms: dict[str, Any]
    attempts: tuple[Attempt, ...]
    log: str

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
        return {name: task.state for name, task in self.tasks.items()}


RunDag = Callable[..., FinishedRun]


@pytest.fixture
def run_dag(airflow_db: Path) -> RunDag:
    """Run a DAG to its end: ``run_dag(dag, run_conf={...}) -> FinishedRun``.

    Retry delays and poke intervals are waited for in real time: keep them short. Between two tries ``dag.test`` sleeps
    for a second, unless the delay is 0.
    """

    def run(dag: DAG, **arguments: Any) -> FinishedRun:
        serialize(dag)
        recorder = Recorder()
        with recorder.watching():
            dag_run = dag.test(**arguments)
        return recorder.finished(dag_run)

    return run


def serialize(dag: DAG) -> None:
    """Put a DAG into the database, as the dag-processor does: ``dag.test`` runs only DAGs that are there."""
    from airflow.dag_processing.bundles.manager import DagBundlesManager

    try:
        from airflow.dag_processing.dagbag import DagBag, sync_bag_to_db
    except ImportError:  # Airflow 3.1
        from airflow.models.dagbag import DagBag, sync_bag_to_db

    DagBundlesManager().sync_bundles_to_db()
    bag = DagBag(dag_folder=os.devnull)
    bag.bag_dag(dag=dag)
    sync_bag_to_db(bag, "dags-folder", None)


# -- how it is watched


MOST_ATTEMPTS = 20


def plain(state: Any) -> str:
    """``success`` for ``TaskInstanceState.SUCCESS``."""
    return str(getattr(state, "value", state))


def name_of(ti: Any) -> str:
    return ti.task_id if ti.map_index < 0 else f"{ti.task_id}[{ti.map_index}]"


@dataclass
class Recorder:
    """Notes each attempt of a task, and what is logged while it runs."""

    attempts: list[Attempt] = field(default_factory=list)
    lines: list[tuple[str, str]] = field(default_factory=list)
    _current: str = ""

    @contextmanager
    def watching(self) -> Iterator[None]:
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
            if len(self.of(ti)) == MOST_ATTEMPTS and state not in ("success", "skipped", "failed"):
                pytest.fail(f"{name_of(ti)} was run {MOST_ATTEMPTS} times without an end")  # not an Exception
            return result

        return watched

    def of(self, ti: Any) -> tuple[Attempt, ...]:
        return tuple(attempt for attempt in self.attempts if attempt.task == name_of(ti))

    def note(self, line: str, error: object) -> None:
        if error is True:
            error = sys.exc_info()[1]
        if isinstance(error, tuple):
            error = error[1]
        self.lines.append((self._current, f"{line}\n{type(error).__name__}: {error}" if error else line))

    def _structlog(self, logger: Any, method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        details = {key: value for key, value in event.items() if key in ("reason", "error")}
        self.note(f"{method.upper()} {event['event']} {details or ''}".strip(), event.get("exc_info"))
        return event

    def log(self, task: str) -> str:
        return "\n".join(line for name, line in self.lines if name == task)

    def finished(self, dag_run: DagRun) -> FinishedRun:
        xcoms = _xcoms(dag_run)
        tasks = {
            name_of(ti): TaskEnd(
                state=None if ti.state is None else plain(ti.state),
                try_number=ti.try_number,
                xcoms=xcoms.get((ti.task_id, ti.map_index), {}),
                attempts=self.of(ti),
                log=self.log(name_of(ti)),
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
