"""What CRM operators and sensors share: an error policy, and arguments that are checked when the DAG is parsed."""

from __future__ import annotations

import logging
from typing import Any, ClassVar

from crm_provider import errors as e
from crm_provider import site_config
from crm_provider._compat import HAS_RETRY_POLICY
from crm_provider.policy import Decision, ErrorPolicy, OnError, Work, with_mode
from crm_provider.retry import DEFAULT_RETRY_POLICY
from crm_provider.task_arguments import check_names

log = logging.getLogger(__name__)


class ErrorPolicyMixin:
    """``on_error`` for CRM operators and sensors, checked when the DAG is parsed."""

    work: ClassVar[Work] = Work.TASK
    policy_name: ClassVar[str | None] = None
    """The operator's name in the policy's tables; subclasses keep it."""

    error_policy: ErrorPolicy

    def set_error_policy(self, on_error: OnError | ErrorPolicy | None, *, mode: str = "upsert") -> None:
        """Check and keep ``on_error``.

        :param mode: of an operator with modes, which have rules of their own
        :raises ValueError: naming the line, the problem and the nearest valid choice
        """
        self.on_error = on_error
        self.error_policy = self._checked_policy(on_error, mode)

    def decide(self, error: e.CrmError) -> Decision:
        """What to do about an error of the task."""
        return self.error_policy.decide(error)

    @classmethod
    def _checked_policy(cls, on_error: Any, mode: str = "upsert") -> ErrorPolicy:
        site = site_config.on_error(cls.work)
        return ErrorPolicy(on_error or {}, work=cls.work, operator=with_mode(cls.policy_name, mode), site=site)

    @classmethod
    def partial(cls, **kwargs: Any) -> Any:
        """Airflow's ``partial``, which makes no operator before the task runs: ``on_error`` is checked here already."""
        check_names(cls, kwargs)
        own = kwargs.get("default_args") or {}
        if "on_error" in own:
            kwargs.setdefault("on_error", own["on_error"])  # Airflow forgets it until the task is unmapped
        made = super().partial(**kwargs)  # type: ignore[misc]
        scopes = (made.kwargs.get("dag"), made.kwargs.get("task_group"))
        defaults = {name: v for scope in scopes for name, v in (getattr(scope, "default_args", None) or {}).items()}
        defaults.update(own)
        cls._checked_policy({**defaults, **kwargs}.get("on_error"))
        if HAS_RETRY_POLICY and "retry_policy" not in {**defaults, **kwargs}:
            made.kwargs["retry_policy"] = DEFAULT_RETRY_POLICY  # Airflow 3.3.0 and 3.3.1 forget an operator's default
        return made


def for_base_operator(task: object, retry_policy: Any, kwargs: dict[str, Any]) -> dict[str, Any]:
    """Arguments for Airflow's own constructor: below 3.3 it does not know ``retry_policy``.

    :raises TypeError: on an argument that the task does not have; it names the nearest one
    """
    check_names(type(task), kwargs)
    if HAS_RETRY_POLICY:
        return {**kwargs, "retry_policy": retry_policy}
    if retry_policy is not None:
        log.info("retry_policy needs Airflow 3.3 or newer and is ignored: retries wait for the task's retry_delay")
    return kwargs
