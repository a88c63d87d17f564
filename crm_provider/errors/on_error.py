"""The check of ``on_error``: errors, actions, and valid pairs of both.

``on_error`` is plain data: ``{"DEAL_NOT_FOUND": "skip", "CrmTransientError": "fail"}``. A key is an error type of the
catalogue, or an error class or its name for a whole family.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from typing import Any, TypeAlias

from crm_provider.errors import exceptions as e
from crm_provider.errors.catalog import ALIASES, CATALOGUE
from crm_provider.values.suggest import did_you_mean


class Action(str, Enum):
    """What to do about an error."""

    RETRY = "retry"
    """Fail this try; Airflow's ``retries`` apply, with the server's delay. In a load: send the row again."""
    SKIP = "skip"
    """End the task as skipped. In a load: count the row as skipped."""
    FAIL = "fail"
    """End the task as failed, regardless of ``retries``. In a load: stop the run."""
    WAIT = "wait"
    """Sensors: check again later."""
    REJECT = "reject"
    """Loads: write the row to the rejects file and continue."""
    UNCHANGED = "unchanged"
    """Loads: not an error; count the row as unchanged. Only an operator's own rule can set it, ``on_error`` cannot."""


class Work(str, Enum):
    """The kind of work in which an error occurs. Each has its own column in the table."""

    TASK = "task"
    SENSOR = "sensor"
    LOAD = "load"


ACTIONS_OF: Mapping[Work, tuple[Action, ...]] = {
    Work.TASK: (Action.RETRY, Action.SKIP, Action.FAIL),
    Work.SENSOR: (Action.WAIT, Action.RETRY, Action.SKIP, Action.FAIL),
    Work.LOAD: (Action.REJECT, Action.RETRY, Action.SKIP, Action.FAIL),
}
"""The actions that ``on_error`` may name in a kind of work."""

INVALID_ACTIONS: Mapping[type[e.CrmError], tuple[tuple[Action, ...], str]] = {
    e.CrmAccessError: (
        (Action.WAIT, Action.REJECT),
        "a refused key or connection stays refused, for every row and every check",
    ),
    e.CrmRequestError: ((Action.RETRY, Action.WAIT), "the same request gets the same response"),
    e.CrmDataError: ((Action.RETRY, Action.WAIT), "the same values get the same response"),
    e.CrmThrottledError: ((Action.REJECT,), "the row is valid and was only sent too early"),
    e.CrmProtocolError: (
        (Action.RETRY, Action.WAIT, Action.SKIP),
        "a response that cannot be understood is never repeated and never ignored",
    ),
}
"""Actions that are invalid for a family of errors, and why."""

OnErrorKey: TypeAlias = "str | type[e.CrmError]"
OnError: TypeAlias = Mapping[Any, "str | Action"]
"""From :data:`OnErrorKey` to action. The key is ``Any``, because type checkers treat a mapping's keys as invariant."""


def checked(on_error: OnError | None, work: Work) -> dict[type[e.CrmError], Action]:
    """``on_error`` as classes and actions.

    :raises ValueError: for an unknown error, an unknown action, an action that this kind of work does not have, or an
        invalid pair; the text names the nearest valid choice
    """
    if on_error is None:
        return {}
    if not isinstance(on_error, Mapping):
        raise ValueError(
            f"on_error must be a mapping of error to action, such as {{'DEAL_NOT_FOUND': 'skip'}}, "
            f"but is of type {type(on_error).__name__}."
        )
    found: dict[type[e.CrmError], Action] = {}
    for key, value in on_error.items():
        error = _class_of(key)
        action = _action_of(error, value, work)
        if error in found and found[error] is not action:
            raise ValueError(f"on_error names {label(error)} twice, with '{found[error].value}' and '{action.value}'.")
        found[error] = action
    return found


def label(error: type[e.CrmError]) -> str:
    """The shortest name that a user can type for an error: its type, else its class."""
    return error.type if error.type in CATALOGUE else error.__name__


def _class_of(key: OnErrorKey) -> type[e.CrmError]:
    if isinstance(key, type) and e.ERROR_CLASSES.get(key.__name__) is key:  # other classes cannot be named in data
        return key
    if isinstance(key, str):
        name = ALIASES.get(key, key)
        if name in CATALOGUE:
            return CATALOGUE[name].error
        if name in e.ERROR_CLASSES:
            return e.ERROR_CLASSES[name]
    raise ValueError(f"on_error: unknown error {key!r}. {_hint(key, [*CATALOGUE, *e.ERROR_CLASSES])}")


def _action_of(error: type[e.CrmError], value: object, work: Work) -> Action:
    valid = [action for action in ACTIONS_OF[work] if _objection(error, action) is None]
    names = [action.value for action in valid]
    if not isinstance(value, str) or value not in [action.value for action in Action]:
        problem = f"{value!r} is not an action. {_hint(value, names)}"
    elif Action(value) not in ACTIONS_OF[work]:
        problem = (
            f"'{Action(value).value}' is not an action of a {work.value}. {_suggestion(error, Action(value), valid)}"
        )
    elif objection := _objection(error, Action(value)):
        problem = f"'{Action(value).value}' is invalid, because {objection}. {_suggestion(error, Action(value), valid)}"
    else:
        return Action(value)
    raise ValueError(f"on_error[{label(error)}]: {problem} Valid for this error in a {work.value}: {', '.join(names)}.")


def _objection(error: type[e.CrmError], action: Action) -> str | None:
    """Why an action is invalid for an error or for a part of its family."""
    for family, (refused, why) in INVALID_ACTIONS.items():
        if action in refused and issubclass(error, family):
            return why
        if action in refused and issubclass(family, error):
            return f"it would include {family.__name__}: {why}"
    return None


def _suggestion(error: type[e.CrmError], action: Action, valid: list[Action]) -> str:
    """A question that names the closest valid action."""
    closest = {
        Action.WAIT: (Action.RETRY, Action.FAIL),
        Action.RETRY: (Action.WAIT, Action.REJECT, Action.FAIL),
        Action.REJECT: (Action.SKIP, Action.FAIL),
        Action.UNCHANGED: (Action.SKIP, Action.FAIL),
    }.get(action, (Action.FAIL,))
    if issubclass(error, e.CrmAccessError):
        closest = (Action.FAIL,)
    return f"Did you mean '{next(a for a in closest if a in valid).value}'?"


def _hint(value: object, choices: list[str]) -> str:
    return did_you_mean(value, choices, otherwise="See: python -m crm_provider policy.")
