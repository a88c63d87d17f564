"""Assumptions about errors: each invalid request leads to its error class, in any form of the response."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
from contract_accounts import Account, a_uuid, content, shape

from crm_provider import errors as e
from crm_provider.client.responses import CrmResponse, error_of, request_id_of
from crm_provider.errors.catalog import CATALOGUE

Record = Callable[..., None]


@dataclass(frozen=True, kw_only=True)
class Mistake:
    """An invalid request.

    :param make: sends it to an account
    :param errors: classes that it may lead to
    """

    make: Callable[[Account], CrmResponse]
    errors: tuple[type[e.CrmError], ...]
    not_for: tuple[type[e.CrmError], ...] = field(default=())


def _unknown_pipeline(account: Account) -> CrmResponse:
    contact_id = account.client.create_contact(account.new_email())["id"]
    body = {"contactId": contact_id, "pipelineId": a_uuid(), "stageId": a_uuid(), "attributes": {"pb_name": "x"}}
    response = account.ask("POST", "/deals", body=body)
    made = content(response)
    if response.status < 300 and isinstance(made, dict):
        account.note_deal(str(made.get("id") or made.get("data", {}).get("id")))
    return response


def _twice(account: Account) -> CrmResponse:
    email = account.new_email()
    return [account.ask("POST", "/contacts", body={"email": email}) for _ in range(2)][1]


def _unknown_list(account: Account) -> CrmResponse:
    email = account.new_email()
    account.client.create_contact(email)
    return account.ask("POST", "/segments/add-contact/{email}", email=email, body={"segmentedListsIds": [a_uuid()]})


def _other_key(account: Account) -> CrmResponse:
    wrong = account.settings.with_(api_key="this-key-is-wrong-on-purpose")
    return account.ask("GET", "/segments", query={"page": 0}, settings=wrong)


MISTAKES: dict[str, Mistake] = {
    "unknown contact": Mistake(
        make=lambda account: account.ask("GET", "/contacts/{email}", email=account.new_email()),
        errors=(e.CrmContactNotFoundError,),
    ),
    "empty body": Mistake(make=lambda account: account.ask("POST", "/contacts"), errors=(e.CrmMissingBodyError,)),
    "invalid email": Mistake(
        make=lambda account: account.ask("POST", "/contacts", body={"email": ""}), errors=(e.CrmInvalidInputError,)
    ),
    "second creation": Mistake(make=_twice, errors=(e.CrmContactAlreadyExistsError,)),
    "unknown deal": Mistake(
        make=lambda account: account.ask("PUT", "/deals/{deal_id}", deal_id=a_uuid(), body={"stageId": a_uuid()}),
        errors=(e.CrmDealNotFoundError,),
    ),
    "unknown list": Mistake(make=_unknown_list, errors=(e.CrmSegmentationListNotFoundError,)),
    "unknown pipeline": Mistake(make=_unknown_pipeline, errors=(e.CrmPipelineNotFoundError, e.CrmStageNotFoundError)),
    "refused key": Mistake(make=_other_key, errors=(e.CrmAccessError,)),
    "no key": Mistake(
        make=lambda account: account.ask("GET", "/segments", query={"page": 0}, authenticated=False),
        errors=(e.CrmAccessError,),
    ),
    "unknown route": Mistake(
        make=lambda account: account.ask("GET", "/no-such-route-of-ours"),
        errors=(e.CrmRequestError, e.CrmNotFoundError),
    ),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_invalid_request_raises_its_error(name: str, account: Account, record: Record) -> None:
    mistake = MISTAKES[name]
    response = mistake.make(account)
    parsed = content(response)
    if response.status < 300:
        record(name, f"{response.status} {shape(parsed)}: no error at all", holds=False)
        return
    error = error_of(response)
    record(name, f"{response.status}, classified as {error.type}", holds=isinstance(error, mistake.errors))
    if name == "unknown contact":
        reported = error.type in CATALOGUE
        record("form of an error", f"{_types_named(parsed)} in {shape(parsed)}", holds=reported)
        record(
            "request id",
            _where_the_id_is(response, parsed),
            holds=None if request_id_of(response, parsed) is None else True,
        )


def _types_named(parsed: Any) -> str:
    """The fields of a body that contain a documented error type. Other values are not shown."""
    if not isinstance(parsed, dict):
        return "no type"
    named = [f"`{name}` = {value}" for name, value in parsed.items() if isinstance(value, str) and value in CATALOGUE]
    return ", ".join(named) or "no type"


def _where_the_id_is(response: CrmResponse, parsed: Any) -> str:
    if isinstance(parsed, dict) and "requestId" in parsed:
        return "`requestId` in the body"
    headers = [name for name in response.headers if name.lower() in ("x-amzn-requestid", "x-amz-apigw-id")]
    return f"in the header {headers[0]}" if headers else "none"
