"""``python -m crm_provider policy``: the action for each error, and the reason."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys

import pytest

from crm_provider.__main__ import main
from crm_provider.errors.on_error import Work
from crm_provider.errors.policy import OPERATORS, ErrorPolicy
from crm_provider.errors.policy_table import explain

from .reference import OUTCOMES, TYPES

Capture = pytest.CaptureFixture[str]


def run(capsys: Capture, *arguments: str) -> str:
    """The output of a successful run."""
    assert main(["policy", *arguments]) == 0
    printed = capsys.readouterr()
    assert printed.err == ""
    return printed.out


@pytest.mark.parametrize("work", Work, ids=lambda work: work.value)
def test_json_is_the_effective_table(capsys: Capture, work: Work) -> None:
    lines = json.loads(run(capsys, "--for", work.value, "--format", "json"))
    assert {line["type"]: line["action"] for line in lines} == {
        type_: outcomes[list(Work).index(work)] for type_, outcomes in OUTCOMES.items()
    }
    assert lines == [dataclasses.asdict(line) for line in explain(ErrorPolicy(work=work))]


@pytest.mark.parametrize("operator", OPERATORS)
def test_every_operator_has_its_table(capsys: Capture, operator: str) -> None:
    policy = ErrorPolicy({"DEAL_NOT_FOUND": "skip"}, work=OPERATORS[operator], operator=operator)
    printed = run(capsys, "--for", operator, "--on-error", '{"DEAL_NOT_FOUND": "skip"}', "--format", "json")
    assert json.loads(printed) == [dataclasses.asdict(line) for line in explain(policy)]
    assert '"origin": "on_error[DEAL_NOT_FOUND]"' in printed


def test_mode_can_be_a_separate_option(capsys: Capture) -> None:
    whole = run(capsys, "--for", "CrmLoadDealsOperator(mode='move')")
    assert run(capsys, "--for", "CrmLoadDealsOperator", "--mode", "move") == whole


@pytest.mark.parametrize(
    ("operator", "mode", "message"),
    [
        ("CrmLoadDealsOperator", "remove", "the mode 'remove'; known: 'move', 'update', 'create', or leave it out"),
        (
            "CrmRetryRejectsOperator",
            "move",
            "rejects of deals follow the rules of CrmLoadDealsOperator",
        ),
        ("CrmListSensor", "move", "CrmListSensor has no rules for the mode 'move'; leave it out"),
    ],
)
def test_mode_without_rules_of_its_own_is_explained(capsys: Capture, operator: str, mode: str, message: str) -> None:
    assert main(["policy", "--for", operator, "--mode", mode]) == 2
    assert message in capsys.readouterr().err


def test_text_is_aligned_and_has_a_line_for_each_type(capsys: Capture) -> None:
    head, *rows = run(capsys).splitlines()
    assert [row.split()[0] for row in rows] == list(TYPES_IN_ORDER)
    outcome = head.index("Outcome")
    for row, type_ in zip(rows, TYPES_IN_ORDER, strict=True):
        assert row[outcome:].split()[0] == OUTCOMES[type_][0]
        assert len(row) <= 220


TYPES_IN_ORDER = [line.type for line in explain()]


def test_all_types_are_in_the_table() -> None:
    assert sorted(TYPES_IN_ORDER) == sorted(TYPES)


def test_markdown_is_a_table(capsys: Capture) -> None:
    rows = run(capsys, "--format", "markdown").splitlines()
    assert len(rows) == len(TYPES) + 2
    assert {row.count("|") for row in rows} == {9}
    assert rows[1] == "|---|---|---|---|---|---|---|---|"
    cells = ["STAGE_NOT_FOUND", "CrmStageNotFoundError", "404", "-", "fail", "fail the task, no further try"]
    cells.append("default[STAGE_NOT_FOUND]")
    assert f"| {' | '.join(cells)} | check that the stage exists |" in rows


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (
            ["--for", "CrmMoveDealOperator"],
            "unknown operator 'CrmMoveDealOperator'. Did you mean 'CrmMoveDealStageOperator'?",
        ),
        (["--for", "x"], "unknown operator 'x'. Known: CrmUpsertContactOperator, "),
        (["--on-error", "{DEAL: skip}"], "--on-error is not valid JSON ("),
        (["--on-error", '["skip"]'], "on_error must be a mapping"),
        (["--on-error", "[]"], "on_error must be a mapping"),
        (["--on-error", '{"DEAL_NOT_FOUNT": "skip"}'], "Did you mean 'DEAL_NOT_FOUND'?"),
        (["--on-error", '{"INVALID_INPUT": "retry"}'], "Valid for this error in a task: skip, fail."),
        (["--for", "sensor", "--on-error", '{"DEAL_NOT_FOUND": "reject"}'], "'reject' is not an action of a sensor."),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_bad_input_is_reported_and_nothing_is_printed(capsys: Capture, arguments: list[str], expected: str) -> None:
    assert main(["policy", *arguments]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("error: ")
    assert expected in printed.err
    assert len(printed.err.splitlines()) == 1


@pytest.mark.parametrize("arguments", [[], ["policies"], ["policy", "--format", "xml"]], ids=" ".join)
def test_invalid_usage(capsys: Capture, arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(arguments)
    assert end.value.code == 2
    assert "usage: python -m crm_provider" in capsys.readouterr().err


def test_help_names_the_operators(capsys: Capture) -> None:
    with pytest.raises(SystemExit) as end:
        main(["policy", "--help"])
    assert end.value.code == 0
    shown = "".join(capsys.readouterr().out.split())
    assert all(operator in shown for operator in OPERATORS)


def test_policy_as_a_command() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "crm_provider", "policy", "--for", "CrmListSensor"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert "CrmListSensor[SEGMENTATION_LIST_NOT_FOUND]" in done.stdout


def test_closed_pipe_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with open(writer, "w") as nobody_reads:  # noqa: PTH123 - a descriptor
        monkeypatch.setattr(sys, "stdout", nobody_reads)
        assert main(["policy"]) == 0
