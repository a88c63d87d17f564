"""HTTP answers: the envelopes that the API is known or suspected to use."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from crm_provider.sandbox.problems import Problem, gateway_form
from crm_provider.sandbox.settings import Envelope, SuccessShape

REQUEST_ID_HEADER = "x-amzn-requestid"
ERROR_TYPE_HEADER = "x-amzn-ErrorType"
SUCCESS_MESSAGE = "Success"


@dataclass(frozen=True, kw_only=True)
class Answer:
    """One HTTP answer, complete."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        """The parsed body; raises ``ValueError`` where a fault made it something else."""
        return json.loads(self.body)


@dataclass(frozen=True, kw_only=True)
class Writer:
    """Writes the answers to one call.

    :param request_id: goes into a header always, and into the body where the envelope has a place for it
    """

    envelope: Envelope
    success: SuccessShape
    request_id: str

    def succeed(self, status: int, data: Mapping[str, Any]) -> Answer:
        """The answer to a call that worked."""
        body = {"message": SUCCESS_MESSAGE, "data": dict(data)} if self.success == "wrapped" else dict(data)
        if self.envelope == "v1":
            body["requestId"] = self.request_id
        return self._json(status, body)

    def fail(self, problem: Problem, *, retry_after: int | str | None = None) -> Answer:
        """The answer to a call that did not.

        :param retry_after: value of the header ``Retry-After``: seconds or an HTTP date, sent as given
        """
        extra = {} if retry_after is None else {"Retry-After": f"{retry_after}"}
        write = _gateway if problem.gateway else _ENVELOPES[self.envelope]
        body, headers = write(problem, self.request_id)
        return self._json(problem.status, body, {**headers, **extra})

    def _json(self, status: int, body: Mapping[str, Any], headers: Mapping[str, str] | None = None) -> Answer:
        return Answer(
            status=status,
            headers={"content-type": "application/json", REQUEST_ID_HEADER: self.request_id, **(headers or {})},
            body=json.dumps(body, ensure_ascii=False).encode(),
        )


_Written = tuple[dict[str, Any], dict[str, str]]


def _v1(problem: Problem, request_id: str) -> _Written:
    return {"error": problem.text, "errorCode": problem.type, "requestId": request_id}, {}


def _v2(problem: Problem, _request_id: str) -> _Written:
    return {"code": problem.type, "message": problem.text}, {}


def _v2_text(problem: Problem, _request_id: str) -> _Written:
    return {"message": problem.text}, {}


def _gateway(problem: Problem, _request_id: str) -> _Written:
    form = gateway_form(problem)
    if form is None:  # the gateway has no name for it: it passes the text on
        return {"message": problem.text}, {}
    return dict(form.body), {ERROR_TYPE_HEADER: form.error_type} if form.error_type else {}


_ENVELOPES: Mapping[Envelope, Callable[[Problem, str], _Written]] = {
    "v1": _v1,
    "v2": _v2,
    "v2-text": _v2_text,
    "gateway": _gateway,
}
