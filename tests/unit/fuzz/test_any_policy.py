"""Any overrides are refused with a working suggestion, or decide as a plain model does."""

from __future__ import annotations

import contextlib
import io
import json
import pickle
import re
from collections.abc import Mapping
from typing import Any

from hypothesis import assume, example, given
from hypothesis import strategies as st

from crm_provider import errors as e
from crm_provider.__main__ import main
from crm_provider.errors import ERROR_CLASSES
from crm_provider.errors.on_error import Action, Work, checked
from crm_provider.errors.policy import OPERATORS, DecidedBy, ErrorPolicy
from unit.reference import EXCEPTIONS, OUTCOMES, TYPES
from unit.test_policy import VALID, invalid

from .conftest import Guard

ALIASES = {"DEAL_ID_IS_NECESSARY": "INVALID_PARAMS", "EMAIL_IS_NECESSARY": "INVALID_PARAMS",
           "CONTACT_EMAIL_IS_NECESSARY": "INVALID_PARAMS"}  # fmt: skip
TYPE_OF = {name: type_ for type_, name in TYPES.items()}


class CrmDealNotFoundErrorOfTheUser(e.CrmDealNotFoundError):
    """A class that no catalogue contains."""


class Shouting(str):
    """A string that differs from its printed form."""

    __slots__ = ()

    def __str__(self) -> str:
        return "LOUD"


NAMES = st.sampled_from([*TYPES, *ERROR_CLASSES, *ALIASES])
CLASSES = st.sampled_from(list(ERROR_CLASSES.values()))
ACTIONS = st.sampled_from([*Action, *(action.value for action in Action)])
ODD_KEYS = st.one_of(
    NAMES.map(str.lower), NAMES.map(lambda name: name[1:]), st.text(max_size=12), st.integers(), st.none(),
    st.sampled_from(
        [
            KeyError, Exception, e, CrmDealNotFoundErrorOfTheUser, e.CrmError("x"), ("DEAL_NOT_FOUND",), b"TLS", True,
            Shouting("DEAL_NOT_FOUND"), Shouting("nothing"), "A" * 100_000, "\ud800", Work.TASK, "task",
        ]
    ),
)  # fmt: skip
ODD_ACTIONS = st.one_of(
    ACTIONS.map(lambda action: action.upper()), st.text(max_size=8), st.none(), st.integers(), st.floats(),
    st.lists(ACTIONS, max_size=2), st.dictionaries(NAMES, ACTIONS, max_size=1), st.just(Action),
    st.sampled_from([Shouting("skip"), Shouting("x"), b"skip", "skip " * 20_000, "\ud800"]),
)  # fmt: skip
GOOD = st.dictionaries(NAMES | CLASSES, ACTIONS, max_size=6)
ANY = st.one_of(
    st.dictionaries(NAMES | CLASSES | ODD_KEYS, ACTIONS | ODD_ACTIONS, max_size=4),
    st.lists(NAMES, max_size=2), st.text(max_size=9), st.integers(), st.none(), st.binary(max_size=3),
    st.just(ErrorPolicy()),
)  # fmt: skip
WORKS = st.sampled_from(Work)
PLACES = st.sampled_from([(work, None) for work in Work] + [(work, name) for name, work in OPERATORS.items()])

# -- the model -----------------------------------------------------------------------------------------------


def meant(key: Any) -> type[e.CrmError] | None:
    """The class of a key."""
    if isinstance(key, type):
        return key if key in ERROR_CLASSES.values() else None
    name = ALIASES.get(key, key) if isinstance(key, str) else None
    return ERROR_CLASSES.get(TYPES.get(name, name)) if isinstance(name, str) else None


def is_fine(lines: Any, work: Work) -> bool:
    """Whether every line is valid, and no two lines contradict each other about one error."""
    if lines is None or isinstance(lines, ErrorPolicy):
        return True
    if not isinstance(lines, Mapping):
        return False
    said: dict[type[e.CrmError], str] = {}
    for key, action in lines.items():
        error, plain = meant(key), str.__str__(action) if isinstance(action, str) else None
        if error is None or plain not in VALID[work]:
            return False
        if plain != "fail" and invalid(error, plain):
            return False
        if said.setdefault(error, plain) != plain:
            return False
    return True


