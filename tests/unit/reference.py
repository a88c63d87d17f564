"""The API reference and the design as hand-written data. Nothing here is read from the code under test."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Row:
    """An error type in the reference."""

    type: str
    error: str
    status: int
    message: str


VENDOR = (
    # section 4: the user's document
    Row("MISSING_BODY", "CrmMissingBodyError", 400, "Body is necessary."),
    Row(
        "FORBIDDEN",
        "CrmForbiddenError",
        403,
        "User is not authorized to access this resource with an explicit deny in an identity-based policy.",
    ),
    Row("CONTACT_NOT_FOUND", "CrmContactNotFoundError", 404, "Contact not found."),
    Row("SEGMENTATION_LIST_NOT_FOUND", "CrmSegmentationListNotFoundError", 404, "Segmentation list not found."),
    Row("DEAL_NOT_FOUND", "CrmDealNotFoundError", 404, "Deal not found."),
    Row("PIPELINE_NOT_FOUND", "CrmPipelineNotFoundError", 404, "Pipeline not found."),
    Row("STAGE_NOT_FOUND", "CrmStageNotFoundError", 404, "Stage not found."),
    Row("CONTACT_ALREADY_EXISTS", "CrmContactAlreadyExistsError", 409, "Contact already exists."),
    Row(
        "CONTACT_ASSOCIATED_WITH_A_DEAL",
        "CrmContactAssociatedWithADealError",
        409,
        "Contact already associated with a deal.",
    ),
    Row("INVALID_INPUT", "CrmInvalidInputError", 422, "Invalid JSON body."),
    Row("INVALID_PARAMS", "CrmInvalidParamsError", 422, "DEAL_ID_IS_NECESSARY"),
    Row("TOO_MANY_REQUESTS", "CrmTooManyRequestsError", 429, "Too many requests."),
    Row("INTERNAL_SERVER_ERROR", "CrmInternalServerError", 500, "An unexpected error occurred."),
)

UNNAMED = ("CONTACT_NOT_FOUND", "CONTACT_ALREADY_EXISTS", "CONTACT_ASSOCIATED_WITH_A_DEAL", "INVALID_INPUT")
"""Types whose name is missing in the user's copy of the API document."""

GATEWAY_TYPES = (
    # section 5: errors of the gateway only
    Row("UNAUTHORIZED", "CrmUnauthorizedError", 401, "Unauthorized"),
    Row("UNKNOWN_ROUTE", "CrmUnknownRouteError", 403, "Missing Authentication Token"),
    Row("LIMIT_EXCEEDED", "CrmLimitExceededError", 429, "Limit Exceeded"),
    Row("BAD_GATEWAY", "CrmBadGatewayError", 502, "Internal server error"),
    Row("SERVICE_UNAVAILABLE", "CrmServiceUnavailableError", 503, "Service Unavailable"),
    Row("GATEWAY_TIMEOUT", "CrmGatewayTimeoutError", 504, "Endpoint request timed out"),
)

RESPONSE_TYPES = (*VENDOR, *GATEWAY_TYPES)
"""The types that a response can have."""

FOUND_HERE = {
    "CONNECTION": "CrmConnectionError",
    "TIMEOUT": "CrmTimeoutError",
    "TLS": "CrmTlsError",
    "CONFIGURATION": "CrmConfigurationError",
    "INVALID_VALUE": "CrmInvalidValueError",
    "PROTOCOL": "CrmProtocolError",
}
"""The types of client-side errors: no response can name them."""

RECOGNISED_BY_STATUS = {"INVALID_REQUEST": "CrmInvalidRequestError"}
"""The type of a 400 or 422 without a reason: section 4, rule 3."""

TYPES = {**{row.type: row.error for row in RESPONSE_TYPES}, **FOUND_HERE, **RECOGNISED_BY_STATUS}
"""All types and their classes."""


@dataclass(frozen=True)
class ReceivedForm:
    """One response of the gateway: section 5."""

    case: str
    status: int
    body: dict[str, str | None]
    header: str | None
    type: str


GATEWAY = (
    ReceivedForm("key refused", 403, {"Message": VENDOR[1].message}, "AccessDeniedException", "FORBIDDEN"),
    ReceivedForm("key missing", 401, {"message": "Unauthorized"}, "UnauthorizedException", "UNAUTHORIZED"),
    ReceivedForm("firewall", 403, {"message": "Forbidden"}, "ForbiddenException", "FORBIDDEN"),
    ReceivedForm(
        "unknown route",
        403,
        {"message": "Missing Authentication Token"},
        "MissingAuthenticationTokenException",
        "UNKNOWN_ROUTE",
    ),
    ReceivedForm("throttled", 429, {"message": "Too Many Requests"}, "TooManyRequestsException", "TOO_MANY_REQUESTS"),
    ReceivedForm("quota used up", 429, {"message": "Limit Exceeded"}, "LimitExceededException", "LIMIT_EXCEEDED"),
    ReceivedForm(
        "authorizer broke", 500, {"message": None}, "AuthorizerConfigurationException", "INTERNAL_SERVER_ERROR"
    ),
    ReceivedForm(
        "backend throttled or broken",
        500,
        {"message": "Internal server error"},
        "InternalServerErrorException",
        "INTERNAL_SERVER_ERROR",
    ),
    ReceivedForm(
        "bad gateway", 502, {"message": "Internal server error"}, "InternalServerErrorException", "BAD_GATEWAY"
    ),
    ReceivedForm("unavailable", 503, {"message": "Service Unavailable"}, None, "SERVICE_UNAVAILABLE"),
    ReceivedForm("backend too slow", 504, {"message": "Endpoint request timed out"}, None, "GATEWAY_TIMEOUT"),
)

