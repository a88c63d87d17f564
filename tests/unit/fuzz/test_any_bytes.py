"""Any bytes from a server give a value or a CrmError, which can be pickled and shows nothing of the body."""

from __future__ import annotations

import gzip
import io
import json
import pickle
from typing import Any

import pytest
import urllib3.connection
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from crm_provider import errors as e
from crm_provider.client.http_session import HttpSession
from crm_provider.client.request import Call
from crm_provider.client.responses import value_of
from crm_provider.client.settings import Settings

KEY = "k3y-of-the-account"
POST = Call(method="POST", route="/contacts", body={"email": "ada@example.com"})
JSON = b'{"message": "ok", "data": {"id": "1"}}'


class Scripted:
    """A socket that has received these bytes and was then closed; http.client and urllib3 read it like any other."""

    def __init__(self, sent: bytes) -> None:
        self._sent = sent

    def makefile(self, *_: Any, buffering: int = -1, **__: Any) -> Any:
        return io.BytesIO(self._sent) if buffering == 0 else io.BufferedReader(io.BytesIO(self._sent))  # type: ignore[arg-type]

    def nothing(self, *_: Any) -> None: ...

    sendall = close = settimeout = setsockopt = shutdown = nothing


STATUS = st.one_of(
    st.sampled_from(
        [
            b"HTTP/1.1 200 OK", b"HTTP/1.1 201", b"HTTP/1.0 302 Found", b"HTTP/1.1 404 x", b"HTTP/1.1 500 x",
            b"HTTP/1.1 204 n", b"HTTP/1.1 304 n", b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK", b"HTTP/1.1 101 x",
            b"HTTP/9.9 200 OK", b"HTTP/1.1 099 x", b"HTTP/1.1 999 x", b"HTTP/1.1 2_0 x", b"HTTP/1.1 abc", b"ICY 200",
            b"", b"HTTP/1.1 -20",
        ]
    ),
    st.binary(max_size=20),
)  # fmt: skip
NAMES = [b"Content-Encoding", b"Location", b"Transfer-Encoding", b"Content-Length", b"Set-Cookie", b"Content-Type",
         b"Retry-After", b"Date", b"X-Amzn-RequestId", b"Connection", b"Trailer"]  # fmt: skip
VALUE = st.one_of(
    st.binary(max_size=20),
    st.sampled_from(
        [
            b"gzip", b"deflate", b"br", b"zstd", b"gzip, gzip", b",".join([b"gzip"] * 9), b"chunked", b"chunked, gzip",
            b"5", b"5, 5", b"5, 6", b"-5", b"9" * 30, b"0", b"http://[", b"//[::", b"\xff\xfe", b"/a@b", b"http:///",
            b"http://user:pw@evil.example/", b"http://a:b:c/", b"http://" + b"a" * 300 + b"/", b"http://xn--/",
            b"http://a..b/", b"javascript:1", b"a=b; expires=Tue, 35 Foo 2090", b"a=b; max-age=x", b"=; =;;",
            b"application/json", b"text/html; charset=x-none",
        ]
    ),
)  # fmt: skip
HEADERS = st.lists(
    st.tuples(st.sampled_from(NAMES), VALUE).map(b": ".join) | st.just(b"Transfer-Encoding: chunked") | st.binary(),
    max_size=4,
)
CHUNK = st.tuples(
    st.sampled_from([b"-1", b"-5", b"5", b"0", b"ffffffff", b"", b"zz", b"26", b"1_0", b"5;x=y"])
    | st.binary(max_size=5),
    st.just(JSON) | st.binary(max_size=30),
)
BODY = st.one_of(
    st.sampled_from([JSON, b"", gzip.compress(JSON), gzip.compress(JSON)[:10], b"26\r\n" + JSON + b"\r\n0\r\n\r\n"]),
    st.binary(max_size=60),
    st.lists(CHUNK, max_size=3).map(lambda chunks: b"".join(size + b"\r\n" + data + b"\r\n" for size, data in chunks)),
)


def result_of(sent: bytes, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The result of one POST: a value, or the error that it raises."""
    monkeypatch.setattr(urllib3.connection.HTTPConnection, "_new_conn", lambda _: Scripted(sent))
    session = HttpSession(Settings(api_key=KEY, base_url="http://127.0.0.1:9/v2"), user_agent="tests/1")
    try:
        return value_of(session.round_trip(POST))
    except e.CrmError as error:
        return error
    finally:
        session.close()


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(status=STATUS, headers=HEADERS, body=BODY, end=st.sampled_from([b"\r\n", b"\n"]))
@example(status=b"HTTP/1.1 302 x", headers=[b"Location: \xff\xfe"], body=b"", end=b"\r\n")
@example(status=b"HTTP/1.1 302 x", headers=[b"Location: http://["], body=JSON, end=b"\r\n")
@example(status=b"HTTP/1.1 200 x", headers=[b"Content-Length: 5, 6"], body=JSON, end=b"\r\n")
@example(status=b"HTTP/1.1 200 x", headers=[b"Transfer-Encoding: chunked"], body=b"-5\r\n" + JSON, end=b"\r\n")
@example(status=b"HTTP/1.1 200 x", headers=[b"Set-Cookie: a=b; expires=" + b"9" * 5000], body=JSON, end=b"\r\n")
def test_any_bytes_are_a_value_or_a_crm_error(
    monkeypatch: pytest.MonkeyPatch, status: bytes, headers: list[bytes], body: bytes, end: bytes
) -> None:
    found = result_of(status + end + b"".join(header + end for header in headers) + end + body, monkeypatch)
    if not isinstance(found, e.CrmError):
        assert b"HTTP" in status or b"ICY" in status or not status.strip()
        return
    assert "ada@example.com" not in str(found) and KEY not in str(found)
    assert not isinstance(found, e.CrmAccessError) or found.status in (401, 403)
    assert found.status is not None or found.outcome_known is False, "a POST that was sent may have been processed"
    json.dumps(found.as_dict(), ensure_ascii=False).encode()
    assert str(pickle.loads(pickle.dumps(found))) == str(found)
