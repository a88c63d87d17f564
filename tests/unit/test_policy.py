"""The policy: the default table of the design, its overrides, and helpful error messages."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from crm_provider import errors as e
from crm_provider.errors import ERROR_CLASSES
from crm_provider.errors.catalog import CATALOGUE
from crm_provider.errors.on_error import ACTIONS_OF, Action, OnError, Work, checked
from crm_provider.errors.policy import (
    DEFAULTS,
    OPERATORS,
    OUTCOME_OVERRIDES,
    PRESETS,
    ROW_RULES,
    DecidedBy,
    Decision,
    ErrorPolicy,
    RowRule,
    row_rule,
    with_mode,
)

from .reference import EXCEPTIONS, OUTCOMES, TYPES

WORKS = pytest.mark.parametrize("work", Work, ids=lambda work: work.value)
TYPE = pytest.mark.parametrize("type_", TYPES)

VALID = {
    # design, section 3: retry, skip, fail for tasks; wait for sensors; reject for loads
    Work.TASK: {"retry", "skip", "fail"},
    Work.SENSOR: {"retry", "skip", "fail", "wait"},
    Work.LOAD: {"retry", "skip", "fail", "reject"},
}

INVALID: dict[type[e.CrmError], set[str]] = {
    # family -> actions that are invalid for it
    e.CrmAccessError: {"wait", "reject"},
    e.CrmRequestError: {"retry", "wait"},
    e.CrmDataError: {"retry", "wait"},
    e.CrmThrottledError: {"reject"},
    e.CrmProtocolError: {"retry", "wait", "skip"},
}


def invalid(error: type[e.CrmError], action: str) -> bool:
    """Whether a pair is refused: the action is invalid for the error's family, or for a family below the error."""
    return any(
        action in actions and (issubclass(error, family) or issubclass(family, error))
        for family, actions in INVALID.items()
    )


def action_of(policy: ErrorPolicy, type_: str) -> str:
    return policy.decide(CATALOGUE[type_].error).action.value


# -- the default table --------------------------------------------------------------------------------------


@WORKS
@TYPE
def test_default_outcome(type_: str, work: Work) -> None:
    expected = OUTCOMES[type_][[Work.TASK, Work.SENSOR, Work.LOAD].index(work)]
    assert action_of(ErrorPolicy(work=work), type_) == expected


@pytest.mark.parametrize("operator", OPERATORS)
def test_operators_differ_only_where_the_design_says(operator: str) -> None:
    work = OPERATORS[operator]
    policies = (ErrorPolicy(work=work), ErrorPolicy(work=work, operator=operator))
    default, own = ({type_: action_of(policy, type_) for type_ in TYPES} for policy in policies)
    assert own == {type_: EXCEPTIONS.get((operator, type_), default[type_]) for type_ in TYPES}


def test_every_exception_of_the_design_has_its_operator() -> None:
    assert {operator for operator, _ in EXCEPTIONS} == {*PRESETS, *OUTCOME_OVERRIDES} <= set(OPERATORS)


@WORKS
@pytest.mark.parametrize(
    ("family", "expected"),
    [
        (e.CrmError, ("fail", "fail", "fail")),
        (e.CrmAccessError, ("fail", "fail", "fail")),
        (e.CrmRequestError, ("fail", "fail", "reject")),
        (e.CrmDataError, ("fail", "fail", "reject")),
        (e.CrmNotFoundError, ("fail", "fail", "reject")),
        (e.CrmConflictError, ("fail", "fail", "reject")),
        (e.CrmThrottledError, ("retry", "wait", "retry")),
        (e.CrmTransientError, ("retry", "wait", "retry")),
        (e.CrmProtocolError, ("fail", "fail", "fail")),
    ],
    ids=lambda value: value.__name__ if isinstance(value, type) else "",
)
def test_default_outcome_of_an_unknown_type(
    family: type[e.CrmError], expected: tuple[str, str, str], work: Work
) -> None:
    error = family("x", type="HTTP_499", status=499)
    assert ErrorPolicy(work=work).decide(error).action.value == expected[list(Work).index(work)]


