"""Checkpoints of a load between the tries of its task."""

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


def checkpoints_for(
    context: Context, *, path: AnyPath | None, beside: AnyPath | None, key: str = STATE_KEY
) -> Checkpoints:
    """The best available place: the given file, Airflow's task state store (3.3+), or a file beside another one.

    :param path: the file that the user asked for
    :param beside: another file of the load, such as its rejects
    :param key: of the checkpoint in the store; each load of a task has its own
    """
    store: Any = context.get("task_state_store")
    owner = owner_of(context["ti"])
    if path is not None:
        return OwnCheckpoints(FileCheckpoints(path), owner)
    if store is not None:
        return TaskStateCheckpoints(store, key)
    if beside is not None:
        return OwnCheckpoints(FileCheckpoints(sibling(beside, f".{owner[:12]}.checkpoint")), owner)
    log.warning(
        "A retry of this load will start with its first row: Airflow below 3.3 has no task state store, and none of "
        "checkpoint_path, state_path, rejects_path and outcomes_path is set."
    )
    return NoCheckpoints()


def owner_of(ti: Any) -> str:
    """An identifier of a task instance, the same for all its tries."""
    identity = "\n".join(str(part) for part in (ti.dag_id, ti.run_id, ti.task_id, ti.map_index))
    return hashlib.sha256(identity.encode()).hexdigest()


class OwnCheckpoints:
    """Ignores checkpoints that another task instance has left at the same place.

    :param kept: the checkpoints
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
        log.info("The checkpoint file belongs to another task instance and is not used.")
        return None

    def save(self, checkpoint: Checkpoint) -> None:
        self._kept.save(replace(checkpoint, notes={**checkpoint.notes, "owner": self._owner}))

    def clear(self) -> None:
        self._kept.clear()


class TaskStateCheckpoints:
    """Checkpoints in Airflow's task state store, which survives retries and reschedules.

    :param store: ``context["task_state_store"]``
    """

    is_local = True

    def __init__(self, store: Any, key: str = STATE_KEY) -> None:
        self._store, self._key = store, key

    def load(self) -> Checkpoint | None:
        found = self._store.get(self._key)
        if found is None:
            return None
        try:
            return Checkpoint.from_data(found)
        except ValueError as wrong:
            log.warning("The stored checkpoint of this task is not used: %s.", wrong)
            return None

    def save(self, checkpoint: Checkpoint) -> None:
        """Store the checkpoint. If Airflow's server is unavailable, the last one stays: a retry repeats more rows."""
        try:
            self._store.set(self._key, checkpoint.as_data())
        except AirflowRuntimeError as away:
            log.warning("Airflow did not store the checkpoint (%s); the load goes on.", type(away).__name__)

    def clear(self) -> None:
        """Do nothing: Airflow expires it. A try that was not recorded as a success lets the next find all rows done."""
