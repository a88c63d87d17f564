"""Reading of hostile responses: within the timeout, in pieces, and never mixed up with another response.

``test_broken_ways.py`` covers the effect of each broken network on a whole call.
"""

from __future__ import annotations

import gzip
import itertools
import logging
import socket
import ssl
import zlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from broken_ways import HOST, MEGABYTE, bomb, know_host, plain_environment
from certificates import make_certificate, server_context
from raw_server import PATIENCE, Behaviour, RawServer, drips, http, sends

from crm_provider import errors as e
from crm_provider.client.body import MOST_MEMBERS, BodyRefused
from crm_provider.client.client import CrmClient
from crm_provider.client.http_session import MAX_BODY, HttpSession, TimedReader, whole_body
from crm_provider.client.request import Call
from crm_provider.client.responses import value_of
from crm_provider.client.settings import Settings
from crm_provider.client.transport import Transport

from .fakes import KEY, FakeClock, FakeRateLimiter

EMAIL = "zq.ada@example.com"
GET = Call(method="GET", route="/contacts/{email}", path_params={"email": EMAIL})
POST = Call(method="POST", route="/contacts", body={"email": EMAIL})
JSON = b'{"data": {"id": "c-1"}}'
OK = sends(http(JSON))


@pytest.fixture(autouse=True)
def no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    plain_environment(monkeypatch)


@pytest.fixture
def remote(monkeypatch: pytest.MonkeyPatch) -> str:
    """A host that is this machine but does not look like it."""
    know_host(monkeypatch)
    return HOST


@pytest.fixture
def session_for() -> Iterator[Callable[..., HttpSession]]:
    """Creates sessions: ``session_for(base_url, timeout=0.2)``."""
    made: list[HttpSession] = []

    def make(base_url: str, **options: Any) -> HttpSession:
        made.append(HttpSession(Settings(api_key=KEY, base_url=base_url, **options), user_agent="tests/1"))
        return made[-1]

    yield make
    for session in made:
        session.close()


@pytest.fixture
def failed(session_for: Callable[..., HttpSession]) -> Callable[..., e.CrmError]:
    """The error of one call to a server with this behaviour."""

    def fail(behaviour: Behaviour, call: Call = GET, **options: Any) -> e.CrmError:
        with RawServer(behaviour) as server:
            session = session_for(server.base_url, **options)
            with pytest.raises(e.CrmError) as raised:
                value_of(session.round_trip(call))
            session.close()
        assert len(server.requests) == 1, "one call sends one request"
        return raised.value

    return fail


Failed = Callable[..., e.CrmError]
SessionFor = Callable[..., HttpSession]


# -- timeouts ------------------------------------------------------------------------------------------------


def test_each_read_gets_only_the_remaining_time() -> None:
    near, far = socket.socketpair()
    clock = FakeClock(now=100.0)
    with near, far, TimedReader(near, 110.0, clock) as reader:
        far.sendall(b"abc")
        assert reader.read(1) == b"a"
        assert near.gettimeout() == 10.0
        clock.sleep(9.5)
        assert reader.read(1) == b"b"
        assert near.gettimeout() == 0.5
        clock.sleep(0.5)
        with pytest.raises(TimeoutError, match="whole response"):
            reader.read(1)
    assert far.fileno() == -1


def test_response_in_many_pieces_is_read_if_it_arrives_in_time(session_for: SessionFor) -> None:
    with RawServer(drips(b"HTTP/1.1 200 OK\r\nContent-Length: 20\r\n\r\n", b"7")) as server:
        assert value_of(session_for(server.base_url).round_trip(GET)) == int("7" * 20)


# -- large bodies --------------------------------------------------------------------------------------------


def test_body_is_decompressed_in_small_pieces() -> None:
    sizes: list[int] = []
    packed = bomb()
    raw = SimpleNamespace(stream=lambda size, decode_content: _noted([packed], size, sizes))
    with pytest.raises(BodyRefused, match="larger"):
        whole_body(SimpleNamespace(raw=raw, headers={"Content-Encoding": "gzip"}))  # type: ignore[arg-type]
    assert sizes == [64 * 1024]


def _noted(pieces: list[bytes], size: int, sizes: list[int]) -> Iterator[bytes]:
    sizes.append(size)
    yield from pieces


