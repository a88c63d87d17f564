"""What to do about an error: the default table, its exceptions, and who decided.

:class:`ErrorPolicy` chooses the action for an error in a kind of work. It is the first of

1. ``on_error`` of the task (its most specific line),
2. ``on_error`` of the site, in Airflow's configuration,
3. the operator's own rules (:data:`OUTCOME_OVERRIDES`, :data:`PRESETS`),
4. the default (:data:`DEFAULTS`).

For a load, :data:`ROW_RULES` says what an action means for the row. ``on_error`` itself is checked in
:mod:`crm_provider.errors.on_error`; :mod:`crm_provider.errors.policy_table` prints the result.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from crm_provider.errors import exceptions as e
from crm_provider.errors.on_error import Action, OnError, Work, checked, label

_R, _S, _F, _W, _J, _U = Action.RETRY, Action.SKIP, Action.FAIL, Action.WAIT, Action.REJECT, Action.UNCHANGED

DEFAULTS: Mapping[type[e.CrmError], tuple[Action, Action, Action]] = {
    # error: (task, sensor, row of a load)
    e.CrmError: (_F, _F, _F),
    e.CrmAccessError: (_F, _F, _F),
    e.CrmRequestError: (_F, _F, _J),
    e.CrmDataError: (_F, _F, _J),
    e.CrmNotFoundError: (_F, _F, _J),
    e.CrmContactNotFoundError: (_F, _W, _J),
    e.CrmDealNotFoundError: (_F, _W, _J),
    e.CrmSegmentationListNotFoundError: (_F, _F, _F),
    e.CrmPipelineNotFoundError: (_F, _F, _F),
    e.CrmStageNotFoundError: (_F, _F, _F),
    e.CrmConflictError: (_F, _F, _J),
    e.CrmThrottledError: (_R, _W, _R),
    e.CrmTransientError: (_R, _W, _R),
    e.CrmProtocolError: (_F, _F, _F),
}
"""The default action for each error. A class without a line has that of its base class."""

OPERATORS: Mapping[str, Work] = {
    "CrmUpsertContactOperator": Work.TASK,
    "CrmUpsertContactOperator(mode='create')": Work.TASK,
    "CrmUpsertContactOperator(mode='update')": Work.TASK,
    "CrmCreateDealOperator": Work.TASK,
    "CrmMoveDealStageOperator": Work.TASK,
    "CrmAddContactToListsOperator": Work.TASK,
    "CrmDeleteContactOperator": Work.TASK,
    "CrmVerifyEmailOperator": Work.TASK,
    "CrmTriggerAutomationOperator": Work.TASK,
    "CrmExtractContactsOperator": Work.TASK,
    "CrmExtractDealsOperator": Work.TASK,
    "CrmExtractListsOperator": Work.TASK,
    "CrmToSqlOperator": Work.TASK,
    "CrmLoadContactsOperator": Work.LOAD,
    "CrmLoadContactsOperator(mode='create')": Work.LOAD,
    "CrmLoadContactsOperator(mode='update')": Work.LOAD,
    "CrmRetryRejectsOperator": Work.LOAD,
    "CrmRetryRejectsOperator(mode='create')": Work.LOAD,
    "CrmRetryRejectsOperator(mode='update')": Work.LOAD,
    "SqlToCrmContactsOperator": Work.LOAD,
    "SqlToCrmContactsOperator(mode='create')": Work.LOAD,
    "SqlToCrmContactsOperator(mode='update')": Work.LOAD,
    "CrmLoadDealsOperator": Work.LOAD,
    "CrmLoadDealsOperator(mode='move')": Work.LOAD,
    "CrmLoadDealsOperator(mode='update')": Work.LOAD,
    "CrmLoadDealsOperator(mode='create')": Work.LOAD,
    "SqlToCrmDealsOperator": Work.LOAD,
    "SqlToCrmDealsOperator(mode='move')": Work.LOAD,
    "SqlToCrmDealsOperator(mode='update')": Work.LOAD,
    "SqlToCrmDealsOperator(mode='create')": Work.LOAD,
    "CrmDeleteContactsOperator": Work.LOAD,
    "CrmListSensor": Work.SENSOR,
    "CrmListMembershipSensor": Work.SENSOR,
    "CrmContactSensor": Work.SENSOR,
    "CrmDealStageSensor": Work.SENSOR,
}
"""Every operator and sensor with a policy, in each of its modes, and its kind of work."""

LOADS_OF_DEALS = ("CrmLoadDealsOperator", "SqlToCrmDealsOperator")
"""Prefixes of the operators that load deals."""

PRESETS: Mapping[str, Mapping[type[e.CrmError], Action]] = {
    "CrmUpsertContactOperator(mode='create')": {e.CrmContactAlreadyExistsError: _S},
    "CrmDeleteContactOperator": {e.CrmContactNotFoundError: _S},
    "CrmCreateDealOperator": {e.CrmContactAssociatedWithADealError: _S},
    "CrmTriggerAutomationOperator": {e.CrmTransientError: _F},
    "CrmListSensor": {e.CrmSegmentationListNotFoundError: _W},
    "CrmListMembershipSensor": {e.CrmSegmentationListNotFoundError: _W},
    **{
        name: {e.CrmStageNotFoundError: _J, e.CrmPipelineNotFoundError: _J}
        for name in OPERATORS
        if name.startswith(LOADS_OF_DEALS)
    },
}
"""The actions by which an operator differs from the default."""

ONLY_IF_UNKNOWN = frozenset({"CrmTriggerAutomationOperator"})
"""Operators whose presets apply only while it is unknown whether the call was carried out."""

OUTCOME_OVERRIDES: Mapping[str, Mapping[type[e.CrmError], Action]] = {
    **{
        name: {
            e.CrmContactAssociatedWithADealError
            if name.startswith(LOADS_OF_DEALS)
            else e.CrmContactAlreadyExistsError: _U
        }
        for name, work in OPERATORS.items()
        if work is Work.LOAD and name.endswith("(mode='create')")
    },
    "CrmDeleteContactsOperator": {e.CrmContactNotFoundError: _U},
}
"""Errors that are a normal outcome of a row for an operator."""


class RowRule(str, Enum):
    """The effect of an error on its row and the run, in the words of the printed table."""

    UNCHANGED = "count the row as unchanged"
    SKIP = "count the row as skipped"
    REJECT = "reject the row"
    HOLD = "reject the row as retryable; errors_in_a_row in a row: end the run"
    RESEND = "send the row again, 3 times in all, then reject it"
    RESEND_THROTTLED = "send the row again; a wait of 60 s or more, or errors_in_a_row in a row: end the run"
    STOP = "end the run"


ROW_RULES: Mapping[Action, Mapping[type[e.CrmError], RowRule]] = {
    Action.RETRY: {
        e.CrmThrottledError: RowRule.RESEND_THROTTLED,
        e.CrmTransientError: RowRule.HOLD,
        e.CrmError: RowRule.RESEND,
    },
    Action.REJECT: {e.CrmTransientError: RowRule.HOLD, e.CrmError: RowRule.REJECT},
    Action.SKIP: {e.CrmError: RowRule.SKIP},
    Action.UNCHANGED: {e.CrmError: RowRule.UNCHANGED},
    Action.FAIL: {e.CrmError: RowRule.STOP},
}
"""What a load does with the row: action -> the most specific class of the error -> rule."""


class DecidedBy(str, Enum):
    """Who decided: ``on_error`` of the task or the site, the operator's preset, the default, or a rule of the run."""

    TASK = "task"
    SITE = "site"
    OPERATOR = "operator"
    DEFAULT = "default"
    RULE = "rule"


