"""Real HTTP with a local server: requests, responses, and network failures."""

from __future__ import annotations

import base64
import gzip
import json
import logging
import socket
import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

import pytest
from certificates import make_certificate, server_context
from raw_server import PATIENCE, Behaviour, RawServer, closes, http, sends
from urllib3.util.wait import wait_for_read

from crm_provider import __version__
from crm_provider import errors as e
from crm_provider.client.client import CrmClient
from crm_provider.client.http_session import MAX_BODY, HttpSession
from crm_provider.client.request import Call
from crm_provider.client.responses import value_of
from crm_provider.client.retry import ONE_TRY
from crm_provider.client.settings import Settings
from crm_provider.client.transport import Transport
from crm_provider.rate_limit.limiter import UnlimitedRate

from .fakes import KEY, FakeClock

EMAIL = "zq.ada+x/y%z@example.com"
GET = Call(method="GET", route="/contacts/{email}", path_params={"email": EMAIL})
POST = Call(method="POST", route="/contacts", body={"email": EMAIL, "attributes": {"name": "Jörg Ω", "n": 1}})
OK = sends(http(b'{"data": {"id": "c-1"}}'))

PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "NETRC")


@pytest.fixture(autouse=True)
def no_proxy_around_the_tests(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in PROXIES:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)


def session_for(base_url: str, **options: Any) -> HttpSession:
    return HttpSession(Settings(api_key=KEY, base_url=base_url, **options), user_agent="tests/1")


def exchange(server: RawServer, call: Call = GET, **options: Any) -> Any:
    """The content of the response to one call."""
    session = session_for(server.base_url, **options)
    try:
        return value_of(session.round_trip(call))
    finally:
        session.close()


def failed(behaviour: Behaviour, call: Call = GET, **options: Any) -> e.CrmError:
    """The error of one call to a server with this behaviour."""
    with RawServer(behaviour) as server, pytest.raises(e.CrmError) as raised:
        exchange(server, call, **options)
    return raised.value


def head_of(request: bytes) -> tuple[str, dict[str, str]]:
    """Request line and headers, with lower-case names."""
    line, *rest = request.partition(b"\r\n\r\n")[0].decode().split("\r\n")
    return line, {name.lower(): value for name, _, value in (text.partition(": ") for text in rest)}


# -- requests ------------------------------------------------------------------------------------------------


def test_read_request() -> None:
    with RawServer(OK) as server:
        assert exchange(server) == {"id": "c-1"}
    line, headers = head_of(server.requests[0])
    assert line == "GET /v2/contacts/zq.ada%2Bx%2Fy%25z%40example.com HTTP/1.1"
    assert headers["x-api-key"] == KEY
    assert (headers["accept"], headers["user-agent"]) == ("application/json", "tests/1")
    assert not {"authorization", "cookie", "x-developer-mode", "content-type"} & set(headers)


def test_write_request() -> None:
    with RawServer(OK) as server:
        assert exchange(server, POST) == {"id": "c-1"}
    line, headers = head_of(server.requests[0])
    assert (line, headers["content-type"]) == ("POST /v2/contacts HTTP/1.1", "application/json")
    assert json.loads(server.requests[0].partition(b"\r\n\r\n")[2]) == POST.body


@pytest.mark.parametrize("body", [{}, [], 0, False, ""], ids=repr)
def test_empty_body_is_sent_unchanged(body: Any) -> None:
    with RawServer(OK) as server:
        exchange(server, Call(method="POST", route="/notes", body=body))
    assert json.loads(server.requests[0].partition(b"\r\n\r\n")[2]) == body


def test_query_is_encoded() -> None:
    with RawServer(OK) as server:
        exchange(server, Call(method="GET", route="/contacts", query={"page": 0, "q": "a b&c=d"}))
    assert head_of(server.requests[0])[0] == "GET /v2/contacts?page=0&q=a+b%26c%3Dd HTTP/1.1"


