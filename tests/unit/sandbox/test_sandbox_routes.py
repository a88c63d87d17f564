"""Routing of a raw HTTP path."""

from __future__ import annotations

from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crm_provider.errors.catalog import CATALOGUE
from crm_provider.sandbox.routes import ROUTES, Route, decoded_path, find_route

TEXT = st.text(st.characters(exclude_categories=["Cs"]), min_size=1)


@pytest.mark.parametrize("route", ROUTES, ids=lambda route: route.name)
@given(values=st.lists(TEXT, min_size=3, max_size=3))
def test_any_value_survives_path_encoding(route: Route, values: list[str]) -> None:
    names = [part[1:-1] for part in route.template.split("/") if part.startswith("{")]
    params = dict(zip(names, values, strict=False))
    path = route.template
    for name, value in params.items():
        path = path.replace(f"{{{name}}}", quote(value, safe=""), 1)
    assert find_route(route.method, f"/v2{path}") == (route, params)


@pytest.mark.parametrize(
    ("encoded", "email"),
    [
        ("a%2Bb%40c.de", "a+b@c.de"),
        ("a+b@c.de", "a+b@c.de"),
        ("a%2Fb@c.de", "a/b@c.de"),
        ("a%252Fb@c.de", "a%2Fb@c.de"),
        ("a%25b@c.de", "a%b@c.de"),
        ("a%23b%3Fc@d.ef", "a#b?c@d.ef"),
        ("%C3%BC@c.de", "ü@c.de"),
    ],
)
def test_paths_are_decoded_exactly_once(encoded: str, email: str) -> None:
    _, params = find_route("GET", f"/v2/contacts/{encoded}") or (None, {})
    assert params == {"email": email}
    assert decoded_path(f"/v2/contacts/{encoded}") == f"/contacts/{email}"


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/contacts"),
        ("GET", "/v1/contacts"),
        ("GET", "/v2"),
        ("GET", "/v2/"),
        ("GET", "/v2contacts"),
        ("GET", "/x/v2/contacts"),
        ("GET", "/v2%2Fcontacts"),
        ("GET", "/v2/contact"),
        ("GET", "/v2/contacts/a@b.co/more"),
        ("GET", "/v2/contacts/a/b@c.de"),
        ("GET", "/v2//contacts"),
        ("PATCH", "/v2/contacts/a@b.co"),
        ("get", "/v2/contacts"),
        ("POST", "/v2/segments"),
        ("GET", "/v2/webhook/a/c/b/w/c"),
    ],
)
def test_unknown_paths_have_no_route(method: str, path: str) -> None:
    assert find_route(method, path) is None


def test_blank_path_values_get_a_catalogue_error() -> None:
    assert {route.blank for route in ROUTES} <= set(CATALOGUE["INVALID_PARAMS"].messages)


def test_only_the_webhook_needs_no_key() -> None:
    assert [route.template.split("/")[1] for route in ROUTES if route.keyless] == ["webhook"]
