"""When the budget shared by all hosts is used, and how it handles Airflow's exceptions."""

from __future__ import annotations

import json
import logging
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.sdk import Variable
from airflow.sdk.execution_time import task_runner

from crm_provider import config
from crm_provider.client.request import Call
from crm_provider.client.settings import Settings
from crm_provider.client.transport import Transport
from crm_provider.errors import CrmConfigurationError
from crm_provider.hooks import shared_budget
from crm_provider.hooks.crm import CrmHook
from crm_provider.hooks.shared_budget import AirflowVariable, with_store
from crm_provider.rate_limit import limiter
from crm_provider.rate_limit.leases import LeaseStore
from crm_provider.rate_limit.limiter import FallbackStore, limiter_for, shared_clock_of, store_for
from crm_provider.rate_limit.schedule import Lane, StoreUnusable

from .fakes import FakeHttpSession, Reply

SETTINGS = Settings(api_key="key-of-test-shared-budget")
SHARED = SETTINGS.with_(rate_store="airflow")


@pytest.fixture
def in_a_task(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(task_runner, "SUPERVISOR_COMMS", SimpleNamespace(_thread_lock=None), raising=False)


@pytest.mark.parametrize(
    ("executor", "store"),
    [
        ("LocalExecutor", None),
        ("my_alias:LocalExecutor, airflow.executors.local_executor.LocalExecutor", None),
        ("CeleryExecutor", "airflow"),
        ("LocalExecutor,airflow.providers.cncf.kubernetes.executors.kubernetes_executor.KubernetesExecutor", "airflow"),
        ("LocalExecutor;team1=EdgeExecutor", "airflow"),
    ],
)
def test_default_follows_the_executor(
    executor: str, store: str | None, in_a_task: None, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(config, "executors", lambda: executor)
    shared_budget._log_reason.cache_clear()
    monkeypatch.setenv("AIRFLOW_CONN_CRM_DEFAULT", json.dumps({"conn_type": "crm", "password": SETTINGS.api_key}))
    with caplog.at_level(logging.INFO):
        found = [CrmHook().get_conn().settings.rate_store for _ in range(2)]
    assert found == [store] * 2
    said = [record.getMessage() for record in caplog.records if record.name == shared_budget.__name__]
    assert [f": executor {executor} runs tasks" in line for line in said] == ([True] if store else [])


def test_store_in_the_connection_is_kept(in_a_task: None) -> None:
    assert with_store(SETTINGS.with_(rate_store="process")).rate_store == "process"
    assert with_store(SHARED) == SHARED


@pytest.mark.parametrize("comms", [None, object()], ids=["no task", "Airflow 3.1 or dag.test"])
def test_host_store_is_the_default_elsewhere(comms: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(task_runner, "SUPERVISOR_COMMS", comms, raising=False)
    assert with_store(SETTINGS).rate_store is None


def test_executor_comes_from_airflows_configuration(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRFLOW__CORE__EXECUTOR", "CeleryExecutor")
    assert config.runs_on_many_hosts()


def test_executor_is_known_in_the_pod_of_a_task(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pod templates often configure another executor."""
    monkeypatch.setenv("AIRFLOW__CORE__EXECUTOR", "LocalExecutor")
    assert not config.runs_on_many_hosts()
    monkeypatch.setenv("AIRFLOW_IS_K8S_EXECUTOR_POD", "True")
    assert config.runs_on_many_hosts()


def test_variable_is_read_and_written(in_a_task: None, monkeypatch: pytest.MonkeyPatch) -> None:
    kept: dict[str, Any] = {}
    monkeypatch.setattr(Variable, "get", lambda key, *, default: kept.get(key, default))
    monkeypatch.setattr(Variable, "set", lambda key, value, description: kept.update({key: value}))
    text = AirflowVariable("0a1b.rate")
    assert text.read() is None
    text.write("{}")
    assert (text.read(), kept) == ("{}", {"crm_rate_0a1b": "{}"})
    kept["crm_rate_0a1b"] = {"not": "a text"}
    assert text.read() is None


@pytest.mark.parametrize("error", [OSError("secret"), EOFError(), RuntimeError("secret"), ImportError()])
def test_airflow_error_is_an_unusable_store(error: Exception, in_a_task: None, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr(Variable, "get", fail)
    monkeypatch.setattr(Variable, "set", fail)
    for use in (AirflowVariable("a.rate").read, lambda: AirflowVariable("a.rate").write("{}")):
        with pytest.raises(StoreUnusable) as refused:
            use()
        assert str(refused.value) == (
            f"the rate budget of all hosts cannot be kept in the Airflow variable crm_rate_a ({type(error).__name__})"
        )


def test_reason_is_given_outside_of_tasks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(task_runner, "SUPERVISOR_COMMS", raising=False)
    with pytest.raises(StoreUnusable, match=r"\(this needs a task or trigger of Airflow 3\.2 or newer\)"):
        AirflowVariable("a.rate").read()


def test_store_falls_back_on_the_host() -> None:
    store = store_for(SHARED)
    assert isinstance(store, FallbackStore)
    assert isinstance(store._first, LeaseStore)
    assert isinstance(store._second, FallbackStore)
    assert (store._otherwise, store._second._otherwise) == ("each host paces itself", "each process paces itself")


def test_factory_of_shared_texts_is_given_by_the_hook(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limiter, "_shared_text", None)
    limiter.share_through(AirflowVariable)
    assert isinstance(store_for(SHARED)._first, LeaseStore)  # type: ignore[attr-defined]


def test_only_the_hook_can_share_through_airflow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limiter, "_shared_text", None)
    with pytest.raises(CrmConfigurationError, match="which only CrmHook can use"):
        store_for(SHARED)


def test_all_callers_of_a_shared_budget_refine_one_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limiter, "_budgets", {})
    bulk = limiter_for(SHARED, lane=Lane.BULK)
    share = limiter.ShareRateLimiter(limiter_for(SHARED, lane=Lane.WAITING), 1.0)
    assert shared_clock_of(share) is shared_clock_of(bulk) is not None
    assert shared_clock_of(bulk) is bulk.budget.store._first._server_clock  # type: ignore[attr-defined]
    assert shared_clock_of(limiter_for(SETTINGS)) is None


@pytest.mark.parametrize("failure", [None, StoreUnusable("down")])
def test_slots_are_given_back_when_the_last_load_of_a_process_closes(
    failure: StoreUnusable | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    left = []

    def leave(store: LeaseStore) -> None:
        left.append(store)
        if failure:
            raise failure

    monkeypatch.setattr(LeaseStore, "leave", leave)
    monkeypatch.setattr(limiter, "_budgets", {})
    first, second = (Transport(SHARED, limiter=limiter_for(SHARED, lane=Lane.BULK)) for _ in range(2))
    host_only = Transport(SETTINGS, limiter=limiter_for(SETTINGS, lane=Lane.BULK))
    for transport in (first, host_only, Transport(SHARED), Transport(SHARED.with_(rate_store="off")), first):
        transport.close()
    assert not left, "a load goes on"
    second.close()
    second.close()
    assert len(left) == 1
    budget = second._limiter.budget  # type: ignore[attr-defined]
    budget.store._failed_until = 1.0
    Transport(SHARED, limiter=limiter_for(SHARED, lane=Lane.BULK)).close()
    assert len(left) == 1, "no request while the store cannot be used"


def test_response_refines_the_shared_clock_before_any_request() -> None:
    shared = limiter_for(SHARED, lane=Lane.BULK)
    transport = Transport(SHARED, limiter=shared)
    transport.close()
    reply = Reply(body={"id": "d-1"}, headers={"Date": "Sun, 01 Mar 2026 12:00:00 GMT"})
    transport._http = FakeHttpSession(reply)  # type: ignore[assignment]
    transport.send_once(Call(method="GET", route="/deals"))
    clock = shared_clock_of(shared)
    assert clock is not None and clock.at(transport.clock()) is not None
