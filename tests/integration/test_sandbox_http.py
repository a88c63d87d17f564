"""The sandbox over real HTTP: paths, keys, limits, envelopes, start and stop."""

from __future__ import annotations

import json
import logging
import os
import socket
import threading
import time
from contextlib import suppress
from urllib.parse import quote, urlsplit

import pytest
import requests

from crm_provider.sandbox import Sandbox, SandboxSettings

KEY = {"x-api-key": "sandbox-key"}


def has_ipv6() -> bool:
    """Whether this machine has an IPv6 loopback; many containers have none."""
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        return False
    return True


ODD = [
    "a+b@example.com",
    "a/b@example.com",
    "a%b@example.com",
    "a%2Fb@example.com",
    "a#b@example.com",
    "a?b@example.com",
]
LOOPBACK = ["localhost", *(["::1"] if has_ipv6() else [])]


@pytest.mark.crm_sandbox(seed="empty", rate=None)
@pytest.mark.parametrize("email", ODD)
def test_email_with_special_characters_is_stored_unchanged(crm_sandbox: Sandbox, email: str) -> None:
    created = requests.post(f"{crm_sandbox.url}/contacts", json={"email": email}, headers=KEY, timeout=60)
    assert created.json()["data"]["email"] == email
    found = requests.get(f"{crm_sandbox.url}/contacts/{quote(email, safe='')}", headers=KEY, timeout=60)
    assert (found.status_code, found.json()["data"]["email"]) == (200, email)
    assert list(crm_sandbox.store.contacts) == [email]


def test_third_simultaneous_call_is_throttled(crm_sandbox: Sandbox) -> None:
    crm_sandbox.configure(rate=0.001)  # three calls exceed the limit even on a slow machine
    with requests.Session() as session:
        responses = [session.get(f"{crm_sandbox.url}/segments", headers=KEY, timeout=60) for _ in range(3)]
    assert [response.status_code for response in responses] == [200, 200, 429]
    assert responses[2].headers["x-amzn-ErrorType"] == "TooManyRequestsException"
    assert "Retry-After" not in responses[2].headers
    assert crm_sandbox.counters().throttled == 1


@pytest.mark.crm_sandbox(envelope="v2-text", success="flat", api_key="other", rate=None)
def test_sandbox_marker_sets_the_settings(crm_sandbox: Sandbox) -> None:
    def get(email: str) -> requests.Response:
        return requests.get(f"{crm_sandbox.url}/contacts/{email}", headers={"x-api-key": "other"}, timeout=60)

    assert get("ada@example.com").json()["email"] == "ada@example.com"
    assert get("no@example.com").json() == {"message": "Contact not found."}


@pytest.mark.crm_sandbox(rate=None)
def test_kept_alive_connection_has_no_delay(crm_sandbox: Sandbox) -> None:
    """Without TCP_NODELAY each response would take 40 ms. The option is tested, for a busy machine is slow, too."""
    with requests.get(f"{crm_sandbox.url}/segments", headers=KEY, timeout=60, stream=True) as response:
        client = response.raw.connection.sock.getsockname()  # type: ignore[union-attr]
        connections = list(crm_sandbox._server._server.server_state.connections)  # type: ignore[union-attr]
        (mine,) = (connection for connection in connections if connection.client == client)
        assert mine.transport.get_extra_info("socket").getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


@pytest.mark.crm_sandbox(rate=None)
def test_delayed_response_blocks_no_other_call(crm_sandbox: Sandbox) -> None:
    crm_sandbox.add_fault(effect="latency", latency=3600, method="POST")
    with socket.create_connection(address(crm_sandbox)) as slow:
        host = urlsplit(crm_sandbox.url).netloc
        head = f"POST /v2/contacts HTTP/1.1\r\nhost: {host}\r\nx-api-key: sandbox-key\r\ncontent-length: 25\r\n\r\n"
        slow.sendall(head.encode() + b'{"email":"n@example.com"}')
        until_called(crm_sandbox)
        found = requests.get(f"{crm_sandbox.url}/contacts/n@example.com", headers=KEY, timeout=60)
        slow.setblocking(False)
        with pytest.raises(BlockingIOError):
            slow.recv(1)
    assert found.status_code == 200


