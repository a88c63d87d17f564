"""Faults in a worker's environment: a proxy or certificate error has a type and names the variable."""

from __future__ import annotations

import socket
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from broken_ways import HOST, know_host, plain_environment
from certificates import make_certificate, server_context
from raw_server import RawServer, http, sends

from crm_provider import errors as e
from crm_provider.client.client import CrmClient
from crm_provider.client.settings import Settings
from crm_provider.client.transport import Transport
from crm_provider.rate_limit.limiter import UnlimitedRate

from .fakes import KEY, FakeClock

PASSWORD = "s3cret"


@pytest.fixture(autouse=True)
def _plain(monkeypatch: pytest.MonkeyPatch) -> None:
    plain_environment(monkeypatch)
    for name in ("ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)


def failed(base_url: str) -> e.CrmError:
    """The error of a read, with the usual retries."""
    settings, clock = Settings(api_key=KEY, base_url=base_url, timeout=10), FakeClock()
    transport = Transport(settings, limiter=UnlimitedRate(), clock=clock, sleep=clock.sleep)
    with CrmClient(settings, transport=transport) as client, pytest.raises(e.CrmError) as raised:
        client.get_contact("ada@example.com")
    return raised.value


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[RawServer]:
    """An HTTPS server that is not treated as this machine."""
    know_host(monkeypatch)
    with RawServer(sends(http(b"{}")), tls=server_context(make_certificate(tmp_path, HOST))) as running:
        yield running


def missing(folder: Path) -> Path:
    return folder / "not-there.pem"


def empty(folder: Path) -> Path:
    path = folder / "empty.pem"
    path.touch()
    return path


def a_folder(folder: Path) -> Path:
    path = folder / "certificates"
    path.mkdir()
    return path


@pytest.mark.parametrize("variable", ["REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"])
@pytest.mark.parametrize(
    ("bundle", "error"), [(missing, e.CrmConfigurationError), (empty, e.CrmTlsError), (a_folder, e.CrmTlsError)]
)
def test_unusable_certificates(
    variable: str,
    bundle: Callable[[Path], Path],
    error: type[e.CrmError],
    server: RawServer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv(variable, str(bundle(tmp_path)))
    raised = failed(f"https://{HOST}:{server.port}/v2")
    assert type(raised) is error
    assert variable in raised.message
    assert raised.attempts == 1, "not retried"
    assert raised.outcome_known
    assert server.requests == []


@pytest.mark.parametrize(
    ("proxy", "problem"),
    [
        (f"http://ada:{PASSWORD}#x@proxy.test:3128", "write '#' as %23"),
        (f"http://ada:{PASSWORD}/x@proxy.test:3128", "'/' as %2F"),
        (f"http://ada:12#{PASSWORD}@proxy.test:3128", "write '#' as %23"),
        (f"http://ada:12/{PASSWORD}@proxy.test:3128", "'/' as %2F"),
        ("http://", "is not the address of a proxy"),
        ("proxy of the office", "is not the address of a proxy"),
        ("http://proxy.test:port", "is not the address of a proxy"),
        ("http://proxy.test:99999", "is not the address of a proxy"),
        ("gopher://proxy.test:70", "is not the address of a proxy"),
    ],
)
@pytest.mark.parametrize("variable", ["HTTPS_PROXY", "https_proxy", "ALL_PROXY"])
def test_invalid_proxy_address(variable: str, proxy: str, problem: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def resolve(*_: Any, **__: Any) -> Any:
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    monkeypatch.setenv(variable, proxy)
    raised = failed("https://crm.example.com/v2")
    assert type(raised) is e.CrmConfigurationError
    assert f"the environment variable {variable} " in raised.message
    assert problem in raised.message
    assert raised.attempts == 1, "not retried"
    for text in (PASSWORD, "ada@", "ada:", "office"):
        assert text not in str(raised)


def test_socks_proxy_without_its_library(monkeypatch: pytest.MonkeyPatch) -> None:
    from requests import adapters

    def no_library(*_: Any, **__: Any) -> Any:
        raise adapters.InvalidSchema("Missing dependencies for SOCKS support.")

    monkeypatch.setattr(adapters, "SOCKSProxyManager", no_library)
    monkeypatch.setenv("ALL_PROXY", f"socks5://ada:{PASSWORD}@proxy.test:1080")
    raised = failed("https://crm.example.com/v2")
    assert type(raised) is e.CrmConfigurationError
    assert raised.message == (
        "the environment variable ALL_PROXY names a SOCKS proxy, which needs a library that is not installed; install "
        "it (pip install 'requests[socks]') or use an HTTP proxy"
    )
    assert raised.attempts == 1


@pytest.mark.parametrize(
    ("host", "named"),
    [
        ("crm.example.com", "the host name crm.example.com is not known (DNS)"),
        (f"zq{'x1' * 14}", "the host name is not known (DNS)"),
    ],
)
def test_unresolvable_host_is_named_unless_it_may_be_a_key(
    host: str, named: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def resolve(*_: Any, **__: Any) -> Any:
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    raised = failed(f"https://{host}/v2")
    assert type(raised) is e.CrmConnectionError
    assert raised.message == named


def test_variables_do_not_affect_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "proxy of the office")
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(Path(sys.prefix) / "not-there"))
    with RawServer(sends(http(b"[]"))) as local:
        raised = failed(f"http://127.0.0.1:{local.port}/v2")
    assert type(raised) is e.CrmProtocolError, "it received the request"
