"""An executor that runs each try of a task like KubernetesExecutor: in a pod with an empty disk, on another host.

A pod is a process group with its own home, temporary folder and ``AIRFLOW_HOME``, which are deleted when its process
ends. It runs the same command as KubernetesExecutor and cannot open Airflow's database. Only the logs are kept.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from airflow.executors.base_executor import BaseExecutor
from airflow.utils.state import TaskInstanceState

# Linux kills the process with the scheduler (PR_SET_PDEATHSIG), so that no process outlives a test.
LAUNCHER = """
import os, sys
if sys.platform == "linux":
    import ctypes, signal
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)
os.execv(sys.executable, [sys.executable, "-m", "airflow.sdk.execution_time.execute_workload", *sys.argv[1:]])
"""


def executor_env() -> dict[str, str]:
    """Environment variables of an Airflow with this executor."""
    here = str(Path(__file__).parent)
    return {"PYTHONPATH": here, "AIRFLOW__CORE__EXECUTOR": "pod_executor.PodExecutor"}


def hostname() -> str:
    """The host name of the pod, for Airflow."""
    return os.environ["POD_NAME"]


class Pod:
    """One try of a task.

    :param workload: the workload as JSON
    """

    def __init__(self, workload: str) -> None:
        name = f"pod-{uuid.uuid4().hex[:12]}"
        home = Path(os.environ["AIRFLOW_HOME"])
        self.disk = Path(tempfile.mkdtemp(prefix=f"{name}-", dir=home))
        folders = {part: self.disk / part for part in ("home", "tmp", "airflow")}
        for folder in folders.values():
            folder.mkdir()
        env = {
            **os.environ,
            "AIRFLOW_HOME": str(folders["airflow"]),
            "AIRFLOW_IS_K8S_EXECUTOR_POD": "True",
            "AIRFLOW__CORE__EXECUTOR": "LocalExecutor",  # like most pod templates
            "AIRFLOW__CORE__HOSTNAME_CALLABLE": "pod_executor.hostname",
            "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{self.disk}/none.db",
            "AIRFLOW__LOGGING__BASE_LOG_FOLDER": str(home / "logs"),
            "HOME": str(folders["home"]),
            "HOSTNAME": name,
            "POD_NAME": name,
            "TMPDIR": str(folders["tmp"]),
        }
        with (home / "components" / "pods.log").open("ab") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-c", LAUNCHER, "--json-string", workload],
                env=env,
                cwd=folders["home"],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def delete(self) -> None:
        """Kill the remaining processes and remove the disk."""
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        shutil.rmtree(self.disk, ignore_errors=True)


class PodExecutor(BaseExecutor):
    """Starts a pod for each task and deletes it afterwards."""

    def start(self) -> None:
        self.pods: dict[Any, Pod] = {}

    def _process_workloads(self, workload_items: Sequence[Any]) -> None:
        for workload in workload_items:
            del self.queued_tasks[workload.key]
            self.pods[workload.key] = Pod(workload.model_dump_json())
            self.running.add(workload.key)

    def sync(self) -> None:
        for key, pod in list(self.pods.items()):
            code = pod.process.poll()
            if code is not None:
                pod.delete()
                del self.pods[key]
                self.change_state(key, TaskInstanceState.FAILED if code else TaskInstanceState.SUCCESS)

    def end(self) -> None:
        self.terminate()

    def terminate(self) -> None:
        for pod in self.pods.values():
            pod.delete()
        self.pods.clear()
