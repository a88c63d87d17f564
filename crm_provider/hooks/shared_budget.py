"""One rate budget for all hosts of a deployment, kept in an Airflow variable, and when it is the default."""

from __future__ import annotations

import logging
from functools import cache

from crm_provider import config
from crm_provider._compat import AirflowRuntimeError
from crm_provider.client.settings import Settings
from crm_provider.rate_limit.limiter import AIRFLOW, share_through
from crm_provider.rate_limit.schedule import StoreUnusable

log = logging.getLogger(__name__)

DESCRIPTION = "Which hosts call the CRM with one API key, and when (airflow-provider-crm). It is safe to delete."


class AirflowVariable:
    """A text in an Airflow variable, which tasks and triggers of every host can read and write.

    :param name: name of the budget; it reveals neither URL nor key
    """

    def __init__(self, name: str) -> None:
        self.key = f"crm_rate_{name.partition('.')[0]}"

    def read(self) -> str | None:
        """The text; None if it does not exist yet.

        :raises StoreUnusable: if this process is neither a task nor a trigger, or Airflow does not respond
        """
        from airflow.sdk import Variable

        try:
            self._check()
            found = Variable.get(self.key, default=None)
        except UNREACHABLE as error:
            raise StoreUnusable(self._problem(error)) from None
        return found if isinstance(found, str) else None

    def write(self, text: str) -> None:
        """Replace the text.

        :raises StoreUnusable: as for :meth:`read`
        """
        from airflow.sdk import Variable

        try:
            self._check()
            Variable.set(self.key, text, description=DESCRIPTION)
        except UNREACHABLE as error:
            raise StoreUnusable(self._problem(error)) from None

    def _check(self) -> None:
        if not reaches_airflow():
            raise RuntimeError

    def _problem(self, error: BaseException) -> str:
        reason = type(error).__name__ if reaches_airflow() else "this needs a task or trigger of Airflow 3.2 or newer"
        return f"the rate budget of all hosts cannot be kept in the Airflow variable {self.key} ({reason})"


UNREACHABLE = (AirflowRuntimeError, ImportError, OSError, EOFError, RuntimeError, TypeError, ValueError)
"""The exceptions of all Airflow versions for a variable that cannot be read or written."""


def reaches_airflow() -> bool:
    """Whether any thread of this process can use variables, as in tasks and in triggers.

    Below Airflow 3.2 and in ``dag.test`` two threads that use them at once disturb each other.
    """
    from airflow.sdk.execution_time import task_runner

    return hasattr(getattr(task_runner, "SUPERVISOR_COMMS", None), "_thread_lock")


def with_store(settings: Settings) -> Settings:
    """Settings for an executor with many hosts, if the connection does not choose a store."""
    if settings.rate_store == AIRFLOW:
        _log_reason("its connection has it as rate_store")
    elif settings.rate_store is None and reaches_airflow():
        settings = settings.with_(rate_store=AIRFLOW)
        _log_reason(f"executor {config.executors()} runs tasks on several hosts")
    return settings


@cache
def _log_reason(reason: str) -> None:
    """Log the reason, once for each process."""
    log.info("the rate budget is shared by all hosts through an Airflow variable: %s", reason)


share_through(AirflowVariable)
