"""One call over every broken network: the error, the retries, and the outcome of a write. Also a table in the docs."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Callable
from itertools import groupby
from pathlib import Path
from typing import Any

import pytest
import reliability
from broken_ways import HOST, SLOW, UNREACHABLE, WAYS, Way, plain_environment
from raw_server import PATIENCE, RawServer, http

from crm_provider import errors as e
from crm_provider.client.client import CrmClient
from crm_provider.client.retry import RetryBudget
from crm_provider.client.settings import Settings
from crm_provider.client.transport import Transport
from crm_provider.rate_limit.limiter import UnlimitedRate

from .fakes import KEY, FakeClock

pytestmark = pytest.mark.reliability("call")

EMAIL = "zq.ada@example.com"
TRIES = 2

RAISED: dict[str, tuple[type[e.CrmError], str]] = {
    # fault: class and part of the message, written by hand
    "the host name does not resolve": (e.CrmConnectionError, "(DNS)"),
    "no server listens on the port": (e.CrmConnectionError, "refused"),
    "the connection times out": (e.CrmTimeoutError, "no connection in time"),
    "the TLS handshake never ends": (e.CrmTimeoutError, "no connection in time"),
    "the certificate is self-signed": (e.CrmTlsError, "self"),
    "the certificate has expired": (e.CrmTlsError, "expired"),
    "the certificate is for another host": (e.CrmTlsError, "Hostname mismatch"),
    "plain HTTP behind https://": (e.CrmTlsError, "does not use TLS"),
    "the proxy is down": (e.CrmConnectionError, "proxy (HTTPS_PROXY): the connection was refused"),
    "the proxy does not respond": (e.CrmTimeoutError, "no connection through the proxy (HTTPS_PROXY) in time"),
    "the proxy asks for a password (407)": (e.CrmConfigurationError, "status 407"),
    "the proxy forbids it (403)": (e.CrmConfigurationError, "status 403"),
    "the proxy cannot connect (502)": (e.CrmConnectionError, "status 502"),
    "the proxy itself responds with HTML": (e.CrmTlsError, "does not use TLS"),
    **dict.fromkeys(SLOW, (e.CrmTimeoutError, "no complete response in time")),
    "the connection is closed before the response": (e.CrmConnectionError, "broke"),
    "the connection is reset before the response": (e.CrmConnectionError, "reset"),
    "the connection is closed in the body": (e.CrmConnectionError, "broke"),
    "the connection is closed in a chunk": (e.CrmConnectionError, "broke"),
    "a body of 100 MB": (e.CrmProtocolError, "larger than 10 MB"),
    "an endless body": (e.CrmProtocolError, "larger than 10 MB"),
    "endless chunks": (e.CrmProtocolError, "larger than 10 MB"),
    "a gzip bomb": (e.CrmProtocolError, "larger than 10 MB"),
    "5,000 headers": (e.CrmProtocolError, "not valid HTTP"),
    "endless headers": (e.CrmProtocolError, "not valid HTTP"),
    "a header of 1 MB": (e.CrmProtocolError, "not valid HTTP"),
    "a status line of 1 MB": (e.CrmProtocolError, "not valid HTTP"),
    "a protocol other than HTTP": (e.CrmProtocolError, "not valid HTTP"),
    "Content-Length too small": (e.CrmProtocolError, "not JSON"),
    "gzip that is not gzip": (e.CrmProtocolError, "cannot be decompressed"),
    "gzip that is cut off": (e.CrmProtocolError, "cut off"),
    "a compression that was not requested": (e.CrmProtocolError, "was not requested"),
    "invalid UTF-8": (e.CrmProtocolError, "not JSON"),
    "JSON nested 100,000 deep": (e.CrmProtocolError, "not JSON"),
    "a number of 100,000 digits": (e.CrmProtocolError, "not JSON"),
    "NaN": (e.CrmProtocolError, "not JSON"),
    "two JSON texts in one body": (e.CrmProtocolError, "not JSON"),
    "an interim response (103) and nothing more": (e.CrmProtocolError, "status 103"),
    "a redirect to another host (302)": (e.CrmProtocolError, "not followed, the key stays here"),
    "a redirect to another host (307, keeps the method)": (e.CrmProtocolError, "not followed, the key stays here"),
    "a redirect to the same host (301)": (e.CrmProtocolError, "not followed, the key stays here"),
    "an HTML page with status 200": (e.CrmProtocolError, "is a proxy in the way?"),
    "an HTML page with status 403": (e.CrmForbiddenError, "is a proxy in the way?"),
    "an HTML page with status 407": (e.CrmProtocolError, "is a proxy in the way?"),
    "an HTML page with status 502": (e.CrmBadGatewayError, "is a proxy in the way?"),
}


AGAIN = (e.CrmConnectionError, e.CrmTimeoutError, e.CrmBadGatewayError)
"""Errors that the next attempt may not have."""


@pytest.fixture(params=WAYS)
def fault(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def client_of(base_url: str, *, timeout: float) -> CrmClient:
    """A client that does not sleep and makes two attempts."""
    settings, clock = Settings(api_key=KEY, base_url=base_url, timeout=timeout), FakeClock()
    budget = RetryBudget(tries=TRIES)
    transport = Transport(settings, limiter=UnlimitedRate(), clock=clock, sleep=clock.sleep)
    return CrmClient(settings, transport=transport, budget=budget)


def failed(way: Way, call: Callable[[CrmClient], Any], *, timeout: float) -> e.CrmError:
    client = client_of(way.base_url, timeout=timeout)
    with pytest.raises(e.CrmError) as raised:
        call(client)
    client.close()
    return raised.value


def methods_of(way: Way, count: int) -> list[str]:
    """The received requests. Waits until the server has seen that many, since the client may be gone before."""
    end = time.monotonic() + PATIENCE
    while len(way.requests) < count and time.monotonic() < end:
        time.sleep(0.002)
    methods = [request.split(b" ", 1)[0].decode() for request in way.requests]
    way.requests.clear()
    return methods


def test_one_call_per_fault(
    fault: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, observed: Callable[..., None]
) -> None:
    expected, text = RAISED[fault]
    timeout = 0.1 if expected is e.CrmTimeoutError else 30.0
    again = expected in AGAIN
    sent = 0 if fault in UNREACHABLE else TRIES if again else 1
    plain_environment(monkeypatch)
    with WAYS[fault](monkeypatch, tmp_path) as way:
        read = failed(way, lambda client: client.get_contact(EMAIL), timeout=timeout)
        reads = methods_of(way, sent)
        write = failed(way, lambda client: client.create_contact(EMAIL), timeout=timeout)
        writes = methods_of(way, sent)
    assert (type(read), type(write)) == (expected, expected)
    assert text in read.message
    assert read.message == write.message
    assert read.outcome_known is True
    assert write.outcome_known is (fault in UNREACHABLE or expected is e.CrmForbiddenError)
    assert read.attempts == (TRIES if again else 1)
    assert reads == ["GET"] * sent
    assert writes == ["POST", "GET"][:sent], "a POST is not repeated but verified by a read"
    for secret in (EMAIL, KEY, "s3cret"):
        assert secret not in f"{read!s}{write!s}{read.as_dict()}"
    observed(
        fault=fault,
        hits="a read; a create",
        ends="raised" + (f", after {TRIES} attempts" if again else ", at once"),
        requests=f"{_counted(reads)}; {_counted(writes)}",
        data="nothing was sent" if fault in UNREACHABLE else _known(write),
        error=read,
    )


def test_keep_alive_connection_closed_before_reuse(observed: Callable[..., None]) -> None:
    contact = {"id": "c-1", "email": EMAIL}
    whole = http(json.dumps({"data": contact}).encode()).replace(b"Connection: close\r\n", b"")
    seconds: list[bytes] = []

    def responds_only_once(connection: socket.socket) -> None:
        connection.sendall(whole)
        seconds.append(connection.recv(65536))

    with RawServer(responds_only_once) as server:
        client = client_of(server.base_url, timeout=30)
        assert client.get_contact(EMAIL) == contact
        assert client.create_contact(EMAIL) == contact
        client.close()
        assert all(server.closed.acquire(timeout=PATIENCE) for _ in range(2)), "no connection stays open"
    assert [request.split(b" ", 1)[0] for request in server.requests] == [b"GET", b"GET"]
    assert [request.split(b" ", 1)[0] for request in seconds[:1]] == [b"POST"]
    observed(
        fault=STALE,
        hits="a create",
        ends="success",
        requests="1 POST, 1 GET",
        data="read back, on a new connection: nothing lost, nothing duplicated",
    )


STALE = "a kept-alive connection is closed when it is used again"


def _counted(methods: list[str]) -> str:
    return ", ".join(f"{len(list(same))} {method}" for method, same in groupby(methods)) or "none"


def _known(write: e.CrmError) -> str:
    return "the create was refused" if write.outcome_known else "the create may have happened, and the error says so"


def test_every_line_of_the_table_has_a_test() -> None:
    lines = {*((fault, "a read; a create") for fault in WAYS), (STALE, "a create")}
    assert set(reliability.tables(reliability.DOCUMENT)["call"]) == lines
    assert set(RAISED) == set(WAYS)
    assert HOST.endswith(".test"), "a reserved name"
