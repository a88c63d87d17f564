"""The DAG that sends rejected rows again: the arguments it takes over, and those it never writes out."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from crm_provider.load.rejects.resend import LONGEST, resend_dag, resend_dag_id

PATH = Path("/data/rejects.jsonl")
STAGE = "c0ffee00-0000-4000-8000-000000000001"
MAPPING = {"email": "E-mail", "phone": {"column": "phone", "type": "phone", "region": "BR"}}

WHOLE = """\
from airflow.sdk import DAG
from crm_provider.operators.load import CrmRetryRejectsOperator

with DAG(
    "crm_leads__load__resend",
    schedule=None,
    max_active_runs=1,
    tags=["crm-resend"],
    params={"rejects": "/data/rejects.jsonl"},
):
    CrmRetryRejectsOperator(
        task_id="resend",
        rejects="{{ params.rejects }}",
        only="all",  # "retryable": only rows that may succeed as they are
        rejects_path="/data/resend-{{ run_id }}.jsonl",
        crm_conn_id="crm_partner",
        mapping={"email": "E-mail", "phone": {"column": "phone", "type": "phone", "region": "BR"}},
        mode="create",
        list_ids=["one"],
        max_rejects="5%",
        on_error={"INVALID_INPUT": "skip"},
        suppression="/data/do-not-contact.csv",
        retries=3,
    )"""

LONG = {
    "email": "Endereço de e-mail",
    "name": {"template": 'Mr. "{first}" {last}'},
    "attributes.plan": {"column": "plan", "type": "text", "null_values": ["n/a", "none", "it's free", "-"]},
    "stage_id": {"constant": STAGE},
}

BROKEN_LINES = f"""\
        mapping={{
            "email": "Endereço de e-mail",
            "name": {{"template": 'Mr. "{{first}}" {{last}}'}},
            "attributes.plan": {{
                "column": "plan",
                "type": "text",
                "null_values": ["n/a", "none", "it's free", "-"],
            }},
            "stage_id": {{"constant": "{STAGE}"}},
        }},
        list_ids=[
            "{STAGE}",
            "{STAGE[::-1]}",
            "{"3" * 36}",
        ],
"""


def test_arguments_that_differ_from_the_defaults_are_written() -> None:
    given = {
        "mapping": MAPPING, "mode": "create", "empty": "skip", "list_ids": ["one"], "only_from_stages": [],
        "max_rejects": "5%", "state_path": "/data/state.db", "suppression": "/data/do-not-contact.csv",
    }  # fmt: skip
    code = resend_dag(
        PATH, given, crm_conn_id="crm_partner", on_error={"INVALID_INPUT": "skip"}, task=("crm_leads", "load")
    )
    assert code == WHOLE


def test_arguments_that_need_several_lines() -> None:
    code = str(resend_dag(PATH, {"mapping": LONG, "list_ids": [STAGE, STAGE[::-1], "3" * 36]}))
    assert BROKEN_LINES in code


def test_ruff_leaves_the_dag_unchanged() -> None:
    """A short DAG, one with several lines for an argument, and one with a long path."""
    far = Path("/data", "it's far" * 14, "rejects.jsonl")
    given = {"mapping": LONG, "list_ids": [STAGE, STAGE[::-1], "3" * 36], "suppression": ["ada@example.com"]}
    codes = [f"{resend_dag(path, some)}\n" for path, some in ((PATH, {}), (PATH, given), (far, given))]
    command = [sys.executable, "-m", "ruff", "format", "--isolated", "--line-length", "110", "-"]
    for code in codes:
        formatted = subprocess.run(command, input=code, capture_output=True, encoding="utf-8", check=True)
        assert formatted.stdout == code


@pytest.mark.parametrize(
    ("kind", "given", "expected"),
    [
        ("contacts", {}, set()),
        ("deals", {"mode": "move", "only_from_stages": ["a"]},
         {'kind="deals",', 'mode="move",', 'only_from_stages=["a"],'}),
        ("deletions", {"max_deletes": 7, "every_spelling": False},
         {'kind="deletions",', "max_deletes=7,", "every_spelling=False,"}),
    ],
)  # fmt: skip
def test_dag_of_each_kind_of_load(kind: str, given: dict[str, Any], expected: set[str]) -> None:
    code = str(resend_dag(PATH, given, kind=kind))
    plain = str(resend_dag(PATH, {})).splitlines()
    assert {line.strip() for line in code.splitlines() if line not in plain} == expected
    ast.parse(code)


@pytest.mark.parametrize(
    ("given", "shown", "hidden"),
    [
        ({"suppression": ["ada@example.com"]}, "suppression=...,  # give the suppression of the load", "ada@"),
        ({"mapping": {"name": {"constant": "Ada"}, "vip": {"constant": True}}},
         'mapping={"name": {"constant": ...}, "vip": {"constant": True}},', "Ada"),
        ({"mapping": {"phone": {"column": "tel", "default": "+55319"}, "stage_id": {"constant": STAGE}}},
         f'"tel", "default": ...}},\n            "stage_id": {{"constant": "{STAGE}"}},', "+55319"),
        ({"mapping": {"email": "x" * 2500}}, "mapping=...,  # give the mapping of the load", "xx"),
        ({"mapping": {"email": object()}}, "mapping=...,  # give the mapping of the load", "object"),
    ],
)  # fmt: skip
def test_arguments_that_are_not_written_out(given: dict[str, Any], shown: str, hidden: str) -> None:
    code = str(resend_dag(PATH, given))
    assert shown in code and hidden not in code
    ast.parse(code)


def test_code_that_is_too_long() -> None:
    wide = {f"attributes.{n}": f"column {n}" for n in range(50)}
    code = str(resend_dag(PATH, {"mapping": wide}))
    assert '"attributes.49": "column 49",\n' in code
    assert resend_dag(PATH, {"mapping": wide, "list_ids": ["x" * 1900]}) is None
    assert len(code) <= LONGEST


def test_dag_id_is_valid_in_airflow() -> None:
    assert resend_dag_id("crm_leads", "group.load") == "crm_leads__group.load__resend"
    assert resend_dag_id("crm_leads__load__resend", "resend") == "crm_leads__load__resend", "it resends its own rejects"
    assert resend_dag_id("crm_leads", "resend") == "crm_leads__resend__resend"
    assert len(resend_dag_id("d" * 250, "t" * 250)) == 110 + 2 + 110 + 2 + 12 + 2 + 6


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (("leads", "eu_load"), ("leads_eu", "load")),
        (("leads", "eu__load"), ("leads__eu", "load")),
        (("leads_", "load"), ("leads", "_load")),
        (("d" * 250, "load"), ("d" * 249 + "e", "load")),
        (("leads", "t" * 250), ("leads", "t" * 249 + "u")),
    ],
)
def test_two_tasks_never_share_a_dag_id(one: tuple[str, str], other: tuple[str, str]) -> None:
    assert resend_dag_id(*one) != resend_dag_id(*other)
    assert all(re.fullmatch(r"[A-Za-z0-9_.-]{1,250}", resend_dag_id(*each)) for each in (one, other))
