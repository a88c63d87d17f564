"""The HTTP session: sends one request and reads its response. It needs ``requests``; the first client loads it.

The timeouts of ``requests`` apply to one read, so a server that sends one byte each second never exceeds them. Here all
reads of a response share one timeout, from the sent request to the last byte of the body. A connection also records
whether a request was sent, because a lost response to a write leaves its outcome unknown.
"""

from __future__ import annotations

import http.client
import io
import logging
import socket
import threading
import time
import weakref
import zlib
from collections.abc import Callable, Iterable, Iterator
from http.cookiejar import DefaultCookiePolicy
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import urlsplit

import requests
from requests.adapters import HTTPAdapter
from urllib3.exceptions import HTTPError

from crm_provider import errors as e
from crm_provider.client.body import ACCEPTED, CHUNK, BodyRefused, decompressed
from crm_provider.client.responses import CrmResponse
from crm_provider.client.settings import Settings, host_for_messages
from crm_provider.client.transport_errors import transport_error

if TYPE_CHECKING:
    from crm_provider.client.request import Call


MAX_BODY = 10 * 1024 * 1024
"""Maximum bytes, both received and decompressed. The API's largest response is a page of ten records."""

CONNECT_TIMEOUT = 5.0
"""Seconds."""

MAX_CONNECTIONS = 64
"""Connections that are kept open: the largest number of threads of a load."""


class HttpSession:
    """A ``requests`` session that sends calls and reads responses.

    :param clock: monotonic seconds, for the timeout of a response
    """

    def __init__(self, settings: Settings, *, user_agent: str, clock: Callable[[], float] = time.monotonic) -> None:
        _hide_paths_in_logs()
        self._settings, self._progress = settings, SendProgress()
        self._host = host_for_messages(urlsplit(settings.base_url).hostname or "")
        self._session = _Session()
        for scheme in ("https://", "http://"):
            adapter = WatchedAdapter(
                seconds=settings.timeout,
                clock=clock,
                progress=self._progress,
                pool_maxsize=MAX_CONNECTIONS,  # one for each thread of a load: a discarded connection costs a handshake
            )
            self._session.mount(scheme, adapter)
        self._session.trust_env = not settings.is_local  # a proxy cannot reach this machine's loopback
        self._session.cookies.set_policy(DefaultCookiePolicy(allowed_domains=[]))
        headers = {"User-Agent": user_agent, "Accept": "application/json", "Accept-Encoding": ACCEPTED}
        self._session.headers.update(headers)
        if settings.developer_mode:
            self._session.headers["x-developer-mode"] = "true"

    def close(self) -> None:
        self._session.close()

    def round_trip(self, call: Call) -> CrmResponse:
        """Send one request and read its response to the end.

        :raises CrmTransientError: if there is no complete response
        :raises CrmTlsError: if the server's certificate is not trusted
        """
        self._progress.start()
        try:
            with self._session.request(
                call.method,
                self._settings.base_url + call.path,
                params=dict(call.query),
                json=call.body,
                auth=_ApiKey(self._settings.api_key if call.authenticated else None),
                timeout=(min(CONNECT_TIMEOUT, self._settings.timeout), self._settings.timeout),
                allow_redirects=False,
                stream=True,
            ) as response:
                body, unread = _body(response, call)
                return CrmResponse(
                    method=call.method,
                    path=call.log_path,
                    status=response.status_code,
                    headers=dict(response.headers),
                    body=body,
                    unread=unread,
                    sensitive_values=(self._settings.api_key, *call.sensitive_values),
                    allow_any_body=call.allow_any_body,
                    use_decimal=call.use_decimal,
                )
        except e.CrmError:
            raise
        except (requests.RequestException, HTTPError, OSError, ValueError) as broken:
            error = transport_error(
                broken,
                call,
                sent=self._progress.sent,
                proxied=self._progress.proxied,
                host=self._host,
                uses_environment=self._session.trust_env,
            )
        # outside the handler: the exception of requests holds the URL, so it must not become our context
        raise error


class _Session(requests.Session):
    def get_redirect_target(self, resp: requests.Response) -> None:
        """The target of a redirect: none. Otherwise its body, of any size, would be read, and its address parsed."""


class _ApiKey:
    """Sets the key's header. Because it is an ``auth``, requests does not read ``.netrc``."""

    def __init__(self, key: str | None) -> None:
        self._key = key

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        if self._key is not None:
            request.headers["x-api-key"] = self._key
        return request


def _body(response: requests.Response, call: Call) -> tuple[bytes, str]:
    """The body of a response, or why it was not read: status and headers are enough to classify an error."""
    if response.status_code < 200:
        return b"", ""  # more data follows on this connection; it is closed, so that no later call reads it
    try:
        return whole_body(response), ""
    except BodyRefused as refused:
        if response.status_code >= 300:
            return b"", str(refused)
        raise e.CrmProtocolError(
            str(refused),
            type=f"HTTP_{response.status_code}",
            status=response.status_code,
            method=call.method,
            path=call.log_path,
            outcome_known=not call.is_write,
        ) from None


