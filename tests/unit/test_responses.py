"""From a response to a value or a typed error: the whole catalogue in every form of body, and unexpected bodies."""

from __future__ import annotations

import codecs
import dataclasses
import json
import re
import time
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from crm_provider import errors as e
from crm_provider.client import responses
from crm_provider.client.responses import (
    READ_FOR_MESSAGES,
    CrmResponse,
    by_status_alone,
    error_of,
    retry_after_of,
    value_of,
)
from crm_provider.client.retry import repeat_for
from crm_provider.errors.catalog import Repeat

from .reference import BY_STATUS, FOUND_HERE, GATEWAY, RESPONSE_TYPES, TYPES, UNNAMED, VENDOR, ReceivedForm, Row


def response(
    status: int,
    body: Any = b"",
    *,
    headers: dict[str, str] | None = None,
    method: str = "GET",
    sent: tuple[str, ...] = (),
) -> CrmResponse:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    return CrmResponse(
        method=method, path="/contacts/{email}", status=status, headers=headers or {}, body=raw, sensitive_values=sent
    )


def error_in(case: CrmResponse) -> e.CrmError | None:
    """The error of a response, or None for a success."""
    try:
        value_of(case)
    except e.CrmError as error:
        return error
    return None


def name_of(error: e.CrmError) -> str:
    return type(error).__name__


ROWS = pytest.mark.parametrize("row", RESPONSE_TYPES, ids=lambda row: row.type)


# -- the whole catalogue in every form of body ---------------------------------------------------------------

Shape = Callable[[Row], Any]

NAMING: dict[str, Shape] = {
    "v1": lambda row: {"error": row.message, "errorCode": row.type, "requestId": "r-1"},
    "v2 with code": lambda row: {"message": row.message, "code": row.type},
    "camel case": lambda row: {"code": row.type.title().replace("_", "")},
    "v2 with type": lambda row: {"message": "something else", "type": row.type},
    "errorType": lambda row: {"errorType": row.type, "errorMessage": "something else"},
    "type as error": lambda row: {"error": row.type},
    "type as message": lambda row: {"message": row.type},
    "type as name": lambda row: {"name": row.type, "message": "something else"},
    "nested in error": lambda row: {"error": {"code": row.type, "message": "something else"}},
    "nested in data": lambda row: {"message": "something else", "data": {"errorCode": row.type}},
    "in a list of errors": lambda row: {"errors": ["something else", row.type]},
    "beside odd keys": lambda row: {"errorCode": None, "code": 17, "type": ["x"], "errorType": {}, "message": row.type},
}
"""Bodies that name the type, which applies with any status and text."""

SPECIFIC_KEYS: dict[str, Shape] = {
    "v2 text only": lambda row: {"message": row.message},
    "v1 text only": lambda row: {"error": row.message},
    "capital M": lambda row: {"Message": row.message},
    "errorMessage": lambda row: {"errorMessage": row.message},
    "text nested in error": lambda row: {"error": {"message": row.message}},
    "text nested in data": lambda row: {"data": {"message": row.message}},
    "text in a list of errors": lambda row: {"errors": ["Something else.", row.message]},
    "text as errors": lambda row: {"message": "something else", "errors": row.message},
    "object in a list of errors": lambda row: {"errors": [None, 17, {"message": row.message}]},
    "upper case, no stop": lambda row: {"message": row.message.upper().rstrip(".")},
    "exclamation": lambda row: {"message": f" {row.message.rstrip('.')}! "},
    "JSON string": lambda row: row.message,
}
"""Bodies with only the documented text, which counts within the same status."""

