"""Fixtures for tests with real tasks: a sandbox without a rate limit, and an Airflow that does not wait."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
from loop_logs import no_loop_logs  # noqa: F401 - a fixture

from crm_provider.testing.dag_runs import skipped_waits

if TYPE_CHECKING:
    from pathlib import Path

    from page_users import Users

    from crm_provider.sandbox import Sandbox


@pytest.fixture
def crm(crm_sandbox: Sandbox, crm_connection: str, monkeypatch: pytest.MonkeyPatch) -> Sandbox:
    """The sandbox behind ``crm_default``: no rate limit, no pacing, and one attempt per call.

    With one attempt, one fault means one failed try or check. Tests of the client cover its retries.
    """
    from crm_provider.client import retry

    monkeypatch.setattr(retry, "RetryBudget", partial(retry.RetryBudget, tries=1))
    monkeypatch.setattr("crm_provider.client.pagination.LATER_PAGE_TRIES", 1)
    monkeypatch.setenv("AIRFLOW_CONN_CRM_DEFAULT", crm_sandbox.connection_json(rate_store="off"))
    crm_sandbox.configure(rate=None)
    return crm_sandbox


@pytest.fixture
def fast_clock(crm: Sandbox, monkeypatch: pytest.MonkeyPatch) -> str:
    """The id of a connection whose clock advances by ten seconds on each read, so that only dripped responses time out.

    The timeout equals ten reads, and other responses take two or three, so the machine's speed does not matter.
    The clock supports one call at a time.
    """
    from crm_provider.client import http_session

    timeout, real, ticks = 100.0, http_session.HttpSession, itertools.count(step=10)

    def session_of(settings: Any, **keywords: Any) -> Any:
        clock = {"clock": lambda: float(next(ticks))} if settings.timeout == timeout else {}
        return real(settings, **keywords, **clock)

    monkeypatch.setattr(http_session, "HttpSession", session_of)
    monkeypatch.setenv("AIRFLOW_CONN_CRM_FAST_CLOCK", crm.connection_json(rate_store="off", timeout=timeout))
    return "crm_fast_clock"


@pytest.fixture
def run_task(run_dag: Callable[..., Any]) -> Callable[..., Any]:
    """Run one task with ``run_task(operator, **arguments)``, by default with ``retries=1``, and return its result."""
    from airflow.sdk import DAG

    def run(operator: type, **arguments: Any) -> Any:
        with DAG("one_task", schedule=None, default_args={"retries": 1, "retry_delay": timedelta(0)}) as dag:
            operator(task_id="task", **arguments)
        return run_dag(dag)["task"]

    return run


@pytest.fixture
def users(airflow_db: Path, monkeypatch: pytest.MonkeyPatch) -> Users:
    """Airflow users of the page CRM. They have all rights on all DAGs, unless a test removes some."""
    from airflow.api_fastapi.app import init_auth_manager
    from page_users import Users

    from crm_provider.ui.app import make_app

    manager = init_auth_manager()
    users = Users(make_app(base="/airflow"), manager)

    def is_authorized(**asked: Any) -> bool:
        return users.may(**asked)

    monkeypatch.setattr(manager, "is_authorized_dag", is_authorized)
    return users


@pytest.fixture
def waits() -> Iterator[dict[str, list[float]]]:
    """Skips Airflow's waits: each task is due at once, and Airflow records the wait as over.

    :return: the seconds of each wait, by task instance
    """
    with skipped_waits() as noted:
        yield noted


FAST = 100.0


@pytest.fixture
def fast_triggers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Triggers wait a hundredth of their poke interval, and each check is one call."""
    from crm_provider.client.retry import RetryBudget
    from crm_provider.triggers import connection, poll
    from crm_provider.waiting.poller import Poller

    start = time.monotonic()

    def clock() -> float:
        return start + (time.monotonic() - start) * FAST

    async def sleep(seconds: float) -> None:
        await asyncio.sleep(seconds / FAST)

    monkeypatch.setattr(connection, "POLL_BUDGET", RetryBudget(tries=1))
    monkeypatch.setattr(poll, "Poller", partial(Poller, clock=clock, sleep=sleep))
