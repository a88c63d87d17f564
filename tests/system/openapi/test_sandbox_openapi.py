"""The sandbox under schemathesis: every operation of its API and of its admin routes, in this process."""

from __future__ import annotations

import asyncio
import os
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from starlette.responses import JSONResponse
from starlette.types import Receive, Scope, Send

from crm_provider.sandbox import DEFAULT_API_KEY, SandboxSettings
from crm_provider.sandbox.gateway import Gateway
from crm_provider.sandbox.http_server import CLOSE_EXTENSION, SandboxApp
from crm_provider.sandbox.routes import ROUTES
from crm_provider.sandbox.settings import ADMIN_PATH

from .sandbox_document import document

schemathesis = pytest.importorskip("schemathesis", reason="needs the extra 'system', and Python 3.11")
openapi_checks = pytest.importorskip("schemathesis.specs.openapi.checks")

pytestmark = pytest.mark.system

EXAMPLES = int(os.environ.get("CRM_FUZZ_EXAMPLES", "40"))
"""Of each operation."""

KEY = {"x-api-key": DEFAULT_API_KEY, "content-type": "application/json"}
CHECKS = [
    openapi_checks.status_code_conformance,
    openapi_checks.content_type_conformance,
    openapi_checks.response_schema_conformance,
]
PROPERTY = settings(
    max_examples=EXAMPLES,
    deadline=None,
    derandomize="CI" in os.environ,
    database=None,
    phases=[Phase.explicit, Phase.generate, Phase.shrink],
    suppress_health_check=list(HealthCheck),
)


class ConnectionClosed(Exception):
    """The sandbox closed the connection without a response."""


def _close() -> None:
    raise ConnectionClosed


closing = asyncio.Event()
closing.set()  # delayed responses are sent at once
gateway = Gateway(SandboxSettings(rate=None))
sandbox = SandboxApp(gateway, closing, allowed_hosts=["testserver"])


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    """The sandbox with its document, and with the data that its server adds to each request."""
    if scope["type"] == "http" and scope["path"] == "/openapi.json":
        await JSONResponse(document())(scope, receive, send)
        return
    await sandbox({**scope, "extensions": {**scope.get("extensions", {}), CLOSE_EXTENSION: _close}}, receive, send)


API = schemathesis.openapi.from_asgi("/openapi.json", app)
ADMIN = schemathesis.openapi.from_asgi(f"{ADMIN_PATH}/openapi.json", app)
OPERATIONS = {
    f"{found.method.upper()} {found.full_path}": found
    for schema in (API, ADMIN)
    for found in (result.ok() for result in schema.get_all_operations())
}


def test_openapi_document_lists_every_route() -> None:
    routes = {f"{route.method} /v2{route.template}" for route in ROUTES}
    assert {name for name in OPERATIONS if ADMIN_PATH not in name} == routes
    assert len(OPERATIONS) - len(routes) == 13


@pytest.mark.parametrize("name", OPERATIONS)
def test_operation_conforms_to_the_openapi_document(name: str) -> None:
    @PROPERTY
    @given(case=OPERATIONS[name].as_strategy())
    def conforms(case: Any) -> None:
        gateway.reset(SandboxSettings(rate=None))
        response = case.call(headers=KEY)
        assert response.status_code < 500
        case.validate_response(response, checks=CHECKS)

    conforms()


@settings(PROPERTY, max_examples=EXAMPLES * 3)
@given(cases=st.lists(st.one_of([operation.as_strategy() for operation in OPERATIONS.values()]), max_size=8))
def test_any_sequence_of_calls_leaves_the_sandbox_consistent(cases: list[Any]) -> None:
    gateway.reset(SandboxSettings(rate=None))
    for case in cases:
        try:
            response = case.call(headers=KEY)
        except ConnectionClosed:
            assert gateway.journal.entries()[-1].fault
            continue
        if response.status_code >= 500:
            assert ADMIN_PATH not in case.operation.full_path
            assert gateway.journal.entries()[-1].fault
    with gateway.lock:
        assert gateway.journal.counters().total == len(gateway.journal.entries())
