"""No content of a connection, a row, or an id changes which request is sent."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from raw_server import RawServer, http, sends

from crm_provider import errors as e
from crm_provider.client.client import CrmClient
from crm_provider.client.retry import ONE_TRY
from crm_provider.client.settings import Settings
from crm_provider.client.transport import Transport
from crm_provider.rate_limit.limiter import UnlimitedRate

from .fakes import FakeClock

KEY = "zq-planted-key-0123456789"
UUID = "123e4567-e89b-12d3-a456-426614174000"
EMAIL = "ada@example.com"

Invoke = Callable[[CrmClient, str], Any]


def everything_about(error: BaseException | None) -> str:
    """The text of an error and of the exceptions that a traceback would hide."""
    if error is None:
        return ""
    return f"{error} {error!r} {everything_about(error.__cause__)} {everything_about(error.__context__)}"


# -- connections -----------------------------------------------------------------------------------------------

HOSTILE: dict[str, dict[str, Any]] = {
    "a header in the key": {"password": f"{KEY}\r\nX-Evil: 1"},
    "a line break before the key": {"password": f"\n{KEY}"},
    "a key with NUL": {"password": f"{KEY}\0"},
    "a key that is not latin-1": {"password": f"ключ{KEY}"},
    "a key that is not ASCII": {"password": f"é{KEY}"},
    "a header in the host": {"host": f"https://crm.example/v2\r\nx: {KEY}"},
    "an encoded header in the host": {"host": f"https://crm.example%0d%0a{KEY}/v2"},
    "the key as user": {"host": f"https://{KEY}@crm.example/v2"},
    "the key as password": {"host": f"https://ada:{KEY}@crm.example/v2"},
    "the key as port": {"host": f"https://crm.example:{KEY}/v2"},
    "the key in the query": {"host": f"https://crm.example/v2?key={KEY}"},
    "the key as fragment": {"host": f"https://crm.example/v2#{KEY}"},
    "the key as host": {"host": KEY},
    "another scheme": {"host": f"ftp://crm.example/{KEY}"},
    "a file": {"host": f"file:///etc/{KEY}"},
    "no scheme": {"host": f"//crm.example/{KEY}"},
    "a backslash, which browsers treat as a slash": {"host": f"https://evil.example\\.crm.example/{KEY}"},
    "a host that ends at a semicolon for some parsers": {"host": f"https://evil.example;.crm.example/{KEY}"},
    "a path that climbs up": {"host": f"https://crm.example/v2/../{KEY}"},
    "an encoded path that climbs up": {"host": f"https://crm.example/v2/%2e%2e/{KEY}"},
    "the key as a number": {"extra": {"timeout": KEY}},
    "the key as a flag": {"extra": {"developer_mode": KEY}},
    "the key in a list": {"extra": {"burst": [KEY]}},
    "the key as a name": {"extra": {KEY: "x"}},
    "the key as a store": {"extra": {"rate_store": KEY}},
    "the key in a store's URL": {"extra": {"rate_store": f"redis://:{KEY}@h:0/"}},
    "headers": {"extra": {"headers": {"x": KEY}}},
    "disabled certificate check": {"extra": {"verify": False}},
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_connection_is_refused_and_not_quoted(name: str) -> None:
    fields: dict[str, Any] = {"host": None, "port": None, "password": KEY, "extra": {}, **HOSTILE[name]}
    with pytest.raises(e.CrmConfigurationError) as raised:
        Settings.from_fields(**fields)
    assert KEY not in everything_about(raised.value)
    assert "evil" not in everything_about(raised.value).lower()


# -- request values --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def crm() -> Iterator[tuple[RawServer, CrmClient]]:
    """A server that records its requests, and a client that does not sleep."""
    with RawServer(sends(http(b'{"data": {"id": "1", "data": []}}'))) as server:
        config, clock = Settings(api_key=KEY, base_url=server.base_url), FakeClock()
        transport = Transport(config, limiter=UnlimitedRate(), clock=clock, sleep=clock.sleep)
        yield server, CrmClient(config, transport=transport, budget=ONE_TRY)
        transport.close()


BREAKS = ["\r\nX-Evil: 1", "\n", "\r", "\0", "\x1b[2J", "\u2028", "\x85"]

TEXTS: dict[str, Invoke] = {
    "get_contact": lambda c, x: c.get_contact(f"ada{x}@example.com"),
    "create_contact": lambda c, x: c.create_contact(f"ada@example.c{x}om"),
    "update_contact": lambda c, x: c.update_contact(f"ad{x}a@example.com", attributes={"a": 1}),
    "delete_contact": lambda c, x: c.delete_contact(f"ada@{x}example.com"),
    "verify_email": lambda c, x: c.verify_email(f"ada{x}@example.com"),
    "add_contact_to_lists": lambda c, x: c.add_contact_to_lists(f"ada{x}@example.com", [UUID]),
    "list id": lambda c, x: c.add_contact_to_lists(EMAIL, [f"{UUID}{x}"]),
    "get_deal": lambda c, x: c.get_deal(f"{UUID}{x}"),
    "move_deal": lambda c, x: c.move_deal(UUID, stage_id=f"{UUID}{x}"),
    "delete_deal": lambda c, x: c.delete_deal(f"{x}{UUID}"),
    "create_deal": lambda c, x: c.create_deal(contact_id=UUID, pipeline_id=UUID, stage_id=f"{UUID}{x}"),
    "webhook": lambda c, x: c.trigger_automation(f"w{x}", "c", "f", email=EMAIL),
    "workflow": lambda c, x: c.trigger_automation("w", "c", f"f{x}", email=EMAIL),
    "path": lambda c, x: c.request("GET", f"/notes{x}"),
    "encoded path": lambda c, x: c.request("GET", f"/notes{x.encode().hex('%').join(['%', ''])}"),
    "path parameter": lambda c, x: c.request("GET", "/n/{id}", path_params={"id": f"1{x}"}),
    "method": lambda c, x: c.request(f"GET{x}", "/notes"),
}


@pytest.mark.parametrize("text", BREAKS, ids=ascii)
@pytest.mark.parametrize("name", TEXTS)
def test_control_character_is_refused_before_anything_is_sent(
    name: str, text: str, crm: tuple[RawServer, CrmClient]
) -> None:
    server, client = crm
    before = len(server.requests)
    with pytest.raises(e.CrmInvalidValueError) as raised:
        TEXTS[name](client, text)
    assert len(server.requests) == before
    assert "Evil" not in everything_about(raised.value)


WAYS_OUT = [
    "https://evil.example/v2/contacts", "//evil.example/contacts", "http:evil.example", "\\\\evil.example\\x", "",
    "contacts", "../contacts", "/../contacts", "/contacts/..", "/contacts/../deals", "/contacts/./x", "/%2e%2e/deals",
    "/contacts/%2E%2e/deals", "/contacts/..%2fdeals", "/contacts/%2e%2e%5Cdeals", "/contacts/%252e%252e/deals",
    "/contacts\\..\\deals", "/contacts?x=1", "/contacts#x", "/contacts/{id", "@evil.example/contacts", ":1/contacts",
]  # fmt: skip


@pytest.mark.parametrize("path", WAYS_OUT)
def test_values_stay_in_their_path_segment(path: str, crm: tuple[RawServer, CrmClient]) -> None:
    server, client = crm
    before = len(server.requests)
    with pytest.raises(e.CrmInvalidValueError):
        client.request("GET", path)
    assert len(server.requests) == before


@pytest.mark.parametrize("part", ["..", "."])
def test_automation_id_cannot_climb_up_the_path(part: str, crm: tuple[RawServer, CrmClient]) -> None:
    server, client = crm
    before = len(server.requests)
    for ids in ((part, "c", "f"), ("w", part, "f"), ("w", "c", part)):
        with pytest.raises(e.CrmInvalidValueError):
            client.trigger_automation(*ids, email=EMAIL)
    assert len(server.requests) == before


def first_line_and_headers(request: bytes) -> tuple[str, dict[str, str]]:
    first, *lines = request.partition(b"\r\n\r\n")[0].decode("latin-1").split("\r\n")
    return first, {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}


@settings(max_examples=50, deadline=None)
@given(email=st.emails(), value=st.text(max_size=50))
def test_request_stays_one_request(email: str, value: str, crm: tuple[RawServer, CrmClient]) -> None:
    server, client = crm
    before = len(server.requests)
    try:
        client.request("PUT", "/x/{email}", path_params={"email": email}, params={"q": value}, json={"v": value})
    except e.CrmInvalidValueError:
        assert len(server.requests) == before
        return
    line, headers = first_line_and_headers(server.requests[-1])
    assert len(server.requests) == before + 1
    assert line.split(" ")[0] == "PUT"
    assert line.partition("?")[0].count("/") == 3
    assert headers["x-api-key"] == KEY
    assert set(headers) <= {
        "host", "user-agent", "accept-encoding", "accept", "connection", "content-length", "content-type", "x-api-key",
    }  # fmt: skip
