"""The sandbox over HTTP: an ASGI app with the API and the admin routes, and uvicorn in a thread.

The app protects itself from web pages that are open in a browser on this machine. A page can send requests to a
loopback port, and by DNS rebinding it can read the responses. So the app checks the host and the origin of every
request, and an admin request that changes something must be JSON, which a foreign page cannot send without a preflight.
"""

from __future__ import annotations

import asyncio
import json
import socket
import threading
from collections.abc import Callable, Iterable
from contextlib import suppress

import uvicorn
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from crm_provider.sandbox.admin import create_admin_app
from crm_provider.sandbox.faults import RequestOutcome
from crm_provider.sandbox.gateway import Gateway
from crm_provider.sandbox.responses import HttpResponse
from crm_provider.sandbox.routes import RawRequest
from crm_provider.sandbox.settings import ADMIN_PATH, http_date, is_loopback, split_host

MAX_BODY = 10 * 1024 * 1024
"""Bytes of a request body, as for the AWS API Gateway."""

CLOSE_EXTENSION = "crm_provider.sandbox.close"
"""The server puts a function under this name into the scope. It closes the connection."""

START_TIMEOUT = 60.0
STOP_TIMEOUT = 60.0
"""Seconds. Both take at most one, but a machine under load may be much slower."""
KEEP_ALIVE = 300.0
"""Seconds. uvicorn's default of 5 closes the idle connections of a client that waits, which looks like a fault."""
_GRACE = 0.1
"""Seconds in which running responses are sent when the server stops."""

_PIECE = 1024 * 1024
"""Bytes of a large response that are sent at once."""

_WITHOUT_BODY = (204, 304)
"""Statuses for which HTTP allows no body. A fault may ask for them."""


# -- app ----------------------------------------------------------------------------------------------------


class SandboxApp:
    """The ASGI app of a gateway: dates every response, refuses what it must not accept, and dispatches the rest.

    Every path outside ``/__sandbox__`` goes to the API, also those outside ``/v2``: the real gateway responds to every
    path, so a base URL without ``/v2`` must have the same effect as there.

    :param closing: set when the server stops; delayed responses are sent then
    :param allowed_hosts: hosts besides this machine's loopback that a request may be sent to: ``name`` for any port,
        or ``name:port``
    """

    def __init__(
        self, gateway: Gateway, closing: asyncio.Event | None = None, *, allowed_hosts: Iterable[str] = ()
    ) -> None:
        self._clock = gateway.clock
        self._api = ApiEndpoint(gateway, closing or asyncio.Event())
        self._admin = create_admin_app(gateway)
        self._allowed_hosts = {split_host(host) for host in allowed_hosts}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":  # lifespan, if a server sends it
            await self._admin(scope, receive, send)
            return
        body = await _read_body(receive)
        if body is None:  # the client left before it had sent everything: the request is dropped
            return
        admin = scope["path"] == ADMIN_PATH or scope["path"].startswith(f"{ADMIN_PATH}/")
        dated = self._dated(send)
        if refusal := self._refusal(scope, body, admin=admin):
            status, text = refusal
            await _send_json(status, {"detail" if admin else "message": text}, dated)
        elif admin:
            await self._admin({**scope, "root_path": ADMIN_PATH}, _replayed(body, receive), dated)
        else:
            await self._api(scope, body, receive, dated)

    def _dated(self, send: Send) -> Send:
        """Add the header ``Date`` by the sandbox's clock, which ``createdAt`` uses too."""

        async def dated(message: Message) -> None:
            if message["type"] == "http.response.start":
                date = (b"date", http_date(self._clock.now()).encode())
                message = {**message, "headers": [*message["headers"], date]}
            await send(message)

        return dated

    # -- refusals ----------------------------------------------------------------------------------------

    def _refusal(self, scope: Scope, body: bytes, *, admin: bool) -> tuple[int, str] | None:
        """Status and reason if the request is refused."""
        headers = Headers(scope=scope)
        host = headers.get("host", "")
        if not self._is_known(host, scope["server"][1]):
            return 421, (
                f"the sandbox does not serve the host {host!r}: use its loopback address and port, or start it with "
                "--allowed-host NAME"
            )
        if _is_cross_site(headers, host):
            return 403, "the sandbox refuses requests from web pages of other sites (headers Origin and Sec-Fetch-Site)"
        if admin and scope["method"] not in ("GET", "HEAD") and not _is_json(headers):
            return 415, (
                "admin requests that change something need the header 'Content-Type: application/json', also without a "
                f"body: curl -X {scope['method']} -H 'Content-Type: application/json' ..."
            )
        if len(body) > MAX_BODY:
            return 413, f"Request Too Long: the sandbox accepts bodies of at most {MAX_BODY} bytes"
        return None

    def _is_known(self, host: str, server_port: int) -> bool:
        try:
            name, port = split_host(host)
        except ValueError:
            return False
        if (name, None) in self._allowed_hosts or (name, port) in self._allowed_hosts:
            return True
        return is_loopback(name) and (port or 80) == server_port


def _is_cross_site(headers: Headers, host: str) -> bool:
    """Whether a browser sent this for a page that does not come from the sandbox itself."""
    own = {f"http://{host}", f"https://{host}"}
    foreign_origin = any(origin not in own for origin in headers.getlist("origin"))
    return foreign_origin or any(site not in ("same-origin", "none") for site in headers.getlist("sec-fetch-site"))


def _is_json(headers: Headers) -> bool:
    return headers.get("content-type", "").partition(";")[0].strip().lower() == "application/json"


# -- API ----------------------------------------------------------------------------------------------------


