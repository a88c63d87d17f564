"""Two small servers: a CRM that returns each request in every encoding, and a collector of telemetry."""

from __future__ import annotations

import base64
import contextlib
import gzip
import html
import itertools
import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, ClassVar
from urllib.parse import quote, unquote

SHORT, HANG = 0.5, 1.5
"""Seconds: the timeout of connections to ``/slow``, and the delay of its responses."""

Spell = Callable[[str], str]
SPELLINGS: tuple[Spell, ...] = (
    str,
    str.upper,
    lambda text: quote(text, safe=""),
    lambda text: json.dumps(text)[1:-1],
    repr,
    html.escape,
    lambda text: base64.b64encode(text.encode()).decode(),
)


class _Quiet(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def handle(self) -> None:
        with contextlib.suppress(ConnectionError):  # a client that timed out or was killed
            super().handle()

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - of the base class
        """Write nothing to the test's output."""

    def body(self) -> bytes:
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def respond(self, status: int, body: bytes, **headers: str) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(body)


class Mirror(_Quiet):
    """``/422/contacts`` responds with 422 and the request. ``/drop``, ``/slow`` and ``/302`` act like their names."""

    seen: ClassVar[list[str]]
    turns: ClassVar[Iterator[int]]

    def handle_any(self) -> None:
        sent = self.body().decode()
        case = self.path.split("/")[1]
        key = self.headers.get("x-api-key", "no key")
        values = [key, unquote(self.path), sent, *_leaves(json.loads(sent) if sent else None)]
        self.seen.append(" ".join([case, str(self.headers), unquote(self.path), sent]))
        spell = SPELLINGS[next(self.turns) % len(SPELLINGS)]
        text = " ".join(map(spell, [*values[3:], *values[:3]]))
        if case == "drop":
            self.close_connection = True
        elif case == "slow":
            time.sleep(HANG)
            self.close_connection = True
        elif case == "302":
            self.respond(302, b"", Location=f"https://{quote(key, safe='')}@elsewhere.example/{quote(text)}")
        else:
            status, form = case.partition("-")[::2]
            self.respond(int(status), _FORMS[form or "v1"](text), x_amzn_requestid=quote(key, safe=""))

    do_GET = do_POST = do_PUT = do_DELETE = handle_any  # noqa: N815 - as the base class looks them up


_FORMS: dict[str, Callable[[str], bytes]] = {
    "v1": lambda text: json.dumps({"error": f"bad: {text}", "errorCode": "INVALID_INPUT", "requestId": text}).encode(),
    "message": lambda text: json.dumps({"message": [text], "received": {"headers": text}}).encode(),
    "html": lambda text: f"<html><body>{html.escape(text)}</body></html>".encode(),
    "text": lambda text: f"you sent {text}".encode(),
    "list": lambda text: json.dumps([text, {text: text}]).encode(),
}


def _leaves(value: Any) -> list[str]:
    if isinstance(value, dict):
        value = list(value.values())
    return [leaf for item in value for leaf in _leaves(item)] if isinstance(value, list) else [str(value)]


class Collector(_Quiet):
    """Takes OTLP over HTTP: spans and metrics, as bytes."""

    taken: ClassVar[list[tuple[str, bytes]]]

    def do_POST(self) -> None:
        body = self.body()
        packed = self.headers.get("Content-Encoding") == "gzip"
        self.taken.append((self.path, gzip.decompress(body) if packed else body))
        self.respond(200, b"", Content_Type="application/x-protobuf")


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128  # many parallel tasks would exceed the default of 5


@contextmanager
def serving(handler: type[BaseHTTPRequestHandler], **fields: Any) -> Iterator[str]:
    """Serve this handler on a free port of this machine and return its address."""
    server = _Server(("127.0.0.1", 0), type(handler.__name__, (handler,), fields))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join(5)


@contextmanager
def mirror(seen: list[str]) -> Iterator[str]:
    """:param seen: receives the text of each request"""
    with serving(Mirror, seen=seen, turns=itertools.count()) as url:
        yield url


@contextmanager
def collector(taken: list[tuple[str, bytes]]) -> Iterator[str]:
    """:param taken: receives the path and bytes of each export"""
    with serving(Collector, taken=taken) as url:
        yield url
