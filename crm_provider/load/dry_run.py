"""What a dry run says: what it has found, and how a real run would end. Pure functions."""

from __future__ import annotations

from crm_provider.load.options import LoadOptions, rejects_allowed
from crm_provider.load.report import Summary
from crm_provider.load.rows import rows_text

DRY_RUN = "A dry run: every row was checked, nothing was written"


def dry_run_ending(summary: Summary, options: LoadOptions) -> str:
    """The ending of a dry run, in a few sentences."""
    problem, unsendable = real_run_problem(summary, options), _unsendable(summary)
    bad = f"{rows_text(unsendable)} cannot be sent" if unsendable else ""
    sentences = [
        DRY_RUN,
        problem and f"A real run {problem}",
        "" if summary.refusal else summary.forecast[:1].upper() + summary.forecast[1:],
        "" if bad in problem else bad,
    ]
    return " ".join(f"{sentence}." for sentence in sentences if sentence)


def real_run_problem(summary: Summary, options: LoadOptions) -> str:
    """How a real run would fail because of what is known now; empty if it would not."""
    if summary.refusal:
        return f"would {options.verb} none and fail: {summary.refusal}"
    unsendable, allowed = _unsendable(summary), rejects_allowed(options.max_rejects, summary.rows)
    if unsendable and options.on_invalid == "stop":
        return f"would {options.verb} none and fail: {rows_text(unsendable)} cannot be sent, on_invalid='stop'"
    if summary.too_long:
        return f"would {options.verb} none and fail: {summary.too_long}"
    if unsendable > allowed:
        most = f"{allowed:,}" if allowed else "none"
        return f"would fail: {rows_text(unsendable)} cannot be sent, max_rejects={options.max_rejects!r} allows {most}"
    return ""


def what_next(summary: Summary, options: LoadOptions) -> str:
    """What to do after a dry run, in one sentence."""
    if not real_run_problem(summary, options):
        return f"Leave out dry_run to {options.verb} them."
    if summary.refusal:
        return "Check the source, and raise max_deletes if all of these contacts are to be deleted."
    if options.on_invalid == "stop" and _unsendable(summary):
        return "Correct the rows."
    if summary.too_long:
        return "Raise execution_timeout or retries, or load less."
    return "Correct the rows, or raise max_rejects."


def _unsendable(summary: Summary) -> int:
    return summary.checked.get("cannot be sent", 0)