MUTE: dict[str, Shape] = {
    "message null": lambda _: {"message": None},
    "empty": lambda _: b"",
    "blank": lambda _: b" \r\n",
    "empty object": lambda _: {},
    "HTML": lambda row: b"<html><body><h1>%s</h1></body></html>" % row.type.encode(),
    "truncated JSON": lambda row: json.dumps({"errorCode": row.type, "message": row.message}).encode()[:-1],
    "JSON list": lambda row: [{"errorCode": row.type}],
    "JSON string": lambda _: "nothing to see",
    "number": lambda _: 42,
    "null": lambda _: None,
    "too deep inside": lambda row: {"error": {"error": {"code": row.type, "message": row.message}}},
    "huge nesting": lambda _: b"[" * 200_000 + b"]" * 200_000,
    "huge nesting, cut": lambda _: b'{"error":' * 100_000,
    "UTF-16 garbage": lambda _: b"\xff\xfe\x00\xd8",
    "errors that are not text": lambda row: {"errors": [[row.message], 17, None]},
    "errors that are not a list": lambda row: {"errors": {"code": row.type, "message": row.message}},
    "text with an extra letter": lambda row: {"message": f"{row.message.rstrip('.')}X"},
    "unknown type": lambda _: {"errorCode": "SOMETHING_NEW"},
    "client-side type": lambda _: {"errorCode": "TIMEOUT"},
}
"""Bodies without information: only the status counts."""


def errors_in(shape: Shape) -> list[e.CrmError]:
    """The error of each catalogue type, for a response with such a body."""
    return [error_of(response(row.status, shape(row))) for row in RESPONSE_TYPES]


@pytest.mark.parametrize("shape", [pytest.param(shape, id=name) for name, shape in (NAMING | SPECIFIC_KEYS).items()])
def test_type_or_text_decides_the_class(shape: Shape) -> None:
    found = [(name_of(error), error.type, error.status) for error in errors_in(shape)]
    assert found == [(row.error, row.type, row.status) for row in RESPONSE_TYPES]


@pytest.mark.parametrize("shape", [pytest.param(shape, id=name) for name, shape in MUTE.items()])
def test_status_decides_the_family_otherwise(shape: Shape) -> None:
    for row, error in zip(RESPONSE_TYPES, errors_in(shape), strict=True):
        assert name_of(error) == BY_STATUS[row.status]
        assert error.type == next((t for t, c in TYPES.items() if c == name_of(error)), f"HTTP_{row.status}")
        assert error.message.strip()


@pytest.mark.parametrize("status", [200, None])
@ROWS
def test_text_of_the_response_is_shown_or_the_documented_one(row: Row, status: int | None) -> None:
    def message_in(**body: Any) -> str:
        return raised_by(response(status or row.status, {"errorCode": row.type, **body})).message

    assert message_in() == row.message
    assert message_in(message="something else") == "something else"
    assert message_in(message=" ", error="something else") == "something else"
    assert message_in(message=["one", {"message": "two"}, {"field": "three"}, 4]) == "one; two"


def test_error_has_the_request_and_the_response() -> None:
    error = error_of(response(418, {"requestId": "r-1"}, method="PUT"))
    assert (error.method, error.path, error.status) == ("PUT", "/contacts/{email}", 418)
    assert (error.message, error.request_id) == ("status 418 (the response has no text)", "r-1")


def test_nested_error_takes_precedence_over_data() -> None:
    body = {"data": {"code": "DEAL_NOT_FOUND"}, "error": {"code": "STAGE_NOT_FOUND"}, "errors": ["CONTACT_NOT_FOUND"]}
    assert isinstance(error_of(response(404, body)), e.CrmStageNotFoundError)


def test_alias_of_a_type_is_recognised(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(responses, "ALIASES", {"NO_SUCH_CONTACT": "CONTACT_NOT_FOUND"})
    assert isinstance(error_of(response(404, {"code": "NoSuchContact"})), e.CrmContactNotFoundError)


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (error_of(response(404, {"message": "odd"})), True),
        (error_of(response(418)), True),
        (error_of(response(404, {"code": "DEAL_NOT_FOUND"})), False),
        (error_of(response(422)), False),
        (e.CrmConnectionError("no way"), False),
    ],
    ids=lambda value: value.type if isinstance(value, e.CrmError) else "",
)
def test_errors_known_only_by_status(error: e.CrmError, expected: bool) -> None:
    assert by_status_alone(error) is expected


