"""Spans of calls: their attributes, their parents, and no effect without a tracer."""

from __future__ import annotations

import subprocess
import sys
import threading
from functools import partial
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from crm_provider import errors as e
from crm_provider.client import retry
from crm_provider.client.observers import RequestEvent
from crm_provider.client.settings import Settings
from crm_provider.hooks.crm import CrmHook, call_spans
from crm_provider.observability.tracing import CallSpans

NOW = 1_700_000_000_000_000_000


class Traced:
    """A separate tracer provider, not the process's."""

    def __init__(self) -> None:
        self._exporter = InMemorySpanExporter()
        self.provider = TracerProvider()
        self.provider.add_span_processor(SimpleSpanProcessor(self._exporter))

    @property
    def spans(self) -> Any:
        return self._exporter.get_finished_spans()


@pytest.fixture
def traced() -> Traced:
    return Traced()


def seen(**changes: Any) -> RequestEvent:
    fields: dict[str, Any] = {
        "method": "GET", "route": "/contacts/{email}", "status": 200, "seconds": 0.25, "waited": 0.2,
        "error_type": None, "attempt": 1,
    }  # fmt: skip
    return RequestEvent(**{**fields, **changes})


def test_span_has_the_call_and_its_result(traced: Traced) -> None:
    CallSpans(traced.provider, clock=lambda: NOW)(seen())
    (span,) = traced.spans
    assert span.name == "GET /contacts/{email}"
    assert span.kind is trace.SpanKind.CLIENT
    assert (span.end_time, span.end_time - span.start_time) == (NOW, 250_000_000)
    assert span.status.is_unset
    assert dict(span.attributes) == {
        "http.request.method": "GET",
        "url.template": "/contacts/{email}",
        "http.response.status_code": 200,
        "crm.attempt": 1,
        "crm.waited": 0.2,
    }


@pytest.mark.parametrize(("status", "error"), [(429, "TOO_MANY_REQUESTS"), (None, "CONNECTION")])
def test_failed_attempt_has_a_span(traced: Traced, status: int | None, error: str) -> None:
    CallSpans(traced.provider)(seen(status=status, error_type=error, attempt=3))
    (span,) = traced.spans
    assert span.status.status_code is trace.StatusCode.ERROR
    assert (span.status.description, span.attributes["error.type"]) == (error, error)
    assert span.attributes.get("http.response.status_code") == status
    assert span.attributes["http.request.resend_count"] == 2


def test_span_is_a_child_of_the_task_even_in_threads_of_a_load(traced: Traced) -> None:
    tracer = traced.provider.get_tracer("airflow")
    with tracer.start_as_current_span("task"):
        observer = CallSpans(traced.provider)
        thread = threading.Thread(target=observer, args=(seen(),))
        thread.start()
        thread.join()
        with tracer.start_as_current_span("step"):
            observer(seen(method="PUT"))
    spans = {span.name: span for span in traced.spans}
    assert spans["GET /contacts/{email}"].parent.span_id == spans["task"].context.span_id
    assert spans["PUT /contacts/{email}"].parent.span_id == spans["step"].context.span_id


@pytest.mark.parametrize("provider", [trace.ProxyTracerProvider(), trace.NoOpTracerProvider()])
def test_no_span_without_a_real_provider(monkeypatch: pytest.MonkeyPatch, provider: Any) -> None:
    monkeypatch.setattr(trace, "get_tracer_provider", lambda: provider)
    assert call_spans() is None


def test_no_span_if_opentelemetry_is_not_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "opentelemetry.trace")
    assert call_spans() is None


def test_opentelemetry_is_never_loaded_by_us() -> None:
    script = (
        "import sys\n"
        "import crm_provider.observability.tracing\n"
        "print([name for name in sys.modules if name.startswith('opentelemetry')])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_client_of_a_hook_is_traced(traced: Traced, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trace, "get_tracer_provider", lambda: traced.provider)
    monkeypatch.setattr(retry, "RetryBudget", partial(retry.RetryBudget, tries=1))
    settings = Settings(api_key="Sesame-1", base_url="http://127.0.0.1:9/v2", rate_store="off")
    with CrmHook().client_for(settings) as client, pytest.raises(e.CrmConnectionError):
        client.get_contact("ada@example.com")
    (span,) = traced.spans
    assert span.name == "GET /contacts/{email}"
    reported = span.to_json()
    assert "ada@" not in reported
    assert "Sesame" not in reported
