"""Many deferred sensors in a real triggerer with PostgreSQL, compared with Airflow's own.

    python tests/benchmarks/bench_waiters.py [--waiters 10000] [--write docs/performance.md]

The rows of a DAG run with deferred sensors (task instances and triggers) are written to the database directly, so that
no scheduler has to run as many tasks. The processes of ``airflow triggerer`` find them as usual, run their triggers and
write their events. A database trigger counts the ends of waits: each change of a task instance from ``deferred`` to
``scheduled`` is a row of another table.

Four runs, one after the other, each with a new triggerer: Airflow's ``FileTrigger`` on one file, the sensors of this
provider, and both of them again with two triggerers, of which one is killed (SIGKILL) when all are waiting. The sensors
wait for 20 lists, 50 contacts in a list and 50 deals of the sandbox, at 5 calls per second.

The exit code is 1 if a wait does not end exactly once with the expected result. With ``--write`` the tables replace the
text between ``<!-- measured: waiters -->`` and its end.
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

import psutil
from bench_page import dag_row, postgres
from deferred_waits import (
    CONTACTS,
    DAG,
    DEALS,
    LISTS,
    Spec,
    core_trigger,
    crm_trigger,
    distinct,
    ends,
    fill,
    scalar,
    successes,
)

from crm_provider.sandbox import Sandbox, ids
from crm_provider.testing.airflow_home import fresh_airflow_home, prepare_airflow

AT_ONCE = 20
"""Loops, of a second or more, in which a triggerer takes all waits. With Airflow's default of 50 per loop, ten thousand
would take minutes. Two triggerers take turns and share them."""

PATIENCE = 1_800.0
"""Seconds until a wait counts as hanging."""

DEAD_AFTER = 15
"""Seconds without a heartbeat after which another triggerer takes over. Airflow's default is 30."""

MARKS = re.compile(r"(<!-- measured: waiters -->\n).*?(<!-- measured: end -->)", re.DOTALL)
AUDIT = """
CREATE TABLE wait_ended (ti uuid, event text, at timestamptz DEFAULT clock_timestamp());
CREATE FUNCTION note_end() RETURNS trigger AS
    'BEGIN INSERT INTO wait_ended (ti, event) VALUES (NEW.id, NEW.next_kwargs::text); RETURN NEW; END'
    LANGUAGE plpgsql;
CREATE TRIGGER wait_ended AFTER UPDATE OF state ON task_instance FOR EACH ROW
    WHEN (OLD.state = 'deferred' AND NEW.state = 'scheduled') EXECUTE FUNCTION note_end();
"""

