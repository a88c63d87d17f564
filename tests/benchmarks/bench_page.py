"""How long the page "CRM" takes, with many task instances in Airflow's database on PostgreSQL.

    python tests/benchmarks/bench_page.py [--instances 50000] [--requests 100] [--plans] [--write docs/page.md]

A PostgreSQL of its own runs on loopback, in a temporary folder, as the user ``postgres`` if this one is root. Airflow's
tables are created in it and filled: DAGs with four tasks each, one of them a load. Then the page's application, with
Airflow's own authentication, answers requests in this process. ``--plans`` prints how PostgreSQL carries out each
statement. With ``--write`` the table replaces what is between ``<!-- measured: page -->`` and its end.
"""

from __future__ import annotations

import argparse
import gc
import json
import operator
import os
import platform
import re
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import psutil

from crm_provider.testing.airflow_home import fresh_airflow_home, prepare_airflow

LIMIT = 0.3
"""Seconds that one request may take with 50,000 task instances."""

AIRFLOWS = {"Airflow's own list of DAGs, of its website": "/ui/dags", "The same by REST": "/api/v2/dags"}
"""Requests to Airflow, for comparison."""

TASKS = ("extract", "load", "check", "notify")
OPERATORS = {"load": "CrmLoadContactsOperator"}
RUNS = 250
MARKS = re.compile(r"(<!-- measured: page -->\n).*?(<!-- measured: end -->)", re.DOTALL)
NOW = datetime.now(timezone.utc)


@dataclass(frozen=True)
class Line:
    """What a page takes: seconds, those of this process and of PostgreSQL's on a processor, and bytes.

    :param uncollected: seconds of the longest request without Python's garbage collector
    """

    page: str
    median: float
    longest: float
    uncollected: float
    cpu: float
    database: float
    size: int


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--instances", type=int, default=50_000, help="task instances (default: %(default)s)")
    parser.add_argument("--requests", type=int, default=100, help="requests of each page (default: %(default)s)")
    parser.add_argument("--plans", action="store_true", help="print the plan of each statement")
    parser.add_argument("--write", type=Path, help="a document with the marks")
    options = parser.parse_args()
    with postgres() as url:
        prepare(url)
        fill(options.instances)
        lines = measure(options.requests, plans=options.plans)
    table = written(lines, options.instances, options.requests)
    print(table)
    if options.write:
        text = options.write.read_text()
        options.write.write_text(MARKS.sub(lambda found: f"{found[1]}\n{table}\n\n{found[2]}", text))
    if max(line.uncollected for line in lines if line.page not in AIRFLOWS) > LIMIT:
        sys.exit(f"a page takes more than {LIMIT} s, without garbage collection")


# -- PostgreSQL ---------------------------------------------------------------------------------------------


@contextmanager
def postgres() -> Iterator[str]:
    """The URL of a new, empty database."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin")) or [Path(str(shutil.which("postgres"))).parent]
    programs, folder = found[-1], Path(tempfile.mkdtemp(prefix="crm-pg-"))
    prefix = ["runuser", "-u", "postgres", "--"] if os.geteuid() == 0 else []
    if prefix:
        shutil.chown(folder, "postgres")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]

    def run(program: str, *arguments: str) -> None:
        command = [*prefix, str(programs / program), *arguments]
        subprocess.run(command, check=True, cwd="/", stdout=subprocess.DEVNULL)

    data = str(folder / "data")
    run("initdb", "-D", data, "-U", "airflow", "--auth=trust", "--no-sync")
    listen = f"-p {port} -h 127.0.0.1 -k {folder} -F"
    run("pg_ctl", "-D", data, "-l", str(folder / "log"), "-w", "-o", listen, "start")
    try:
        run("createdb", "-h", "127.0.0.1", "-p", str(port), "-U", "airflow", "airflow")
        yield f"postgresql+psycopg2://airflow@127.0.0.1:{port}/airflow"
    finally:
        run("pg_ctl", "-D", data, "-m", "immediate", "-w", "stop")
        shutil.rmtree(folder, ignore_errors=True)


def prepare(url: str) -> None:
    """Create Airflow's tables."""
    with_psycopg = url.replace("psycopg2", "psycopg")  # Airflow's default for this one, asyncpg, is not installed
    fresh_airflow_home(
        database__sql_alchemy_conn=url, database__sql_alchemy_conn_async=with_psycopg, logging__logging_level="ERROR"
    )
    prepare_airflow()


# -- what is in it ------------------------------------------------------------------------------------------


