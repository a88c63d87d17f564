"""Call observers receive an event for each attempt, without ids and values. Their failures do not affect the call."""

from __future__ import annotations

import logging

import pytest

from crm_provider import errors as e
from crm_provider.client.observers import RequestCounter, RequestEvent
from crm_provider.client.request import Call
from crm_provider.client.responses import CrmResponse
from crm_provider.observability.metrics import CallMetrics

from . import fakes
from .fakes import Bench, FakeRateLimiter, Reply, Step, data, error, lost, refused

GET = Call(method="GET", route="/contacts/{email}", path_params={"email": "ada@example.com"})
OK = data({"id": "c-1"})


def observed(*script: Step, limiter: FakeRateLimiter | None = None) -> tuple[Bench, list[RequestEvent]]:
    """A bench, and the events that its transport's observer receives."""
    made, seen = fakes.bench(*script, limiter=limiter), list[RequestEvent]()
    made.transport.observe(seen.append)
    return made, seen


def seen_of(call: Call, *script: Step) -> list[RequestEvent]:
    made, seen = observed(*script)
    made.send(call)
    return seen


def test_every_attempt_is_reported_including_failed_ones() -> None:
    made, seen = observed(lost, error("TOO_MANY_REQUESTS"), refused, OK, limiter=FakeRateLimiter({1: 0.7}))
    made.send(GET)
    assert [(s.attempt, s.status, s.error_type, s.waited, s.throttled) for s in seen] == [
        (1, None, "TIMEOUT", 0.0, False),
        (2, 429, "TOO_MANY_REQUESTS", 0.7, True),
        (3, None, "CONNECTION", 0.0, False),
        (4, 200, None, 0.0, False),
    ]


def test_invalid_response_is_reported_with_its_status() -> None:
    made, seen = observed(Reply(200, b"<html>"))
    with pytest.raises(e.CrmProtocolError) as raised:
        made.send(GET)
    assert [(s.status, s.error_type) for s in seen] == [(200, raised.value.type)]


def test_interrupted_call_is_no_success() -> None:
    def interrupted(call: Call) -> CrmResponse:
        raise KeyboardInterrupt

    made, seen = observed(interrupted)
    with pytest.raises(KeyboardInterrupt):
        made.send(GET)
    assert [(s.status, s.error_type) for s in seen] == [(None, "INTERRUPTED")]


def test_response_time() -> None:
    def slow(call: Call) -> CrmResponse:
        made.clock.sleep(1.25)
        return OK(call)

    made, seen = observed(slow)
    made.send(GET)
    assert seen[0].seconds == pytest.approx(1.25)


def test_no_attempt_is_reported_without_a_slot() -> None:
    made, seen = observed(limiter=FakeRateLimiter({0: 100.0}))
    with pytest.raises(e.CrmTooManyRequestsError):
        made.send(GET)
    assert seen == []


@pytest.mark.parametrize(
    ("route", "parts", "reported"),
    [
        ("/contacts/{email}", {"email": "ada@example.com"}, "/contacts/{email}"),
        ("/segments/add-contact/{email}", {"email": "ada@example.com"}, "/segments/add-contact/{email}"),
        ("/webhook/{w}/c/{c}", {"w": "s3cret", "c": "s3cret"}, "/webhook/{w}/c/{c}"),
        ("/segments", {}, "/segments"),
        ("/contacts/ada%40example.com/notes", {}, "/contacts/..."),
        ("/contacts/ada", {}, "/contacts/..."),
        ("/webhook/abc/c/def", {}, "/webhook/..."),
        ("/deals/123e4567-e89b-12d3-a456-426614174000/notes", {}, "/deals/.../notes"),
        ("/deals/42", {}, "/deals/..."),
    ],
)
def test_route_is_reported_without_ids(route: str, parts: dict[str, str], reported: str) -> None:
    assert [seen.route for seen in seen_of(Call(method="GET", route=route, path_params=parts), OK)] == [reported]


