"""One request and its answer with ``requests``: the key, the timeouts, and what can go wrong on the way."""

from __future__ import annotations

import logging
import socket
import ssl
import traceback
from collections.abc import Iterator
from http.cookiejar import DefaultCookiePolicy
from typing import TYPE_CHECKING

from crm_provider import errors as e
from crm_provider.responses import Answer
from crm_provider.settings import Settings

if TYPE_CHECKING:
    import requests

    from crm_provider.transport import Call

MAX_BODY = 10 * 1024 * 1024
"""Bytes, unpacked. The largest answer of the API is a page of ten records."""

CONNECT_TIMEOUT = 5.0
"""Seconds."""

MAX_CONNECTIONS = 64
"""Connections that are kept open: as many as a load has threads at most."""


class Wire:
    """A ``requests`` session that sends calls and reads answers."""

    def __init__(self, settings: Settings, *, user_agent: str) -> None:
        import requests

        _hide_paths_in_logs()
        self._settings = settings
        self._session = requests.Session()
        for scheme in (
            "https://",
            "http://",
        ):  # a connection for each thread of a load: a discarded one costs a handshake
            self._session.mount(scheme, requests.adapters.HTTPAdapter(pool_maxsize=MAX_CONNECTIONS))
        self._session.trust_env = not settings.is_local  # a proxy cannot reach this machine's loopback
        self._session.cookies.set_policy(DefaultCookiePolicy(allowed_domains=[]))
        self._session.headers.update({"User-Agent": user_agent, "Accept": "application/json"})
        if settings.developer_mode:
            self._session.headers["x-developer-mode"] = "true"

    def close(self) -> None:
        self._session.close()

    def round_trip(self, call: Call) -> Answer:
        """Send one request and read its whole answer.

        :raises CrmTransientError: if no whole answer came
        :raises CrmTlsError: if the server's certificate is not trusted
        """
        import requests

        try:
            with self._session.request(
                call.method,
                self._settings.base_url + call.path,
                params=dict(call.query),
                json=call.body,
                auth=_ApiKey(self._settings.api_key if call.with_key else None),
                timeout=(min(CONNECT_TIMEOUT, self._settings.timeout), self._settings.timeout),
                allow_redirects=False,
                stream=True,
            ) as response:
                return Answer(
                    method=call.method,
                    path=call.shown,
                    status=response.status_code,
                    headers=dict(response.headers),
                    body=_whole_body(response, call),
                    sent=(self._settings.api_key, *call.sent),
                    loose=call.loose,
                    exact=call.exact,
                )
        except requests.RequestException as broken:
            error = transport_error(broken, call)
        # outside of the handler: the exception of requests holds the URL, and must not hang on ours
        raise error


class _ApiKey:
    """Puts the key on the request; as ``auth`` it also keeps requests from looking into ``.netrc``."""

    def __init__(self, key: str | None) -> None:
        self._key = key

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        if self._key is not None:
            request.headers["x-api-key"] = self._key
        return request


def _whole_body(response: requests.Response, call: Call) -> bytes:
    body = bytearray()
    for chunk in response.iter_content(64 * 1024):
        body += chunk
        if len(body) > MAX_BODY:
            raise e.CrmProtocolError(
                f"the answer is larger than {MAX_BODY // 1024 // 1024} MB",
                type=f"HTTP_{response.status_code}",
                status=response.status_code,
                method=call.method,
                path=call.shown,
                outcome_known=not call.is_write,
            )
    return bytes(body)


# -- what can go wrong on the way ---------------------------------------------------------------------------


