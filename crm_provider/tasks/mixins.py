"""What operators and sensors share: an error policy, and arguments checked when the DAG is parsed."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
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
    """The operator's name in the policy's tables. Subclasses inherit it."""

    error_policy: ErrorPolicy

    __signature__ = ClassSignature()

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        cls.__doc__ = full_docstring(cls)

    if not TYPE_CHECKING:  # type checkers take the arguments of __init__

        def __new__(cls, *_: Any, **kwargs: Any) -> Any:
            """Check names before Airflow reports missing arguments: a misspelt argument is both unknown and missing.

            A subclass with its own ``__init__`` may take more arguments; they are checked later.
            """
            if cls.__init__.__module__.startswith("crm_provider."):
                check_names(cls, kwargs)
            return super().__new__(cls)

    def set_error_policy(
        self, on_error: OnError | ErrorPolicy | None, *, mode: str = "upsert", operator: str | None = None
    ) -> None:
        """Check and set ``on_error``. Each mode of an operator has its own rules.

        :param operator: whose rules apply; by default those of this class
        :raises ValueError: naming the line, the problem and the nearest valid choice
        """
        self.on_error = on_error
        with naming_task(type(self), getattr(self, "task_id", None)):
            self.error_policy = self._checked_policy(on_error, mode, operator)

    def decide(self, error: e.CrmError) -> Decision:
        """The action for an error of the task."""
        return self.error_policy.decide(error)

    @classmethod
    def _checked_policy(cls, on_error: Any, mode: str = "upsert", operator: str | None = None) -> ErrorPolicy:
        site, name = config.on_error(cls.work), with_mode(operator or cls.policy_name, mode)
        return ErrorPolicy(on_error or {}, work=cls.work, operator=name, site=site)

    @classmethod
    def partial(cls, *args: Any, **kwargs: Any) -> OperatorPartial:
        """Airflow's ``partial``, with a check of the arguments: the operator is not created before the task runs.

        Each operator declares a typed version for type checkers.
        """
        check_names(cls, kwargs)
        own = kwargs.get("default_args") or {}
        if "on_error" in own:
            kwargs.setdefault("on_error", own["on_error"])  # Airflow ignores it until the task is unmapped
        made: OperatorPartial = super().partial(*args, **kwargs)  # type: ignore[misc]
        scopes = (made.kwargs.get("dag"), made.kwargs.get("task_group"))
        defaults = {name: v for scope in scopes for name, v in (getattr(scope, "default_args", None) or {}).items()}
        defaults.update(own)
        with naming_task(cls, kwargs.get("task_id")):
            cls._checked_policy({**defaults, **kwargs}.get("on_error"))
        if HAS_RETRY_POLICY and "retry_policy" not in {**defaults, **kwargs}:
            made.kwargs["retry_policy"] = DEFAULT_RETRY_POLICY  # Airflow 3.3.0 and 3.3.1 ignore an operator's default
        cls.check_mapped({**own, **kwargs})
        return made

    @classmethod
    def check_mapped(cls, given: Mapping[str, Any]) -> None:
        """Check the known arguments of a mapped task. Operators override it.

        :param given: the arguments of ``partial`` and its ``default_args``
        """


@contextmanager
def naming_task(operator: type, task_id: object) -> Iterator[None]:
    """Begin the message of an invalid argument with the operator and the task: a DAG file has many.

    :raises ValueError: the error of the block
    """
    try:
        yield
    except ValueError as wrong:
        which = f"{operator.__name__} {task_id!r}" if task_id else operator.__name__
        if isinstance(wrong, e.CrmError):
            wrong.message = f"{which}: {wrong.message}"
        else:
            wrong.args = (f"{which}: {wrong}",)
        raise


def for_base_operator(
    task: object, retry_policy: RetryPolicy | None, arguments: BaseOperatorArguments
) -> dict[str, Any]:
    """Arguments for Airflow's constructor, which does not know ``retry_policy`` below 3.3.

    :raises TypeError: naming an unknown argument and the nearest valid one
    """
    kwargs: dict[str, Any] = {**arguments}
    check_names(type(task), kwargs)
    if HAS_RETRY_POLICY:
        return {**kwargs, "retry_policy": retry_policy}
    if retry_policy is not None:
        log.info(
            "retry_policy is ignored, because it needs Airflow 3.3 or newer: retries wait for the task's retry_delay"
        )
    return kwargs
