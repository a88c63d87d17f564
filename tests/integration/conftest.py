"""What the tests of task outcomes share: a CRM that costs no time, and an Airflow that does not wait."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest

from crm_provider.testing.dag_runs import skipped_waits

if TYPE_CHECKING:
    from pathlib import Path

    from page_users import Users

    from crm_provider.sandbox import Sandbox


@pytest.fixture
def crm(crm_sandbox: Sandbox, crm_connection: str, monkeypatch: pytest.MonkeyPatch) -> Sandbox:
    """The sandbox behind ``crm_default``: no rate limit, no pacing, and one attempt in each call.

    How often one call is sent is the client's subject: with one attempt, one fault is one failed try or check.
    """
    from crm_provider.client import retry

    monkeypatch.setattr(retry, "RetryBudget", partial(retry.RetryBudget, tries=1))
    monkeypatch.setenv("AIRFLOW_CONN_CRM_DEFAULT", crm_sandbox.connection_json(rate_store="off"))
    crm_sandbox.configure(rate=None)
    return crm_sandbox


@pytest.fixture
def hasty(crm: Sandbox, monkeypatch: pytest.MonkeyPatch) -> str:
    """The id of a connection whose clock goes on by ten seconds with each read: only what comes in drops is too slow.

    However slow this machine is: other answers take two or three reads, and the time is that of ten. For one call at
    a time.
    """
    from crm_provider.client import http_session

    timeout, real, ticks = 100.0, http_session.HttpSession, itertools.count(step=10)

    def session_of(settings: Any, **keywords: Any) -> Any:
        clock = {"clock": lambda: float(next(ticks))} if settings.timeout == timeout else {}
        return real(settings, **keywords, **clock)

    monkeypatch.setattr(http_session, "HttpSession", session_of)
    monkeypatch.setenv("AIRFLOW_CONN_CRM_HASTY", crm.connection_json(rate_store="off", timeout=timeout))
    return "crm_hasty"


@pytest.fixture
def run_task(run_dag: Callable[..., Any]) -> Callable[..., Any]:
    """Run one task: ``run_task(operator, **arguments)``, with ``retries=1`` by default; returns how it ended."""
    from airflow.sdk import DAG

    def run(operator: type, **arguments: Any) -> Any:
        with DAG("one_task", schedule=None, default_args={"retries": 1, "retry_delay": timedelta(0)}) as dag:
            operator(task_id="task", **arguments)
        return run_dag(dag)["task"]

    return run


@pytest.fixture
def users(airflow_db: Path, monkeypatch: pytest.MonkeyPatch) -> Users:
    """Users of Airflow, in front of the page CRM; they may do everything with all DAGs, unless a test says else."""
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
    """Makes time fly: what Airflow would wait for is due at once, and has been waited for as far as Airflow knows.

    :return: the seconds of each wait, by task instance
    """
    with skipped_waits() as noted:
        yield noted


FAST = 100.0


@pytest.fixture
def fast_triggers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Seconds of a poll pass in a hundredth of the time, and a look is one call."""
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
