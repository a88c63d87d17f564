"""For tasks of your own: :func:`crm_errors` and :class:`CrmRetryPolicy`.

What turns decisions about errors into task states. The only place that raises Airflow's exceptions.
"""

from crm_provider.tasks.outcome import ERROR_XCOM, crm_errors
from crm_provider.tasks.retry_policy import CrmRetryPolicy

__all__ = ["ERROR_XCOM", "CrmRetryPolicy", "crm_errors"]