RUNS = ("core", "crm", "core-killed", "crm-killed")


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--waiters", type=int, default=10_000, help="deferred sensors (default: %(default)s)")
    parser.add_argument("--interval", type=float, default=60.0, help="poke_interval of the CRM sensors in "
                        "seconds, and how long all are measured while they wait (default: %(default)s)")  # fmt: skip
    parser.add_argument("--only", nargs="+", choices=RUNS, help="some of the runs (default: all)")
    parser.add_argument("--write", type=Path, help="a document with the marks")
    options = parser.parse_args()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, hard), hard))  # Airflow keeps one log file open per trigger
    with tempfile.TemporaryDirectory(prefix="crm-waiters-") as folder, postgres() as url, crm() as sandbox:
        prepare(url, sandbox, at_once=max(options.waiters // AT_ONCE, 1))
        bench = Bench(sandbox, options.waiters, options.interval, Path(folder))
        wanted = options.only or RUNS
        runs = {name: bench.run(name) for name in wanted}
    text = written(runs, options.waiters, options.interval)
    print(text)
    if options.write:
        found = options.write.read_text("utf-8")
        options.write.write_text(MARKS.sub(lambda m: f"{m[1]}\n{text}\n\n{m[2]}", found), "utf-8")
    wrong = [f"{name}: {what}" for name, run in runs.items() for what in run.wrong(options.waiters)]
    print(*(f"WRONG: {what}" for what in wrong), sep="\n", file=sys.stderr)
    return 1 if wrong else 0


@contextmanager
def crm() -> Iterator[Sandbox]:
    """A CRM in which no condition holds yet."""
    with Sandbox(seed="empty", rate=5.0, burst=2) as sandbox:
        store = sandbox.store
        store.add_pipeline("Sales", ["New", "Won"])
        for number in range(LISTS - 1):  # plus the list that the contacts will join
            store.add_list(f"other-{number}")
        store.add_list("Joined")
        for number in range(CONTACTS + DEALS):
            contact = store.create_contact(f"p{number}@example.com")
            if number >= CONTACTS:
                pipeline, stage = ids.pipeline_id("Sales"), ids.stage_id("Sales", "New")
                store.create_deal(contact_id=contact.id, pipeline_id=pipeline, stage_id=stage)
        yield sandbox


def happen(sandbox: Sandbox) -> None:
    """Make the conditions of all sensors hold."""
    store = sandbox.store
    for number in range(LISTS):
        store.add_list(f"awaited-{number}")
    for number in range(CONTACTS):
        store.add_to_lists(f"p{number}@example.com", [ids.list_id("Joined")])
    for deal in list(store.deals):
        store.update_deal(deal, stage_id=ids.stage_id("Sales", "Won"))


def prepare(url: str, sandbox: Sandbox, *, at_once: int) -> None:
    """Create Airflow's tables and the data of all runs."""
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


def until(condition: Callable[[], bool], what: str) -> float:
    """Wait for a condition and return the seconds."""
    started = time.monotonic()
    while not condition():
        if time.monotonic() > started + PATIENCE:
            sys.exit(f"after {PATIENCE:g} s: {what}")
        time.sleep(1.0)
    return time.monotonic() - started


# -- the triggerer -------------------------------------------------------------------------------------------


@dataclass
class Triggerer:
    """``airflow triggerer``: the process that accesses the database, and the one that runs the triggers."""

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
    """Cost of the waits of one kind.

    :param loading: seconds until all triggers run, and its processor time
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
    succeeded: int = 0
    taken_over: int | None = None

    def wrong(self, waiters: int) -> list[str]:
        """Reasons why the measurements of this run are invalid."""
        checks = [
            ("not every wait ended exactly once", self.ended_once != waiters or self.ended_twice > 0),
            (f"only {self.succeeded} ended with what they waited for", self.succeeded != waiters),
            ("the triggerer that was killed had no triggers, or all", self.taken_over in (0, waiters)),
        ]
        return [what for what, is_so in checks if is_so]


class Bench:
    """The runs, one after the other, in one database."""

    def __init__(self, sandbox: Sandbox, waiters: int, interval: float, folder: Path) -> None:
        self._sandbox, self._waiters, self._interval, self._folder = sandbox, waiters, interval, folder
        self._file = folder / "awaited"
        self._snapshot = sandbox.snapshot()
        self._idle = 0.0
        self._logs_before = 0

    def run(self, name: str) -> Run:
        """Run one of :data:`RUNS`."""
        kind, _, killed = name.partition("-")
        run = Run(name)
        return self._run_killed(run, kind) if killed else self._run_alone(run, kind)

    def _run_alone(self, run: Run, kind: str) -> Run:
        """A run with one triggerer."""
        with self._triggerer() as triggerer:
            self._load(run, triggerer, self._triggers(kind))
            if kind == "crm":
                until(lambda: self._sandbox.counters().total > 2 * distinct(self._waiters), "there was no first round")
            self._wait(run, triggerer)
            self._happen(kind)
            self._end(run, triggerer)
        return run

    def _run_killed(self, run: Run, kind: str) -> Run:
        """A run with two triggerers, of which one is killed when all are waiting."""
        with self._triggerer() as survivor, self._triggerer(is_second=True) as victim:
            self._load(run, survivor, self._triggers(kind))
            newest = "(SELECT max(id) FROM job WHERE job_type = 'TriggererJob')"
            run.taken_over = scalar(f"SELECT count(*) FROM trigger WHERE triggerer_id = {newest}")
            victim.stop()
            self._happen(kind)
            self._end(run, survivor)
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

    def _happen(self, kind: str) -> None:
        if kind == "crm":
            happen(self._sandbox)
        else:
            self._file.touch()

    def _triggers(self, kind: str) -> list[Spec]:
        self._file.unlink(missing_ok=True)
        if kind == "core":
            return [core_trigger(self._file, self._interval)] * self._waiters
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
        print("waiting:", run, flush=True)

    def _end(self, run: Run, triggerer: Triggerer) -> None:
        cpu = triggerer.cpu()
        run.ending = until(lambda: sum(ends()) >= self._waiters, "not all waits ended")
        run.ending_cpu = triggerer.cpu() - cpu
        time.sleep(2.0)  # time for a possible second end
        (run.ended_once, run.ended_twice), run.succeeded = ends(), successes()
        print(run, flush=True)

    def _reset(self) -> None:
        """Reset the CRM and remove the logs of earlier runs."""
        from airflow.utils.session import create_session
        from sqlalchemy import text

        with create_session() as session:
            session.execute(text("UPDATE task_instance SET state = 'success', trigger_id = NULL"))
            session.execute(text("DELETE FROM trigger"))
            session.execute(text("UPDATE job SET end_date = now(), state = 'failed' WHERE end_date IS NULL"))
        self._sandbox.reset(replace(self._sandbox.settings, seed=self._snapshot))
        self._logs_before = self._count_logs()

    def _running(self) -> int:
        """The number of started triggers: each has written a line to the log of its task."""
        if scalar("SELECT count(*) FROM trigger WHERE triggerer_id IS NULL"):
            return 0
        return self._count_logs() - self._logs_before

    @staticmethod
    def _count_logs() -> int:
        return sum(1 for _ in Path(os.environ["AIRFLOW_HOME"], "logs").rglob("*.trigger.*.log"))


def written(runs: dict[str, Run], waiters: int, interval: float) -> str:
    from airflow import __version__ as airflow_version

    core, crm, core_killed, crm_killed = (runs.get(name) for name in RUNS)
    head = [f"{waiters:,} deferred waits", "Airflow's `FileSensor`", "CRM sensors"]
    killed = "one of two triggerers killed: "
    rows: list[tuple[str, Callable[[Run], str], Run | None, Run | None]] = [
        ("until all triggers run", lambda run: f"{run.loading:.0f} s", core, crm),
        ("processor time for that", lambda run: f"{run.loading_cpu:.0f} s", core, crm),
        ("memory over an idle triggerer", lambda run: f"{run.megabytes:,.0f} MB", core, crm),
        (f"processor while all wait ({interval:g} s)", lambda run: f"{run.share:.1%}", core, crm),
        ("calls to the CRM while all wait", lambda run: f"{run.calls:.0f} a minute", core, crm),
        ("from the moment that all are due to the last event", lambda run: f"{run.ending:.0f} s", core, crm),
        ("processor time for that", lambda run: f"{run.ending_cpu:.0f} s", core, crm),
        ("ended exactly once, with success", lambda run: f"{run.succeeded:,}", core, crm),
        (f"{killed}waits of that one", lambda run: f"{run.taken_over:,}", core_killed, crm_killed),
        (f"{killed}all are due to the last event", lambda run: f"{run.ending:.0f} s", core_killed, crm_killed),
        (f"{killed}ended exactly once, with success", lambda run: f"{run.succeeded:,}", core_killed, crm_killed),
    ]
    table = [
        head,
        ["---"] * len(head),
        *([name, *(of(run) if run else "not measured" for run in pair)] for name, of, *pair in rows),
    ]
    lines = "\n".join(f"| {' | '.join(cells)} |" for cells in table)
    about = (
        f"Measured on {datetime.now(timezone.utc):%Y-%m-%d} with Airflow {airflow_version}, PostgreSQL, "
        f"Python {platform.python_version()}, {os.cpu_count()} cores; "
        f"`max_trigger_to_select_per_loop` is {waiters // AT_ONCE:,}. The CRM sensors wait for {LISTS} lists, "
        f"{distinct(waiters)} contacts and as many deals with a `poke_interval` of {interval:g} s, at 5 calls per "
        "second; a wait notices within an interval and a round. A triggerer that was killed (SIGKILL) counts as dead "
        f"after {DEAD_AFTER} s."
    )
    return f"{about}\n\n{lines}"


if __name__ == "__main__":
    sys.exit(main())
