"""Network faults by name: networks, certificates, proxies, and servers with invalid responses."""

from __future__ import annotations

import functools
import gzip
import socket
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from certificates import make_certificate, server_context
from raw_server import (
    Behaviour,
    RawServer,
    closes,
    connects_to_a_page,
    drips,
    hangs,
    http,
    pours,
    refusing_port,
    resets,
    sends,
)

HOST = "crm.test"
"""A host name of this machine that the client does not treat as local."""

JSON = b'{"data": {"id": "c-1", "email": "ada@example.com"}}'
PAGE = b"<!DOCTYPE html><html><title>Blocked by your company</title></html>"
MEGABYTE = 1024 * 1024

_ENVIRONMENT = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")


@dataclass(frozen=True)
class Way:
    """A connection to the CRM.

    :param requests: requests that reached the CRM or the server in its place, but not those that reached only a proxy
    """

    base_url: str
    requests: list[bytes] = field(default_factory=list)


Broken = Callable[[pytest.MonkeyPatch, Path], AbstractContextManager[Way]]
"""Breaks the connection until the end of the ``with`` block. The folder is for certificates."""


def plain_environment(patch: pytest.MonkeyPatch) -> None:
    """Remove proxies and CA bundles of the developer's environment."""
    for name in _ENVIRONMENT:
        patch.delenv(name, raising=False)
        patch.delenv(name.lower(), raising=False)


def know_host(patch: pytest.MonkeyPatch, host: str = HOST) -> None:
    """Resolve the name to this machine."""
    known = socket.getaddrinfo

    def resolve(name: Any, *arguments: Any, **keywords: Any) -> Any:
        return known("127.0.0.1" if name == host else name, *arguments, **keywords)

    patch.setattr(socket, "getaddrinfo", resolve)


# -- responses -----------------------------------------------------------------------------------------------


def chunked(start: str = "") -> bytes:
    return f"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n{start}\r\n".encode()


def packed(body: bytes, encoding: str = "gzip") -> Behaviour:
    return sends(http(body, headers=f"Content-Encoding: {encoding}\r\n"))


@functools.cache
def bomb(layers: int = 1) -> bytes:
    """A small body that unpacks to four times the limit of the client."""
    found = b" " * (40 * MEGABYTE)
    for _ in range(layers):
        found = gzip.compress(found, 1)
    return found


def goes_off(connection: socket.socket) -> None:
    packed(bomb())(connection)


def redirects(location: str, status: str = "302 Found") -> Behaviour:
    return sends(http(b"", status=status, headers=f"Location: {location}\r\n"))