def test_failing_observer_is_logged_once_and_costs_no_call(caplog: pytest.LogCaptureFixture) -> None:
    made = fakes.bench(OK, OK, OK)
    reported = []

    def broken(seen: RequestEvent) -> None:
        reported.append(seen)
        raise RuntimeError("the metrics server is away")

    others: list[RequestEvent] = []
    made.transport.observe(broken)
    made.transport.observe(others.append)
    for _ in range(3):
        assert made.send(GET) == {"id": "c-1"}
    assert len(reported) == 3
    assert others == reported
    assert [record.levelname for record in fakes.logged(caplog)] == ["WARNING"]


def test_debug_line_of_an_attempt(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "crm_provider.client.transport")
    seen_of(GET, refused, OK)
    lines = [record.getMessage() for record in fakes.logged(caplog) if record.levelname == "DEBUG"]
    assert lines == [
        "GET /contacts/{email} -> CONNECTION in 0.000 s, waited 0.000 s for the rate budget",
        "GET /contacts/{email} -> 200 in 0.000 s, waited 0.000 s for the rate budget",
    ]


# -- totals --------------------------------------------------------------------------------------------------


def call_seen(error_type: str | None = None, *, status: int | None = 200, waited: float = 0.0) -> RequestEvent:
    return RequestEvent(
        method="GET", route="/deals", status=status, seconds=0.1, waited=waited, error_type=error_type, attempt=1
    )


def test_stats_count_calls_refusals_waits_and_errors() -> None:
    counter = RequestCounter()
    for seen in (
        call_seen(waited=0.5),
        call_seen("TOO_MANY_REQUESTS", status=429, waited=1.0),
        call_seen("LIMIT_EXCEEDED", status=429),
        call_seen("TIMEOUT", status=None),
        call_seen("TIMEOUT", status=None),
    ):
        counter(seen)
    assert (counter.calls, counter.throttled, counter.waited) == (5, 2, 1.5)
    assert counter.errors == {"TOO_MANY_REQUESTS": 1, "LIMIT_EXCEEDED": 1, "TIMEOUT": 2}


# -- Airflow's metrics ---------------------------------------------------------------------------------------


class Recorder:
    """A stand-in for Airflow's Stats."""

    def __init__(self) -> None:
        self.sent: list[tuple[object, ...]] = []

    def incr(self, name: str, *, tags: dict[str, str]) -> None:
        self.sent.append((name, tags))

    def timing(self, name: str, took: object, *, tags: dict[str, str]) -> None:
        self.sent.append((name, str(took), tags))


def test_metrics_of_an_attempt(monkeypatch: pytest.MonkeyPatch) -> None:
    stats = Recorder()
    monkeypatch.setattr("crm_provider.observability.metrics._stats", lambda: stats)
    metrics = CallMetrics()
    metrics(call_seen(waited=0.5))
    metrics(call_seen("TOO_MANY_REQUESTS", status=429))
    tags = {"method": "GET", "route": "/deals"}
    assert stats.sent == [
        ("crm.calls", {**tags, "outcome": "ok"}),
        ("crm.waited", "0:00:00.500000", tags),
        ("crm.calls", {**tags, "outcome": "TOO_MANY_REQUESTS"}),
        ("crm.waited", "0:00:00", tags),
        ("crm.throttled", tags),
    ]


def test_airflow_accepts_the_metrics() -> None:
    CallMetrics()(call_seen("TOO_MANY_REQUESTS", status=429))


def test_client_of_a_hook_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    from crm_provider.client.settings import Settings
    from crm_provider.hooks.crm import CrmHook

    stats = Recorder()
    monkeypatch.setattr("crm_provider.observability.metrics._stats", lambda: stats)
    settings = Settings(api_key="k", base_url="http://127.0.0.1:9/v2", rate_store="off")
    with CrmHook().client_for(settings) as client, pytest.raises(e.CrmConnectionError):
        client.ping()
    assert [name for name, *_ in stats.sent] == ["crm.calls", "crm.waited"]
