"""The report of a load: one page for people, written beside the rejects. It names no values."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

from crm_provider.client.responses import family_of
from crm_provider.errors.catalog import CATALOGUE, family_advice
from crm_provider.files.paths import AnyPath, atomic_writer
from crm_provider.load.rows import Outcome
from crm_provider.load.summary import Summary, duration

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