@pytest.mark.parametrize("type_", UNNAMED)
def test_types_without_a_documented_name_are_recognised_by_status_and_message(type_: str) -> None:
    row = next(row for row in VENDOR if row.type == type_)
    assert name_of(error_of(response(row.status, {"message": row.message}))) == row.error


@pytest.mark.parametrize("status", [400, 404, 409, 418, 500])
@ROWS
def test_named_type_is_recognised_with_any_status(row: Row, status: int) -> None:
    error = error_of(response(status, {"errorCode": row.type}))
    assert (name_of(error), error.type, error.status) == (row.error, row.type, status)


@pytest.mark.parametrize("status", sorted(BY_STATUS))
def test_text_counts_only_within_its_own_status(status: int) -> None:
    for text in {row.message for row in RESPONSE_TYPES} - {"DEAL_ID_IS_NECESSARY"} | {"Forbidden", "Too Many Requests"}:
        same = [row.error for row in RESPONSE_TYPES if row.status == status and row.message.lower() == text.lower()]
        expected = same[0] if same else BY_STATUS[status]
        if (text, status) == ("Internal server error", 500):
            expected = "CrmInternalServerError"  # the gateway's text for it
        assert name_of(error_of(response(status, {"message": text}))) == expected, text


@pytest.mark.parametrize(
    "text",
    [
        "User is not authorized to access this resource with an explicit deny",
        "User is not authorized to access this resource with an explicit deny in an identity-based policy.",
        "Forbidden",
        "Unauthorized",
        "Contact not found.",
        "Too many requests.",
        "Limit Exceeded",
        "",
    ],
)
def test_text_never_identifies_a_403(text: str) -> None:
    assert name_of(error_of(response(403, {"message": text}))) == "CrmForbiddenError"


@pytest.mark.parametrize("header", [True, False], ids=["header", "no header"])
def test_unknown_route_is_not_an_invalid_key(header: bool) -> None:
    headers = {"x-amzn-ErrorType": "MissingAuthenticationTokenException"} if header else {}
    error = error_of(response(403, {"message": "Missing Authentication Token"}, headers=headers))
    assert isinstance(error, e.CrmUnknownRouteError)
    assert not isinstance(error, e.CrmAccessError)
    assert "the key is not the problem" in str(error)


KEYS = ("errorCode", "code", "type", "errorType", "error", "message", "name")


@pytest.mark.parametrize(
    ("first", "second"), [(a, b) for n, a in enumerate(KEYS) for b in KEYS[n + 1 :]], ids=lambda key: key
)
def test_most_specific_key_wins(first: str, second: str) -> None:
    body = {second: "DEAL_NOT_FOUND", first: "STAGE_NOT_FOUND"}
    assert isinstance(error_of(response(404, body)), e.CrmStageNotFoundError)


@pytest.mark.parametrize(
    "name", ["DEAL_ID_IS_NECESSARY", "CONTACT_EMAIL_IS_NECESSARY", "EMAIL_IS_NECESSARY", "PIPELINE_ID_IS_NECESSARY"]
)
@pytest.mark.parametrize("status", [400, 422])
@pytest.mark.parametrize("key", ["errorCode", "message"])
def test_is_necessary_means_invalid_params(name: str, status: int, key: str) -> None:
    error = error_of(response(status, {key: name}))
    assert isinstance(error, e.CrmInvalidParamsError)
    assert error.type == "INVALID_PARAMS"


@pytest.mark.parametrize("type_", FOUND_HERE)
def test_response_cannot_claim_a_client_side_error(type_: str) -> None:
    assert name_of(error_of(response(400, {"errorCode": type_}))) == BY_STATUS[400]


@pytest.mark.parametrize(
    "spelling", ["contact-not-found", "contactNotFound", "contact_not_found", " CONTACT_NOT_FOUND "]
)
def test_other_spellings_of_a_type(spelling: str) -> None:
    assert isinstance(error_of(response(400, {"code": spelling})), e.CrmContactNotFoundError)