@pytest.mark.parametrize("piece", [1, 7, 1000])
@pytest.mark.parametrize("text", [b"", b"x", bytes(range(256)) * 700, b" " * 200_000], ids=len)
def test_gzip_is_decompressed_however_it_is_split(text: bytes, piece: int) -> None:
    packed = gzip.compress(text)
    pieces = [packed[start : start + piece] for start in range(0, len(packed), piece)]
    raw = SimpleNamespace(stream=lambda *_, **__: iter(pieces))
    response: Any = SimpleNamespace(raw=raw, headers={"Content-Encoding": "GZIP"})
    assert whole_body(response) == text
    if len(pieces) > 1:
        raw.stream = lambda *_, **__: iter(pieces[:-1])
        with pytest.raises(BodyRefused, match="cut off"):
            whole_body(response)


@pytest.mark.parametrize("encoding", ["br", "zstd", "compress", "gzip, deflate", "GZIP,gzip", "identity, br"])
def test_only_requested_encodings_are_decompressed(encoding: str, failed: Failed) -> None:
    error = failed(sends(http(zlib.compress(JSON), headers=f"Content-Encoding: {encoding}\r\n")), POST)
    assert type(error) is e.CrmProtocolError
    assert error.message == "the response has a compression that was not requested"
    assert error.outcome_known is False


def raw_deflate(text: bytes) -> bytes:
    packer = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return packer.compress(text) + packer.flush()


TWO_MEMBERS = gzip.compress(JSON[:9]) + gzip.compress(JSON[9:])


@pytest.mark.parametrize(
    ("encoding", "body"),
    [
        ("gzip", gzip.compress(JSON) + b"more behind it"),
        ("gzip", gzip.compress(JSON) + b"\x1f"),
        ("gzip", gzip.compress(JSON) + b" " * MEGABYTE),
        ("gzip", TWO_MEMBERS),
        ("gzip", gzip.compress(b"") + TWO_MEMBERS + gzip.compress(b"") + b"more behind it"),
    ],
    ids=["more behind it", "half a member", "much behind it", "two members", "empty members"],
)
def test_odd_but_harmless_gzip(encoding: str, body: bytes, session_for: SessionFor) -> None:
    with RawServer(sends(http(body, headers=f"Content-Encoding: {encoding}\r\n"))) as server:
        assert value_of(session_for(server.base_url).round_trip(GET)) == {"id": "c-1"}
    assert b"Accept-Encoding: gzip\r\n" in server.requests[0]


@pytest.mark.parametrize(
    ("encoding", "body"),
    [
        ("deflate", zlib.compress(JSON)),
        ("deflate", zlib.compress(JSON) + b"more behind it"),
        ("Deflate", raw_deflate(JSON)),
        ("gzip, identity", gzip.compress(JSON)),
        ("identity,x-gzip", gzip.compress(JSON)),
        ("utf-8", JSON),
        ("none", JSON),
        ("identity", JSON),
        (",", JSON),
    ],
    ids=lambda value: value if isinstance(value, str) else "body",
)
@pytest.mark.parametrize("piece", [1, 1000])
def test_encoding_names(encoding: str, body: bytes, piece: int) -> None:
    assert whole_body(in_pieces(encoding, cut(body, piece))) == JSON


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "br", "gzip, gzip"])
@pytest.mark.parametrize("status", ["200 OK", "204 No Content"])
def test_empty_body_with_an_encoding_is_empty(status: str, encoding: str, session_for: SessionFor) -> None:
    with RawServer(sends(http(b"", status=status, headers=f"Content-Encoding: {encoding}\r\n"))) as server:
        assert value_of(session_for(server.base_url).round_trip(POST)) == {}


@pytest.mark.parametrize("piece", [1, 2, 19, 1000])
def test_gzip_members_are_joined_however_they_are_split(piece: int) -> None:
    assert whole_body(in_pieces("gzip", cut(TWO_MEMBERS + b"more", piece))) == JSON
    with pytest.raises(BodyRefused, match="cut off"):
        whole_body(in_pieces("gzip", cut(TWO_MEMBERS[:-1], piece)))


@pytest.mark.parametrize(
    ("encoding", "body"),
    [("gzip", TWO_MEMBERS), ("deflate", zlib.compress(JSON)), ("deflate", raw_deflate(JSON)), ("identity", JSON)],
    ids=["gzip", "deflate", "raw deflate", "not packed"],
)
def test_empty_piece_is_not_the_end(encoding: str, body: bytes) -> None:
    pieces = [b"", *itertools.chain.from_iterable((piece, b"") for piece in cut(body, 1))]
    assert whole_body(in_pieces(encoding, pieces)) == JSON


