"""The HTTP session: one request and its answer. Loaded when a client is made: it stands on `requests`.

One request and its answer with ``requests``: the key, the timeouts, what is never done with either.

Connections that keep the time, and that know whether a request was sent.

The timeouts of ``requests`` are for one read: a server that sends one byte each second would never meet them. Here all
reads of an answer share the time, from the request that was sent to the last byte of the body.
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

from requests.adapters import HTTPAdapter

from crm_provider import errors as e
from crm_provider.client.body import ACCEPTED, CHUNK, BodyRefused, unpacked
from crm_provider.client.responses import CrmResponse
from crm_provider.client.settings import Settings, shown_host
from crm_provider.client.transport_errors import transport_error

if TYPE_CHECKING:
    import requests

    from crm_provider.client.request import Call


MAX_BODY = 10 * 1024 * 1024
"""Bytes, as they come and unpacked. The largest answer of the API is a page of ten records."""

CONNECT_TIMEOUT = 5.0
"""Seconds."""

MAX_CONNECTIONS = 64
"""Connections that are kept open: as many as a load has threads at most."""


class HttpSession:
    """A ``requests`` session that sends calls and reads answers.

    :param clock: monotonic seconds, for the time that an answer may take
    """

    def __init__(self, settings: Settings, *, user_agent: str, clock: Callable[[], float] = time.monotonic) -> None:
        import requests

        _hide_paths_in_logs()
        self._settings, self._progress = settings, SendProgress()
        self._host = shown_host(urlsplit(settings.base_url).hostname or "")
        self._session = requests.Session()
        for scheme in ("https://", "http://"):
            adapter = WatchedAdapter(
                seconds=settings.timeout,
                clock=clock,
                progress=self._progress,
                pool_maxsize=MAX_CONNECTIONS,  # for each thread of a load: a discarded one costs a handshake
            )
            self._session.mount(scheme, adapter)
        self._session.trust_env = not settings.is_local  # a proxy cannot reach this machine's loopback
        self._session.cookies.set_policy(DefaultCookiePolicy(allowed_domains=[]))
        # else requests reads the body of a redirect, of any size, and breaks on an address that makes no sense
        self._session.get_redirect_target = _nowhere  # type: ignore[method-assign, assignment]
        headers = {"User-Agent": user_agent, "Accept": "application/json", "Accept-Encoding": ACCEPTED}
        self._session.headers.update(headers)
        if settings.developer_mode:
            self._session.headers["x-developer-mode"] = "true"

    def close(self) -> None:
        self._session.close()

    def round_trip(self, call: Call) -> CrmResponse:
        """Send one request and read its whole answer.

        :raises CrmTransientError: if no whole answer came
        :raises CrmTlsError: if the server's certificate is not trusted
        """
        import requests
        from urllib3.exceptions import HTTPError

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
        # outside of the handler: the exception of requests holds the URL, and must not hang on ours
        raise error


def _nowhere(_answer: requests.Response) -> None:
    """Where a redirect leads, for who would follow it."""


class _ApiKey:
    """Puts the key on the request; as ``auth`` it also keeps requests from looking into ``.netrc``."""

    def __init__(self, key: str | None) -> None:
        self._key = key

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        if self._key is not None:
            request.headers["x-api-key"] = self._key
        return request


def _body(response: requests.Response, call: Call) -> tuple[bytes, str]:
    """The body of an answer, or why it was not read: what is no success is told by its status and headers too."""
    if response.status_code < 200:
        return b"", ""  # more is to come on this connection, which is closed: never to be taken for the next answer
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
    """Read an answer to its end.

    It is unpacked here, piece by piece: ``requests`` unpacks whatever is packed, and all at once, before it can be
    measured.

    :raises BodyRefused: it is too large, or cannot be unpacked
    """
    body = bytearray()
    pieces = _measured(response.raw.stream(CHUNK, decode_content=False))
    try:
        encoding = response.headers.get("Content-Encoding", "")
        for piece in unpacked(pieces, encoding) if encoding else pieces:
            body += piece
            _check_size(len(body))
    except zlib.error:
        raise BodyRefused("the answer cannot be unpacked") from None
    except ValueError:  # of http.client, on a piece of less than no bytes
        raise BodyRefused("the answer comes in pieces that make no sense") from None
    return bytes(body)


def _check_size(size: int) -> None:
    if size > MAX_BODY:
        raise BodyRefused(f"the answer is larger than {MAX_BODY // 1024 // 1024} MB")


def _measured(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """The pieces that hold something, as long as they are not too much."""
    size = 0
    for piece in pieces:
        size += len(piece)
        _check_size(size)
        if piece:
            yield piece


# -- logs ---------------------------------------------------------------------------------------------------


class _HidePaths(logging.Filter):
    """urllib3 logs whole paths and URLs, and headers it cannot read: emails and webhook secrets must not get there."""

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
        logging.getLogger(name).addFilter(_HIDE_PATHS)  # a second time it does nothing


class SendProgress(threading.local):
    """How far the request of this thread has come.

    :ivar sent: some of it is on its way: whatever happens now, the other side may have got it
    :ivar proxied: the connection for it goes through a proxy
    """

    def __init__(self) -> None:
        self.start()

    def start(self) -> None:
        """A new request begins."""
        self.sent = self.proxied = self.connecting = False


class WatchedAdapter(HTTPAdapter):
    """An adapter whose answers are there in time or not at all; also those of a proxy to its ``CONNECT``.

    :param seconds: for a whole answer
    :param clock: monotonic seconds
    """

    def __init__(
        self, *, seconds: float, clock: Callable[[], float], progress: SendProgress, pool_maxsize: int
    ) -> None:
        self._seconds, self._clock, self._progress = seconds, clock, progress
        self._pools: weakref.WeakSet[Any] = weakref.WeakSet()
        super().__init__(pool_maxsize=pool_maxsize)

    def get_connection_with_tls_context(self, *arguments: Any, **keywords: Any) -> Any:
        """The pool of connections for a request, of whatever kind; each connection of it is watched."""
        pool: Any = super().get_connection_with_tls_context(*arguments, **keywords)
        if not hasattr(pool.ConnectionCls, "is_watched"):
            pool.ConnectionCls = _watched(pool.ConnectionCls, self._progress, self._response)
            self._pools.add(pool)
        return pool

    def close(self) -> None:
        """Close all connections now: left to themselves, those of a pool that an error refers to stay open for long."""
        for pool in list(self._pools):
            pool.close()
        super().close()

    def _response(self, sock: socket.socket, *arguments: Any, **keywords: Any) -> http.client.HTTPResponse:
        """Made by ``http.client`` when the request was sent: the time begins."""
        timed = _TimedSocket(sock, self._clock() + self._seconds, self._clock)
        return http.client.HTTPResponse(cast("socket.socket", timed), *arguments, **keywords)


def _watched(plain: Any, progress: SendProgress, respond: Callable[..., http.client.HTTPResponse]) -> Any:
    class Watched(plain):  # type: ignore[misc]
        is_watched = True
        response_class = staticmethod(respond)

        def connect(self) -> None:
            progress.proxied, progress.connecting = self.proxy is not None, True
            super().connect()
            progress.connecting = False

        def send(self, data: Any) -> None:
            if self.sock is None and self.auto_open:
                self.connect()
            progress.sent = progress.sent or not progress.connecting  # while it connects, it talks to a proxy
            super().send(data)

    return Watched


class _TimedSocket:
    """All that a response asks of its socket."""

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
        """Read what there is, or wait for it.

        :raises TimeoutError: the deadline is over, or nothing came until then
        """
        left = self._deadline - self._clock()
        if left <= 0:
            raise TimeoutError("the time for the whole answer is over")
        self._sock.settimeout(left)
        return self._file.readinto(buffer)

    def close(self) -> None:
        self._file.close()
        super().close()
