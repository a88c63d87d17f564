"""Messages of the connection test: a specific one for each kind of failure, without secrets."""

from __future__ import annotations

import re
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from airflow.sdk import DAG
from certificates import make_certificate, server_context
from raw_server import RawServer, closes, hangs, refusing_port

from crm_provider.hooks import crm as hook_module
from crm_provider.operators.contacts import CrmUpsertContactOperator
from crm_provider.operators.extract import CrmExtractContactsOperator
from crm_provider.operators.load import CrmLoadContactsOperator
from crm_provider.sandbox import Sandbox
from crm_provider.sensors.contacts import CrmContactSensor

ROOT = Path(__file__).resolve().parents[2]

FAULTS: dict[str, tuple[dict[str, Any], list[str]]] = {
    "throttled": ({"error": "throttled"}, ["throttles calls, so the key could not be checked", "TOO_MANY_REQUESTS"]),
    "quota": ({"error": "quota used up"}, ["throttles calls, so the key could not be checked", "LIMIT_EXCEEDED"]),
    "broken": ({"error": "INTERNAL_SERVER_ERROR"}, ["INTERNAL_SERVER_ERROR (500)", "try again later"]),
    "away": ({"error": "unavailable"}, ["SERVICE_UNAVAILABLE (503)", "try again later"]),
    "a refused key": ({"error": "FORBIDDEN"}, ["FORBIDDEN (403)", "check the API key"]),
    "a proxy's HTML page": ({"effect": "html", "status": 200}, ["HTTP_200", "HTML"]),
    "another service": ({"effect": "garbage", "status": 200, "body": '{"status": "ok"}'}, ["no list of records"]),
    "a broken proxy": ({"effect": "html", "status": 502}, ["BAD_GATEWAY (502)", "HTML"]),
    "a redirect to a login page": ({"effect": "redirect"}, ["HTTP_302"]),
    "a broken connection": ({"effect": "drop"}, ["CONNECTION", "broke"]),
}
"""Failure -> the sandbox's fault, and parts of the expected message."""

SILENCE = ["TIMEOUT", "in time"]


def said(monkeypatch: pytest.MonkeyPatch, crm: Sandbox, **fields: Any) -> str:
    """The message of a failed connection test."""
    monkeypatch.setenv("AIRFLOW_CONN_CRM_DEFAULT", crm.connection_json(**fields.pop("extra", {})))
    from airflow.models.connection import Connection

    connection = Connection.from_json(crm.connection_json(), conn_id="crm_default")
    for name, value in fields.items():
        setattr(connection, name, value)
    monkeypatch.setenv("AIRFLOW_CONN_CRM_DEFAULT", connection.as_json())
    works, text = hook_module.CrmHook().test_connection()
    assert not works
    assert str(crm.api_key) not in text
    return text


@pytest.mark.parametrize("fault", FAULTS)
def test_connection_test_explains_each_error_response(
    fault: str, crm: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    effect, expected = FAULTS[fault]
    crm.add_fault(**{"effect": "error", **effect})
    text = said(monkeypatch, crm)
    assert [part for part in expected if part.lower() not in text.lower()] == [], text
    assert crm.counters().total == 1, "one call, and no retries"


def test_connection_test_explains_a_timeout(crm: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hook_module, "TEST_TIMEOUT", 0.2)
    with RawServer(hangs) as server:
        text = said(monkeypatch, crm, host=server.base_url)
        assert server.closed.acquire(timeout=60)
    assert [part for part in SILENCE if part.lower() not in text.lower()] == [], text
    assert len(server.requests) == 1, "one call, and no retries"


def test_connection_test_names_the_ca_bundle_for_an_untrusted_certificate(
    tmp_path: Path, crm: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    with RawServer(closes, tls=server_context(make_certificate(tmp_path, "127.0.0.1"))) as server:
        text = said(monkeypatch, crm, host=f"https://127.0.0.1:{server.port}/v2")
    assert text.startswith("TLS on GET /segments: the certificate is not trusted: ")
    assert "REQUESTS_CA_BUNDLE" in text


def test_connection_test_reports_an_expired_certificate(
    tmp_path: Path, crm: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    certificate = make_certificate(tmp_path, "localhost", expired=True)
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(certificate))
    monkeypatch.setattr("crm_provider.client.settings.Settings.is_local", False)
    with RawServer(closes, tls=server_context(certificate)) as server:
        assert "certificate has expired" in said(monkeypatch, crm, host=f"https://localhost:{server.port}/v2")


def test_connection_test_explains_wrong_hosts_paths_and_keys(crm: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(*_: Any, **__: Any) -> Any:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    with refusing_port() as port:
        assert "the connection was refused" in said(monkeypatch, crm, host=f"http://127.0.0.1:{port}/v2")
    route = said(monkeypatch, crm, host=f"{crm.root_url}/v3")
    assert "UNKNOWN_ROUTE (403)" in route
    assert "the key is not the problem" in route.lower()
    assert "FORBIDDEN (403)" in said(monkeypatch, crm, password="another-key")
    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    monkeypatch.setenv("NO_PROXY", "*")
    assert "the host name nowhere.invalid is not known (DNS)" in said(
        monkeypatch, crm, host="https://nowhere.invalid/v2"
    )


def test_developer_mode_is_a_warning_in_each_task(
    crm: Sandbox, run_dag: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AIRFLOW_CONN_CRM_DEV", crm.connection_json(rate_store="off", developer_mode=True))
    note = "Developer mode: the CRM returns example data and writes nothing (connection 'crm_dev')."
    report = tmp_path / "report.md"
    with DAG("developer_mode", schedule=None, default_args={"crm_conn_id": "crm_dev"}) as dag:
        CrmUpsertContactOperator(task_id="upsert", contact_email="ada@example.com")
        CrmExtractContactsOperator(task_id="extract", target=str(tmp_path / "contacts.jsonl"))
        CrmContactSensor(task_id="sensor", contact_email="ada@example.com", deferrable=True)
        CrmLoadContactsOperator(task_id="load", source=[{"email": "ada@example.com"}], report_path=str(report))
    run = run_dag(dag)
    found = {name: (task.state, task.log.count(note)) for name, task in run.tasks.items()}
    assert found == dict.fromkeys(("upsert", "extract", "sensor", "load"), ("success", 1))
    assert run["load"].result["ending"] == f"Done. {note}"
    assert note in report.read_text()
    assert {entry.developer_mode for entry in crm.journal()} == {True}


def test_connection_guide_explains_each_error_type() -> None:
    section = (ROOT / "docs" / "connection.md").read_text("utf-8").partition("## Test it")[2].partition("### ")[0]
    explained = set(re.findall(r"[A-Z][A-Z_]*[A-Z_0-9]{2,}", section))
    said_of_all = [*(parts for _, parts in FAULTS.values()), SILENCE]
    names = {part.partition(" ")[0] for parts in said_of_all for part in parts if part[:3].isupper()}
    assert names - explained - {"HTML"} == set()
