"""Statements of ``docs/comparison.md`` about official providers, tested with the versions that it names."""

from __future__ import annotations

import asyncio
import importlib
import json
import re
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
from airflow.sdk.exceptions import AirflowException
from docs_text import DOCS
from raw_server import RawServer, http, sends

from crm_provider.get_provider_info import get_provider_info

PAGE = (DOCS / "comparison.md").read_text("utf-8")
VERSIONS = dict(re.findall(r"\| `(apache-airflow-providers-[\w-]+)` \| ([\d.]+) \|", PAGE))

THROTTLED = http(b"{}", status="429 Too Many Requests", headers="Retry-After: 60\r\n")
BROKEN = http(b"{}", status="500 Internal Server Error")


def info(name: str) -> dict[str, Any]:
    module = importlib.import_module(f"airflow.providers.{name}.get_provider_info")
    return dict(module.get_provider_info())


@pytest.mark.parametrize("package", VERSIONS)
def test_compared_versions_are_installed(package: str) -> None:
    assert version(package) == VERSIONS[package]


def test_provider_infos_match_the_comparison() -> None:
    providers = {name: info(name) for name in ("http", "slack", "dbt.cloud")}
    assert [name for name, reported in providers.items() if "config" in reported or "plugins" in reported] == []
    assert {name: len(reported.get("extra-links", [])) for name, reported in providers.items()} == {
        "http": 0, "slack": 0, "dbt.cloud": 1,
    }  # fmt: skip
    assert len(get_provider_info()["extra-links"]) == 5
    forms = {name: reported["connection-types"][0] for name, reported in providers.items()}
    assert list(forms["http"]["conn-fields"]) == ["srv_lookup"]
    assert forms["http"]["ui-field-behaviour"]["relabeling"] == {}
    assert list(forms["slack"]["conn-fields"]) == ["timeout", "base_url", "proxy"]
    assert not [f for f in forms["slack"]["conn-fields"].values() if set(f["schema"]) - {"type"}], "no range"
    assert "conn-fields" not in forms["dbt.cloud"]
    assert set(forms["dbt.cloud"]["ui-field-behaviour"]["relabeling"]) == {"host", "login", "password"}


@pytest.fixture
def server(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[RawServer]:
    with RawServer(sends(request.param)) as running:
        host = f"http://127.0.0.1:{running.port}"
        monkeypatch.setenv("AIRFLOW_CONN_HTTP_DEFAULT", json.dumps({"conn_type": "http", "host": host}))
        dbt = json.dumps({"conn_type": "dbt_cloud", "login": "1", "password": "token"})
        monkeypatch.setenv("AIRFLOW_CONN_DBT_CLOUD_DEFAULT", dbt)
        yield running


@pytest.mark.parametrize("server", [http(b"", status="403 Forbidden")], indirect=True)
def test_http_connection_test_sends_a_post(server: RawServer, airflow_db: Path) -> None:
    from airflow.providers.http.hooks.http import HttpHook

    assert HttpHook().test_connection() == (False, "403:Forbidden")
    assert server.requests[0].startswith(b"POST / ")


@pytest.mark.parametrize("server", [THROTTLED], indirect=True)
def test_http_does_not_read_retry_after(server: RawServer, airflow_db: Path) -> None:
    from airflow.providers.http.hooks.http import HttpHook

    with pytest.raises(AirflowException, match="429:Too Many Requests"):
        HttpHook(method="GET").run("contacts")
    assert len(server.requests) == 1


@pytest.mark.parametrize("server", [THROTTLED], indirect=True)
def test_deferred_http_sensor_repeats_a_429_without_a_pause(server: RawServer, airflow_db: Path) -> None:
    from airflow.providers.http.triggers.http import HttpSensorTrigger

    async def until_three_calls() -> None:
        waiting = asyncio.ensure_future(anext(HttpSensorTrigger(endpoint="x", poke_interval=3600).run()))
        for _ in range(3):
            assert await asyncio.to_thread(server.closed.acquire, timeout=60)
        waiting.cancel()

    asyncio.run(until_three_calls())


@pytest.mark.parametrize("server", [THROTTLED, BROKEN], indirect=True, ids=["429", "500"])
def test_dbt_cloud_does_not_retry_wrapped_http_errors(
    server: RawServer, airflow_db: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from airflow.providers.dbt.cloud.hooks.dbt import DbtCloudHook
    from airflow.providers.http.hooks.http import HttpHook

    url = f"http://127.0.0.1:{server.port}/"
    monkeypatch.setattr(HttpHook, "url_from_endpoint", lambda hook, endpoint: url)
    with pytest.raises(AirflowException, match=r"^(429|500):"):
        DbtCloudHook(retry_limit=3, retry_delay=0.01).trigger_job_run(job_id=1, cause="test", account_id=1)
    assert len(server.requests) == 1
