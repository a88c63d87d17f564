"""Connections that keep the time, and that know whether a request was sent.

The timeouts of ``requests`` are for one read: a server that sends one byte each second would never meet them. Here all
reads of an answer share the time, from the request that was sent to the last byte of the body.
"""

from __future__ import annotations

import http.client
import io
import socket
import threading
import weakref
from collections.abc import Callable
from typing import Any, cast

from requests.adapters import HTTPAdapter


class Progress(threading.local):
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

    def __init__(self, *, seconds: float, clock: Callable[[], float], progress: Progress, pool_maxsize: int) -> None:
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


def _watched(plain: Any, progress: Progress, respond: Callable[..., http.client.HTTPResponse]) -> Any:
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