def whole_body(response: requests.Response) -> bytes:
    """Read a response to its end.

    It is decompressed here in pieces. ``requests`` would decompress all of it before its size is known.

    :raises BodyRefused: if it is too large, or cannot be decompressed
    """
    body = bytearray()
    pieces = _measured(response.raw.stream(CHUNK, decode_content=False))
    try:
        encoding = response.headers.get("Content-Encoding", "")
        for piece in decompressed(pieces, encoding) if encoding else pieces:
            body += piece
            _check_size(len(body))
    except zlib.error:
        raise BodyRefused("the response cannot be decompressed") from None
    except ValueError:  # of http.client, for a chunk of negative size
        raise BodyRefused("the response has invalid chunks") from None
    return bytes(body)


def _check_size(size: int) -> None:
    if size > MAX_BODY:
        raise BodyRefused(f"the response is larger than {MAX_BODY // 1024 // 1024} MB")


def _measured(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """The pieces that are not empty.

    :raises BodyRefused: if they are too large in total
    """
    size = 0
    for piece in pieces:
        size += len(piece)
        _check_size(size)
        if piece:
            yield piece


# -- logs ---------------------------------------------------------------------------------------------------


class _HidePaths(logging.Filter):
    """urllib3 logs paths, URLs and headers that it cannot parse. Emails and webhook secrets must not reach the log."""

    def filter(self, record: logging.LogRecord) -> bool:
        if isinstance(record.args, tuple):
            record.args = tuple(map(_without_path, record.args))
        record.exc_info = None
        return True


def _without_path(argument: object) -> object:
    if isinstance(argument, BaseException):
        return type(argument).__name__
    return "/..." if isinstance(argument, str) and (argument.startswith("/") or "://" in argument) else argument


_HIDE_PATHS = _HidePaths()


def _hide_paths_in_logs() -> None:
    for name in ("urllib3.connectionpool", "urllib3.connection"):
        logging.getLogger(name).addFilter(_HIDE_PATHS)  # does nothing the second time


class SendProgress(threading.local):
    """How far the request of this thread has come.

    :ivar sent: some bytes were sent, so the server may have received the request
    :ivar proxied: its connection goes through a proxy
    """

    def __init__(self) -> None:
        self.start()

    def start(self) -> None:
        """A new request begins."""
        self.sent = self.proxied = self.connecting = False


class WatchedAdapter(HTTPAdapter):
    """An adapter whose timeout applies to a whole response, also to a proxy's response to ``CONNECT``.

    :param seconds: timeout of a whole response
    :param clock: monotonic seconds
    """

    def __init__(
        self, *, seconds: float, clock: Callable[[], float], progress: SendProgress, pool_maxsize: int
    ) -> None:
        self._seconds, self._clock, self._progress = seconds, clock, progress
        self._pools: weakref.WeakSet[Any] = weakref.WeakSet()
        super().__init__(pool_maxsize=pool_maxsize)

    def get_connection_with_tls_context(self, *arguments: Any, **keywords: Any) -> Any:
        """The pool of connections for a request, of any kind. Each of its connections is watched."""
        pool: Any = super().get_connection_with_tls_context(*arguments, **keywords)
        if not hasattr(pool.ConnectionCls, "is_watched"):
            pool.ConnectionCls = _watched(pool.ConnectionCls, self._progress, self._response)
            self._pools.add(pool)
        return pool

    def close(self) -> None:
        """Close all connections now. An error may refer to a pool and would keep its connections open."""
        for pool in list(self._pools):
            pool.close()
        super().close()

    def _response(self, sock: socket.socket, *arguments: Any, **keywords: Any) -> http.client.HTTPResponse:
        """Called by ``http.client`` when the request was sent: the timeout starts."""
        timed = _TimedSocket(sock, self._clock() + self._seconds, self._clock)
        return http.client.HTTPResponse(cast("socket.socket", timed), *arguments, **keywords)


def _watched(base: Any, progress: SendProgress, respond: Callable[..., http.client.HTTPResponse]) -> Any:
    class Watched(base):  # type: ignore[misc]
        is_watched = True
        response_class = staticmethod(respond)

        def connect(self) -> None:
            progress.proxied, progress.connecting = self.proxy is not None, True
            super().connect()
            progress.connecting = False

        def send(self, data: Any) -> None:
            if self.sock is None and self.auto_open:
                self.connect()
            progress.sent = progress.sent or not progress.connecting  # bytes during connecting go to a proxy
            super().send(data)

    return Watched


class _TimedSocket:
    """The part of a socket that a response uses."""

    def __init__(self, sock: socket.socket, deadline: float, clock: Callable[[], float]) -> None:
        self._sock, self._deadline, self._clock = sock, deadline, clock

    def makefile(self, _mode: str) -> io.BufferedReader:
        return io.BufferedReader(TimedReader(self._sock, self._deadline, self._clock))


class TimedReader(io.RawIOBase):
    """Reads from a socket until a deadline; after it, every read is a timeout.

    :param deadline: by the clock, monotonic seconds
    """

    def __init__(self, sock: socket.socket, deadline: float, clock: Callable[[], float]) -> None:
        self._sock, self._deadline, self._clock = sock, deadline, clock
        self._file = sock.makefile("rb", buffering=0)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        """Read the available bytes, or wait for some.

        :raises TimeoutError: if the deadline has passed, or passes first
        """
        remaining = self._deadline - self._clock()
        if remaining <= 0:
            raise TimeoutError("the timeout of the whole response is over")
        self._sock.settimeout(remaining)
        return self._file.readinto(buffer)

    def close(self) -> None:
        self._file.close()
        super().close()
