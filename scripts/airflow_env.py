"""The environment of the Airflow that the demo and the system tests start."""

from __future__ import annotations

import os
import secrets
import socket
import sys
from base64 import urlsafe_b64encode
from pathlib import Path


def base_env(home: Path, dags_folder: Path, port: int, python: str) -> dict[str, str]:
    """The environment of every component: only connections of the caller's Airflow, loopback, short intervals."""
    unwanted = ("AIRFLOW_", "_AIRFLOW_", "PYTHONDONTWRITEBYTECODE", "PYTHONPATH", "PYTHONHOME")
    env = {n: v for n, v in os.environ.items() if n.startswith("AIRFLOW_CONN_") or not n.startswith(unwanted)}
    # Airflow finds its own `airflow` command in PATH.
    env["PATH"] = os.pathsep.join([str(Path(python).parent), env.get("PATH", os.defpath)])
    env["NO_PROXY"] = env["no_proxy"] = ",".join(filter(None, [env.get("NO_PROXY"), "127.0.0.1", "localhost"]))
    return {
        **env,
        # Set for every command: without it even `airflow version` creates ~/airflow.
        "AIRFLOW_HOME": str(home),
        "AIRFLOW__API_AUTH__JWT_SECRET": secrets.token_hex(32),
        "AIRFLOW__API__BASE_URL": f"http://127.0.0.1:{port}",
        "AIRFLOW__API__HOST": "127.0.0.1",
        "AIRFLOW__API__PORT": str(port),
        "AIRFLOW__API__SECRET_KEY": secrets.token_hex(16),
        "AIRFLOW__API__WORKERS": "1",
        # Airflow's default timeouts, here and for the dag-processor below, are too short for a slow test machine.
        "AIRFLOW__CORE__DAGBAG_IMPORT_TIMEOUT": "120",
        "AIRFLOW__CORE__DAGS_FOLDER": str(dags_folder),
        "AIRFLOW__CORE__EXECUTION_API_SERVER_URL": f"http://127.0.0.1:{port}/execution/",
        "AIRFLOW__CORE__EXECUTOR": "LocalExecutor",
        "AIRFLOW__CORE__FERNET_KEY": urlsafe_b64encode(secrets.token_bytes(32)).decode(),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__CORE__PARALLELISM": "4",
        "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_ALL_ADMINS": "True",
        "AIRFLOW__CORE__TEST_CONNECTION": "Enabled",
        "AIRFLOW__DAG_PROCESSOR__DAG_FILE_PROCESSOR_TIMEOUT": "150",
        "AIRFLOW__DAG_PROCESSOR__MIN_FILE_PROCESS_INTERVAL": "5",
        "AIRFLOW__DAG_PROCESSOR__REFRESH_INTERVAL": "10",
        # Seconds that a process waits for another writer before it fails with "database is locked" (default 5).
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{home}/airflow.db?timeout=60",
        "AIRFLOW__SCHEDULER__ENABLE_HEALTH_CHECK": "False",
        "AIRFLOW__SCHEDULER__SCHEDULER_HEARTBEAT_SEC": "2",
        "AIRFLOW__SCHEDULER__SCHEDULER_IDLE_SLEEP_TIME": "0.5",
        "AIRFLOW__TRIGGERER__JOB_HEARTBEAT_SEC": "1",
        # The start of a task is such a request: if it takes longer (default 5), the try ends without a log.
        "AIRFLOW__WORKERS__EXECUTION_API_TIMEOUT": "60",
        # Seconds until the end of a task is noticed (default 5, longer than a short task takes).
        "AIRFLOW__WORKERS__MIN_HEARTBEAT_INTERVAL": "1",
        "AIRFLOW__USAGE_DATA_COLLECTION__ENABLED": "False",
    }


class ReservedPort:
    """A free port of this machine, reserved until it is released (on Linux).

    A server with SO_REUSEADDR, which nearly all set, can still listen on it and restart there. Without a server,
    connections are refused.
    """

    def __init__(self) -> None:
        self._held = socket.socket()
        self._held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._held.bind(("127.0.0.1", 0))
        self.number: int = self._held.getsockname()[1]
        if sys.platform != "linux":  # elsewhere the reservation would also block the server
            self.release()

    def release(self) -> None:
        self._held.close()
