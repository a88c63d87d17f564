"""Running a DAG to its end in this process: the real task runner, database, XComs, retries, reschedules, deferral."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from crm_provider.testing.airflow_home import dag_bag, prepare_airflow, serialize
from crm_provider.testing.ended import FinishedRun
from crm_provider.testing.recording import MOST_ATTEMPTS, Recorder
from crm_provider.testing.skipped_waits import skipped_waits

if TYPE_CHECKING:
    from airflow.sdk import DAG

QUICK_INTERVAL = 0.1
"""Seconds between two checks of a sensor that waits within the test."""


def load_dag(path: str | Path, dag_id: str | None = None) -> DAG:
    """A DAG of a file, parsed as Airflow parses it.

    Example::

        dag = load_dag("dags/leads.py")

    :param dag_id: which one; needed if the file has several
    :raises ValueError: the file cannot be imported, with the reason, or it has no such DAG
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
    """Run a DAG with ``dag.test()`` and tell how each task ended, on Airflow 3.1 and newer.

    No scheduler, no other process. The DAG is written into the database first, as its dag-processor would, for
    ``dag.test()`` runs no other; the database gets its tables if it has none (see :func:`fresh_airflow_home`).

    Example::

        run = run_dag(dag, run_conf={"email": "ada@example.com"})
        assert run.states() == {"upsert_contact": "success", "create_deal": "skipped"}
        assert run["upsert_contact"].result["outcome"] == "updated"
        assert run["upsert_contact"].waits == ()  # seconds that it would have waited between its tries

    :param real_time: wait as in production. By default the waits for retries and reschedules are skipped (Airflow takes
        them for waited for), and sensors that wait without a reschedule ask ten times a second. Their ``timeout`` stays
        as it is
    :param most_attempts: the test fails if one task is run so often without an end
    :param arguments: more of ``dag.test()``: ``run_conf``, ``logical_date``, ...
    """
    prepare_airflow()
    serialize(dag)
    recorder = Recorder(most_attempts)
    with ExitStack() as stack:
        waits = {} if real_time else stack.enter_context(_hurried(dag))
        stack.enter_context(recorder.watching())
        dag_run = dag.test(**arguments)
    return recorder.finished(dag_run, waits)


@contextmanager
def _hurried(dag: DAG) -> Iterator[Mapping[str, list[float]]]:
    """Waits are skipped where they can be, and shortened where not."""
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
