"""Typed errors for requests that got no complete response.

Proxies and certificates come from environment variables, as ``requests`` reads them. An error names the variable, never
its value: a proxy's address may hold a password.
"""

from __future__ import annotations

import http.client
import os
import re
import socket
import ssl
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from crm_provider import errors as e
from crm_provider.errors.exceptions import ADVICE

if TYPE_CHECKING:
    from crm_provider.client.request import Call


_PROXY_REFUSALS = frozenset({401, 403, 407})
"""Statuses with which a proxy will refuse this worker again."""

_NO_TLS = frozenset(
    {"WRONG_VERSION_NUMBER", "HTTP_REQUEST", "UNKNOWN_PROTOCOL", "RECORD_LAYER_FAILURE", "PACKET_LENGTH_TOO_LONG"}
)
"""Names of several OpenSSL versions for bytes that are not TLS."""


def transport_error(
    broken: Exception, call: Call, *, sent: bool, proxied: bool, host: str | None = None, uses_environment: bool = True
) -> e.CrmError:
    """The typed error for what ``requests`` or ``urllib3`` raised, without the URL, which may hold an email.

    :param sent: whether a part of the request was sent
    :param proxied: whether the connection to the CRM goes through a proxy
    :param host: the CRM's host name, for the message if DNS does not know it
    :param uses_environment: whether proxies and certificates come from environment variables
    """
    causes = list(_causes(broken))
    environment = Environment.read() if uses_environment else Environment()
    if sent:
        error, text = _after_sending(broken, causes)
    else:
        error, text = _before_sending(broken, causes, environment, proxied=proxied, host=host)
    # A longer timeout would not help: connecting has its own limit.
    own_advice = ADVICE[e.CrmConnectionError.type] if error is e.CrmTimeoutError and not sent else None
    known = not (sent and call.is_write)
    return error(text, method=call.method, path=call.log_path, outcome_known=known, own_advice=own_advice)


_Problem = tuple[type[e.CrmError], str]


@dataclass(frozen=True)
class Environment:
    """The environment variables for the connection to the CRM.

    :param proxy_variable: the variable of the proxy, empty for none
    :param proxy: its value, which may hold a password
    :param ca_variable: the variable that names the trusted certificates, empty for none
    """

    proxy_variable: str = ""
    proxy: str = field(default="", repr=False)
    ca_variable: str = ""

    @classmethod
    def read(cls) -> Environment:
        """The variables of this process, in the order that ``requests`` uses."""
        set_ones = {name: os.environ[name] for name in (*PROXY_VARIABLES, *CA_VARIABLES) if os.environ.get(name)}
        proxy = next((name for name in PROXY_VARIABLES if name in set_ones), "")
        ca_bundle = next((name for name in CA_VARIABLES if name in set_ones), "")
        return cls(proxy, set_ones.get(proxy, ""), ca_bundle)

    def proxy_problem(self) -> str | None:
        """The problem with the address of the proxy; None if it may be valid, or without a proxy."""
        if not self.proxy_variable:
            return None
        try:
            parts = urlsplit(self.proxy if "://" in self.proxy else f"http://{self.proxy}")
            has_host, _ = bool(parts.hostname), parts.port
        except ValueError:
            return _PROXY_CREDENTIALS if "@" in self.proxy else _PROXY_FORM
        if "@" in f"{parts.path}{parts.query}{parts.fragment}":
            return _PROXY_CREDENTIALS
        if not has_host or parts.path.strip("/") or " " in self.proxy or parts.scheme not in _PROXY_SCHEMES:
            return _PROXY_FORM
        return None


PROXY_VARIABLES = ("https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY")
CA_VARIABLES = ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")

_PROXY_SCHEMES = frozenset({"http", "https", "socks4", "socks4a", "socks5", "socks5h"})
_PROXY_FORM = "is not the address of a proxy; use one like http://proxy.example.com:3128"
_PROXY_CREDENTIALS = (
    "has a character in its user or password that ends the address early; write '#' as %23, '/' as %2F, '?' as %3F and "
    "'@' as %40"
)


def _before_sending(
    broken: Exception, causes: list[BaseException], environment: Environment, *, proxied: bool, host: str | None
) -> _Problem:
    """The problem before anything was sent."""
    if refused := _refused_by_requests(broken, environment):
        return refused
    if any(isinstance(cause, ssl.SSLError) for cause in causes):
        return _tls_problem(causes, environment)
    variable = environment.proxy_variable or "HTTPS_PROXY"
    if proxied and (status := _proxy_status(causes)) is not None:
        return _proxy_problem(status, variable)
    if problem := environment.proxy_problem():
        return e.CrmConfigurationError, f"the environment variable {environment.proxy_variable} {problem}"
    through = f" through the proxy ({variable})" if proxied else ""
    if _is_timeout(broken, causes):
        return e.CrmTimeoutError, f"no connection{through} in time"
    reason = _connection_reason(causes, None if proxied else host)
    return e.CrmConnectionError, f"no connection{through}: {reason}" if proxied else reason


