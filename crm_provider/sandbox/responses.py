"""The responses of the API: errors from the catalogue, and the envelopes that the API is known or expected to use."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from crm_provider.errors.catalog import ALIASES, CATALOGUE, GATEWAY_RESPONSES, ErrorSource, ErrorSpec, GatewayResponse
from crm_provider.sandbox.settings import Envelope, SuccessShape, not_one_of

REQUEST_ID_HEADER = "x-amzn-requestid"
ERROR_TYPE_HEADER = "x-amzn-ErrorType"
SUCCESS_MESSAGE = "Success"


# -- errors -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class ErrorReply:
    """One error that the sandbox can respond with.

    :param type: its type in the catalogue
    :param gateway: set for an error of the gateway, which has the gateway's format in every envelope
    """

    type: str
    status: int
    text: str
    gateway: GatewayResponse | None = None


class RefusedError(Exception):
    """The backend refuses a request.

    :param error: the type in the catalogue
    :param detail: the rule that was broken, for the journal: names of fields, never their values
    :param text: the message, if not the type's documented one
    """

    def __init__(self, error: str, detail: str = "", *, text: str | None = None) -> None:
        super().__init__(detail or error)
        self.reply = _from_spec(CATALOGUE[error], text)
        self.detail = detail


def gateway_reply(case: str) -> ErrorReply:
    """One of the gateway's own errors.

    :param case: its name in the catalogue, for example ``throttled``
    """
    response = _CASES[case]
    return ErrorReply(type=response.type, status=response.status, text=_text(response), gateway=response)


def error_reply(name: str) -> ErrorReply:
    """The error with this name.

    :param name: a type (``DEAL_NOT_FOUND``) or an alias of one (``DEAL_ID_IS_NECESSARY``), both written in the chosen
        envelope, or a case of the gateway (``key refused``), written in the gateway's format
    :raises ValueError: there is no such error; the message names the nearest one
    """
    if name.lower() in _CASES:
        return gateway_reply(name.lower())
    word = name.upper()
    if word in ALIASES:
        return _from_spec(CATALOGUE[ALIASES[word]], word)
    if word not in CATALOGUE:
        raise ValueError(not_one_of("error", name, ERROR_NAMES))
    spec = CATALOGUE[word]
    if spec.status is None:
        raise ValueError(f"{word} is never a response of the API: use the effect 'drop', 'latency' or 'garbage'")
    if spec.source is ErrorSource.GATEWAY:
        return gateway_reply(next(response.case for response in GATEWAY_RESPONSES if response.type == word))
    return _from_spec(spec)


def _from_spec(spec: ErrorSpec, text: str | None = None) -> ErrorReply:
    if spec.status is None:
        raise ValueError(f"{spec.type} is never a response of the API")
    return ErrorReply(type=spec.type, status=spec.status, text=text or spec.messages[0])


def _text(response: GatewayResponse) -> str:
    return next(iter(response.body.values())) or ""


_CASES = {response.case: response for response in GATEWAY_RESPONSES}

ERROR_NAMES: tuple[str, ...] = (
    *(spec.type for spec in CATALOGUE.values() if spec.status is not None),
    *ALIASES,
    *_CASES,
)
"""Every name that :func:`error_reply` accepts."""


# -- envelopes ----------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class HttpResponse:
    """One complete HTTP response."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        """The parsed body; raises ``ValueError`` if a fault has replaced it."""
        return json.loads(self.body)


@dataclass(frozen=True, kw_only=True)
class ResponseWriter:
    """Writes the response to one request.

    :param request_id: always sent in a header, and in the body if the envelope has a field for it
    """

    envelope: Envelope
    success: SuccessShape
    request_id: str

    def succeed(self, status: int, data: Mapping[str, Any]) -> HttpResponse:
        """The response to a request that succeeded."""
        body = {"message": SUCCESS_MESSAGE, "data": dict(data)} if self.success == "wrapped" else dict(data)
        if self.envelope == "v1":
            body["requestId"] = self.request_id
        return self._json(status, body)

    def fail(self, error: ErrorReply, *, retry_after: int | str | None = None) -> HttpResponse:
        """The response to a request that failed.

        :param retry_after: the header ``Retry-After``: seconds or an HTTP date, sent unchanged
        """
        extra = {} if retry_after is None else {"Retry-After": f"{retry_after}"}
        write = _gateway if error.gateway else _ENVELOPES[self.envelope]
        body, headers = write(error, self.request_id)
        return self._json(error.status, body, {**headers, **extra})

    def _json(self, status: int, body: Mapping[str, Any], headers: Mapping[str, str] | None = None) -> HttpResponse:
        return HttpResponse(
            status=status,
            headers={"content-type": "application/json", REQUEST_ID_HEADER: self.request_id, **(headers or {})},
            body=json.dumps(body, ensure_ascii=False).encode(),
        )


_BodyAndHeaders = tuple[dict[str, Any], dict[str, str]]


def _v1(error: ErrorReply, request_id: str) -> _BodyAndHeaders:
    return {"error": error.text, "errorCode": error.type, "requestId": request_id}, {}


def _v2(error: ErrorReply, _request_id: str) -> _BodyAndHeaders:
    return {"code": error.type, "message": error.text}, {}


def _v2_text(error: ErrorReply, _request_id: str) -> _BodyAndHeaders:
    return {"message": error.text}, {}


def _gateway(error: ErrorReply, _request_id: str) -> _BodyAndHeaders:
    known = (a for a in GATEWAY_RESPONSES if a.type == error.type and a.status == error.status and _text(a))
    form = error.gateway or next(known, None)
    if form is None:  # the gateway has no error of this type and passes the backend's text on
        return {"message": error.text}, {}
    return dict(form.body), {ERROR_TYPE_HEADER: form.error_type} if form.error_type else {}


_ENVELOPES: Mapping[Envelope, Callable[[ErrorReply, str], _BodyAndHeaders]] = {
    "v1": _v1,
    "v2": _v2,
    "v2-text": _v2_text,
    "gateway": _gateway,
}