@WORKS
def test_defaults_and_presets_are_valid(work: Work) -> None:
    for error, actions in DEFAULTS.items():
        assert actions[list(Work).index(work)] in ACTIONS_OF[work]
        assert (
            not invalid(error, actions[list(Work).index(work)].value) or actions[list(Work).index(work)] is Action.FAIL
        )
    for operator in (name for name in PRESETS if OPERATORS[name] is work):
        assert checked({error: action.value for error, action in PRESETS[operator].items()}, work)


def test_actions_of_each_kind_of_work() -> None:
    assert {work: {action.value for action in actions} for work, actions in ACTIONS_OF.items()} == VALID


# -- overrides ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("on_error", "expected", "origin"),
    [
        ({"DEAL_NOT_FOUND": "skip"}, "skip", "on_error[DEAL_NOT_FOUND]"),
        ({"CrmDealNotFoundError": "skip"}, "skip", "on_error[DEAL_NOT_FOUND]"),
        ({e.CrmDealNotFoundError: "skip"}, "skip", "on_error[DEAL_NOT_FOUND]"),
        ({e.CrmDealNotFoundError: Action.SKIP}, "skip", "on_error[DEAL_NOT_FOUND]"),
        ({"CrmNotFoundError": "skip"}, "skip", "on_error[CrmNotFoundError]"),
        ({"CrmNotFoundError": "skip", "DEAL_NOT_FOUND": "retry"}, "retry", "on_error[DEAL_NOT_FOUND]"),
        ({"DEAL_NOT_FOUND": "retry", "CrmNotFoundError": "skip"}, "retry", "on_error[DEAL_NOT_FOUND]"),
        ({"CrmError": "fail", "CrmNotFoundError": "skip"}, "skip", "on_error[CrmNotFoundError]"),
        ({"CONTACT_NOT_FOUND": "skip"}, "fail", "default[DEAL_NOT_FOUND]"),
        ({}, "fail", "default[DEAL_NOT_FOUND]"),
    ],
    ids=["type", "class name", "class", "action", "family", "type over family", "in any order", "family over all",
         "another", "none"],
)  # fmt: skip
def test_most_specific_line_wins(on_error: OnError, expected: str, origin: str) -> None:
    decision = ErrorPolicy(on_error).decide(e.CrmDealNotFoundError("Deal not found."))
    assert (decision.action.value, decision.origin) == (expected, origin)


def test_line_for_a_family_overrides_the_preset_of_a_type() -> None:
    policy = ErrorPolicy({"CrmConflictError": "fail"}, operator="CrmCreateDealOperator")
    decision = policy.decide(e.CrmContactAssociatedWithADealError)
    assert decision == Decision(Action.FAIL, DecidedBy.TASK, "CrmConflictError")  # without the operator
    assert decision.origin == "on_error[CrmConflictError]"


def test_origin_of_a_preset() -> None:
    decision = ErrorPolicy(operator="CrmCreateDealOperator").decide(e.CrmContactAssociatedWithADealError)
    assert decision == Decision(
        Action.SKIP, DecidedBy.OPERATOR, "CONTACT_ASSOCIATED_WITH_A_DEAL", "CrmCreateDealOperator"
    )
    assert decision.origin == "CrmCreateDealOperator[CONTACT_ASSOCIATED_WITH_A_DEAL]"


@pytest.mark.parametrize("decided_by", DecidedBy)
@pytest.mark.parametrize("operator", [None, "CrmListSensor"])
def test_decision_survives_serialization(decided_by: DecidedBy, operator: str | None) -> None:
    decision = Decision(Action.WAIT, decided_by, "DEAL_NOT_FOUND", operator)
    assert Decision.from_data(json.loads(json.dumps(decision.as_data()))) == decision


@pytest.mark.parametrize(
    ("error", "on_error", "site", "action"),
    [
        (e.CrmTimeoutError("x", outcome_known=False), {}, {}, "fail"),
        (e.CrmTimeoutError, {}, {}, "fail"),
        (e.CrmTimeoutError("x", outcome_known=True), {}, {}, "retry"),
        (e.CrmTimeoutError("x", outcome_known=True), {}, {"CrmTransientError": "skip"}, "skip"),
        (e.CrmTimeoutError("x", outcome_known=False), {"CrmTransientError": "retry"}, {}, "retry"),
        (e.CrmTimeoutError("x", outcome_known=True), {"CrmTransientError": "fail"}, {}, "fail"),
    ],
)
def test_automation_that_certainly_did_not_start_is_retried(
    error: e.CrmError, on_error: OnError, site: OnError, action: str
) -> None:
    policy = ErrorPolicy(on_error, operator="CrmTriggerAutomationOperator", site=site)
    assert policy.decide(error).action.value == action


