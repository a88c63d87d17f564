"""The ASGI app: foreign hosts and web pages, request bodies, admin paths, and response dates."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Any

import pytest
from starlette.types import Message, Scope

from crm_provider.sandbox import Fault, ManualClock, SandboxSettings, settings
from crm_provider.sandbox.gateway import Gateway
from crm_provider.sandbox.http_server import MAX_BODY, SandboxApp, _read_body
from crm_provider.sandbox.seeds import snapshot

PORT = 8000
HOST = f"127.0.0.1:{PORT}"
JSON = {"content-type": "application/json"}
KEY = {"x-api-key": "sandbox-key"}
WEBHOOK = "/v2/webhook/a/c/b/w/c"


@dataclass(frozen=True)
class Response:
    status: int
    headers: dict[str, str]
    json: Any


def call(
    gateway: Gateway,
    method: str,
    path: str,
    headers: dict[str, str] | None = None,
    body: bytes = b"",
    *,
    host: str = HOST,
    allowed_hosts: Iterable[str] = (),
) -> Response:
    """Send one request to the app in this process.

    :param path: decoded, as uvicorn passes it
    """
    sent: list[Message] = []
    scope: Scope = {
        "type": "http",
        "method": method,
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "headers": [(name.encode(), value.encode()) for name, value in {"host": host, **(headers or {})}.items()],
        "server": ("127.0.0.1", PORT),
    }

    async def receive() -> Message:
        return {"type": "http.request", "body": body}

    async def send(message: Message) -> None:
        sent.append(message)

    asyncio.run(SandboxApp(gateway, allowed_hosts=allowed_hosts)(scope, receive, send))
    received = [(name.decode(), value.decode()) for name, value in sent[0]["headers"]]
    assert [name for name, _ in received].count("date") == 1
    content = b"".join(message["body"] for message in sent[1:])
    return Response(sent[0]["status"], dict(received), json.loads(content) if content[:1] == b"{" else None)


# -- hosts ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/v2/contacts", "/__sandbox__/snapshot"])
@pytest.mark.parametrize(
    "host",
    [
        f"evil.example:{PORT}",
        "evil.example",
        f"127.0.0.1.evil.example:{PORT}",
        f"localhost.evil.example:{PORT}",
        f"192.168.1.5:{PORT}",
        f"0.0.0.0:{PORT}",
        f"[2001:db8::1]:{PORT}",
        "127.0.0.1",
        "127.0.0.1:8001",
        f"user@127.0.0.1:{PORT}",
        "127.0.0.1:",
        "",
    ],
)
def test_foreign_host_is_refused(gateway: Gateway, host: str, path: str) -> None:
    refused = call(gateway, "GET", path, KEY, host=host)
    assert refused.status == 421
    assert "--allowed-host" in str(refused.json)
    assert "ada@example.com" not in str(refused.json)


@pytest.mark.parametrize("host", [HOST, f"localhost:{PORT}", f"LOCALHOST:{PORT}", f"[::1]:{PORT}", f"127.8.8.8:{PORT}"])
def test_loopback_names_and_addresses_are_served(gateway: Gateway, host: str) -> None:
    assert call(gateway, "GET", "/v2/contacts", KEY, host=host).status == 200
    assert call(gateway, "GET", "/__sandbox__/ready", host=host).status == 200


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("crm-sandbox", 200),
        ("CRM-Sandbox:9", 200),
        ("proxy:9000", 200),
        ("proxy:9001", 421),
        ("other", 421),
        (HOST, 200),
    ],
)
def test_allowed_hosts_are_served(gateway: Gateway, host: str, status: int) -> None:
    allowed = ["crm-sandbox", "proxy:9000"]
    assert call(gateway, "GET", "/__sandbox__/ready", host=host, allowed_hosts=allowed).status == status


# -- web pages ------------------------------------------------------------------------------------------------

FOREIGN = [
    {"origin": "https://evil.example"},
    {"origin": "null"},
    {"origin": "http://localhost:3000"},
    {"origin": f"http://{HOST}.evil.example"},
    {"sec-fetch-site": "cross-site"},
    {"sec-fetch-site": "same-site"},
    {"origin": f"http://{HOST}", "sec-fetch-site": "cross-site"},
]


@pytest.mark.parametrize("headers", FOREIGN, ids=str)
@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("POST", "/__sandbox__/reset", b""),
        ("POST", "/__sandbox__/seed", b'{"seed": "empty"}'),
        ("DELETE", "/__sandbox__/faults", b""),
        ("GET", "/__sandbox__/snapshot", b""),
        ("OPTIONS", "/__sandbox__/reset", b""),
        ("POST", WEBHOOK, b'{"email": "a@example.com"}'),
    ],
)
def test_cross_site_page_can_neither_read_nor_write(
    gateway: Gateway, method: str, path: str, body: bytes, headers: dict[str, str]
) -> None:
    gateway.store.create_contact("new@example.com")
    gateway.faults.add(Fault(effect="drop", path="/deals"))
    before = snapshot(gateway.store)
    refused = call(gateway, method, path, {**JSON, **headers}, body)
    assert refused.status == 403
    assert "other sites" in str(refused.json)
    assert not [name for name in refused.headers if name.startswith("access-control")]
    assert snapshot(gateway.store) == before
    assert (len(gateway.faults.statuses()), gateway.store.automations) == (1, ())


@pytest.mark.parametrize(
    "headers", [{"origin": f"http://{HOST}"}, {"sec-fetch-site": "same-origin"}, {"sec-fetch-site": "none"}]
)
def test_same_site_requests_are_served(gateway: Gateway, headers: dict[str, str]) -> None:
    assert call(gateway, "POST", "/__sandbox__/reset", {**JSON, **headers}).status == 200


@pytest.mark.parametrize(
    "media_type",
    [
        None,
        "",
        "text/plain",
        "application/x-www-form-urlencoded",
        "multipart/form-data; boundary=x",
        "text/plain; a=application/json",
    ],
)
@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/reset"),
        ("POST", "/seed"),
        ("PATCH", "/settings"),
        ("DELETE", "/faults"),
        ("DELETE", "/faults/drop-1"),
    ],
)
def test_admin_write_must_be_json(gateway: Gateway, method: str, path: str, media_type: str | None) -> None:
    gateway.store.create_contact("new@example.com")
    gateway.faults.add(Fault(effect="drop"))
    headers = {} if media_type is None else {"content-type": media_type}
    refused = call(gateway, method, f"/__sandbox__{path}", headers, b'{"seed": "empty"}')
    assert refused.status == 415
    assert f"curl -X {method} -H 'Content-Type: application/json'" in refused.json["detail"]
    assert len(gateway.faults.statuses()) == 1
    assert "new@example.com" in gateway.store.contacts


def test_media_type_may_have_parameters_and_any_case(gateway: Gateway) -> None:
    headers = {"content-type": "Application/JSON; charset=utf-8"}
    assert call(gateway, "POST", "/__sandbox__/reset", headers).status == 200


# -- bodies ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("path", "field"), [("/v2/contacts", "message"), ("/__sandbox__/seed", "detail")])
def test_body_above_the_limit_is_refused(gateway: Gateway, path: str, field: str) -> None:
    refused = call(gateway, "POST", path, {**KEY, **JSON}, b" " * (MAX_BODY + 1))
    assert refused.status == 413
    assert refused.json[field].startswith("Request Too Long")
    assert gateway.journal.counters().total == 0


def test_body_at_the_limit_is_read(gateway: Gateway) -> None:
    body = b'{"email": "n@example.com"}'.ljust(MAX_BODY)
    assert call(gateway, "POST", "/v2/contacts", {**KEY, **JSON}, body).status == 201


def test_endless_body_is_not_buffered() -> None:
    piece, sent = b"x" * (MAX_BODY // 2), 20

    async def receive() -> Message:
        nonlocal sent
        sent -= 1
        return {"type": "http.request", "body": piece, "more_body": sent > 0}

    body = asyncio.run(_read_body(receive))
    assert body is not None
    assert MAX_BODY < len(body) <= MAX_BODY + len(piece)
    assert sent == 0


# -- admin paths ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("DELETE", "/faults/a\nb", 404),
        ("DELETE", "/faults/\n", 404),
        ("DELETE", "/faults/a/b", 404),
        ("DELETE", "/faults/", 404),
        ("GET", "/nope", 404),
        ("GET", "/nope\n/x", 404),
        ("GET", "", 404),
        ("GET", "/", 404),
        ("GET", "//ready", 404),
        ("GET", "/ready/", 404),
        ("PUT", "/faults", 405),
        ("OPTIONS", "/reset", 405),
        ("BREW", "/ready", 405),
    ],
)
def test_unknown_admin_path_is_not_an_api_call(gateway: Gateway, method: str, path: str, status: int) -> None:
    response = call(gateway, method, f"/__sandbox__{path}", JSON)
    assert response.status == status
    assert set(response.json) == {"detail"}
    assert gateway.journal.counters().total == 0


def test_path_similar_to_an_admin_path_belongs_to_the_api(gateway: Gateway) -> None:
    assert call(gateway, "GET", "/__sandbox__x/ready").json == {"message": "Missing Authentication Token"}


def test_deeply_nested_admin_body_is_refused(gateway: Gateway) -> None:
    assert call(gateway, "POST", "/__sandbox__/faults", JSON, b"[" * 100_000).status in (400, 422)


# -- time -----------------------------------------------------------------------------------------------------


def test_response_date_comes_from_the_clock_of_the_records(clock: ManualClock) -> None:
    gateway = Gateway(SandboxSettings(rate=None), clock=clock)
    clock.advance(3600.5)
    created = call(gateway, "POST", "/v2/contacts", {**KEY, **JSON}, b'{"email": "n@example.com"}')
    contact = call(gateway, "GET", "/v2/contacts/n@example.com", KEY).json["data"]
    gateway.faults.add(Fault(effect="html", path="/deals"))
    others = [
        call(gateway, "GET", "/v2/deals", KEY),
        call(gateway, "GET", "/v2/nope"),
        call(gateway, "GET", "/__sandbox__/ready"),
        call(gateway, "GET", "/__sandbox__/nope"),
        call(gateway, "GET", "/v2/contacts", host="evil.example"),
    ]
    assert contact["createdAt"] == "2025-01-01T01:00:00.500Z"
    assert {one.headers["date"] for one in [created, *others]} == {"Wed, 01 Jan 2025 01:00:00 GMT"}


def test_seeded_contact_is_older_than_a_created_one(gateway: Gateway) -> None:
    created = gateway.store.create_contact("n@example.com").created_at
    assert all(
        seeded.created_at < created for email, seeded in gateway.store.contacts.items() if email != "n@example.com"
    )
    assert len(gateway.store.contacts) == 12


def test_date_header_format() -> None:
    now = ManualClock().now()
    assert settings.http_date(now) == "Wed, 01 Jan 2025 00:00:00 GMT"
    assert parsedate_to_datetime(settings.http_date(now)) == now
