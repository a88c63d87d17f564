"""Where a task keeps what its next try needs: checkpoints of a load, and files that outlive its pod."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from crm_provider import config
from crm_provider._compat import AirflowRuntimeError, Context
from crm_provider.files.paths import AnyPath, is_on_own_disk, sibling, unwritable
from crm_provider.load.rows import SourceError
from crm_provider.load.state.checkpoint import Checkpoint, Checkpoints, FileCheckpoints, NoCheckpoints
from crm_provider.tasks.templates import path_of, site_file

log = logging.getLogger(__name__)

STATE_KEY = "crm_load"
"""Key of the checkpoint in the task's state store."""

REMEDY = "work_directory in section [crm] of Airflow's configuration"


def checkpoints_for(
    context: Context, beside: AnyPath | None, *, path: AnyPath | None, key: str = STATE_KEY
) -> Checkpoints:
    """The best available place, which the log names.

    It is the given file, Airflow's task state store (3.3+), the site's ``work_directory``, or a file beside another.

    :param beside: another file of the load, such as its rejects. If no file can be written there, this one is not kept
    :param path: the file that the user asked for
    :param key: key of the checkpoint in the store; each load of a task has its own
    :raises SourceError: if ``work_directory`` is not a path
    """
    store: Any = context.get("task_state_store")
    if path is None and store is not None:
        log.info("The checkpoint of this load is kept in Airflow's task state store.")
        return TaskStateCheckpoints(store, key)
    ti = context["ti"]
    owner = hashlib.sha256(identity_of(ti).encode()).hexdigest()
    own = None if beside is None else sibling(beside, f".{owner[:12]}{key.removeprefix(STATE_KEY)}.checkpoint")
    folder = config.work_directory()
    site = None if folder is None else site_file("work_directory", folder, ti, f"{key}.json")
    file = path or site or own
    problem = _not_kept(file, is_asked_for=file is not own)
    if file is None or problem:
        log.warning(
            "A retry of this load will start with its first row: %s. Set %s, or checkpoint_path.", problem, REMEDY
        )
        return NoCheckpoints()
    log.info("The checkpoint of this load is kept in %s.", file)
    return OwnCheckpoints(FileCheckpoints(file), owner)


def _not_kept(file: AnyPath | None, *, is_asked_for: bool) -> str | None:
    """Why a checkpoint cannot be kept in a file; None if it can."""
    if file is None:
        return (
            "Airflow below 3.3 has no task state store, and none of checkpoint_path, state_path, rejects_path, "
            "outcomes_path and report_path is set"
        )
    if lost_with_pod(file):
        return "its checkpoint would be on the disk of this pod, which is deleted after the try"
    if not is_asked_for and (problem := unwritable(file)):
        return f"its checkpoint cannot be written to {file} ({problem})"
    return None


def pages_beside(listing: str) -> AnyPath | None:
    """The file in the site's ``work_directory`` beside which pages of a listing are kept; None without the option.

    All tasks share its name, so that each removes the abandoned pages of others.

    :raises SourceError: if ``work_directory`` is not a path
    """
    folder = config.work_directory()
    return None if folder is None else path_of(f"{folder.rstrip('/')}/{listing}", REMEDY)


def site_report(ti: Any) -> AnyPath | None:
    """The report of a load in the site's ``report_directory``: one file for each task instance.

    A report that is deleted with the task's pod is only a warning: the DAG's author has not chosen its place.

    :raises SourceError: if ``report_directory`` is not a path
    """
    folder = config.report_directory()
    if folder is None:
        return None
    path = site_file("report_directory", folder, ti, "report.md")
    for problem in lost_files({"report_directory": path}):
        log.warning("%s.", problem)
    return path


# -- pods ---------------------------------------------------------------------------------------------------


def lost_with_pod(path: AnyPath) -> bool:
    """Whether a file is deleted after this try: the task has a pod of its own, and no volume outlives it there."""
    return config.runs_in_own_pod() and is_on_own_disk(path)


def lost_files(paths: Mapping[str, AnyPath | None]) -> Iterator[str]:
    """Problems: files that are deleted with the pod of the task before anyone can read them.

    :param paths: by the names of their arguments
    """
    for name, path in paths.items():
        if path is not None and lost_with_pod(path):
            yield (
                f"{name}: {path} is on the disk of this pod, which is deleted after the try; give a URL of an object "
                "store (s3://conn_id@bucket/...) or a path on a mounted volume"
            )


def check_kept(paths: Mapping[str, AnyPath | None]) -> None:
    """Refuse such files.

    :raises SourceError: naming the first
    """
    for problem in lost_files(paths):
        raise SourceError(problem)


# -- checkpoints --------------------------------------------------------------------------------------------


def identity_of(ti: Any) -> str:
    """What identifies a task instance: the same text for all its tries."""
    return "\n".join(str(part) for part in (ti.dag_id, ti.run_id, ti.task_id, ti.map_index))


class OwnCheckpoints:
    """Ignores checkpoints of another task instance at the same place.

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
            log.warning("Airflow did not store the checkpoint (%s); the load continues.", type(away).__name__)

    def clear(self) -> None:
        """Do nothing: Airflow expires it. If a success was not recorded, the next try finds all rows done."""