def test_other_presets_ignore_whether_the_outcome_is_known() -> None:
    for known in (True, False):
        error = e.CrmContactNotFoundError("x", outcome_known=known)
        assert ErrorPolicy(operator="CrmDeleteContactOperator").decide(error).action is Action.SKIP


# -- rows of a load -----------------------------------------------------------------------------------------

LOADS = ["CrmLoadContactsOperator", "CrmRetryRejectsOperator", "SqlToCrmContactsOperator"]


@pytest.mark.parametrize("operator", LOADS)
def test_every_load_has_its_three_modes(operator: str) -> None:
    names = [operator, f"{operator}(mode='create')", f"{operator}(mode='update')"]
    assert [with_mode(operator, mode) for mode in ("upsert", "create", "update")] == names
    assert {OPERATORS[name] for name in names} == {Work.LOAD}
    for name, expected in zip(names, ["reject", "unchanged", "reject"], strict=True):
        assert action_of(ErrorPolicy(work=Work.LOAD, operator=name), "CONTACT_ALREADY_EXISTS") == expected


def test_unknown_name_has_no_modes() -> None:
    assert with_mode(None, "create") is None


def test_only_loads_that_create_or_delete_treat_an_error_as_an_outcome() -> None:
    creating = [*LOADS, "CrmLoadDealsOperator", "SqlToCrmDealsOperator"]
    assert set(OUTCOME_OVERRIDES) == {*(f"{name}(mode='create')" for name in creating), "CrmDeleteContactsOperator"}


RULES = {
    ("retry", e.CrmTooManyRequestsError): RowRule.RESEND_THROTTLED,
    ("retry", e.CrmTimeoutError): RowRule.HOLD,
    ("retry", e.CrmContactNotFoundError): RowRule.RESEND,
    ("reject", e.CrmTimeoutError): RowRule.HOLD,
    ("reject", e.CrmContactNotFoundError): RowRule.REJECT,
    ("skip", e.CrmTimeoutError): RowRule.SKIP,
    ("skip", e.CrmTooManyRequestsError): RowRule.SKIP,
    ("fail", e.CrmTimeoutError): RowRule.STOP,
    ("fail", e.CrmContactNotFoundError): RowRule.STOP,
    ("unchanged", e.CrmContactAlreadyExistsError): RowRule.UNCHANGED,
}


@pytest.mark.parametrize(("action", "error"), RULES)
def test_meaning_of_each_action_for_a_row(action: str, error: type[e.CrmError]) -> None:
    expected = RULES[action, error]
    assert row_rule(Action(action), error) is expected
    assert row_rule(Action(action), error("x")) is expected


def test_every_action_of_a_load_has_a_rule_for_every_error() -> None:
    assert set(ROW_RULES) == {*ACTIONS_OF[Work.LOAD], Action.UNCHANGED}
    assert all(e.CrmError in rules for rules in ROW_RULES.values())


ALIASES = ["DEAL_ID_IS_NECESSARY", "CONTACT_EMAIL_IS_NECESSARY", "EMAIL_IS_NECESSARY"]


@pytest.mark.parametrize("alias", ALIASES)
def test_alias_equals_its_type(alias: str) -> None:
    assert action_of(ErrorPolicy({alias: "skip"}), "INVALID_PARAMS") == "skip"


SITE = "airflow.cfg [crm] on_error"