_LABELS = {error: label(error) for error in e.ERROR_CLASSES.values()}
"""Each error by the shortest name that a user can type for it."""

_SOURCES = {DecidedBy.TASK: "on_error", DecidedBy.SITE: "airflow.cfg [crm] on_error", DecidedBy.DEFAULT: "default"}


@dataclass(frozen=True)
class Decision:
    """An action, and who decided.

    :param line: the error named by the line that decided, as a user types it; for a rule, its text
    :param operator: the operator if its preset decided, else None
    """

    action: Action
    decided_by: DecidedBy
    line: str
    operator: str | None = None

    @classmethod
    def by_rule(cls, action: Action, rule: str) -> Decision:
        """A decision by a rule instead of a line of the policy: ``errors_in_a_row=10``."""
        return cls(action, DecidedBy.RULE, rule)

    @property
    def origin(self) -> str:
        """Who decided, for people: ``on_error[DEAL_NOT_FOUND]``, ``default[CrmDataError]``."""
        if self.decided_by is DecidedBy.RULE:
            return self.line
        return f"{_SOURCES.get(self.decided_by, self.operator)}[{self.line}]"

    def as_data(self) -> dict[str, Any]:
        """The decision as JSON-compatible data, for a trigger event."""
        by = self.decided_by.value
        return {"action": self.action.value, "decided_by": by, "line": self.line, "operator": self.operator}

    @classmethod
    def from_data(cls, data: Mapping[str, Any]) -> Decision:
        """The decision that :meth:`as_data` was called on."""
        return cls(Action(data["action"]), DecidedBy(data["decided_by"]), data["line"], data["operator"])