def test_decompressed_rest_of_the_last_bytes_is_not_lost() -> None:
    """A text one byte longer than the decompression buffer: no input is left to read for that byte."""
    text = b" " * (64 * 1024 + 1)
    assert whole_body(in_pieces("deflate", [raw_deflate(text)])) == text


@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
@pytest.mark.parametrize("body", [b"x", b"{}", b"\x78\x9c\xff\xff", b"\x1f\x8b"], ids=repr)
def test_invalid_compression_is_refused(encoding: str, body: bytes) -> None:
    with pytest.raises(BodyRefused, match="cannot be decompressed"):
        whole_body(in_pieces(encoding, [body]))


@pytest.mark.parametrize(
    ("encoding", "start"), [("gzip", gzip.compress(b"{}")), ("deflate", zlib.compress(b"{}"))], ids=["gzip", "deflate"]
)
def test_long_tail_is_neither_read_to_its_end_nor_kept(encoding: str, start: bytes) -> None:
    """At most two pieces are in memory at any moment."""
    taken, most, before = 0, 0, Piece.alive

    def pieces() -> Iterator[bytes]:
        nonlocal taken, most
        yield start
        for _ in range(400):
            taken, most = taken + 1, max(most, Piece.alive - before)
            yield Piece(65536)

    with pytest.raises(BodyRefused, match="larger than 10 MB"):
        whole_body(in_pieces(encoding, pieces()))
    assert taken == MAX_BODY // 65536
    assert most <= 2


def test_endless_gzip_members_are_refused() -> None:
    taken = [0]

    def pieces() -> Iterator[bytes]:
        while True:
            taken[0] += 1
            yield gzip.compress(b"")

    with pytest.raises(BodyRefused, match="more than 1000 gzip members"):
        whole_body(in_pieces("gzip", pieces()))
    assert taken[0] <= MOST_MEMBERS + 2


class Piece(bytes):
    """Counts its live instances."""

    alive = 0

    def __init__(self, _size: int) -> None:
        Piece.alive += 1

    def __del__(self) -> None:
        Piece.alive -= 1


def cut(body: bytes, piece: int) -> list[bytes]:
    return [body[start : start + piece] for start in range(0, len(body), piece)]


def in_pieces(encoding: str, pieces: Iterable[bytes]) -> Any:
    """A response that arrives in these pieces."""
    raw = SimpleNamespace(stream=lambda *_, **__: iter(pieces))
    return SimpleNamespace(raw=raw, headers={"Content-Encoding": encoding})


# -- an error response whose body cannot be read -------------------------------------------------------------

UNREADABLE = {
    "packed otherwise": (b"?", "Content-Encoding: br\r\n", "the response has a compression that was not requested"),
    "not packed": (b'{"message": "x"}', "Content-Encoding: gzip\r\n", "the response cannot be decompressed"),
    "cut off": (
        gzip.compress(b"{}")[:-1],
        "Content-Encoding: gzip\r\n",
        "the response cannot be decompressed: it is cut off",
    ),
    "too large": (bomb(), "Content-Encoding: gzip\r\n", "the response is larger than 10 MB"),
}
REFUSALS: dict[str, type[e.CrmError]] = {
    "401 Unauthorized": e.CrmUnauthorizedError,
    "403 Forbidden": e.CrmForbiddenError,
    "404 Not Found": e.CrmNotFoundError,
    "409 Conflict": e.CrmConflictError,
    "422 Unprocessable": e.CrmInvalidRequestError,
    "429 Too Many": e.CrmTooManyRequestsError,
    "503 Unavailable": e.CrmServiceUnavailableError,
    "418 Teapot": e.CrmProtocolError,
    "302 Found": e.CrmProtocolError,
}


@pytest.mark.parametrize("body", UNREADABLE)
@pytest.mark.parametrize("status", REFUSALS)
def test_error_is_recognised_by_its_status(status: str, body: str, failed: Failed) -> None:
    content, headers, why = UNREADABLE[body]
    error = failed(sends(http(content, status=status, headers=f"Retry-After: 7\r\n{headers}")), POST)
    assert type(error) is REFUSALS[status]
    assert (error.status, error.retry_after) == (int(status[:3]), 7.0)
    assert why in error.message or status.startswith("302")
    assert error.outcome_known is not issubclass(REFUSALS[status], (e.CrmTransientError, e.CrmProtocolError))


