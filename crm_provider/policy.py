"""What happens on which error: the table, its overrides, and why a line of it says what it says.

Who decides
    :class:`ErrorPolicy` answers one question: *this error, this kind of work, what now?* The answer is the first of

    1. ``on_error`` of the task (its most specific line),
    2. ``on_error`` of the site, in Airflow's configuration,
    3. what this operator does differently (:data:`PRESETS`),
    4. the default (:data:`DEFAULTS`).

``on_error`` is plain data: ``{"DEAL_NOT_FOUND": "skip", "CrmTransientError": "fail"}``. A key is an error type of the
catalogue, or an error class (itself or its name) for a whole family.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, TypeAlias

from crm_provider import errors as e
from crm_provider.catalogue import ALIASES, CATALOGUE


class Action(str, Enum):
    """What to do about an error."""

    RETRY = "retry"
    """Fail this try; Airflow's ``retries`` apply, with the server's delay. In a load: send the row again."""
    SKIP = "skip"
    """End the task as skipped. In a load: count the row as skipped."""
    FAIL = "fail"
    """End the task as failed, whatever ``retries`` says. In a load: stop the run."""
    WAIT = "wait"
    """Sensors: not yet, poke again."""
    REJECT = "reject"
    """Loads: put the row into the rejects file and go on."""


class Work(str, Enum):
    """The kind of work that meets the error; each has its own column in the table."""

    TASK = "task"
    SENSOR = "sensor"
    LOAD = "load"


ACTIONS_OF: Mapping[Work, tuple[Action, ...]] = {
    Work.TASK: (Action.RETRY, Action.SKIP, Action.FAIL),
    Work.SENSOR: (Action.WAIT, Action.RETRY, Action.SKIP, Action.FAIL),
    Work.LOAD: (Action.REJECT, Action.RETRY, Action.SKIP, Action.FAIL),
}
"""The actions that a kind of work knows."""

_R, _S, _F, _W, _J = Action.RETRY, Action.SKIP, Action.FAIL, Action.WAIT, Action.REJECT

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
"""The default outcome of each error; a class without a line has its parent's."""

PRESETS: Mapping[str, Mapping[type[e.CrmError], Action]] = {
    "CrmUpsertContactOperator(mode='create')": {e.CrmContactAlreadyExistsError: _S},
    "CrmDeleteContactOperator": {e.CrmContactNotFoundError: _S},
    "CrmCreateDealOperator": {e.CrmContactAssociatedWithADealError: _S},
    "CrmTriggerAutomationOperator": {e.CrmTransientError: _F},
    "CrmListSensor": {e.CrmSegmentationListNotFoundError: _W},
    "CrmListMembershipSensor": {e.CrmSegmentationListNotFoundError: _W},
}
"""Where an operator differs from the default."""

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
    "CrmLoadContactsOperator": Work.LOAD,
    "CrmLoadContactsOperator(mode='create')": Work.LOAD,
    "CrmLoadContactsOperator(mode='update')": Work.LOAD,
    "CrmRetryRejectsOperator": Work.LOAD,
    "SqlToCrmContactsOperator": Work.LOAD,
    "CrmListSensor": Work.SENSOR,
    "CrmListMembershipSensor": Work.SENSOR,
    "CrmContactSensor": Work.SENSOR,
    "CrmDealStageSensor": Work.SENSOR,
}
"""Every operator and sensor that has a policy, and the kind of its work."""

NO_ERRORS: Mapping[str, Mapping[type[e.CrmError], str]] = {
    "CrmLoadContactsOperator(mode='create')": {e.CrmContactAlreadyExistsError: "unchanged"},
}
"""What an operator takes for no error at all, and how it counts the row; ``on_error`` goes before."""

SENSELESS: Mapping[type[e.CrmError], tuple[tuple[Action, ...], str]] = {
    e.CrmAccessError: ((_W, _J), "a refused key or connection stays refused, for every row and every check"),
    e.CrmRequestError: ((_R, _W), "the same request gets the same answer"),
    e.CrmDataError: ((_R, _W), "the same values get the same answer"),
    e.CrmThrottledError: ((_J,), "the row is fine, it only came too early"),
    e.CrmProtocolError: ((_R, _W, _S), "an answer that is not understood is never repeated and never passed over"),
}
"""Pairs that make no sense, and why."""

