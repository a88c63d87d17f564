"""Airflow's REST API v2 in the few calls that a demo and system tests need. Standard library only.

Works against Airflow 3.1 and newer with the simple auth manager in all-admins mode (see :mod:`airflow_stack`).
"""

from __future__ import annotations

import json
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from typing import Any

from airflow_runs import Health, Run, Task, decode_xcom, in_order, log_line

POLL_SECONDS = 0.3
IMPORT_ERROR_PATIENCE = 10.0  # seconds: the broken file need not be the one that is waited for
PAGE_SIZE = 100  # Airflow's own upper limit ([api] maximum_page_limit)


class ApiError(Exception):
    """The api-server answered, but not with success."""

    def __init__(self, method: str, path: str, status: int, body: str) -> None:
        super().__init__(f"{method} {path} answered {status}: {body[:1000]}")
        self.status = status


class DagError(Exception):
    """A DAG is not there; the text holds the import errors, if that is why."""


class AirflowApi:
    """Client of one api-server.

    :param url: base URL, without a path
    :param check: called between two polls of every wait; raises when waiting on makes no sense (a component died)
    """

    def __init__(self, url: str, *, check: Callable[[], None] = lambda: None) -> None:
        self.url = url
        self._check = check
        self._token: str | None = None
        # The server is on loopback: a proxy from the environment must not see these calls.
        self._opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))

    # -- one call

    def request(self, method: str, path: str, body: object = None, *, authenticated: bool = True) -> Any:
        """Send one call and return the decoded JSON (None for an empty answer). Raises :class:`ApiError`."""
        headers = {"Content-Type": "application/json", "Accept": "application/json"}
        if authenticated:
            headers["Authorization"] = f"Bearer {self._get_token()}"
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, data, headers, method=method)
        try:
            with self._opener.open(request, timeout=120) as response:
                answer = response.read()
        except urllib.error.HTTPError as error:
            with error:
                raise ApiError(method, path, error.code, error.read().decode(errors="replace")) from None
        except OSError:
            self._check()  # says more, if the api-server has died
            raise
        return json.loads(answer) if answer else None

    def _get_token(self) -> str:
        if self._token is None:
            self._token = str(self.request("GET", "/auth/token", authenticated=False)["access_token"])
        return self._token

    def _pages(self, path: str, key: str) -> Iterator[dict[str, Any]]:
        offset = 0
        while True:
            answer = self.request("GET", f"{path}?limit={PAGE_SIZE}&offset={offset}")
            yield from answer[key]
            offset += PAGE_SIZE
            if offset >= answer["total_entries"]:
                return

    def health(self) -> dict[str, Health]:
        """``metadatabase``, ``scheduler``, ``dag_processor`` and ``triggerer`` as the api-server sees them."""
        answer = self.request("GET", "/api/v2/monitor/health", authenticated=False)
        return {name: Health.from_json(name, part or {}) for name, part in answer.items()}

    def jobs(self, job_type: str) -> set[int]:
        """The ids of all ``SchedulerJob``, ``TriggererJob`` or ``DagProcessorJob``, dead ones too.

        Each start of a component is a new one, with a greater id. (Which of them are alive depends on the moment: a
        component that stands still looks dead, and one that was killed looks alive for a while.)
        """
        answer = self.request("GET", f"/api/v2/jobs?job_type={job_type}&limit={PAGE_SIZE}")
        return {job["id"] for job in answer["jobs"]}

    # -- DAGs and runs

    def import_errors(self) -> list[str]:
        items = self._pages("/api/v2/importErrors", "import_errors")
        return [f"{item['filename']}:\n{item['stack_trace']}" for item in items]

    def wait_for_dag(self, dag_id: str, timeout: float = 180) -> None:
        """Wait until the DAG is parsed; not for long if there are files that do not import.

        :raises DagError: it did not come
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
            self.request("GET", f"/api/v2/dags/{dag_id}")
        except ApiError as error:
            if error.status != 404:
                raise
            return False
        return True

    def trigger(self, dag_id: str, conf: dict[str, Any] | None = None) -> str:
        """Unpause the DAG, start a run and return its run id."""
        self.request("PATCH", f"/api/v2/dags/{dag_id}", {"is_paused": False})
        run = self.request("POST", f"/api/v2/dags/{dag_id}/dagRuns", {"logical_date": None, "conf": conf or {}})
        return str(run["dag_run_id"])

    def run(self, dag_id: str, run_id: str) -> Run:
        """The run as it is now."""
        path = run_path(dag_id, run_id)
        state = self.request("GET", path)["state"]
        tasks = [Task.from_json(item) for item in self._pages(f"{path}/taskInstances", "task_instances")]
        return Run(dag_id, run_id, state, in_order(tasks))

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

        :param on_change: called for each task whose state or try number differs from the last look
        """
        deadline = time.monotonic() + timeout
        seen: dict[str, tuple[str | None, int]] = {}
        while True:
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
            self._check()
            time.sleep(POLL_SECONDS)

    def run_dag(
        self,
        dag_id: str,
        conf: dict[str, Any] | None = None,
        *,
        timeout: float = 300,
        on_change: Callable[[Task], None] | None = None,
    ) -> Run:
        """Start a run and wait for its end, whatever that is: a failed run is returned, not raised."""
        self.wait_for_dag(dag_id)
        return self.wait(dag_id, self.trigger(dag_id, conf), timeout=timeout, on_change=on_change)

    def clear(self, run: Run, task_ids: list[str]) -> None:
        """What a user's click on "clear" does: the tasks run again, with their tries left untouched."""
        choice = {"only_failed": False, "reset_dag_runs": True, "dry_run": False}
        body = {"dag_run_id": run.run_id, "task_ids": task_ids, **choice}
        self.request("POST", f"/api/v2/dags/{run.dag_id}/clearTaskInstances", body)

    # -- what a task left behind

    def tries(self, run: Run, task: Task) -> list[Task]:
        """Every try of a task, the oldest first; a try that was retried reads "failed" or "up_for_retry"."""
        index = "" if task.map_index < 0 else f"/{task.map_index}"
        answer = self.request("GET", f"{run_path(run.dag_id, run.run_id)}/taskInstances/{task.task_id}{index}/tries")
        tries = [Task.from_json(item) for item in answer["task_instances"]]
        return sorted(tries, key=lambda item: item.try_number)

    def xcoms(self, run: Run, task: Task) -> dict[str, Any]:
        """All XComs of a task, decoded."""
        path = f"{run_path(run.dag_id, run.run_id)}/taskInstances/{task.task_id}/xcomEntries"
        entries = [item for item in self._pages(path, "xcom_entries") if item["map_index"] == task.map_index]
        return {item["key"]: self._xcom_value(path, item["key"], task.map_index) for item in entries}

    def _xcom_value(self, path: str, key: str, map_index: int) -> Any:
        value = self.request("GET", f"{path}/{urllib.parse.quote(key, safe='')}?map_index={map_index}")["value"]
        return decode_xcom(value)

    def log(self, run: Run, task: Task, try_number: int | None = None) -> str:
        """The log of one try (default: the last) as text, exceptions included."""
        return "\n".join(map(log_line, self.log_events(run, task, try_number)))

    def log_events(self, run: Run, task: Task, try_number: int | None = None) -> list[dict[str, Any] | str]:
        """The log of one try as Airflow stores it: JSON events, or plain lines where a line was no event."""
        path = f"{run_path(run.dag_id, run.run_id)}/taskInstances/{task.task_id}/logs/{try_number or task.try_number}"
        answer = self.request("GET", f"{path}?full_content=true&map_index={task.map_index}")
        return list(answer["content"])


def run_path(dag_id: str, run_id: str) -> str:
    return f"/api/v2/dags/{dag_id}/dagRuns/{urllib.parse.quote(run_id, safe='')}"
