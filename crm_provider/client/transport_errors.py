"""What can go wrong on the way of one request, and the typed error for it."""

from __future__ import annotations

import http.client
import re
import socket
import ssl
from collections.abc import Iterator
from typing import TYPE_CHECKING

from crm_provider import errors as e

if TYPE_CHECKING:
    from crm_provider.client.request import Call


_PROXY_SAYS_NO = frozenset({401, 403, 407})
"""What a proxy answers that will not let this worker through, however often it asks."""

_NO_TLS = frozenset(
    {"WRONG_VERSION_NUMBER", "HTTP_REQUEST", "UNKNOWN_PROTOCOL", "RECORD_LAYER_FAILURE", "PACKET_LENGTH_TOO_LONG"}
)
"""OpenSSL's names, of several versions, for "those bytes are no TLS"."""


def transport_error(broken: Exception, call: Call, *, sent: bool, proxied: bool) -> e.CrmError:
    """The typed error for what ``requests`` or ``urllib3`` raised, told without the URL (it may hold an email).

    :param sent: some of the request was on its way
    :param proxied: the way to the CRM is through a proxy
    """
    causes = list(_causes(broken))
    error, text = _after(broken, causes) if sent else _before(broken, causes, proxied=proxied)
    return error(text, method=call.method, path=call.log_path, outcome_known=not (sent and call.is_write))


Told = tuple[type[e.CrmError], str]


def _before(broken: Exception, causes: list[BaseException], *, proxied: bool) -> Told:
    """What went wrong before anything was sent."""
    if refused := _refused_here(broken):
        return refused
    if any(isinstance(cause, ssl.SSLError) for cause in causes):
        return _tls_says(causes)
    if proxied and (status := _proxy_status(causes)) is not None:
        return _proxy_says(status)
    through = " through the proxy (HTTPS_PROXY)" if proxied else ""
    if _is_timeout(broken, causes):
        return e.CrmTimeoutError, f"no connection{through} in time"
    reason = _connection_reason(causes)
    return e.CrmConnectionError, f"no connection{through}: {reason}" if proxied else reason


def _refused_here(broken: Exception) -> Told | None:
    """What ``requests`` would not send."""
    from requests import exceptions as r

    if isinstance(broken, r.InvalidJSONError):
        return e.CrmInvalidValueError, "the body has no JSON form"
    if isinstance(broken, (r.InvalidURL, r.InvalidSchema, r.MissingSchema, r.InvalidHeader)):
        return e.CrmConfigurationError, f"requests refused to send it ({type(broken).__name__})"
    return None


def _after(broken: Exception, causes: list[BaseException]) -> Told:
    """What went wrong when the other side may have got the request."""
    if _is_timeout(broken, causes):
        return e.CrmTimeoutError, "no whole answer in time"
    if any(_is_no_http(cause) for cause in causes):
        return e.CrmProtocolError, "what came back is no HTTP that can be read"
    return e.CrmConnectionError, _connection_reason(causes)


def _is_timeout(broken: Exception, causes: list[BaseException]) -> bool:
    from requests.exceptions import Timeout
    from urllib3.exceptions import ConnectTimeoutError, NewConnectionError, ReadTimeoutError

    of_time = (TimeoutError, ConnectTimeoutError, ReadTimeoutError)
    refused = NewConnectionError  # a kind of ConnectTimeoutError to urllib3
    return isinstance(broken, Timeout) or any(isinstance(c, of_time) and not isinstance(c, refused) for c in causes)


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


# -- proxies ------------------------------------------------------------------------------------------------


def _proxy_status(causes: list[BaseException]) -> int | None:
    """What a proxy that can be reached answered in place of a connection."""
    answers = (re.search(r"Tunnel connection failed: (\d{3})", str(cause)) for cause in causes)
    return next((int(answer[1]) for answer in answers if answer), None)


def _proxy_says(status: int) -> Told:
    if status in _PROXY_SAYS_NO:
        return e.CrmConfigurationError, (
            f"the proxy refused the way to the CRM (status {status}): check HTTPS_PROXY and the credentials in it"
        )
    return e.CrmConnectionError, f"the proxy did not get through to the CRM (status {status})"


# -- TLS ----------------------------------------------------------------------------------------------------


def _tls_says(causes: list[BaseException]) -> Told:
    if any(isinstance(cause, ssl.SSLEOFError) for cause in causes):  # such as a load balancer that restarts
        return e.CrmConnectionError, "TLS broke off before it was agreed on"
    return e.CrmTlsError, _tls_reason(causes)


def _tls_reason(causes: list[BaseException]) -> str:
    for cause in causes:
        if isinstance(cause, ssl.SSLCertVerificationError):
            return f"the certificate is not trusted: {cause.verify_message}"
    reasons = (cause.reason for cause in causes if isinstance(cause, ssl.SSLError))
    reason = next(filter(None, reasons), "no reason given")
    return f"no secure connection could be agreed on: {'what answers speaks no TLS' if reason in _NO_TLS else reason}"


# -- connections --------------------------------------------------------------------------------------------


def _is_no_http(cause: BaseException) -> bool:
    """Whether it was answered, but not in HTTP within its limits (100 headers, 64 KB each)."""
    from urllib3.exceptions import InvalidHeader

    if isinstance(cause, http.client.BadStatusLine):
        return not isinstance(cause, ConnectionError) and not str(cause).startswith("HTTP/")
    if isinstance(cause, InvalidHeader):  # two lengths
        return True
    return isinstance(cause, http.client.HTTPException) and not isinstance(cause, http.client.IncompleteRead)


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
