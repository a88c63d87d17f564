"""The HTTP server under the sandbox: uvicorn, in a thread, with connections that a fault can close."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Callable

import uvicorn
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from crm_provider.sandbox.app import CLOSE_EXTENSION, create_app
from crm_provider.sandbox.gateway import Gateway

START_TIMEOUT = 60.0
STOP_TIMEOUT = 60.0
"""Seconds; it takes one at most, but a machine under load may stand still for many."""
KEEP_ALIVE = 300.0
"""Seconds; uvicorn's 5 would close idle sessions under a client that waits, and look like a fault nobody asked for."""
_GRACE = 0.1
"""Seconds that running answers get to go out when the server stops."""


class ClosableProtocol(H11Protocol):
    """uvicorn's HTTP/1.1, with one thing more in each scope: a function that closes the connection.

    ASGI knows no way to break off a connection, and raising an exception would be answered with 500.
    """

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.app = _with_close(self.app, transport.close)


def _with_close(app: ASGIApp, close: Callable[[], None]) -> ASGIApp:
    async def wrapped(scope: Scope, receive: Receive, send: Send) -> None:
        extensions = {**scope.get("extensions", {}), CLOSE_EXTENSION: close}
        await app({**scope, "extensions": extensions}, receive, send)

    return wrapped


class _Server(uvicorn.Server):
    """uvicorn's server, which says when it is ready and does not wait for held answers or idle clients to stop."""

    def __init__(self, gateway: Gateway, ready: threading.Event) -> None:
        self._closing = asyncio.Event()
        self._ready = ready
        super().__init__(
            uvicorn.Config(
                create_app(gateway, self._closing),
                http=ClosableProtocol,
                ws="none",
                lifespan="off",
                log_config=None,
                log_level="warning",
                access_log=False,  # paths carry emails
                server_header=False,
                proxy_headers=False,
                timeout_keep_alive=int(KEEP_ALIVE),
            )
        )

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._ready.set()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._closing.set()
        asyncio.get_running_loop().call_later(_GRACE, self._close_connections)
        await super().shutdown(sockets)

    def _close_connections(self) -> None:
        for connection in list(self.server_state.connections):
            connection.transport.abort()


class ServerThread:
    """A server on a listening socket, in a thread of this process.

    :param listener: bound and listening; closed when the server stops
    """

    def __init__(self, gateway: Gateway, listener: socket.socket) -> None:
        self._ready = threading.Event()
        self._failure: BaseException | None = None
        self._listener = listener
        self._server = _Server(gateway, self._ready)
        self._thread = threading.Thread(target=self._run, name="crm-sandbox", daemon=True)

    @property
    def running(self) -> bool:
        """Whether the server's thread is alive."""
        return self._thread.is_alive()

    def start(self) -> None:
        """Start, and return when calls are answered.

        :raises RuntimeError: the server failed to start
        """
        self._thread.start()
        if not self._ready.wait(START_TIMEOUT) or self._failure:
            raise RuntimeError("the sandbox's server did not start") from self._failure

    def stop(self) -> None:
        """Stop, and return when the thread has ended and the port is free.

        :raises RuntimeError: the server does not stop
        """
        self._server.should_exit = True
        self._thread.join(STOP_TIMEOUT)
        if self.running:
            raise RuntimeError(f"the sandbox's server did not stop within {STOP_TIMEOUT:g} s")

    def _run(self) -> None:
        try:
            asyncio.run(self._server.serve(sockets=[self._listener]))
        except (Exception, SystemExit) as failure:
            if self._ready.is_set():
                raise
            self._failure = failure  # raised by start(), which waits in the other thread
            self._ready.set()
