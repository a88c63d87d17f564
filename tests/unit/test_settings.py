"""Valid and invalid connections. Every error names the field and the fix, but no secret."""

from __future__ import annotations

import pickle
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crm_provider.client.settings import EXTRAS, Settings, checked_base_url, is_loopback, with_port
from crm_provider.errors import CrmConfigurationError

from .fakes import KEY

DEFAULT = "https://connect.pingback.com/v2"


def of_fields(
    host: str | None = None, port: int | None = None, password: str | None = KEY, extra: dict[str, Any] | None = None
) -> Settings:
    return Settings.from_fields(host=host, port=port, password=password, extra=extra)


def refusal(**fields: Any) -> str:
    """The message of a refusal."""
    with pytest.raises(CrmConfigurationError) as raised:
        of_fields(**fields)
    return raised.value.message


def test_defaults_are_as_documented() -> None:
    settings = of_fields()
    assert (settings.base_url, settings.developer_mode) == (DEFAULT, False)
    assert (settings.requests_per_second, settings.burst) == (5.0, 2)
    assert settings.rate_store is None
    assert settings.timeout > 29, "the gateway responds within 29 s"
    assert settings == Settings(api_key=KEY) == pickle.loads(pickle.dumps(settings))


# -- base URL ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("host", "port", "base_url"),
    [
        (None, None, DEFAULT),
        ("", 0, DEFAULT),
        ("  ", None, DEFAULT),
        (f"{DEFAULT}/", None, DEFAULT),
        (f" {DEFAULT} ", None, DEFAULT),
        ("https://crm.example", None, "https://crm.example"),
        (None, 443, "https://connect.pingback.com:443/v2"),
        ("https://crm.example/v2", 8443, "https://crm.example:8443/v2"),
        ("https://crm.example:8443/v2", 8443, "https://crm.example:8443/v2"),
        ("https://crm.example:8443/v2", 0, "https://crm.example:8443/v2"),
        ("http://localhost/v2", 8080, "http://localhost:8080/v2"),
        ("http://127.0.0.1:8080/v2", None, "http://127.0.0.1:8080/v2"),
        ("http://127.9.9.9/v2", None, "http://127.9.9.9/v2"),
        ("http://[::1]/v2", 8080, "http://[::1]:8080/v2"),
    ],
)
def test_base_url(host: str | None, port: int | None, base_url: str) -> None:
    assert of_fields(host, port).base_url == base_url


@pytest.mark.parametrize(
    ("host", "port", "problem"),
    [
        ("connect.pingback.com/v2", None, "must be a complete URL with its scheme"),
        ("ftp://crm.example", None, "must be a complete URL with its scheme"),
        ("https://", None, "must be a complete URL with its scheme"),
        ("https:///v2", None, "must be a complete URL with its scheme"),
        ("http://crm.example/v2", None, "is plain HTTP to crm.example"),
        ("http://127.0.0.1.crm.example/v2", None, "is plain HTTP to"),
        ("http://localhost.crm.example/v2", None, "is plain HTTP to"),
        ("http://localhost@crm.example/v2", None, "is plain HTTP to crm.example"),
        ("http://0.0.0.0/v2", None, "is plain HTTP to"),
        ("http://2130706433/v2", None, "is plain HTTP to"),
        ("http://crm.example\\@127.0.0.1/v2", None, "has a user or password"),
        ("https://ada:secret@crm.example/v2", None, "has a user or password in it"),
        ("https://ada@crm.example/v2", None, "has a user or password in it"),
        ("https://@crm.example/v2", None, "has a user or password in it"),
        ("https://crm.example/v2/../x", None, "or a '..' in its path"),
        ("https://crm_.example\\v2", None, "has a character that is invalid in a host name"),
        ("https://169.254.169.254/v2", None, "is a link-local address or the metadata address"),
        ("https://[fe80::1]/v2", None, "is a link-local address or the metadata address"),
        ("https://metadata.google.internal/v2", None, "is a link-local address or the metadata address"),
        ("https://crm.example/v2?key=secret", None, "has a '?' or '#' part"),
        ("https://crm.example/v2#x", None, "has a '?' or '#' part"),
        ("https://crm.example/v2?", None, "has a '?' or '#' part"),
        ("https://crm.example/v2#", None, "has a '?' or '#' part"),
        ("https://crm .example/v2", None, "has a space or control character"),
        ("https://crm.example/\nv2", None, "has a space or control character"),
        ("https://crm.example:99999/v2", None, "is not a URL"),
        ("https://crm.example/v2", 99999, "is not a URL"),
        ("https://crm.example/v2", -1, "is not a URL"),
        ("https://[::1/v2", None, "is not a URL"),
        ("https://crm.example:8443/v2", 443, "names port 8443 but Port is 443"),
        ("crm.example", 8443, "must be a complete URL with its scheme"),
    ],
)
def test_invalid_base_url_is_refused(host: str, port: int | None, problem: str) -> None:
    message = refusal(host=host, port=port)
    assert problem in message
    assert "secret" not in message
    assert len(message) > len(problem), "the message says the fix"


