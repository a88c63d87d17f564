"""No ``repr`` shows the key: error trackers record the local variables of every frame of a traceback."""

from __future__ import annotations

import json
import pickle
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from airflow import __version__ as airflow_version
from broken_ways import WAYS, plain_environment
from packaging.version import Version
from raw_server import RawServer, http, sends

from crm_provider import errors as e
from crm_provider.client.client import CrmClient
from crm_provider.client.request import Call
from crm_provider.client.responses import CrmResponse, error_of
from crm_provider.client.retry import ONE_TRY
from crm_provider.client.settings import Settings
from crm_provider.client.transport import Transport
from crm_provider.hooks.crm import CrmHook
from crm_provider.rate_limit.limiter import UnlimitedRate
from crm_provider.values.redaction import Secret, without_values

KEY = "zqPlantedKey0123456789abcdefgh"
EMAIL = "ada@example.com"


def frames_of(error: BaseException | None, seen: set[int]) -> Iterator[tuple[str, dict[str, Any]]]:
    """The local variables of all frames below this test, including those of chained errors."""
    if error is None or id(error) in seen:
        return
    seen.add(id(error))
    trace = error.__traceback__
    while trace is not None:
        if not trace.tb_frame.f_code.co_filename.startswith(str(Path(__file__).parents[1])):
            yield (
                trace.tb_frame.f_code.co_qualname
                if hasattr(trace.tb_frame.f_code, "co_qualname")
                else (trace.tb_frame.f_code.co_name),
                dict(trace.tb_frame.f_locals),
            )
        trace = trace.tb_next
    yield from frames_of(error.__cause__, seen)
    yield from frames_of(error.__context__, seen)


def reprs_of(value: Any, depth: int = 3) -> Iterator[str]:
    """What an error tracker records of a value: its ``repr``, and those of its items and attributes."""
    yield repr(value)
    if depth and isinstance(value, (list, tuple, set)):
        for item in value:
            yield from reprs_of(item, depth - 1)
    if depth and isinstance(value, dict):
        for item in value.values():
            yield from reprs_of(item, depth - 1)


def assert_hidden(error: BaseException) -> None:
    found = list(frames_of(error, set()))
    assert found, "there are frames to check"
    for name, variables in found:
        for variable, value in variables.items():
            for text in reprs_of(value):
                assert KEY not in text, f"{variable} in {name}"
                assert KEY[:28] not in text, f"{variable} in {name}"
    assert KEY not in f"{error!r} {error}"


def client_of(base_url: str, *, timeout: float = 30.0) -> CrmClient:
    settings = Settings(api_key=KEY, base_url=base_url, timeout=timeout)
    return CrmClient(settings, transport=Transport(settings, limiter=UnlimitedRate()), budget=ONE_TRY)


