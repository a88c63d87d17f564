"""What operators and sensors share.

What CRM operators and sensors share: an error policy, and arguments that are checked when the DAG is parsed.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from crm_provider import config
from crm_provider import errors as e
from crm_provider._compat import HAS_RETRY_POLICY
from crm_provider.errors.on_error import OnError, Work
from crm_provider.errors.policy import Decision, ErrorPolicy, with_mode
from crm_provider.tasks.arguments import ClassSignature, check_names, full_docstring
from crm_provider.tasks.retry_policy import DEFAULT_RETRY_POLICY

if TYPE_CHECKING:
    from airflow.sdk.definitions.mappedoperator import OperatorPartial

    from crm_provider._compat import RetryPolicy
    from crm_provider.tasks.arguments import BaseOperatorArguments


log = logging.getLogger(__name__)


class ErrorPolicyMixin:
    """``on_error`` for CRM operators and sensors, checked when the DAG is parsed."""

    work: ClassVar[Work] = Work.TASK
    policy_name: ClassVar[str | None] = None
    """The operator's name in the policy's tables; subclasses keep it."""

    error_policy: ErrorPolicy

    __signature__ = ClassSignature()

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        cls.__doc__ = full_docstring(cls)

    if not TYPE_CHECKING:  # to type checkers the arguments are those of __init__

        def __new__(cls, *_: Any, **kwargs: Any) -> Any:
            """Check the names before Airflow looks for missing arguments: a misspelt one is both unknown and missing.

            A subclass with an ``__init__`` of its own may take further arguments; they are checked after it.
            """
            if cls.__init__.__module__.startswith("crm_provider."):
                check_names(cls, kwargs)
            return super().__new__(cls)

    def set_error_policy(self, on_error: OnError | ErrorPolicy | None, *, mode: str = "upsert") -> None:
        """Check and keep ``on_error``.

        Each mode of an operator has rules of its own.

        :raises ValueError: naming the line, the problem and the nearest valid choice
        """
        self.on_error = on_error
        self.error_policy = self._checked_policy(on_error, mode)

    def decide(self, error: e.CrmError) -> Decision:
        """What to do about an error of the task."""
        return self.error_policy.decide(error)

    @classmethod
    def _checked_policy(cls, on_error: Any, mode: str = "upsert") -> ErrorPolicy:
        site = config.on_error(cls.work)
        return ErrorPolicy(on_error or {}, work=cls.work, operator=with_mode(cls.policy_name, mode), site=site)

    @classmethod
    def partial(cls, *args: Any, **kwargs: Any) -> OperatorPartial:
        """Airflow's ``partial``, which creates no operator before the task runs: the arguments are checked here.

        Each operator has a typed version for type checkers.
        """
        check_names(cls, kwargs)
        own = kwargs.get("default_args") or {}
        if "on_error" in own:
            kwargs.setdefault("on_error", own["on_error"])  # Airflow forgets it until the task is unmapped
        made: OperatorPartial = super().partial(*args, **kwargs)  # type: ignore[misc]
        scopes = (made.kwargs.get("dag"), made.kwargs.get("task_group"))
        defaults = {name: v for scope in scopes for name, v in (getattr(scope, "default_args", None) or {}).items()}
        defaults.update(own)
        cls._checked_policy({**defaults, **kwargs}.get("on_error"))
        if HAS_RETRY_POLICY and "retry_policy" not in {**defaults, **kwargs}:
            made.kwargs["retry_policy"] = DEFAULT_RETRY_POLICY  # Airflow 3.3.0 and 3.3.1 forget an operator's default
        cls.check_mapped({**own, **kwargs})
        return made

    @classmethod
    def check_mapped(cls, given: Mapping[str, Any]) -> None:
        """Check further arguments of a mapped task, as far as they are known; operators override it.

        :param given: the arguments of ``partial`` and its ``default_args``
        """


def for_base_operator(
    task: object, retry_policy: RetryPolicy | None, arguments: BaseOperatorArguments
) -> dict[str, Any]:
    """Arguments for Airflow's own constructor: below 3.3 it does not know ``retry_policy``.

    :raises TypeError: on an argument that the task does not have; it names the nearest argument
    """
    kwargs: dict[str, Any] = {**arguments}
    check_names(type(task), kwargs)
    if HAS_RETRY_POLICY:
        return {**kwargs, "retry_policy": retry_policy}
    if retry_policy is not None:
        log.info("retry_policy needs Airflow 3.3 or newer and is ignored: retries wait for the task's retry_delay")
    return kwargs
