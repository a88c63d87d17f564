"""The hook reads an Airflow connection from any source."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import quote

import pytest
from airflow import __version__ as airflow_version
from airflow.sdk import Connection
from packaging.version import Version
from raw_server import RawServer, http, sends

from crm_provider import errors as e
from crm_provider.hooks.crm import CrmHook

from .fakes import KEY

pytestmark = pytest.mark.skipif(
    Version(airflow_version) < Version("3.2"),
    reason="outside of a task, 3.1 ends the look-up of an unreadable connection with an ImportError of its own",
)

EXTRA = (
    'Extra is not a JSON object; write it like {"requests_per_second": 5}, with double quotes, true and false in lower '
    "case and no comma at the end"
)
BROKEN = [
    '{"developer_mode": true,}',
    "{'developer_mode': True}",
    "{'api_key': 's3cret'}",
    "developer_mode=true",
    '["developer_mode"]',
    '"developer_mode"',
    "1",
    "true",
    "{",
]


def refusal() -> str:
    with pytest.raises(e.CrmConfigurationError) as raised:
        CrmHook().get_conn()
    return raised.value.message


@pytest.mark.parametrize("extra", BROKEN, ids=lambda extra: extra[:30])
class TestAnExtraThatIsNoJsonObject:
    """Airflow reads it as ``{}``, which would silently disable developer mode and make writes real."""

    def test_connection_in_an_environment_variable(self, extra: str, monkeypatch: pytest.MonkeyPatch) -> None:
        connection = {"conn_type": "crm", "password": KEY, "extra": extra}
        monkeypatch.setenv("AIRFLOW_CONN_CRM_DEFAULT", json.dumps(connection))
        assert refusal() == EXTRA

    def test_connection_in_a_uri(self, extra: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("AIRFLOW_CONN_CRM_DEFAULT", f"crm://:{KEY}@/?__extra__={quote(extra, safe='')}")
        assert refusal() == EXTRA

    def test_connection_in_a_secrets_backend_or_the_database(self, extra: str, monkeypatch: pytest.MonkeyPatch) -> None:
        found = Connection(conn_id="crm_default", conn_type="crm", password=KEY, extra=extra)
        monkeypatch.setattr(CrmHook, "get_connection", lambda *_: found)
        assert refusal() == EXTRA


@pytest.mark.parametrize("extra", [["developer_mode"], "developer_mode"])
def test_extra_that_is_no_json_object(extra: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRFLOW_CONN_CRM_DEFAULT", json.dumps({"conn_type": "crm", "password": KEY, "extra": extra}))
    assert refusal() == EXTRA


@pytest.mark.parametrize("extra", [None, "", "  ", "{}", {}, '{"timeout": ""}'])
def test_empty_extra(extra: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRFLOW_CONN_CRM_DEFAULT", json.dumps({"conn_type": "crm", "password": KEY, "extra": extra}))
    with CrmHook().get_conn() as client:
        assert client.settings.developer_mode is False
        assert client.settings.timeout == 30.0


@pytest.mark.parametrize(("flag", "expected"), [(1, True), (0, False), (True, True), ("1", True)])
def test_developer_mode_as_a_number(flag: Any, expected: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    connection = {"conn_type": "crm", "password": KEY, "extra": {"developer_mode": flag}}
    monkeypatch.setenv("AIRFLOW_CONN_CRM_DEFAULT", json.dumps(connection))
    with CrmHook().get_conn() as client:
        assert client.settings.developer_mode is expected


@pytest.mark.parametrize(
    ("conn_id", "advice"),
    [
        ("crm_brazil", ", or set the environment variable AIRFLOW_CONN_CRM_BRAZIL"),
        ("crm2", ", or set the environment variable AIRFLOW_CONN_CRM2"),
        ("crm-brazil", ""),
        ("crm.brazil", ""),
        ("crm brazil", ""),
        ("crm_\u00e9t\u00e9", ""),
    ],
)
def test_only_an_exportable_variable_is_suggested(conn_id: str, advice: str) -> None:
    with pytest.raises(e.CrmConfigurationError) as raised:
        CrmHook(conn_id).get_conn()
    assert raised.value.message == (
        f"Airflow has no connection {conn_id!r}; create it with type CRM and the API key as Password{advice}"
    )


def error_of(status: int, body: dict[str, Any], monkeypatch: pytest.MonkeyPatch, **attributes: Any) -> str:
    """The message of an update with this response."""
    with RawServer(sends(http(json.dumps(body).encode(), status=f"{status} Said"))) as server:
        connection = {"conn_type": "crm", "host": server.base_url, "password": KEY, "extra": {"rate_store": "off"}}
        monkeypatch.setenv("AIRFLOW_CONN_CRM_BRAZIL", json.dumps(connection))
        with pytest.raises(e.CrmError) as raised:
            CrmHook("crm_brazil").update_contact("zq@example.com", attributes={"name": "Zq", **attributes})
    return str(raised.value)


BASE_URL_IS = "/v2 is that of Airflow's connection 'crm_brazil'."


@pytest.mark.parametrize(
    ("status", "body", "says"),
    [
        (401, {}, BASE_URL_IS),
        (403, {}, BASE_URL_IS),  # the key of a sandbox, and the production's URL
        (403, {"message": "Missing Authentication Token", "errorCode": "UNKNOWN_ROUTE"}, BASE_URL_IS),
    ],
)
def test_error_of_a_connection_names_it(
    status: int, body: dict[str, Any], says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert says in error_of(status, body, monkeypatch)


def test_connection_of_another_type_says_its_type(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRFLOW_CONN_ORDERS", '{"conn_type": "http", "host": "example.com", "password": "secret"}')
    with pytest.raises(e.CrmConfigurationError, match="must be a complete URL") as raised:
        CrmHook("orders").get_conn()
    assert str(raised.value).endswith("This is Airflow's connection 'orders'; its type is 'http', not 'crm'.")


@pytest.mark.parametrize(
    ("path", "says"),
    [
        ("v2", "The base URL http://127.0.0.1:1/v2 is that of Airflow's connection 'crm_brazil'."),
        ("another-key-of-the-account", "This is Airflow's connection 'crm_brazil'."),
    ],
)
def test_no_connection_names_its_base_url(path: str, says: str, monkeypatch: pytest.MonkeyPatch) -> None:
    host = f"http://127.0.0.1:1/{path}"
    connection = {"conn_type": "crm", "host": host, "password": KEY, "extra": {"rate_store": "off"}}
    monkeypatch.setenv("AIRFLOW_CONN_CRM_BRAZIL", json.dumps(connection))
    with pytest.raises(e.CrmConnectionError) as raised:
        CrmHook("crm_brazil").get_conn().ping()
    assert str(raised.value).endswith(says)


def test_other_errors_do_not_name_the_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "crm_brazil" not in error_of(404, {"error": "Contact not found."}, monkeypatch)


@pytest.mark.parametrize(
    "body", [{"errorCode": "INVALID_INPUT", "message": "no"}, {"message": "something"}, {"errorCode": "INVALID_PARAMS"}]
)
def test_refused_values_name_the_sent_fields(body: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    text = error_of(422, body, monkeypatch, phone="+5511", **{"ann@x.co": 1, "5511": 2})
    assert "Fields that were sent: name, phone." in text, "a name that may be a value is omitted"
    assert "Zq" not in text
    assert "ann@x.co" not in text


def test_long_field_lists_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    text = error_of(400, {}, monkeypatch, **{f"f{n}": n for n in range(25)})
    assert "Fields that were sent: name, f0, f1," in text
    assert "f18 and 6 more." in text