BY_STATUS = {
    # section 4, rule 3: errors known only by status
    400: "CrmInvalidRequestError",
    401: "CrmUnauthorizedError",
    403: "CrmForbiddenError",
    404: "CrmNotFoundError",
    409: "CrmConflictError",
    413: "CrmRequestError",
    415: "CrmRequestError",
    422: "CrmInvalidRequestError",
    429: "CrmTooManyRequestsError",
    500: "CrmInternalServerError",
    501: "CrmTransientError",
    502: "CrmBadGatewayError",
    503: "CrmServiceUnavailableError",
    504: "CrmGatewayTimeoutError",
    599: "CrmTransientError",
}

REPEATED = {
    # which calls the client repeats automatically, of GET, PUT, DELETE, and a POST that cannot be verified
    "TOO_MANY_REQUESTS": {"GET", "PUT", "DELETE", "POST"},
    "INTERNAL_SERVER_ERROR": {"GET", "PUT", "DELETE"},
    "BAD_GATEWAY": {"GET", "PUT", "DELETE"},
    "SERVICE_UNAVAILABLE": {"GET", "PUT", "DELETE"},
    "GATEWAY_TIMEOUT": {"GET", "PUT", "DELETE"},
    "CONNECTION": {"GET", "PUT", "DELETE"},
    "TIMEOUT": {"GET", "PUT", "DELETE"},
}

OUTCOMES = {
    # design, section 4: type -> (task, sensor, row of a load)
    "MISSING_BODY": ("fail", "fail", "reject"),
    "INVALID_PARAMS": ("fail", "fail", "reject"),
    "UNKNOWN_ROUTE": ("fail", "fail", "reject"),
    "INVALID_REQUEST": ("fail", "fail", "reject"),
    "FORBIDDEN": ("fail", "fail", "fail"),
    "UNAUTHORIZED": ("fail", "fail", "fail"),
    "TLS": ("fail", "fail", "fail"),
    "CONFIGURATION": ("fail", "fail", "fail"),
    "CONTACT_NOT_FOUND": ("fail", "wait", "reject"),
    "DEAL_NOT_FOUND": ("fail", "wait", "reject"),
    "SEGMENTATION_LIST_NOT_FOUND": ("fail", "fail", "fail"),
    "PIPELINE_NOT_FOUND": ("fail", "fail", "fail"),
    "STAGE_NOT_FOUND": ("fail", "fail", "fail"),
    "CONTACT_ALREADY_EXISTS": ("fail", "fail", "reject"),
    "CONTACT_ASSOCIATED_WITH_A_DEAL": ("fail", "fail", "reject"),
    "INVALID_INPUT": ("fail", "fail", "reject"),
    "INVALID_VALUE": ("fail", "fail", "reject"),
    "TOO_MANY_REQUESTS": ("retry", "wait", "retry"),
    "LIMIT_EXCEEDED": ("retry", "wait", "retry"),
    "INTERNAL_SERVER_ERROR": ("retry", "wait", "retry"),
    "BAD_GATEWAY": ("retry", "wait", "retry"),
    "SERVICE_UNAVAILABLE": ("retry", "wait", "retry"),
    "GATEWAY_TIMEOUT": ("retry", "wait", "retry"),
    "CONNECTION": ("retry", "wait", "retry"),
    "TIMEOUT": ("retry", "wait", "retry"),
    "PROTOCOL": ("fail", "fail", "fail"),
}

EXCEPTIONS = {
    # design, section 4: where an operator differs, (operator, type) -> outcome
    ("CrmUpsertContactOperator(mode='create')", "CONTACT_ALREADY_EXISTS"): "skip",
    ("CrmCreateDealOperator", "CONTACT_ASSOCIATED_WITH_A_DEAL"): "skip",
    ("CrmDeleteContactOperator", "CONTACT_NOT_FOUND"): "skip",
    **{
        # an automation is never started twice: an ambiguous call is not retried
        ("CrmTriggerAutomationOperator", type_): "fail"
        for type_ in (
            "INTERNAL_SERVER_ERROR",
            "BAD_GATEWAY",
            "SERVICE_UNAVAILABLE",
            "GATEWAY_TIMEOUT",
            "CONNECTION",
            "TIMEOUT",
        )
    },
    # a load that only creates leaves existing contacts alone
    ("CrmLoadContactsOperator(mode='create')", "CONTACT_ALREADY_EXISTS"): "unchanged",
    ("CrmRetryRejectsOperator(mode='create')", "CONTACT_ALREADY_EXISTS"): "unchanged",
    ("SqlToCrmContactsOperator(mode='create')", "CONTACT_ALREADY_EXISTS"): "unchanged",
    **{
        # a load of deals that only creates leaves the deals of contacts alone; a wrong stage or pipeline is the row's
        (f"{name}{mode}", type_): action
        for name in ("CrmLoadDealsOperator", "SqlToCrmDealsOperator")
        for mode in ("", "(mode='move')", "(mode='update')", "(mode='create')")
        for type_, action in (
            ("STAGE_NOT_FOUND", "reject"),
            ("PIPELINE_NOT_FOUND", "reject"),
            *([("CONTACT_ASSOCIATED_WITH_A_DEAL", "unchanged")] if "create" in mode else []),
        )
    },
    ("CrmDeleteContactsOperator", "CONTACT_NOT_FOUND"): "unchanged",
    ("CrmListSensor", "SEGMENTATION_LIST_NOT_FOUND"): "wait",
    ("CrmListMembershipSensor", "SEGMENTATION_LIST_NOT_FOUND"): "wait",
}
