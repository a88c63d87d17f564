"""Stand-ins for time, the rate budget, and the network."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NoReturn

from crm_provider import errors as e
from crm_provider.client.client import CrmClient
from crm_provider.client.request import Call
from crm_provider.client.responses import CrmResponse
from crm_provider.client.retry import RetryBudget
from crm_provider.client.settings import Settings
from crm_provider.client.transport import Transport
from crm_provider.rate_limit.limiter import BudgetBusy

from .reference import RESPONSE_TYPES

if TYPE_CHECKING:
    import pytest

KEY = "k3y-of-the-account"


@dataclass
class FakeClock:
    """A clock that advances only by sleeping."""

    now: float = 1000.0
    slept: list[float] = field(default_factory=list)

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds


@dataclass
class FakeRateLimiter:
    """Grants every slot at once. The slots in ``away`` (0-based numbers) are that many seconds away."""

    away: Mapping[int, float] = field(default_factory=dict)
    asked: list[float] = field(default_factory=list)
    paused: list[float] = field(default_factory=list)

    def acquire(self, max_wait: float) -> float:
        self.asked.append(max_wait)
        wait = self.away.get(len(self.asked) - 1, 0.0)
        if wait > max_wait:
            raise BudgetBusy(wait)
        return wait

    def pause(self, seconds: float) -> None:
        self.paused.append(seconds)


@dataclass(frozen=True)
class Reply:
    """A response of the CRM."""

    status: int = 200
    body: Any = None
    headers: Mapping[str, str] = field(default_factory=dict)

    def __call__(self, call: Call) -> CrmResponse:
        body = (
            self.body if isinstance(self.body, bytes) else b"" if self.body is None else json.dumps(self.body).encode()
        )
        return CrmResponse(
            method=call.method,
            path=call.log_path,
            status=self.status,
            headers=self.headers,
            body=body,
            sensitive_values=call.sensitive_values,
        )


Step = Callable[[Call], CrmResponse]


def lost(call: Call) -> NoReturn:
    """No response arrived: a write may or may not have been processed."""
    raise e.CrmTimeoutError(
        "no response in time", method=call.method, path=call.log_path, outcome_known=not call.is_write
    )


def refused(call: Call) -> NoReturn:
    """No connection: nothing was sent."""
    raise e.CrmConnectionError("the connection was refused", method=call.method, path=call.log_path)


def error(type_: str, **headers: str) -> Reply:
    """An error of the API by its type."""
    row = next(row for row in RESPONSE_TYPES if row.type == type_)
    return Reply(row.status, {"error": row.message, "errorCode": row.type, "requestId": "req-1"}, headers)


def data(value: Any, status: int = 200) -> Reply:
    """A success in the documented envelope."""
    return Reply(status, {"message": "ok", "data": value})


class FakeHttpSession:
    """Returns scripted responses step by step. A request beyond the script fails the test."""

    def __init__(self, *script: Step) -> None:
        self.script = list(script)
        self.calls: list[Call] = []

    def round_trip(self, call: Call) -> CrmResponse:
        path = call.path
        assert self.script, f"request beyond the script: {call.method} {path}"
        self.calls.append(call)
        return self.script.pop(0)(call)

    @property
    def sent(self) -> list[str]:
        """The requests: method, path, and query."""
        return [f"{c.method} {c.path}{_query(c.query)}" for c in self.calls]

    def close(self) -> None:
        """No connection is open."""


def logged(caplog: pytest.LogCaptureFixture) -> list[logging.LogRecord]:
    """The log records of this package. Other code may log at any time, e.g. during garbage collection."""
    return [record for record in caplog.records if record.name.startswith("crm_provider.")]


def one_line(text: str) -> str:
    """A record that was wrapped for Airflow's log view."""
    return " ".join(text.split())


def _query(query: Mapping[str, Any]) -> str:
    return "?" + "&".join(f"{name}={value}" for name, value in query.items()) if query else ""


@dataclass
class Bench:
    """A transport and a client over a scripted session, with a fake clock and rate limiter."""

    http: FakeHttpSession
    clock: FakeClock
    limiter: FakeRateLimiter
    transport: Transport
    client: CrmClient

    def send(self, call: Call, **options: Any) -> Any:
        """Send any call, with its retries."""
        return self.client._send(call, **options)


def bench(
    *script: Step, budget: RetryBudget | None = None, limiter: FakeRateLimiter | None = None, jitter: float = 1.0
) -> Bench:
    """A bench with scripted responses."""
    settings = Settings(api_key=KEY, base_url="http://127.0.0.1:9/v2")
    http, clock, limiter = FakeHttpSession(*script), FakeClock(), limiter or FakeRateLimiter()
    transport = Transport(settings, limiter=limiter, clock=clock, sleep=clock.sleep, jitter=lambda: jitter)
    transport.close()
    transport._http = http  # type: ignore[assignment]
    return Bench(http, clock, limiter, transport, CrmClient(settings, transport=transport, budget=budget))
