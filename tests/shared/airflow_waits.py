"""Waits and faults of the system tests on a running :class:`AirflowStack`."""

from __future__ import annotations

import contextlib
import signal
import sqlite3
import time
from collections.abc import Callable

from airflow_stack import COMPONENTS, AirflowStack, Component

from crm_provider.values.server_clock import utc_time


def until_still(stack: AirflowStack, number: Callable[[], int], *, seconds: float, timeout: float) -> None:
    """Wait until a number has not changed for this many seconds.

    :raises AirflowStackError: see :meth:`AirflowStack.until`
    """
    every, seen, still = 0.2, number(), 0

    def has_stayed() -> bool:
        nonlocal seen, still
        before, seen = seen, number()
        still = still + 1 if seen == before else 0
        return still * every >= seconds

    stack.until(has_stayed, timeout=timeout, every=every)


def freeze(stack: AirflowStack, component: Component, timeout: float = 180) -> None:
    """Stop a component until it gets SIGCONT, but not during a write, which would block all other processes.

    :raises AirflowStackError: another process writes all the time, or a component ended
    """

    def is_still() -> bool:
        component.signal_group(signal.SIGSTOP)
        if _others_can_write(stack):
            return True
        component.signal_group(signal.SIGCONT)
        return False

    stack.until(is_still, timeout=timeout)


def _others_can_write(stack: AirflowStack) -> bool:
    time.sleep(0.2)  # until the signal is delivered
    with contextlib.closing(sqlite3.connect(stack.home / "airflow.db", timeout=3, isolation_level=None)) as database:
        try:
            database.execute("BEGIN IMMEDIATE")
        except sqlite3.OperationalError:
            return False
    return True


def add_triggerer(stack: AirflowStack, name: str, timeout: float = 180) -> None:
    """Start another triggerer, and wait until Airflow has registered it."""
    before = triggerer_jobs(stack)
    stack.spawn(name, *COMPONENTS["triggerer"])
    stack.until(lambda: bool(triggerer_jobs(stack) - before), timeout=timeout, every=0.5)


def triggerer_jobs(stack: AirflowStack) -> set[int]:
    """The job ids of all triggerers, including dead ones. Each start adds a greater id."""
    return {job["id"] for job in stack.api.request("GET", "/api/v2/jobs?job_type=TriggererJob&limit=100")["jobs"]}


def seconds_between(start: str | None, end: str | None) -> float:
    """The seconds between two times of Airflow or the sandbox.

    :raises ValueError: one of them is unknown
    """
    began, ended = utc_time(start), utc_time(end)
    if not (began and ended):
        raise ValueError(f"it has not ended yet: from {start} to {end}")
    return (ended - began).total_seconds()
