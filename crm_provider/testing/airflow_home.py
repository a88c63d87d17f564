"""An Airflow for tests alone: a home that is thrown away, a database with its tables, a ``dag.test`` that is right."""

from __future__ import annotations

import atexit
import functools
import os
import shutil
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from airflow.sdk import DAG


def fresh_airflow_home(**settings: str) -> Path:
    """Give this process an Airflow home of its own, which is removed when it ends.

    Call it at the top of ``conftest.py``, before anything imports ``airflow``: that reads the environment once.
    What the environment says about Airflow already is taken out of it, so that no test meets the real database.

    :param settings: more of Airflow's configuration: ``core__dags_folder="/repo/dags"``
    :return: the folder; it has an empty folder ``dags``
    :raises RuntimeError: airflow was imported already
    """
    if "airflow" in sys.modules:
        raise RuntimeError(
            "airflow was imported before fresh_airflow_home(): call it at the top of the outermost conftest.py, and "
            "import nothing there that imports airflow. If a pytest plugin does, set AIRFLOW_HOME before pytest starts"
        )
    for name in [name for name in os.environ if name.startswith(("AIRFLOW_", "_AIRFLOW_"))]:
        del os.environ[name]
    home = Path(tempfile.mkdtemp(prefix="crm-tests-"))
    (home / "dags").mkdir()
    atexit.register(_remove, home, os.getpid())
    known = {
        "core__dags_folder": str(home / "dags"),
        "core__load_examples": "False",
        "core__min_serialized_dag_update_interval": "0",  # else a DAG of the same id stays as it was for 30 s
        "database__sql_alchemy_conn": f"sqlite:///{home}/airflow.db",
        "logging__logging_level": "INFO",
        "usage_data_collection__enabled": "False",
    }
    os.environ["AIRFLOW_HOME"] = str(home)
    os.environ.update({f"AIRFLOW__{name.upper()}": value for name, value in {**known, **settings}.items()})
    return home


def _remove(home: Path, process: int) -> None:
    if os.getpid() == process:  # not in what was forked from it
        shutil.rmtree(home, ignore_errors=True)


@functools.cache
def prepare_airflow() -> None:
    """Make the tables if the database has none, and mend ``dag.test`` of older Airflows; once in a process."""
    from airflow.utils.db import initdb
    from airflow.utils.session import create_session
    from sqlalchemy import inspect

    with create_session() as session:
        there = inspect(session.connection()).has_table("dag_run")
    if not there:
        initdb()
    _mend_dag_test()


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

    TaskInstanceOperations.get_reschedule_start_date = get_parsed_date  # type: ignore[method-assign]


def serialize(dag: DAG) -> None:
    """Put a DAG into the database, as the dag-processor does: ``dag.test`` runs only DAGs that are there."""
    from airflow.dag_processing.bundles.manager import DagBundlesManager

    DagBundlesManager().sync_bundles_to_db()
    bag = dag_bag(os.devnull)
    bag.bag_dag(dag=dag)
    _dagbags().sync_bag_to_db(bag, "dags-folder", None)


def dag_bag(path: str) -> Any:
    """The DAGs of a file or a folder."""
    return _dagbags().DagBag(dag_folder=path)


def _dagbags() -> Any:
    """The module of ``DagBag``, wherever this Airflow has it."""
    try:
        from airflow.dag_processing import dagbag
    except ImportError:  # Airflow 3.1
        from airflow.models import dagbag  # type: ignore[no-redef]
    return dagbag
