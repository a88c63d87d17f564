"""Operators and sensors in type checkers, editors, and ``help()``."""

from __future__ import annotations

import ast
import inspect
import os
import pydoc
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import docs_operators
import pytest
from airflow.sdk import BaseOperator, BaseSensorOperator

from crm_provider._compat import HAS_RETRY_POLICY
from crm_provider.operators.automations import CrmTriggerAutomationOperator
from crm_provider.operators.base import CrmOperator
from crm_provider.operators.contacts import CrmDeleteContactOperator, CrmUpsertContactOperator, CrmVerifyEmailOperator
from crm_provider.operators.deals import CrmCreateDealOperator, CrmMoveDealStageOperator
from crm_provider.operators.extract import CrmExtractContactsOperator, CrmExtractDealsOperator, CrmExtractListsOperator
from crm_provider.operators.lists import CrmAddContactToListsOperator
from crm_provider.operators.load import (
    CrmDeleteContactsOperator,
    CrmLoadContactsOperator,
    CrmLoadDealsOperator,
    CrmRetryRejectsOperator,
)
from crm_provider.operators.load_base import CrmLoadOperator
from crm_provider.operators.load_kinds import CrmContactLoadOperator, CrmDealLoadOperator
from crm_provider.sensors.base import CrmSensor
from crm_provider.sensors.contacts import CrmContactSensor
from crm_provider.sensors.deals import CrmDealStageSensor
from crm_provider.sensors.lists import CrmListMembershipSensor, CrmListSensor
from crm_provider.tasks import arguments as task_arguments
from crm_provider.transfers.crm_to_sql import CrmToSqlOperator
from crm_provider.transfers.sql_to_crm import SqlToCrmContactsOperator, SqlToCrmDealsOperator

ROOT = Path(__file__).parents[2]
DAGS = ROOT / "tests" / "typing"
CLASSES = {
    cls.__name__: cls
    for cls in (
        CrmAddContactToListsOperator, CrmContactSensor, CrmCreateDealOperator, CrmDealStageSensor,
        CrmDeleteContactOperator, CrmExtractContactsOperator, CrmExtractDealsOperator, CrmExtractListsOperator,
        CrmListMembershipSensor, CrmListSensor, CrmLoadContactsOperator, CrmMoveDealStageOperator,
        CrmRetryRejectsOperator, CrmTriggerAutomationOperator, CrmUpsertContactOperator, CrmVerifyEmailOperator,
        CrmDeleteContactsOperator, CrmLoadDealsOperator, CrmToSqlOperator, SqlToCrmContactsOperator,
        SqlToCrmDealsOperator,
    )
}  # fmt: skip


def test_mypy_accepts_the_right_dags_and_finds_each_mistake_in_the_wrong_ones() -> None:
    command = [sys.executable, "-m", "mypy", "--no-error-summary", "--no-pretty", "tests/typing"]
    done = subprocess.run(
        command, cwd=ROOT, env={**os.environ, "NO_COLOR": "1"}, capture_output=True, text=True, check=False
    )
    found: dict[str, dict[int, str]] = {"right_dags.py": {}, "wrong_dags.py": {}, "airflow_arguments.py": {}}
    for line in done.stdout.splitlines():
        name, number, text = re.fullmatch(r"(.+?):(\d+): (?:error|note): (.*)", line).groups()  # type: ignore[union-attr]
        if (lines := found.get(Path(name).name)) is not None:
            lines[int(number)] = f"{lines.get(int(number), '')}{text}\n"
    assert found["right_dags.py"] == {}, done.stdout + done.stderr
    assert found["airflow_arguments.py"] == {} or not HAS_RETRY_POLICY, "older versions of Airflow have other types"
    expected = {
        number: said[1]
        for number, line in enumerate((DAGS / "wrong_dags.py").read_text("utf-8").splitlines(), 1)
        if not line.startswith('"""') and (said := re.search(r"  # E: (.+)$", line))
    }
    assert len(expected) > 40
    assert found["wrong_dags.py"].keys() == expected.keys(), done.stdout + done.stderr
    for number, text in expected.items():
        assert text in found["wrong_dags.py"][number]


# -- one place for each argument ------------------------------------------------------------------------------


def names_of(arguments: Any) -> set[str]:
    return set(arguments.__annotations__)


def own(cls: type) -> dict[str, inspect.Parameter]:
    found = inspect.signature(vars(cls)["__init__"]).parameters
    return {name: one for name, one in found.items() if name not in ("self", "kwargs")}


def test_airflows_arguments_are_those_of_the_installed_airflow() -> None:
    ours = names_of(task_arguments.BaseOperatorArguments)
    theirs = set(own(BaseOperator)) - {"retry_policy"}
    assert theirs <= ours
    assert not HAS_RETRY_POLICY or theirs == ours, "the newest Airflow has all of them"


def test_airflows_sensor_arguments_are_those_of_the_installed_airflow() -> None:
    ours = names_of(task_arguments.BaseSensorArguments) - names_of(task_arguments.BaseOperatorArguments)
    assert ours == set(own(BaseSensorOperator))


