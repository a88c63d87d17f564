"""How the tasks of a run ended and why, as a table, compared with expectations. Pure functions."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

OUTCOMES = ("created", "updated", "unchanged", "skipped", "rejected", "suppressed", "deleted")
"""How a row of a load can end."""


@dataclass(frozen=True)
class Row:
    """One task instance, a line of the table."""

    task: str
    state: str
    tries: int
    why: str

    @property
    def task_id(self) -> str:
        """``upsert_lead`` for ``upsert_lead[3]``."""
        return self.task.partition("[")[0]


@dataclass(frozen=True)
class Expected:
    """The expected end of a task.

    :param state: Airflow's task state
    :param why: a regular expression that matches part of the reason
    :param tries: number of tries, None for any
    """

    state: str
    why: str = ""
    tries: int | None = None


def why(state: str | None, xcoms: Mapping[str, Any], earlier_errors: Sequence[str] = ()) -> str:
    """The reason for a task's state, from the XComs of the operators.

    :param xcoms: ``return_value`` with an ``outcome`` or counts, and ``crm_error`` if an error decided the state
    :param earlier_errors: the error classes of the earlier tries
    """
    error, value = xcoms.get("crm_error"), xcoms.get("return_value")
    if error and state != "success":
        status = f" {error['status']}" if error.get("status") else ""
        origin = f", by {error['origin']}" if error.get("origin") else ""
        reason = f"{error['type']}{status} -> {error['action']}{origin}"
    elif isinstance(value, Mapping) and value.get("outcome"):
        reason = str(value["outcome"])
    elif isinstance(value, Mapping) and "rows" in value:
        counts = [f"{value[name]} {name}" for name in OUTCOMES if value.get(name)]
        reason = f"{value['rows']} row{'s' * (value['rows'] != 1)}: {', '.join(counts) or 'none done'}"
    else:
        reason = {"upstream_failed": "an upstream task failed"}.get(state or "", "")
    retries = f"after {', '.join(earlier_errors)}" if earlier_errors else ""
    return ", ".join(filter(None, [reason, retries]))


def table(rows: Iterable[Row]) -> str:
    """The rows below their headings, in aligned columns."""
    lines: list[Sequence[str]] = [("task", "state", "tries", "why")]
    lines += [(row.task, row.state, str(row.tries), row.why) for row in rows]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    lines.insert(1, ["-" * min(width, 50) for width in widths])
    return "\n".join("  ".join(map(str.ljust, line, widths)).rstrip() for line in lines)


def differences(rows: Sequence[Row], expected: Mapping[str, Expected]) -> list[str]:
    """The differences from the expectation, one sentence each.

    :param expected: by task (``upsert_lead[3]``), or by task id for all instances of a mapped task
    """
    keys = [row.task if row.task in expected else row.task_id for row in rows]
    problems = [text for row, key in zip(rows, keys, strict=True) for text in _differences(row, expected.get(key))]
    return problems + [f"{task}: expected, but the run has no such task" for task in expected if task not in keys]


def _differences(row: Row, expected: Expected | None) -> list[str]:
    if expected is None:
        return [f"{row.task}: not expected, but it ended as {row.state}"]
    problems = []
    if row.state != expected.state:
        problems.append(f"{row.task}: {row.state} instead of {expected.state} ({row.why or 'no reason given'})")
    elif not re.search(expected.why, row.why):
        problems.append(f"{row.task}: {row.state} because of {row.why!r}, which does not match {expected.why!r}")
    if expected.tries is not None and row.tries != expected.tries:
        problems.append(f"{row.task}: {row.tries} tries instead of {expected.tries}")
    return problems
