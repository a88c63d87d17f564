"""An Airflow for tests only: a temporary home, a database with its tables, and a ``dag.test`` without known bugs."""

from __future__ import annotations

import atexit
import functools
import gc
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from airflow.sdk import DAG


def fresh_airflow_home(**settings: str) -> Path:
    """Give this process its own Airflow home, which is removed when the process ends.

    Call it at the top of ``conftest.py``, before anything imports ``airflow``, which reads the environment only once.
    Airflow's variables are removed from the environment, so that no test uses the real database.

    :param settings: more of Airflow's configuration: ``core__dags_folder="/repo/dags"``
    :return: the folder; it contains an empty folder ``dags``
    :raises RuntimeError: airflow has already been imported
    """
    if "airflow" in sys.modules:
        raise RuntimeError(
            "airflow was imported before fresh_airflow_home(): call it at the top of the outermost conftest.py, and "
            "import nothing that imports airflow before it. If a pytest plugin imports it, set AIRFLOW_HOME before "
            "pytest starts"
        )
    for name in [name for name in os.environ if name.startswith(("AIRFLOW_", "_AIRFLOW_"))]:
        del os.environ[name]
    home = Path(tempfile.mkdtemp(prefix="crm-tests-"))
    (home / "dags").mkdir()
    atexit.register(_remove, home, os.getpid())
    known = {
        "core__dags_folder": str(home / "dags"),
        "core__load_examples": "False",
        "core__min_serialized_dag_update_interval": "0",  # otherwise a changed DAG takes effect after 30 s
        "database__sql_alchemy_conn": f"sqlite:///{home}/airflow.db",
        "logging__logging_level": "INFO",
        "usage_data_collection__enabled": "False",
    }
    os.environ["AIRFLOW_HOME"] = str(home)
    os.environ.update({f"AIRFLOW__{name.upper()}": value for name, value in {**known, **settings}.items()})
    return home


def _remove(home: Path, process: int) -> None:
    if os.getpid() == process:  # not in a forked process
        shutil.rmtree(home, ignore_errors=True)


@contextmanager
def rare_collections() -> Iterator[None]:
    """Run the garbage collector less often in the block.

    Airflow's imports and its API server create millions of long-lived objects. Scanning them repeatedly takes a third
    of the time of the first run.
    """
    before = gc.get_threshold()
    gc.set_threshold(100_000, 50, 1_000)
    try:
        yield
    finally:
        gc.set_threshold(*before)


@functools.cache
def prepare_airflow() -> None:
    """Create the tables if the database has none, and correct ``dag.test`` of older versions; once per process."""
    with rare_collections():
        from airflow.utils.db import initdb
        from airflow.utils.session import create_session
        from sqlalchemy import inspect

        with create_session() as session:
            has_tables = inspect(session.connection()).has_table("dag_run")
        if not has_tables:
            initdb()
        _correct_dag_test()


def _correct_dag_test() -> None:
    """Make ``dag.test`` of older Airflow versions as fast and as correct as in the newest one."""
    from airflow.sdk.api.client import TaskInstanceOperations
    from airflow.sdk.execution_time import supervisor

    if not hasattr(supervisor.in_process_api_server, "cache_info"):
        # Below 3.3 it creates a new API server for every try of a task: 1-2 s each.
        supervisor.in_process_api_server = functools.cache(supervisor.in_process_api_server)

    get_date = TaskInstanceOperations.get_reschedule_start_date

    def get_parsed_date(self: Any, *arguments: Any, **keywords: Any) -> Any:
        answer = get_date(self, *arguments, **keywords)
        return type(answer).model_validate(answer.model_dump())  # 3.1.0 passes a text to the task

    TaskInstanceOperations.get_reschedule_start_date = get_parsed_date  # type: ignore[method-assign]


def serialize(dag: DAG) -> None:
    """Write a DAG into the database, as the dag-processor does: ``dag.test`` runs only DAGs that are in it."""
    from airflow.dag_processing.bundles.manager import DagBundlesManager

    DagBundlesManager().sync_bundles_to_db()
    bag = dag_bag(os.devnull)
    bag.bag_dag(dag=dag)
    _dagbags().sync_bag_to_db(bag, "dags-folder", None)


def dag_bag(path: str) -> Any:
    """The DAGs of a file or a folder."""
    return _dagbags().DagBag(dag_folder=path)


def _dagbags() -> Any:
    """The module that defines ``DagBag`` in this version of Airflow."""
    try:
        from airflow.dag_processing import dagbag
    except ImportError:  # Airflow 3.1
        from airflow.models import dagbag  # type: ignore[no-redef]
    return dagbag