def _refused_by_requests(broken: Exception, environment: Environment) -> _Problem | None:
    """The problem if ``requests`` refused to send."""
    from requests import exceptions as r

    if isinstance(broken, r.InvalidJSONError):
        return e.CrmInvalidValueError, "the body cannot be converted to JSON"
    if isinstance(broken, r.InvalidSchema) and "SOCKS" in str(broken):
        return e.CrmConfigurationError, (
            f"the environment variable {environment.proxy_variable or 'ALL_PROXY'} names a SOCKS proxy, which needs a "
            "library that is not installed; install it (pip install 'requests[socks]') or use an HTTP proxy"
        )
    if _is_missing_bundle(broken):
        return e.CrmConfigurationError, (
            f"the environment variable {environment.ca_variable or CA_VARIABLES[0]} names a file of certificates that "
            "does not exist; correct its path or remove the variable"
        )
    if isinstance(broken, ValueError) and (problem := environment.proxy_problem()):
        return e.CrmConfigurationError, f"the environment variable {environment.proxy_variable} {problem}"
    if isinstance(broken, ValueError):  # also of requests: an invalid URL, schema or header
        return e.CrmConfigurationError, f"requests refused to send it ({type(broken).__name__})"
    return None


def _is_missing_bundle(broken: Exception) -> bool:
    """Whether the file of certificates is missing; ``requests`` has neither a class nor an errno for this."""
    return isinstance(broken, OSError) and broken.errno is None and "CA certificate bundle" in str(broken)


def _after_sending(broken: Exception, causes: list[BaseException]) -> _Problem:
    """The problem after the server may have received the request."""
    if _is_timeout(broken, causes):
        return e.CrmTimeoutError, "no complete response in time"
    if isinstance(broken, ValueError) or any(_is_not_http(cause) for cause in causes):
        return e.CrmProtocolError, "the response is not valid HTTP"
    return e.CrmConnectionError, _connection_reason(causes)


def _is_timeout(broken: Exception, causes: list[BaseException]) -> bool:
    from requests.exceptions import Timeout
    from urllib3.exceptions import ConnectTimeoutError, NewConnectionError, ReadTimeoutError

    of_time = (TimeoutError, ConnectTimeoutError, ReadTimeoutError)
    refused = NewConnectionError  # urllib3 treats it as a ConnectTimeoutError
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
    """The status with which a proxy refused to open the connection."""
    matches = (re.search(r"Tunnel connection failed: (\d{3})", str(cause)) for cause in causes)
    return next((int(match[1]) for match in matches if match), None)


def _proxy_problem(status: int, variable: str) -> _Problem:
    if status in _PROXY_REFUSALS:
        return e.CrmConfigurationError, (
            f"the proxy refused to connect to the CRM (status {status}): check {variable} and the credentials in it"
        )
    return e.CrmConnectionError, f"the proxy could not connect to the CRM (status {status})"


# -- TLS ----------------------------------------------------------------------------------------------------


def _tls_problem(causes: list[BaseException], environment: Environment) -> _Problem:
    if any(isinstance(cause, ssl.SSLEOFError) for cause in causes):  # such as a load balancer that restarts
        return e.CrmConnectionError, "the connection was closed during the TLS handshake"
    if not (environment.ca_variable and any(map(_is_about_the_bundle, causes))):
        return e.CrmTlsError, _tls_reason(causes)
    return e.CrmTlsError, (
        f"{_tls_reason(causes)}. The trusted certificates are those of the environment variable "
        f"{environment.ca_variable}: it must name a file with at least the certificate of the server's authority"
    )


_UNTRUSTED = frozenset({2, 18, 19, 20, 21})
"""OpenSSL's codes for a certificate whose authority is not trusted."""


def _is_about_the_bundle(cause: BaseException) -> bool:
    """Whether the file of trusted certificates may be the reason: it lacks one, or none of them can be read."""
    if isinstance(cause, ssl.SSLCertVerificationError):
        return cause.verify_code in _UNTRUSTED
    return isinstance(cause, ssl.SSLError) and bool(re.search("CERTIFICATE_OR_CRL|PEM|START_LINE", str(cause)))


def _tls_reason(causes: list[BaseException]) -> str:
    for cause in causes:
        if isinstance(cause, ssl.SSLCertVerificationError):
            return f"the certificate is not trusted: {cause.verify_message}"
    reasons = (cause.reason for cause in causes if isinstance(cause, ssl.SSLError))
    reason = next(filter(None, reasons), "no reason given")
    return f"the TLS handshake failed: {'the server does not use TLS' if reason in _NO_TLS else reason}"


# -- connections --------------------------------------------------------------------------------------------


def _is_not_http(cause: BaseException) -> bool:
    """Whether the response is not HTTP, or exceeds its limits (100 headers, 64 KB each)."""
    from urllib3.exceptions import InvalidHeader

    if isinstance(cause, http.client.BadStatusLine):
        return not isinstance(cause, ConnectionError) and not str(cause).startswith("HTTP/")
    if isinstance(cause, InvalidHeader):  # two lengths
        return True
    return isinstance(cause, http.client.HTTPException) and not isinstance(cause, http.client.IncompleteRead)


def _connection_reason(causes: list[BaseException], host: str | None = None) -> str:
    if any(isinstance(cause, socket.gaierror) for cause in causes):
        return f"the host name{f' {host}' if host else ''} is not known (DNS)"
    if any(isinstance(cause, ConnectionRefusedError) for cause in causes):
        return "the connection was refused"
    if any(isinstance(cause, ssl.SSLError) for cause in causes):
        return "the TLS connection broke before the response was complete"
    reason = next((c.strerror for c in causes if isinstance(c, OSError) and c.errno and c.strerror), None)
    return (
        f"the connection failed: {reason.lower()}"
        if reason
        else "the connection broke before the response was complete"
    )
