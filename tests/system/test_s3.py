"""Loads with source, rejects, state and checkpoint in S3 through the Amazon provider. One of them is killed."""

from __future__ import annotations

import json
import os
import signal
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import pytest
from airflow.sdk import DAG
from airflow_stack import AirflowStack
from s3_server import SECRET, S3Server
from sql_servers import PostgresServer

from crm_provider.operators.load import CrmLoadContactsOperator
from crm_provider.sandbox import Sandbox

pytest.importorskip("airflow.providers.amazon", reason="the extra 'servers' is not installed")
pytestmark = pytest.mark.crm_sandbox(seed="empty", rate=None)

CSV = b"email,name\na@example.com,Ana\nno address,Bob\nc@example.com,Caio\n"

RunTask = Callable[..., Any]


@pytest.fixture
def run_task(run_dag: Callable[..., Any], s3: S3Server, crm_quick: Sandbox, monkeypatch: pytest.MonkeyPatch) -> RunTask:
    """Run one load with the S3 server as connection ``aws``."""
    monkeypatch.setenv("AIRFLOW_CONN_AWS", s3.connection_json())

    def run(**arguments: Any) -> Any:
        with DAG("s3", schedule=None, default_args={"retry_delay": timedelta(0)}) as dag:
            CrmLoadContactsOperator(task_id="load", **arguments)
        return run_dag(dag)["load"]

    return run


def test_load_with_all_files_in_s3(s3: S3Server, run_task: RunTask, crm_sandbox: Sandbox) -> None:
    bucket = s3.new_bucket()
    s3.write(bucket, "in/monday.csv", CSV)
    s3.write(bucket, "in/tuesday.csv", b"email,name\nd@example.com,Dora\n")
    paths = {"rejects_path": "rejects.jsonl", "state_path": "state.gz", "report_path": "report.md"}
    arguments = {name: f"s3://aws@{bucket}/out/{key}" for name, key in paths.items()}
    for created, unchanged in ((3, 0), (0, 3)):
        calls = len(crm_sandbox.journal())
        end = run_task(source=f"s3://aws@{bucket}/in/*.csv", max_rejects=1, **arguments)
        assert end.states == ["success"]
        assert (end.result["created"], end.result["unchanged"], end.result["rejected"]) == (created, unchanged, 1)
        assert (len(crm_sandbox.journal()) > calls) == bool(created), "the second run skips the rows in the state"
    assert sorted(s3.keys(bucket)) == [
        "in/monday.csv", "in/tuesday.csv", "out/rejects.jsonl", "out/report.md", "out/state.gz",
    ]  # fmt: skip
    (line,) = s3.read(bucket, "out/rejects.jsonl").decode().splitlines()
    assert json.loads(line)["values"] == {"email": "no address", "name": "Bob"}
    assert crm_sandbox.store.contacts["d@example.com"].attributes == {"name": "Dora"}
    assert SECRET not in end.log


@pytest.mark.parametrize("argument", ["source", "rejects_path", "state_path", "checkpoint_path"])
def test_missing_bucket_is_reported_before_the_first_call(
    argument: str, s3: S3Server, run_task: RunTask, crm_sandbox: Sandbox
) -> None:
    bucket = s3.new_bucket()
    s3.write(bucket, "in.csv", CSV)
    arguments = {"source": f"s3://aws@{bucket}/in.csv", argument: "s3://aws@no-such-bucket-of-ours/file.csv"}
    end = run_task(max_rejects=1, **arguments)
    assert end.state == "failed"
    assert "no-such-bucket-of-ours" in str(end.error)
    assert not crm_sandbox.journal()


# -- killed

ROWS, RATE = 240, 10
BAD = 100
"""The number of a row that cannot be sent."""

