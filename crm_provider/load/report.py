"""What a load reports: the summary, its exceptions, and the page for people.

What a load did, small enough for an XCom: counts, never rows.

How a load ends before its last row. What was done is in the books; the next try goes on from there.

The report of a load: one page for people, written beside the rejects. It names no values.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from crm_provider import errors as e
from crm_provider.client.responses import family_of
from crm_provider.errors.catalog import CATALOGUE, family_advice
from crm_provider.errors.policy import Decision
from crm_provider.files.paths import AnyPath, CannotWrite, atomic_writer
from crm_provider.load.rows import Outcome


@dataclass(frozen=True, kw_only=True)
class Summary:
    """The result of a load, over all its tries.

    :param rows: rows of the source; the outcomes add up to it once all is done
    :param counts: rows by outcome
    :param errors: rows by the type of the error that decided them
    :param problems: what the check found -> rows; no text holds a value
    :param calls: calls made, refused ones included
    :param calls_saved: what creating each row, and updating it on a conflict, would have cost more; 0 if it had not
    :param throttled: calls of this try that were refused for their rate
    :param seconds: time spent, waiting between tries excluded
    :param left: rows that are still to be sent: the run ended early
    :param budget_used: share of the key's rate that this try took; a burst is not counted beyond it
    """

    rows: int
    counts: Mapping[Outcome, int] = field(default_factory=dict)
    errors: Mapping[str, int] = field(default_factory=dict)
    problems: Mapping[str, int] = field(default_factory=dict)
    calls: int = 0
    calls_saved: int = 0
    throttled: int = 0
    seconds: float = 0.0
    left: int = 0
    budget_used: float = 0.0
    resumed_at: int = 0
    plan: str = "nothing"
    plan_why: str = ""
    plan_calls: int = 0
    plan_seconds: float = 0.0
    dry_run: bool = False
    paths: Mapping[str, str | None] = field(default_factory=dict)

    def __getitem__(self, outcome: Outcome) -> int:
        return self.counts.get(outcome, 0)

    def as_dict(self) -> dict[str, Any]:
        """JSON-able; the XCom of the operator."""
        return {
            "rows": self.rows,
            **{outcome.value: self[outcome] for outcome in Outcome},
            "left": self.left,
            "calls": self.calls,
            "calls_saved": self.calls_saved,
            "throttled": self.throttled,
            "errors": dict(self.errors),
            "problems": dict(self.problems),
            "plan": {
                "name": self.plan,
                "why": self.plan_why,
                "calls": self.plan_calls,
                "seconds": round(self.plan_seconds, 1),
            },
            "seconds": round(self.seconds, 1),
            "budget_used": round(self.budget_used, 3),
            "resumed_at": self.resumed_at,
            "dry_run": self.dry_run,
            **{f"{name}_path": path for name, path in self.paths.items()},
        }

    def line(self) -> str:
        """One line for the log."""
        counts = ", ".join(f"{self[outcome]:,} {outcome.value}" for outcome in Outcome if self[outcome])
        left = f", {self.left:,} left" if self.left else ""
        saved = f", {self.calls_saved:,} saved by the plan" if self.calls_saved else ""
        return (
            f"{self.rows:,} rows: {counts or 'none done'}{left}; {self.calls:,} calls in {duration(self.seconds)} "
            f"({self.budget_used:.0%} of the budget){saved}"
        )


def duration(seconds: float) -> str:
    """A time for people.

    >>> duration(20000)
    '5 h 33 min'
    """
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 90:
        return f"{minutes} min"
    return f"{minutes // 60} h {minutes % 60:02} min"


class LoadStopped(Exception):
    """An error of the run, not of a row; what was done is in the books, and the next try goes on from there.

    :param error: the error
    :param decision: what is to happen to the task
    """

    def __init__(self, error: e.CrmError, decision: Decision, summary: Summary) -> None:
        super().__init__(error, decision, summary)
        self.error, self.decision, self.summary = error, decision, summary

    def __str__(self) -> str:
        return f"{self.error} The load stopped after: {self.summary.line()}"


class LoadUnsaved(Exception):
    """A file of the load cannot be written, such as its rejects on a disk that is full: nothing more was sent.

    :param unwritten: which file, and why
    """

    def __init__(self, unwritten: CannotWrite, summary: Summary) -> None:
        super().__init__(unwritten, summary)
        self.unwritten, self.summary = unwritten, summary

    def __str__(self) -> str:
        return f"{self.unwritten}. The load stopped after: {self.summary.line()}. {MEND}"


MEND = "Make room there, or mend what is said; a retry goes on from there, a cleared task starts with the first row"


class LoadInterrupted(Exception):
    """The load was told to stop; the next try goes on from there."""

    def __init__(self, summary: Summary) -> None:
        super().__init__(summary)
        self.summary = summary

    def __str__(self) -> str:
        return f"The load was interrupted; {self.summary.line()}"


MEANING: Mapping[Outcome, str] = {
    Outcome.CREATED: "new in the CRM",
    Outcome.UPDATED: "were there, and were changed",
    Outcome.UNCHANGED: "the CRM has these values already, or the same row was loaded before",
    Outcome.SKIPPED: "left out: `on_error` said so, or another row has the same email",
    Outcome.REJECTED: "in the rejects file",
    Outcome.SUPPRESSED: "left out: the person does not want to be contacted",
}

SHOWN_PROBLEMS = 50
"""Kinds of problems that are listed; the commonest first."""

CORRECT = "correct the rows in their source"


def report(summary: Summary, *, title: str, ending: str, resend: str | None = None) -> str:
    """The page, in Markdown.

    :param title: what was loaded
    :param ending: how the load ended, in one sentence
    :param resend: how the rejected rows are sent again, None if there are none
    """
    parts = [
        f"# {title}",
        ending,
        "## Rows" if not summary.dry_run else "## Rows (dry run: nothing was written)",
        _table(("Outcome", "Rows", "Share", "Meaning"), _outcomes(summary)),
    ]
    if summary.errors:
        parts += ["## Errors", _table(("Type", "Rows", "What to do"), _errors(summary))]
    if summary.problems:
        parts += ["## Rows that cannot be sent", "Found before the first call; a row may have several problems."]
        parts += [_table(("Rows", "Problem"), _problems(summary))]
    if resend is not None:
        parts += ["## Send the rejected rows again", resend]
    parts += ["## Calls", _table(("", ""), _calls(summary))]
    return "\n\n".join(parts) + "\n"


def write_report(path: AnyPath, text: str) -> None:
    """Put the page under its name, whole or not at all."""
    with atomic_writer(path, "w") as file:
        file.write(text)


def advice_of(type_: str) -> str:
    """What to do about rows that were rejected for an error of this type."""
    status = type_.removeprefix("HTTP_")
    if status.isdecimal():  # all that was known of the answer
        return family_advice(family_of(int(status)))
    return CATALOGUE[type_].advice if type_ in CATALOGUE and type_ != "INVALID_VALUE" else CORRECT


def commonest(counts: Mapping[str, int]) -> list[tuple[str, int]]:
    """Names and counts, the greatest first."""
    return sorted(counts.items(), key=lambda item: (-item[1], item[0]))


# -- the tables -----------------------------------------------------------------------------------------------


def _outcomes(summary: Summary) -> Iterator[Sequence[object]]:
    counts = {outcome.value: (summary[outcome], MEANING[outcome]) for outcome in Outcome}
    if summary.left:
        counts["left"] = (summary.left, "not sent yet")
    for name, (count, meaning) in counts.items():
        yield name, f"{count:,}", f"{count / summary.rows:.1%}" if summary.rows else "-", meaning
    yield "**all**", f"**{summary.rows:,}**", "", ""


def _errors(summary: Summary) -> Iterator[Sequence[object]]:
    for type_, count in commonest(summary.errors):
        yield f"`{type_}`", f"{count:,}", advice_of(type_)


def _problems(summary: Summary) -> Iterator[Sequence[object]]:
    problems = commonest(summary.problems)
    for problem, count in problems[:SHOWN_PROBLEMS]:
        yield f"{count:,}", problem
    if len(problems) > SHOWN_PROBLEMS:
        rest = problems[SHOWN_PROBLEMS:]
        yield f"{sum(count for _, count in rest):,}", f"{len(rest)} more kinds of problems"


def _calls(summary: Summary) -> Iterator[Sequence[object]]:
    yield "Plan", f"`{summary.plan}`: {summary.plan_why}"
    yield "Planned", f"{summary.plan_calls:,} calls, {duration(summary.plan_seconds)}"
    yield "Made", f"{summary.calls:,} calls in {duration(summary.seconds)}, {summary.budget_used:.0%} of the budget"
    yield "Saved", f"{summary.calls_saved:,} calls, against creating each row and updating it on a conflict"
    yield "Refused for the rate", f"{summary.throttled:,} calls"
    if summary.resumed_at:
        yield "Resumed", f"the last try went on after {summary.resumed_at:,} rows"


def _table(headings: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    lines = [headings, ["---"] * len(headings), *rows]
    return "\n".join(f"| {' | '.join(map(_cell, line))} |" for line in lines)


def _cell(value: object) -> str:
    return " ".join(str(value).split()).replace("|", "\\|")
