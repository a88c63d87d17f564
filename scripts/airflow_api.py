"""Calls to a real Airflow for the demo and the system tests: the official client, and waiting for runs.

Works against Airflow 3.1 and newer with the simple auth manager in all-admins mode (see :mod:`airflow_stack`).
"""

from __future__ import annotations

import json
import time
import urllib.parse
from collections.abc import Callable
from typing import Any, TypeVar

from airflow_client.client import ApiClient, ApiException, Configuration
from airflow_client.client.api.dag_api import DAGApi
from airflow_client.client.api.dag_run_api import DagRunApi
from airflow_client.client.api.import_error_api import ImportErrorApi
from airflow_client.client.api.monitor_api import MonitorApi
from airflow_client.client.api.task_instance_api import TaskInstanceApi
from airflow_client.client.api.x_com_api import XComApi
from airflow_client.client.exceptions import NotFoundException
from airflow_client.client.models.dag_patch_body import DAGPatchBody
from airflow_client.client.models.trigger_dag_run_post_body import TriggerDAGRunPostBody
from airflow_runs import Run, Task, decode_xcom, in_order, log_line

T = TypeVar("T")

POLL_SECONDS = 0.3
IMPORT_ERROR_PATIENCE = 10.0  # seconds: the broken file may be another one
PAGE_SIZE = 100  # Airflow's own upper limit ([api] maximum_page_limit)
LIMITS = {"_request_timeout": 120.0}  # seconds; the client has no limit by default


class DagError(Exception):
    """The DAG does not exist. The message has the import errors, if there are any."""