SLOW: Mapping[str, Behaviour] = {
    "the server accepts and does not respond": hangs,
    "the status line comes byte by byte": drips(b"HTTP/1.1 200 "),
    "a header comes byte by byte": drips(b"HTTP/1.1 200 OK\r\nX-Slow: "),
    "endless interim responses (100)": drips(b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
    "the body comes byte by byte": drips(b"HTTP/1.1 200 OK\r\nContent-Length: 99999\r\n\r\n", b" "),
    "the body comes byte by byte, of unknown length": drips(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n", b" "),
    "chunks come byte by byte": drips(chunked(), b"1\r\n \r\n"),
    "the size of a chunk never ends": drips(chunked(), b"0"),
    "gzip comes byte by byte": drips(
        b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\n\r\n" + gzip.compress(b"")[:10], b"\0\0\0\xff\xff"
    ),
}
"""Responses that never end, although each read gets data in time."""

CUT: Mapping[str, Behaviour] = {
    "the connection is closed before the response": closes,
    "the connection is reset before the response": resets,
    "the connection is closed in the body": sends(b"HTTP/1.1 200 OK\r\nContent-Length: 999\r\n\r\n" + JSON),
    "the connection is closed in a chunk": sends(chunked() + b"99\r\n" + JSON),
}

LARGE: Mapping[str, Behaviour] = {
    "a body of 100 MB": pours(b"HTTP/1.1 200 OK\r\nContent-Length: 104857600\r\n\r\n" + JSON, b" " * 65536),
    "an endless body": pours(b"HTTP/1.1 200 OK\r\n\r\n" + JSON, b" " * 65536),
    "endless chunks": pours(chunked(), b"10000\r\n" + b" " * 65536 + b"\r\n"),
    "a gzip bomb": goes_off,
}

FLOODS: Mapping[str, Behaviour] = {
    "5,000 headers": sends(http(JSON, headers="X-H: 1\r\n" * 5000)),
    "endless headers": drips(b"HTTP/1.1 200 OK\r\n", b"X-H: 1\r\n" * 20),
    "a header of 1 MB": sends(http(JSON, headers=f"X-H: {'x' * MEGABYTE}\r\n")),
    "a status line of 1 MB": sends(b"HTTP/1.1 200 " + b"x" * MEGABYTE + b"\r\n\r\n"),
    "a protocol other than HTTP": sends(b"220 mail.example ESMTP\r\n"),
}

NONSENSE: Mapping[str, Behaviour] = {
    "Content-Length too small": sends(b"HTTP/1.1 200 OK\r\nContent-Length: 20\r\n\r\n" + JSON),
    "gzip that is not gzip": packed(JSON),
    "gzip that is cut off": packed(gzip.compress(JSON)[:-9]),
    "a compression that was not requested": packed(JSON, "br"),
    "invalid UTF-8": sends(http(b'{"data": {"id": "\xff\xfe\xfd"}}')),
    "JSON nested 100,000 deep": sends(http(b"[" * 100_000 + b"]" * 100_000)),
    "a number of 100,000 digits": sends(http(b'{"data": {"id": ' + b"9" * 100_000 + b"}}")),
    "NaN": sends(http(b'{"data": {"id": NaN}}')),
    "two JSON texts in one body": sends(http(JSON + JSON)),
    "an interim response (103) and nothing more": sends(b"HTTP/1.1 103 Early Hints\r\n\r\n"),
    "a redirect to another host (302)": redirects("https://login.corp.test/"),
    "a redirect to another host (307, keeps the method)": redirects("https://login.corp.test/", "307 Temporary"),
    "a redirect to the same host (301)": redirects("/v2/elsewhere", "301 Moved"),
    "an HTML page with status 200": sends(http(PAGE)),
    "an HTML page with status 403": sends(http(PAGE, status="403 Forbidden")),
    "an HTML page with status 407": sends(http(PAGE, status="407 Proxy Authentication Required")),
    "an HTML page with status 502": sends(http(PAGE, status="502 Bad Gateway")),
}


def answered(behaviour: Behaviour) -> Broken:
    """A server with this behaviour in place of the CRM."""

    @contextmanager
    def broken(patch: pytest.MonkeyPatch, folder: Path) -> Iterator[Way]:
        with RawServer(behaviour) as server:
            yield Way(server.base_url, server.requests)

    return broken


# -- networks ------------------------------------------------------------------------------------------------


@contextmanager
def unknown_host(patch: pytest.MonkeyPatch, folder: Path) -> Iterator[Way]:
    known = socket.getaddrinfo

    def resolve(name: Any, *arguments: Any, **keywords: Any) -> Any:
        if name == "crm.invalid":
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return known(name, *arguments, **keywords)

    patch.setattr(socket, "getaddrinfo", resolve)
    yield Way("https://crm.invalid/v2")


@contextmanager
def no_listener(patch: pytest.MonkeyPatch, folder: Path) -> Iterator[Way]:
    with refusing_port() as port:
        yield Way(f"http://127.0.0.1:{port}/v2")


@contextmanager
def dropped(patch: pytest.MonkeyPatch, folder: Path) -> Iterator[Way]:
    """The connection is neither accepted nor refused, as with a firewall or a full queue."""
    connect = socket.socket.connect

    def never(sock: socket.socket, address: Any) -> None:
        if address[1] == port:
            raise TimeoutError("timed out")
        connect(sock, address)

    with refusing_port() as port:
        patch.setattr(socket.socket, "connect", never)
        yield Way(f"http://127.0.0.1:{port}/v2")


# -- TLS -----------------------------------------------------------------------------------------------------


def certified(*hosts: str, trusted: bool = True, expired: bool = False) -> Broken:
    """A server with a trusted or untrusted certificate for these hosts."""

    @contextmanager
    def broken(patch: pytest.MonkeyPatch, folder: Path) -> Iterator[Way]:
        certificate = make_certificate(folder, *hosts, expired=expired)
        know_host(patch)
        if trusted:
            patch.setenv("REQUESTS_CA_BUNDLE", str(certificate))
        with RawServer(sends(http(JSON)), tls=server_context(certificate)) as server:
            yield Way(f"https://{HOST}:{server.port}/v2", server.requests)

    return broken


@contextmanager
def no_tls(patch: pytest.MonkeyPatch, folder: Path) -> Iterator[Way]:
    know_host(patch)
    with RawServer(sends(http(JSON))) as server:
        yield Way(f"https://{HOST}:{server.port}/v2")


@contextmanager
def no_handshake(patch: pytest.MonkeyPatch, folder: Path) -> Iterator[Way]:
    know_host(patch)
    with socket.create_server(("127.0.0.1", 0)) as listener:  # nothing accepts the connections
        yield Way(f"https://{HOST}:{listener.getsockname()[1]}/v2")


# -- proxies -------------------------------------------------------------------------------------------------


def proxied(behaviour: Behaviour | None) -> Broken:
    """``HTTPS_PROXY`` names a proxy with this behaviour, or one that is down."""

    @contextmanager
    def broken(patch: pytest.MonkeyPatch, folder: Path) -> Iterator[Way]:
        if behaviour is None:
            with refusing_port() as port:
                patch.setenv("HTTPS_PROXY", f"http://127.0.0.1:{port}")
                yield Way(f"https://{HOST}/v2")
            return
        with RawServer(behaviour) as proxy:
            patch.setenv("HTTPS_PROXY", f"http://user:s3cret@127.0.0.1:{proxy.port}")
            yield Way(f"https://{HOST}/v2")

    return broken


UNREACHABLE: Mapping[str, Broken] = {
    "the host name does not resolve": unknown_host,
    "no server listens on the port": no_listener,
    "the connection times out": dropped,
    "the TLS handshake never ends": no_handshake,
    "the certificate is self-signed": certified(HOST, trusted=False),
    "the certificate has expired": certified(HOST, expired=True),
    "the certificate is for another host": certified("other.test"),
    "plain HTTP behind https://": no_tls,
    "the proxy is down": proxied(None),
    "the proxy does not respond": proxied(hangs),
    "the proxy asks for a password (407)": proxied(sends(http(PAGE, status="407 Proxy Authentication Required"))),
    "the proxy forbids it (403)": proxied(sends(http(PAGE, status="403 Forbidden"))),
    "the proxy cannot connect (502)": proxied(sends(http(PAGE, status="502 Bad Gateway"))),
    "the proxy itself responds with HTML": proxied(connects_to_a_page),
}
"""No part of a request reaches the CRM."""

ANSWERED: Mapping[str, Behaviour] = {**SLOW, **CUT, **LARGE, **FLOODS, **NONSENSE}

WAYS: Mapping[str, Broken] = {**UNREACHABLE, **{name: answered(behaviour) for name, behaviour in ANSWERED.items()}}
"""All network faults."""