def transport_error(broken: requests.RequestException, call: Call) -> e.CrmError:
    """The typed error for what ``requests`` raised, told without the URL (it may hold an email)."""
    from requests import exceptions as r
    from urllib3.exceptions import NameResolutionError, NewConnectionError, ReadTimeoutError

    causes = list(_causes(broken))
    not_sent = isinstance(broken, (r.ConnectTimeout, r.ProxyError)) or any(
        isinstance(cause, (NewConnectionError, NameResolutionError, ConnectionRefusedError)) for cause in causes
    )
    error: type[e.CrmError]
    if isinstance(broken, r.SSLError) and _in_handshake(causes):
        cut_off = any(isinstance(cause, ssl.SSLEOFError) for cause in causes)  # such as a load balancer that restarts
        error = e.CrmConnectionError if cut_off else e.CrmTlsError
        text, not_sent = "TLS broke off before it was agreed on" if cut_off else _tls_reason(causes), True
    elif isinstance(broken, r.InvalidJSONError):
        error, text, not_sent = e.CrmInvalidValueError, "the body has no JSON form", True
    elif isinstance(broken, r.Timeout) or any(isinstance(cause, ReadTimeoutError) for cause in causes):
        error, text = e.CrmTimeoutError, "no connection in time" if not_sent else "no answer in time"
    elif isinstance(broken, r.ContentDecodingError):
        error, text = e.CrmProtocolError, "the answer cannot be unpacked"
    elif isinstance(broken, (r.InvalidURL, r.InvalidSchema, r.MissingSchema, r.InvalidHeader)):
        error, text, not_sent = e.CrmConfigurationError, f"requests refused to send it ({type(broken).__name__})", True
    else:
        error, text = e.CrmConnectionError, _connection_reason(causes)
    return error(text, method=call.method, path=call.shown, outcome_known=not_sent or not call.is_write)


def _causes(error: BaseException) -> Iterator[BaseException]:
    """The error and what it wraps: requests and urllib3 keep the reason in ``args``, ``reason`` or the chain."""
    seen: set[int] = set()
    todo: list[object] = [error]
    while todo:
        found = todo.pop(0)
        if not isinstance(found, BaseException) or id(found) in seen:
            continue
        seen.add(id(found))
        yield found
        todo += [*found.args, getattr(found, "reason", None), found.__cause__]


def _in_handshake(causes: list[BaseException]) -> bool:
    """Whether TLS failed while the connection was made, before anything was sent. Only the traceback tells."""
    frames = (frame for cause in causes for frame, _ in traceback.walk_tb(cause.__traceback__))
    return any(frame.f_code.co_name == "do_handshake" for frame in frames)


def _tls_reason(causes: list[BaseException]) -> str:
    for cause in causes:
        if isinstance(cause, ssl.SSLCertVerificationError):
            return f"the certificate is not trusted: {cause.verify_message}"
    reason = next(
        (cause.reason for cause in causes if isinstance(cause, ssl.SSLError) and cause.reason), "no reason given"
    )
    return f"no secure connection could be agreed on: {reason}"


def _connection_reason(causes: list[BaseException]) -> str:
    if any(isinstance(cause, socket.gaierror) for cause in causes):
        return "the host name is not known (DNS)"
    if any(isinstance(cause, ConnectionRefusedError) for cause in causes):
        return "the connection was refused"
    if any(isinstance(cause, ssl.SSLError) for cause in causes):
        return "TLS broke off before the whole answer was there"
    reason = next((c.strerror for c in causes if isinstance(c, OSError) and c.errno and c.strerror), None)
    return (
        f"the connection failed: {reason.lower()}"
        if reason
        else "the connection broke off before the whole answer was there"
    )


# -- logs ---------------------------------------------------------------------------------------------------


class _HidePaths(logging.Filter):
    """urllib3 logs whole paths at level DEBUG: emails and webhook secrets must not get there."""

    def filter(self, record: logging.LogRecord) -> bool:
        if isinstance(record.args, tuple):
            record.args = tuple("/..." if isinstance(a, str) and a.startswith("/") else a for a in record.args)
        return True


_HIDE_PATHS = _HidePaths()


def _hide_paths_in_logs() -> None:
    logging.getLogger("urllib3.connectionpool").addFilter(_HIDE_PATHS)  # a second time it does nothing