DAG_FILE = """
from datetime import timedelta

from airflow.sdk import DAG

from crm_provider.operators.load import CrmLoadContactsOperator
from crm_provider.transfers.sql_to_crm import SqlToCrmContactsOperator

paths = {
    name: "s3://aws@BUCKET/{{ task.task_id }}/" + key
    for name, key in {"rejects_path": "rejects.jsonl", "state_path": "state", "checkpoint_path": "checkpoint"}.items()
}
arguments = {"retries": 2, "retry_delay": timedelta(seconds=1), "max_rejects": 1}
with DAG("killed_s3", schedule=None, default_args=arguments):
    CrmLoadContactsOperator(task_id="csv", crm_conn_id="csv", source="s3://aws@BUCKET/in.csv", **paths)
    SqlToCrmContactsOperator(
        task_id="sql", crm_conn_id="sql", sql="SELECT email, name FROM killed ORDER BY id", sql_conn_id="db", **paths
    )
"""


@pytest.fixture
def crms() -> Iterator[dict[str, Sandbox]]:
    """A CRM for each task. A load saves a checkpoint in an object store every 15 seconds."""
    with Sandbox(seed="empty", rate=RATE) as csv, Sandbox(seed="empty", rate=RATE) as sql:
        yield {"csv": csv, "sql": sql}


def done(s3: S3Server, bucket: str, name: str) -> int:
    """The finished rows in the checkpoint of a task."""
    key = f"{name}/checkpoint"
    return int(json.loads(s3.read(bucket, key))["done_upto"]) if key in s3.keys(bucket) else 0


def test_killed_load_continues_from_its_checkpoint_in_s3(
    s3: S3Server, postgres: PostgresServer, crms: dict[str, Sandbox], airflow_stack: Any, tmp_path: Any
) -> None:
    bucket = s3.new_bucket()
    rows = [("" if n == BAD else f"row-{n}@example.com", f"name {n}") for n in range(1, ROWS + 1)]
    s3.write(bucket, "in.csv", "\n".join(["email,name", *map(",".join, rows)]).encode())
    values = ", ".join(f"({n}, '{email}', '{name}')" for n, (email, name) in enumerate(rows))
    postgres.execute("CREATE TABLE killed (id int, email text, name text)", f"INSERT INTO killed VALUES {values}")
    (tmp_path / "killed_s3.py").write_text(DAG_FILE.replace("BUCKET", bucket))
    environment = {
        **{f"AIRFLOW_CONN_{name.upper()}": crm.connection_json(requests_per_second=RATE) for name, crm in crms.items()},
        "AIRFLOW_CONN_AWS": s3.connection_json(), "AIRFLOW_CONN_DB": postgres.connection_json(),
    }  # fmt: skip
    stack: AirflowStack = airflow_stack(tmp_path, env=environment)
    stack.api.wait_for_dag("killed_s3")
    run_id = stack.api.trigger("killed_s3")
    unsaved: dict[str, int] = {}

    def all_killed() -> bool:
        for name in sorted(set(crms) - set(unsaved)):  # in any order: the other one may end first
            if done(s3, bucket, name) > 0:
                os.kill(stack.api.run("killed_s3", run_id)[name].pid, signal.SIGKILL)
                unsaved[name] = crms[name].counters().total - done(s3, bucket, name)
        return len(unsaved) == len(crms)

    stack.until(all_killed, timeout=300, every=0.5)
    run = stack.api.wait("killed_s3", run_id, timeout=300)
    for name, crm in crms.items():
        assert (run[name].state, run[name].try_number) == ("success", 2), stack.api.log(run, run[name])
        result = stack.api.xcoms(run, run[name])["return_value"]
        assert result["resumed_at"] > 0
        assert (result["rows"], result["rejected"], result["left"]) == (ROWS, 1, 0)
        found = {email: contact.attributes["name"] for email, contact in crm.store.contacts.items()}
        assert found == {email: text for email, text in rows if email}
        sent = Counter(call.email for call in crm.journal() if call.applied)
        assert sum(count - 1 for count in sent.values()) <= unsaved[name] + 16, "16 rows may have been in flight"
        (line,) = s3.read(bucket, f"{name}/rejects.jsonl").decode().splitlines()
        assert json.loads(line)["row"] == BAD
        assert "row-" not in stack.api.log(run, run[name])
    assert {f"{name}/state" for name in crms} <= set(s3.keys(bucket))
    stack.stop()