def test_developer_mode() -> None:
    with RawServer(OK) as server:
        exchange(server, developer_mode=True)
    assert head_of(server.requests[0])[1]["x-developer-mode"] == "true"


def test_automation_call_is_sent_without_the_key() -> None:
    with RawServer(OK) as server:
        exchange(
            server,
            Call(method="POST", route="/webhook/{webhookId}", path_params={"webhookId": "s"}, authenticated=False),
        )
    assert KEY.encode() not in server.requests[0]


def test_user_agent_names_the_products() -> None:
    with RawServer(OK) as server:
        settings = Settings(api_key=KEY, base_url=server.base_url)
        transport = Transport(settings, limiter=UnlimitedRate(), user_agent="airflow/3.3.2")
        CrmClient(settings, transport=transport)._send(GET)
        transport.close()
    products = head_of(server.requests[0])[1]["user-agent"].split()
    assert [product.split("/")[0] for product in products] == ["airflow-provider-crm", "airflow", "python"]
    assert products[0] == f"airflow-provider-crm/{__version__}"


# -- responses -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("response", "value"),
    [
        (http(b""), {}),
        (http(b"", status="204 No Content"), {}),
        (b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n[1]", [1]),
        (b"HTTP/1.0 200 OK\r\n\r\n[1]", [1]),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n[1\r\n1\r\n]\r\n0\r\n\r\n", [1]),
        (http(gzip.compress(b"[1]"), headers="Content-Encoding: gzip\r\n"), [1]),
        (http(b"[1]", headers="Content-Type: text/html\r\n"), [1]),
        (b"HTTP/1.1 100 Continue\r\n\r\n" + http(b"[1]"), [1]),
    ],
    ids=["empty", "204", "until close", "HTTP/1.0", "chunked", "gzip", "any content type", "100 first"],
)
def test_response_in_any_form(response: bytes, value: Any) -> None:
    with RawServer(sends(response)) as server:
        assert exchange(server) == value


def test_status_and_headers_are_returned() -> None:
    response = http(b"{}", status="429 Slow Down", headers="Retry-After: 7\r\nX-Amzn-RequestId: r-1\r\n")
    error = failed(sends(response))
    assert (error.type, error.status, error.retry_after, error.request_id) == ("TOO_MANY_REQUESTS", 429, 7.0, "r-1")


def test_cookie_is_not_kept() -> None:
    with RawServer(sends(http(b"", headers="Set-Cookie: a=b; Path=/\r\n"))) as server:
        session = session_for(server.base_url)
        session.round_trip(GET)
        session.round_trip(GET)
        session.close()
    assert len(server.requests) == 2
    assert b"a=b" not in server.requests[1]


def test_connection_closed_by_the_server_after_a_response_is_reopened() -> None:
    kept_open = b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n[1]"
    with RawServer(sends(kept_open)) as server:
        session = session_for(server.base_url)
        for _ in range(3):
            assert value_of(session.round_trip(POST)) == [1]
            assert sees_that_the_server_closed(session)
        session.close()
    assert len(server.requests) == 3


def sees_that_the_server_closed(session: HttpSession) -> bool:
    """Wait for it: this side may learn later that the other side closed the connection."""
    (pool,) = session._session.get_adapter("http://")._pools  # type: ignore[attr-defined]
    (kept,) = (connection.sock for connection in pool.pool.queue if connection is not None)
    return wait_for_read(kept, timeout=PATIENCE)


# -- failures ------------------------------------------------------------------------------------------------


def test_earlier_error_does_not_affect_the_call() -> None:
    """A call is made while another error is handled. The refused connection of that error is not one of this call."""

    def refuse() -> NoReturn:
        raise ConnectionRefusedError

    with RawServer(closes) as server:
        try:
            refuse()
        except ConnectionRefusedError:
            with pytest.raises(e.CrmConnectionError) as raised:
                exchange(server, POST)
    assert raised.value.outcome_known is False
    assert "refused" not in raised.value.message


