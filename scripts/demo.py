"""Run DAGs on a real Airflow against the CRM sandbox and show how each task ended, and why.

The exit code is 0 only if every task ended as in :data:`EXPECTED`. Run it with ``make demo``.
"""

from __future__ import annotations

import argparse
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from airflow_api import AirflowApi, DagError
from airflow_client.client import ApiException
from airflow_client.client.exceptions import NotFoundException
from airflow_runs import Run, Task, exceptions_of
from airflow_stack import AirflowStack, AirflowStackError
from outcomes import Expected, Row, differences, table, why
from urllib3.exceptions import HTTPError

from crm_provider.sandbox import Counters, Sandbox

ROOT = Path(__file__).resolve().parents[1]
DEFAULT_DAGS = ("crm_lead_pipeline", "crm_loads")

EXPECTED: dict[str, dict[str, Expected]] = {
    "crm_lead_pipeline": {
        "read_leads": Expected("success"),
        "addresses": Expected("success"),
        "upsert_lead[0]": Expected("success", "^updated$", tries=1),
        "upsert_lead": Expected("success", "^created$", tries=1),
        "upsert_lead[3]": Expected("skipped", r"^INVALID_VALUE -> skip, by on_error\[CrmDataError\]", tries=1),
        "wait_for_list": Expected("success"),
        "add_to_list": Expected("success", "^added$", tries=1),
        "wait_for_members": Expected("success"),
        "retried_until_it_works": Expected("success", "^created, after CrmServiceUnavailableError$", tries=2),
        "create_deal": Expected("success", "^created$"),
        "move_deal": Expected("success", "^moved$"),
        "skipped_by_default": Expected("skipped", "^CONTACT_ASSOCIATED_WITH_A_DEAL 409 -> skip", tries=1),
        "skipped_by_on_error": Expected("skipped", r"^DEAL_NOT_FOUND 404 -> skip, by on_error\[", tries=1),
        "failed_without_a_retry": Expected("failed", "^INVALID_INPUT 422 -> fail, by default", tries=1),
        "report": Expected("success"),
    },
    "crm_loads": {
        "load": Expected("success", "^7 rows: 2 created, 1 updated, 3 rejected, 1 suppressed$", tries=1),
        "resend": Expected("success", "^1 row: 1 created$", tries=1),
        "load_deals": Expected("success", "^2 rows: 1 updated, 1 rejected$", tries=1),
    },
}
"""The expected end of every task of a DAG. For other DAGs the state of the run decides."""

WITH_FOLDER = frozenset({"crm_load", "crm_loads"})
"""DAGs that are given a folder for their files: each demo has its own."""

NEWS = frozenset({"success", "failed", "skipped", "upstream_failed", "up_for_retry", "up_for_reschedule", "deferred"})


class Progress:
    """Prints lines of progress with the seconds since the start."""

    def __init__(self) -> None:
        self._start = time.monotonic()

    def say(self, line: str) -> None:
        print(f"{time.monotonic() - self._start:6.1f} s  {line}", flush=True)

    def task(self, task: Task) -> None:
        if task.state in NEWS:
            self.say(f"{task.name}: {task.state}" + (f" (try {task.try_number})" if task.try_number > 1 else ""))


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="make demo", description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--dag", metavar="ID", help=f"one DAG of example_dags/ ({', then '.join(DEFAULT_DAGS)})")
    parser.add_argument("--keep", action="store_true", help="keep Airflow running for inspection, until Ctrl-C")
    options = parser.parse_args(arguments)
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))  # stops Airflow, too
    try:
        return demo([options.dag] if options.dag else DEFAULT_DAGS, keep=options.keep)
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    except AirflowStackError as error:
        print(error, file=sys.stderr)
        return 1


