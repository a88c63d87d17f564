"""The report: everything that the user must know, and no value."""

from __future__ import annotations

import pickle
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from crm_provider.errors import CrmTimeoutError
from crm_provider.errors.catalog import CATALOGUE
from crm_provider.errors.on_error import Action
from crm_provider.errors.policy import DecidedBy, Decision
from crm_provider.files.paths import CannotWrite
from crm_provider.load.kinds.deals import DEALS
from crm_provider.load.kinds.deletions import DELETIONS, DeleteOptions
from crm_provider.load.kinds.kind import Kind
from crm_provider.load.options import ContactOptions
from crm_provider.load.report import (
    CORRECT,
    SHOWN_PROBLEMS,
    LoadInterrupted,
    LoadStopped,
    LoadUnsaved,
    Summary,
    TooManyRejects,
    finish_summary,
    outcomes_of,
    report,
    too_many_rejects,
    write_report,
)
from crm_provider.load.rows import MEANING, Outcome, duration

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
    assert "| suppressed |" not in text
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
    assert "| left | 90 | 90.0% | not done yet |" in lines(Summary(rows=100, counts={Outcome.CREATED: 10}, left=90))
    unsure = lines(Summary(rows=100, counts={Outcome.CREATED: 10}, left=90, unsure=2))
    assert "| left | 90 | 90.0% | not done yet; up to 2 may have been written |" in unsure
    deletions = Summary(rows=100, left=90, unsure=2, outcomes=DeleteOptions.outcomes)
    assert "| left | 90 | 90.0% | not done yet; up to 2 may have been deleted |" in lines(deletions)
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
    rows=1234, counts={Outcome.CREATED: 1200, Outcome.REJECTED: 4}, errors={"INVALID_INPUT": 4},
    problems={"email": 4}, left=30, unsure=3, retryable=1, calls=1300, calls_saved=1100, throttled=2,
    seconds=100.26, budget_used=0.98765,
    resumed_at=7, plan="learned", plan_words="does this", plan_why="it is cheapest", plan_calls=1310,
    plan_seconds=262.06, dry_run=True, would_fail=True, outcomes=(Outcome.CREATED, Outcome.REJECTED),
    paths={"rejects": "r.csv"}, samples=({"row": 1},), ending="It is done.", resend="dag",
)  # fmt: skip


def test_result_has_every_figure() -> None:
    result = {
        "rows": 1234, "created": 1200, "rejected": 4, "left": 30, "unsure": 3, "retryable": 1,
        "calls": 1300, "calls_saved": 1100, "throttled": 2, "errors": {"INVALID_INPUT": 4},
        "problems": {"email": 4}, "plan": {"name": "learned", "words": "does this",
        "why": "it is cheapest", "calls": 1310, "seconds": 262.1}, "seconds": 100.3, "budget_used": 0.988,
        "resumed_at": 7, "dry_run": True, "would_fail": True, "ending": "It is done.", "samples": [{"row": 1}],
        "resend": "dag", "rejects_path": "r.csv",
    }  # fmt: skip
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
                "1,234 rows: 1,200 created, 4 rejected, 30 left, of which up to 3 may have been written; "
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


REAL = Summary(
    rows=2000,
    counts={Outcome.CREATED: 1200, Outcome.UPDATED: 300, Outcome.SKIPPED: 40, Outcome.REJECTED: 60},
    errors={"INVALID_VALUE": 30, "HTTP_404": 15, "INVALID_INPUT": 15, "CONTACT_ALREADY_EXISTS": 40},
    problems={"phone (column 'a|b'): no phone number": 5, "email: missing": 20, "birthday: no date": 5},
    notes=("A first note.", "A second note."),
    calls=1620, calls_saved=1100, throttled=1, seconds=245.0, left=400, unsure=12, budget_used=0.98, resumed_at=1,
    plan="learned", plan_why="of 10 sampled rows, 8 exist", plan_calls=2030, plan_seconds=5400.0,
)  # fmt: skip

REAL_PAGE = Path(__file__).with_name("data").joinpath("report.md").read_text("utf-8")

DRY_PAGE = Path(__file__).with_name("data").joinpath("report-dry-run.md").read_text("utf-8")


