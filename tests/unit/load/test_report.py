"""The report: everything that the user must know, and no value."""

from __future__ import annotations

import pickle
from dataclasses import replace
from pathlib import Path

import pytest

from crm_provider.errors import CrmTimeoutError
from crm_provider.errors.catalog import CATALOGUE
from crm_provider.errors.on_error import Action
from crm_provider.errors.policy import DecidedBy, Decision
from crm_provider.files.paths import CannotWrite
from crm_provider.load.kinds.deals import DEALS
from crm_provider.load.kinds.deletions import DELETIONS
from crm_provider.load.kinds.kind import Kind
from crm_provider.load.report import (
    CORRECT,
    MEANING,
    SHOWN_PROBLEMS,
    LoadInterrupted,
    LoadStopped,
    LoadUnsaved,
    Summary,
    TooManyRejects,
    duration,
    report,
    write_report,
)
from crm_provider.load.rows import Outcome

SUMMARY = Summary(
    rows=1000,
    counts={Outcome.CREATED: 200, Outcome.UPDATED: 780, Outcome.REJECTED: 20},
    errors={"INVALID_INPUT": 4, "INVALID_VALUE": 15, "DUPLICATE_ROW": 1},
    problems={"phone (column 'a|b'): no phone number; correct it": 15},
    calls=1210, calls_saved=580, throttled=3, seconds=245.0, budget_used=0.98, resumed_at=400,
    plan="learned", plan_why="of 10 sampled rows, 8 exist", plan_calls=1230, plan_seconds=248.0,
)  # fmt: skip


def lines(summary: Summary = SUMMARY, **arguments: str) -> list[str]:
    return report(summary, title="Load of in.csv", ending="Done.", **arguments).splitlines()


def test_every_outcome_has_a_line() -> None:
    found = lines()
    assert set(MEANING) == set(Outcome)
    for outcome in SUMMARY.outcomes:
        share = f"{SUMMARY[outcome] / 1000:.1%}"
        assert f"| {outcome.value} | {SUMMARY[outcome]:,} | {share} | {MEANING[outcome]} |" in found
    assert "| **all** | **1,000** |  |  |" in found
    assert not [line for line in found if line.startswith("| left")]


@pytest.mark.parametrize(
    ("kind", "plan", "line"),
    [
        (DEALS, "compare", "| skipped | 0 | - | left out: `on_error` said so, another row is for the same deal,"),
        (DELETIONS, "delete", "| deleted | 0 | - | were there, and were deleted |"),
    ],
)
def test_each_kind_of_load_has_its_own_wording(kind: Kind, plan: str, line: str) -> None:
    options = kind.options
    summary = Summary(
        rows=0, kind=kind.name, outcomes=options.outcomes, plan=plan, plan_words=options.plan_words[plan]
    )  # fmt: skip
    text = report(summary, title="Load", ending="Done.", options=options)
    assert line in text
    assert f"| Saved | 0 calls, compared with {options.naive} |" in text
    data = summary.as_dict()
    assert data["plan"]["words"] == options.plan_words[plan]


def test_errors_say_what_to_do_most_common_first() -> None:
    found = [line for line in lines() if line.startswith("| `") and line.count("|") == 4]
    assert found == [
        f"| `INVALID_VALUE` | 15 | {CORRECT} |",
        f"| `INVALID_INPUT` | 4 | {CATALOGUE['INVALID_INPUT'].advice} |",
        f"| `DUPLICATE_ROW` | 1 | {CORRECT} |",
    ]


def test_problems_and_calls_in_the_report() -> None:
    found = lines()
    assert "| 15 | phone (column 'a\\|b'): no phone number; correct it |" in found
    assert "| Plan | `learned`: of 10 sampled rows, 8 exist |" in found
    assert "| Made | 1,210 calls in 4 min, 98% of the budget |" in found
    assert "| Resumed | the last try continued after 400 rows |" in found


def test_empty_sections_are_omitted() -> None:
    text = "\n".join(lines(Summary(rows=0)))
    for absent in ("## Errors", "## Rows that cannot be sent", "## Send", "Resumed"):
        assert absent not in text


def test_load_that_stopped_before_its_plan() -> None:
    found = lines(Summary(rows=377, left=377))
    assert "| Plan | The load stopped before a plan was made. |" in found
    assert not [line for line in found if line.startswith("| Planned")]
    assert "| Planned | 1,230 calls, 4 min |" in lines()


def test_many_problems_are_summarised() -> None:
    many = {f"field {number}: wrong; correct it": 1 for number in range(SHOWN_PROBLEMS + 7)}
    assert "| 7 | 7 more kinds of problems |" in lines(Summary(rows=100, problems=many))


