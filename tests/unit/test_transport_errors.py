"""Errors raised by ``requests`` or ``urllib3``, and their log lines. No server is needed."""

from __future__ import annotations

import http.client
import logging
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import requests.exceptions as r
import urllib3.exceptions as u

from crm_provider.client import body as bodies
from crm_provider.client import http_session, transport_errors
from crm_provider.client.request import Call

POST = Call(method="POST", route="/contacts", body={"email": "ada@x.io"})
GET = Call(method="GET", route="/contacts")


@pytest.mark.parametrize(
    ("broken", "sent", "type_", "text"),
    [
        (r.InvalidJSONError("nan"), False, "INVALID_VALUE", "the body cannot be converted to JSON"),
        (r.InvalidURL("x"), False, "CONFIGURATION", "requests refused to send it (InvalidURL)"),
        (r.InvalidHeader("x"), False, "CONFIGURATION", "requests refused to send it (InvalidHeader)"),
        (r.ConnectionError(u.InvalidHeader("two lengths")), True, "PROTOCOL", None),
        (r.ConnectionError(http.client.LineTooLong("header line")), True, "PROTOCOL", None),
        (r.ConnectionError(http.client.IncompleteRead(b"")), True, "CONNECTION", None),
        (r.ReadTimeout("x"), True, "TIMEOUT", None),
    ],
)
@pytest.mark.parametrize("call", [GET, POST], ids=lambda call: call.method)
def test_reported_error(broken: Exception, sent: bool, type_: str, text: str | None, call: Call) -> None:
    error = transport_errors.transport_error(broken, call, sent=sent, proxied=False)
    assert error.type == type_
    assert text is None or error.message == text
    assert error.outcome_known is not (sent and call.method == "POST")
    assert (error.method, error.path) == (call.method, "/contacts")


@pytest.mark.parametrize(
    ("sent", "advice"),
    [
        (False, "check the network, the proxy and the base URL from the worker"),
        (True, "try again later, or raise the timeout in the connection's extra"),
    ],
)
def test_advice_for_a_timeout_depends_on_whether_anything_was_sent(sent: bool, advice: str) -> None:
    error = transport_errors.transport_error(r.ConnectTimeout("x"), GET, sent=sent, proxied=False)
    assert (error.type, error.suggested_action) == ("TIMEOUT", advice)


def test_invalid_chunk_sizes_are_refused() -> None:
    def pieces(size: int, *, decode_content: bool) -> Iterator[bytes]:
        yield b"{"
        raise ValueError("invalid literal for int() with base 16: b'-5'")

    response: Any = SimpleNamespace(raw=SimpleNamespace(stream=pieces), headers={})
    with pytest.raises(bodies.BodyRefused, match=r"^the response has invalid chunks$"):
        http_session.whole_body(response)


@pytest.mark.parametrize(
    ("arguments", "logged"),
    [
        (
            ("https://x.io/ada@x.io", "/contacts/ada@x.io", 200, ValueError("ada@x.io")),
            ("/...", "/...", 200, "ValueError"),
        ),
        ({"name": "x"}, {"name": "x"}),
        (None, None),
    ],
)
def test_paths_and_errors_stay_out_of_the_log_of_urllib3(arguments: Any, logged: Any) -> None:
    record = logging.LogRecord("urllib3", logging.DEBUG, __file__, 1, "said", None, None)
    record.args = arguments
    assert http_session._HidePaths().filter(record)
    assert record.args == logged
