"""A small real server that sends exactly the given bytes, or breaks the connection at a given point."""

from __future__ import annotations

import contextlib
import re
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing_extensions import Self

Behaviour = Callable[[socket.socket], None]
"""Acts on a connection after one complete request was read."""

PATIENCE = 60.0
"""Seconds to wait for a connection and for the end of the server, also on a very slow machine."""


def sends(response: bytes) -> Behaviour:
    """Send these bytes, then close."""
    return lambda connection: connection.sendall(response)


def http(body: bytes, *, status: str = "200 OK", headers: str = "") -> bytes:
    """A complete and valid response, the last one on its connection."""
    return f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\nConnection: close\r\n{headers}\r\n".encode() + body


def drips(start: bytes, drop: bytes = b"x", *, pause: float = 0.005) -> Behaviour:
    """Send the start, and then single drops until the client disconnects or is clearly broken."""

    def behave(connection: socket.socket) -> None:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.sendall(start)
        for _ in range(12_000):
            connection.sendall(drop)
            time.sleep(pause)

    return behave


def pours(start: bytes, water: bytes, seen: list[int] | None = None) -> Behaviour:
    """Send the start, and then more until the client disconnects or has read 200 MB. Add the bytes to ``seen``."""

    def behave(connection: socket.socket) -> None:
        connection.sendall(start)
        poured = [0] if seen is None else seen
        while poured[0] < 200 * 1024 * 1024:
            connection.sendall(water)
            poured[0] += len(water)

    return behave


def connects_to_a_page(connection: socket.socket) -> None:
    """Like a proxy that accepts CONNECT and then sends HTML itself."""
    connection.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
    connection.recv(65536)
    connection.sendall(http(b"<!DOCTYPE html><html>Please log in</html>"))


def hangs(connection: socket.socket) -> None:
    """Send nothing until the client disconnects."""
    with contextlib.suppress(OSError):
        connection.recv(1)


def closes(connection: socket.socket) -> None:
    """Close the connection without a response."""


def resets(connection: socket.socket) -> None:
    """Reset the connection."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\x00\x00\x00\x00\x00\x00\x00")
    connection.close()


class RawServer:
    """Listens on a free port of this machine and handles one connection at a time.

    :param behaviours: one per request; the last one applies to all further requests
    :param tls: TLS context; plain HTTP without it
    """

    def __init__(self, *behaviours: Behaviour, tls: ssl.SSLContext | None = None) -> None:
        self.requests: list[bytes] = []
        self.closed = threading.Semaphore(0)
        """Released once per connection that the server has closed."""
        self._behaviours = list(behaviours)
        self._tls = tls
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._connection: socket.socket | None = None
        self.port: int = self._listener.getsockname()[1]
        self._thread = threading.Thread(target=self._serve, daemon=True)

    @property
    def base_url(self) -> str:
        """The base URL of the API."""
        return f"http{'s' if self._tls else ''}://127.0.0.1:{self.port}/v2"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        end = time.monotonic() + PATIENCE
        while self._thread.is_alive():
            assert time.monotonic() < end, "the server thread does not end"
            if connection := self._connection:  # for a client that keeps the connection open
                with contextlib.suppress(OSError):
                    socket.socket.shutdown(
                        connection, socket.SHUT_RDWR
                    )  # closing the TLS layer would send further bytes
            self._thread.join(0.05)

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self._connection = connection  # also during the TLS handshake
            connection.settimeout(PATIENCE)
            with contextlib.suppress(OSError), contextlib.closing(connection):
                if self._tls:
                    with self._tls.wrap_socket(connection, server_side=True) as secured:
                        self._respond(secured)
                else:
                    self._respond(connection)
            self.closed.release()

    def _respond(self, connection: socket.socket) -> None:
        self._connection = connection
        self.requests.append(_read_request(connection))
        behaviour = self._behaviours.pop(0) if len(self._behaviours) > 1 else self._behaviours[0]
        behaviour(connection)


def _read_request(connection: socket.socket) -> bytes:
    received = b""
    while b"\r\n\r\n" not in received and not received.startswith(b"\x16"):  # a TLS client hello has no end marker
        received += connection.recv(65536) or b"\r\n\r\n"
    head, _, body = received.partition(b"\r\n\r\n")
    length = re.search(rb"(?i)content-length: (\d+)", head)
    while length and len(body) < int(length[1]):
        if not (more := connection.recv(65536)):
            raise ConnectionError("the client disconnected during its request")
        body += more
    return head + b"\r\n\r\n" + body


@contextlib.contextmanager
def refusing_port() -> Iterator[int]:
    """A port without a listener that no other process can take."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield taken.getsockname()[1]
