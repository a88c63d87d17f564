"""Alerts about loads: the summary of a load for people, sent by any notifier of Airflow. It holds no values of rows."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, cast, get_args
from urllib.parse import urlencode

from crm_provider import config
from crm_provider._compat import Context
from crm_provider.errors import CrmError
from crm_provider.files.lock import InUse
from crm_provider.files.paths import CannotWrite
from crm_provider.load.rows import Outcome, SourceError, calls_text, rows_text, unsure_text
from crm_provider.tasks.retry_policy import DECISION_KEY
from crm_provider.values.suggest import check_choice

When = Literal["always", "rejects"]

VARIABLE = "crm_summary"
"""Name of the summary in the templates of a notifier."""

SAFE = (CrmError, SourceError, InUse, CannotWrite)
"""Errors whose texts hold no values."""

FAILED = ("failed", "up_for_retry")
"""States of a task whose try has failed."""

SKIPPED = "skipped"

SHOWN_TYPES = 5


def load_alert(notify: Callable[[Context], Any], *, when: When = "always") -> Callable[[Context], None]:
    """A callback of a load's task that gives a notifier the load's summary, as ``crm_summary`` in its templates.

    >>> CrmLoadContactsOperator(
    ...     task_id="load",
    ...     source="/data/leads.csv",
    ...     on_failure_callback=load_alert(SlackNotifier(text="{{ crm_summary.markdown }}")),
    ...     on_success_callback=load_alert(SlackNotifier(text="{{ crm_summary.text }}"), when="rejects"),
    ... )

    ``crm_summary`` has ``title``, ``text``, ``markdown``, ``state`` (``failed``, ``skipped``, ``succeeded with
    rejects``, ``succeeded``), ``rejected`` (rows), ``link`` (the run on the page CRM) and ``log`` (the task in
    Airflow).

    :param notify: a notifier, or any function that takes the context
    :param when: ``rejects``: only if rows were rejected
    :raises ValueError: if ``when`` is unknown
    """
    check_choice("when", when, get_args(When))

    def callback(context: Context) -> None:
        summary = LoadSummary.of(context)
        if when == "always" or summary.rejected:
            context[VARIABLE] = summary  # type: ignore[literal-required]
            notify(context)

    return callback


@dataclass(frozen=True)
class LoadSummary:
    """The facts about a load that people need.

    :param name: DAG and task
    :param state: how the task ended
    :param lines: counts and reasons
    :param log: the task in Airflow, with its log
    :param link: the run on the page CRM; the task if Airflow's configuration has no address
    :param rejected: rows
    """

    name: str
    state: str
    lines: tuple[str, ...]
    log: str
    link: str
    rejected: int = 0

    @classmethod
    def of(cls, context: Context) -> LoadSummary:
        """The summary of the task whose callback runs."""
        ti, given = context["ti"], cast("Mapping[str, Any]", context)
        # dag.test() of Airflow 3.1 and 3.2 gives a callback no exception
        error = given.get("exception") or given.get(DECISION_KEY, (None, None))[0]
        result = getattr(ti.task, "last_result", None) or {}
        rejected = result.get(Outcome.REJECTED.value, 0)
        state = _state(getattr(ti, "state", None), error, rejected)
        index = f" [{ti.map_index}]" if ti.map_index is not None and ti.map_index >= 0 else ""
        has_reason = state == "failed" or (state == SKIPPED and error is not None)
        reasons = _reasons(error, result.get("ending")) if has_reason else []
        lines = [*reasons, *(_counts(result) if result else [])]
        log = str(ti.log_url)
        return cls(f"{ti.dag_id} / {ti.task_id}{index}", state, tuple(lines), log, _page(ti) or log, rejected)

    @property
    def title(self) -> str:
        """One line, for a subject."""
        return f"{self.name}: {self.state}"

    @property
    def text(self) -> str:
        """Plain text."""
        return "\n".join([self.title, *self._all_lines])

    @property
    def markdown(self) -> str:
        """Markdown that chats and web pages show alike: a list, and a plain address."""
        return "\n".join([f"`{self.name}`: {self.state}", "", *(f"- {line}" for line in self._all_lines)])

    @property
    def _all_lines(self) -> tuple[str, ...]:
        page = (f"Run: {self.link}",) if self.link != self.log else ()
        return (*self.lines, *page, f"Log: {self.log}")

    def __str__(self) -> str:
        return self.text


def _state(ended: str | None, error: Any, rejected: int) -> str:
    """How the task ended, in words.

    :param ended: the task's state in Airflow
    :param rejected: rows
    """
    if ended == SKIPPED:
        return SKIPPED
    if error is not None or ended in FAILED:
        return "failed"
    return "succeeded with rejects" if rejected else "succeeded"


def _page(ti: Any) -> str | None:
    """The run on the page CRM."""
    key = {"dag_id": ti.dag_id, "task_id": ti.task_id, "run_id": ti.run_id}
    if ti.map_index is not None and ti.map_index >= 0:
        key["map_index"] = ti.map_index
    return config.page_url(f"run?{urlencode(key)}")


def _reasons(error: Any, ending: str | None) -> list[str]:
    """Why the task failed. For an unknown error only the class is shown, because its text may hold anything.

    :param ending: how the load ended, if it started
    """
    known = next((found for found in (error, getattr(error, "__cause__", None)) if isinstance(found, SAFE)), None)
    if isinstance(known, CrmError):
        facts = {"What to do": known.advice, "Request id": known.request_id}
        return [known.happened, *(f"{name}: {text}" for name, text in facts.items() if text)]
    if known is not None:
        return [str(known)]
    return [ending or (f"{type(error).__name__}: see the log" if error is not None else "See the log")]


def _counts(result: Mapping[str, Any]) -> list[str]:
    counts = {outcome.value: result.get(outcome.value, 0) for outcome in Outcome}
    counts["left"] = result.get("left", 0)
    outcomes = ", ".join(f"{number:,} {name}" for name, number in counts.items() if number)
    unsure = f", of which {unsure_text(number, result)}" if (number := result.get("unsure")) else ""
    types = sorted(result.get("errors", {}).items(), key=lambda item: (-item[1], item[0]))
    problems = sorted(result.get("problems", {}).items(), key=lambda item: (-item[1], item[0]))
    return [
        f"{rows_text(result['rows'])}: {outcomes or 'none done'}{unsure}; {calls_text(result['calls'])}",
        *(f"{number:,} {type_}" for type_, number in types[:SHOWN_TYPES]),
        *(f"{rows_text(number)}: {problem}" for problem, number in problems[:SHOWN_TYPES]),
        *(f"{name}: {path}" for name, path in _paths(result)),
    ]


def _paths(result: Mapping[str, Any]) -> list[tuple[str, str]]:
    named = {"Rejected rows": result.get("rejects_path"), "Report": result.get("report_path")}
    return [(name, path) for name, path in named.items() if path]
