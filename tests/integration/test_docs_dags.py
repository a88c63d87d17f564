"""Examples and parameter tables of the documentation, compared with Airflow and the operators."""

from __future__ import annotations

import ast
import importlib
import inspect
import re
import shlex
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import docs_operators
import docs_text
import pytest
from docs_text import DOCS, Fence
from jinja2 import UndefinedError

from crm_provider._compat import HAS_RETRY_POLICY
from crm_provider.client.settings import Settings
from crm_provider.errors.policy import LONG_WAIT, QUOTA_DELAY
from crm_provider.hooks.crm import CrmHook
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
from crm_provider.sandbox import Sandbox
from crm_provider.sensors.base import CrmSensor
from crm_provider.sensors.contacts import CrmContactSensor
from crm_provider.sensors.deals import CrmDealStageSensor
from crm_provider.sensors.lists import CrmListMembershipSensor, CrmListSensor
from crm_provider.tasks.outcome import MAX_TOTAL_WAIT
from crm_provider.testing import load_dag, run_dag
from crm_provider.transfers.crm_to_sql import CrmToSqlOperator
from crm_provider.transfers.sql_to_crm import SqlToCrmContactsOperator, SqlToCrmDealsOperator

CLASSES: list[type[CrmOperator | CrmSensor]] = [
    CrmUpsertContactOperator, CrmDeleteContactOperator, CrmVerifyEmailOperator, CrmCreateDealOperator,
    CrmMoveDealStageOperator, CrmAddContactToListsOperator, CrmTriggerAutomationOperator,
    CrmExtractContactsOperator, CrmExtractDealsOperator, CrmExtractListsOperator,
    CrmToSqlOperator, CrmLoadContactsOperator, SqlToCrmContactsOperator, CrmRetryRejectsOperator,
    CrmLoadDealsOperator, SqlToCrmDealsOperator, CrmDeleteContactsOperator,
    CrmListSensor, CrmListMembershipSensor, CrmContactSensor, CrmDealStageSensor,
]  # fmt: skip
FOR_MAKE_DOCS = "airflow.providers.http"  # the starting point of docs/migration.md: it runs in tests/docs
PYTHON = [
    fence
    for document in docs_text.documents()
    for fence in docs_text.fences(document, "python")
    if FOR_MAKE_DOCS not in fence.code
]
NEEDS_3_3 = ("retry_policy", "ChainRetryPolicy")
HAS_SLACK = find_spec("airflow.providers.slack") is not None


def usable(fence: Fence) -> Any:
    newer = any(word in fence.code for word in NEEDS_3_3) and not HAS_RETRY_POLICY
    slack = "providers.slack" in fence.code and not HAS_SLACK
    return pytest.param(
        fence,
        id=fence.name,
        marks=[
            pytest.mark.skipif(newer, reason="the example needs Airflow 3.3"),
            pytest.mark.skipif(slack, reason="the example needs the provider for Slack"),
        ],
    )


# -- examples -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fence", map(usable, PYTHON))
def test_imports_in_examples_resolve(fence: Fence) -> None:
    for node in ast.walk(ast.parse(fence.code)):
        if isinstance(node, ast.Import):
            for name in node.names:
                importlib.import_module(name.name)
        if isinstance(node, ast.ImportFrom):
            module = importlib.import_module(str(node.module))
            for name in node.names:
                if not hasattr(module, name.name):
                    importlib.import_module(f"{node.module}.{name.name}")


ANY_ID = "123e4567-e89b-12d3-a456-426614174000"
CONF = {"deal_id": ANY_ID, "stage_id": ANY_ID, "file": "/data/leads.csv"}
RESULT = {"id": ANY_ID, "contact_id": ANY_ID, "rejects_path": "/data/rejects.jsonl", "path": "/data/contacts.csv"}


FILES = [docs_operators.example_of(name).read_text("utf-8") for name in docs_operators.names()]
"""Examples of the operator pages. ``test_operator_examples.py`` runs them completely, without a date."""


def is_run_for_real(fence: Fence) -> bool:
    return any(file.endswith(fence.code) for file in FILES)


