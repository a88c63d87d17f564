"""Cost of parsing a DAG file: time and memory over ``airflow.sdk``, compared with official providers.

    python tests/benchmarks/bench_imports.py [--runs 11] [--write docs/performance.md]

Each line is a DAG file with operators and sensors. A process runs it after a file with Airflow's base classes only,
and the difference counts. The files take turns, so that other work on the machine affects all of them, and the
medians are compared. For the same reason the time is processor time.

With ``--write`` the table replaces the text between ``<!-- imports:begin -->`` and ``<!-- imports:end -->``.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import platform
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from statistics import median

AIRFLOW_ITSELF = """
from airflow.sdk import DAG, BaseOperator, BaseSensorOperator

class Operator(BaseOperator):
    def __init__(self, *, number=1, **kwargs):
        super().__init__(**kwargs)

class Sensor(BaseSensorOperator):
    def __init__(self, *, number=1, **kwargs):
        super().__init__(**kwargs)

with DAG("base"):
    Operator(task_id="operator") >> Sensor(task_id="sensor")
"""

FILES: Mapping[str, tuple[str, str]] = {
    "this provider: a contact and a deal": (
        "airflow-provider-crm",
        """
from airflow.sdk import DAG
from crm_provider.operators.contacts import CrmUpsertContactOperator
from crm_provider.sensors.deals import CrmDealStageSensor

with DAG("measured"):
    CrmUpsertContactOperator(task_id="write", contact_email="ada@example.com") >> CrmDealStageSensor(
        task_id="wait", deal_id="{{ params.deal }}", stage_ids="{{ params.stage }}", deferrable=True
    )
""",
    ),
    "this provider: a load and a list": (
        "airflow-provider-crm",
        """
from airflow.sdk import DAG
from crm_provider.operators.load import CrmLoadContactsOperator
from crm_provider.sensors.lists import CrmListSensor

with DAG("measured"):
    CrmListSensor(task_id="wait", list_name="Newsletter", deferrable=True) >> CrmLoadContactsOperator(
        task_id="load", source="/data/leads.csv", mapping={"email": "E-mail"}, rejects_path="/data/rejects.jsonl"
    )
""",
    ),
    "this provider: all of it": (
        "airflow-provider-crm",
        """
from airflow.sdk import DAG
from crm_provider.operators.automations import CrmTriggerAutomationOperator
from crm_provider.operators.contacts import CrmDeleteContactOperator, CrmUpsertContactOperator, CrmVerifyEmailOperator
from crm_provider.operators.deals import CrmCreateDealOperator, CrmMoveDealStageOperator
from crm_provider.operators.extract import CrmExtractContactsOperator
from crm_provider.operators.lists import CrmAddContactToListsOperator
from crm_provider.operators.load import CrmLoadContactsOperator, CrmRetryRejectsOperator
from crm_provider.sensors.contacts import CrmContactSensor
from crm_provider.sensors.deals import CrmDealStageSensor
from crm_provider.sensors.lists import CrmListMembershipSensor, CrmListSensor
from crm_provider.transfers.sql_to_crm import SqlToCrmContactsOperator

with DAG("measured"):
    CrmUpsertContactOperator(task_id="write", contact_email="ada@example.com")
    CrmExtractContactsOperator(task_id="extract", target="/data/contacts.csv")
    CrmDealStageSensor(task_id="wait", deal_id="{{ params.deal }}", stage_ids="{{ params.stage }}", deferrable=True)
    CrmLoadContactsOperator(
        task_id="load", source="/data/leads.csv", mapping={"email": "E-mail"}, rejects_path="/data/rejects.jsonl"
    )
    SqlToCrmContactsOperator(task_id="transfer", sql="SELECT email FROM people", sql_conn_id="database")
""",
    ),
    "http: a call and a sensor": (
        "apache-airflow-providers-http",
        """
from airflow.sdk import DAG
from airflow.providers.http.operators.http import HttpOperator
from airflow.providers.http.sensors.http import HttpSensor

