"""Task states from decisions about errors, and :func:`crm_errors` and :class:`CrmRetryPolicy` for your own tasks.

No other part of the package raises Airflow's exceptions.
"""

from crm_provider.tasks.outcome import ERROR_XCOM, crm_errors
from crm_provider.tasks.retry_policy import CrmRetryPolicy

__all__ = ["ERROR_XCOM", "CrmRetryPolicy", "crm_errors"]
