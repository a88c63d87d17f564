"""What the page shows of runs: lines of a list, and the page of one run. Pure functions."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any
from urllib.parse import quote, urlencode

from crm_provider.errors.catalog import CATALOGUE
from crm_provider.errors.policy import OPERATORS, ErrorPolicy
from crm_provider.errors.policy_table import explain
from crm_provider.load.options import NO_PLAN
from crm_provider.load.rows import calls_text, duration
from crm_provider.ui.charts import BarSegment, segments_of, words_of
from crm_provider.ui.endings import Ending, Tone, ending_of
from crm_provider.ui.results import Result
from crm_provider.ui.stored import Run
from crm_provider.values.counted import counted

SHOWN_KINDS = 20
"""Maximum error types and kinds of problems shown for one run; one line sums up the rest."""

SHORT = 10.0
"""Loads shorter than this, in seconds, show no share of the rate: the first and last calls dominate."""

SHOWN_CHARACTERS = 300
"""Maximum characters of a problem."""

LABELS: Mapping[str, str] = {
    "rejects_path": "Rejected rows", "outcomes_path": "Outcomes of all rows", "report_path": "Report",
    "state_path": "State", "path": "File",
}  # fmt: skip
"""Paths by their name in a result; any other is shown with its name."""


@dataclass(frozen=True, kw_only=True)
class RunLine:
    """A run in a list.

    :param name: run id, with the index of a mapped task
    :param when: its duration, or the time since its start, in words
    :param words: rows by outcome
    :param planned: calls and time that the plan expects
    :param is_idle: it succeeded and read no rows; consecutive idle runs are folded together
    """

    name: str
    href: str
    ending: Ending
    start: datetime
    when: str
    rows: int
    parts: Sequence[BarSegment]
    words: str
    calls: int | None
    is_idle: bool
    is_dry: bool
    planned: str


@dataclass(frozen=True, kw_only=True)
class RejectReason:
    """Why rows were not written, what to do about it, and what the policy of the run says.

    :param action: the action of the policy; empty for an unknown error
    """

    type: str
    rows: int
    advice: str
    action: str = ""
    origin: str = ""


@dataclass(frozen=True, kw_only=True)
class RunFile:
    """A file of a run.

    :param href: URL for a browser; empty if the site has no link for it
    """

    label: str
    path: str
    href: str


@dataclass(frozen=True, kw_only=True)
class Resend:
    """The DAG that sends rejected rows again, and how a browser starts it.

    :param url: endpoint of Airflow's public REST API that starts a run
    :param conf: the conf of the run, as JSON
    :param href: the DAG in Airflow
    :param is_paused: whether a run would wait
    :param is_allowed: whether the user may start it
    :param last: the newest run for this file, and its page in Airflow; None if there is none
    """

    dag_id: str
    url: str
    conf: str
    href: str
    is_paused: bool
    is_allowed: bool
    last: tuple[str, str] | None = None

    @classmethod
    def of(
        cls, dag_id: str, rejects: str, *, base: str, is_paused: bool, is_allowed: bool, last_run: str | None = None
    ) -> Resend:
        """How to start the DAG for a file.

        :param base: path of Airflow's address
        :param last_run: id of the newest run for this file
        """
        quoted, conf = quote(dag_id, safe=""), json.dumps({"rejects": rejects})
        url, href = f"{base}/api/v2/dags/{quoted}/dagRuns", f"{base}/dags/{quoted}"
        last = None if last_run is None else (last_run, f"{href}/runs/{quote(last_run, safe='')}")
        return cls(dag_id=dag_id, url=url, conf=conf, href=href, is_paused=is_paused, is_allowed=is_allowed, last=last)


@dataclass(frozen=True, kw_only=True)
class RunPage:
    """The page of one run.

    :param plan: label and text
    :param lines: lines of ``on_error`` that differ from the operator's defaults: error, action, and who set it
    :param policy: the whole table of the policy
    :param rejects_path: the file of a load that has ended with rejected rows
    :param to_correct: rows of this file that must be corrected before they are sent again
    :param may_add_rejects: the load has rejected rows, and waits for its next try
    """

    line: RunLine
    conn_id: str | None
    operator: str
    kind: str | None
    airflow: str
    facts: Sequence[tuple[str, str]] = ()
    reasons: Sequence[RejectReason] = ()
    problems: Sequence[tuple[str, int]] = ()
    plan: Sequence[tuple[str, str]] = ()
    lines: Sequence[tuple[str, str, str]] = ()
    policy: Sequence[Mapping[str, Any]] = ()
    samples: Sequence[Mapping[str, Any]] = ()
    files: Sequence[RunFile] = ()
    resend: str | None = None
    rejects_path: str = ""
    to_correct: int = 0
    may_add_rejects: bool = False


def line_of(run: Run, *, root: str, now: datetime) -> RunLine:
    """A run in a list.

    :param root: path of the page
    """
    found, counts = run.found, counts_of(run)
    ending = ending_of(run)
    index = f" [{found.map_index}]" if found.map_index >= 0 else ""
    return RunLine(
        name=f"{found.run_id}{index}",
        href=f"{root}/run?{urlencode(key_of(run))}",
        ending=ending,
        start=found.start,
        when=_when(run, now),
        rows=_rows_of(run),
        parts=segments_of(counts),
        words=words_of(counts),
        calls=None if run.result is None else run.result.calls,
        is_idle=ending.tone in (Tone.SUCCESS, Tone.SKIPPED) and not (run.rows or counts) and run.is_known,
        is_dry=run.result is not None and run.result.dry_run,
        planned="" if run.result is None else _planned(run.result),
    )


def key_of(run: Run) -> dict[str, str]:
    """The parameters that identify a run in an address."""
    found = run.found
    key = {"dag_id": found.dag_id, "task_id": found.task_id, "run_id": found.run_id}
    return {**key, "map_index": str(found.map_index)} if found.map_index >= 0 else key


def counts_of(run: Run) -> dict[str, int]:
    """Rows by outcome so far. A dry run has none, because it writes nothing."""
    result, checkpoint = run.result, run.checkpoint
    if result is not None:
        counts = {name: count for name, count in result.counts.items() if count}
        return {} if result.dry_run else counts
    if checkpoint is None or not checkpoint.rows:
        return {}
    rows = checkpoint.notes.get("rows")
    left = max(rows - checkpoint.rows, 0) if isinstance(rows, int) else 0
    return {**checkpoint.counts, "left": left}


def _rows_of(run: Run) -> int:
    if run.result is not None:
        return run.result.rows
    rows = run.checkpoint.notes.get("rows") if run.checkpoint is not None else None
    return rows if isinstance(rows, int) else 0


def folded(lines: Iterable[RunLine]) -> list[list[RunLine]]:
    """The runs of a list in groups: consecutive runs without rows are one group, every other run is its own group."""
    groups: list[list[RunLine]] = []
    for line in lines:
        if line.is_idle and groups and groups[-1][-1].is_idle:
            groups[-1].append(line)
        else:
            groups.append([line])
    return groups


def page_of(run: Run, *, root: str, base: str, now: datetime, link: Callable[[str], str]) -> RunPage:
    """The page of one run.

    :param root: path of the page
    :param base: path of Airflow's address
    :param link: path of a file -> where a browser can open it
    """
    found, result = run.found, run.result
    common: dict[str, Any] = {
        "line": line_of(run, root=root, now=now), "conn_id": run.conn_id, "operator": found.operator,
        "airflow": airflow_link(run, base),
    }  # fmt: skip
    if result is None:
        errors = run.checkpoint.errors if run.checkpoint is not None else {}
        return RunPage(kind=None, reasons=_reasons(errors, None), facts=_calls_so_far(run), **common)
    policy = _policy_of(result, found.operator)
    return RunPage(
        kind=result.kind,
        facts=_facts(result),
        reasons=_reasons(result.errors, policy),
        problems=[(_shortened(text), rows) for text, rows in _most_frequent(result.problems, "kind")],
        plan=_plan(result),
        lines=_own_lines(result),
        policy=[asdict(line) for line in explain(policy)] if policy is not None else (),
        samples=result.samples,
        files=[
            RunFile(label=LABELS.get(name, name.replace("_", " ")), path=path, href=link(path))
            for name, path in result.paths.items()
            if path
        ],
        resend=None if found.is_running else result.resend,
        rejects_path=result.paths.get("rejects_path", "") if result.rejected and not found.is_running else "",
        to_correct=max(result.rejected - result.retryable, 0),
        may_add_rejects=found.is_running and bool(result.rejected),
        **common,
    )


def airflow_link(run: Run, base: str) -> str:
    """The task instance in Airflow, with its log."""
    found = run.found
    dag, run_id, task = (quote(text, safe="") for text in (found.dag_id, found.run_id, found.task_id))
    index = f"/mapped/{found.map_index}" if found.map_index >= 0 else ""
    return f"{base}/dags/{dag}/runs/{run_id}/tasks/{task}{index}"


# -- parts --------------------------------------------------------------------------------------------------


def _when(run: Run, now: datetime) -> str:
    found = run.found
    if run.seconds is not None:
        return f"took {duration(run.seconds)}"
    since = duration(max((now - found.start).total_seconds(), 0.0))
    return f"running for {since}" if found.state == "running" else f"started {since} ago"


def _facts(result: Result) -> list[tuple[str, str]]:
    figures = [
        ("Calls", None if result.calls is None else f"{result.calls:,}"),
        ("Calls saved by the plan", f"{result.calls_saved:,}" if result.calls_saved else None),
        ("Throttled calls", f"{result.throttled:,}" if result.throttled else None),
        ("Rate used", _rate_used(result)),
        ("Time", None if result.seconds is None else duration(result.seconds)),
        *((name.replace("_", " ").capitalize(), _figure(value)) for name, value in result.facts.items()),
    ]
    return [(label, value) for label, value in figures if value is not None]


def _rate_used(result: Result) -> str | None:
    """The share of the key's rate; None for a load that was too short to use it."""
    if not result.budget_used or (result.seconds is not None and result.seconds < SHORT):
        return None
    return f"{result.budget_used:.0%} of the key's rate"


