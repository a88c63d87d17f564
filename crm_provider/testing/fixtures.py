"""Pytest fixtures: a running sandbox, and an Airflow connection to it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from crm_provider.sandbox import Sandbox


CONNECTION_ID = "crm_default"
CONNECTION_VARIABLE = "AIRFLOW_CONN_CRM_DEFAULT"


def pytest_configure(config: pytest.Config) -> None:
    """Register the marker ``crm_sandbox``."""
    config.addinivalue_line(
        "markers", "crm_sandbox(**settings): settings of the CRM sandbox, for example seed='empty' or rate=None"
    )


@pytest.fixture(scope="session")
def _crm_sandbox_server() -> Iterator[Sandbox]:
    """One server for the whole session: each test only resets it."""
    from crm_provider.sandbox import Sandbox

    with Sandbox() as sandbox:
        yield sandbox


@pytest.fixture
def crm_sandbox(request: pytest.FixtureRequest, _crm_sandbox_server: Sandbox) -> Sandbox:
    """A running :class:`crm_provider.sandbox.Sandbox` in fresh state; the marker ``crm_sandbox`` changes settings."""
    from crm_provider.sandbox import SandboxSettings

    marker = request.node.get_closest_marker("crm_sandbox")
    _crm_sandbox_server.reset(SandboxSettings(**marker.kwargs) if marker else SandboxSettings())
    return _crm_sandbox_server


@pytest.fixture
def crm_connection(crm_sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> str:
    """The id of an Airflow connection to ``crm_sandbox``, set in the environment for this test."""
    monkeypatch.setenv(CONNECTION_VARIABLE, crm_sandbox.connection_json())
    for name in ("NO_PROXY", "no_proxy"):  # a proxy cannot reach this machine's loopback address
        monkeypatch.setenv(name, ",".join(filter(None, [os.environ.get(name), "127.0.0.1"])))
    return CONNECTION_ID


@pytest.fixture
def crm_quick(crm_sandbox: Sandbox, crm_connection: str, monkeypatch: pytest.MonkeyPatch) -> Sandbox:
    """``crm_sandbox`` behind ``crm_connection`` without waits, for tests that are not about the rate.

    There is no rate limit and no pacing. Calls are repeated as often as usual, but without a delay.
    """
    from crm_provider.client import retry

    monkeypatch.setattr(retry, "RetryBudget", partial(retry.RetryBudget, first_delay=0.001))
    monkeypatch.setenv(CONNECTION_VARIABLE, crm_sandbox.connection_json(rate_store="off"))
    crm_sandbox.configure(rate=None, stays=True)
    return crm_sandbox
