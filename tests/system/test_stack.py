"""The Airflow of the system tests: tasks reach their final states, and no process is left."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from airflow_stack import AirflowStack

DAG_FILE = """
from datetime import datetime, timedelta, timezone

from airflow.sdk import DAG, get_current_context, task

from crm_provider._compat import AirflowSkipException

with DAG("ends", schedule=None):

    @task
    def succeeds():
        return {"conf": get_current_context()["dag_run"].conf}

    @task
    def skips():
        raise AirflowSkipException("nothing to do")

    @task(retries=1, retry_delay=timedelta(seconds=1))
    def tries_twice():
        if get_current_context()["ti"].try_number == 1:
            raise ValueError("not yet")

    @task
    def fails():
        raise ValueError("wrong")

    @task
    def each(number):
        return number * 2

    succeeds() >> [skips(), tries_twice(), fails(), each.expand(number=[1, 2])]
"""


@pytest.fixture(scope="module")
def stack(airflow_stack: Callable[..., AirflowStack], tmp_path_factory: pytest.TempPathFactory) -> AirflowStack:
    folder = tmp_path_factory.mktemp("dags")
    (folder / "ends.py").write_text(DAG_FILE)
    return airflow_stack(folder)


def test_tasks_reach_each_final_state(stack: AirflowStack) -> None:
    run = stack.api.run_dag("ends", {"limit": 3})
    assert run.state == "failed"
    assert run.states() == {
        "succeeds": "success",
        "skips": "skipped",
        "tries_twice": "success",
        "fails": "failed",
        "each[0]": "success",
        "each[1]": "success",
    }
    assert stack.api.xcoms(run, run["succeeds"]) == {"return_value": {"conf": {"limit": 3}}}
    assert stack.api.xcoms(run, run["each[1]"]) == {"return_value": 4}
    assert [task.try_number for task in stack.api.tries(run, run["tries_twice"])] == [1, 2]
    assert "ValueError: not yet" in stack.api.log(run, run["tries_twice"], 1)
    assert "ValueError: wrong" in stack.api.log(run, run["fails"])


def test_airflow_listens_on_loopback_only(stack: AirflowStack) -> None:
    if not Path("/proc/net/tcp").exists():
        pytest.skip("needs Linux's /proc")
    running = [part.process.pid for part in stack.components.values() if part.running]
    pids = {*running, *(child.pid for leader in running for child in psutil.Process(leader).children(recursive=True))}
    addresses = {address for pid in pids for address in listening(pid)}
    assert addresses == {"127.0.0.1"}


def listening(pid: int) -> list[str]:
    """Addresses that a process listens on: IPv4, or IPv6 in the form of /proc."""
    inodes = {link[8:-1] for link in open_files(pid) if link.startswith("socket:[")}
    found = []
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/self/net/{table}").read_text().splitlines()[1:]:
            cells = line.split()
            if cells[3] == "0A" and cells[9] in inodes:  # 0A: listening
                address = cells[1].partition(":")[0]
                found.append(
                    ".".join(str(byte) for byte in bytes.fromhex(address)[::-1]) if table == "tcp" else address
                )
    return found


def open_files(pid: int) -> Iterator[str]:
    """Open files of a process, which may end or close some of them meanwhile."""
    with contextlib.suppress(OSError):
        for link in Path(f"/proc/{pid}/fd").iterdir():
            with contextlib.suppress(OSError):
                yield str(link.readlink())


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux signals the death of a parent")
def test_airflow_ends_with_its_parent_process(tmp_path: Path) -> None:
    program = (
        "import pathlib, sys, time; from airflow_stack import AirflowStack; "
        "stack = AirflowStack(pathlib.Path(sys.argv[1]), home=pathlib.Path(sys.argv[1])); "
        "stack.airflow('db', 'migrate'); part = stack.spawn('triggerer', 'triggerer', '--skip-serve-logs'); "
        "print(part.process.pid, flush=True); time.sleep(600)"
    )
    scripts = Path(__file__).resolve().parents[2] / "scripts"
    env = {**os.environ, "PYTHONPATH": str(scripts)}
    parent = subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path)], env=env, stdout=subprocess.PIPE, text=True
    )
    with parent:
        assert parent.stdout
        pid = int(parent.stdout.readline())
        time.sleep(0.5)
        parent.kill()
    deadline = time.monotonic() + 120
    while Path(f"/proc/{pid}").exists():
        assert time.monotonic() < deadline, "Airflow outlives the process that started it"
        time.sleep(0.2)