@pytest.mark.parametrize(
    ("arguments", "taken", "cls"),
    [
        ("CrmArguments", "BaseOperatorArguments", CrmOperator),
        ("CrmRowArguments", "BaseOperatorArguments", CrmOperator),
        ("CrmSensorArguments", "BaseSensorArguments", CrmSensor),
        ("LoadSettings", "CrmRowArguments", CrmLoadOperator),
        ("ContactLoadSettings", "LoadSettings", CrmContactLoadOperator),
        ("DealLoadSettings", "LoadSettings", CrmDealLoadOperator),
    ],
)
def test_typed_dictionary_repeats_its_class(arguments: str, taken: str, cls: type) -> None:
    """Names, types, and documentation: Airflow needs them in ``__init__``, type checkers in the dictionary."""
    ours, parameters = getattr(task_arguments, arguments), own(cls)
    added = {name: ours.__annotations__[name].__forward_arg__ for name in names_of(ours)}
    added = {name: kind for name, kind in added.items() if name not in names_of(getattr(task_arguments, taken))}
    assert added.keys() == parameters.keys()
    for name, kind in added.items():
        assert name == "on_error" or kind == parameters[name].annotation
    documented = docs_operators.documented(cls)
    assert described(arguments) == {name: plain(documented[name]) for name in parameters}


@pytest.mark.parametrize("name", CLASSES)
def test_partial_accepts_what_the_class_accepts(name: str) -> None:
    """Its typed version is for type checkers only, so the test reads its source."""
    owner = next(base for base in CLASSES[name].__mro__ if "__init__" in vars(base))
    node = ast.parse(inspect.getsource(owner))
    inits, partials = (
        [one for one in ast.walk(node) if isinstance(one, ast.FunctionDef) and one.name == wanted]
        for wanted in ("__init__", "partial")
    )
    (init,), (partial,) = inits, partials
    typed = [(one.arg, ast.unparse(one.annotation or one)) for one in init.args.kwonlyargs]
    assert [(one.arg, ast.unparse(one.annotation or one)) for one in partial.args.kwonlyargs] == typed
    assert ast.unparse(partial.args.kwarg) == ast.unparse(init.args.kwarg)  # type: ignore[arg-type]


def described(arguments: str) -> dict[str, str]:
    """The docstring below each key of a typed dictionary, which editors show."""
    tree = ast.parse(Path(task_arguments.__file__).read_text("utf-8"))
    body = next(node.body for node in tree.body if isinstance(node, ast.ClassDef) and node.name == arguments)
    return {
        key.target.id: plain(text.value.value)  # type: ignore[union-attr]
        for key, text in zip(body[1::2], body[2::2], strict=True)
        if isinstance(key, ast.AnnAssign) and isinstance(text, ast.Expr)
    }


def plain(text: str) -> str:
    return " ".join(text.split()).rstrip(".").lower()


# -- help() ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CLASSES)
def test_help_shows_and_explains_every_argument(name: str) -> None:
    cls = CLASSES[name]
    bases = [base for base in cls.__mro__ if base.__module__.startswith("crm_provider") and "__init__" in vars(base)]
    arguments = [argument for base in bases for argument in own(base)]
    assert {"crm_conn_id", "on_error", "retry_policy"} < set(arguments)
    assert list(inspect.signature(cls).parameters)[: len(arguments)] == arguments
    assert {"retries", "pool", "task_id"} < set(inspect.signature(cls).parameters)
    text = pydoc.plain(pydoc.render_doc(cls))
    for argument in arguments:
        assert len(re.findall(rf":param {argument}: \S", text)) == 1
    fields = cls.__doc__[cls.__doc__.index("\n:param ") :].strip().splitlines()
    assert all(line.startswith((":param ", ":raises ", "    ")) for line in fields)


def test_signature_has_types_and_defaults() -> None:
    shown = inspect.signature(CrmLoadContactsOperator).parameters
    assert str(shown["plan"]) == "plan: 'PlanName' = 'auto'"
    assert str(shown["source"]) == "source: 'PathsOrRows'"
    assert shown["source"].kind is inspect.Parameter.KEYWORD_ONLY


def test_custom_operator_shows_its_own_arguments_first() -> None:
    class OwnOperator(CrmDeleteContactOperator):
        """Delete a contact of a shop.

        :param shop: the shop
        """

        def __init__(self, *, shop: str, **kwargs: Any) -> None:
            super().__init__(**kwargs)

    assert list(inspect.signature(OwnOperator).parameters)[:2] == ["shop", "contact_email"]
    assert inspect.getdoc(OwnOperator).startswith(  # type: ignore[union-attr]
        "Delete a contact of a shop.\n\n:param shop: the shop\n:param contact_email: the contact's address"
    )


def test_custom_operator_without_a_docstring_has_that_of_its_base() -> None:
    class OwnOperator(CrmDeleteContactOperator):
        pass

    assert OwnOperator.__doc__ is None
    assert inspect.getdoc(OwnOperator) == inspect.getdoc(CrmDeleteContactOperator)