def demo(dag_ids: Sequence[str], *, keep: bool) -> int:
    progress, problems, runs = Progress(), [], []
    with Sandbox(seed="demo") as sandbox:
        env = {"AIRFLOW_CONN_CRM_DEFAULT": sandbox.connection_json()}
        stack = AirflowStack(ROOT / "example_dags", env=env, report=progress.say)
        progress.say(f"starting Airflow with home {stack.home}; the CRM sandbox is at {sandbox.url}")
        with stack:
            for dag_id in dag_ids:
                progress.say(f"running {dag_id}")
                conf = {"folder": str(stack.home / "loads")} if dag_id in WITH_FOLDER else None
                try:
                    run = stack.api.run_dag(dag_id, conf, on_change=progress.task)
                    rows = [row_of(stack.api, run, task) for task in run.tasks]
                except (ApiException, DagError, HTTPError, TimeoutError) as error:
                    # The text of the client's own error is the whole response.
                    problems.append(f"the run of {dag_id} was not followed: {getattr(error, 'reason', None) or error}")
                    continue
                print(f"\n{table(rows)}\n", flush=True)
                runs.append(run)
                problems += judge(run, rows)
            print(f"{figures(sandbox.counters())}\nTask logs: {stack.logs}\n")
            if keep:
                print("\n".join([*problems, *addresses(stack.url, runs)]), flush=True)
                wait_for_ctrl_c(stack)
            progress.say("stopping Airflow")
    print("\n".join(f"NOT AS EXPECTED  {problem}" for problem in problems) or "Every task ended as expected.")
    progress.say("done")
    return 1 if problems else 0


def addresses(url: str, runs: Sequence[Run]) -> list[str]:
    """Where there is something to see."""
    failed = [(run, task) for run in runs for task in run.tasks if task.state == "failed"]
    return [
        f"Airflow (no login):   {url}",
        f"The page CRM:         {url}/plugin/crm",
        f"Your DAGs:            {ROOT / 'example_dags'} (read again every few seconds)",
        *(f"A failed task's log:  {url}{task_path(run, task)}" for run, task in failed[:1]),
        f"The documents:        {ROOT / 'README.md'} and {ROOT / 'docs'} (`make docs` makes a site of them)",
    ]


def task_path(run: Run, task: Task) -> str:
    """The page of a task instance below Airflow's address."""
    instance = f"/mapped/{task.map_index}" if task.map_index >= 0 else ""
    return f"/dags/{run.dag_id}/runs/{run.run_id}/tasks/{task.task_id}{instance}?try_number={task.try_number}"


def row_of(api: AirflowApi, run: Run, task: Task) -> Row:
    earlier = [error_of_try(api, run, task, number) for number in range(1, task.try_number)]
    reason = why(task.state, api.xcoms(run, task), earlier)
    return Row(task.name, task.state or "none", task.try_number, reason)


def error_of_try(api: AirflowApi, run: Run, task: Task, try_number: int) -> str:
    """The class of the error that ended a try, from its log."""
    try:
        errors = [text for event in api.log_events(run, task, try_number) for text in exceptions_of(event)[:1]]
    except NotFoundException:
        return "a try that never started"
    return errors[-1].partition(":")[0] if errors else "no error in the log"


def figures(counters: Counters) -> str:
    return (
        f"The CRM received {counters.total} calls, at most {counters.highest_rate} in one second (the limit is 5, "
        f"with a burst of 2), and refused {counters.throttled} of them with 429."
    )


def judge(run: Run, rows: Sequence[Row]) -> list[str]:
    if run.dag_id in EXPECTED:
        return differences(rows, EXPECTED[run.dag_id])
    return [] if run.state == "success" else [f"the run of {run.dag_id} ended as {run.state}"]


def wait_for_ctrl_c(stack: AirflowStack) -> None:
    print("Press Ctrl-C to stop.", flush=True)
    try:
        while True:
            stack.check()
            time.sleep(1)
    except KeyboardInterrupt:
        print()


if __name__ == "__main__":
    sys.exit(main())
