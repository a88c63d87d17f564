"""What a load leaves behind when it ends: the report, the paths of its files, and what to do about rejects."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from crm_provider.files.paths import AnyPath, CannotWrite, sibling
from crm_provider.load.options import LoadOptions, rejects_allowed
from crm_provider.load.report import (
    Summary,
    advice_of,
    commonest,
    report,
    write_report,
)
from crm_provider.load.rows import Outcome

if TYPE_CHECKING:
    from crm_provider.load.job import LoadJob


def too_many_rejects(summary: Summary, options: LoadOptions) -> str | None:
    """Why a load counts as failed, None if it does not."""
    rejected, allowed = summary[Outcome.REJECTED], rejects_allowed(options.max_rejects, summary.rows)
    if rejected <= allowed:
        return None
    return (
        f"{rejected:,} of {_rows(summary.rows)} {'was' if rejected == 1 else 'were'} rejected, "
        f"{f'at most {allowed:,}' if allowed else 'none'} allowed (max_rejects={options.max_rejects!r}). "
        f"{_most_often(summary, rejected)}"
    )


def _most_often(summary: Summary, rejected: int) -> str:
    """The commonest reasons; no text of them holds a value."""
    errors = {type_: count for type_, count in summary.errors.items() if count <= rejected}  # else: skipped by on_error
    if sum(errors.values()) != rejected:  # which of them were skipped is not told apart
        return f"The errors of all rows: {_counted(commonest(summary.errors))}"
    (top, count), *others = commonest(errors)
    problems = commonest(summary.problems) if top == "INVALID_VALUE" else []
    also = _counted(others)
    what = problems[0][0] if problems else advice_of(top)
    return f"Most often {top} ({_rows(count)}): {what}{also and f'. Also {also}'}"


def _counted(types: Sequence[tuple[str, int]]) -> str:
    return ", ".join(f"{number:,} {type_}" for type_, number in types[:5])


def _rows(number: int) -> str:
    return f"{number:,} row{'s' * (number != 1)}"


log = logging.getLogger(__name__)


def concluded(load: LoadJob, summary: Summary, *, ending: str, report_path: AnyPath | None = None) -> Summary:
    """Write the report.

    :param ending: how the load ended, in one sentence
    :param report_path: by default beside the rejects
    :return: the summary with the paths of what is there
    """
    path = report_path
    if path is None and load.rejects is not None and not load.options.dry_run:  # there may be one of a real load
        path = sibling(load.rejects.path, ".report.md")
    paths = {
        "rejects": rejects_of(load),
        "report": path if path is not None and _written(path, load, summary, ending) else None,
        "state": None if load.fingerprints is None else load.fingerprints.path,
    }
    return replace(summary, paths={name: None if found is None else str(found) for name, found in paths.items()})


def rejects_of(load: LoadJob) -> AnyPath | None:
    """The rejects file, None if no row was rejected."""
    if load.rejects is None or load.options.dry_run or not load.rejects.count:
        return None
    return load.rejects.path


def done(load: LoadJob, summary: Summary) -> str:
    """How a load ended that reached its end."""
    if load.options.dry_run:
        return "A dry run: every row was checked, nothing was written."
    return f"Done. {what_to_do(load)}" if summary[Outcome.REJECTED] else "Done."


def what_to_do(load: LoadJob) -> str:
    """What to do about rejected rows, in one sentence."""
    path = rejects_of(load)
    if path is None:
        return "Set rejects_path to keep the rejected rows and the reasons in a file."
    return (
        f"They are in {path}, each with the reason; correct what is wrong there, and send them with "
        "CrmRetryRejectsOperator."
    )


def _written(path: AnyPath, load: LoadJob, summary: Summary, ending: str) -> bool:
    """Write the report, if that can be done: the task's end must be the load's."""
    text = report(summary, title=f"Load of {load.source.name}", ending=ending, resend=_resend(rejects_of(load)))
    try:
        write_report(path, text)
    except CannotWrite as unwritten:
        log.warning("%s. It was to be the report of this load.", unwritten)
        return False
    return True


def _resend(path: AnyPath | None) -> str | None:
    if path is None:
        return None
    return (
        f"They are in `{path}`, as they were given, each with its reason. Correct what is wrong there, and then:\n\n"
        f'```python\nCrmRetryRejectsOperator(task_id="resend", rejects="{path}", only="all", ...)\n```\n\n'
        '`only="retryable"` sends those that may succeed as they are. Give it the mapping and the mode of the load.'
    )