def _figure(value: float | str) -> str:
    return value if isinstance(value, str) else f"{value:,}"


def _calls_so_far(run: Run) -> list[tuple[str, str]]:
    return [] if run.checkpoint is None else [("Calls so far", f"{run.checkpoint.calls:,}")]


def _plan(result: Result) -> list[tuple[str, str]]:
    plan = result.plan
    parts = [
        ("What it does", plan.get("words") or plan.get("name")),
        ("Because", plan.get("why")),
        ("Planned", _planned(result)),
    ]
    return [(label, value) for label, value in parts if value]


def _planned(result: Result) -> str:
    calls, seconds = result.plan.get("calls"), result.plan.get("seconds")
    if calls is None or result.plan.get("name") == NO_PLAN:
        return ""
    return calls_text(calls) + ("" if seconds is None else f", about {duration(seconds)}")


def _policy_of(result: Result, operator: str) -> ErrorPolicy | None:
    """The policy of the run; None if it is unknown or no longer valid."""
    name = result.policy.get("operator") or operator
    if not result.policy or name not in OPERATORS:
        return None
    work = OPERATORS[name]
    try:
        return ErrorPolicy(
            result.policy.get("on_error") or {}, work=work, operator=name, site=result.policy.get("site") or {}
        )
    except ValueError:
        return None


