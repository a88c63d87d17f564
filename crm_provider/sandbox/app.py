"""The sandbox over HTTP: a FastAPI app with the API at its root and the admin routes under ``/__sandbox__``."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress

from fastapi import FastAPI
from starlette.types import Message, Receive, Scope, Send

from crm_provider import __version__
from crm_provider.sandbox.admin import ADMIN_PATH, create_admin_app
from crm_provider.sandbox.answers import Answer
from crm_provider.sandbox.calls import Call
from crm_provider.sandbox.effects import Outcome
from crm_provider.sandbox.gateway import Gateway

CLOSE_EXTENSION = "crm_provider.sandbox.close"
"""Under this name the server puts a function into the scope that closes the connection (see ``serving``)."""

_PIECE = 1024 * 1024
"""Bytes of a large answer that are sent at once."""

_WITHOUT_BODY = (204, 304)
"""HTTP allows no body with these: a fault may ask for one all the same."""


def create_app(gateway: Gateway, closing: asyncio.Event | None = None) -> FastAPI:
    """The app around a gateway.

    The API gets every path and not only those under ``/v2``, because the real gateway answers every path: a base URL
    without ``/v2`` must look like one.

    :param closing: set when the server stops; answers that are held back go out then
    """
    app = FastAPI(title="CRM sandbox", version=__version__, openapi_url=None)
    app.mount(ADMIN_PATH, create_admin_app(gateway))
    app.router.default = ApiEndpoint(gateway, closing or asyncio.Event())  # a mount would miss paths with a line end
    return app


class ApiEndpoint:
    """ASGI application for all paths of the API: reads a call, lets the gateway decide, sends the outcome."""

    def __init__(self, gateway: Gateway, closing: asyncio.Event) -> None:
        self._gateway = gateway
        self._closing = closing

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        body = await _read_body(receive)
        if body is None:  # the client left before it had sent everything: the API never saw the call
            return
        outcome = self._gateway.handle(_call(scope, body))
        if outcome.hold:
            await self._hold(outcome.hold)
        if outcome.drip and outcome.answer is not None:
            await self._drip(outcome.answer, outcome.drip, receive, send)
        else:
            await _send(outcome, scope, receive, send)

    async def _drip(self, answer: Answer, seconds: float, receive: Receive, send: Send) -> None:
        body = _body_of(answer)
        await send(_start(answer, len(body)))
        gone = asyncio.ensure_future(receive())
        for number in range(len(body)):
            if gone.done():  # the client: it has had enough
                return
            await send({"type": "http.response.body", "body": body[number : number + 1], "more_body": True})
            await self._hold(seconds)
        await send({"type": "http.response.body"})
        await gone

    async def _hold(self, seconds: float) -> None:
        with suppress(asyncio.TimeoutError):
            await asyncio.wait_for(self._closing.wait(), seconds)


def _call(scope: Scope, body: bytes) -> Call:
    return Call(
        method=scope["method"],
        # scope["path"] is decoded: an encoded slash in an email could not be told from one of the path's own
        raw_path=scope["raw_path"].decode("ascii", "replace"),
        query=scope["query_string"].decode("ascii", "replace"),
        headers={name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]},
        body=body,
    )


async def _read_body(receive: Receive) -> bytes | None:
    """The whole body; None if the client closed the connection first."""
    body = bytearray()
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return None
        body += message.get("body", b"")
        if not message.get("more_body", False):
            return bytes(body)


async def _send(outcome: Outcome, scope: Scope, receive: Receive, send: Send) -> None:
    answer = outcome.answer
    if answer is None:
        await _close(scope, receive)
        return
    body = _body_of(answer)
    await send(_start(answer, len(body) + outcome.padding))
    if outcome.cut is None:
        await send({"type": "http.response.body", "body": body, "more_body": bool(outcome.padding)})
        for left in range(outcome.padding, 0, -_PIECE):
            await send({"type": "http.response.body", "body": b" " * min(left, _PIECE), "more_body": left > _PIECE})
        return
    await send({"type": "http.response.body", "body": body[: outcome.cut], "more_body": True})
    await _close(scope, receive)


def _body_of(answer: Answer) -> bytes:
    return b"" if answer.status in _WITHOUT_BODY else answer.body


def _start(answer: Answer, length: int) -> Message:
    headers = {**answer.headers, "content-length": str(length)}
    encoded = [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in headers.items()]
    return {"type": "http.response.start", "status": answer.status, "headers": encoded}


async def _close(scope: Scope, receive: Receive) -> None:
    """Close the connection as it is.

    Returns only when the server has noticed: then it neither complains about a missing answer nor sends one of its own.
    """
    close: Callable[[], None] = scope["extensions"][CLOSE_EXTENSION]
    close()
    while (await receive())["type"] != "http.disconnect":
        pass
