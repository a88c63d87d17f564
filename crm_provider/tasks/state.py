"""Where a load that runs as an Airflow task keeps its checkpoint between tries."""

from __future__ import annotations

import hashlib
import logging
from dataclasses import replace
from typing import Any

from crm_provider._compat import AirflowRuntimeError, Context
from crm_provider.files.paths import AnyPath, sibling
from crm_provider.load.state.checkpoint import Checkpoint, Checkpoints, FileCheckpoints, NoCheckpoints

log = logging.getLogger(__name__)

STATE_KEY = "crm_load"
"""Key of the checkpoint in the task's state store."""


def checkpoints_for(context: Context, *, path: AnyPath | None, beside: AnyPath | None) -> Checkpoints:
    """The best place there is: the file that was asked for, Airflow's own store (3.3+), or a file beside another one.

    :param path: of a file that was asked for
    :param beside: a file of the load's, such as its rejects
    """
    store: Any = context.get("task_state_store")
    owner = owner_of(context["ti"])
    if path is not None:
        return OwnCheckpoints(FileCheckpoints(path), owner)
    if store is not None:
        return TaskStateCheckpoints(store)
    if beside is not None:
        return OwnCheckpoints(FileCheckpoints(sibling(beside, f".{owner[:12]}.checkpoint")), owner)
    log.warning(
        "A retry of this load will start with its first row: Airflow has no task state store below 3.3, and none of "
        "checkpoint_path, state_path and rejects_path is set."
    )
    return NoCheckpoints()


def owner_of(ti: Any) -> str:
    """Tells a task instance apart from all others, its other tries excepted."""
    identity = "\n".join(str(part) for part in (ti.dag_id, ti.run_id, ti.task_id, ti.map_index))
    return hashlib.sha256(identity.encode()).hexdigest()


class OwnCheckpoints:
    """Takes no checkpoint that another task instance has left under the same name.

    :param kept: where they are
    """

    def __init__(self, kept: Checkpoints, owner: str) -> None:
        self._kept, self._owner = kept, owner

    @property
    def is_local(self) -> bool:
        return self._kept.is_local

    def load(self) -> Checkpoint | None:
        found = self._kept.load()
        if found is None or found.notes.get("owner") == self._owner:
            return found
        log.info("The checkpoint file is another task instance's and is not used.")
        return None

    def save(self, checkpoint: Checkpoint) -> None:
        self._kept.save(replace(checkpoint, notes={**checkpoint.notes, "owner": self._owner}))

    def clear(self) -> None:
        self._kept.clear()


class TaskStateCheckpoints:
    """In Airflow's store for the state of a task, which outlives retries and reschedules.

    :param store: ``context["task_state_store"]``
    """

    is_local = True

    def __init__(self, store: Any) -> None:
        self._store = store

    def load(self) -> Checkpoint | None:
        found = self._store.get(STATE_KEY)
        if found is None:
            return None
        try:
            return Checkpoint.from_data(found)
        except ValueError as wrong:
            log.warning("What is kept as the checkpoint of this task is not used: %s.", wrong)
            return None

    def save(self, checkpoint: Checkpoint) -> None:
        """Keep it. Airflow's server may be away for a moment: then the one before stays, and more rows are repeated."""
        try:
            self._store.set(STATE_KEY, checkpoint.as_data())
        except AirflowRuntimeError as away:
            log.warning("Airflow did not take the checkpoint (%s); the load goes on.", type(away).__name__)

    def clear(self) -> None:
        """Left to Airflow, which forgets it in time: a try that ended just before it was noted finds all rows done."""
