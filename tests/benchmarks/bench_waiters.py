"""Many deferred sensors in a real triggerer, with PostgreSQL as Airflow's database, next to Airflow's own.

    python tests/benchmarks/bench_waiters.py [--waiters 10000] [--write docs/performance.md]

The rows of a DAG run whose sensors have deferred (task instances and triggers) are written into the database directly,
so that no scheduler has to run as many tasks. The triggerer is ``airflow triggerer``, in processes of its own: it finds
them as always, runs their triggers and writes their events. What ends a wait is counted by the database: each change of
a task instance from ``deferred`` to ``scheduled`` is a row of a table beside it.

Three runs, one after the other, each with a new triggerer: Airflow's ``FileTrigger``, on one file; the sensors of this
provider; and these with two triggerers, one of which is killed (SIGKILL) when all are waiting. The sensors wait for 20
lists, 50 contacts in a list and 50 deals of the sandbox, at 5 calls a second.

The exit code is 1 if a wait did not end exactly once. With ``--write`` the tables replace what is between
``<!-- measured: waiters -->`` and its end.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import platform
import re
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import psutil
from bench_page import dag_row, postgres

from crm_provider.sandbox import Sandbox, ids
from crm_provider.testing.airflow_home import fresh_airflow_home, prepare_airflow

DAG, TASK = "dag_001", "wait"
LISTS, CONTACTS, DEALS = 20, 50, 50
"""Different records in the CRM: 2 pages of lists, and a call for each contact and deal."""

SHARED_BY = 20
"""Of fewer than a thousand sensors, so many wait for one contact or deal."""

AT_ONCE = 20
"""In so many loops, of a second or more, a triggerer takes all waits: with Airflow's default, 50 a loop, ten thousand
would need minutes. Two triggerers share them by taking turns."""

PATIENCE = 1_800.0
"""Seconds until something hangs."""

DEAD_AFTER = 15
"""Seconds without a heartbeat after which another triggerer takes over. Airflow's default is 30."""

MARKS = re.compile(r"(<!-- measured: waiters -->\n).*?(<!-- measured: end -->)", re.DOTALL)
AUDIT = """
CREATE TABLE wait_ended (ti uuid, at timestamptz DEFAULT clock_timestamp());
CREATE FUNCTION note_end() RETURNS trigger AS
    'BEGIN INSERT INTO wait_ended (ti) VALUES (NEW.id); RETURN NEW; END' LANGUAGE plpgsql;
CREATE TRIGGER wait_ended AFTER UPDATE OF state ON task_instance FOR EACH ROW
    WHEN (OLD.state = 'deferred' AND NEW.state = 'scheduled') EXECUTE FUNCTION note_end();
"""