@pytest.mark.parametrize("url", ["https://crm.example:s3cret/v2", "https://[crm.example"])
def test_port_is_not_added_to_a_broken_url(url: str) -> None:
    assert with_port(url, 8443) == url


@pytest.mark.parametrize("host", ["https://crm.example:s3cret", "https://ada:s3cret@exa\u2100mple.com/"])
def test_password_in_a_broken_url_is_not_shown(host: str) -> None:
    assert "s3cret" not in refusal(host=host)


@given(st.text(max_size=40) | st.text("htps:/@.#?[]\\1270localhost", max_size=40))
def test_any_host_is_safe_or_refused(host: str) -> None:
    try:
        url = checked_base_url(host)
    except CrmConfigurationError:
        return
    assert url.lower().startswith(("https://", "http://localhost", "http://127.", "http://[::1]", "http://[0"))
    assert "?" not in url
    assert "#" not in url
    assert not url.endswith("/")


@pytest.mark.parametrize(
    ("hostname", "expected"),
    [("localhost", True), ("127.0.0.1", True), ("127.1.2.3", True), ("::1", True), ("0.0.0.0", False), ("", False),
     ("10.0.0.1", False), ("localhost.evil.example", False), ("127.0.0.1.nip.io", False), ("::", False)],
)  # fmt: skip
def test_loopback(hostname: str, expected: bool) -> None:
    assert is_loopback(hostname) is expected


@pytest.mark.parametrize(
    ("host", "expected"), [(None, False), ("http://localhost:1", True), ("https://127.0.0.1/v2", True)]
)
def test_is_local(host: str | None, expected: bool) -> None:
    assert of_fields(host).is_local is expected


# -- API key -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("password", [None, "", "   "])
def test_missing_api_key(password: str | None) -> None:
    message = refusal(password=password)
    assert "Password" in message and "is empty; put the CRM's API key there" in message


@pytest.mark.parametrize("password", [f" {KEY}", f"{KEY}\n", f"{KEY}\x00", "kéy", "k\r\nX-Evil: 1"])
def test_malformed_api_key(password: str) -> None:
    message = refusal(password=password)
    assert "paste the key again" in message
    assert password.strip() not in message


def test_key_is_never_shown() -> None:
    settings = Settings(api_key=KEY, rate_store="off")
    assert KEY not in f"{settings!r} {settings} {settings.key_fingerprint} {settings.with_(timeout=1)}"


def test_fingerprints_distinguish_keys() -> None:
    one, same, other = Settings(api_key="a"), Settings(api_key="a", timeout=1), Settings(api_key="b")
    assert one.key_fingerprint == same.key_fingerprint != other.key_fingerprint


