"""Task states from decisions about errors.

:func:`crm_errors` and :class:`CrmRetryPolicy` are for your own tasks, :func:`load_alert` is for notifiers.

No other part of the package raises Airflow's exceptions.
"""

from typing import TYPE_CHECKING

from crm_provider.tasks.alerts import load_alert
from crm_provider.tasks.outcome import ERROR_XCOM, crm_errors
from crm_provider.tasks.retry_policy import CrmRetryPolicy

if TYPE_CHECKING:  # type aliases, which exist for type checkers only
    from crm_provider.tasks.arguments import LoadOnError as LoadOnError
    from crm_provider.tasks.arguments import SensorOnError as SensorOnError
    from crm_provider.tasks.arguments import TaskOnError as TaskOnError

__all__ = ["ERROR_XCOM", "CrmRetryPolicy", "crm_errors", "load_alert"]
