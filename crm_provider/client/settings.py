"""The settings of a connection, checked: base URL, API key and the documented extras."""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any
from urllib.parse import SplitResult, unquote, urlsplit

from crm_provider.errors import CrmConfigurationError
from crm_provider.values.redaction import Secret
from crm_provider.values.suggest import nearest

DEFAULT_CONN_ID = "crm_default"
DEFAULT_BASE_URL = "https://connect.pingback.com/v2"


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How to reach one CRM account.

    >>> Settings(api_key="...").base_url
    'https://connect.pingback.com/v2'

    :param api_key: the account's one API key; kept out of ``repr``
    :param base_url: HTTPS, or HTTP to this machine only
    :param developer_mode: the CRM responds with fake data and changes nothing
    :param requests_per_second: calls per second that the CRM allows this key
    :param burst: calls that the CRM allows at once
    :param timeout: seconds to wait for a response (connecting: at most 5)
    :param poll_share: maximum share of ``requests_per_second`` for the waiting tasks of a triggerer
    :param rate_store: where the rate budget is kept: None for a file on this host, ``airflow`` for one budget of all
        hosts, ``process``, ``off`` for no limit at all, or the URL of a Redis; kept out of ``repr``
    :param conn_id: the Airflow connection of these settings, for messages
    :raises CrmConfigurationError: naming the field, the problem and the fix
    """

    api_key: str = field(repr=False)
    base_url: str = DEFAULT_BASE_URL
    developer_mode: bool = False
    requests_per_second: float = 5.0
    burst: int = 2
    timeout: float = 30.0
    poll_share: float = 0.5
    rate_store: str | None = field(default=None, repr=False)
    conn_id: str | None = field(default=None, compare=False)

    def __post_init__(self) -> None:
        if not self.api_key.strip():
            raise CrmConfigurationError("API key (field Password) is empty; put the CRM's API key there")
        if not re.fullmatch(r"[!-~]+", self.api_key):  # visible ASCII, as headers allow
            raise CrmConfigurationError(
                "API key (field Password) has spaces or invalid characters; paste the key again"
            )
        if len(self.api_key) >= SHORTEST_KEY and self.api_key.lower() in self.base_url.lower():
            raise CrmConfigurationError(
                "Base URL (field Host) contains the API key; put the key into API key (field Password) only, and "
                f"leave Host empty or use {DEFAULT_BASE_URL}"
            )
        object.__setattr__(self, "api_key", Secret(self.api_key))
        object.__setattr__(self, "base_url", checked_base_url(self.base_url))
        for name in EXTRAS:
            if getattr(self, name) is not None:
                object.__setattr__(self, name, _checked_extra(name, getattr(self, name)))

    @classmethod
    def from_fields(
        cls,
        *,
        host: str | None,
        port: int | None,
        password: str | None,
        extra: Mapping[str, Any] | None,
        conn_id: str | None = None,
    ) -> Settings:
        """Settings from the fields of an Airflow connection.

        :raises CrmConfigurationError: naming the field, the problem and the fix
        """
        options = {
            name: _checked_extra(name, value) for name, value in (extra or {}).items() if value not in ("", None)
        }
        base_url = with_port((host or "").strip() or DEFAULT_BASE_URL, port)
        return cls(api_key=password or "", base_url=base_url, conn_id=conn_id, **options)

    @property
    def key_fingerprint(self) -> str:
        """Distinguishes keys without revealing them."""
        return hashlib.sha256(f"crm_provider:{self.api_key}".encode()).hexdigest()[:16]

    def derived_secret(self, purpose: str) -> bytes:
        """A secret for one purpose. It differs for each API key, CRM and mode."""
        place = f"{purpose}\n{self.base_url}\n{self.developer_mode}"
        return hmac.digest(self.api_key.encode(), place.encode(), "sha256")

    @property
    def developer_note(self) -> str:
        """What developer mode means, for logs and reports; empty without it."""
        whose = f" (connection {self.conn_id!r})" if self.conn_id else ""
        note = f"Developer mode: the CRM returns example data and writes nothing{whose}."
        return note if self.developer_mode else ""

    @property
    def shown_url(self) -> str | None:
        """The base URL for messages; None if a part of it may be an API key in the wrong field."""
        parts = urlsplit(self.base_url)
        has_plain_path = all(len(part) < SHORTEST_KEY for part in parts.path.split("/"))
        has_plain_host = self.is_local or host_for_messages(parts.hostname or "") is not None
        return self.base_url if has_plain_host and has_plain_path else None

    @property
    def is_local(self) -> bool:
        """Whether the CRM is on this machine, as a sandbox is."""
        return is_loopback(urlsplit(self.base_url).hostname or "")

    def with_(self, **changes: Any) -> Settings:
        """A copy with some fields changed."""
        return replace(self, **changes)


# -- base URL -----------------------------------------------------------------------------------------------


def checked_base_url(url: str) -> str:
    """A base URL to which the key may be sent, without a trailing slash.

    :raises CrmConfigurationError: if it has no scheme, is plain HTTP to another machine, or has more than a path
    """
    parts = _parsed(url)
    if parts is None:
        raise CrmConfigurationError(f"Base URL (field Host) is not a URL; use one like {DEFAULT_BASE_URL}")
    hostname = parts.hostname
    if parts.scheme not in ("https", "http") or not hostname:
        raise CrmConfigurationError(
            f"Base URL (field Host) must be a complete URL with its scheme; use {DEFAULT_BASE_URL}"
        )
    if any(c.isspace() or not c.isprintable() for c in url):
        raise CrmConfigurationError(f"Base URL (field Host) has a space or control character; use {DEFAULT_BASE_URL}")
    if parts.scheme == "http" and not is_loopback(hostname):
        raise CrmConfigurationError(
            f"Base URL (field Host) is plain HTTP to {host_for_messages(hostname) or 'another machine'}, where anyone "
            "in between could read the API key; use https:// (HTTP is allowed to this machine only, for the sandbox)"
        )
    if "@" in parts.netloc:
        raise CrmConfigurationError(
            "Base URL (field Host) has a user or password in it; remove them, and put the key into API key "
            "(field Password)"
        )
    if _is_forbidden(hostname):
        raise CrmConfigurationError(
            "Base URL (field Host) is a link-local address or the metadata address of a cloud, not that of a CRM; use "
            f"{DEFAULT_BASE_URL}"
        )
    if "?" in url or "#" in url:
        raise CrmConfigurationError(f"Base URL (field Host) has a '?' or '#' part; remove it, like {DEFAULT_BASE_URL}")
    if not _HOST.fullmatch(hostname) or "\\" in url or _DOTS & set(unquote(parts.path).split("/")):
        raise CrmConfigurationError(
            "Base URL (field Host) has a character that is invalid in a host name, or a '..' in its path, which "
            f"programs read differently; use one like {DEFAULT_BASE_URL}"
        )
    return url.rstrip("/")


def with_port(url: str, port: int | None) -> str:
    """The URL with the connection's Port. 0 means none, too, because Airflow 3.3's Test button requires a number.

    :raises CrmConfigurationError: if URL and Port name different ports
    """
    if not port:
        return url
    parts = _parsed(url)
    if parts is None:
        return url  # checked_base_url refuses it
    own = parts.port
    if own not in (None, port):
        raise CrmConfigurationError(f"Base URL (field Host) names port {own} but Port is {port}; keep one of them")
    return url if own else parts._replace(netloc=f"{parts.netloc}:{port}").geturl()


def host_for_messages(hostname: str) -> str | None:
    """The name of a host for messages; None if it may be an API key in the wrong field (no dot, or a long part)."""
    parts = hostname.split(".")
    return hostname if len(parts) > 1 and all(len(part) < SHORTEST_KEY for part in parts) else None


def _is_forbidden(hostname: str) -> bool:
    """Whether an address is link-local, or a metadata address where clouds serve a machine's credentials."""
    if hostname.rstrip(".") in _METADATA_HOSTS:
        return True
    try:
        address = ipaddress.ip_address(hostname.partition("%")[0])
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None) or address
    return mapped.is_link_local or str(mapped) in _METADATA_HOSTS


