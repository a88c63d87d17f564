"""For tasks of your own: :func:`crm_errors` and :class:`CrmRetryPolicy`.

What turns decisions about errors into task states. The only place that raises Airflow's exceptions.
"""

from typing import TYPE_CHECKING

from crm_provider.tasks.outcome import ERROR_XCOM, crm_errors
from crm_provider.tasks.retry_policy import CrmRetryPolicy

if TYPE_CHECKING:  # type aliases, which exist for type checkers only
    from crm_provider.tasks.arguments import LoadOnError as LoadOnError
    from crm_provider.tasks.arguments import SensorOnError as SensorOnError
    from crm_provider.tasks.arguments import TaskOnError as TaskOnError

__all__ = ["ERROR_XCOM", "CrmRetryPolicy", "crm_errors"]