@pytest.mark.parametrize("name", ["Forbidden", "Unauthorized", "Invalid-Input"])
def test_name_of_a_contact_is_no_error_type(name: str) -> None:
    echoed = {"message": "phone must be E.164", "data": {"name": name, "email": "ada@example.com"}}
    assert name_of(error_of(response(422, echoed))) == BY_STATUS[422]


# -- the gateway ---------------------------------------------------------------------------------------------


def received_forms() -> list[Any]:
    forms = []
    for received in GATEWAY:
        header = {"X-Amzn-ErrorType": received.header} if received.header else {}
        forms.append(pytest.param(received, received.body, header, id=f"{received.case}-whole"))
        forms.append(pytest.param(received, received.body, {}, id=f"{received.case}-body only"))
        if received.header:
            forms.append(pytest.param(received, b"", header, id=f"{received.case}-header only"))
            with_address = {"x-amzn-errortype": f" {received.header} :http://internal.example/coral/"}
            forms.append(pytest.param(received, b"", with_address, id=f"{received.case}-header with address"))
    return forms


@pytest.mark.parametrize(("received", "body", "headers"), received_forms())
def test_gateway_response(received: ReceivedForm, body: Any, headers: dict[str, str]) -> None:
    error = error_of(response(received.status, body, headers=headers))
    assert (name_of(error), error.type, error.status) == (TYPES[received.type], received.type, received.status)


@pytest.mark.parametrize("status", [400, 401, 403, 404, 429, 500, 502, 503, 504])
def test_html_error_says_that_a_proxy_may_interfere(status: int) -> None:
    for mark in (b"", codecs.BOM_UTF8):
        error = error_of(response(status, mark + b"\n<!doctype html><p>Contact not found.</p>"))
        assert name_of(error) == BY_STATUS[status]
        assert "is a proxy in the way?" in error.message
        assert ("a proxy or firewall seems to have refused" in error.suggested_action) == (status in (400, 401, 403))
    assert "a proxy or firewall" not in str(error_of(response(status, b"{}")))
    assert "<p>" not in str(error)


# -- unknown errors are loud ---------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [300, 302, 304, 307, 402, 405, 406, 408, 418, 451, 499, 600, 999, 103])
def test_unknown_status_fails_and_is_never_repeated(status: int) -> None:
    error = error_of(response(status, {"hint": "none"}))
    assert type(error) is e.CrmProtocolError
    assert error.type == f"HTTP_{status}"
    assert repeat_for(error) is Repeat.NEVER
    assert str(status) in str(error)


@pytest.mark.parametrize(
    ("body", "shown"),
    [
        (b"no idea", "(the response is no idea)"),
        (b"", "(the response is empty)"),
        (b'["Ada", 5531999999999, true]', '(the response is ["...", ..., true])'),
        (b'{"name": "Ada", "phone": "+553199', '(the response is {"name": "...", "phone": "...")'),
        (b"x" * 999, f"(the response is {'x' * 200}...)"),
        (b"two\nlines\x00", "(the response is two lines)"),
        (b"{}", "(the response has no text)"),
        (b'["%s", true, false]' % (b"x" * 790), '(the response is ["...", true,)'),
        (b"\xff\xfe", "(the response is \ufffd\ufffd)"),
        (b"y" * 70_000, f"(the response is {'y' * 200}...)"),
    ],
    ids=["text", "empty", "list", "cut", "long", "control characters", "no text", "800 characters", "no text", "huge"],
)
def test_unknown_response_is_shown_shortened_and_without_values(body: bytes, shown: str) -> None:
    message = error_of(response(418, body)).message
    whole = f"status 418 {shown}"
    assert message == (whole if len(whole) <= 200 else f"{whole[:200]}...")


