"""The effective policy as a table: for each error type the action, who decided, and what the client does first."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from crm_provider.errors import exceptions as e
from crm_provider.errors.catalog import CATALOGUE, ErrorSpec, Repeat
from crm_provider.errors.on_error import Action, Work
from crm_provider.errors.policy import LOADS_OF_DEALS, ONLY_IF_UNKNOWN, DecidedBy, ErrorPolicy, row_rule


@dataclass(frozen=True)
class PolicyLine:
    """One line of the effective table.

    :param in_call: what the client does within one call, ``-`` for nothing
    :param effect: what the action means for the task, the sensor, or the row and its load
    :param origin: who decided, as text
    """

    type: str
    error: str
    status: int | None
    in_call: str
    action: str
    effect: str
    decided_by: DecidedBy
    origin: str
    advice: str


AGAIN = "send again"
AGAIN_IF_NOT_DONE = "send again; a POST only after reading that it did not happen"
AGAIN_IF_NOT_SENT = "send again only if it was certainly not carried out"

REPEATS: Mapping[str, str] = {
    "CrmUpsertContactOperator(mode='update')": AGAIN,
    "CrmMoveDealStageOperator": AGAIN,
    "CrmDeleteContactOperator": AGAIN,
    "CrmExtractContactsOperator": AGAIN,
    "CrmExtractDealsOperator": AGAIN,
    "CrmExtractListsOperator": AGAIN,
    **{f"{name}(mode={mode!r})": AGAIN for name in LOADS_OF_DEALS for mode in ("move", "update")},
    "CrmDeleteContactsOperator": AGAIN,
    "CrmToSqlOperator": AGAIN,
    "CrmVerifyEmailOperator": AGAIN_IF_NOT_SENT,
    "CrmTriggerAutomationOperator": AGAIN_IF_NOT_SENT,
}
"""What the client does about a server error, by operator. An operator that is not listed creates with a POST."""

_LOST_POST = "success if the response to our earlier POST was lost"
_LOST_DELETE = "success if the response to our earlier DELETE was lost"
_UPSERT = {"CONTACT_NOT_FOUND": "create the contact instead", "CONTACT_ALREADY_EXISTS": "update the contact instead"}
_CREATE = {"CONTACT_ALREADY_EXISTS": _LOST_POST}

CALL_NOTES: Mapping[str, Mapping[str, str]] = {
    "CrmUpsertContactOperator": _UPSERT,
    "CrmUpsertContactOperator(mode='create')": {
        "CONTACT_ALREADY_EXISTS": f"{_LOST_POST}, in this try or an earlier one",
    },
    "CrmDeleteContactOperator": {
        "CONTACT_NOT_FOUND": f"{_LOST_DELETE}; in a later try success instead of skip",
    },
    "CrmCreateDealOperator": {"CONTACT_ASSOCIATED_WITH_A_DEAL": _LOST_POST},
    "CrmLoadContactsOperator": _UPSERT,
    "CrmLoadContactsOperator(mode='create')": _CREATE,
    "CrmRetryRejectsOperator": _UPSERT,
    "CrmRetryRejectsOperator(mode='create')": _CREATE,
    "SqlToCrmContactsOperator": _UPSERT,
    "SqlToCrmContactsOperator(mode='create')": _CREATE,
    **{
        f"{name}{mode}": {"CONTACT_ASSOCIATED_WITH_A_DEAL": _LOST_POST}
        for name in LOADS_OF_DEALS
        for mode in ("", "(mode='create')")
    },
    "CrmDeleteContactsOperator": {"CONTACT_NOT_FOUND": _LOST_DELETE},
    Work.LOAD.value: {name: f"upsert: {note}" for name, note in _UPSERT.items()},
    Work.TASK.value: {
        "CONTACT_NOT_FOUND": "upsert: create instead; delete: success after a lost response",
        "CONTACT_ALREADY_EXISTS": "upsert: update instead; create: success after a lost response",
        "DEAL_NOT_FOUND": "delete: success after a lost response",
        "CONTACT_ASSOCIATED_WITH_A_DEAL": "create: success after a lost response",
    },
}
"""What the client does about a type within one call, besides repeating it: operator or kind of work -> type -> note."""

_TASK_EFFECTS: Mapping[Action, Mapping[type[e.CrmError], str]] = {
    Action.RETRY: {
        e.CrmThrottledError: "retry after the server's delay; 60 s or more: reschedule, keep the try",
        e.CrmError: "retry, if the task has tries left",
    },
    Action.SKIP: {e.CrmError: "skip the task"},
    Action.FAIL: {e.CrmError: "fail the task, no further try"},
}

EFFECTS: Mapping[Work, Mapping[Action, Mapping[type[e.CrmError], str]]] = {
    Work.TASK: _TASK_EFFECTS,
    Work.SENSOR: {
        **_TASK_EFFECTS,
        Action.WAIT: {
            e.CrmThrottledError: "check again, not before the time that the server asks for",
            e.CrmTransientError: "check again; after more than max_errors_in_a_row in a row: as retry",
            e.CrmError: "check again",
        },
    },
}
"""What an action means, by the most specific class of the error. For loads see
:data:`crm_provider.errors.policy.ROW_RULES`."""


def explain(policy: ErrorPolicy | None = None) -> list[PolicyLine]:
    """The effective table: one line for each error type, with the origin of its action."""
    policy = policy or ErrorPolicy()
    lines = []
    for spec in CATALOGUE.values():
        decision = policy.decide(spec.error)
        lines.append(
            PolicyLine(
                type=spec.type,
                error=spec.error.__name__,
                status=spec.status,
                in_call=_in_call(policy, spec),
                action=decision.action.value,
                effect=_effect(policy, decision.action, spec.error)
                + _if_known(policy, decision.decided_by, spec.error)
                + _if_constant(policy, decision.decided_by, spec.error),
                decided_by=decision.decided_by,
                origin=decision.origin,
                advice=spec.advice,
            )
        )
    return lines


def _in_call(policy: ErrorPolicy, spec: ErrorSpec) -> str:
    key = policy.operator if policy.operator is not None else policy.work.value
    if (note := CALL_NOTES.get(key, {}).get(spec.type)) is not None:
        return note
    if spec.repeat is Repeat.ANY_CALL:
        return "wait, send again"
    if spec.repeat is Repeat.NEVER:
        return "-"
    return AGAIN if policy.work is Work.SENSOR else REPEATS.get(key, AGAIN_IF_NOT_DONE)


def _effect(policy: ErrorPolicy, action: Action, error: type[e.CrmError]) -> str:
    if policy.work is Work.LOAD:
        return row_rule(action, error).value
    effects = EFFECTS[policy.work][action]
    return next(effects[cls] for cls in error.__mro__ if cls in effects)


def _if_known(policy: ErrorPolicy, decided_by: DecidedBy, error: type[e.CrmError]) -> str:
    """The action if the outcome of the call is known, for a preset that applies only while it is unknown."""
    if decided_by is not DecidedBy.OPERATOR or policy.operator not in ONLY_IF_UNKNOWN:
        return ""
    otherwise = ErrorPolicy(policy.on_error, policy.work, site=policy.site).decide(error).action
    return f"; if the call was certainly not carried out: {otherwise.value}"


def _if_constant(policy: ErrorPolicy, decided_by: DecidedBy, error: type[e.CrmError]) -> str:
    """What a load of deals does about a stage or a pipeline that is the same for all rows."""
    is_preset = decided_by is DecidedBy.OPERATOR and (policy.operator or "").startswith(LOADS_OF_DEALS)
    same_in_all = is_preset and issubclass(error, (e.CrmStageNotFoundError, e.CrmPipelineNotFoundError))
    return "; if it is a constant of the mapping: end the run" if same_in_all else ""