@pytest.mark.parametrize(
    ("on_error", "site", "action", "decided_by", "line", "origin"),
    [
        ({}, {"DEAL_NOT_FOUND": "retry"}, "retry", "site", "DEAL_NOT_FOUND", f"{SITE}[DEAL_NOT_FOUND]"),
        ({}, {"CrmNotFoundError": "retry"}, "retry", "site", "CrmNotFoundError", f"{SITE}[CrmNotFoundError]"),
        (
            {"CrmNotFoundError": "fail"},
            {"DEAL_NOT_FOUND": "retry"},
            "fail",
            "task",
            "CrmNotFoundError",
            "on_error[CrmNotFoundError]",
        ),
        ({}, {"CrmThrottledError": "skip"}, "fail", "default", "DEAL_NOT_FOUND", "default[DEAL_NOT_FOUND]"),
    ],
)
def test_site_line_has_lower_precedence_than_the_tasks_own(
    on_error: OnError, site: OnError, action: str, decided_by: str, line: str, origin: str
) -> None:
    decision = ErrorPolicy(on_error, site=site).decide(e.CrmDealNotFoundError)
    assert decision == Decision(Action(action), DecidedBy(decided_by), line)
    assert decision.origin == origin


@pytest.mark.parametrize("place", ["on_error", "site"])
@pytest.mark.parametrize(("work", "lines"), [(Work.TASK, {"DEAL_NOT_FOUND": "wait"}), (Work.LOAD, {"NOBODY": "skip"})])
def test_lines_of_task_and_site_are_checked_alike(place: str, work: Work, lines: OnError) -> None:
    with pytest.raises(ValueError, match="on_error"):
        ErrorPolicy(work=work, **{place: lines})  # type: ignore[arg-type]


def test_equal_policies_have_equal_hashes() -> None:
    lines = {"DEAL_NOT_FOUND": "skip", "CrmTransientError": "fail"}
    same = [ErrorPolicy(lines, site=lines), ErrorPolicy(dict(reversed(lines.items())), site=dict(lines))]
    others = [
        ErrorPolicy(lines),
        ErrorPolicy(site=lines),
        ErrorPolicy(lines, site=lines, operator="CrmListSensor"),
        ErrorPolicy(lines, site=lines, work=Work.LOAD),
    ]
    assert len({*same, *others}) == 5
    assert len({hash(policy) for policy in (*same, *others)}) == 5


def test_duplicate_line_is_refused() -> None:
    assert ErrorPolicy({"DEAL_NOT_FOUND": "skip", "CrmDealNotFoundError": "skip"}).as_data() == {
        "DEAL_NOT_FOUND": "skip"
    }
    with pytest.raises(ValueError, match="names DEAL_NOT_FOUND twice, with 'skip' and 'retry'"):
        ErrorPolicy({"DEAL_NOT_FOUND": "skip", "CrmDealNotFoundError": "retry"})


# -- refusals -----------------------------------------------------------------------------------------------


def refusal(on_error: Any, work: Work) -> str:
    """The text of a refusal."""
    with pytest.raises(ValueError, match=r"^on_error") as raised:
        ErrorPolicy(on_error, work=work)
    return str(raised.value)


@WORKS
@pytest.mark.parametrize("action", Action, ids=lambda action: action.value)
def test_every_pair_is_accepted_or_refused_with_a_valid_choice(action: Action, work: Work) -> None:
    for error in ERROR_CLASSES.values():
        fits = action.value in VALID[work] and not invalid(error, action.value)
        if fits or action is Action.FAIL:
            assert ErrorPolicy({error: action}, work=work).decide(error).action is action
            continue
        text = refusal({error: action}, work)
        (meant,) = re.findall(r"Did you mean '(\w+)'\?", text)
        valid = re.findall(r"Valid for this error in a \w+: ([\w, ]+)\.$", text)[0].split(", ")
        assert meant in valid, text
        assert set(valid) == {choice for choice in VALID[work] if choice == "fail" or not invalid(error, choice)}
        for choice in valid:
            assert ErrorPolicy({error: choice}, work=work).decide(error).action.value == choice


