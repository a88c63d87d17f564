"""The arguments of a load: checks when the DAG is parsed, and checks left for the run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from crm_provider.load.kinds.contacts import CONTACTS
from crm_provider.load.kinds.deals import DealOptions
from crm_provider.load.kinds.deletions import DeleteOptions
from crm_provider.load.kinds.kind import FILES
from crm_provider.load.options import ContactOptions, LoadOptions
from crm_provider.load.rows import Row, SourceError

LIST, OTHER = "11111111-1111-4111-8111-111111111111", "22222222-2222-4222-8222-222222222222"


def later(value: Any) -> bool:
    """Templates, and results of other tasks."""
    return isinstance(value, str) and "{{" in value


def check(**given: Any) -> None:
    CONTACTS.check_arguments(given, later=later)


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        ({"mode": "upset"}, "mode='upset' is unknown"),
        ({"list_ids": ["Newsletter"]}, r"list_ids\[0\]"),
        ({"list_ids": "Newsletter"}, r"list_ids\[0\]"),
        ({"list_ids": {}}, r"list_ids\[0\] is of type dict"),
        ({"list_ids": ""}, r"list_ids\[0\] is text of 0 characters"),
        ({"resubscribe": "{{ params.all }}"}, "resubscribe must be True or False but is of type str; t"),
        ({"dry_run": 0}, "dry_run must be True or False but is of type int"),
        ({"mapping": {"email": 5}}, "mapping"),
        ({"empty": "delete"}, "empty"),
        ({"plan": "create_first"}, "plan='create_first' is unknown; known: auto, learned, compare"),
        ({"plan": "learned", "mode": "create"}, "plan='learned' is for mode='upsert'"),
        ({"rejects_path": "rejects.xlsx"}, "rejects_path: "),
        ({"rejects_path": Path("rejects.xlsx")}, "rejects_path: "),
        ({"source": "a.csv", "rejects_path": "a.csv"}, "rejects_path is the file of source"),
        ({"state_path": "s", "checkpoint_path": Path("s")}, "checkpoint_path is the file of state_path"),
        ({"full_refresh": True}, "full_refresh=True needs state_path"),
    ],
)
def test_invalid_arguments_are_reported_when_the_dag_is_parsed(given: dict[str, Any], problem: str) -> None:
    with pytest.raises(SourceError, match=problem):
        check(**given)


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"mode": "{{ mode }}", "list_ids": "{{ lists }}"},
        {"mapping": "{{ mapping }}", "empty": "delete"},  # reported together with the mapping
        {"mapping": {"email": "mail"}, "region": "BR", "empty": "skip"},
        {"list_ids": LIST},
        {"list_ids": [LIST]},
        {"plan": "compare"},
        {"plan": "compare", "mode": "create"},
        {"rejects_path": "{{ path }}", "source": "{{ path }}"},
        {"rejects_path": "s3://bucket/rejects.xlsx"},  # checked when the task runs
        {"rejects_path": "rejects.jsonl", "report_path": "report.md", "source": [{"email": "a@x.io"}]},
        {"state_path": "s"},
        {"state_path": "s", "full_refresh": True},
    ],
)
def test_valid_or_unknown_arguments_pass(given: dict[str, Any]) -> None:
    check(**given)


def test_any_two_files_of_a_load_must_differ() -> None:
    for first in FILES:
        for second in FILES:
            if first < second:
                with pytest.raises(SourceError, match="give each its own"):
                    CONTACTS.check_arguments({first: "same.jsonl", second: "same.jsonl"}, later=later, complete=False)


def test_missing_arguments_of_a_mapped_task_may_come_with_each_map_index() -> None:
    CONTACTS.check_arguments({"full_refresh": True}, later=later, complete=False)
    with pytest.raises(SourceError):
        CONTACTS.check_arguments({"full_refresh": True}, later=later)


def test_options_from_arguments() -> None:
    options = CONTACTS.options_of({"list_ids": LIST, "plan": "compare", "mode": "update", "source": "not an option"})
    assert (options.list_ids, options.plan, options.mode) == ((LIST,), "compare", "update")
    assert CONTACTS.options_of({"list_ids": None}).list_ids == ()
    assert CONTACTS.options_of({"list_ids": [LIST]}).list_ids == (LIST,)
    assert CONTACTS.options_of({}).plan == "auto"


def test_mapping_takes_its_defaults_from_the_arguments() -> None:
    row = Row(1, {"mail": "ADA@x.io"})
    assert CONTACTS.mapper_of({"mapping": {"email": "mail"}, "lowercase_email": True})(row).email == "ada@x.io"
    assert CONTACTS.mapper_of({"mapping": {"email": "mail"}})(row).email == "ADA@x.io"


@pytest.mark.parametrize(
    ("options", "effect"),
    [
        ({}, {}),
        ({"mode": "update"}, {}),
        ({"mode": "create"}, {"mode": "create"}),
        ({"mode": "create", "list_ids": [OTHER, LIST]}, {"mode": "create", "list_ids": [LIST, OTHER]}),
    ],
)
def test_effect_that_a_state_file_belongs_to(options: dict[str, Any], effect: dict[str, Any]) -> None:
    assert ContactOptions(**options).effect == effect


@pytest.mark.parametrize(
    ("options", "must"),
    [
        (ContactOptions(list_ids=(LIST,)), False),
        (ContactOptions(mode="create"), False),
        (ContactOptions(mode="create", list_ids=(LIST,)), True),
        (DealOptions(mode="upsert"), False),
        (DealOptions(mode="create"), True),
        (DeleteOptions(), False),
    ],
)
def test_loads_whose_second_run_must_recognise_their_records(options: LoadOptions, must: bool) -> None:
    assert options.must_know_own is must
