"""The load job: check all rows, choose the cheapest plan, send, and end with counts that add up.

One thread decides and counts; the others only make calls. However a try ends (the last row, an error of the run, a
signal, a kill), the next try knows which rows are done.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from crm_provider import errors as e
from crm_provider.client.client import CrmClient
from crm_provider.errors.policy import ErrorPolicy
from crm_provider.files.paths import CannotWrite
from crm_provider.files.row_lines import RowLines, RowsLost
from crm_provider.load.dispatch import Dispatcher
from crm_provider.load.kinds.contacts import CONTACTS
from crm_provider.load.kinds.kind import Kind
from crm_provider.load.kinds.remote import TrySetup
from crm_provider.load.options import NO_PLAN, TAKEN_ROW, ContactOptions, LoadOptions
from crm_provider.load.outcomes.file import OutcomesFile
from crm_provider.load.planner import Plan
from crm_provider.load.preflight import Preflight, RowMapper, check
from crm_provider.load.progress import KEPT, LoadProgress, cleared
from crm_provider.load.rejects.file import RejectsFile
from crm_provider.load.rejects.samples import samples_of
from crm_provider.load.report import LoadInterrupted, LoadStopped, LoadUnsaved, Summary
from crm_provider.load.row_results import RowResultHandler, decide_run
from crm_provider.load.rows import Outcome, SourceError, calls_text, duration, rows_text
from crm_provider.load.sources.source import Source
from crm_provider.load.state.checkpoint import Checkpoint, Checkpoints, DoneRows, NoCheckpoints, resumable
from crm_provider.load.state.fingerprints import Fingerprints
from crm_provider.load.state.temp_tables import RowStatus
from crm_provider.load.workers import Cancelled, CancelToken, RequestStats, WorkerPool
from crm_provider.rate_limit.schedule import MARGIN

log = logging.getLogger(__name__)


class LoadTry:
    """One try of a load whose rows are staged."""

    def __init__(self, job: LoadJob, preflight: Preflight) -> None:
        self.job, self.preflight = job, preflight
        before, kept = self._earlier_checkpoint()
        self.progress = LoadProgress(
            before,
            rows=preflight.rows,
            fingerprint=preflight.fingerprint,
            epoch=job.epoch,
            files=job.row_files,
            fingerprints=job.fingerprints,
            checkpoints=job.checkpoints,
            stats=job.stats,
            rate=job.rate,
            clock=job.clock,
            is_limited=job.kind.limited_by is not None,
        )
        self.counts = self.progress.counts
        self.remote = job.kind.remote(
            TrySetup(
                client=job.client,
                options=job.options,
                mapper=job.mapper,
                preflight=preflight,
                done=self.counts.done,
                cancel_token=job.cancel_token,
                is_resumed=self.progress.is_resumed,
                fingerprints=job.fingerprints,
                kept=kept,
            )
        )
        self.progress.kept = self.remote.kept
        self.plan = Plan(NO_PLAN, 0, "")
        self.handler = RowResultHandler(
            counts=self.counts,
            options=job.options,
            policy=job.policy,
            rejects=job.rejects,
            fingerprints=job.fingerprints,
            outcomes=job.outcomes,
            of_the_run=self.remote.of_the_run,
            kind=job.kind.name,
            is_for_invalid=preflight.staged.is_for_invalid,
        )

    # -- the whole -------------------------------------------------------------------------------------------

    def run(self) -> Summary:
        """Plan, send all rows that are left, and summarise; see :meth:`LoadJob.run`."""
        try:
            return self._run()
        except CannotWrite as unwritten:
            if self.handler.stop is None:
                raise LoadUnsaved(unwritten, self.summary()) from unwritten
            log.warning("%s. The last rows were not saved and will be sent again.", unwritten)
            return self._ended()  # by the error that came first

    def _run(self) -> Summary:
        dry_run = self.job.options.dry_run
        try:
            self._make_plan()
            if not dry_run:
                self._refuse_if_too_long()
                self._write()
        except e.CrmError as error:  # of a call that belongs to no row, such as a read before the first write
            self.handler.stop = (error, decide_run(error, self.job.policy))
        except Cancelled:
            log.info("Cancelled while the %s of the CRM were read.", self.job.options.records)
        finally:
            self.remote.close()
            if not dry_run:
                self.progress.save_calls()
        return self._ended()

    def _write(self) -> None:
        progress = self.progress
        for file in self.job.row_files:
            if self.counts.rows:
                file.resume(self.counts.done.__contains__)
            else:
                file.start()
        progress.save()  # so that a file that cannot be written is found before the first call
        self._note_start()
        try:
            if self.plan.name == "compare":
                progress.reading_stopped = True
                self.remote.read_all(progress.tick_reading)
                progress.reading_stopped = False
            self._forget_before_sending()
            self._send_all()
        except BaseException:
            progress.save_if_possible()
            self._mark_if_possible()
            raise
        progress.save()
        self._mark_replaced()

    def _forget_before_sending(self) -> None:
        """Forget what an earlier load has sent for the records that this one changes, before their first call.

        A lost disk or power cut then leaves no fingerprint of values that the CRM may no longer have. With full_refresh
        most values are the same as before: their fingerprints stay valid even if the load is stopped.
        """
        if (fingerprints := self.job.fingerprints) is None:
            return
        done = self.counts.done
        rows = self.preflight.staged.rows(after=done.upto, without=frozenset(done.above), only=RowStatus.SEND)
        for record in (row.record for row in rows if row.record and not fingerprints.unchanged(row.record)):
            fingerprints.forget(record)
        fingerprints.sync()

    def _mark_replaced(self) -> None:
        """Mark in the rejects file those rows for whose record another row was taken, and no others."""
        rejects, staged, counts = self.job.rejects, self.preflight.staged, self.counts
        if rejects is None or not staged.has_stale():
            return
        rejected = rejects.numbers

        def mark_of(number: int) -> str | None:
            if (preferred := staged.preferred_to(number)) is None:
                return None
            mark, other = preferred
            if other is None or other in counts.unsure:
                return mark
            is_taken = other in counts.done and other not in rejected and other not in counts.skipped
            return mark if is_taken else ""

        rejects.mark_replaced(mark_of, TAKEN_ROW[self.job.options.duplicates])

    def _mark_if_possible(self) -> None:
        try:
            self._mark_replaced()
        except CannotWrite as unwritten:
            log.warning("%s. The next try corrects which rows a resend leaves out.", unwritten)

    def _note_start(self) -> None:
        """Record when the load began, if a later try must know which records are older."""
        if self.progress.began is None and self.remote.needs_start:
            self.progress.began = self.job.client.start_of_writes()
            self.progress.save()
        self.remote.began = self.progress.began

    def _ended(self) -> Summary:
        job, summary = self.job, self.summary()
        if self.handler.stop is not None:
            self._publish()
            raise LoadStopped(*self.handler.stop, summary)
        if job.cancel_token.is_set and (summary.left or job.options.dry_run):
            raise LoadInterrupted(summary)
        if job.options.dry_run:
            return summary
        if summary.left:
            raise RuntimeError(f"the counts do not add up: {summary.line()}")
        if job.rejects is not None:
            self._finish(job.rejects, summary.counts.get(Outcome.REJECTED, 0))
        if job.outcomes is not None:
            self._finish(job.outcomes, summary.rows)
        if job.fingerprints is not None:
            job.fingerprints.finish()
        log.info("Done: %s", summary.line(separator="\n"))
        return summary

    def _publish(self) -> None:
        """Publish the outcomes so far, if possible; the next try writes the others."""
        if self.job.outcomes is not None and not self.job.options.dry_run:
            try:
                self.job.outcomes.publish()
            except CannotWrite as unwritten:
                log.warning("%s. The next try writes them.", unwritten)

    def _finish(self, file: RowLines, wanted: int) -> None:
        try:
            file.finish(wanted)
        except RowsLost:
            self.progress.start_again()  # the checkpoint says that these rows are done
            raise

    def _earlier_checkpoint(self) -> tuple[Checkpoint | None, Mapping[str, Any]]:
        """What this try goes on from, and what the kind of records keeps, whatever has become of the input."""
        job = self.job
        before = None if job.options.dry_run else job.checkpoints.load()
        if before is None:
            return None, {}
        kept = before.notes.get(KEPT) if before.epoch == job.epoch else None
        return self._resumed(before), kept if isinstance(kept, Mapping) else {}

    def _resumed(self, before: Checkpoint) -> Checkpoint | None:
        job = self.job
        reason = resumable(before, job.epoch, self.preflight.fingerprint) or self._lost_rows(before)
        if reason is not None:
            log.info("Starting from the first row: %s.", reason)
            return cleared(before, job.epoch, self.preflight.fingerprint)
        log.info("Resuming where the last try ended: %s done.", rows_text(before.rows))
        return before

    def _lost_rows(self, before: Checkpoint) -> str | None:
        """Which rows are missing from the files of an earlier try, None if none is; checked as early as possible."""
        done = DoneRows(before.done_upto, before.done_above)
        for file in self.job.row_files:
            wanted = before.rows if file is self.job.outcomes else before.counts.get(Outcome.REJECTED.value, 0)
            if gone := file.missing(wanted, done.__contains__):
                return f"{gone} {file.rows_are} of earlier tries are no longer in {file.path}"
        return None

    def _make_plan(self) -> None:
        plan = self.plan = self.remote.make_plan(may_compare=not self.progress.reading_stopped)
        self.progress.plan_calls = plan.calls
        seconds, rate = self._plan_seconds, self.job.rate * MARGIN
        log.info(
            "Plan: %s, about %s, %s at %g calls per second.\nBecause: %s.",
            plan.name, calls_text(plan.calls), duration(seconds), rate, plan.why,
        )  # fmt: skip

    @property
    def _plan_seconds(self) -> float:
        return self.plan.seconds(self.job.rate * MARGIN)

    def _refuse_if_too_long(self) -> None:
        if too_long := self._too_long():
            raise SourceError(too_long)

    def _too_long(self) -> str:
        """Why the plan does not fit in the time that is left; empty if it does."""
        limit = self.job.time_limit
        if limit is None or self._plan_seconds <= limit:
            return ""
        return (
            f"the load would take about {duration(self._plan_seconds)} ({calls_text(self.plan.calls)} at "
            f"{self.job.rate * MARGIN:g} per second), but execution_timeout allows {duration(limit)} in all "
            "tries that are left; raise execution_timeout or retries, or load less"
        )

    def _send_all(self) -> None:
        job = self.job
        Dispatcher(
            staged=self.preflight.staged,
            workers=WorkerPool(self.remote.send, job.rate, job.stats),
            handler=self.handler,
            remote_of=self.remote.get,
            progress=self.progress,
            cancel_token=job.cancel_token,
            ping=job.client.ping,
            clock=job.clock,
        ).run()

    # -- the end ---------------------------------------------------------------------------------------------

    def summary(self) -> Summary:
        """The counts as they are now."""
        job, counts, totals = self.job, self.counts, self.job.stats.snapshot()
        seconds, rows = self.progress.seconds, self.preflight.rows
        calls = counts.calls_before + totals.calls
        return Summary(
            rows=rows,
            counts=dict(counts.counts),
            errors=dict(counts.errors),
            problems=self.preflight.problems,
            notes=self.preflight.notes,
            calls=calls,
            calls_saved=max(self.remote.naive_calls(counts.counts, counts.refused) - calls, 0),
            throttled=totals.throttled,
            seconds=counts.seconds_before + seconds,
            left=rows - sum(counts.counts.values()),
            unsure=len(counts.unsure | counts.unfinished),
            retryable=counts.retryable,
            budget_used=min(totals.calls / (job.rate * seconds), 1.0) if seconds > 0 else 0.0,
            resumed_at=counts.resumed_at,
            plan=self.plan.name,
            plan_why=self.plan.why,
            plan_calls=self.plan.calls,
            plan_seconds=self._plan_seconds,
            dry_run=job.options.dry_run,
            outcomes=job.options.outcomes,
            kind=job.kind.name,
            plan_words=job.options.plan_words.get(self.plan.name, ""),
            samples=self._samples(),
            checked=self.preflight.as_found(skips_invalid=job.options.skips_invalid) if job.options.dry_run else {},
            forecast=self.remote.forecast,
            refusal=self.remote.refusal,
            too_long=self._too_long() if job.options.dry_run else "",
        )

    def _samples(self) -> list[dict[str, object]]:
        rejects = self.handler.samples
        return samples_of(rejects, getattr(self.job.source, "place", _no_place)) if rejects else []


def _no_place(_number: int) -> str:
    return ""


@dataclass(frozen=True, kw_only=True)
class LoadJob:
    """Everything a load needs; it reads no settings of its own.

    :param client: its transport uses the key's rate budget, sleeps with ``cancel_token`` and reports to ``stats``
    :param kind: of the records that the rows become
    :param options: of that kind
    :param rate: calls per second that the key is allowed
    :param rejects: None to only count rejected rows
    :param outcomes: file for the outcome of every row, None to only count
    :param fingerprints: of what was loaded before, None to send every row
    :param epoch: distinguishes the tries of one run from a run that was started again
    :param suppressed: whether an email must not be written to, None if there is no suppression list
    :param time_limit: seconds that the load may take, including the retries that resume it; None for no limit
    """

    source: Source
    mapper: RowMapper
    client: CrmClient
    stats: RequestStats
    kind: Kind = CONTACTS
    options: LoadOptions = field(default_factory=ContactOptions)
    policy: ErrorPolicy = field(default_factory=ErrorPolicy)
    rate: float = 5.0
    rejects: RejectsFile | None = None
    outcomes: OutcomesFile | None = None
    fingerprints: Fingerprints | None = None
    full_refresh: bool = False
    checkpoints: Checkpoints = field(default_factory=NoCheckpoints)
    epoch: int = 0
    suppressed: Callable[[str], bool] | None = None
    cancel_token: CancelToken = field(default_factory=CancelToken)
    time_limit: float | None = None
    clock: Callable[[], float] = time.monotonic

    @property
    def row_files(self) -> list[RowLines]:
        """The files that get a line for each row, or for some."""
        return [file for file in (self.rejects, self.outcomes) if file is not None]

    def run(self) -> Summary:
        """Load all rows.

        :return: the summary; the caller decides whether there are too many rejects (:func:`too_many_rejects`)
        :raises SourceError: before the first write: the source, the mapping or the plan cannot be used
        :raises LoadStopped: on an error of the run
        :raises LoadUnsaved: a file of the load cannot be written
        :raises LoadInterrupted: if ``cancel_token`` was set
        """
        try:
            preflight = self._preflight()
            try:
                return LoadTry(self, preflight).run()
            finally:
                preflight.staged.close()
        except CannotWrite as unwritten:  # before the first call
            raise LoadUnsaved(unwritten, Summary(rows=0)) from unwritten
        finally:
            if self.fingerprints is not None:
                self._close_state(self.fingerprints)

    @staticmethod
    def _close_state(fingerprints: Fingerprints) -> None:
        """Close the state file. An error here does not replace the error that ended the load."""
        try:
            fingerprints.close()
        except CannotWrite as unwritten:
            log.warning("%s. The next load may send rows of this try again.", unwritten)

    def _preflight(self) -> Preflight:
        is_known = self.fingerprints is not None and not self.full_refresh
        try:
            return check(
                self.source,
                self.mapper,
                self.options,
                suppressed=self.suppressed,
                unchanged=self.fingerprints.unchanged if self.fingerprints is not None and is_known else None,
                cancel_token=self.cancel_token,
                keys=() if self.outcomes is None else self.outcomes.keys,
            )
        except Cancelled:
            raise LoadInterrupted(Summary(rows=0)) from None