@pytest.mark.parametrize("fault", WAYS)
def test_key_is_hidden_with_every_network_fault(fault: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    plain_environment(monkeypatch)
    with WAYS[fault](monkeypatch, tmp_path) as way, client_of(way.base_url, timeout=0.2) as client:
        with pytest.raises(e.CrmError) as raised:
            client.create_contact(EMAIL)
        assert_hidden(raised.value)


@pytest.mark.parametrize("status", [200, 302, 400, 401, 403, 404, 409, 418, 422, 429, 500, 503])
@pytest.mark.parametrize(
    "echo", [KEY, KEY[:28], KEY[1:29], KEY[2:], KEY.upper()[:28], f"key {KEY[:14]} and {KEY[14:]}", f"<{KEY[:28]}>"]
)
def test_key_is_hidden_with_every_response(status: int, echo: str) -> None:
    body = json.dumps({"message": f"bad key {echo}", "requestId": echo}).encode()
    if status == 200:
        body = f"bad key {echo}".encode()
    with (
        RawServer(sends(http(body, status=f"{status} Said"))) as server,
        client_of(server.base_url) as client,
        pytest.raises(e.CrmError) as raised,
    ):
        client.get_contact(EMAIL)
    assert_hidden(raised.value)
    text = f"{raised.value} {raised.value.as_dict()}".lower()
    for at in range(len(KEY) - 7):
        assert KEY[at : at + 8].lower() not in text


@pytest.mark.skipif(
    Version(airflow_version) < Version("3.2"),
    reason="outside of a task, 3.1 ends the look-up of an unreadable connection with an ImportError of its own",
)
@pytest.mark.parametrize(
    "fields",
    [
        {"host": "connect.pingback.com"},
        {"port": 99999},
        {"password": f"{KEY} "},
        {"extra": {"api_key": KEY}},
        {"extra": {"timeout": KEY}},
        {"extra": f"not JSON: {KEY}"},
        {"extra": f"['{KEY}']"},
        {"extra": {"rate_store": f"redis://:{KEY}@h:0/"}},
    ],
    ids="-".join,
)
def test_key_is_hidden_with_an_invalid_connection(fields: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRFLOW_CONN_CRM_DEFAULT", json.dumps({"conn_type": "crm", "password": KEY, **fields}))
    with pytest.raises(e.CrmConfigurationError) as raised:
        CrmHook().get_conn()
    assert_hidden(raised.value)


@pytest.mark.parametrize(
    "host", [KEY, f"https://{KEY}", f"http://{KEY}/v2", f"https://{KEY}.com", f"https://x.io/{KEY}"]
)
@pytest.mark.parametrize("password", [KEY, "another-key-of-the-account", ""])
def test_key_in_the_host_field_is_not_quoted(host: str, password: str, monkeypatch: pytest.MonkeyPatch) -> None:
    try:
        settings = Settings.from_fields(host=host, port=None, password=password, extra=None)
    except e.CrmConfigurationError as refused:
        assert KEY.lower() not in str(refused).lower()
        return
    assert password not in (KEY, "")
    with CrmClient(settings, transport=Transport(settings, limiter=UnlimitedRate()), budget=ONE_TRY) as client:
        client._transport._http._session.trust_env = False
        monkeypatch.setattr("socket.getaddrinfo", _unknown)
        with pytest.raises(e.CrmConnectionError) as raised:
            client.ping()
    assert KEY.lower() not in str(raised.value).lower()


def _unknown(*_: Any, **__: Any) -> Any:
    raise socket.gaierror(-2, "Name or service not known")


def test_objects_with_values_hide_them() -> None:
    call = Call(
        method="PUT", route="/contacts/{email}", path_params={"email": EMAIL}, query={"q": "zq1"}, body={"name": "Zq"}
    )
    response = CrmResponse(
        method="PUT", path="/x", status=500, headers={"x": KEY}, body=KEY.encode(), sensitive_values=(Secret(KEY),)
    )
    assert repr(call) == (
        "Call(method='PUT', route='/contacts/{email}', authenticated=True, success_errors=(), allow_any_body=False, "
        "use_decimal=False)"
    )
    assert KEY not in repr(response)
    assert KEY not in repr(Settings(api_key=KEY)) + repr(vars(Settings(api_key=KEY)))
    assert KEY not in repr(error_of(response))


def test_secret_behaves_like_text_otherwise() -> None:
    secret = Secret(KEY)
    assert (secret, f"{secret}", str(secret), repr(secret)) == (KEY, KEY, KEY, "'***'")
    assert pickle.loads(pickle.dumps(secret)) == KEY
    assert {secret: 1}[KEY] == 1


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("zqPlantedKey0123456789abcdefgh", "[value]"),
        ("key=zqPlantedKey0123456789abcdef;", "key=[value];"),
        ("ZQPLANTEDKEY, or 9abcdefgh", "[value], or [value]"),
        ("zqPlant is too short to tell", "zqPlant is too short to tell"),
        ("nothing of it", "nothing of it"),
        ("", ""),
    ],
)
def test_parts_of_a_secret_are_removed(text: str, shown: str) -> None:
    assert without_values(text, (Secret(KEY),)) == shown
    assert without_values("zqPlantedKey is a word", (KEY,)) == "zqPlantedKey is a word", "only parts of a secret"