def test_error_is_recognised_by_its_headers(failed: Failed) -> None:
    content, encoding, _ = UNREADABLE["packed otherwise"]
    headers = f"x-amzn-ErrorType: MissingAuthenticationTokenException\r\n{encoding}"
    error = failed(sends(http(content, status="403 Forbidden", headers=headers)), POST)
    assert error.type == "UNKNOWN_ROUTE"


@pytest.mark.parametrize(("status", "paused"), [("429 Too Many", [3.0]), ("503 Unavailable", [])])
def test_unreadable_error_response_is_retried(status: str, paused: list[float]) -> None:
    content, encoding, _ = UNREADABLE["not packed"]
    clock, limiter = FakeClock(), FakeRateLimiter()
    with RawServer(sends(http(content, status=status, headers=f"Retry-After: 3\r\n{encoding}")), OK) as server:
        settings = Settings(api_key=KEY, base_url=server.base_url)
        transport = Transport(settings, limiter=limiter, clock=clock, sleep=clock.sleep)
        assert CrmClient(settings, transport=transport)._send(GET) == {"id": "c-1"}
        transport.close()
    assert (len(server.requests), limiter.paused) == (2, paused)


# -- mixed-up responses --------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", ["204 No Content", "304 Not Modified", "200 OK"])
def test_bytes_behind_a_response_are_not_the_next_response(status: str, session_for: SessionFor) -> None:
    response = f"HTTP/1.1 {status}\r\nContent-Length: 0\r\n\r\n".encode()
    smuggled = http(b'{"data": {"id": "of somebody else"}}').replace(b"Connection: close\r\n", b"")
    with RawServer(sends(response + smuggled), OK) as server:
        session = session_for(server.base_url)
        session.round_trip(GET)
        assert server.closed.acquire(timeout=PATIENCE)
        assert value_of(session.round_trip(POST)) == {"id": "c-1"}


def test_unreadable_header_is_not_logged(session_for: SessionFor, caplog: pytest.LogCaptureFixture) -> None:
    """urllib3 warns about it, with the whole URL and the header."""
    caplog.set_level(logging.DEBUG)
    with RawServer(sends(http(JSON, headers=f"no colon but {EMAIL}\r\n"))) as server:
        session_for(server.base_url).round_trip(GET)
    logging.getLogger("urllib3.connection").info("%(other)s", {"other": "kept as it is"})
    assert "kept as it is" in caplog.text
    assert "Failed to parse headers" in caplog.text, "urllib3 does warn"
    assert "zq.ada" not in caplog.text


# -- redirects -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "location", ["/v2/other", "http://127.0.0.1:{port}/v2/contacts", "//localhost:{port}/", "", "http://["]
)
@pytest.mark.parametrize("status", ["301 Moved", "302 Found", "303 See Other", "307 Temporary", "308 Permanent"])
def test_no_redirect_is_followed(status: str, location: str, session_for: SessionFor) -> None:
    with RawServer(OK) as elsewhere:
        header = f"Location: {location.format(port=elsewhere.port)}\r\n"
        with RawServer(sends(http(b"", status=status, headers=header))) as server:
            session = session_for(server.base_url)
            with pytest.raises(e.CrmProtocolError, match="not followed, the key stays here") as raised:
                value_of(session.round_trip(POST))
    assert (len(server.requests), elsewhere.requests) == (1, [])
    assert raised.value.outcome_known is False


# -- TLS -----------------------------------------------------------------------------------------------------


def test_unknown_tls_error_is_reported_in_openssls_words(
    remote: str, session_for: SessionFor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    certificate = make_certificate(tmp_path, remote)
    context = server_context(certificate)
    context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers("ECDHE-RSA-AES128-GCM-SHA256")  # not for a key like this one
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(certificate))
    with RawServer(OK, tls=context) as server, pytest.raises(e.CrmTlsError) as raised:
        session_for(f"https://{remote}:{server.port}/v2").round_trip(POST)
    assert "the TLS handshake failed: " in raised.value.message
    assert "HANDSHAKE_FAILURE" in raised.value.message