_METADATA_HOSTS = frozenset({"metadata", "metadata.google.internal", "100.100.100.200", "fd00:ec2::254"})

_HOST = re.compile(r"[\w.-]+|[0-9a-f:.]+")

_DOTS = frozenset({".", ".."})


def _parsed(url: str) -> SplitResult | None:
    """The parts of a URL; None if it is invalid, or its port is not a number."""
    try:
        parts = urlsplit(url)
        _ = parts.hostname, parts.port
    except ValueError:
        return None
    return parts


def is_loopback(hostname: str) -> bool:
    """Whether a host name is this machine."""
    if hostname == "localhost":
        return True
    try:
        return ipaddress.ip_address(hostname).is_loopback
    except ValueError:
        return False


# -- extras: each has a converter that raises ValueError with a description of valid values ------------------


def _number(low: float, high: float) -> Callable[[Any], float]:
    def convert(value: Any) -> float:
        problem = f"a number from {low:g} to {high:g}"
        if isinstance(value, bool) or not isinstance(value, (int, float, str)):
            raise ValueError(problem)
        try:
            number = float(value)
        except (ValueError, OverflowError):
            raise ValueError(problem) from None
        if not low <= number <= high:
            raise ValueError(problem)
        return number

    return convert


def _whole(low: int, high: int) -> Callable[[Any], int]:
    def convert(value: Any) -> int:
        number = _number(low, high)(value)
        if number != int(number):
            raise ValueError(f"a whole number from {low} to {high}")
        return int(number)

    return convert