def test_stopped_load_and_dry_run_say_so() -> None:
    assert "| left | 90 | 90.0% | not sent yet |" in lines(Summary(rows=100, counts={Outcome.CREATED: 10}, left=90))
    checked = {"to send": 3, "cannot be sent": 1}
    dry = lines(Summary(rows=4, left=4, dry_run=True, checked=checked))
    assert "## Rows (dry run: nothing was written)" in dry
    assert "| to send | 3 | 75.0% | valid |" in dry
    assert "| cannot be sent | 1 | 25.0% | a real run rejects them |" in dry
    assert not [line for line in dry if line.startswith(("| rejected", "| left"))]


def test_report_is_private_and_replaced_as_a_whole(tmp_path: Path) -> None:
    path = tmp_path / "made" / "report.md"
    for text in ("first", "second"):
        write_report(path, text)
        assert path.read_text() == text
    assert path.stat().st_mode & 0o777 == 0o600
    assert [file.name for file in path.parent.iterdir()] == ["report.md"]


def test_result_of_too_many_rejects() -> None:
    error = pickle.loads(pickle.dumps(TooManyRejects("1 of 2 rows was rejected.", {"rejected": 1}, "Correct it.")))
    assert (str(error), error.result) == ("1 of 2 rows was rejected. Correct it.", {"rejected": 1})


FULL = Summary(
    rows=1234,
    counts={Outcome.CREATED: 1200, Outcome.REJECTED: 4},
    errors={"INVALID_INPUT": 4},
    problems={"email": 4},
    left=30,
    calls=1300,
    calls_saved=1100,
    throttled=2,
    seconds=100.26,
    budget_used=0.98765,
    resumed_at=7,
    plan="learned",
    plan_words="does this",
    plan_why="it is cheapest",
    plan_calls=1310,
    plan_seconds=262.06,
    dry_run=True,
    would_fail=True,
    outcomes=(Outcome.CREATED, Outcome.REJECTED),
    paths={"rejects": "r.csv"},
    samples=({"row": 1},),
    ending="It is done.",
    resend="dag",
)


def test_result_has_every_figure() -> None:
    result = {
        "rows": 1234,
        "created": 1200,
        "rejected": 4,
        "left": 30,
        "calls": 1300,
        "calls_saved": 1100,
        "throttled": 2,
        "errors": {"INVALID_INPUT": 4},
        "problems": {"email": 4},
        "plan": {"name": "learned", "words": "does this", "why": "it is cheapest", "calls": 1310, "seconds": 262.1},
        "seconds": 100.3,
        "budget_used": 0.988,
        "resumed_at": 7,
        "dry_run": True,
        "would_fail": True,
        "ending": "It is done.",
        "samples": [{"row": 1}],
        "resend": "dag",
        "rejects_path": "r.csv",
    }
    assert FULL.as_dict() == result
    del result["would_fail"]
    real = replace(FULL, dry_run=False, plan="another", plan_words="").as_dict()
    assert real == {**result, "dry_run": False, "plan": {**result["plan"], "name": "another", "words": ""}}  # type: ignore[dict-item]


@pytest.mark.parametrize(
    ("summary", "line"),
    [
        (
            FULL,
            (
                "1,234 rows: 1,200 created, 4 rejected, 30 left; "
                "1,300 calls in 2 min (99% of the budget), 1,100 saved by the plan"
            ),
        ),
        (Summary(rows=1, calls=1), "1 row: none done; 1 call in 0 s (0% of the budget)"),
        (Summary(rows=2, calls=2), "2 rows: none done; 2 calls in 0 s (0% of the budget)"),
    ],
)
def test_line_of_the_log(summary: Summary, line: str) -> None:
    assert summary.line() == line


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (89.4, "89 s"),
        (90.0, "2 min"),
        (90.5, "2 min"),
        (89 * 60.0, "89 min"),
        (90 * 60.0, "1 h 30 min"),
        (20000.0, "5 h 33 min"),
        (121 * 60.0, "2 h 01 min"),
    ],
)
def test_time_for_people(seconds: float, words: str) -> None:
    assert duration(seconds) == words


@pytest.mark.parametrize(
    "end",
    [
        LoadStopped(CrmTimeoutError("no response"), Decision(Action.FAIL, DecidedBy.DEFAULT, "TIMEOUT"), FULL),
        LoadUnsaved(CannotWrite("/data", "No space left on device"), FULL),
        LoadInterrupted(FULL),
        TooManyRejects("4 rows were rejected.", {"rows": 4}, "Correct them."),
        TooManyRejects("4 rows were rejected.", {"rows": 4}),
    ],
)
def test_end_of_a_load_can_be_sent_to_another_process(end: Exception) -> None:
    copy = pickle.loads(pickle.dumps(end))
    assert type(copy) is type(end)
    assert (str(copy), list(vars(copy))) == (str(end), list(vars(end)))
    assert list(map(str, copy.args)) == list(map(str, end.args)) == list(map(str, vars(end).values()))


def test_advice_follows_the_problem_if_there_is_one() -> None:
    assert str(TooManyRejects("Too many.", {}, "Correct them.")) == "Too many. Correct them."
    assert str(TooManyRejects("Too many.", {})) == "Too many."