def decided(error: type[e.CrmError], sources: list[dict[Any, Any]], work: Work, operator: str | None) -> str:
    """The decision of the first source with a line for the error: its line for the nearest class above."""
    for lines in sources:
        said = {meant(key): str(Action(action).value) for key, action in lines.items()}
        nearest = next((cls for cls in error.__mro__ if cls in said), None)
        if nearest is not None:
            return said[nearest]  # type: ignore[index]
    type_ = TYPE_OF[error.__name__]
    return EXCEPTIONS.get((operator or "", type_), OUTCOMES[type_][list(Work).index(work)])


# -- the properties ------------------------------------------------------------------------------------------


@given(lines=ANY, work=WORKS)
@example(lines={CrmDealNotFoundErrorOfTheUser: "skip"}, work=Work.TASK)
def test_overrides_are_accepted_or_refused_with_a_working_suggestion(ends: Guard, lines: Any, work: Work) -> None:
    with ends():
        try:
            policy = ErrorPolicy(lines, work=work)
        except ValueError as refused:
            assert not is_fine(lines, work)
            assert_helpful(str(refused), lines, work)
            return
    assert is_fine(lines, work)
    again = ErrorPolicy(json.loads(json.dumps(policy.as_data())), work=work)
    assert again == policy and hash(again) == hash(policy)
    assert pickle.loads(pickle.dumps(policy)) == policy
    assert checked(policy.on_error, work) == policy.on_error
    assert ErrorPolicy(policy, work=work) == policy  # type: ignore[arg-type]


def assert_helpful(text: str, lines: Any, work: Work) -> None:
    """The first wrong line is named, and the suggested replacement is accepted."""
    assert text.startswith("on_error")
    if not isinstance(lines, Mapping):
        assert "must be a mapping of error to action, such as {'DEAL_NOT_FOUND': 'skip'}, but is of type " in text
        return
    proposal = re.search(r"Did you mean '(\w+)'\?", text)
    if "unknown error" in text:
        assert proposal is None or meant(proposal[1]) is not None
        assert proposal is not None or "See: python -m crm_provider policy" in text
    elif " twice, with " not in text:
        named = re.match(r"on_error\[(\w+)\]: ", text)
        valid = re.findall(r"Valid for this error in a \w+: ([\w, ]+)\.$", text)[0].split(", ")
        assert named is not None and meant(named[1]) is not None
        for choice in [*valid, *([proposal[1]] if proposal else [])]:
            ErrorPolicy({named[1]: choice}, work=work)


@given(lines=GOOD, site=GOOD, place=PLACES, error=st.sampled_from(sorted(TYPES.values())))
def test_decisions_are_those_of_the_model(
    lines: dict[Any, Any], site: dict[Any, Any], place: tuple[Work, str | None], error: str
) -> None:
    work, operator = place
    fine = [{key: action for key, action in given_.items() if is_fine({key: action}, work)} for given_ in (lines, site)]
    assume(all(is_fine(given_, work) for given_ in fine))
    policy = ErrorPolicy(fine[0], site=fine[1], work=work, operator=operator)
    decision = policy.decide(ERROR_CLASSES[error])
    assert decision.action.value == decided(ERROR_CLASSES[error], fine, work, operator)
    assert policy.decide(ERROR_CLASSES[error]("x", outcome_known=False)) == decision
    own = {Action.UNCHANGED} if decision.decided_by is DecidedBy.OPERATOR else set()
    assert decision.action in {Action(name) for name in VALID[work]} | own


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | NAMES,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(NAMES | st.text(max_size=8), inner | ACTIONS, max_size=3)
    ),
)
TYPED = st.one_of(
    JSON.map(json.dumps), st.dictionaries(NAMES, ACTIONS, max_size=4).map(json.dumps), st.text(max_size=20),
    st.sampled_from(["[" * 100_000, '{"a":' * 100_000, "9" * 5000, '"\\ud800"', '{"\\ud800": "skip"}', "NaN", ""]),
)  # fmt: skip


@given(
    text=TYPED, style=st.sampled_from(["text", "markdown", "json"]), work=st.sampled_from(["task", "load", *OPERATORS])
)
@example(text="[" * 100_000, style="json", work="task")
def test_any_command_line_prints_a_table_or_one_line(ends: Guard, text: str, style: str, work: str) -> None:
    out, err = io.StringIO(), io.StringIO()
    with ends(), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main(["policy", f"--on-error={text}", "--for", work, "--format", style])
    assert code == (0 if out.getvalue() else 2)
    assert bool(out.getvalue()) != bool(err.getvalue())
    assert not err.getvalue() or err.getvalue().startswith("error: ")
    if style == "json" and code == 0:
        assert {line["type"] for line in json.loads(out.getvalue())} == set(TYPES)