def test_start_of_a_truncated_value_is_not_shown() -> None:
    """Nor the text before it, as far as an escaped value may reach. A text read to its end is shown in full."""
    whole = b"no idea " * (READ_FOR_MESSAGES // 8)
    sent = ("v" * 70_000,)
    assert error_of(response(418, whole, sent=sent)).message.startswith("status 418 (the response is no idea no idea ")
    for body in (whole + b"!", sent[0].encode(), b"no idea " + sent[0].encode()):
        assert error_of(response(418, body, sent=sent)).message == "status 418 (the response is )"
        assert error_of(response(418, {"message": body.decode()}, sent=sent)).message == ""
    assert error_of(response(418, whole + b"!", sent=("v" * 700,))).message.startswith(
        "status 418 (the response is no idea"
    )


@pytest.mark.parametrize("status", [300, 302, 399])
@pytest.mark.parametrize(
    ("location", "where"),
    [
        ("https://evil.example/v2/contacts", "evil.example"),
        ("/login", "this host"),
        ("https://evil.example/?email=ada@example.com", "evil.example"),
        ("http://[broken", "a broken URL"),
        ("", "this host"),
    ],
)
def test_redirect_is_reported(status: int, location: str, where: str) -> None:
    error = error_of(response(status, b"", headers={"LOCATION": location}))
    assert type(error) is e.CrmProtocolError
    assert error.message == f"status {status} (a redirect to {where}: not followed, the key stays here)"


def test_other_status_is_not_called_a_redirect() -> None:
    headers = {"Location": "https://evil.example/"}
    assert error_of(response(400, b"", headers=headers)).message == "status 400 (the response is empty)"
    assert error_of(response(302, b"")).message.startswith("status 302 (a redirect to this host: ")


# -- success -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [200, 201, 202, 204, 299])
@pytest.mark.parametrize(
    ("body", "value"),
    [
        (b'{"message": "ok", "data": {"id": "1"}}', {"id": "1"}),
        (b'{"data": {"data": {"id": "1"}}}', {"data": {"id": "1"}}),
        (b'{"id": "1", "email": "a@b.c"}', {"id": "1", "email": "a@b.c"}),
        (b'{"page": 0, "total": 1, "data": [{"id": "1"}]}', {"page": 0, "total": 1, "data": [{"id": "1"}]}),
        (b"", {}),
        (b" \n", {}),
        (b"[1]", [1]),
        (b'{"data": null, "message": "ok"}', {"data": None, "message": "ok"}),
        (b'\xef\xbb\xbf{"id": "1"}', {"id": "1"}),
        (b'{"errorCode": null, "id": "1"}', {"errorCode": None, "id": "1"}),
        (b'{"errorCode": "DEAL_NOT_FOUND", "data": {"id": "1"}}', {"id": "1"}),
        (b'{"errorCode": "OK", "id": "1"}', {"errorCode": "OK", "id": "1"}),
        (b'{"errorType": "no_error ", "id": "1"}', {"errorType": "no_error ", "id": "1"}),
        (b'{"name": "Forbidden", "type": "FORBIDDEN"}', {"name": "Forbidden", "type": "FORBIDDEN"}),
    ],
    ids=["envelope", "unwrapped once", "top level", "list in data", "empty", "blank", "list", "data null", "BOM",
         "errorCode null", "data beside a code", "code OK", "type no_error", "a record that has a type"],
)  # fmt: skip
def test_success(status: int, body: bytes, value: Any) -> None:
    assert value_of(response(status, body)) == value


@pytest.mark.parametrize(
    ("body", "is_text"),
    [
        (b"OK", True),
        (b"\xff", True),
        (b"<html>OK", False),
        (b" \n<p>", False),
        (b"[1", False),
        (b"{", False),
        (b'"a', False),
    ],
    ids=repr,
)
def test_plain_text_is_a_success_only_where_any_body_is_allowed(body: bytes, is_text: bool) -> None:
    error = error_in(dataclasses.replace(response(200, body), allow_any_body=True))
    assert error is None if is_text else isinstance(error, e.CrmProtocolError)
    assert isinstance(error_in(response(200, body)), e.CrmProtocolError)


def test_plain_text_is_not_returned() -> None:
    assert value_of(dataclasses.replace(response(200, b"OK"), allow_any_body=True)) == {}


@ROWS
def test_error_in_a_200_is_no_success(row: Row) -> None:
    with pytest.raises(e.CrmError) as raised:
        value_of(response(200, {"errorCode": row.type, "error": row.message}))
    assert (name_of(raised.value), raised.value.status) == (row.error, 200)


@pytest.mark.parametrize("body", [{"errorType": "DEAL_NOT_FOUND"}, {"errorCode": "deal-not-found", "data": []}])
def test_error_in_a_200_in_other_spellings(body: dict[str, Any]) -> None:
    assert isinstance(error_in(response(200, body)), e.CrmDealNotFoundError)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"errorCode": "LIST_LOCKED", "error": "List is locked."}, "List is locked."),
        ({"errorType": "LIST_LOCKED"}, "the response names an unknown error"),
    ],
)
def test_unknown_error_in_a_200_is_no_success(body: dict[str, Any], message: str) -> None:
    error = error_in(dataclasses.replace(response(200, body, method="POST"), allow_any_body=True))
    assert isinstance(error, e.CrmProtocolError)
    assert (error.message, error.outcome_known) == (message, False)


