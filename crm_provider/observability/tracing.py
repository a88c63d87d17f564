"""OpenTelemetry spans of the calls to the CRM. Nothing is loaded unless tracing is set up."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from crm_provider.client.observers import RequestEvent

NANOSECONDS = 1_000_000_000


class CallSpans:
    """Creates a span for each attempt of a call.

    Its parent is the current span: in a task, also in the threads of a load, the task's. In a thread without a current
    span, such as one of your own, it is the span that was current when this observer was created.

    Attributes follow OpenTelemetry's conventions for HTTP clients, plus ``crm.attempt`` and ``crm.waited`` (seconds of
    waiting for the rate budget, before the span starts). Never an id or a value.

    :param provider: creates the tracer
    :param clock: nanoseconds since the epoch
    """

    def __init__(self, provider: Any, *, clock: Callable[[], int] = time.time_ns) -> None:
        from opentelemetry import context, trace

        self._trace = trace
        self._tracer = provider.get_tracer("crm_provider")
        self._clock = clock
        self._outer = context.get_current()

    def __call__(self, event: RequestEvent) -> None:
        end = self._clock()
        inside = self._trace.get_current_span().get_span_context().is_valid
        span = self._tracer.start_span(
            f"{event.method} {event.route}",
            context=None if inside else self._outer,
            kind=self._trace.SpanKind.CLIENT,
            start_time=end - round(event.seconds * NANOSECONDS),
            attributes=_attributes(event),
        )
        if event.error_type is not None:
            span.set_status(self._trace.Status(self._trace.StatusCode.ERROR, event.error_type))
        span.end(end)


def _attributes(event: RequestEvent) -> dict[str, str | int | float]:
    found: dict[str, str | int | float] = {
        "http.request.method": event.method,
        "url.template": event.route,
        "crm.attempt": event.attempt,
        "crm.waited": round(event.waited, 3),
    }
    if event.status is not None:
        found["http.response.status_code"] = event.status
    if event.error_type is not None:
        found["error.type"] = event.error_type
    if event.attempt > 1:
        found["http.request.resend_count"] = event.attempt - 1
    return found
