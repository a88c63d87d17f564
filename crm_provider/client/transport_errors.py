"""What can go wrong on the way of one request, and the typed error for it.

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

if TYPE_CHECKING:
    from crm_provider.client.request import Call


_PROXY_SAYS_NO = frozenset({401, 403, 407})
"""What a proxy answers that will not let this worker through, however often it asks."""

_NO_TLS = frozenset(
    {"WRONG_VERSION_NUMBER", "HTTP_REQUEST", "UNKNOWN_PROTOCOL", "RECORD_LAYER_FAILURE", "PACKET_LENGTH_TOO_LONG"}
)
"""OpenSSL's names, of several versions, for "those bytes are no TLS"."""


def transport_error(
    broken: Exception, call: Call, *, sent: bool, proxied: bool, host: str | None = None, uses_environment: bool = True
) -> e.CrmError:
    """The typed error for what ``requests`` or ``urllib3`` raised, told without the URL (it may hold an email).

    :param sent: some of the request was on its way
    :param proxied: the way to the CRM is through a proxy
    :param host: the CRM's, for a name that is not known
    :param uses_environment: whether proxies and certificates come from environment variables
    """
    causes = list(_causes(broken))
    environment = Environment.read() if uses_environment else Environment()
    if sent:
        error, text = _after(broken, causes)
    else:
        error, text = _before(broken, causes, environment, proxied=proxied, host=host)
    return error(text, method=call.method, path=call.log_path, outcome_known=not (sent and call.is_write))


Told = tuple[type[e.CrmError], str]


@dataclass(frozen=True)
class Environment:
    """The variables that lead to the CRM.

    :param proxy_variable: the variable of the proxy, empty for none
    :param proxy: its value, which may hold a password
    :param ca_variable: the variable that names the trusted certificates, empty for none
    """

    proxy_variable: str = ""
    proxy: str = field(default="", repr=False)
    ca_variable: str = ""

    @classmethod
    def read(cls) -> Environment:
        """The variables of this process, in the order in which ``requests`` looks for them."""
        set_ones = {name: os.environ[name] for name in (*PROXY_VARIABLES, *CA_VARIABLES) if os.environ.get(name)}
        proxy = next((name for name in PROXY_VARIABLES if name in set_ones), "")
        ca_bundle = next((name for name in CA_VARIABLES if name in set_ones), "")
        return cls(proxy, set_ones.get(proxy, ""), ca_bundle)

    def proxy_problem(self) -> str | None:
        """Why the address of the proxy makes no sense; None if it may be right, or there is none."""
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


def _before(
    broken: Exception, causes: list[BaseException], environment: Environment, *, proxied: bool, host: str | None
) -> Told:
    """What went wrong before anything was sent."""
    if refused := _refused_here(broken, environment):
        return refused
    if any(isinstance(cause, ssl.SSLError) for cause in causes):
        return _tls_says(causes, environment)
    variable = environment.proxy_variable or "HTTPS_PROXY"
    if proxied and (status := _proxy_status(causes)) is not None:
        return _proxy_says(status, variable)
    if problem := environment.proxy_problem():
        return e.CrmConfigurationError, f"the environment variable {environment.proxy_variable} {problem}"
    through = f" through the proxy ({variable})" if proxied else ""
    if _is_timeout(broken, causes):
        return e.CrmTimeoutError, f"no connection{through} in time"
    reason = _connection_reason(causes, None if proxied else host)
    return e.CrmConnectionError, f"no connection{through}: {reason}" if proxied else reason


def _refused_here(broken: Exception, environment: Environment) -> Told | None:
    """What ``requests`` would not send."""
    from requests import exceptions as r

    if isinstance(broken, r.InvalidJSONError):
        return e.CrmInvalidValueError, "the body has no JSON form"
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
    """Whether ``requests`` says so; it has no class of its own for it, and no number of the system."""
    return isinstance(broken, OSError) and broken.errno is None and "CA certificate bundle" in str(broken)


def _after(broken: Exception, causes: list[BaseException]) -> Told:
    """What went wrong when the other side may have got the request."""
    if _is_timeout(broken, causes):
        return e.CrmTimeoutError, "no whole answer in time"
    if isinstance(broken, ValueError) or any(_is_no_http(cause) for cause in causes):
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


def _proxy_says(status: int, variable: str) -> Told:
    if status in _PROXY_SAYS_NO:
        return e.CrmConfigurationError, (
            f"the proxy refused the way to the CRM (status {status}): check {variable} and the credentials in it"
        )
    return e.CrmConnectionError, f"the proxy did not get through to the CRM (status {status})"


# -- TLS ----------------------------------------------------------------------------------------------------


def _tls_says(causes: list[BaseException], environment: Environment) -> Told:
    if any(isinstance(cause, ssl.SSLEOFError) for cause in causes):  # such as a load balancer that restarts
        return e.CrmConnectionError, "TLS broke off before it was agreed on"
    if not (environment.ca_variable and any(map(_is_about_the_bundle, causes))):
        return e.CrmTlsError, _tls_reason(causes)
    return e.CrmTlsError, (
        f"{_tls_reason(causes)}. The trusted certificates are those of the environment variable "
        f"{environment.ca_variable}: it must name a file with at least the certificate of the server's authority"
    )


_UNTRUSTED = frozenset({2, 18, 19, 20, 21})
"""OpenSSL's codes for a certificate whose authority is not among those trusted."""


def _is_about_the_bundle(cause: BaseException) -> bool:
    """Whether the trusted certificates may be the reason: they lack one, or the file has none that can be read."""
    if isinstance(cause, ssl.SSLCertVerificationError):
        return cause.verify_code in _UNTRUSTED
    return isinstance(cause, ssl.SSLError) and bool(re.search("CERTIFICATE_OR_CRL|PEM|START_LINE", str(cause)))


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


def _connection_reason(causes: list[BaseException], host: str | None = None) -> str:
    if any(isinstance(cause, socket.gaierror) for cause in causes):
        return f"the host name{f' {host}' if host else ''} is not known (DNS)"
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