def _own_lines(result: Result) -> list[tuple[str, str, str]]:
    sources = (("on_error", "the task"), ("site", "the site"))
    return [
        (error, action, whose) for name, whose in sources for error, action in (result.policy.get(name) or {}).items()
    ]


def _reasons(errors: Mapping[str, int], policy: ErrorPolicy | None) -> list[RejectReason]:
    """Rows by error type, the most frequent first, each with the catalogue's advice."""
    known = {line.type: line for line in explain(policy)} if policy is not None and errors else {}
    reasons = []
    for name, rows in _most_frequent(errors, "type"):
        advice = CATALOGUE[name].advice if name in CATALOGUE else ""
        line = known.get(name)
        action, origin = (line.action, line.origin) if line is not None else ("", "")
        reasons.append(RejectReason(type=name, rows=rows, advice=advice, action=action, origin=origin))
    return reasons


def _most_frequent(counts: Mapping[str, int], noun: str) -> list[tuple[str, int]]:
    """The first :data:`SHOWN_KINDS` by rows, and one line for all others."""
    ordered = sorted(((name, rows) for name, rows in counts.items() if rows), key=lambda item: (-item[1], item[0]))
    shown, others = ordered[:SHOWN_KINDS], ordered[SHOWN_KINDS:]
    rest = [(counted(len(others), f"more {noun}"), sum(rows for _, rows in others))] if others else []
    return [*shown, *rest]


def _shortened(text: str) -> str:
    return text if len(text) <= SHOWN_CHARACTERS else f"{text[:SHOWN_CHARACTERS]}…"