@pytest.mark.parametrize(
    ("on_error", "work", "expected"),
    [
        ({"DEAL_NOT_FOUNT": "skip"}, Work.TASK, "unknown error 'DEAL_NOT_FOUNT'. Did you mean 'DEAL_NOT_FOUND'?"),
        ({"deal_not_found": "skip"}, Work.TASK, "Did you mean 'DEAL_NOT_FOUND'?"),
        ({"CrmDealNotFound": "skip"}, Work.TASK, "Did you mean 'CrmDealNotFoundError'?"),
        ({KeyError: "skip"}, Work.TASK, "unknown error <class 'KeyError'>"),
        ({404: "skip"}, Work.TASK, "unknown error 404"),
        ({"DEAL_NOT_FOUND": "skp"}, Work.TASK, "'skp' is not an action. Did you mean 'skip'?"),
        (
            {"DEAL_NOT_FOUND": None},
            Work.TASK,
            "None is not an action. See: python -m crm_provider policy. Valid for this error in a task: ",
        ),
        (
            {"DEAL_NOT_FOUND": ["skip"]},
            Work.TASK,
            "['skip'] is not an action. See: python -m crm_provider policy. Valid",
        ),
        ({"DEAL_NOT_FOUND": "reject"}, Work.TASK, "'reject' is not an action of a task. Did you mean 'skip'?"),
        ({"DEAL_NOT_FOUND": "wait"}, Work.TASK, "'wait' is not an action of a task. Did you mean 'retry'?"),
        ({"DEAL_NOT_FOUND": "wait"}, Work.LOAD, "'wait' is not an action of a load. Did you mean 'retry'?"),
        ({"INVALID_INPUT": "retry"}, Work.TASK, "the same values get the same response. Did you mean 'fail'?"),
        ({"INVALID_INPUT": "retry"}, Work.LOAD, "the same values get the same response. Did you mean 'reject'?"),
        ({"FORBIDDEN": "wait"}, Work.SENSOR, "a refused key or connection stays refused"),
        ({"FORBIDDEN": "wait"}, Work.SENSOR, "Did you mean 'fail'?"),
        ({"CrmDataError": "retry"}, Work.TASK, "on_error[CrmDataError]: 'retry' is invalid, because the same values"),
        ({"CrmError": "retry"}, Work.TASK, "it would include CrmRequestError: the same request"),
        ({"PROTOCOL": "skip"}, Work.TASK, "never ignored. Did you mean 'fail'?"),
        (["DEAL_NOT_FOUND"], Work.TASK, "on_error must be a mapping of error to action"),
        ("DEAL_NOT_FOUND", Work.TASK, "but is of type str."),
    ],
    ids=str,
)
def test_refusal_names_the_nearest_valid_choice(on_error: Any, work: Work, expected: str) -> None:
    assert expected in refusal(on_error, work)


def test_unknown_text_is_referred_to_the_whole_table() -> None:
    with pytest.raises(ValueError, match=r"unknown error 'zzz'\. See: python -m crm_provider policy\.$"):
        checked({"zzz": "skip"}, Work.TASK)


def test_similar_name_is_suggested() -> None:
    with pytest.raises(ValueError, match=r"'retrying later' is not an action\. Did you mean 'retry'\?"):
        checked({"DEAL_NOT_FOUND": "retrying later"}, Work.TASK)


@pytest.mark.parametrize("nothing", [[], "", 0, False], ids=repr)
def test_non_mapping_is_refused_even_if_empty(nothing: Any) -> None:
    with pytest.raises(ValueError, match="must be a mapping"):
        ErrorPolicy(nothing)


def test_policy_object_is_accepted_but_checked_again() -> None:
    task: Any = ErrorPolicy({"DEAL_NOT_FOUND": "skip"})
    sensor: Any = ErrorPolicy({"DEAL_NOT_FOUND": "wait"}, work=Work.SENSOR)
    assert ErrorPolicy(task, work=Work.LOAD).on_error == {e.CrmDealNotFoundError: Action.SKIP}
    with pytest.raises(ValueError, match="'wait' is not an action of a task"):
        ErrorPolicy(sensor)


def test_policy_in_effect_lists_the_differing_lines() -> None:
    policy = ErrorPolicy(
        {"INVALID_INPUT": "fail"}, work=Work.LOAD, operator="CrmLoadContactsOperator", site={"FORBIDDEN": "retry"}
    )
    assert policy.in_effect == {
        "operator": "CrmLoadContactsOperator", "on_error": {"INVALID_INPUT": "fail"}, "site": {"FORBIDDEN": "retry"},
    }  # fmt: skip
