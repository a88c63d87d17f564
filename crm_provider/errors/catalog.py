"""The error catalogue: one record for each error type, and the responses of the gateway as it sends them.

This is the one source of truth about errors. The client, the policy, the sandbox, the documentation and the tests
read it.

Sources: the vendor's *error schema* page (``ErrorSource.VENDOR``), the responses of the AWS API Gateway in front of
the API (``GATEWAY``, inferred), the network (``TRANSPORT``), and this package's own checks (``PROVIDER``).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from types import MappingProxyType

from crm_provider.errors import exceptions as e


class ErrorSource(str, Enum):
    """Who reports the error."""

    VENDOR = "vendor"
    GATEWAY = "gateway"
    TRANSPORT = "transport"
    PROVIDER = "provider"


class Repeat(str, Enum):
    """Whether the client may send the same call again."""

    NEVER = "never"
    ANY_CALL = "any call"
    """The call was refused before it reached the CRM: any method may be repeated."""
    VERIFY_FIRST = "verify first"
    """The call may have been carried out: GET, PUT and DELETE are repeated, a POST is first verified by reading."""


@dataclass(frozen=True, kw_only=True)
class ErrorSpec:
    """The facts about one error type.

    :param error: its class
    :param status: its HTTP status, None if there is no response
    :param messages: its texts; the first is the documented one
    :param advice: what to do about it
    :param aliases: other names of the type
    """

    error: type[e.CrmError]
    source: ErrorSource
    status: int | None
    messages: tuple[str, ...]
    advice: str
    repeat: Repeat = Repeat.NEVER
    aliases: tuple[str, ...] = ()

    @property
    def type(self) -> str:
        return self.error.type


_SPECS = (
    # -- the vendor's 13 types: status, text and advice as documented ---------------------------------------
    ErrorSpec(
        error=e.CrmMissingBodyError,
        source=ErrorSource.VENDOR,
        status=400,
        messages=("Body is necessary.",),
        advice="the request body must not be empty",
    ),
    ErrorSpec(
        error=e.CrmForbiddenError,
        source=ErrorSource.VENDOR,
        status=403,
        messages=("User is not authorized to access this resource with an explicit deny in an identity-based policy.",),
        advice="check the API key (field Password) in the Airflow connection, or generate one in the CRM",
    ),
    ErrorSpec(
        error=e.CrmContactNotFoundError,
        source=ErrorSource.VENDOR,
        status=404,
        messages=("Contact not found.",),
        advice="check that the contact exists",
    ),
    ErrorSpec(
        error=e.CrmSegmentationListNotFoundError,
        source=ErrorSource.VENDOR,
        status=404,
        messages=("Segmentation list not found.",),
        advice="check that the segmentation list exists",
    ),
    ErrorSpec(
        error=e.CrmDealNotFoundError,
        source=ErrorSource.VENDOR,
        status=404,
        messages=("Deal not found.",),
        advice="check that the deal exists",
    ),
    ErrorSpec(
        error=e.CrmPipelineNotFoundError,
        source=ErrorSource.VENDOR,
        status=404,
        messages=("Pipeline not found.",),
        advice="check that the pipeline exists",
    ),
    ErrorSpec(
        error=e.CrmStageNotFoundError,
        source=ErrorSource.VENDOR,
        status=404,
        messages=("Stage not found.",),
        advice="check that the stage exists",
    ),
    ErrorSpec(
        error=e.CrmContactAlreadyExistsError,
        source=ErrorSource.VENDOR,
        status=409,
        messages=("Contact already exists.",),
        advice="check before creating: update the contact, or upsert it",
    ),
    ErrorSpec(
        error=e.CrmContactAssociatedWithADealError,
        source=ErrorSource.VENDOR,
        status=409,
        messages=("Contact already associated with a deal.",),
        advice="check the contact's deals before creating or updating one",
    ),
    ErrorSpec(
        error=e.CrmInvalidInputError,
        source=ErrorSource.VENDOR,
        status=422,
        messages=("Invalid JSON body.",),
        advice="send a valid body with all required fields",
    ),
    ErrorSpec(
        error=e.CrmInvalidParamsError,
        source=ErrorSource.VENDOR,
        status=422,
        messages=("DEAL_ID_IS_NECESSARY", "CONTACT_EMAIL_IS_NECESSARY", "EMAIL_IS_NECESSARY"),
        aliases=("DEAL_ID_IS_NECESSARY", "CONTACT_EMAIL_IS_NECESSARY", "EMAIL_IS_NECESSARY"),
        advice="the id or email must be in the request",
    ),
    ErrorSpec(
        error=e.CrmTooManyRequestsError,
        source=ErrorSource.VENDOR,
        status=429,
        messages=("Too many requests.",),
        advice="slow down: lower requests_per_second in the connection if other tools use the same key",
        repeat=Repeat.ANY_CALL,
    ),
    ErrorSpec(
        error=e.CrmInternalServerError,
        source=ErrorSource.VENDOR,
        status=500,
        messages=("An unexpected error occurred.", "Internal server error"),
        advice="try again later, then ask the vendor's support with the request id",
        repeat=Repeat.VERIFY_FIRST,
    ),
    # -- the gateway in front ------------------------------------------------------------------------------
    ErrorSpec(
        error=e.CrmUnauthorizedError,
        source=ErrorSource.GATEWAY,
        status=401,
        messages=("Unauthorized",),
        advice="check that the Airflow connection has an API key (field Password) and that no proxy strips headers",
    ),
    ErrorSpec(
        error=e.CrmUnknownRouteError,
        source=ErrorSource.GATEWAY,
        status=403,
        messages=("Missing Authentication Token",),
        advice="check the base URL (it must end in /v2) and the path: the key is not the problem",
    ),
    ErrorSpec(
        error=e.CrmLimitExceededError,
        source=ErrorSource.GATEWAY,
        status=429,
        messages=("Limit Exceeded",),
        advice="wait until the quota of the plan is renewed, or ask the vendor to raise it",
    ),
    ErrorSpec(
        error=e.CrmBadGatewayError,
        source=ErrorSource.GATEWAY,
        status=502,
        messages=("Internal server error",),
        advice="try again later",
        repeat=Repeat.VERIFY_FIRST,
    ),
    ErrorSpec(
        error=e.CrmServiceUnavailableError,
        source=ErrorSource.GATEWAY,
        status=503,
        messages=("Service Unavailable",),
        advice="try again later",
        repeat=Repeat.VERIFY_FIRST,
    ),
    ErrorSpec(
        error=e.CrmGatewayTimeoutError,
        source=ErrorSource.GATEWAY,
        status=504,
        messages=("Endpoint request timed out",),
        advice="try again later",
        repeat=Repeat.VERIFY_FIRST,
    ),
    # -- the network ---------------------------------------------------------------------------------------
    ErrorSpec(
        error=e.CrmConnectionError,
        source=ErrorSource.TRANSPORT,
        status=None,
        messages=("the connection failed",),
        advice="check the network, the proxy and the base URL from the worker",
        repeat=Repeat.VERIFY_FIRST,
    ),
    ErrorSpec(
        error=e.CrmTimeoutError,
        source=ErrorSource.TRANSPORT,
        status=None,
        messages=("no response in time",),
        advice="try again later, or raise the timeout in the connection's extra",
        repeat=Repeat.VERIFY_FIRST,
    ),
    ErrorSpec(
        error=e.CrmTlsError,
        source=ErrorSource.TRANSPORT,
        status=None,
        messages=("the certificate is not trusted",),
        advice="check the base URL, the worker's CA bundle (REQUESTS_CA_BUNDLE) and any proxy that opens TLS",
    ),
    # -- this package's own checks -------------------------------------------------------------------------
    ErrorSpec(
        error=e.CrmConfigurationError,
        source=ErrorSource.PROVIDER,
        status=None,
        messages=("the connection is wrong",),
        advice="correct the Airflow connection or configuration",
    ),
    ErrorSpec(
        error=e.CrmInvalidRequestError,
        source=ErrorSource.PROVIDER,
        status=400,
        messages=("the request is invalid",),
        advice="check the values and the arguments of the call",
    ),
    ErrorSpec(
        error=e.CrmInvalidValueError,
        source=ErrorSource.PROVIDER,
        status=None,
        messages=("a value is wrong",),
        advice="correct the value",
    ),
    ErrorSpec(
        error=e.CrmProtocolError,
        source=ErrorSource.PROVIDER,
        status=None,
        messages=("the response is not understood",),
        advice="check the base URL and any proxy; if both are right, report the response to this provider",
    ),
)

CATALOGUE: Mapping[str, ErrorSpec] = MappingProxyType({spec.type: spec for spec in _SPECS})
"""Every known error type and its record."""

ALIASES: Mapping[str, str] = MappingProxyType({alias: spec.type for spec in _SPECS for alias in spec.aliases})
"""Other names of a type, as they appear in responses."""


@dataclass(frozen=True, kw_only=True)
class GatewayResponse:
    """One response of the gateway, as it sends it (inferred from AWS API Gateway's documentation).

    :param error_type: value of the header ``x-amzn-ErrorType``, None if the gateway sends none
    :param type: its type in :data:`CATALOGUE`
    """

    case: str
    status: int
    body: Mapping[str, str | None]
    error_type: str | None
    type: str


GATEWAY_RESPONSES = (
    GatewayResponse(
        case="key refused",
        status=403,
        body={"Message": CATALOGUE["FORBIDDEN"].messages[0]},
        error_type="AccessDeniedException",
        type="FORBIDDEN",
    ),
    GatewayResponse(
        case="key missing",
        status=401,
        body={"message": "Unauthorized"},
        error_type="UnauthorizedException",
        type="UNAUTHORIZED",
    ),
    GatewayResponse(
        case="firewall",
        status=403,
        body={"message": "Forbidden"},
        error_type="ForbiddenException",
        type="FORBIDDEN",
    ),
    GatewayResponse(
        case="unknown route",
        status=403,
        body={"message": "Missing Authentication Token"},
        error_type="MissingAuthenticationTokenException",
        type="UNKNOWN_ROUTE",
    ),
    GatewayResponse(
        case="throttled",
        status=429,
        body={"message": "Too Many Requests"},
        error_type="TooManyRequestsException",
        type="TOO_MANY_REQUESTS",
    ),
    GatewayResponse(
        case="quota used up",
        status=429,
        body={"message": "Limit Exceeded"},
        error_type="LimitExceededException",
        type="LIMIT_EXCEEDED",
    ),
    GatewayResponse(
        case="authorizer broke",
        status=500,
        body={"message": None},
        error_type="AuthorizerConfigurationException",
        type="INTERNAL_SERVER_ERROR",
    ),
    GatewayResponse(
        case="backend throttled or broken",
        status=500,
        body={"message": "Internal server error"},
        error_type="InternalServerErrorException",
        type="INTERNAL_SERVER_ERROR",
    ),
    GatewayResponse(
        case="bad gateway",
        status=502,
        body={"message": "Internal server error"},
        error_type="InternalServerErrorException",
        type="BAD_GATEWAY",
    ),
    GatewayResponse(
        case="unavailable",
        status=503,
        body={"message": "Service Unavailable"},
        error_type=None,
        type="SERVICE_UNAVAILABLE",
    ),
    GatewayResponse(
        case="backend too slow",
        status=504,
        body={"message": "Endpoint request timed out"},
        error_type=None,
        type="GATEWAY_TIMEOUT",
    ),
)

FAMILY_ADVICE: Mapping[type[e.CrmError], str] = MappingProxyType(
    {
        e.CrmAccessError: "check the API key and the base URL in the Airflow connection",
        e.CrmRequestError: "check the arguments of the call against the API reference",
        e.CrmDataError: "correct the values",
        e.CrmNotFoundError: "check the base URL, and that the record exists",
        e.CrmConflictError: "check the current state in the CRM before writing again",
        e.CrmThrottledError: "slow down, or wait",
        e.CrmTransientError: "try again later",
    }
)
"""What to do about an error whose type is not in the catalogue, by its family."""


e.ADVICE.update((type_, spec.advice) for type_, spec in CATALOGUE.items())
e.ADVICE.update(FAMILY_ADVICE.items())
e.ADVICE[e.CrmError] = CATALOGUE["PROTOCOL"].advice
