"""Every error of a call: from the CRM, the gateway in front of it, the network, or this package's own checks.

::

    CrmError
    ├── CrmAccessError                          the key or the connection is refused: no call will work
    │   ├── CrmForbiddenError                   FORBIDDEN
    │   ├── CrmUnauthorizedError                UNAUTHORIZED
    │   ├── CrmTlsError                         TLS
    │   └── CrmConfigurationError               CONFIGURATION (found before any call)
    ├── CrmRequestError                         the request is malformed
    │   ├── CrmMissingBodyError                 MISSING_BODY
    │   ├── CrmInvalidParamsError               INVALID_PARAMS
    │   ├── CrmUnknownRouteError                UNKNOWN_ROUTE
    │   └── CrmInvalidRequestError              INVALID_REQUEST (a 400 or 422 that does not say what is wrong)
    ├── CrmDataError                            the values of this row or task are wrong
    │   ├── CrmInvalidInputError                INVALID_INPUT
    │   ├── CrmInvalidRequestError              (as above: it may be either)
    │   └── CrmInvalidValueError                INVALID_VALUE (found before any call; a ValueError too)
    ├── CrmNotFoundError                        the record does not exist, or not yet
    │   ├── CrmContactNotFoundError             CONTACT_NOT_FOUND
    │   ├── CrmDealNotFoundError                DEAL_NOT_FOUND
    │   ├── CrmSegmentationListNotFoundError    SEGMENTATION_LIST_NOT_FOUND
    │   ├── CrmPipelineNotFoundError            PIPELINE_NOT_FOUND
    │   └── CrmStageNotFoundError               STAGE_NOT_FOUND
    ├── CrmConflictError                        the current state of the record is in the way
    │   ├── CrmContactAlreadyExistsError        CONTACT_ALREADY_EXISTS
    │   └── CrmContactAssociatedWithADealError  CONTACT_ASSOCIATED_WITH_A_DEAL
    ├── CrmThrottledError                       too many calls: refused before anything was done
    │   ├── CrmTooManyRequestsError             TOO_MANY_REQUESTS
    │   └── CrmLimitExceededError               LIMIT_EXCEEDED (the plan's quota is used up)
    ├── CrmTransientError                       the service or the network fails at the moment
    │   ├── CrmInternalServerError              INTERNAL_SERVER_ERROR
    │   ├── CrmBadGatewayError                  BAD_GATEWAY
    │   ├── CrmServiceUnavailableError          SERVICE_UNAVAILABLE
    │   ├── CrmGatewayTimeoutError              GATEWAY_TIMEOUT
    │   ├── CrmConnectionError                  CONNECTION
    │   └── CrmTimeoutError                     TIMEOUT
    └── CrmProtocolError                        the response cannot be understood: never retried or ignored

Each class is named after its type: ``CONTACT_NOT_FOUND`` is :class:`CrmContactNotFoundError`. A response without a
known type or text gets the class of its status' family and the type ``HTTP_<status>``.

Also here: :class:`ErrorPolicy`, an ``on_error`` that several DAGs share.

:data:`crm_provider.errors.catalog.CATALOGUE` holds one record for each type. Client, policy, sandbox, documentation and
tests read it.
"""

from crm_provider.errors import catalog as _catalog  # noqa: F401 - it fills in the advice for each error
from crm_provider.errors.exceptions import (
    ERROR_CLASSES,
    CrmAccessError,
    CrmBadGatewayError,
    CrmConfigurationError,
    CrmConflictError,
    CrmConnectionError,
    CrmContactAlreadyExistsError,
    CrmContactAssociatedWithADealError,
    CrmContactNotFoundError,
    CrmDataError,
    CrmDealNotFoundError,
    CrmError,
    CrmForbiddenError,
    CrmGatewayTimeoutError,
    CrmInternalServerError,
    CrmInvalidInputError,
    CrmInvalidParamsError,
    CrmInvalidRequestError,
    CrmInvalidValueError,
    CrmLimitExceededError,
    CrmMissingBodyError,
    CrmNotFoundError,
    CrmPipelineNotFoundError,
    CrmProtocolError,
    CrmRequestError,
    CrmSegmentationListNotFoundError,
    CrmServiceUnavailableError,
    CrmStageNotFoundError,
    CrmThrottledError,
    CrmTimeoutError,
    CrmTlsError,
    CrmTooManyRequestsError,
    CrmTransientError,
    CrmUnauthorizedError,
    CrmUnknownRouteError,
)
from crm_provider.errors.policy import ErrorPolicy

__all__ = [
    "ERROR_CLASSES",
    "CrmAccessError",
    "CrmBadGatewayError",
    "CrmConfigurationError",
    "CrmConflictError",
    "CrmConnectionError",
    "CrmContactAlreadyExistsError",
    "CrmContactAssociatedWithADealError",
    "CrmContactNotFoundError",
    "CrmDataError",
    "CrmDealNotFoundError",
    "CrmError",
    "CrmForbiddenError",
    "CrmGatewayTimeoutError",
    "CrmInternalServerError",
    "CrmInvalidInputError",
    "CrmInvalidParamsError",
    "CrmInvalidRequestError",
    "CrmInvalidValueError",
    "CrmLimitExceededError",
    "CrmMissingBodyError",
    "CrmNotFoundError",
    "CrmPipelineNotFoundError",
    "CrmProtocolError",
    "CrmRequestError",
    "CrmSegmentationListNotFoundError",
    "CrmServiceUnavailableError",
    "CrmStageNotFoundError",
    "CrmThrottledError",
    "CrmTimeoutError",
    "CrmTlsError",
    "CrmTooManyRequestsError",
    "CrmTransientError",
    "CrmUnauthorizedError",
    "CrmUnknownRouteError",
    "ErrorPolicy",
]
