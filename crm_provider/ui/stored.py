"""A run as Airflow's database stores it, and its values once they are checked. Pure functions, without Airflow."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Any

from crm_provider.load.state.checkpoint import VERSION, Checkpoint
from crm_provider.ui.results import (
    Failure,
    InvalidStoredValue,
    Result,
    checkpoint_of,
    conn_id_of,
    failure_of,
    result_of,
)

ENDED = ("success", "failed", "skipped", "removed", "upstream_failed")
"""States of a task that Airflow does not run again."""


@dataclass(frozen=True, kw_only=True)
class StoredTask:
    """A task instance of a sync, as the database stores it.

    :param rendered: JSON text of the rendered fields; Airflow keeps them for the last runs of a task
    :param result: JSON text of the XCom ``return_value``
    :param failure: JSON text of the XCom ``crm_error`` or ``crm_reason``
    :param checkpoint: JSON text of the checkpoint of a load that has left no result
    :param max_tries: shows whether the checkpoint belongs to this run, or to one before the task was cleared
    """

    dag_id: str
    task_id: str
    run_id: str
    map_index: int
    operator: str
    state: str | None
    start: datetime
    end: datetime | None
    rendered: str | None = None
    result: str | None = None
    failure: str | None = None
    checkpoint: str | None = None
    max_tries: int = 0

    @property
    def is_running(self) -> bool:
        """Whether it has not ended, for example because it waits for a retry or a slot."""
        return self.state not in ENDED


@dataclass(frozen=True, kw_only=True)
class Run:
    """A run with its checked values.

    :param unreadable: the part with an invalid value; empty if all are valid
    :param kept_elsewhere: the result is stored outside the database
    """

    found: StoredTask
    conn_id: str | None = None
    result: Result | None = None
    failure: Failure | None = None
    checkpoint: Checkpoint | None = None
    unreadable: str = ""
    kept_elsewhere: bool = False

    @property
    def rows(self) -> int:
        """Rows that it has read; 0 if unknown."""
        return 0 if self.result is None else self.result.rows

    @property
    def is_known(self) -> bool:
        """Whether all its stored values are valid."""
        return not self.unreadable and not self.kept_elsewhere

    @property
    def seconds(self) -> float | None:
        """Its duration; None while it runs."""
        found = self.found
        return None if found.is_running or found.end is None else max((found.end - found.start).total_seconds(), 0.0)


def read(found: StoredTask, *, brief: bool = False) -> Run:
    """Check the stored values of a run. An invalid value counts as missing.

    :param brief: only what a list of runs shows
    """
    parts: dict[str, Any] = {}
    unreadable = ""
    for name, parse in (
        ("result", partial(result_of, brief=brief)),
        ("failure", failure_of),
        ("checkpoint", checkpoint_of),
    ):
        text = getattr(found, name)
        try:
            parts[name] = None if text is None else parse(text)
        except InvalidStoredValue:
            parts[name], unreadable = None, unreadable or name
    checkpoint = parts["checkpoint"]
    if checkpoint is not None and (checkpoint.version, checkpoint.epoch) != (VERSION, found.max_tries):
        parts["checkpoint"] = None  # of a run before the task was cleared
    result: Result | None = parts["result"]
    return Run(
        found=found,
        conn_id=(result and result.conn_id) or conn_id_of(found.rendered),
        unreadable=unreadable,
        kept_elsewhere=result is None and unreadable != "result" and found.result not in (None, "null"),
        **parts,
    )