@pytest.mark.parametrize("body", [b"<html>Please log in</html>", b"OK", b'{"id": "1"', b"\xff"], ids=repr)
def test_non_json_200_is_no_success(body: bytes) -> None:
    with pytest.raises(e.CrmProtocolError) as raised:
        value_of(response(200, body))
    assert (raised.value.type, raised.value.status) == ("HTTP_200", 200)


def test_html_in_a_200_says_that_a_proxy_may_interfere() -> None:
    with pytest.raises(e.CrmProtocolError, match="is a proxy in the way"):
        value_of(response(200, b"<html>Hello Ada Lovelace, please log in</html>"))


# -- outcome of a write --------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "PATCH", "DELETE"])
@pytest.mark.parametrize(
    ("status", "known"),
    [(400, True), (401, True), (403, True), (404, True), (409, True), (422, True), (429, True),
     (500, False), (502, False), (503, False), (504, False), (599, False), (302, False), (418, False)],
)  # fmt: skip
def test_only_a_write_to_a_broken_server_is_unsure(method: str, status: int, known: bool) -> None:
    assert error_of(response(status, method=method)).outcome_known is (known or method == "GET")


def test_write_with_an_unreadable_success_is_unsure() -> None:
    with pytest.raises(e.CrmProtocolError) as raised:
        value_of(response(201, b"<html>", method="POST"))
    assert raised.value.outcome_known is False


# -- request id and Retry-After ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "headers", "expected"),
    [
        ({"requestId": "r-1"}, {"x-amzn-requestid": "h-1"}, "r-1"),
        ({"error": {"requestId": "r-1"}}, {}, "r-1"),
        ({"data": {"requestId": "r-1"}}, {}, "r-1"),
        ({"requestId": 5}, {"X-Amzn-RequestId": "h-1", "x-amz-apigw-id": "g-1"}, "h-1"),
        ({}, {"X-Amz-Apigw-Id": "g-1"}, "g-1"),
        ([], {"x-amz-apigw-id": "g-1"}, "g-1"),
        ({"requestId": "r" * 1000}, {}, "r" * 100),
        ({"requestId": "r" * 1001}, {}, None),
        ({"requestId": "r 1"}, {"x-amzn-requestid": "h-1"}, "h-1"),
        ({}, {}, None),
    ],
)
def test_request_id(body: Any, headers: dict[str, str], expected: str | None) -> None:
    error = error_of(response(500, body, headers=headers))
    assert error.request_id == expected
    assert (f"Request id: {expected}" in str(error)) is (expected is not None)


NOW = "Tue, 15 Nov 1994 08:12:31 GMT"


