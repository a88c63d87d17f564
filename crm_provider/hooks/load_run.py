"""One try of a load, as operators and :meth:`~crm_provider.hooks.crm.CrmHook.load_contacts` run it."""

from __future__ import annotations

import errno
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from crm_provider import errors as e
from crm_provider._compat import Context
from crm_provider.errors.on_error import Action
from crm_provider.errors.policy import ErrorPolicy
from crm_provider.files.paths import AnyPath, CannotWrite, unwritable
from crm_provider.load.kinds.kind import Kind
from crm_provider.load.options import NO_PLAN, LoadOptions
from crm_provider.load.outcomes.file import OutcomesFile
from crm_provider.load.rejects.file import RejectsFile
from crm_provider.load.report import (
    LoadInterrupted,
    LoadStopped,
    LoadUnsaved,
    Summary,
    TooManyRejects,
    done,
    finish_summary,
    rejects_of,
    too_many_rejects,
    what_to_do,
)
from crm_provider.load.rows import Outcome, SourceError, rows_text, unsure_text
from crm_provider.load.state.checkpoint import Checkpoints, NoCheckpoints
from crm_provider.load.workers import CancelToken
from crm_provider.observability.metrics import LoadEnd, count_load
from crm_provider.tasks.outcome import record, reschedule_date, retries_left
from crm_provider.tasks.templates import with_connection

if TYPE_CHECKING:
    from crm_provider.client.client import CrmClient
    from crm_provider.load.job import LoadJob
    from crm_provider.load.preflight import RowMapper
    from crm_provider.load.sources.source import Source
    from crm_provider.load.state.fingerprints import Fingerprints

log = logging.getLogger(__name__)

WRITTEN_PATHS = ("rejects_path", "outcomes_path", "state_path", "checkpoint_path")

CLEARED = "A cleared task starts with the first row; with state_path, loaded rows then cost no call"
"""What happens to the rows that are left if no retry is."""

STARTS_AGAIN = "A retry starts with the first row, because this load keeps no checkpoint (set checkpoint_path)"
"""What happens to them if a retry does not know which rows are done."""

NO_SPACE = frozenset(map(os.strerror, (errno.ENOSPC, errno.EDQUOT)))
"""Why a file cannot be written now, but perhaps later."""

BESIDE_REPORT = "crm_load"
"""Beginning of the name of a checkpoint in the folder of the report."""


