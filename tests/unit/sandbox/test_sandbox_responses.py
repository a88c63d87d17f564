"""Envelopes: every catalogue error in every form, and both forms of success."""

from __future__ import annotations

from typing import Any, get_args

import pytest

from crm_provider.errors.catalog import ALIASES, CATALOGUE, GATEWAY_RESPONSES, ErrorSource
from crm_provider.sandbox.responses import (
    ERROR_NAMES,
    ErrorReply,
    RefusedError,
    ResponseWriter,
    error_reply,
    gateway_reply,
)
from crm_provider.sandbox.settings import Envelope, SuccessShape

ENVELOPES = get_args(Envelope)
VENDOR = [spec for spec in CATALOGUE.values() if spec.source is ErrorSource.VENDOR]
WITHOUT_RESPONSE = [spec.type for spec in CATALOGUE.values() if spec.status is None]


def writer(envelope: Envelope = "v1", success: SuccessShape = "wrapped") -> ResponseWriter:
    return ResponseWriter(envelope=envelope, success=success, request_id="the-request-id")


@pytest.mark.parametrize("spec", VENDOR, ids=lambda spec: spec.type)
def test_vendor_error_in_each_envelope(spec: Any) -> None:
    problem = error_reply(spec.type)
    text = spec.messages[0]
    bodies = {
        "v1": {"error": text, "errorCode": spec.type, "requestId": "the-request-id"},
        "v2": {"code": spec.type, "message": text},
        "v2-text": {"message": text},
    }
    for envelope, body in bodies.items():
        response = writer(envelope).fail(problem)  # type: ignore[arg-type]
        assert (response.status, response.json) == (spec.status, body)
        assert response.headers["x-amzn-requestid"] == "the-request-id"
        assert "x-amzn-ErrorType" not in response.headers


@pytest.mark.parametrize("envelope", ENVELOPES)
@pytest.mark.parametrize("case", GATEWAY_RESPONSES, ids=lambda response: response.case)
def test_gateway_errors_look_the_same_in_every_envelope(case: Any, envelope: Envelope) -> None:
    response = writer(envelope).fail(gateway_reply(case.case))
    assert (response.status, response.json) == (case.status, dict(case.body))
    assert response.headers.get("x-amzn-ErrorType") == case.error_type


@pytest.mark.parametrize("spec", VENDOR, ids=lambda spec: spec.type)
def test_gateway_envelope_uses_the_gateways_own_text(spec: Any) -> None:
    response = writer("gateway").fail(error_reply(spec.type))
    own = [a for a in GATEWAY_RESPONSES if a.type == spec.type]
    assert response.status == spec.status
    if own:
        assert (response.json, response.headers["x-amzn-ErrorType"]) in [(dict(a.body), a.error_type) for a in own]
        assert None not in response.json.values()
    else:
        assert response.json == {"message": spec.messages[0]}


def test_every_error_name_builds_its_catalogue_error() -> None:
    for name in ERROR_NAMES:
        problem = error_reply(name)
        spec = CATALOGUE[problem.type]
        assert problem.status == spec.status
        if problem.gateway is None:
            assert problem.text in spec.messages


def test_error_names() -> None:
    expected = {spec.type for spec in CATALOGUE.values() if spec.status} | set(ALIASES)
    assert set(ERROR_NAMES) == expected | {response.case for response in GATEWAY_RESPONSES}


def test_gateway_errors_come_from_the_gateway() -> None:
    for spec in CATALOGUE.values():
        if spec.status is not None:
            assert (error_reply(spec.type).gateway is not None) is (spec.source is ErrorSource.GATEWAY)


def test_alias_is_the_text_of_its_type() -> None:
    assert error_reply("deal_id_is_necessary") == ErrorReply(
        type="INVALID_PARAMS", status=422, text="DEAL_ID_IS_NECESSARY"
    )


@pytest.mark.parametrize("name", WITHOUT_RESPONSE)
def test_client_side_error_is_refused_with_a_hint(name: str) -> None:
    with pytest.raises(ValueError, match=r"never a response.*use the effect"):
        error_reply(name)


def test_unknown_error_name_is_refused_with_the_nearest() -> None:
    with pytest.raises(ValueError, match="did you mean 'CONTACT_NOT_FOUND'"):
        error_reply("CONTACT_NOT_FOUN")
    with pytest.raises(ValueError, match="did you mean 'quota used up'"):
        error_reply("quota used")


def test_only_response_errors_can_refuse_a_call() -> None:
    assert RefusedError("INVALID_PARAMS", text="EMAIL_IS_NECESSARY").reply.text == "EMAIL_IS_NECESSARY"
    with pytest.raises(ValueError, match="never a response"):
        RefusedError("CONNECTION")


@pytest.mark.parametrize("value", [30, "Wed, 21 Oct 2026 07:28:00 GMT", "soon"])
def test_retry_after_is_sent_as_given(value: int | str) -> None:
    assert writer().fail(error_reply("throttled"), retry_after=value).headers["Retry-After"] == str(value)
    assert "Retry-After" not in writer().fail(error_reply("throttled")).headers


@pytest.mark.parametrize(
    ("envelope", "success", "body"),
    [
        ("v1", "wrapped", {"message": "Success", "data": {"id": "1"}, "requestId": "the-request-id"}),
        ("v1", "flat", {"id": "1", "requestId": "the-request-id"}),
        ("v2", "wrapped", {"message": "Success", "data": {"id": "1"}}),
        ("gateway", "flat", {"id": "1"}),
    ],
)
def test_success_envelopes(envelope: Envelope, success: SuccessShape, body: Any) -> None:
    response = writer(envelope, success).succeed(201, {"id": "1"})
    assert (response.status, response.json) == (201, body)
    assert response.headers["x-amzn-requestid"] == "the-request-id"