@pytest.mark.parametrize("value", [float("nan"), 10**5000], ids=["no number", "a number too long for text"])
def test_unserializable_body_is_not_a_lost_write(value: Any) -> None:
    """The calls check their values. If one gets through, it must not look like a broken connection."""
    with RawServer(OK) as server, pytest.raises(e.CrmError) as raised:
        exchange(server, Call(method="POST", route="/notes", body={"x": value}))
    assert server.requests == []
    assert raised.value.outcome_known is True
    assert not isinstance(raised.value, e.CrmTransientError)


def test_our_error_does_not_chain_the_error_of_requests() -> None:
    error = failed(closes)
    assert error.__cause__ is None
    assert error.__context__ is None


# -- large responses -----------------------------------------------------------------------------------------


def test_body_of_the_maximum_size_is_read() -> None:
    body = json.dumps("x" * (MAX_BODY - 2)).encode()
    with RawServer(sends(http(body))) as server:
        assert len(exchange(server)) == MAX_BODY - 2


# -- the key stays here --------------------------------------------------------------------------------------


@pytest.mark.parametrize("trust_env", [False, True], ids=["as it is", "as for a remote CRM"])
def test_netrc_is_not_used(trust_env: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login ada password s3cret\ndefault login ada password s3cret\n")
    netrc.chmod(0o600)
    monkeypatch.setenv("NETRC", str(netrc))
    with RawServer(OK) as server:
        session = session_for(server.base_url)
        session._session.trust_env = trust_env
        session.round_trip(GET)
        session.round_trip(Call(method="GET", route="/segments", authenticated=False))
        session.close()
    assert ["authorization" in head_of(request)[1] for request in server.requests] == [False, False]
    assert head_of(server.requests[0])[1]["x-api-key"] == KEY


@pytest.mark.parametrize("name", ["HTTP_PROXY", "http_proxy", "ALL_PROXY"])
def test_proxy_of_the_environment_is_not_used_for_this_machine(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with RawServer(OK) as server, RawServer(OK) as proxy:
        monkeypatch.setenv(name, f"http://127.0.0.1:{proxy.port}")
        assert exchange(server) == {"id": "c-1"}
    assert (len(server.requests), proxy.requests) == (1, [])


def test_proxy_of_the_environment_is_used_for_a_remote_crm_and_sees_no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    with RawServer(sends(http(b"", status="502 Bad Gateway"))) as proxy:
        monkeypatch.setenv("HTTPS_PROXY", f"http://127.0.0.1:{proxy.port}")
        session = session_for("https://crm.example/v2")
        with pytest.raises(e.CrmConnectionError) as raised:
            session.round_trip(POST)
        session.close()
    assert raised.value.outcome_known is True, "nothing reached the CRM"
    assert proxy.requests[0].startswith(b"CONNECT crm.example:443 HTTP/1.")
    assert KEY.encode() not in proxy.requests[0]


# -- TLS -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A self-signed certificate for 127.0.0.1, with its key."""
    return make_certificate(tmp_path_factory.mktemp("tls"), "127.0.0.1")


@pytest.fixture
def tls(certificate: Path) -> ssl.SSLContext:
    return server_context(certificate)


@pytest.fixture
def trusting(certificate: Path) -> Iterator[Any]:
    """Creates sessions that trust the certificate."""
    made = []

    def make(server: RawServer) -> HttpSession:
        session = session_for(server.base_url)
        session._session.verify = str(certificate)
        made.append(session)
        return session

    yield make
    for session in made:
        session.close()


def test_trusted_certificate_is_accepted(tls: ssl.SSLContext, trusting: Any) -> None:
    with RawServer(OK, tls=tls) as server:
        assert value_of(trusting(server).round_trip(GET)) == {"id": "c-1"}


def test_tls_broken_during_the_handshake_is_a_broken_connection() -> None:
    """For example, a load balancer restarts: key and certificate are fine, so a retry makes sense."""
    with RawServer(closes) as server:
        session = session_for(server.base_url.replace("http:", "https:"))
        with pytest.raises(e.CrmConnectionError) as raised:
            session.round_trip(POST)
        session.close()
    assert raised.value.outcome_known is True


def garbles(connection: socket.socket) -> None:
    """Write bytes to the socket outside TLS."""
    assert isinstance(connection, ssl.SSLSocket)
    with socket.socket(fileno=connection.detach()) as raw:
        raw.sendall(b"garbage" * 10)


@pytest.mark.parametrize("behaviour", [closes, garbles], ids=["closed", "garbled"])
def test_tls_broken_after_the_request_leaves_a_write_unsure(
    behaviour: Behaviour, tls: ssl.SSLContext, trusting: Any
) -> None:
    with RawServer(behaviour, tls=tls) as server, pytest.raises(e.CrmError) as raised:
        trusting(server).round_trip(POST)
    assert len(server.requests) == 1
    assert raised.value.outcome_known is False
    assert not isinstance(raised.value, e.CrmAccessError), "the key and the certificate are valid"


# -- nothing leaks -------------------------------------------------------------------------------------------


BROKEN: dict[str, Behaviour] = {
    "closed": closes,
    "no HTTP": sends(b"SSH-2.0-OpenSSH_9.9\r\n\r\n"),
    "HTML": sends(http(b"<html><title>502 Bad Gateway</title></html>")),
    "redirect": sends(http(b"", status="302 Found", headers="Location: https://evil.test/\r\n")),
}


@pytest.mark.parametrize("name", BROKEN)
def test_neither_error_nor_log_shows_email_or_key(name: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    call = Call(method="PUT", route="/contacts/{email}", path_params={"email": EMAIL}, body={"name": "Zq Planted"})
    error = failed(BROKEN[name], call)
    text = f"{error} {error!r} {error.args} {error.as_dict()} {caplog.text}"
    encoded = base64.b64encode(EMAIL.encode()).decode()
    leaks = [EMAIL, "zq.ada", KEY, "Zq Planted", encoded]
    assert [leak for leak in leaks if leak in text] == []


@pytest.mark.parametrize(
    "call",
    [
        GET,
        Call(method="POST", route="/segments/add-contact/{email}", path_params={"email": EMAIL}),
        Call(method="POST", route="/email-verification/{email}", path_params={"email": EMAIL}),
        Call(
            method="POST",
            route="/webhook/{webhookId}/c/{channelUid}",
            path_params={"webhookId": EMAIL, "channelUid": EMAIL},
        ),
        Call(method="GET", route="/contacts", query={"email": EMAIL}),
        Call(method="GET", route="/people/{email}", path_params={"email": EMAIL}),
    ],
    ids=["contact", "lists", "verification", "webhook", "query", "an unknown path"],
)
def test_urllib3_logs_show_no_email(call: Call, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    with RawServer(OK) as server:
        exchange(server, call)
    assert "urllib3" in caplog.text, "urllib3 does log"
    assert "zq.ada" not in caplog.text


# -- all layers ----------------------------------------------------------------------------------------------


def client_of(server: RawServer) -> CrmClient:
    """A client that does not sleep."""
    settings, clock = Settings(api_key=KEY, base_url=server.base_url), FakeClock()
    transport = Transport(settings, limiter=UnlimitedRate(), clock=clock, sleep=clock.sleep)
    return CrmClient(settings, transport=transport)


def test_ping_is_one_request_in_any_case() -> None:
    with RawServer(closes) as server:
        client = client_of(server)
        with pytest.raises(e.CrmConnectionError):
            client.ping()
        client.close()
    assert len(server.requests) == 1
    assert ONE_TRY.tries == 1