@dataclass(kw_only=True)
class LoadRun:
    """One try of a load: its job, and its result, which is complete even if the try fails.

    :param given: the arguments, checked
    :param bulk_client: makes the client (:meth:`~crm_provider.hooks.crm.CrmHook.bulk_client`)
    :param open_source: opens the rows
    :param path: the path of an argument, None if it is not given
    :param report_path: file for the report; by default beside the rejects
    :param checkpoints: chooses their place, beside one of the files if necessary
    :param context: of the running task, None in a script
    :param timeout: the task's ``execution_timeout``
    """

    kind: Kind
    given: Mapping[str, Any]
    policy: ErrorPolicy
    crm_conn_id: str
    bulk_client: Callable[..., CrmClient]
    open_source: Callable[[], Source]
    path: Callable[[str], AnyPath | None]
    report_path: AnyPath | None
    checkpoints: Callable[[AnyPath | None], Checkpoints]
    context: Context | None = None
    timeout: timedelta | None = None
    cancel_token: CancelToken = field(default_factory=CancelToken)
    result: dict[str, Any] | None = None
    source_files: Sequence[AnyPath] = ()
    """The files that are read, once they are known."""

    def run(self) -> dict[str, Any]:
        """Load all rows.

        :return: the summary as data
        :raises SourceError: before the first call: the source, the mapping, a path or the plan cannot be used
        :raises TooManyRejects: if more rows were rejected than ``max_rejects`` allows
        :raises LoadStopped: if an error stopped the load
        :raises LoadUnsaved: a file of the load cannot be written
        :raises LoadInterrupted: if the load was cancelled
        """
        with ExitStack() as opened:
            try:
                job = self._job(opened)
            except CannotWrite as unwritten:
                self._count("stopped")
                raise self._advised(LoadUnsaved(unwritten, Summary(rows=0))) from unwritten
            return self._run(job)

    def _run(self, job: LoadJob) -> dict[str, Any]:
        try:
            summary = job.run()
        except LoadStopped as stopped:
            self._stopped(stopped, job)
            raise
        except LoadUnsaved as unsaved:
            self._finish(job, unsaved.summary, f"{self._advised(unsaved, job.checkpoints)}.")
            self._count("stopped")
            raise
        except LoadInterrupted as interrupted:
            self._finish(job, interrupted.summary, str(interrupted))
            self._count("interrupted")
            raise
        return self._ended(job, summary)

    def _ended(self, job: LoadJob, summary: Summary) -> dict[str, Any]:
        if job.options.dry_run:
            return self._checked(job, summary)
        problem = too_many_rejects(summary, job.options)
        result = self._finish(job, summary, f"{problem}." if problem else done(job, summary))
        if self.context is None or not job.options.must_know_own:
            try:
                job.checkpoints.clear()  # otherwise it stays: this task may run again, after a later error or a clear
            except CannotWrite as unwritten:
                log.warning("%s. Remove it: it says that all rows are done.", unwritten)
        self._count("too_many_rejects" if problem else "done", summary)
        if problem is not None:
            raise TooManyRejects(f"{problem}.", result, what_to_do(job, summary))
        if rejected := summary[Outcome.REJECTED]:
            facts = [("What to do", what_to_do(job, summary)), ("Report", result.get("report_path"))]
            were = "was" if rejected == 1 else "were"
            log.warning("%s", record(f"{rejected:,} of {rows_text(summary.rows)} {were} rejected.", facts))
        return result

    def _checked(self, job: LoadJob, summary: Summary) -> dict[str, Any]:
        """The end of a dry run: a report, so it succeeds even if a real run would fail."""
        from crm_provider.load.dry_run import dry_run_ending, real_run_problem, what_next

        problem = real_run_problem(summary, job.options)
        ending = dry_run_ending(summary, job.options)
        result = self._finish(job, replace(summary, would_fail=bool(problem)), ending)
        self._count("done", summary)
        facts = [("What to do", what_next(summary, job.options)), ("Report", result.get("report_path"))]
        log.log(logging.WARNING if problem else logging.INFO, "%s", record(ending, facts))
        return result

    def _stopped(self, stopped: LoadStopped, job: LoadJob) -> None:
        error, summary = stopped.error, stopped.summary
        unsure = unsure_text(summary.unsure, summary.outcomes)
        left = f" Of the rows that are left, {unsure}." if summary.unsure else ""
        self._finish(job, summary, f"Stopped: {error}{left}")
        self._count("stopped")
        when = "before a plan was made" if summary.plan == NO_PLAN else "after"
        error.add_remark(f"The load stopped {when}: {summary.counted}. {self._next(stopped, job)}")

    def _next(self, stopped: LoadStopped, job: LoadJob) -> str:
        """What happens to the rows that are left."""
        is_tried_again = stopped.decision.action is Action.RETRY and (
            self._has_retry or (self.context is not None and reschedule_date(stopped.error, self.context) is not None)
        )
        if not is_tried_again:
            return CLEARED
        if not isinstance(job.checkpoints, NoCheckpoints):
            return "A retry continues from there"
        return "A retry starts with the first row" if job.options.dry_run else STARTS_AGAIN

    def _advised(self, unsaved: LoadUnsaved, checkpoints: Checkpoints | None = None) -> LoadUnsaved:
        """The error, with what follows it for this task."""
        if not self._has_retry:
            unsaved.advice = f"Free disk space or fix the path. {CLEARED}"
        elif isinstance(checkpoints, NoCheckpoints):
            unsaved.advice = f"Free disk space or fix the path. {STARTS_AGAIN}"
        return unsaved

    @property
    def _has_retry(self) -> bool:
        """Whether the load may be tried again: in a task, if a retry is left."""
        return self.context is None or retries_left(self.context["ti"]) > 0

    def _finish(self, job: LoadJob, summary: Summary, ending: str) -> dict[str, Any]:
        if job.client.settings.developer_mode:
            ending = f"{ending} {job.client.settings.developer_note}"
        summary = replace(summary, resend=self._resend(job))
        summary = finish_summary(job, summary, ending=ending, report_path=self.report_path)
        # with the connection, which Airflow deletes after some runs
        known = {"crm_conn_id": self.crm_conn_id, "error_policy": self.policy.in_effect}
        self.result = {**summary.as_dict(), **known}
        return self.result

    def _resend(self, job: LoadJob) -> str | None:
        """The DAG that sends the rejected rows again, None if there are none."""
        path = rejects_of(job)
        if path is None:
            return None
        from crm_provider.load.rejects.resend import resend_dag

        task = {} if self.context is None else {"task": (self.context["ti"].dag_id, self.context["ti"].task_id)}
        own = self.policy.in_effect["on_error"]
        return resend_dag(path, self.given, kind=self.kind.name, crm_conn_id=self.crm_conn_id, on_error=own, **task)

    def _count(self, ending: LoadEnd, summary: Summary | None = None) -> None:
        if self.context is not None:
            count_load(self.context["ti"], ending, summary)

    # -- before ----------------------------------------------------------------------------------------------

    def _job(self, opened: ExitStack) -> LoadJob:
        """The load; ``opened`` closes its resources."""
        from crm_provider.load.job import LoadJob
        from crm_provider.load.workers import RequestStats

        options, stats = self._options(), RequestStats()
        if not options.dry_run:
            self._check_files()
        source = self.open_source()
        self.source_files = getattr(source, "files", ())
        if hasattr(source, "close"):
            opened.callback(source.close)
        client = opened.enter_context(self.bulk_client(sleep=self.cancel_token.sleep, observer=stats))
        rejects, outcomes, state = map(self.path, ("rejects_path", "outcomes_path", "state_path"))
        checkpoints = self._checkpoints(state or rejects or outcomes, dry_run=options.dry_run)
        resumes = options.dry_run or not isinstance(checkpoints, NoCheckpoints)
        ti = None if self.context is None else self.context["ti"]
        mapper = self.kind.mapper_of(self.given)
        return LoadJob(
            source=source,
            mapper=mapper,
            kind=self.kind,
            client=client,
            stats=stats,
            options=options,
            policy=self.policy,
            rate=client.settings.requests_per_second,
            rejects=None if rejects is None else RejectsFile.of(rejects, source),
            outcomes=None if outcomes is None else self._outcomes(outcomes, mapper),
            fingerprints=None if state is None else self._fingerprints(state, client, options, opened),
            full_refresh=bool(self.given.get("full_refresh")),
            checkpoints=checkpoints,
            epoch=int(getattr(ti, "max_tries", None) or 0),
            suppressed=self._suppressed(opened),
            cancel_token=self.cancel_token,
            time_limit=None if ti is None else time_limit(self.timeout, ti, resumes=resumes),
        )

    def _options(self) -> LoadOptions:
        """The options, with what the policy says about rows that are not valid: the check decides them all at once."""
        options = self.kind.options_of(self.given)
        if not (self.policy.on_error or self.policy.site):
            return options
        action = self.policy.decide(e.CrmInvalidValueError).action
        if action is Action.FAIL:
            return replace(options, on_invalid="stop")
        return replace(options, skips_invalid=action is Action.SKIP and options.on_invalid != "stop")

    def _checkpoints(self, beside: AnyPath | None, *, dry_run: bool) -> Checkpoints:
        """Where the load keeps its checkpoints. A dry run has none.

        The name beside the report does not depend on the report's: that may have the number of the try in it.

        :param beside: another file of the load; without one, they are beside the report
        :raises SourceError: if a limit counts for all tries, and the count cannot be kept
        """
        if dry_run:
            return NoCheckpoints()
        if beside is None and self.report_path is not None:
            beside = self.report_path.parent / BESIDE_REPORT
        checkpoints = self.checkpoints(beside)
        if self.kind.limited_by is not None and isinstance(checkpoints, NoCheckpoints):
            _check_limit(self.kind.limited_by, self.context)
        return checkpoints

    def _outcomes(self, path: AnyPath, mapper: RowMapper) -> OutcomesFile:
        fields = getattr(mapper, "field_columns", None)
        return OutcomesFile(path, keys=self.given.get("outcome_keys") or (), fields=fields)

    def _fingerprints(self, state: AnyPath, client: CrmClient, options: LoadOptions, opened: ExitStack) -> Fingerprints:
        from crm_provider.load.state.fingerprints import Fingerprints, secret_for

        fingerprints = Fingerprints(state, secret_for(client.settings), effect=options.effect)
        opened.callback(fingerprints.close)
        return fingerprints

    def _suppressed(self, opened: ExitStack) -> Callable[[str], bool] | None:
        """Whether an address must not be written to; None if there is no suppression list."""
        from crm_provider.load.suppression import Suppression

        people = self.given.get("suppression")
        if people is None:
            return None
        suppression = Suppression.read(with_connection(people))
        opened.callback(suppression.close)
        return suppression.__contains__

    def _check_files(self) -> None:
        """Check before the first call that each file can be written."""
        for name in WRITTEN_PATHS:
            if (path := self.path(name)) is not None and (problem := unwritable(path)) is not None:
                if problem in NO_SPACE:
                    raise CannotWrite(str(path), problem)  # a retry may find space
                raise SourceError(f"{name}: {path} cannot be written ({problem}); give the path of a writable file")


def time_limit(timeout: timedelta | None, ti: Any, *, resumes: bool) -> float | None:
    """Seconds that ``execution_timeout`` leaves for a load: in this try, and in its retries if they resume it.

    :param resumes: whether a retry resumes the load; a dry run, which keeps no checkpoint, assumes that it does
    """
    if timeout is None:
        return None
    return timeout.total_seconds() * (1 + (retries_left(ti) if resumes else 0))


def _check_limit(limit: str, context: Context | None) -> None:
    """Refuse what could not know how much of a limit was used before: retries, and going on after a reschedule.

    :raises SourceError: naming the missing argument
    """
    if context is None:
        return
    has_retries = bool(context["task"].retries)
    if has_retries or context["ti"].get_first_reschedule_date(context) is not None:
        remedy = "set checkpoint_path, rejects_path or report_path" + (", or retries=0" if has_retries else "")
        when = "a retry" if has_retries else "a rescheduled task"
        raise SourceError(f"{limit} applies to all tries together, but {when} would not know the count; {remedy}")
