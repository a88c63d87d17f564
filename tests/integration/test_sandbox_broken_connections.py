"""Broken connections: the bytes that a client receives. The server prints and logs nothing."""

from __future__ import annotations

import json
import logging
import socket
from collections.abc import Iterator
from urllib.parse import urlsplit

import pytest
import requests

from crm_provider.sandbox import Sandbox
from crm_provider.sandbox.faults import LARGE

KEY = {"x-api-key": "sandbox-key"}
pytestmark = pytest.mark.crm_sandbox(rate=None)


@pytest.fixture(autouse=True)
def quiet(crm_sandbox: Sandbox, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """The server prints nothing and logs no warning."""
    with caplog.at_level(logging.INFO):
        yield
        # After one more round trip the server has finished the broken call, including its logs.
        requests.get(f"{crm_sandbox.root_url}/__sandbox__/ready", timeout=60)
    assert capfd.readouterr() == ("", "")
    assert [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING] == []


def raw(sandbox: Sandbox, request: bytes) -> bytes:
    """All bytes until the server closes the connection. A reset raises an error."""
    where = urlsplit(sandbox.url)
    with socket.create_connection((str(where.hostname), int(where.port or 0)), timeout=60) as connection:
        connection.sendall(request)
        received = bytearray()
        while chunk := connection.recv(65536):
            received += chunk
    return bytes(received)


def post(sandbox: Sandbox, email: str) -> bytes:
    body = b'{"email": "%s"}' % email.encode()
    host = urlsplit(sandbox.url).netloc.encode()
    head = b"POST /v2/contacts HTTP/1.1\r\nhost: %b\r\nx-api-key: sandbox-key\r\ncontent-length: %d\r\n\r\n"
    return head % (host, len(body)) + body


@pytest.mark.parametrize(("effect", "applied"), [("drop", False), ("lost", True)])
def test_drop_and_lost_close_the_connection_without_a_response(
    crm_sandbox: Sandbox, effect: str, applied: bool
) -> None:
    crm_sandbox.add_fault(effect=effect)
    assert raw(crm_sandbox, post(crm_sandbox, "n@example.com")) == b""
    assert ("n@example.com" in crm_sandbox.store.contacts) is applied
    (noted,) = crm_sandbox.journal()
    assert (noted.status, noted.applied, noted.fault) == (None, applied, f"{effect}-1")


def test_drop_closes_a_kept_alive_connection(crm_sandbox: Sandbox) -> None:
    crm_sandbox.add_fault(effect="drop", nth=2)
    received = raw(crm_sandbox, post(crm_sandbox, "n@example.com") + post(crm_sandbox, "m@example.com"))
    assert received.count(b"HTTP/1.1 ") == 1
    assert received.startswith(b"HTTP/1.1 201")


def test_truncate_cuts_off_the_response(crm_sandbox: Sandbox) -> None:
    crm_sandbox.add_fault(effect="truncate", variant="closed")
    head, _, body = raw(crm_sandbox, post(crm_sandbox, "n@example.com")).partition(b"\r\n\r\n")
    (length,) = (int(line.split(b":")[1]) for line in head.split(b"\r\n") if line.startswith(b"content-length"))
    assert len(body) == length // 2
    with pytest.raises(requests.exceptions.ChunkedEncodingError):
        requests.get(f"{crm_sandbox.url}/contacts/n@example.com", headers=KEY, timeout=60)


def test_drip_sends_single_bytes(crm_sandbox: Sandbox) -> None:
    crm_sandbox.add_fault(effect="drip", latency=0.001)
    response = requests.get(f"{crm_sandbox.url}/segments", headers=KEY, timeout=60, stream=True)
    pieces = list(response.raw.stream(1))
    assert json.loads(b"".join(pieces))["data"]["total"] == len(crm_sandbox.store.lists)
    assert len(pieces) == int(response.headers["content-length"])


def test_client_may_close_a_dripping_response(crm_sandbox: Sandbox) -> None:
    crm_sandbox.add_fault(effect="drip", count=1)
    with requests.get(f"{crm_sandbox.url}/segments", headers=KEY, timeout=60, stream=True) as response:
        assert response.raw.read(1) == b"{"
    assert requests.get(f"{crm_sandbox.url}/segments", headers=KEY, timeout=60).ok


@pytest.mark.parametrize("variant", ["plain", "gzip"])
def test_large_response_may_be_compressed(crm_sandbox: Sandbox, variant: str) -> None:
    crm_sandbox.add_fault(effect="large", variant=variant)
    with requests.get(f"{crm_sandbox.url}/segments", headers=KEY, timeout=60, stream=True) as response:
        sent = int(response.headers["content-length"])
        unpacked = sum(len(piece) for piece in response.iter_content(1024 * 1024))
    assert unpacked > LARGE
    assert (sent < LARGE / 100) is (variant == "gzip")


def test_incomplete_request_is_not_in_the_journal(crm_sandbox: Sandbox) -> None:
    where = urlsplit(crm_sandbox.url)
    with socket.create_connection((str(where.hostname), int(where.port or 0)), timeout=60) as connection:
        connection.sendall(post(crm_sandbox, "n@example.com")[:-3])
    assert requests.get(f"{crm_sandbox.url}/segments", headers=KEY, timeout=60).ok
    assert [noted.route for noted in crm_sandbox.journal()] == ["/segments"]