class ApiEndpoint:
    """All paths of the API: the gateway decides about a request, and the outcome is sent."""

    def __init__(self, gateway: Gateway, closing: asyncio.Event) -> None:
        self._gateway = gateway
        self._closing = closing

    async def __call__(self, scope: Scope, body: bytes, receive: Receive, send: Send) -> None:
        outcome = self._gateway.handle(_raw_request(scope, body))
        if outcome.delay:
            await self._wait(outcome.delay)
        if outcome.drip and outcome.response is not None:
            await self._drip(outcome.response, outcome.drip, receive, send)
        else:
            await _send_outcome(outcome, scope, receive, send)

    async def _drip(self, response: HttpResponse, seconds: float, receive: Receive, send: Send) -> None:
        body = _body_of(response)
        await send(_start(response, len(body)))
        gone = asyncio.ensure_future(receive())
        for number in range(len(body)):
            if gone.done():  # the client has closed the connection
                return
            await send({"type": "http.response.body", "body": body[number : number + 1], "more_body": True})
            await self._wait(seconds)
        await send({"type": "http.response.body"})
        await gone

    async def _wait(self, seconds: float) -> None:
        with suppress(asyncio.TimeoutError):
            await asyncio.wait_for(self._closing.wait(), seconds)


def _raw_request(scope: Scope, body: bytes) -> RawRequest:
    return RawRequest(
        method=scope["method"],
        # scope["path"] is decoded, so an encoded slash in an email would look like one of the path
        raw_path=scope["raw_path"].decode("ascii", "replace"),
        query=scope["query_string"].decode("ascii", "replace"),
        headers={name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]},
        body=body,
    )


# -- messages -----------------------------------------------------------------------------------------------


async def _read_body(receive: Receive) -> bytes | None:
    """The body, read only up to the limit. None if the client closed the connection first."""
    body = bytearray()
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return None
        if len(body) <= MAX_BODY:
            body += message.get("body", b"")
        if not message.get("more_body", False):
            return bytes(body)


def _replayed(body: bytes, receive: Receive) -> Receive:
    """A ``receive`` that returns a body that was already read, and then what the server sends."""
    messages: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def replayed() -> Message:
        return messages.pop() if messages else await receive()

    return replayed


async def _send_outcome(outcome: RequestOutcome, scope: Scope, receive: Receive, send: Send) -> None:
    response = outcome.response
    if response is None:
        await _close(scope, receive)
        return
    body = _body_of(response)
    await send(_start(response, len(body) + outcome.padding))
    if outcome.cut is None:
        await send({"type": "http.response.body", "body": body, "more_body": bool(outcome.padding)})
        for left in range(outcome.padding, 0, -_PIECE):
            await send({"type": "http.response.body", "body": b" " * min(left, _PIECE), "more_body": left > _PIECE})
        return
    await send({"type": "http.response.body", "body": body[: outcome.cut], "more_body": True})
    await _close(scope, receive)


async def _send_json(status: int, content: dict[str, str], send: Send) -> None:
    body = json.dumps(content).encode()
    await send(_start(HttpResponse(status=status, headers={"content-type": "application/json"}, body=body), len(body)))
    await send({"type": "http.response.body", "body": body})


def _body_of(response: HttpResponse) -> bytes:
    return b"" if response.status in _WITHOUT_BODY else response.body


def _start(response: HttpResponse, length: int) -> Message:
    headers = {**response.headers, "content-length": str(length)}
    encoded = [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in headers.items()]
    return {"type": "http.response.start", "status": response.status, "headers": encoded}


async def _close(scope: Scope, receive: Receive) -> None:
    """Close the connection in its current state.

    It returns when the server has noticed: then the server neither logs a missing response nor sends its own.
    """
    close: Callable[[], None] = scope["extensions"][CLOSE_EXTENSION]
    close()
    while (await receive())["type"] != "http.disconnect":
        pass


# -- server -------------------------------------------------------------------------------------------------


class ClosableProtocol(H11Protocol):
    """uvicorn's HTTP/1.1 protocol that adds a function to each scope, which closes the connection.

    ASGI cannot close a connection, and uvicorn turns an exception into status 500.
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
    """uvicorn's server. It signals when it is ready, and its stop waits for neither responses nor idle clients."""

    def __init__(self, gateway: Gateway, ready: threading.Event, allowed_hosts: Iterable[str]) -> None:
        self._closing = asyncio.Event()
        self._ready = ready
        super().__init__(
            uvicorn.Config(
                SandboxApp(gateway, self._closing, allowed_hosts=allowed_hosts),
                http=ClosableProtocol,
                ws="none",
                lifespan="off",
                log_config=None,
                log_level="warning",
                access_log=False,  # paths contain emails
                server_header=False,
                date_header=False,  # it would use the machine's clock
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
    :param allowed_hosts: see :class:`SandboxApp`
    """

    def __init__(self, gateway: Gateway, listener: socket.socket, *, allowed_hosts: Iterable[str] = ()) -> None:
        self._ready = threading.Event()
        self._failure: BaseException | None = None
        self._listener = listener
        self._server = _Server(gateway, self._ready, allowed_hosts)
        self._thread = threading.Thread(target=self._run, name="crm-sandbox", daemon=True)

    @property
    def running(self) -> bool:
        """Whether the server's thread is alive."""
        return self._thread.is_alive()

    def start(self) -> None:
        """Start the server and return when it responds.

        :raises RuntimeError: the server failed to start
        """
        self._thread.start()
        if not self._ready.wait(START_TIMEOUT) or self._failure:
            raise RuntimeError("the sandbox's server did not start") from self._failure

    def stop(self) -> None:
        """Stop the server and return when its thread has ended and the port is free.

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
            self._failure = failure  # start() raises it in the other thread
            self._ready.set()
