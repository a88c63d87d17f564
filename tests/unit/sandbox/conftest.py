"""A gateway without HTTP, with a clock that does not advance."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

import pytest

from crm_provider.sandbox import DEFAULT_API_KEY, CrmStore, ManualClock, SandboxSettings
from crm_provider.sandbox.faults import RequestOutcome
from crm_provider.sandbox.gateway import Gateway
from crm_provider.sandbox.routes import RawRequest
from crm_provider.sandbox.seeds import fill, load_seed

Send = Callable[..., RequestOutcome]


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def store(clock: ManualClock) -> CrmStore:
    """The demo seed."""
    store = CrmStore(clock)
    fill(store, load_seed("demo"))
    return store


@pytest.fixture
def gateway(clock: ManualClock) -> Gateway:
    """The demo seed without a rate limit."""
    return Gateway(SandboxSettings(rate=None), clock=clock)


@pytest.fixture
def send(gateway: Gateway) -> Send:
    """Send a request: ``send("PUT", "/contacts/ada@example.com", {"phone": "+1"})``. The path may contain a query."""

    def send(
        method: str,
        path: str,
        body: Any = None,
        *,
        key: str | None = DEFAULT_API_KEY,
        headers: Mapping[str, str] | None = None,
        base: str = "/v2",
    ) -> RequestOutcome:
        raw_path, _, query = f"{base}{path}".partition("?")
        content = body if isinstance(body, bytes) else b"" if body is None else json.dumps(body).encode()
        sent = {**({} if key is None else {"x-api-key": key}), **(headers or {})}
        return gateway.handle(RawRequest(method=method, raw_path=raw_path, query=query, headers=sent, body=content))

    return send