@pytest.mark.parametrize(
    ("value", "date", "expected"),
    [
        ("0", None, 0.0),
        ("7", None, 7.0),
        (" 7 ", None, 7.0),
        ("\x1f7\x1f", None, 7.0),
        ("1.5", None, 1.5),
        ("604800", None, 604800.0),
        ("604801", None, None),
        ("-1", None, None),
        ("1e3", None, None),
        ("nan", None, None),
        ("soon", None, None),
        ("", None, None),
        (None, None, None),
        ("Tue, 15 Nov 1994 08:13:01 GMT", NOW, 30.0),
        ("Tue, 15 Nov 1994 09:13:01 +0100", NOW, 30.0),
        ("Tuesday, 15-Nov-94 08:13:01 GMT", NOW, 30.0),
        ("Tue, 15 Nov 1994 08:13:01 -0000", NOW, 30.0),  # an invalid zone
        ("Tue, 15 Nov 1994 08:13:01 GMT", NOW.replace("GMT", "-0000"), 30.0),
        ("Tue, 15 Nov 1994 08:12:00 GMT", NOW, 0.0),
        ("Tue, 15 Nov 1994 08:12:00 GMT", None, 0.0),
        ("Tue, 15 Nov 1994 08:12:00 GMT", "yesterday", 0.0),
        ("Tue, 15 Nov 2044 08:13:01 GMT", NOW, None),
        ("Tue, 35 Nov 1994 08:13:01 GMT", NOW, None),
    ],
)
def test_retry_after(value: str | None, date: str | None, expected: float | None) -> None:
    assert retry_after_of(value, date) == expected


@given(value=st.text(max_size=40), date=st.none() | st.text(max_size=40))
@example(value="0\x1f", date=None)
def test_any_retry_after_is_a_valid_wait_or_none(value: str, date: str | None) -> None:
    seconds = retry_after_of(value, date)
    assert seconds is None or 0 <= seconds <= 7 * 24 * 3600


def test_retry_after_in_any_case_of_the_header() -> None:
    assert error_of(response(429, headers={"RETRY-AFTER": "3"})).retry_after == 3.0
    by_date = {"RETRY-AFTER": "Tue, 15 Nov 1994 08:13:01 GMT", "DATE": NOW}
    assert error_of(response(429, headers=by_date)).retry_after == 30.0


# -- nothing leaks -------------------------------------------------------------------------------------------

MARK = "Zq7"
"""The start of every planted value, which must never be shown, not even from a truncated value."""

VALUES = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=30).map(lambda t: (MARK + t).strip())

ECHOES: dict[str, Callable[[str], Any]] = {
    "v1": lambda value: {"error": f"bad: {value}", "errorCode": "INVALID_INPUT"},
    "text only": lambda value: {"message": f"{value} is no phone"},
    "texts": lambda value: {"message": [f"name {value}", {"field": value}]},
    "nested": lambda value: {"error": {"message": f"'{value}'", "code": "INVALID_INPUT"}},
    "data": lambda value: {"data": {"name": value}},
    "list": lambda value: [value, {"a": value}],
    "string": lambda value: value,
    "plain text": lambda value: f"cannot take {value}, sorry".encode(),
    "many times": lambda value: (value * 300).encode(),
    "HTML": lambda value: f"<html><p>{value}</p></html>".encode(),
    "in upper case": lambda value: {"message": "BAD " + "".join(c.upper() if c.isascii() else c for c in value)},
}


def shown(error: e.CrmError) -> str:
    """Everything that a log or a screen can show of an error."""
    return "\n".join([str(error), repr(error), *map(str, error.args), json.dumps(error.as_dict(), ensure_ascii=False)])


def raised_by(case: CrmResponse) -> e.CrmError:
    error = error_in(case)
    assert error is not None, "it was treated as a success"
    return error


@given(value=VALUES, status=st.sampled_from([400, 403, 404, 418, 422, 500]), echo=st.sampled_from(sorted(ECHOES)))
@example(value=MARK + "x" * 297, status=500, echo="many times")
def test_sent_value_is_never_shown(value: str, status: int, echo: str) -> None:
    error = raised_by(response(status, ECHOES[echo](value), sent=(value,)))
    assert MARK.lower() not in shown(error).lower()