def test_whole_page_of_a_resumed_load_that_stopped() -> None:
    assert report(REAL, title="Load of in.csv", ending="Stopped.", resend="Run it again.") == REAL_PAGE


def test_whole_page_of_a_dry_run_of_one_row() -> None:
    checked = {"to send": 0, "cannot be sent": 1}
    summary = Summary(rows=1, left=1, dry_run=True, checked=checked, problems={"email: missing": 1})
    assert report(summary, title="Load of one.csv", ending="Nothing was sent.") == DRY_PAGE


MANY = {f"ERROR_{letter}": 1 for letter in "FEDCBA"}


@pytest.mark.parametrize(
    ("rows", "rejected", "allowed", "errors", "message"),
    [
        (
            1, 1, 0, {"INVALID_INPUT": 1},
            (
                "1 of 1 row was rejected; max_rejects=0 allows none. "
                "Most often INVALID_INPUT (1 row): send a valid body with all required fields"
            ),
        ),
        (
            200_000, 2_002, "1%", {"INVALID_INPUT": 1_000, "INVALID_VALUE": 1_002},
            (
                "2,002 of 200,000 rows were rejected; max_rejects='1%' allows 2,000. "
                "Most often INVALID_VALUE (1,002 rows), 7 of them: email: missing. Also 1,000 INVALID_INPUT"
            ),
        ),
        (
            9, 7, 1, {"INVALID_VALUE": 7, "CONTACT_ALREADY_EXISTS": 8},  # skipped by on_error
            "7 of 9 rows were rejected; max_rejects=1 allows 1. Most often INVALID_VALUE (7 rows): email: missing",
        ),
        (
            9, 8, 7, {"INVALID_INPUT": 2, **MANY},
            (
                "8 of 9 rows were rejected; max_rejects=7 allows 7. "
                "Most often INVALID_INPUT (2 rows): send a valid body with all required fields. "
                "Also 1 ERROR_A, 1 ERROR_B, 1 ERROR_C, 1 ERROR_D, 1 ERROR_E"
            ),
        ),
        (
            9, 2, 1, {"INVALID_INPUT": 1, "CONTACT_ALREADY_EXISTS": 2},  # some of them were skipped
            (
                "2 of 9 rows were rejected; max_rejects=1 allows 1. "
                "The errors of all rows: 2 CONTACT_ALREADY_EXISTS, 1 INVALID_INPUT"
            ),
        ),
    ],
)  # fmt: skip
def test_whole_message_about_too_many_rejects(
    rows: int, rejected: int, allowed: int | str, errors: dict[str, int], message: str
) -> None:
    problems = {"birthday: no date": 3, "email: missing": 7}
    summary = Summary(rows=rows, counts={Outcome.REJECTED: rejected}, errors=errors, problems=problems)
    assert too_many_rejects(summary, ContactOptions(max_rejects=allowed)) == message
    assert too_many_rejects(summary, ContactOptions(max_rejects=rejected)) is None


def deletion(folder: Path, *, outcomes: int = 3, dry_run: bool = False) -> Any:
    """A load of deletions, as its report needs it."""
    return SimpleNamespace(
        source=SimpleNamespace(name="gone.csv"),
        options=DeleteOptions(dry_run=dry_run),
        rejects=None,
        outcomes=SimpleNamespace(path=folder / "outcomes.csv", count=outcomes),
        fingerprints=None,
    )


def test_written_page_has_the_words_of_its_kind_of_load(tmp_path: Path) -> None:
    path = tmp_path / "page.md"
    found = finish_summary(deletion(tmp_path), Summary(rows=1), ending="x" * 1000, report_path=path)
    assert f"| Saved | 0 calls, compared with {DeleteOptions.naive} |" in path.read_text()
    assert found.ending == "x" * 1000


def test_outcomes_file_is_named_if_a_real_run_wrote_one(tmp_path: Path) -> None:
    assert outcomes_of(deletion(tmp_path)) == tmp_path / "outcomes.csv"
    assert outcomes_of(deletion(tmp_path, outcomes=0)) is None
    assert outcomes_of(deletion(tmp_path, dry_run=True)) is None