OnErrorKey: TypeAlias = "str | type[e.CrmError]"
OnError: TypeAlias = Mapping[Any, "str | Action"]
"""From :data:`OnErrorKey` to action; ``Any``, for a mapping's keys are invariant to a type checker."""

SITE = "airflow.cfg [crm] on_error"
"""The origin of a line that holds for the whole site."""


@dataclass(frozen=True)
class Decision:
    """An action and where it comes from."""

    action: Action
    origin: str

    @property
    def is_asked_for(self) -> bool:
        """Whether someone has set it, for the task or for the site."""
        return self.origin.startswith(("on_error[", f"{SITE}["))


@dataclass(frozen=True)
class ErrorPolicy:
    """What to do about each error, for one kind of work.

    >>> policy = ErrorPolicy({"DEAL_NOT_FOUND": "skip"}, operator="CrmMoveDealStageOperator")
    >>> policy.decide(e.CrmDealNotFoundError("Deal not found."))
    Decision(action=<Action.SKIP: 'skip'>, origin='on_error[DEAL_NOT_FOUND]')

    :param on_error: overrides: error type, error class or its name -> action or its name
    :param work: the kind of work; by default what ``operator`` does, else a task
    :param operator: the operator whose presets apply, a key of :data:`PRESETS` or any other name
    :param site: overrides for the whole site; those of the task go before
    :raises ValueError: if a key, an action or a pair of both makes no sense; the text names the nearest valid choice
    """

    on_error: OnError = field(default_factory=dict)
    work: Work = Work.TASK
    operator: str | None = None
    site: OnError = field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "on_error", checked(self.on_error, self.work))
        object.__setattr__(self, "site", checked(self.site, self.work))

    def decide(self, error: e.CrmError | type[e.CrmError]) -> Decision:
        """The action for an error, the most specific line of the strongest source."""
        lineage = [c for c in (error if isinstance(error, type) else type(error)).__mro__ if issubclass(c, e.CrmError)]
        sources: tuple[tuple[str | None, OnError], ...] = (
            ("on_error", self.on_error),
            (SITE, self.site),
            (self.operator, PRESETS.get(self.operator or "", {})),
        )
        for origin, lines in sources:
            for cls in lineage:
                if cls in lines:
                    return Decision(Action(lines[cls]), f"{origin}[{_label(cls)}]")
        line = next(cls for cls in lineage if cls in DEFAULTS)
        return Decision(DEFAULTS[line][list(Work).index(self.work)], f"default[{_label(line)}]")

    def __hash__(self) -> int:
        return hash((frozenset(self.on_error.items()), self.work, self.operator, frozenset(self.site.items())))

    def as_data(self) -> dict[str, str]:
        """The task's overrides as JSON-able data; ``ErrorPolicy(policy.as_data(), ...)`` is the same policy."""
        return {_label(_class_of(key)): Action(action).value for key, action in self.on_error.items()}


def checked(on_error: OnError | ErrorPolicy | None, work: Work) -> dict[type[e.CrmError], Action]:
    """``on_error`` as classes and actions.

    :raises ValueError: on an unknown error, an unknown action, an action that this kind of work does not know, or a
        pair that makes no sense
    """
    if isinstance(on_error, ErrorPolicy):
        on_error = on_error.on_error
    if on_error is None:
        return {}
    if not isinstance(on_error, Mapping):
        raise ValueError(
            f"on_error must be a mapping of error to action, such as {{'DEAL_NOT_FOUND': 'skip'}}, "
            f"but is a {type(on_error).__name__}."
        )
    found: dict[type[e.CrmError], Action] = {}
    for key, value in on_error.items():
        error = _class_of(key)
        action = _action_of(error, value, work)
        if error in found and found[error] is not action:
            raise ValueError(f"on_error names {_label(error)} twice, with '{found[error].value}' and '{action.value}'.")
        found[error] = action
    return found