@dataclass(frozen=True)
class ErrorPolicy:
    """What to do about each error, for one kind of work.

    >>> policy = ErrorPolicy({"DEAL_NOT_FOUND": "skip"}, operator="CrmMoveDealStageOperator")
    >>> policy.decide(e.CrmDealNotFoundError("Deal not found.")).origin
    'on_error[DEAL_NOT_FOUND]'

    :param on_error: overrides: error type, error class or its name -> action or its name; or a policy, whose overrides
        are used
    :param work: the kind of work; by default a task
    :param operator: the operator whose presets apply, a key of :data:`OPERATORS` or any other name
    :param site: overrides for the whole site; those of the task take precedence
    :raises ValueError: if a key, an action or a pair of both is invalid; the text names the nearest valid choice
    """

    on_error: OnError = field(default_factory=dict)
    work: Work = Work.TASK
    operator: str | None = None
    site: OnError = field(default_factory=dict)
    in_effect: Mapping[str, Any] = field(init=False, repr=False, compare=False)
    """The operator and its overrides of task and site, as JSON-compatible data."""

    def __post_init__(self) -> None:
        for name in ("on_error", "site"):
            given = getattr(self, name)
            lines = given.on_error if isinstance(given, ErrorPolicy) else given
            object.__setattr__(self, name, checked(lines, self.work))
        in_effect = {"operator": self.operator, "on_error": self.as_data(), "site": _as_data(self.site)}
        object.__setattr__(self, "in_effect", in_effect)

    def decide(self, error: e.CrmError | type[e.CrmError]) -> Decision:
        """The action for an error: the most specific line of the strongest source.

        :param error: an error or its class; for a class, the outcome of the call counts as unknown
        """
        lineage = [c for c in (error if isinstance(error, type) else type(error)).__mro__ if issubclass(c, e.CrmError)]
        for decided_by, lines in (
            (DecidedBy.TASK, self.on_error),
            (DecidedBy.SITE, self.site),
            (DecidedBy.OPERATOR, self._own_lines(error)),
        ):
            for cls in lineage:
                if cls in lines:
                    operator = self.operator if decided_by is DecidedBy.OPERATOR else None
                    return Decision(Action(lines[cls]), decided_by, _LABELS[cls], operator)
        line = next(cls for cls in lineage if cls in DEFAULTS)
        return Decision(DEFAULTS[line][list(Work).index(self.work)], DecidedBy.DEFAULT, _LABELS[line])

    def _own_lines(self, error: e.CrmError | type[e.CrmError]) -> Mapping[type[e.CrmError], Action]:
        """The operator's own rules for this error."""
        name = self.operator or ""
        if name in ONLY_IF_UNKNOWN and isinstance(error, e.CrmError) and error.outcome_known:
            return {}
        return {**PRESETS.get(name, {}), **OUTCOME_OVERRIDES.get(name, {})}

    def __hash__(self) -> int:
        return hash((frozenset(self.on_error.items()), self.work, self.operator, frozenset(self.site.items())))

    def as_data(self) -> dict[str, str]:
        """The task's overrides as JSON-compatible data; ``ErrorPolicy(policy.as_data(), ...)`` is the same policy."""
        return _as_data(self.on_error)


def _as_data(lines: OnError) -> dict[str, str]:
    return {label(key): Action(action).value for key, action in lines.items()}


def row_rule(action: Action, error: e.CrmError | type[e.CrmError]) -> RowRule:
    """What an action means for the row of a load whose call failed."""
    rules = ROW_RULES[action]
    return next(rules[cls] for cls in (error if isinstance(error, type) else type(error)).__mro__ if cls in rules)


def with_mode(operator: str | None, mode: str) -> str | None:
    """An operator's name in :data:`OPERATORS`, where each mode has its own rules.

    >>> with_mode("CrmLoadContactsOperator", "create")
    "CrmLoadContactsOperator(mode='create')"
    """
    return operator if operator is None or mode in ("upsert", "delete") else f"{operator}(mode={mode!r})"


LONG_WAIT = 60.0
"""Seconds. If the server asks for more, the task frees its worker slot while it waits."""

QUOTA_DELAY = 15 * 60.0
"""Seconds until a used-up quota is tried again if the server does not say when."""


def server_delay(error: e.CrmError) -> float | None:
    """Seconds that the server asks to wait before the task is tried again, None if it does not say."""
    if error.retry_after is not None:
        return error.retry_after
    return QUOTA_DELAY if isinstance(error, e.CrmLimitExceededError) else None