with DAG("measured"):
    HttpOperator(task_id="write", endpoint="contacts") >> HttpSensor(task_id="wait", endpoint="deals", deferrable=True)
""",
    ),
    "slack: a message and a webhook": (
        "apache-airflow-providers-slack",
        """
from airflow.sdk import DAG
from airflow.providers.slack.operators.slack import SlackAPIPostOperator
from airflow.providers.slack.operators.slack_webhook import SlackWebhookOperator

with DAG("measured"):
    SlackAPIPostOperator(task_id="post", text="done") >> SlackWebhookOperator(
        task_id="hook", slack_webhook_conn_id="slack", message="done"
    )
""",
    ),
    "dbt-cloud: a job and a sensor": (
        "apache-airflow-providers-dbt-cloud",
        """
from airflow.sdk import DAG
from airflow.providers.dbt.cloud.operators.dbt import DbtCloudRunJobOperator
from airflow.providers.dbt.cloud.sensors.dbt import DbtCloudJobRunSensor

with DAG("measured"):
    DbtCloudRunJobOperator(task_id="run", job_id=1) >> DbtCloudJobRunSensor(task_id="wait", run_id=1, deferrable=True)
""",
    ),
}
"""DAG file -> its package and its text."""

MARKS = re.compile(r"(<!-- imports:begin -->\n).*?(<!-- imports:end -->)", re.DOTALL)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--runs", type=int, default=11, help="processes for each file (default: %(default)s)")
    parser.add_argument("--write", type=Path, help="a document with the marks")
    parser.add_argument("--child", metavar="FILE", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child is not None:
        print(json.dumps(cost_of(FILES[options.child][1])))
        return
    text = report(measured(options.runs), options.runs)
    print(text)
    if options.write:
        found = options.write.read_text(encoding="utf-8")
        options.write.write_text(MARKS.sub(lambda m: f"{m[1]}\n{text}\n\n{m[2]}", found), encoding="utf-8")


def cost_of(text: str) -> tuple[float, float]:
    """Milliseconds and megabytes of a DAG file over one with Airflow's base classes."""
    exec(AIRFLOW_ITSELF, {"__name__": "base"})
    gc.collect()
    memory, start = megabytes(), time.process_time()
    exec(text, {"__name__": "measured"})
    return 1000 * (time.process_time() - start), megabytes() - memory


def megabytes() -> float:
    """The current memory of this process in megabytes."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1024**2


def measured(runs: int) -> dict[str, tuple[float, float]]:
    """The medians of each file."""
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in FILES}
    with tempfile.TemporaryDirectory() as home:
        for name in FILES:  # the first run writes byte code and warms the disk's cache
            run_child(name, home)
        for _ in range(runs):
            for name in FILES:
                found[name].append(run_child(name, home))
    return {name: (median(ms for ms, _ in costs), median(mb for _, mb in costs)) for name, costs in found.items()}


def run_child(name: str, home: str) -> tuple[float, float]:
    env = {**os.environ, "AIRFLOW_HOME": home, "AIRFLOW__CORE__LOAD_EXAMPLES": "False"}
    command = [sys.executable, __file__, "--child", name]
    done = subprocess.run(command, env=env, stdout=subprocess.PIPE, text=True, check=True)
    ms, mb = json.loads(done.stdout.splitlines()[-1])
    return ms, mb


def report(found: Mapping[str, tuple[float, float]], runs: int) -> str:
    head = ["DAG file", "Version", "Time", "Memory"]
    lines = [[name, version(FILES[name][0]), f"{ms:.0f} ms", f"{mb:.1f} MB"] for name, (ms, mb) in found.items()]
    table = "\n".join(f"| {' | '.join(cells)} |" for cells in [head, ["---"] * len(head), *lines])
    return (
        f"What a DAG file adds to one with Airflow's own base classes; medians of {runs} processes each "
        f"({time.strftime('%Y-%m-%d')}, Airflow {version('apache-airflow')}, Python {platform.python_version()}, "
        f"{platform.machine()}):\n\n{table}"
    )


if __name__ == "__main__":
    main()