class AirflowApi:
    """Client of one api-server.

    :param url: base URL, without a path
    :param check: called between two polls of every wait; raises if further waiting is useless (a component died)
    """

    def __init__(self, url: str, *, check: Callable[[], None] = lambda: None) -> None:
        self.url = url
        self._check = check
        self._configuration = Configuration(host=url)
        self._configuration.proxy = None  # the server is on loopback: a proxy must not see these calls
        self._client = ApiClient(self._configuration)

    @property
    def token(self) -> str:
        """The access token of the calls; by default one of an administrator."""
        if not self._configuration.access_token:
            self.token = self.request("GET", "/auth/token", authenticated=False)["access_token"]
        return str(self._configuration.access_token)

    @token.setter
    def token(self, token: str) -> None:
        self._configuration.access_token = token

    def _as_user(self, api: Callable[[ApiClient], T]) -> T:
        """Part of the client, with authentication."""
        return api(self._client if self.token else None)

    def request(self, method: str, path: str, body: object = None, *, authenticated: bool = True) -> Any:
        """Send a call by its path, and return the decoded JSON (None for an empty response).

        :raises ApiException: the api-server responded with an error
        """
        headers = {"Content-Type": "application/json", "Accept": "application/json"}
        if authenticated:
            headers["Authorization"] = f"Bearer {self.token}"
        response = self._client.call_api(method, self.url + path, headers, body, **LIMITS)
        text = (response.read() or b"").decode(errors="replace")
        if not 200 <= response.status <= 299:
            raise ApiException.from_response(http_resp=response, body=text, data=None)
        return json.loads(text) if text else None

    def healthy(self) -> bool:
        """Whether database, scheduler, dag-processor and triggerer are healthy."""
        parts = MonitorApi(self._client).get_health(**LIMITS).to_dict().values()
        return all(part and part["status"] == "healthy" for part in parts)

    # -- DAGs and runs

    def import_errors(self) -> list[str]:
        """The DAG files with import errors, and their tracebacks."""
        found = self._as_user(ImportErrorApi).get_import_errors(limit=PAGE_SIZE, **LIMITS).import_errors
        return [f"{item.filename}:\n{item.stack_trace}" for item in found]

    def wait_for_dag(self, dag_id: str, timeout: float = 180) -> None:
        """Wait until the DAG is parsed. The wait is short if there are import errors.

        :raises DagError: the DAG was not parsed in time
        """
        deadline = time.monotonic() + timeout
        errors: list[str] = []
        while not self._has_dag(dag_id):
            self._check()
            if time.monotonic() > deadline:
                reason = "\n".join(errors) or "Is its file in the DAGs folder?"
                raise DagError(f"There is no DAG {dag_id} after {timeout:g} s. {reason}")
            if not errors and (errors := self.import_errors()):
                timeout = min(timeout, IMPORT_ERROR_PATIENCE)
                deadline = min(deadline, time.monotonic() + timeout)
            time.sleep(POLL_SECONDS)

    def _has_dag(self, dag_id: str) -> bool:
        try:
            self._as_user(DAGApi).get_dag(dag_id, **LIMITS)
        except NotFoundException:
            return False
        return True

    def trigger(self, dag_id: str, conf: dict[str, Any] | None = None) -> str:
        """Unpause the DAG, start a run and return its run id."""
        self._as_user(DAGApi).patch_dag(dag_id, DAGPatchBody(is_paused=False), **LIMITS)
        body = TriggerDAGRunPostBody(logical_date=None, conf=conf or {})
        return str(self._as_user(DagRunApi).trigger_dag_run(dag_id, body, **LIMITS).dag_run_id)

    def run(self, dag_id: str, run_id: str) -> Run:
        """The current state of the run."""
        state = self._as_user(DagRunApi).get_dag_run(dag_id, run_id, **LIMITS).state
        instances: list[Any] = []
        total = 1
        while len(instances) < total:
            page = self._as_user(TaskInstanceApi).get_task_instances(
                dag_id, run_id, limit=PAGE_SIZE, offset=len(instances), **LIMITS
            )
            instances += page.task_instances
            total = page.total_entries
        return Run(dag_id, run_id, str(state.value), in_order(map(Task.of, instances)))

    def wait(
        self,
        dag_id: str,
        run_id: str,
        *,
        until: Callable[[Run], bool] = lambda run: run.finished,
        timeout: float = 300,
        on_change: Callable[[Task], None] | None = None,
    ) -> Run:
        """Wait until the run is finished (or ``until`` holds) and return it.

        :param on_change: called for each task whose state or try number has changed
        """
        deadline = time.monotonic() + timeout
        seen: dict[str, tuple[str | None, int]] = {}
        while True:
            self._check()
            run = self.run(dag_id, run_id)
            for task in run.tasks:
                if seen.get(task.name, (None, 0)) != (task.state, task.try_number):
                    seen[task.name] = (task.state, task.try_number)
                    if on_change:
                        on_change(task)
            if until(run):
                return run
            if time.monotonic() > deadline:
                raise TimeoutError(f"{dag_id} is {run.state!r} after {timeout:g} s: {run.states()}")
            time.sleep(POLL_SECONDS)

    def run_dag(
        self,
        dag_id: str,
        conf: dict[str, Any] | None = None,
        *,
        timeout: float = 300,
        on_change: Callable[[Task], None] | None = None,
    ) -> Run:
        """Start a run and wait for its end. A failed run is returned, not raised."""
        self.wait_for_dag(dag_id)
        return self.wait(dag_id, self.trigger(dag_id, conf), timeout=timeout, on_change=on_change)

    # -- results of a task

    def tries(self, run: Run, task: Task) -> list[Task]:
        """Every try of a task, the oldest first; a try that was retried reads "failed" or "up_for_retry"."""
        instances, where = self._as_user(TaskInstanceApi), (run.dag_id, run.run_id, task.task_id)
        if task.map_index < 0:
            answer = instances.get_task_instance_tries(*where, **LIMITS)
        else:
            answer = instances.get_mapped_task_instance_tries(*where, task.map_index, **LIMITS)
        return sorted(map(Task.of, answer.task_instances), key=lambda item: item.try_number)

    def xcoms(self, run: Run, task: Task) -> dict[str, Any]:
        """All XComs of a task, decoded."""
        xcoms = self._as_user(XComApi)
        entries = xcoms.get_xcom_entries(run.dag_id, run.run_id, task.task_id, limit=PAGE_SIZE, **LIMITS).xcom_entries
        keys = [entry.key for entry in entries if entry.map_index == task.map_index]
        where = (run.dag_id, task.task_id, run.run_id)
        found = {key: xcoms.get_xcom_entry(*where, key, map_index=task.map_index, **LIMITS) for key in keys}
        return {key: decode_xcom(entry.actual_instance.value) for key, entry in found.items()}

    def log(self, run: Run, task: Task, try_number: int | None = None) -> str:
        """The log of one try (default: the last) as text, exceptions included."""
        return "\n".join(map(log_line, self.log_events(run, task, try_number)))

    def log_events(self, run: Run, task: Task, try_number: int | None = None) -> list[dict[str, Any] | str]:
        """The log of one try as Airflow stores it: JSON events, or plain lines."""
        # The client's get_log keeps only text and time of an event, and drops the exception.
        path = f"{run_path(run.dag_id, run.run_id)}/taskInstances/{task.task_id}/logs/{try_number or task.try_number}"
        return list(self.request("GET", f"{path}?full_content=true&map_index={task.map_index}")["content"])


def run_path(dag_id: str, run_id: str) -> str:
    """The path of a run for :meth:`AirflowApi.request`."""
    return f"/api/v2/dags/{dag_id}/dagRuns/{urllib.parse.quote(run_id, safe='')}"