@given(value=VALUES, cut=st.integers(1, 2000), ascii_=st.booleans(), times=st.integers(1, 60))
@example(value=MARK + "x", cut=20, ascii_=True, times=1)
@example(value=MARK + "\\", cut=15, ascii_=True, times=1)
def test_broken_json_shows_no_value_even_if_it_was_not_sent(value: str, cut: int, ascii_: bool, times: int) -> None:
    whole = json.dumps({"data": [{"name": value, "note": [value]}] * times}, ensure_ascii=ascii_).encode()
    error = raised_by(response(200, whole[: min(cut, len(whole) - 1)]))
    assert MARK not in shown(error)


def test_json_after_a_byte_order_mark_shows_no_value() -> None:
    assert "Ada" not in shown(raised_by(response(200, b'\xef\xbb\xbf{"name": "Ada Lovelace", ')))


PLAIN_EMAILS = st.from_regex(r"[A-Za-z0-9._+-]{1,20}@[a-z0-9-]{1,10}\.[a-z]{2,5}", fullmatch=True)


@given(email=PLAIN_EMAILS, status=st.sampled_from([404, 418, 500]), echo=st.sampled_from(sorted(ECHOES)))
def test_no_email_is_shown_even_if_it_was_not_sent(email: str, status: int, echo: str) -> None:
    assert email not in shown(raised_by(response(status, ECHOES[echo](email))))


@pytest.mark.parametrize(
    "headers",
    [{"x-amzn-requestid": "ada@example.com"}, {"x-amz-apigw-id": "for ada@example.com"}],
    ids=["request id", "gateway id"],
)
def test_request_id_cannot_leak_an_email(headers: dict[str, str]) -> None:
    assert "ada@example.com" not in shown(error_of(response(500, headers=headers)))
    assert "ada@example.com" not in shown(error_of(response(500, {"requestId": "ada@example.com"})))


def test_documented_text_is_shown_whatever_was_sent() -> None:
    body = {"message": "Contact not found."}
    assert error_of(response(404, body, sent=("found", "Contact"))).message == "Contact not found."
    assert error_of(response(400, body, sent=("found", "Contact"))).message == "[value] not [value]."


def test_sent_numbers_are_never_shown() -> None:
    assert "5531999" not in shown(error_of(response(422, {"message": "5531999 is no phone"}, sent=("5531999",))))


@pytest.mark.parametrize("body", [b'{"message": "%s"}', b"%s"], ids=["JSON", "text"])
def test_long_text_is_processed_quickly(body: bytes) -> None:
    """Measured in work, not in time, so that other processes have no influence."""
    started = time.thread_time()
    error_of(response(500, body % (b"a" * 60_000), sent=("some value",)))
    assert time.thread_time() - started < 5.0


def test_message_is_one_line() -> None:
    message = error_of(response(400, {"message": "two\r\nlines\x1b[31m\u202e and\ttabs"})).message
    assert message == "two lines [31m and tabs"
    assert not re.search(r"\s\s", message)


def test_key_echoed_by_a_response_is_not_shown() -> None:
    """Not even in the request id: both reach logs and XComs."""
    body = b'{"message": "Key sk-live-42 was revoked", "requestId": "sk-live-42"}'
    error = error_of(
        CrmResponse(method="GET", path="/segments", status=403, headers={}, body=body, sensitive_values=("sk-live-42",))
    )
    assert "sk-live-42" not in str(error)
    assert error.request_id is None
    headers = {"x-amzn-requestid": "sk-live-42", "x-amz-apigw-id": "g-1"}
    assert error_of(response(403, headers=headers, sent=("sk-live-42",))).request_id == "g-1"


# -- digits --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("exact", "value"), [(False, 1200.5), (True, Decimal("1200.50"))])
def test_digits_are_kept_on_request(exact: bool, value: object) -> None:
    body = b'{"data": {"amount": 1200.50, "count": 7}}'
    found = value_of(CrmResponse(method="GET", path="/deals", status=200, headers={}, body=body, use_decimal=exact))
    assert found == {"amount": value, "count": 7}
    assert (type(found["amount"]), str(found["amount"])) == (type(value), str(value))
