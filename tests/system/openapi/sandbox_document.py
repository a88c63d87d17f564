"""The sandbox's API as an OpenAPI document, written by hand from the API reference."""

from __future__ import annotations

from typing import Any

from crm_provider.errors.catalog import CATALOGUE

Schema = dict[str, Any]

UUID: Schema = {"type": "string", "format": "uuid"}
TEXT: Schema = {"type": "string"}
EMAIL: Schema = {"type": "string", "format": "email"}
OBJECT: Schema = {"type": "object"}


def record(required: str, **fields: Schema) -> Schema:
    """An object with exactly these fields."""
    return {
        "type": "object", "properties": fields, "required": required.split(), "additionalProperties": False
    }  # fmt: skip


def listing(of: Schema) -> Schema:
    """A page of records."""
    number = {"type": "integer", "minimum": 0}
    return record("page total data", page=number, total=number, data={"type": "array", "items": of, "maxItems": 10})


CONTACT = record(
    "id email status source origin segmentedListsIds createdAt attributes",
    id=UUID, email=TEXT, status=TEXT, source=TEXT, origin={"type": ["object", "null"]}, createdAt=TEXT,
    segmentedListsIds={"type": "array", "items": UUID}, attributes=OBJECT, unsubscribedAt=TEXT, blacklistedAt=TEXT,
)  # fmt: skip
DEAL = record(
    "id contactId pipelineId stageId createdAt attributes",
    id=UUID, contactId=UUID, pipelineId=UUID, stageId=UUID, createdAt=TEXT, attributes=OBJECT,
)  # fmt: skip
DEAL_REF = record("id contactId email", id=UUID, contactId=UUID, email=TEXT)
REF = record("id email", id=UUID, email=TEXT)

ATTRIBUTES: Schema = {"type": "object", "properties": {"name": TEXT, "phone": {"type": "string"}}}
DEAL_ATTRIBUTES: Schema = {"type": "object", "properties": {"pb_name": TEXT, "pb_amount": TEXT, "pb_closingDate": TEXT}}
NEW_CONTACT: Schema = {
    "type": "object", "required": ["email"], "properties": {"email": EMAIL, "origin": OBJECT, "attributes": ATTRIBUTES}
}  # fmt: skip
NEW_DEAL: Schema = {
    "type": "object",
    "required": ["contactId", "pipelineId", "stageId"],
    "properties": {"contactId": UUID, "pipelineId": UUID, "stageId": UUID, "attributes": DEAL_ATTRIBUTES},
}
CHANGED_DEAL: Schema = {
    "type": "object", "properties": {"contactId": UUID, "stageId": UUID, "attributes": DEAL_ATTRIBUTES}
}  # fmt: skip
LISTS: Schema = {
    "type": "object", "required": ["segmentedListsIds"],
    "properties": {"segmentedListsIds": {"type": "array", "items": UUID, "minItems": 1}},
}  # fmt: skip
STARTED: Schema = {
    "type": "object", "required": ["email"],
    "properties": {"email": EMAIL, "customFields": {"type": "array", "items": OBJECT}},
}  # fmt: skip

CALLS: tuple[tuple[str, str, Schema | None, int, Schema, str], ...] = (
    # method, path, body, status and data of a success, statuses of errors
    ("post", "/contacts", NEW_CONTACT, 201, REF, "400 409 422"),
    ("get", "/contacts", None, 200, listing(CONTACT), "422"),
    ("get", "/contacts/{email}", None, 200, CONTACT, "404 422"),
    ("put", "/contacts/{email}", ATTRIBUTES, 200, REF, "400 404 422"),
    ("delete", "/contacts/{email}", None, 200, REF, "404 422"),
    ("post", "/deals", NEW_DEAL, 201, DEAL_REF, "400 404 409 422"),
    ("get", "/deals", None, 200, listing(DEAL), "422"),
    ("get", "/deals/{dealId}", None, 200, DEAL, "404 422"),
    ("put", "/deals/{dealId}", CHANGED_DEAL, 200, record("id", id=UUID), "400 404 409 422"),
    ("delete", "/deals/{dealId}", None, 200, record("id", id=UUID), "404 422"),
    ("get", "/segments", None, 200, listing(record("id name", id=UUID, name=TEXT)), "422"),
    ("post", "/segments/add-contact/{email}", LISTS, 200, REF, "400 404 422"),
    ("post", "/email-verification/{email}", OBJECT, 200, record("email status", email=TEXT, status=TEXT), "400 422"),
    ("post", "/webhook/{webhookId}/c/{channelUid}/w/{workflowId}", STARTED, 200, record(""), "400 422"),
)  # fmt: skip

ERROR = record(
    "error errorCode requestId", error=TEXT, errorCode={"type": "string", "enum": list(CATALOGUE)}, requestId=TEXT
)
GATEWAY: Schema = {"type": "object", "required": ["message"], "properties": {"message": TEXT}}


def document() -> dict[str, Any]:
    """The complete document."""
    paths: dict[str, Any] = {}
    for method, path, body, status, data, errors in CALLS:
        paths.setdefault(path, {})[method] = _operation(path, body, status, data, errors.split())
    return {
        "openapi": "3.1.0",
        "info": {"title": "the sandbox's API", "version": "2"},
        "servers": [{"url": "/v2"}],
        "paths": paths,
    }


def _operation(path: str, body: Schema | None, status: int, data: Schema, errors: list[str]) -> dict[str, Any]:
    names = [part[1:-1] for part in path.split("/") if part.startswith("{")]
    filled = {"type": "string", "minLength": 1}
    parameters = [{"name": name, "in": "path", "required": True, "schema": filled} for name in names]
    if "page" in data["properties"]:
        number = {"type": "integer", "minimum": 0}
        parameters.append({"name": "page", "in": "query", "required": False, "schema": number})
    success = record("message data requestId", message=TEXT, data=data, requestId=TEXT)
    operation: dict[str, Any] = {
        "parameters": parameters,
        "responses": {
            str(status): _response(success),
            "403": _response(GATEWAY),
            **{error: _response(ERROR) for error in errors},
        },
    }
    if body is not None:
        operation["requestBody"] = {"required": True, "content": {"application/json": {"schema": body}}}
    return operation


def _response(schema: Schema) -> dict[str, Any]:
    return {"description": "", "content": {"application/json": {"schema": schema}}}
