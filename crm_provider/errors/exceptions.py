"""The classes of :mod:`crm_provider.errors`, which has their tree. Import them from there."""

from __future__ import annotations

from typing import Any, ClassVar

ADVICE: dict[str | type[CrmError], str] = {}
"""What to do about an error, by its type and by its class; :mod:`crm_provider.errors.catalog` fills it in."""


class CrmError(Exception):
    """Base of all errors of this package. It says what happened, to which record, and what to do; it has no payload.

    It is a plain ``Exception``, because ``soft_fail`` of a sensor turns an ``AirflowException`` into a skipped task.

    :param message: the text of the API (shortened, without the values that were sent) or of the check
    :param type: the API's error type; by default the type of the class
    :param status: HTTP status, None if there was no response
    :param request_id: the id that the vendor's support asks for
    :param retry_after: seconds that the server asked to wait
    :param method: HTTP method of the call
    :param path: route of the call, with ``{email}`` in place of an email
    :param outcome_known: False if the call was a write that may or may not have happened
    :param attempts: number of attempts, including those that only read whether the write had happened
    :param elapsed: seconds from the first attempt to giving up
    :param remark: one more sentence for the reader, for example why the task ends here
    :param own_advice: what to do about this error, if the advice for its type is wrong here
    """

    type: str = "UNKNOWN"

    message_has_advice: ClassVar[bool] = False
    """Whether each message of this class already says what to do, as those of our own checks do."""

    def __init__(
        self,
        message: str,
        *,
        type: str | None = None,  # noqa: A002 - the API's own term
        status: int | None = None,
        request_id: str | None = None,
        retry_after: float | None = None,
        method: str | None = None,
        path: str | None = None,
        outcome_known: bool = True,
        attempts: int = 1,
        elapsed: float | None = None,
        remark: str | None = None,
        own_advice: str | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.type = type or self.type
        self.status = status
        self.request_id = request_id
        self.retry_after = retry_after
        self.method = method
        self.path = path
        self.outcome_known = outcome_known
        self.attempts = attempts
        self.elapsed = elapsed
        self.remark = remark
        self.own_advice = own_advice

    @property
    def suggested_action(self) -> str:
        """What to do about it, in the vendor's words if there are any."""
        return self.own_advice or next(ADVICE[key] for key in (self.type, *type(self).__mro__) if key in ADVICE)

    @property
    def happened(self) -> str:
        """What happened, and to what."""
        code = f"{self.type} ({self.status})" if self.status and str(self.status) not in self.type else self.type
        where = f" on {self.method} {self.path}" if self.method and self.path else ""
        return f"{code}{where}: {_sentence(self.message)}"

    @property
    def advice(self) -> str:
        """What to do about it, as a sentence; empty if the message already says it."""
        return "" if self.message_has_advice else _sentence(_capital(self.suggested_action))

    @property
    def circumstances(self) -> list[str]:
        """Further facts, in sentences."""
        parts = [] if self.outcome_known else ["The write may or may not have happened."]
        if self.attempts > 1:
            took = f" in {self.elapsed:.1f} s" if self.elapsed is not None else ""
            parts.append(f"Tried {self.attempts} times{took}.")
        if self.remark:
            parts.append(_sentence(_capital(self.remark)))
        return parts

    def add_remark(self, text: str) -> None:
        """Add a sentence to the remark."""
        self.remark = f"{self.remark.rstrip('.')}. {text}" if self.remark else text

    def __str__(self) -> str:
        advice = [f"What to do: {self.advice}"] if self.advice else []
        parts = [self.happened, *advice, *self.circumstances]
        if self.request_id:
            parts.append(f"Request id: {self.request_id}.")
        return " ".join(parts)

    def as_dict(self) -> dict[str, Any]:
        """The error as JSON-compatible data, for another process or a trigger event."""
        return {"error": type(self).__name__, **{name: getattr(self, name) for name in _FIELDS}}

    @staticmethod
    def from_dict(data: dict[str, Any]) -> CrmError:
        """The error that :meth:`as_dict` was called on, of the same class."""
        fields = dict(data)
        return ERROR_CLASSES[fields.pop("error")](**fields)

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuilt, (type(self), {name: getattr(self, name) for name in _FIELDS})


_FIELDS = (
    "message", "type", "status", "request_id", "retry_after", "method", "path",
    "outcome_known", "attempts", "elapsed", "remark", "own_advice",
)  # fmt: skip


def _rebuilt(error: type[CrmError], fields: dict[str, Any]) -> CrmError:
    return error(**fields)


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def _sentence(text: str) -> str:
    text = text.strip()
    return text if text.endswith((".", "!", "?")) else f"{text}."


# -- families: the base classes say which kind of error it is -----------------------------------------------


class CrmAccessError(CrmError):
    """The key or the connection is refused: no call will work until someone changes it."""


class CrmRequestError(CrmError):
    """The request is malformed: an argument is wrong, or this package has a bug."""


class CrmDataError(CrmError):
    """The values of this row or task are wrong; the next row may be fine."""


class CrmNotFoundError(CrmError):
    """The record does not exist, or not yet."""


class CrmConflictError(CrmError):
    """The current state of the record is in the way."""


class CrmThrottledError(CrmError):
    """Too many calls: refused before anything was done, so any call may be repeated later."""


class CrmTransientError(CrmError):
    """The service or the network fails at the moment; ``outcome_known`` says whether a write may have happened."""


class CrmProtocolError(CrmError):
    """The response cannot be understood. It is never retried and never counts as success."""

    type = "PROTOCOL"


# -- access -------------------------------------------------------------------------------------------------


class CrmForbiddenError(CrmAccessError):
    """The API key is refused."""

    type = "FORBIDDEN"


class CrmUnauthorizedError(CrmAccessError):
    """The request arrived without an API key, or the authorizer refused the key."""

    type = "UNAUTHORIZED"


class CrmTlsError(CrmAccessError):
    """The server's certificate is not trusted, or the TLS handshake failed."""

    type = "TLS"


class CrmConfigurationError(CrmAccessError):
    """The Airflow connection is missing, or a field of it or of Airflow's configuration is wrong. No call was made."""

    type = "CONFIGURATION"
    message_has_advice = True


# -- request and data ---------------------------------------------------------------------------------------


class CrmMissingBodyError(CrmRequestError):
    """The request had no body."""

    type = "MISSING_BODY"


class CrmInvalidParamsError(CrmRequestError):
    """The id or email is missing in the request."""

    type = "INVALID_PARAMS"


class CrmUnknownRouteError(CrmRequestError):
    """The gateway does not know the path or method. The status is 403, but the key is not the problem."""

    type = "UNKNOWN_ROUTE"


class CrmInvalidRequestError(CrmRequestError, CrmDataError):
    """A 400 or 422 without a known type or text: it may be the request or its values, so it belongs to both."""

    type = "INVALID_REQUEST"


class CrmInvalidInputError(CrmDataError):
    """The API refused the values that were sent."""

    type = "INVALID_INPUT"


class CrmInvalidValueError(CrmDataError, ValueError):
    """A check found an invalid value before any call was made."""

    type = "INVALID_VALUE"
    message_has_advice = True


# -- not found ----------------------------------------------------------------------------------------------


class CrmContactNotFoundError(CrmNotFoundError):
    """There is no contact with this email."""

    type = "CONTACT_NOT_FOUND"


class CrmDealNotFoundError(CrmNotFoundError):
    """There is no deal with this id."""

    type = "DEAL_NOT_FOUND"


class CrmSegmentationListNotFoundError(CrmNotFoundError):
    """There is no segmentation list with this id or name."""

    type = "SEGMENTATION_LIST_NOT_FOUND"


class CrmPipelineNotFoundError(CrmNotFoundError):
    """There is no pipeline with this id."""

    type = "PIPELINE_NOT_FOUND"


class CrmStageNotFoundError(CrmNotFoundError):
    """There is no stage with this id in the deal's pipeline."""

    type = "STAGE_NOT_FOUND"


# -- conflict -----------------------------------------------------------------------------------------------


class CrmContactAlreadyExistsError(CrmConflictError):
    """A contact with this email exists."""

    type = "CONTACT_ALREADY_EXISTS"


class CrmContactAssociatedWithADealError(CrmConflictError):
    """The contact already has a deal."""

    type = "CONTACT_ASSOCIATED_WITH_A_DEAL"


# -- throttled ----------------------------------------------------------------------------------------------


class CrmTooManyRequestsError(CrmThrottledError):
    """More than 5 calls per second, or more than 2 at once, with this key."""

    type = "TOO_MANY_REQUESTS"


class CrmLimitExceededError(CrmThrottledError):
    """The quota of the plan is used up: short waits do not help."""

    type = "LIMIT_EXCEEDED"


# -- transient ----------------------------------------------------------------------------------------------


class CrmInternalServerError(CrmTransientError):
    """The CRM failed while it processed the call."""

    type = "INTERNAL_SERVER_ERROR"


class CrmBadGatewayError(CrmTransientError):
    """The gateway got no valid response from the CRM."""

    type = "BAD_GATEWAY"


class CrmServiceUnavailableError(CrmTransientError):
    """The CRM is not available."""

    type = "SERVICE_UNAVAILABLE"


class CrmGatewayTimeoutError(CrmTransientError):
    """The CRM took longer than the gateway's 29 seconds."""

    type = "GATEWAY_TIMEOUT"


class CrmConnectionError(CrmTransientError):
    """No connection, or it broke before the response was complete."""

    type = "CONNECTION"


class CrmTimeoutError(CrmTransientError):
    """No response within the connection's timeout."""

    type = "TIMEOUT"


def _with_subclasses(error: type[CrmError]) -> list[type[CrmError]]:
    return [error, *(found for child in error.__subclasses__() for found in _with_subclasses(child))]


ERROR_CLASSES: dict[str, type[CrmError]] = {error.__name__: error for error in _with_subclasses(CrmError)}
"""Every class above by its name."""
