"""What differs between Airflow 3.1, 3.2 and 3.3: the only module that checks the version."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from airflow.sdk import BaseHook, BaseOperator, BaseSensorOperator, PokeReturnValue
from airflow.sdk.exceptions import AirflowRuntimeError
from airflow.sdk.log import mask_secret

if TYPE_CHECKING:
    from airflow.sdk import Context
    from airflow.sdk.exceptions import (
        AirflowException,
        AirflowFailException,
        AirflowNotFoundException,
        AirflowRescheduleException,
        AirflowSensorTimeout,
        AirflowSkipException,
        AirflowTaskTimeout,
    )
else:
    try:  # 3.2+
        from airflow.sdk.exceptions import (
            AirflowException,
            AirflowFailException,
            AirflowNotFoundException,
            AirflowRescheduleException,
            AirflowSensorTimeout,
            AirflowSkipException,
            AirflowTaskTimeout,
        )
    except ImportError:  # 3.1
        from airflow.exceptions import (
            AirflowException,
            AirflowFailException,
            AirflowNotFoundException,
            AirflowRescheduleException,
            AirflowSensorTimeout,
            AirflowSkipException,
            AirflowTaskTimeout,
        )

    Context = dict

try:
    conf: Any = importlib.import_module("airflow.sdk.configuration").conf  # 3.2+
except ImportError:  # 3.1
    conf = importlib.import_module("airflow.configuration").conf

try:
    from airflow.sdk.definitions.retry_policy import RetryDecision, RetryPolicy

    HAS_RETRY_POLICY = True
except ImportError:  # below 3.3
    HAS_RETRY_POLICY = False


def asset_stores(trigger: Any) -> list[Any]:
    """The state stores of the assets that a trigger watches; none below 3.3, and none for a deferred task."""
    accessors = getattr(trigger, "asset_state_store", None)
    if accessors is None:
        return []
    # if one trigger serves several assets, only a private field has their names
    by_name = getattr(accessors, "_by_name", {})
    return [by_name[name] for name in sorted(by_name)] if len(by_name) > 1 else [accessors]


__all__ = [
    "HAS_RETRY_POLICY",
    "AirflowException",
    "AirflowFailException",
    "AirflowNotFoundException",
    "AirflowRescheduleException",
    "AirflowRuntimeError",
    "AirflowSensorTimeout",
    "AirflowSkipException",
    "AirflowTaskTimeout",
    "BaseHook",
    "BaseOperator",
    "BaseSensorOperator",
    "Context",
    "PokeReturnValue",
    "RetryDecision",
    "RetryPolicy",
    "asset_stores",
    "conf",
    "mask_secret",
]

if not HAS_RETRY_POLICY:
    __all__ = [name for name in __all__ if not name.startswith("Retry")]