# -- extras --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("developer_mode", True, True),
        ("developer_mode", "true", True),
        ("developer_mode", " TRUE ", True),
        ("developer_mode", "1", True),
        ("developer_mode", "false", False),
        ("developer_mode", "0", False),
        ("developer_mode", 1, True),
        ("developer_mode", 0, False),
        ("requests_per_second", "2.5", 2.5),
        ("requests_per_second", 2, 2.0),
        ("burst", "3", 3),
        ("burst", 3.0, 3),
        ("timeout", "0.1", 0.1),
        ("timeout", 600, 600.0),
        ("poll_share", "0.05", 0.05),
        ("poll_share", 1, 1.0),
        ("rate_store", "off", "off"),
        ("rate_store", "process", "process"),
        ("rate_store", " redis://host ", "redis://host"),
        (
            "rate_store",
            "rediss://user:pass@host:6380/1?ssl_ca_certs=/ca.pem",
            "rediss://user:pass@host:6380/1?ssl_ca_certs=/ca.pem",
        ),
    ],
)
def test_extra(name: str, value: Any, expected: Any) -> None:
    found = getattr(of_fields(extra={name: value}), name)
    assert found == expected
    assert type(found) is type(expected)


@pytest.mark.parametrize("name", EXTRAS)
@pytest.mark.parametrize("nothing", [None, ""])
def test_empty_extra_is_the_default(name: str, nothing: str | None) -> None:
    assert of_fields(extra={name: nothing}) == of_fields()


WRONG = {
    "developer_mode": ["yes", "on", 2, -1, 1.0, [], "truth"],
    "requests_per_second": [0, -1, "fast", True, float("nan"), float("inf"), [], 10**400, "1e999", 1001],
    "burst": [0, -1, 1.5, "2.5", True, "x", 10**400],
    "timeout": [0, -1, 601, "long", False, {}, float("nan")],
    "poll_share": [0, 0.04, 1.01, "half", True, [], float("nan")],
    "rate_store": [
        "on",
        5,
        True,
        "OFF",
        "ftp://x",
        "redis",
        "redis://",
        "redis:///0",
        "redis://host:99999",
        "redis://host:0",
        "redis://[x",
    ],
}


@pytest.mark.parametrize(
    ("name", "value"), [(name, value) for name, values in WRONG.items() for value in values], ids=lambda v: repr(v)[:20]
)
def test_invalid_extra_is_refused(name: str, value: Any) -> None:
    message = refusal(extra={name: value})
    assert message.startswith(f"Extra {name!r} must be ")


def test_every_extra_has_invalid_values_in_the_table() -> None:
    assert set(WRONG) == set(EXTRAS)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("requests_per_seconds", "did you mean 'requests_per_second'?"),
        ("developermode", "did you mean 'developer_mode'?"),
        ("verify", "remove it. Known: developer_mode, requests_per_second, burst, timeout, poll_share, rate_store"),
        ("base_url", "is unknown"),
    ],
)
def test_unknown_extra(name: str, expected: str) -> None:
    assert expected in refusal(extra={name: "x"})


@pytest.mark.parametrize("name", ["api_key", "apikey", "key", "token", "x-api-key"])
def test_key_among_the_extras_is_referred_to_its_field_and_not_shown(name: str) -> None:
    message = refusal(extra={name: "s3cret"})
    assert "put the key into API key (field Password)" in message
    assert "s3cret" not in message


def test_password_of_a_store_is_not_shown() -> None:
    for url in ("postgres://:s3cret@host/0", "redis://:s3cret@host:99999"):
        assert "s3cret" not in refusal(extra={"rate_store": url})
    assert "s3cret" not in repr(Settings(api_key=KEY, rate_store="redis://:s3cret@host"))


@given(
    st.dictionaries(st.sampled_from(list(EXTRAS)), st.none() | st.booleans() | st.integers() | st.floats() | st.text())
)
def test_any_extras_are_accepted_or_refused(extra: dict[str, Any]) -> None:
    try:
        settings = of_fields(extra=extra)
    except CrmConfigurationError:
        return
    assert 0.01 <= settings.requests_per_second <= 1000
    assert 1 <= settings.burst <= 1000
    assert 0.1 <= settings.timeout <= 600
    assert isinstance(settings.developer_mode, bool)


def test_settings_created_in_code_are_checked() -> None:
    with pytest.raises(CrmConfigurationError, match=r"Extra 'timeout' must be a number from 0\.1 to 600, but is -1"):
        Settings(api_key=KEY, timeout=-1)
    with pytest.raises(CrmConfigurationError, match="plain HTTP"):
        Settings(api_key=KEY).with_(base_url="http://crm.example")