def _class_of(key: OnErrorKey) -> type[e.CrmError]:
    if isinstance(key, type) and e.ERROR_CLASSES.get(key.__name__) is key:  # others have no name to be written down as
        return key
    if isinstance(key, str):
        name = ALIASES.get(key, key)
        if name in CATALOGUE:
            return CATALOGUE[name].error
        if name in e.ERROR_CLASSES:
            return e.ERROR_CLASSES[name]
    raise ValueError(f"on_error: unknown error {key!r}.{_nearest(key, [*CATALOGUE, *e.ERROR_CLASSES])}")


def _action_of(error: type[e.CrmError], value: object, work: Work) -> Action:
    sensible = [action for action in ACTIONS_OF[work] if _objection(error, action) is None]
    if not isinstance(value, str) or value not in [action.value for action in Action]:
        names = [action.value for action in sensible]
        problem = f"{value!r} is no action.{_nearest(value, names)}"
    elif Action(value) not in ACTIONS_OF[work]:
        problem = (
            f"'{Action(value).value}' is no action of a {work.value}.{_substitute(error, Action(value), sensible)}"
        )
    elif objection := _objection(error, Action(value)):
        problem = (
            f"'{Action(value).value}' makes no sense, because {objection}.{_substitute(error, Action(value), sensible)}"
        )
    else:
        return Action(value)
    choices = ", ".join(action.value for action in sensible)
    raise ValueError(f"on_error[{_label(error)}]: {problem} Valid for this error in a {work.value}: {choices}.")


def _objection(error: type[e.CrmError], action: Action) -> str | None:
    """Why an action makes no sense on an error or on a part of its family."""
    for family, (refused, why) in SENSELESS.items():
        if action in refused and issubclass(error, family):
            return why
        if action in refused and issubclass(family, error):
            return f"it would include {family.__name__}: {why}"
    return None


def _substitute(error: type[e.CrmError], action: Action, sensible: list[Action]) -> str:
    """The valid action that comes closest to what was meant."""
    closest = {_W: (_R, _F), _R: (_W, _J, _F), _J: (_S, _F)}.get(action, (_F,))
    if issubclass(error, e.CrmAccessError):
        closest = (_F,)
    return f" Did you mean '{next(a for a in closest if a in sensible).value}'?"


def _nearest(value: object, choices: list[str]) -> str:
    by_lower = {choice.lower(): choice for choice in choices}
    match = difflib.get_close_matches(str(value).lower(), by_lower, cutoff=0.5)
    return f" Did you mean {by_lower[match[0]]!r}?" if match else " See: python -m crm_provider policy"


def _label(error: type[e.CrmError]) -> str:
    """The shortest name a user can type for an error: its type, else its class."""
    return error.type if error.type in CATALOGUE else error.__name__


@dataclass(frozen=True)
class Line:
    """One line of the effective table."""

    type: str
    error: str
    status: int | None
    in_call: str
    action: str
    origin: str
    advice: str


IN_CALL_NOTES: Mapping[str, str] = {
    "CONTACT_NOT_FOUND": "upsert: create instead; after an own lost delete: done",
    "CONTACT_ALREADY_EXISTS": "upsert: update instead; after an own lost create: done",
    "DEAL_NOT_FOUND": "after an own lost delete: done",
    "CONTACT_ASSOCIATED_WITH_A_DEAL": "after an own lost create: done",
}
"""What the client does about a type within one call, beyond sending it again."""

_IN_CALL = {
    "never": "-",
    "any call": "wait, send again",
    "settled": "send again; a POST only after reading that it did not happen",
}


def explain(policy: ErrorPolicy | None = None) -> list[Line]:
    """The effective table: one line for each error type, with the origin of its action."""
    policy = policy or ErrorPolicy()
    lines = []
    for spec in CATALOGUE.values():
        action, origin = _outcome(policy, spec.error)
        lines.append(
            Line(
                type=spec.type,
                error=spec.error.__name__,
                status=spec.status,
                in_call=IN_CALL_NOTES.get(spec.type, _IN_CALL[spec.repeat.value]),
                action=action,
                origin=origin,
                advice=spec.advice,
            )
        )
    return lines


def _outcome(policy: ErrorPolicy, error: type[e.CrmError]) -> tuple[str, str]:
    decision = policy.decide(error)
    counted = NO_ERRORS.get(policy.operator or "", {}).get(error)
    if counted is not None and not decision.is_asked_for:
        return counted, f"{policy.operator}[{_label(error)}]"
    return decision.action.value, decision.origin
