"""The end of a load: its report if it can be written, the paths of its files, and the advice about rejects."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from crm_provider.load.dry_run import dry_run_ending, what_next
from crm_provider.load.kinds.deletions import DeleteOptions
from crm_provider.load.options import ContactOptions
from crm_provider.load.report import Summary, TooManyRejects, done, finish_summary, rejects_of, report, what_to_do
from crm_provider.load.rows import Outcome, how_to_resend

SUMMARY = Summary(rows=5, counts={Outcome.CREATED: 3, Outcome.REJECTED: 2}, calls=5)


def load(folder: Path, *, rejects: int | None = 2, state: bool = False, dry_run: bool = False) -> Any:
    """The part of a load that its conclusion needs.

    :param rejects: number of rejected rows; None without a rejects file
    """
    return SimpleNamespace(
        source=SimpleNamespace(name="in.csv"),
        options=ContactOptions(dry_run=dry_run),
        rejects=None if rejects is None else SimpleNamespace(path=folder / "out" / "rejects.jsonl", count=rejects),
        outcomes=SimpleNamespace(path=folder / "outcomes.csv", count=3) if state else None,
        fingerprints=SimpleNamespace(path=folder / "state") if state else None,
    )


HOW = 'Correct 2 rows in the file, then send them with CrmRetryRejectsOperator(only="all").'


def resend(
    folder: Path, *, how: str = f"{HOW} This DAG sends all rows of the file:\n\n```python\nwith DAG(...)\n```"
) -> str:
    path = folder / "out" / "rejects.jsonl"
    return f"They are in `{path}`, as they were given, each with its reason. {how}"


def test_report_is_beside_the_rejects_and_all_paths_are_returned(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    it = load(tmp_path, state=True)
    summary = finish_summary(it, replace(SUMMARY, resend="with DAG(...)"), ending="Done.")
    written = tmp_path / "out" / "rejects.jsonl.report.md"
    assert summary == replace(
        SUMMARY,
        paths={
            "rejects": str(it.rejects.path),
            "outcomes": str(tmp_path / "outcomes.csv"),
            "report": str(written),
            "state": str(tmp_path / "state"),
        },
        ending="Done.",
        resend="with DAG(...)",
    )
    assert summary.as_dict()["resend"] == "with DAG(...)"
    expected = report(SUMMARY, title="Load of in.csv", ending="Done.", resend=resend(tmp_path))
    assert written.read_text() == expected
    finish_summary(it, SUMMARY, ending="Done.")
    assert resend(tmp_path, how=HOW) in written.read_text()
    assert finish_summary(it, SUMMARY, ending="x" * 2000).ending == "x" * 1000 + "..."


def test_no_rejects_file_and_no_advice_without_rejects(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    summary = finish_summary(load(tmp_path, rejects=0), SUMMARY, ending="Done.")
    written = tmp_path / "out" / "rejects.jsonl.report.md"
    assert summary.paths == {"rejects": None, "outcomes": None, "report": str(written), "state": None}
    assert written.read_text() == report(SUMMARY, title="Load of in.csv", ending="Done.")


@pytest.mark.parametrize("it", [{"rejects": None}, {"dry_run": True}])
def test_no_report_without_a_path_or_in_a_dry_run(tmp_path: Path, it: dict[str, Any]) -> None:
    summary = finish_summary(load(tmp_path, **it), SUMMARY, ending="Done.")
    assert summary.paths == {"rejects": None, "outcomes": None, "report": None, "state": None}
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("it", [{}, {"rejects": None}, {"dry_run": True}])
def test_report_is_written_to_the_given_path(tmp_path: Path, it: dict[str, Any]) -> None:
    path = tmp_path / "page.md"
    assert finish_summary(load(tmp_path, **it), SUMMARY, ending="Stopped.", report_path=path).paths["report"] == str(
        path
    )
    assert "Stopped." in path.read_text()
    assert list(tmp_path.iterdir()) == [path]


def test_report_that_cannot_be_written_does_not_change_the_result(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "folder"
    path.mkdir()
    with caplog.at_level(logging.WARNING):
        summary = finish_summary(load(tmp_path), SUMMARY, ending="Done.", report_path=path)
    assert summary.paths["report"] is None
    [line] = caplog.messages
    assert str(path) in line and "report of this load" in line


@pytest.mark.parametrize(
    ("it", "there"),
    [
        ({}, True),
        ({"rejects": 1}, True),
        ({"rejects": 0}, False),
        ({"rejects": None}, False),
        ({"dry_run": True}, False),
    ],
)
def test_existing_rejects_file_is_named(tmp_path: Path, it: dict[str, Any], there: bool) -> None:
    found = load(tmp_path, **it)
    assert rejects_of(found) == (found.rejects.path if there else None)


def test_closing_text_of_a_load(tmp_path: Path) -> None:
    path = tmp_path / "out" / "rejects.jsonl"
    advice = f"The rejected rows and their reasons are in {path}. {HOW}"
    without = "Set rejects_path to keep the rejected rows and the reasons in a file."
    clean = replace(SUMMARY, counts={Outcome.CREATED: 5})
    assert what_to_do(load(tmp_path), SUMMARY) == advice
    assert what_to_do(load(tmp_path, rejects=None), SUMMARY) == without
    assert done(load(tmp_path), SUMMARY) == f"Done. {advice}"
    assert done(load(tmp_path, rejects=None), SUMMARY) == f"Done. {without}"
    assert done(load(tmp_path), clean) == "Done."


@pytest.mark.parametrize(
    ("retryable", "others", "text"),
    [
        (0, 1, 'Correct 1 row in the file, then send it with CrmRetryRejectsOperator(only="all").'),
        (1, 0, "1 row may succeed as it is: CrmRetryRejectsOperator sends it."),
        (
            2000,
            3,
            (
                "2,000 rows may succeed as they are: CrmRetryRejectsOperator sends them. "
                'Correct 3 rows in the file, then send them with CrmRetryRejectsOperator(only="all").'
            ),
        ),
    ],
)
def test_advice_says_how_many_rejects_need_a_correction(retryable: int, others: int, text: str) -> None:
    assert how_to_resend(retryable, others) == text


@pytest.mark.parametrize(
    ("result", "why"),
    [
        ({"retryable": 0, "rejects_path": "r"}, "all other rows are done"),
        ({"retryable": 1, "rejects_path": None}, "all other rows are done; 1 row may succeed as it is"),
        (
            {"retryable": 1, "rejects_path": "r"},
            "all other rows are done; 1 row may succeed as it is, send it with CrmRetryRejectsOperator",
        ),
        (
            {"retryable": 2, "rejects_path": "r"},
            "all other rows are done; 2 rows may succeed as they are, send them with CrmRetryRejectsOperator",
        ),
    ],
)
def test_load_with_too_many_rejects_says_why_it_is_not_retried(result: dict[str, Any], why: str) -> None:
    assert TooManyRejects("Too many.", result).why_no_retry == why


BAD = {"to send": 4, "cannot be sent": 1}
CHECKED_TEXT = "A dry run: every row was checked, nothing was written."
ONE_BAD = "1 row cannot be sent"


@pytest.mark.parametrize(
    ("options", "found", "ending", "advice"),
    [
        (ContactOptions(), {"checked": {"to send": 5}}, CHECKED_TEXT, "Leave out dry_run to load them."),
        (
            ContactOptions(max_rejects="20%"), {"checked": BAD},
            f"{CHECKED_TEXT} {ONE_BAD}.", "Leave out dry_run to load them.",
        ),
        (
            ContactOptions(), {"checked": BAD},
            f"{CHECKED_TEXT} A real run would fail: {ONE_BAD}, max_rejects=0 allows none.",
            "Correct the rows, or raise max_rejects.",
        ),
        (
            ContactOptions(max_rejects=1), {"checked": {"to send": 3, "cannot be sent": 2}},
            f"{CHECKED_TEXT} A real run would fail: 2 rows cannot be sent, max_rejects=1 allows 1.",
            "Correct the rows, or raise max_rejects.",
        ),
        (
            ContactOptions(max_rejects=9, on_invalid="stop"), {"checked": BAD},
            f"{CHECKED_TEXT} A real run would load none and fail: {ONE_BAD}, on_invalid='stop'.",
            "Correct the rows.",
        ),
        (
            DeleteOptions(max_deletes=3), {"forecast": "3 contacts would be deleted"},
            f"{CHECKED_TEXT} 3 contacts would be deleted.", "Leave out dry_run to delete them.",
        ),
        (
            DeleteOptions(max_deletes=1),
            {"forecast": "3 contacts would go", "refusal": "3 contacts, more than max_deletes=1", "checked": BAD},
            f"{CHECKED_TEXT} A real run would delete none and fail: 3 contacts, more than max_deletes=1. {ONE_BAD}.",
            "Check the source, and raise max_deletes if all of these contacts are to be deleted.",
        ),
        (
            ContactOptions(), {"too_long": "the load would take too long", "checked": BAD},
            f"{CHECKED_TEXT} A real run would load none and fail: the load would take too long. {ONE_BAD}.",
            "Raise execution_timeout or retries, or load less.",
        ),
        (
            ContactOptions(on_invalid="stop"), {"too_long": "the load would take too long", "checked": BAD},
            f"{CHECKED_TEXT} A real run would load none and fail: {ONE_BAD}, on_invalid='stop'.",
            "Correct the rows.",
        ),
    ],
)  # fmt: skip
def test_dry_run_says_how_a_real_run_would_end(options: Any, found: Any, ending: str, advice: str) -> None:
    summary = Summary(rows=5, dry_run=True, **found)
    assert dry_run_ending(summary, options) == ending
    assert what_next(summary, options) == advice