Spec = tuple[str, dict[str, Any]]
"""Class and arguments of a trigger."""


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--waiters", type=int, default=10_000, help="deferred sensors (default: %(default)s)")
    parser.add_argument("--interval", type=float, default=60.0, help="poke_interval of the CRM sensors in "
                        "seconds, and how long all are measured while they wait (default: %(default)s)")  # fmt: skip
    parser.add_argument("--write", type=Path, help="a document with the marks")
    options = parser.parse_args()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, hard), hard))  # Airflow keeps a log file open for each
    with tempfile.TemporaryDirectory(prefix="crm-waiters-") as folder, postgres() as url, crm() as sandbox:
        prepare(url, sandbox, at_once=max(options.waiters // AT_ONCE, 1))
        bench = Bench(sandbox, options.waiters, options.interval, Path(folder))
        runs = [bench.run_core(), bench.run_crm()]
        killed = bench.run_killed()
    text = written(runs, killed, options.waiters, options.interval)
    print(text)
    if options.write:
        found = options.write.read_text("utf-8")
        options.write.write_text(MARKS.sub(lambda m: f"{m[1]}\n{text}\n\n{m[2]}", found), "utf-8")
    wrong = [run.name for run in (*runs, killed) if run.ended_once != options.waiters or run.ended_twice]
    wrong += [] if killed.taken_over else ["the triggerer that was killed had no triggers"]
    for name in wrong:
        print(f"WRONG: not every wait ended exactly once, or nothing was tested: {name}", file=sys.stderr)
    return 1 if wrong else 0


@contextmanager
def crm() -> Iterator[Sandbox]:
    """A CRM in which nothing that is waited for has happened."""
    with Sandbox(seed="empty", rate=5.0, burst=2) as sandbox:
        store = sandbox.store
        store.add_pipeline("Sales", ["New", "Won"])
        for number in range(LISTS - 1):  # with the list that the contacts will join
            store.add_list(f"other-{number}")
        store.add_list("Joined")
        for number in range(CONTACTS + DEALS):
            contact = store.create_contact(f"p{number}@example.com")
            if number >= CONTACTS:
                pipeline, stage = ids.pipeline_id("Sales"), ids.stage_id("Sales", "New")
                store.create_deal(contact_id=contact.id, pipeline_id=pipeline, stage_id=stage)
        yield sandbox


def happen(sandbox: Sandbox) -> None:
    """Make true what all sensors wait for."""
    store = sandbox.store
    for number in range(LISTS):
        store.add_list(f"awaited-{number}")
    for number in range(CONTACTS):
        store.add_to_lists(f"p{number}@example.com", [ids.list_id("Joined")])
    for deal in list(store.deals):
        store.update_deal(deal, stage_id=ids.stage_id("Sales", "Won"))


def prepare(url: str, sandbox: Sandbox, *, at_once: int) -> None:
    """Create Airflow's tables, and what all runs share."""
    from cryptography.fernet import Fernet

    fresh_airflow_home(
        database__sql_alchemy_conn=url,
        database__sql_alchemy_conn_async=url.replace("psycopg2", "psycopg"),
        core__fernet_key=Fernet.generate_key().decode(),
        triggerer__max_trigger_to_select_per_loop=str(at_once),
        triggerer__triggerer_health_check_threshold=str(DEAD_AFTER),
        triggerer__runner_health_check_threshold="0",
    )
    os.environ["AIRFLOW_CONN_CRM_DEFAULT"] = sandbox.connection_json()
    prepare_airflow()
    from airflow.models.dag import DagModel
    from airflow.models.dagbundle import DagBundleModel
    from airflow.utils.session import create_session
    from sqlalchemy import insert, text

    with create_session() as session:
        session.execute(insert(DagBundleModel.__table__), [{"name": "bench", "active": True}])
        session.execute(insert(DagModel.__table__), [dag_row(DagModel, DAG)])
        session.execute(text(AUDIT))


# -- the waits -----------------------------------------------------------------------------------------------


def core_trigger(file: Path, interval: float) -> Spec:
    """One of Airflow's own: it waits for a file."""
    arguments = {"filepath": str(file), "recursive": False, "poke_interval": interval}
    return "airflow.providers.standard.triggers.file.FileTrigger", arguments


def distinct(waiters: int) -> int:
    """How many different contacts, and how many deals, so many sensors wait for."""
    return min(CONTACTS, DEALS, max(waiters // SHARED_BY, 1))


def crm_trigger(number: int, interval: float, records: int) -> Spec:
    """One of ours: of ten, six wait for a list, two for a contact in a list, two for the stage of a deal."""
    from crm_provider.triggers.poll import CrmPollTrigger
    from crm_provider.waiting.conditions import Condition, DealInStage, InList, ListExists

    kind, which = number % 10, number // 10
    condition: Condition
    if kind < 6:
        condition = ListExists(list_name=f"awaited-{(6 * which + kind) % LISTS}")
    elif kind < 8:
        email = f"p{(2 * which + kind) % records}@example.com"
        condition = InList(emails=(email,), list_id=ids.list_id("Joined"))
    else:
        contact = ids.contact_id(f"p{CONTACTS + (2 * which + kind) % records}@example.com")
        condition = DealInStage(deal_id=ids.deal_id(contact), stage_ids=(ids.stage_id("Sales", "Won"),))
    return CrmPollTrigger(
        condition=condition.as_data(),
        crm_conn_id="crm_default",
        poke_interval=interval,
        deadline=time.time() + 24 * 3600,
    ).serialize()


def fill(specs: list[Spec]) -> None:
    """Write a run whose sensors have deferred."""
    from airflow.models.dag_version import DagVersion
    from airflow.models.dagrun import DagRun
    from airflow.models.taskinstance import TaskInstance
    from airflow.models.trigger import Trigger
    from airflow.utils.session import create_session
    from sqlalchemy import insert, select, text

    now = datetime.now(timezone.utc)
    run_id = f"manual__{now.isoformat()}"
    with create_session() as session:
        session.execute(text("TRUNCATE wait_ended"))
        version = session.scalar(select(DagVersion.id).where(DagVersion.dag_id == DAG))
        if version is None:
            row = {"dag_id": DAG, "version_number": 1, "bundle_name": "bench"}
            version = session.scalar(insert(DagVersion.__table__).returning(DagVersion.id), row)
        run = {
            "dag_id": DAG, "run_id": run_id, "run_type": "manual", "logical_date": now, "run_after": now,
            "queued_at": now, "start_date": now, "state": "running", "created_dag_version_id": version,
        }  # fmt: skip
        session.execute(insert(DagRun.__table__), [run])
        triggers = [
            {"classpath": path, "encrypted_kwargs": Trigger.encrypt_kwargs(given), "created_date": now}
            for path, given in specs
        ]
        made = session.scalars(insert(Trigger).returning(Trigger.id), triggers).all()
        session.execute(
            insert(TaskInstance.__table__),
            [
                {
                    "dag_id": DAG, "run_id": run_id, "task_id": TASK, "map_index": index, "pool": "default_pool",
                    "operator": "CrmListSensor", "state": "deferred", "start_date": now, "try_number": 1,
                    "max_tries": 1, "pool_slots": 1, "executor_config": {}, "custom_operator_name": "",
                    "queue": "default", "priority_weight": 1, "trigger_id": trigger, "next_method": "execute_complete",
                    "next_kwargs": {}, "dag_version_id": version,
                }
                for index, trigger in enumerate(made)
            ],
        )  # fmt: skip


def scalar(statement: str) -> int:
    from airflow.utils.session import create_session
    from sqlalchemy import text

    with create_session() as session:
        return int(session.scalar(text(statement)) or 0)


def ends() -> tuple[int, int]:
    """How many waits have ended once, and how many more than once."""
    each = "SELECT count(*) AS times FROM wait_ended GROUP BY ti"
    return tuple(scalar(f"SELECT count(*) FROM ({each}) AS e WHERE times {how}") for how in ("= 1", "> 1"))  # type: ignore[return-value]


def until(condition: Callable[[], bool], what: str) -> float:
    """Wait for something; the seconds that it took."""
    started = time.monotonic()
    while not condition():
        if time.monotonic() > started + PATIENCE:
            sys.exit(f"after {PATIENCE:g} s: {what}")
        time.sleep(1.0)
    return time.monotonic() - started


# -- the triggerer -------------------------------------------------------------------------------------------


@dataclass
class Triggerer:
    """``airflow triggerer``: the process that speaks with the database, and the one that runs the triggers."""

    process: subprocess.Popen[bytes]

    @classmethod
    def start(cls, folder: Path, capacity: int) -> Triggerer:
        jobs = scalar("SELECT count(*) FROM job WHERE job_type = 'TriggererJob'")
        command = [sys.executable, "-m", "airflow", "triggerer", "--skip-serve-logs", "--capacity", str(capacity)]
        with (folder / "triggerer.log").open("ab") as log:
            made = cls(subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True))
        beats = "SELECT count(*) FROM job WHERE job_type = 'TriggererJob' AND latest_heartbeat > start_date"
        until(lambda: scalar(beats) > jobs, "the triggerer has no heartbeat")
        return made

    def processes(self) -> list[psutil.Process]:
        parent = psutil.Process(self.process.pid)
        return [parent, *parent.children(recursive=True)]

    def megabytes(self) -> float:
        return sum(process.memory_info().rss for process in self.processes()) / 2**20

    def cpu(self) -> float:
        times = [process.cpu_times() for process in self.processes()]
        return sum(time.user + time.system for time in times)

    def stop(self, number: int = signal.SIGKILL) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, number)
        self.process.wait()


@dataclass
class Run:
    """What the waits of one kind cost.

    :param loading: seconds until all triggers ran, and the processor's seconds for it
    :param megabytes: over a triggerer without triggers
    :param share: of a processor, while all wait
    :param calls: a minute, while all wait
    :param taken_over: waits of the triggerer that was killed
    :param ending: seconds from the moment at which all conditions hold to the end of the last wait
    """

    name: str
    loading: float = 0.0
    loading_cpu: float = 0.0
    megabytes: float = 0.0
    share: float = 0.0
    calls: float = 0.0
    ending: float = 0.0
    ending_cpu: float = 0.0
    ended_once: int = 0
    ended_twice: int = 0
    taken_over: int = 0


class Bench:
    """The runs, one after the other, in one database."""

    def __init__(self, sandbox: Sandbox, waiters: int, interval: float, folder: Path) -> None:
        self._sandbox, self._waiters, self._interval, self._folder = sandbox, waiters, interval, folder
        self._snapshot = sandbox.snapshot()
        self._idle = 0.0
        self._logs_before = 0

    def run_core(self) -> Run:
        """Airflow's own: each waits for a file."""
        run, file = Run("Airflow's `FileSensor`"), self._folder / "awaited"
        with self._triggerer() as triggerer:
            self._load(run, triggerer, [core_trigger(file, self._interval)] * self._waiters)
            self._wait(run, triggerer)
            file.touch()
            self._end(run, triggerer)
        return run

    def run_crm(self) -> Run:
        """The sensors of this provider, in one triggerer."""
        run = Run("CRM sensors")
        with self._triggerer() as triggerer:
            self._load(run, triggerer, self._crm_triggers())
            until(lambda: self._sandbox.counters().total > 2 * distinct(self._waiters), "there was no first round")
            self._wait(run, triggerer)
            happen(self._sandbox)
            self._end(run, triggerer)
        return run

    def run_killed(self) -> Run:
        """Two triggerers, one of which is killed when all are waiting."""
        run = Run("CRM sensors, two triggerers, one killed")
        with self._triggerer() as survivor, self._triggerer(is_second=True) as victim:
            self._load(run, survivor, self._crm_triggers())
            newest = "(SELECT max(id) FROM job WHERE job_type = 'TriggererJob')"
            run.taken_over = scalar(f"SELECT count(*) FROM trigger WHERE triggerer_id = {newest}")
            victim.stop()
            happen(self._sandbox)
            self._end(run, survivor)
            time.sleep(2.0)  # in which something could end a second time
            run.ended_once, run.ended_twice = ends()
        return run

    # -- the steps of a run ------------------------------------------------------------------------------------

    @contextmanager
    def _triggerer(self, *, is_second: bool = False) -> Iterator[Triggerer]:
        if not is_second:
            self._reset()
        started = Triggerer.start(self._folder, 2 * self._waiters)
        try:
            yield started
        finally:
            started.stop()

    def _crm_triggers(self) -> list[Spec]:
        return [crm_trigger(number, self._interval, distinct(self._waiters)) for number in range(self._waiters)]

    def _load(self, run: Run, triggerer: Triggerer, specs: list[Spec]) -> None:
        self._idle, cpu = triggerer.megabytes(), triggerer.cpu()
        fill(specs)
        run.loading = until(lambda: self._running() >= self._waiters, "not all triggers run")
        run.loading_cpu = triggerer.cpu() - cpu

    def _wait(self, run: Run, triggerer: Triggerer) -> None:
        cpu, calls = triggerer.cpu(), self._sandbox.counters().total
        time.sleep(self._interval)
        run.share = (triggerer.cpu() - cpu) / self._interval
        run.calls = (self._sandbox.counters().total - calls) / self._interval * 60
        run.megabytes = triggerer.megabytes() - self._idle

    def _end(self, run: Run, triggerer: Triggerer) -> None:
        cpu = triggerer.cpu()
        run.ending = until(lambda: sum(ends()) >= self._waiters, "not all waits ended")
        run.ending_cpu = triggerer.cpu() - cpu
        run.ended_once, run.ended_twice = ends()
        print(run, flush=True)

    def _reset(self) -> None:
        """As at the beginning: nothing has happened in the CRM, and no logs are left of earlier runs."""
        from airflow.utils.session import create_session
        from sqlalchemy import text

        with create_session() as session:
            session.execute(text("UPDATE task_instance SET state = 'success', trigger_id = NULL"))
            session.execute(text("DELETE FROM trigger"))
            session.execute(text("UPDATE job SET end_date = now(), state = 'failed' WHERE end_date IS NULL"))
        self._sandbox.reset(replace(self._sandbox.settings, seed=self._snapshot))
        self._logs_before = self._count_logs()

    def _running(self) -> int:
        """The triggers that have begun: each has written a line into the log of its task."""
        if scalar("SELECT count(*) FROM trigger WHERE triggerer_id IS NULL"):
            return 0
        return self._count_logs() - self._logs_before

    @staticmethod
    def _count_logs() -> int:
        return sum(1 for _ in Path(os.environ["AIRFLOW_HOME"], "logs").rglob("*.trigger.*.log"))


def written(runs: list[Run], killed: Run, waiters: int, interval: float) -> str:
    from airflow import __version__ as airflow_version

    head = [f"{waiters:,} deferred waits", *(run.name for run in runs)]
    rows: list[tuple[str, Callable[[Run], str]]] = [
        ("until all triggers run", lambda run: f"{run.loading:.0f} s"),
        ("processor time for that", lambda run: f"{run.loading_cpu:.0f} s"),
        ("memory over an idle triggerer", lambda run: f"{run.megabytes:,.0f} MB"),
        (f"processor while all wait ({interval:g} s)", lambda run: f"{run.share:.1%}"),
        ("calls to the CRM while all wait", lambda run: f"{run.calls:.0f} a minute"),
        ("from the moment that all are due to the last event in the database", lambda run: f"{run.ending:.0f} s"),
        ("processor time for that", lambda run: f"{run.ending_cpu:.0f} s"),
        ("ended exactly once", lambda run: f"{run.ended_once:,}"),
    ]
    table = [head, ["---"] * len(head), *([name, *map(of, runs)] for name, of in rows)]
    lines = "\n".join(f"| {' | '.join(cells)} |" for cells in table)
    about = (
        f"Airflow {airflow_version}, PostgreSQL, Python {platform.python_version()}, {os.cpu_count()} cores; "
        f"`max_trigger_to_select_per_loop` is {waiters // AT_ONCE:,}. The CRM sensors wait for {LISTS} lists, "
        f"{distinct(waiters)} contacts and as many deals with a `poke_interval` of {interval:g} s, at 5 calls per "
        "second; a wait notices within an interval and a round."
    )
    two = (
        f"With two triggerers, of which one had {killed.taken_over:,} of the {waiters:,} and was killed (SIGKILL): "
        f"{killed.ended_once:,} waits ended exactly once, {killed.ended_twice:,} more often; the last one "
        f"{killed.ending:.0f} s after all conditions held. A triggerer counts as dead after {DEAD_AFTER} s."
    )
    return f"{about}\n\n{lines}\n\n{two}"


if __name__ == "__main__":
    sys.exit(main())