@pytest.mark.crm_sandbox(rate=None)
def test_parallel_creations_create_one_contact(crm_sandbox: Sandbox) -> None:
    def create() -> None:
        requests.post(f"{crm_sandbox.url}/contacts", json={"email": "n@example.com"}, headers=KEY, timeout=60)

    threads = [threading.Thread(target=create) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    counters = crm_sandbox.counters()
    assert (counters.total, counters.duplicate_contacts) == (8, 7)


def get_or_disconnect(session: requests.Session, url: str) -> None:
    """Send a delayed request. When the server stops it either responds or closes the connection."""
    with suppress(requests.ConnectionError):
        session.get(url, headers=KEY)


def until_called(sandbox: Sandbox) -> None:
    """Wait until the sandbox has received a call."""
    deadline = time.monotonic() + 60
    while not sandbox.counters().total:
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_stop_closes_connections_and_frees_the_port(
    capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.DEBUG, logger="uvicorn"):
        sandbox = Sandbox(seed="empty", rate=None)
        sandbox.add_fault(effect="latency", latency=60)
        with sandbox, requests.Session() as session, socket.create_connection(address(sandbox)) as idle:
            half = socket.create_connection(address(sandbox))
            half.sendall(b"POST /v2/contacts HTTP/1.1\r\nhost: localhost\r\ncontent-length: 10\r\n\r\n12")
            session.get(f"{sandbox.root_url}/__sandbox__/ready", timeout=60)
            waiting = threading.Thread(target=get_or_disconnect, args=[session, f"{sandbox.url}/segments"])
            waiting.start()
            until_called(sandbox)
            before = time.perf_counter()
            sandbox.stop()
            assert time.perf_counter() - before < 30, "stop() does not wait for delayed responses"
            waiting.join(60)
            assert not waiting.is_alive()
            assert idle.recv(1) == half.recv(1) == b""
            half.close()
    assert not sandbox.running
    assert capfd.readouterr() == ("", "")
    assert [record.message for record in caplog.records if record.levelno >= logging.WARNING] == []
    with Sandbox(seed="empty", port=address(sandbox)[1]) as again:
        assert again.url == sandbox.url


def test_sandbox_cannot_start_twice_or_on_a_used_port(crm_sandbox: Sandbox) -> None:
    with pytest.raises(RuntimeError, match="running already"):
        crm_sandbox.start()
    with pytest.raises(OSError, match="in use"):
        Sandbox(seed="empty", port=address(crm_sandbox)[1]).start()


@pytest.mark.parametrize("host", LOOPBACK)
def test_sandbox_listens_on_other_loopback_addresses(host: str) -> None:
    with Sandbox(seed="empty", host=host) as sandbox:
        assert requests.get(f"{sandbox.url}/segments", headers=KEY, timeout=60).status_code == 200


def test_connection_fixture_points_to_the_sandbox(crm_sandbox: Sandbox, crm_connection: str) -> None:
    assert crm_connection == "crm_default"
    assert json.loads(os.environ["AIRFLOW_CONN_CRM_DEFAULT"]) == {
        "conn_type": "crm",
        "host": crm_sandbox.url,
        "password": "sandbox-key",
        "extra": {},
    }
    assert "127.0.0.1" in os.environ["NO_PROXY"].split(",")
    assert json.loads(crm_sandbox.connection_json(timeout=2))["extra"] == {"timeout": 2}


@pytest.mark.parametrize("name", ["first", "second"])
def test_sandbox_fixture_is_reset_for_each_test(crm_sandbox: Sandbox, name: str) -> None:
    assert crm_sandbox.settings == SandboxSettings()
    assert crm_sandbox.counters().total == 0
    assert crm_sandbox.faults() == []
    assert len(crm_sandbox.store.contacts) == 11
    crm_sandbox.store.create_contact(f"{name}@example.com")
    crm_sandbox.add_fault(effect="drop")
    crm_sandbox.configure(rate=None)
    with pytest.raises(requests.ConnectionError):
        requests.get(crm_sandbox.url + "/contacts", headers=KEY, timeout=60)


def address(sandbox: Sandbox) -> tuple[str, int]:
    host, _, port = sandbox.root_url.removeprefix("http://").rpartition(":")
    return host, int(port)
