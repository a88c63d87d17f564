"""What a load reports: the summary, the exceptions that end it before its last row, and the report for people.

A summary is small enough for an XCom: counts, never rows. The report is one page, written beside the rejects file. Both
hold no values.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Protocol

from crm_provider import errors as e
from crm_provider.client.responses import family_of
from crm_provider.errors.catalog import CATALOGUE
from crm_provider.errors.policy import Decision
from crm_provider.files.paths import AnyPath, CannotWrite, atomic_writer, sibling
from crm_provider.load.options import NO_PLAN, PLAN_WORDS, ContactOptions, LoadOptions, rejects_allowed
from crm_provider.load.rows import (
    CHECKED,
    MEANING,
    NEVER,
    WRITTEN,
    Outcome,
    as_they_are,
    calls_text,
    duration,
    how_to_resend,
    more_kinds,
    rows_text,
    unsure_text,
)

if TYPE_CHECKING:
    from crm_provider.load.outcomes.file import OutcomesFile
    from crm_provider.load.rejects.file import RejectsFile
    from crm_provider.load.sources.source import Source
    from crm_provider.load.state.fingerprints import Fingerprints

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Summary:
    """The result of a load, over all its tries.

    :param rows: rows of the source; the outcomes add up to it once all is done
    :param counts: rows by outcome
    :param errors: rows by the type of the error that decided them
    :param problems: what the check found -> rows; ``notes``: its warnings, in sentences; no text holds a value
    :param calls: calls made, including refused ones
    :param calls_saved: the extra calls that a create-then-update loop would have made; 0 if there are none
    :param throttled: calls of this try that were refused for their rate
    :param seconds: time of all tries, without the time between tries
    :param left: rows that are not done, because the run ended early; ``unsure``: those that may have been written
    :param retryable: rejected rows that may succeed as they are; ``outcomes``: the ways in which a row can end
    :param kind: of the records, as ``CrmRetryRejectsOperator`` takes it; ``plan_words``: what its plan does
    :param budget_used: share of the key's rate that this try took; a burst is not counted beyond it
    :param samples: of rejected rows (:func:`crm_provider.load.rejects.samples.samples_of`)
    :param resend: the DAG that sends the rejected rows again (:func:`crm_provider.load.rejects.resend.resend_dag`)
    :param ending: how the load ended, in a sentence or two
    :param checked: of a dry run: rows by what it found; ``forecast``, ``refusal``: of ``RemoteRecords``
    :param would_fail: whether a dry run has shown that a real run would fail; ``too_long``: for lack of time, in words
    """

    rows: int
    counts: Mapping[Outcome, int] = field(default_factory=dict)
    errors: Mapping[str, int] = field(default_factory=dict)
    problems: Mapping[str, int] = field(default_factory=dict)
    notes: Sequence[str] = ()
    calls: int = 0
    calls_saved: int = 0
    throttled: int = 0
    seconds: float = 0.0
    left: int = 0
    unsure: int = 0
    retryable: int = 0
    budget_used: float = 0.0
    resumed_at: int = 0
    plan: str = NO_PLAN
    plan_why: str = ""
    plan_calls: int = 0
    plan_seconds: float = 0.0
    dry_run: bool = False
    outcomes: Sequence[Outcome] = WRITTEN
    kind: str = "contacts"
    plan_words: str = ""
    paths: Mapping[str, str | None] = field(default_factory=dict)
    samples: Sequence[Mapping[str, Any]] = ()
    ending: str = ""
    resend: str | None = None
    checked: Mapping[str, int] = field(default_factory=dict)
    forecast: str = ""
    refusal: str = ""
    too_long: str = ""
    would_fail: bool = False

    def __getitem__(self, outcome: Outcome) -> int:
        return self.counts.get(outcome, 0)

    def as_dict(self) -> dict[str, Any]:
        """The XCom of the operator, as JSON-compatible data."""
        return {
            "rows": self.rows,
            **{outcome.value: self[outcome] for outcome in self.outcomes},
            "left": self.left,
            "unsure": self.unsure,
            "retryable": self.retryable,
            "calls": self.calls,
            "calls_saved": self.calls_saved,
            "throttled": self.throttled,
            "errors": dict(self.errors),
            "problems": dict(self.problems),
            "plan": {
                "name": self.plan,
                "words": self.plan_words or PLAN_WORDS.get(self.plan, ""),
                "why": self.plan_why,
                "calls": self.plan_calls,
                "seconds": round(self.plan_seconds, 1),
            },
            "seconds": round(self.seconds, 1),
            "budget_used": round(self.budget_used, 3),
            "resumed_at": self.resumed_at,
            "dry_run": self.dry_run,
            **({"would_fail": self.would_fail} if self.dry_run else {}),
            "ending": self.ending,
            "samples": list(self.samples),
            "resend": self.resend,
            **{f"{name}_path": path for name, path in self.paths.items()},
        }

    def line(self, *, separator: str = "; ") -> str:
        """Rows and calls, for the log.

        :param separator: between both
        """
        saved = f", {self.calls_saved:,} saved by the plan" if self.calls_saved else ""
        return (
            f"{self.counted}{separator}{calls_text(self.calls)} in {duration(self.seconds)} "
            f"({self.budget_used:.0%} of the budget){saved}"
        )

    @property
    def counted(self) -> str:
        """Rows by how they ended, for people."""
        counts = ", ".join(f"{self[outcome]:,} {outcome.value}" for outcome in Outcome if self[outcome])
        left = f", {self.left:,} left" if self.left else ""
        unsure = f", of which {unsure_text(self.unsure, self.outcomes)}" if self.unsure else ""
        return f"{rows_text(self.rows)}: {counts or 'none done'}{left}{unsure}"


class LoadStopped(Exception):
    """An error of the run, not of a row. The next try continues from there.

    :param error: the error
    :param decision: what happens to the task
    """

    def __init__(self, error: e.CrmError, decision: Decision, summary: Summary) -> None:
        super().__init__(error, decision, summary)
        self.error, self.decision, self.summary = error, decision, summary

    def __str__(self) -> str:
        return f"{self.error} The load stopped after: {self.summary.line()}"


class LoadUnsaved(Exception):
    """A file of the load cannot be written, such as its rejects on a full disk. Nothing more was sent.

    :param unwritten: which file, and why
    :ivar advice: what to do; what follows it depends on the task
    """

    advice = "Free disk space or fix the path; a retry continues from there, a cleared task starts with the first row"

    def __init__(self, unwritten: CannotWrite, summary: Summary) -> None:
        super().__init__(unwritten, summary)
        self.unwritten, self.summary = unwritten, summary

    def __str__(self) -> str:
        return f"{self.unwritten}. The load stopped after: {self.summary.line()}. {self.advice}"


class TooManyRejects(Exception):
    """All rows are done, but more of them were rejected than ``max_rejects`` allows.

    :param problem: how many, and why most of them
    :param result: the result of the load
    :param advice: what to do about them
    """

    def __init__(self, problem: str, result: Mapping[str, Any], advice: str = "") -> None:
        super().__init__(problem, result, advice)
        self.problem, self.result, self.advice = problem, result, advice

    @property
    def why_no_retry(self) -> str:
        """Why the task is not retried."""
        if not (number := self.result.get("retryable")):
            return "all other rows are done"
        how = f", send {'it' if number == 1 else 'them'} with CrmRetryRejectsOperator"
        return f"all other rows are done; {as_they_are(number)}{how if self.result['rejects_path'] else ''}"

    def __str__(self) -> str:
        return f"{self.problem} {self.advice}".rstrip()


class LoadInterrupted(Exception):
    """The load was cancelled; the next try continues from there."""

    def __init__(self, summary: Summary) -> None:
        super().__init__(summary)
        self.summary = summary

    def __str__(self) -> str:
        return f"The load was interrupted; {self.summary.line()}"


MAX_ENDING_CHARACTERS = 1000
"""Characters of an ending in the result."""

SHOWN_PROBLEMS = 50
"""Kinds of problems that are listed, the most frequent first."""

CORRECT = "correct the rows in their source"


def report(
    summary: Summary,
    *,
    title: str,
    ending: str,
    resend: str | None = None,
    options: LoadOptions | type[LoadOptions] = ContactOptions,
) -> str:
    """The page, in Markdown.

    :param title: what was loaded
    :param ending: how the load ended, in one sentence
    :param resend: how to send the rejected rows again, None if there are none
    :param options: of the load; they describe its modes and outcomes
    """
    parts = [
        f"# {title}",
        ending,
        "## Rows" if not summary.dry_run else "## Rows (dry run: nothing was written)",
        _table(("Outcome", "Rows", "Share", "Meaning"), _outcomes(summary, options.meanings)),
        *summary.notes,
    ]
    if summary.errors:
        parts += ["## Errors", _table(("Type", "Rows", "What to do"), _errors(summary))]
    if summary.problems:
        parts += ["## Rows that cannot be sent", "Found before the first call; a row may have several problems."]
        parts += [_table(("Rows", "Problem"), _problems(summary))]
    if resend is not None:
        parts += ["## Send the rejected rows again", resend]
    parts += ["## Calls", _table(("", ""), _calls(summary, options.naive))]
    return "\n\n".join(parts) + "\n"


def write_report(path: AnyPath, text: str) -> None:
    """Write the page in one step, completely or not at all."""
    with atomic_writer(path, "w") as file:
        file.write(text)


def advice_of(type_: str) -> str:
    """What to do about rows that were rejected because of an error of this type."""
    status = type_.removeprefix("HTTP_")
    if status.isdecimal():  # the response had nothing else
        return family_of(int(status))("", type=type_).suggested_action
    return CATALOGUE[type_].advice if type_ in CATALOGUE and type_ != "INVALID_VALUE" else CORRECT


def most_frequent(counts: Mapping[str, int]) -> list[tuple[str, int]]:
    """Names and counts, the greatest count first."""
    return sorted(counts.items(), key=lambda item: (-item[1], item[0]))


# -- how a load ends -------------------------------------------------------------------------------------------


class FinishedLoad(Protocol):
    """A load that has ended, as its report needs it."""

    @property
    def source(self) -> Source: ...

    @property
    def options(self) -> LoadOptions: ...

    @property
    def rejects(self) -> RejectsFile | None: ...

    @property
    def outcomes(self) -> OutcomesFile | None: ...

    @property
    def fingerprints(self) -> Fingerprints | None: ...


def too_many_rejects(summary: Summary, options: LoadOptions) -> str | None:
    """Why a load counts as failed, None if it does not."""
    rejected, allowed = summary[Outcome.REJECTED], rejects_allowed(options.max_rejects, summary.rows)
    if rejected <= allowed:
        return None
    were, most = "was" if rejected == 1 else "were", f"{allowed:,}" if allowed else "none"
    return (
        f"{rejected:,} of {rows_text(summary.rows)} {were} rejected; max_rejects={options.max_rejects!r} allows "
        f"{most}. {_most_frequent(summary, rejected)}"
    )


def _most_frequent(summary: Summary, rejected: int) -> str:
    """The most frequent reasons, without values."""
    errors = {type_: count for type_, count in summary.errors.items() if count <= rejected}  # else: skipped by on_error
    if sum(errors.values()) != rejected:  # it is unknown which of them were skipped
        return f"The errors of all rows: {_counted(most_frequent(summary.errors))}"
    (top, count), *others = most_frequent(errors)
    problems = most_frequent(summary.problems) if top == "INVALID_VALUE" else []
    also = f". Also {_counted(others)}" if others else ""
    what, rows = problems[0] if problems else (advice_of(top), count)
    some = f", {rows:,} of them" if rows < count else ""
    return f"Most often {top} ({rows_text(count)}){some}: {what}{also}"


def _counted(types: Sequence[tuple[str, int]]) -> str:
    return ", ".join(f"{number:,} {type_}" for type_, number in types[:5])


def finish_summary(load: FinishedLoad, summary: Summary, *, ending: str, report_path: AnyPath | None = None) -> Summary:
    """Write the report.

    :param ending: how the load ended, in one sentence
    :param report_path: by default beside the rejects
    :return: the summary with the paths of the files that exist
    """
    path = report_path
    if path is None and load.rejects is not None and not load.options.dry_run:  # there may be one of a real load
        path = sibling(load.rejects.path, ".report.md")
    paths = {
        "rejects": rejects_of(load),
        "outcomes": outcomes_of(load),
        "report": path if path is not None and _written(path, load, summary, ending) else None,
        "state": None if load.fingerprints is None else load.fingerprints.path,
    }
    texts = {name: None if found is None else str(found) for name, found in paths.items()}
    short = ending if len(ending) <= MAX_ENDING_CHARACTERS else f"{ending[:MAX_ENDING_CHARACTERS]}..."
    return replace(summary, paths=texts, ending=short)


def rejects_of(load: FinishedLoad) -> AnyPath | None:
    """The rejects file, None if no row was rejected."""
    if load.rejects is None or load.options.dry_run or not load.rejects.count:
        return None
    return load.rejects.path


def outcomes_of(load: FinishedLoad) -> AnyPath | None:
    """The file with the outcomes of all rows, None if there is none."""
    if load.outcomes is None or load.options.dry_run or not load.outcomes.count:
        return None
    return load.outcomes.path


def done(load: FinishedLoad, summary: Summary) -> str:
    """The ending of a load that has done all rows."""
    return f"Done. {what_to_do(load, summary)}" if summary[Outcome.REJECTED] else "Done."


def what_to_do(load: FinishedLoad, summary: Summary) -> str:
    """What to do about rejected rows, in a few sentences."""
    path = rejects_of(load)
    if path is None:
        return "Set rejects_path to keep the rejected rows and the reasons in a file."
    return f"The rejected rows and their reasons are in {path}. {_how_to_resend(summary)}"


def _how_to_resend(summary: Summary) -> str:
    return how_to_resend(summary.retryable, summary[Outcome.REJECTED] - summary.retryable)


def _written(path: AnyPath, load: FinishedLoad, summary: Summary, ending: str) -> bool:
    """Write the report if possible; whether it can be written does not change how the task ends."""
    title, resend = load.options.title.format(source=load.source.name), _resend(rejects_of(load), summary)
    text = report(summary, title=title, ending=ending, resend=resend, options=load.options)
    try:
        write_report(path, text)
    except CannotWrite as unwritten:
        log.warning("%s. The report of this load was not written.", unwritten)
        return False
    return True


def _resend(path: AnyPath | None, summary: Summary) -> str | None:
    if path is None:
        return None
    dag = f" This DAG sends all rows of the file:\n\n```python\n{summary.resend}\n```" if summary.resend else ""
    return f"They are in `{path}`, as they were given, each with its reason. {_how_to_resend(summary)}{dag}"


# -- the tables -----------------------------------------------------------------------------------------------


def _outcomes(summary: Summary, meanings: Mapping[Outcome, str]) -> Iterator[Sequence[object]]:
    counts = {o.value: (summary[o], text) for o in summary.outcomes if (text := meanings.get(o, MEANING[o])) != NEVER}
    if summary.checked:
        counts = {name: (count, CHECKED[name]) for name, count in summary.checked.items()}
    elif summary.left:
        unsure = f"; {unsure_text(summary.unsure, summary.outcomes)}" if summary.unsure else ""
        counts["left"] = (summary.left, f"not done yet{unsure}")
    for name, (count, meaning) in counts.items():
        yield name, f"{count:,}", f"{count / summary.rows:.1%}" if summary.rows else "-", meaning
    yield "**all**", f"**{summary.rows:,}**", "", ""


def _errors(summary: Summary) -> Iterator[Sequence[object]]:
    for type_, count in most_frequent(summary.errors):
        yield f"`{type_}`", f"{count:,}", advice_of(type_)


def _problems(summary: Summary) -> Iterator[Sequence[object]]:
    problems = most_frequent(summary.problems)
    for problem, count in problems[:SHOWN_PROBLEMS]:
        yield f"{count:,}", problem
    if rest := problems[SHOWN_PROBLEMS:]:
        yield f"{sum(count for _, count in rest):,}", more_kinds(len(rest))


def _calls(summary: Summary, naive: str) -> Iterator[Sequence[object]]:
    yield "Plan", PLAN_WORDS[NO_PLAN] if summary.plan == NO_PLAN else f"`{summary.plan}`: {summary.plan_why}"
    if summary.plan != NO_PLAN:
        yield "Planned", f"{calls_text(summary.plan_calls)}, {duration(summary.plan_seconds)}"
    yield "Made", f"{calls_text(summary.calls)} in {duration(summary.seconds)}, {summary.budget_used:.0%} of the budget"
    yield "Saved", f"{calls_text(summary.calls_saved)}, compared with {naive}"
    yield "Refused by the rate limit", calls_text(summary.throttled)
    if summary.resumed_at:
        yield "Resumed", f"the last try continued after {rows_text(summary.resumed_at)}"


def _table(headings: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    lines = [headings, ["---"] * len(headings), *rows]
    return "\n".join(f"| {' | '.join(map(_cell, line))} |" for line in lines)


def _cell(value: object) -> str:
    return " ".join(str(value).split()).replace("|", "\\|")