@pytest.mark.parametrize(
    "fence", [usable(fence) for fence in PYTHON if "DAG(" in fence.code and not is_run_for_real(fence)]
)
def test_example_dag_runs_without_a_logical_date(
    fence: Fence, crm_quick: Sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``airflow dags trigger`` sets no date, so that ``{{ ds }}`` is undefined. Every other start sets more dates.

    A scheduled run has no conf, so a DAG with a schedule must not need one.
    Operators of this package return a result without doing their work, but render every template.
    """
    for cls in CLASSES:
        monkeypatch.setattr(cls, "execute", lambda self, context: RESULT)
    (tmp_path / "example.py").write_text(fence.code, encoding="utf-8")
    dag = load_dag(tmp_path / "example.py")
    run = run_dag(dag, run_conf=CONF if dag.schedule is None else None, logical_date=None)
    assert run.tasks
    assert {name: str(task.error) for name, task in run.tasks.items() if isinstance(task.error, UndefinedError)} == {}


def test_example_dag_ids_are_unique() -> None:
    ids = [name for fence in PYTHON for name in re.findall(r"\bDAG\(\s*\"(\w+)\"", fence.code)]
    assert sorted(set(ids)) == sorted(ids)


def test_hook_script_of_the_docs_runs(crm: Sandbox, capsys: pytest.CaptureFixture[str]) -> None:
    (script,) = [fence for fence in docs_text.fences(DOCS / "hook.md", "python") if "DAG(" not in fence.code]
    exec(compile(script.code, script.name, "exec"), {"__name__": "example"})
    created, error = capsys.readouterr().out.splitlines()
    assert created == "created"
    assert error.startswith("CONTACT_NOT_FOUND (404) on GET /contacts/{email}: ")
    assert crm.store.contacts["hedy@example.com"].attributes["name"] == "Hedy"


def airflow_lines() -> list[str]:
    found = []
    for document in docs_text.documents():
        for fence in docs_text.fences(document, "bash"):
            found += re.findall(r"^(?:AIRFLOW__\w+=\S+ )?(airflow .+)$", fence.code, re.MULTILINE)
    return found


@pytest.mark.parametrize("line", airflow_lines())
def test_airflow_commands_of_the_docs_are_valid(line: str) -> None:
    from airflow.cli.cli_parser import get_parser

    words = shlex.split(line)[1:]
    assert get_parser().parse_args(words).subcommand == words[1]  # an unknown option raises SystemExit


def test_connection_uri_of_the_docs_is_valid(monkeypatch: pytest.MonkeyPatch) -> None:
    (uri,) = re.findall(r"='(crm://[^']+)'", (DOCS / "connection.md").read_text("utf-8"))
    monkeypatch.setenv("AIRFLOW_CONN_CRM_DEFAULT", uri.replace("<your API key>", "the-key"))
    expected = Settings(api_key="the-key", timeout=10, developer_mode=True)
    assert CrmHook().get_conn().settings == expected


# -- parameters ---------------------------------------------------------------------------------------------

BASES: dict[str, type[CrmOperator | CrmSensor]] = {"operators.md": CrmOperator, "sensors.md": CrmSensor}


def parameter_table(text: str) -> dict[str, tuple[str, str]]:
    """Parameter -> default and whether it is templated, from the first parameter table."""
    head = "| Parameter | Default | Templated | Meaning |\n"
    lines = text[text.index(head) + len(head) :].splitlines()[1:]
    rows = [line.split(" | ") for line in lines[: lines.index("")]]
    return {re.findall(r"`(\w+)`", row[0])[0]: (row[1].strip("` "), row[2].strip()) for row in rows}


def parameters(cls: type, *, whole: bool) -> dict[str, tuple[str, str]]:
    """The parameters of a class, in the same form.

    :param whole: include the parameters of base classes in this package
    """
    found: dict[str, tuple[str, str]] = {}
    for owner in cls.__mro__ if whole else [cls]:
        if not owner.__module__.startswith("crm_provider.") or "__init__" not in vars(owner):
            continue
        for name, parameter in inspect.signature(owner.__init__).parameters.items():
            if name == "self" or parameter.kind is inspect.Parameter.VAR_KEYWORD:
                continue
            default = '"' + parameter.default + '"' if isinstance(parameter.default, str) else str(parameter.default)
            if name == "retry_policy":
                default = "DEFAULT_RETRY_POLICY"
            if name == "deferrable":  # the default of Airflow's configuration
                default += "`, or `[operators] default_deferrable"
            if parameter.default is inspect.Parameter.empty or name == "contact_email":
                default = "required"  # the signature has None, but the parameter is required
            found.setdefault(name, (default, "yes" if name in cls.template_fields else "no"))
    return found


def section_of(page: str, heading: str) -> str:
    text = (DOCS / page).read_text("utf-8")
    return text[text.index(f"\n## {heading}\n") :]


@pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__name__)
def test_docs_describe_all_parameters_of_an_operator(cls: type) -> None:
    """The page is generated from source text. This test compares it with the Python objects."""
    page = docs_operators.page_of(cls.__name__).read_text("utf-8")
    assert parameter_table(page) == parameters(cls, whole=True)


@pytest.mark.parametrize(("page", "base"), BASES.items())
def test_docs_describe_the_common_parameters(page: str, base: type) -> None:
    assert parameter_table(section_of(page, "Common parameters")) == parameters(base, whole=False)


def test_docs_describe_every_operator() -> None:
    assert {cls.__name__ for cls in CLASSES} == set(docs_operators.names())


@pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__name__)
def test_example_imports_the_operator_from_its_module(cls: type) -> None:
    page = docs_operators.page_of(cls.__name__).read_text("utf-8")
    assert re.search(rf"^from {cls.__module__} import .*\b{cls.__name__}\b", page, re.MULTILINE)


def test_documented_waits_equal_the_constants() -> None:
    section = section_of("errors.md", "Retries")
    assert f"a wait of {LONG_WAIT:g} seconds or more" in section
    assert f"the wait is\n{QUOTA_DELAY / 60:g} minutes" in section
    assert f"at most {MAX_TOTAL_WAIT / 3600:g} hours" in section
    night = section_of("operations.md", "Quota used up")
    assert f"or for {QUOTA_DELAY / 60:g} minutes, repeatedly for up to {MAX_TOTAL_WAIT / 3600:g} hours" in night