def fill(instances: int) -> None:
    """DAGs, runs, task instances, results and rendered fields."""
    from airflow.models.dag import DagModel
    from airflow.models.dagbundle import DagBundleModel
    from airflow.models.dagrun import DagRun
    from airflow.models.renderedtifields import RenderedTaskInstanceFields
    from airflow.models.taskinstance import TaskInstance
    from airflow.models.xcom import XComModel
    from airflow.utils.session import create_session
    from sqlalchemy import insert, select, text

    dags = [f"dag_{number:03}" for number in range(max(instances // (RUNS * len(TASKS)), 1))]
    with create_session() as session:
        session.execute(insert(DagBundleModel.__table__), [{"name": "bench", "active": True}])
        session.execute(insert(DagModel.__table__), [dag_row(DagModel, dag) for dag in dags])
        for dag in dags:
            starts = {f"scheduled__{start.isoformat()}": start for start in starts_of(dag)}
            session.execute(
                insert(DagRun.__table__),
                [
                    {
                        "dag_id": dag, "run_id": run, "run_type": "scheduled", "logical_date": start,
                        "run_after": start, "queued_at": start, "start_date": start, "state": "success",
                    }
                    for run, start in starts.items()
                ],
            )  # fmt: skip
            ids = dict(session.execute(select(DagRun.run_id, DagRun.id).where(DagRun.dag_id == dag)).all())
            session.execute(insert(TaskInstance.__table__), list(instances_of(dag, starts)))
            session.execute(insert(XComModel.__table__), list(results_of(dag, starts, ids)))
            rendered = [
                {"dag_id": dag, "run_id": run, "task_id": "load", "rendered_fields": {"crm_conn_id": "crm_default"}}
                for run in sorted(starts)[-30:]
            ]
            session.execute(insert(RenderedTaskInstanceFields.__table__), rendered)
        session.commit()
        session.execute(text("ANALYZE"))


def dag_row(model: Any, dag: str) -> dict[str, Any]:
    known = {
        "dag_id": dag, "bundle_name": "bench", "fileloc": f"/dags/{dag}.py", "is_stale": False, "is_paused": False,
        "next_dagrun_create_after": NOW + timedelta(hours=1), "timetable_summary": "@hourly",
        "max_active_tasks": 16, "max_active_runs": 16, "max_consecutive_failed_dag_runs": 0,
        "has_task_concurrency_limits": False,
    }  # fmt: skip
    return {name: value for name, value in known.items() if name in model.__table__.c}


def starts_of(dag: str) -> list[datetime]:
    shift = int(dag[-3:]) * 7
    return [NOW - timedelta(hours=number, minutes=shift, seconds=number % 60) for number in range(RUNS)]


def instances_of(dag: str, starts: dict[str, datetime]) -> Iterator[dict[str, Any]]:
    for number, (run, start) in enumerate(starts.items()):
        for task in TASKS:
            yield {
                "dag_id": dag, "run_id": run, "task_id": task, "map_index": -1, "pool": "default_pool",
                "operator": OPERATORS.get(task, "BashOperator"), "state": "failed" if number % 17 == 3 else "success",
                "start_date": start, "end_date": start + timedelta(seconds=200), "try_number": 1, "max_tries": 1,
                "pid": 7, "pool_slots": 1, "executor_config": {}, "custom_operator_name": "",
            }  # fmt: skip


def results_of(dag: str, starts: dict[str, datetime], ids: dict[str, int]) -> Iterator[dict[str, Any]]:
    for number, run in enumerate(starts):
        value = result(number, rows=0 if number % 5 == 4 else 1000 + number)
        key = {"dag_id": dag, "run_id": run, "task_id": "load", "map_index": -1, "dag_run_id": ids[run]}
        yield {**key, "key": "return_value", "value": value, "timestamp": NOW}


def result(number: int, rows: int) -> dict[str, Any]:
    from crm_provider.load.report import Summary
    from crm_provider.load.rows import Outcome

    rejected = 20 if number % 3 == 1 and rows else 0
    summary = Summary(
        rows=rows,
        counts={Outcome.CREATED: rows // 4, Outcome.UPDATED: rows - rows // 4 - rejected, Outcome.REJECTED: rejected},
        errors={"INVALID_INPUT": rejected} if rejected else {},
        calls=rows, seconds=200.0, budget_used=0.95, plan="learned", plan_why="w" * 100,
        paths={"rejects": "/data/rejects.jsonl" if rejected else None},
        samples=[
            {"row": row, "place": f"/data/leads.csv, line {row} (row {row})", "type": "INVALID_INPUT", "message": "m"}
            for row in range(rejected)
        ],
        ending="Done.",
    )  # fmt: skip
    policy = {"operator": "CrmLoadContactsOperator", "on_error": {}, "site": {}}
    return {**json.loads(json.dumps(summary.as_dict())), "crm_conn_id": "crm_default", "error_policy": policy}


# -- what it takes ------------------------------------------------------------------------------------------


def measure(requests: int, *, plans: bool) -> list[Line]:
    """What each page takes."""
    from airflow.api_fastapi.app import create_app, init_auth_manager
    from airflow.api_fastapi.auth.managers.simple.user import SimpleAuthManagerUser
    from fastapi.testclient import TestClient

    from crm_provider.ui.app import make_app

    token = init_auth_manager().generate_jwt(SimpleAuthManagerUser(username="ann", role="viewer"))
    login = {"Authorization": f"Bearer {token}"}
    page, airflow = TestClient(make_app(), headers=login), TestClient(create_app(apps="core"), headers=login)
    run = sorted(f"scheduled__{start.isoformat()}" for start in starts_of("dag_001"))[-3]
    sync = {"dag_id": "dag_001", "task_id": "load"}
    pages: list[tuple[str, str, dict[str, str]]] = [
        ("All syncs", "/", {}),
        ("Syncs with rejects of the last week", "/", {"state": "rejects", "days": "7", "q": "dag_0"}),
        ("One sync", "/sync", sync),
        ("One sync, runs with rejects, third page", "/sync", {**sync, "state": "rejects", "page": "3"}),
        ("One run", "/run", {**sync, "run_id": run}),
        *((name, path, {"limit": "50", "dag_runs_limit": "14"}) for name, path in AIRFLOWS.items()),
    ]
    lines, spent = [], Collections()
    for name, path, parameters in pages:
        client = airflow if name in AIRFLOWS else page
        with explained() if plans else no_plans():
            answer = client.get(path, params=parameters)
        assert answer.status_code == 200, answer.text
        seconds, cpu, collected, database = [], [], [], database_seconds()
        for _ in range(requests):
            spent.seconds = 0.0
            began, used = time.perf_counter(), time.process_time()
            answer = client.get(path, params=parameters)
            seconds.append(time.perf_counter() - began)
            cpu.append(time.process_time() - used)
            collected.append(spent.seconds)
        in_database = (database_seconds() - database) / requests
        uncollected = max(map(operator.sub, seconds, collected))
        lines.append(
            Line(
                page=name, median=statistics.median(seconds), longest=max(seconds),
                uncollected=uncollected, cpu=statistics.median(cpu), database=in_database, size=len(answer.content),
            )
        )  # fmt: skip
    return lines


class Collections:
    """Counts the time that Python's garbage collector takes, all objects of the process included."""

    def __init__(self) -> None:
        self.seconds, self._began = 0.0, 0.0
        gc.callbacks.append(self._note)

    def _note(self, phase: str, _: object) -> None:
        now = time.perf_counter()
        if phase == "start":
            self._began = now
        else:
            self.seconds += now - self._began


def database_seconds() -> float:
    """What all processes of PostgreSQL have spent on a processor."""
    processes = [process for process in psutil.process_iter(["name"]) if process.info["name"] == "postgres"]
    times = [process.cpu_times() for process in processes]
    return sum(time.user + time.system for time in times)


@contextmanager
def no_plans() -> Iterator[None]:
    yield


@contextmanager
def explained() -> Iterator[None]:
    """Print the plan of each statement on the page's tables."""
    from airflow import settings
    from sqlalchemy import event

    def explain(connection: Any, cursor: Any, statement: str, parameters: Any, context: Any, many: Any) -> None:
        if "task_instance" in statement and not statement.startswith("EXPLAIN"):
            cursor.execute(f"EXPLAIN (ANALYZE, COSTS OFF) {statement}", parameters)
            print("\n".join(["", statement.splitlines()[0][:100], *(row[0][:160] for row in cursor.fetchall())]))

    event.listen(settings.engine, "before_cursor_execute", explain)
    try:
        yield
    finally:
        event.remove(settings.engine, "before_cursor_execute", explain)


def written(lines: list[Line], instances: int, requests: int) -> str:
    head = [
        "| Page | Median | Longest without garbage collection | Longest | CPU: api-server | CPU: PostgreSQL | Size |"
    ]
    head += ["| --- | ---: | ---: | ---: | ---: | ---: | ---: |"]
    body = [
        f"| {line.page} | {line.median * 1000:.0f} ms | {line.uncollected * 1000:.0f} ms "
        f"| {line.longest * 1000:.0f} ms | {line.cpu * 1000:.0f} ms "
        f"| {line.database * 1000:.0f} ms | {line.size / 1000:.0f} kB |"
        for line in lines
    ]
    from airflow import __version__ as airflow_version

    note = (
        f"Airflow {airflow_version}, PostgreSQL, Python {platform.python_version()}, {os.cpu_count()} cores, "
        f"{instances:,} task instances, a quarter of them loads; {requests} requests of each."
    )
    return "\n".join([*head, *body, "", note])


if __name__ == "__main__":
    main()
