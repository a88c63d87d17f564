"""The process that runs a client's DAG with Airflow's task runner (``dag.test``) and reports its cost.

    python worker.py '{"file": "ours.py", "dag_id": "ours", "confs": [{...}], "result": "/tmp/result.json"}'

Before the measured runs it runs a DAG with an empty task, so that one-time costs of Airflow do not count.
"""

from __future__ import annotations

import json
import os
import re
import resource
import sys
import threading
import time
from pathlib import Path
from typing import Any

RIVALS = Path(__file__).resolve().parents[1] / "rivals"


def main() -> None:
    end_with_parent()
    job = json.loads(sys.argv[1])
    from airflow.utils.db import initdb

    initdb()
    run(dag_of("nothing.py", "nothing"), {})
    before = peak()
    dag = dag_of(job["file"], job["dag_id"])
    runs = [run(dag, conf) for conf in job["confs"]]
    Path(job["result"]).write_text(json.dumps({"base_mb": before, "peak_mb": peak(), "runs": runs}), encoding="utf-8")


def end_with_parent() -> None:
    """End this process with its parent, which reads the measurements."""
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1.0)
        os._exit(1)

    threading.Thread(target=watch, name="parent", daemon=True).start()


def dag_of(file: str, dag_id: str) -> Any:
    """A DAG, parsed and stored like in the dag-processor."""
    from airflow.dag_processing.bundles.manager import DagBundlesManager

    try:
        from airflow.dag_processing.dagbag import DagBag, sync_bag_to_db
    except ImportError:  # Airflow 3.1
        from airflow.models.dagbag import DagBag, sync_bag_to_db

    DagBundlesManager().sync_bundles_to_db()
    bag = DagBag(dag_folder=str(RIVALS / file))
    if bag.import_errors:
        sys.exit(str(bag.import_errors))
    sync_bag_to_db(bag, "dags-folder", None)
    return bag.dags[dag_id]


def run(dag: Any, conf: dict[str, Any]) -> dict[str, Any]:
    """Run the DAG once and return its state, its XComs and its cost."""
    started, cpu = time.monotonic(), cpu_seconds()
    dag_run = dag.test(run_conf=conf)
    cost = {"started": started, "ended": time.monotonic(), "cpu": cpu_seconds() - cpu}
    states = [[ti.task_id, ti.map_index, plain(ti.state)] for ti in dag_run.get_task_instances()]
    return {**cost, "state": plain(dag_run.state), "tasks": states, "xcoms": xcoms(dag_run)}


def xcoms(dag_run: Any) -> list[list[Any]]:
    from airflow.models.xcom import XComModel
    from airflow.utils.session import create_session
    from sqlalchemy import select

    with create_session() as session:
        rows = session.scalars(select(XComModel).filter_by(dag_id=dag_run.dag_id, run_id=dag_run.run_id))
        return [[row.task_id, row.map_index, row.key, XComModel.deserialize_value(row)] for row in rows]


def plain(state: Any) -> str | None:
    return None if state is None else str(getattr(state, "value", state))


def cpu_seconds() -> float:
    """Processor time of this process and of its finished children."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)


def peak() -> float:
    """Peak memory of this process in megabytes. ``getrusage`` would include the parent process."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(re.findall(r"VmHWM:\s+(\d+) kB", status)[0]) / 1024


if __name__ == "__main__":
    main()