def _flag(value: Any) -> bool:
    texts = {"true": True, "1": True, "false": False, "0": False}
    if isinstance(value, bool):
        return value
    if isinstance(value, int) and value in (0, 1):
        return bool(value)
    if isinstance(value, str) and value.strip().lower() in texts:
        return texts[value.strip().lower()]
    raise ValueError("true or false")


def _store(value: Any) -> str:
    if value in ("airflow", "off", "process"):
        return str(value)
    if isinstance(value, str) and _is_redis(value.strip()):
        return value.strip()
    raise ValueError(
        "'airflow' (one budget for all hosts), 'process' (one for each process), 'off' (no limit), a URL like "
        "redis://host:6379/0 or rediss://host, or left out (one budget for this host)"
    )


def _is_redis(url: str) -> bool:
    try:
        parts = urlsplit(url)
        port_is_valid = parts.port != 0
    except ValueError:
        return False
    return parts.scheme in ("redis", "rediss") and bool(parts.hostname) and port_is_valid and url.isprintable()


EXTRAS: Mapping[str, Callable[[Any], Any]] = {
    "developer_mode": _flag,
    "requests_per_second": _number(0.01, 1000),
    "burst": _whole(1, 1000),
    "timeout": _number(0.1, 600),
    "poll_share": _number(0.05, 1),
    "rate_store": _store,
}
"""The extras of a connection and their converters. They accept texts, because a connection URI has only texts."""


def _checked_extra(name: str, value: Any) -> Any:
    if name in ("api_key", "apikey", "key", "token", "x-api-key"):
        raise CrmConfigurationError(
            f"Extra {name!r} is unknown; put the key into API key (field Password), where it is masked"
        )
    if name not in EXTRAS:
        close = nearest(name, EXTRAS)
        fix = f"did you mean {close!r}?" if close else "remove it."
        given = repr(name) if close else _for_message(name)
        raise CrmConfigurationError(f"Extra {given} is unknown; {fix} Known: {', '.join(EXTRAS)}")
    problem: str
    try:
        return EXTRAS[name](value)
    except ValueError as wanted:
        problem = str(wanted)
    # outside of the handler: Python's message about an invalid number contains the value
    shown = "" if name == "rate_store" else f", but is {_for_message(value)}"  # a store's URL may hold a password
    raise CrmConfigurationError(f"Extra {name!r} must be {problem}{shown}")


SHORTEST_KEY = 16
"""Characters. A text of this length or longer may be an API key in the wrong field and is not shown."""


def _for_message(value: Any) -> str:
    text = repr(str(value)) if isinstance(value, str) else repr(value)
    return text if len(text) < SHORTEST_KEY + 2 else f"a value of {len(text)} characters"
