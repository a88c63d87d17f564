"""How a run ended, in a word and a sentence, and what it means: good, rejects, failed, running or nothing."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from crm_provider.load.dry_run import DRY_RUN
from crm_provider.load.progress import left_of
from crm_provider.load.rows import duration, rows_text
from crm_provider.ui.results import Result
from crm_provider.ui.stored import Run
from crm_provider.values.counted import counted


class Tone(str, Enum):
    """How good a run's ending is; also the value of the filter, and the class in the style sheet."""

    SUCCESS = "success"
    REJECTS = "rejects"
    """It succeeded, but rows were rejected, or it is a dry run that foresees a failure."""
    FAILED = "failed"
    RUNNING = "running"
    """It runs, or Airflow will run it again."""
    SKIPPED = "skipped"


WAITS = {
    "up_for_retry": "waits for a retry", "up_for_reschedule": "waits", "deferred": "deferred",
    "restarting": "restarting", "running": "running",
}  # fmt: skip
"""Labels of states before the end; any other is queued."""

NOTHING_LEFT = (
    "No reason was recorded: it failed outside the operator, or a timeout or kill ended it. See the task's log."
)
ELSEWHERE = "A custom XCom backend stores its result; see the task's page."
UNREADABLE = "Its {part} cannot be read: it does not have the format of a sync. See the task's page."


@dataclass(frozen=True, kw_only=True)
class Ending:
    """How a run ended, or its progress.

    :param label: the state in a word or two
    :param reason: why, in a sentence or two; empty if there is nothing to say
    :param advice: what to do about it
    :param origin: which line of the error policy decided
    """

    tone: Tone
    label: str
    reason: str = ""
    advice: str = ""
    origin: str = ""


def ending_of(run: Run) -> Ending:
    """How a run ended, or its progress."""
    state, note = run.found.state or "", _note(run)
    if run.found.is_running:
        return Ending(tone=Tone.RUNNING, label=WAITS.get(state, "queued"), reason=note or _progress(run))
    if state in ("skipped", "removed"):
        return Ending(tone=Tone.SKIPPED, label=state, reason=_failure_text(run))
    if state == "success":
        return _success(run, note)
    return _failed(run, note, state)


def _success(run: Run, note: str) -> Ending:
    result = run.result
    if result is None:
        return Ending(tone=Tone.SUCCESS, label="success", reason=note)
    if result.dry_run:
        found = result.ending.removeprefix(f"{DRY_RUN}.").strip()
        tone, label = (Tone.REJECTS, "dry run: would fail") if result.would_fail else (Tone.SUCCESS, "dry run")
        return Ending(tone=tone, label=label, reason=found)
    if result.rejected:
        return Ending(tone=Tone.REJECTS, label="success with rejects", reason=_rejected(result))
    return Ending(tone=Tone.SUCCESS, label="success", reason="" if result.ending == "Done." else result.ending)


def _rejected(result: Result) -> str:
    rows = counted(result.rejected, "row was", "rows were")
    return f"{rows} rejected. {result.ending.removeprefix('Done.').strip()}".strip()


def _failed(run: Run, note: str, state: str) -> Ending:
    result, failure = run.result, run.failure
    reason, label = _failure_text(run), "failed" if state == "failed" else state.replace("_", " ")
    if result is not None:
        label = "stopped" if result.left else "too many rejects" if result.rejected else label
        reason = result.ending or reason
    elif note:
        reason = note
    elif not reason:
        reason = _stopped_at(run) or NOTHING_LEFT
    advice = failure.advice if failure is not None and failure.advice not in reason else ""
    return Ending(
        tone=Tone.FAILED, label=label, reason=reason, advice=advice, origin="" if failure is None else failure.origin
    )


def _note(run: Run) -> str:
    """Why its result or error is not shown."""
    if run.unreadable:
        return UNREADABLE.format(part={"failure": "error"}.get(run.unreadable, run.unreadable))
    return ELSEWHERE if run.kept_elsewhere else ""


def _failure_text(run: Run) -> str:
    return "" if run.failure is None else run.failure.message


def _stopped_at(run: Run) -> str:
    checkpoint = run.checkpoint
    if checkpoint is None or not checkpoint.rows:
        return ""
    rows = checkpoint.notes.get("rows")
    done = f"{checkpoint.rows:,} of {rows_text(rows)}" if isinstance(rows, int) else rows_text(checkpoint.rows)
    return (
        f"It was ended from outside after {done}: marked by a person, stopped by a timeout, or "
        "killed. A cleared task starts with the first row."
    )


def _progress(run: Run) -> str:
    """Its progress and, while it runs, the time left at the pace so far."""
    if run.found.state != "running" and (run.result is not None or run.failure is not None):
        ended = run.result.ending if run.result is not None else _failure_text(run)
        return f"The last try ended: {ended}" if ended else ""
    checkpoint = run.checkpoint
    if checkpoint is None or not checkpoint.rows:
        return "No row is done yet." if run.found.state == "running" else ""
    left = left_of(checkpoint)
    if left is None:
        return f"{rows_text(checkpoint.rows)} done."
    rows, seconds = left
    time_left = f"; about {duration(seconds)} left at the pace so far" if run.found.state == "running" else ""
    return f"{checkpoint.rows:,} of {rows_text(rows)} done{time_left}."
