"""The load job.

One try of a load, from the checked rows to the books.

The load: check all rows, choose the cheapest plan, send, and end with books that add up.

One thread decides and keeps the books; the others only make calls. After any end (the last row, an error of the run, a
signal, a kill) the next try knows which rows are done.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from crm_provider import errors as e
from crm_provider.client.client import CrmClient
from crm_provider.client.upsert import ContactWriter, LearnedOrder
from crm_provider.errors.policy import ErrorPolicy
from crm_provider.files.paths import CannotWrite
from crm_provider.load import planner as plans
from crm_provider.load.dispatch import Dispatcher
from crm_provider.load.options import LoadOptions
from crm_provider.load.planner import RemoteSampler
from crm_provider.load.preflight import Preflight, RowMapper, check, stop_if_invalid
from crm_provider.load.progress import EVERY, REMOTE_EVERY, CheckpointTimer, Position, ProgressLog, RowCounts, noted
from crm_provider.load.rejects.file import RejectsFile, RowsLost
from crm_provider.load.report import LoadInterrupted, LoadStopped, LoadUnsaved, Summary, duration
from crm_provider.load.row_results import RowResultHandler, decide_run
from crm_provider.load.rows import Made, Outcome, SourceError
from crm_provider.load.sources.source import Source
from crm_provider.load.state.checkpoint import Checkpoint, Checkpoints, NoCheckpoints, resumable
from crm_provider.load.state.fingerprints import Fingerprints
from crm_provider.load.state.temp_tables import RowStatus, StagedRow
from crm_provider.load.workers import (
    Cancelled,
    CancelToken,
    InFlightRow,
    RequestStats,
    RowSender,
    WorkerPool,
    width_for,
)
from crm_provider.rate_limit.schedule import MARGIN
from crm_provider.values.server_clock import utc_time

log = logging.getLogger(__name__)

READING_STOPPED, BEGAN, MADE = "reading_stopped", "began", "made"
"""Notes in a checkpoint: that a try was stopped while it read all contacts; when the load began, by the CRM's clock;
rows that are not done and whose contacts it has made."""


class LoadTry:
    """One try."""

    def __init__(self, load: LoadJob, found: Preflight) -> None:
        self.load, self.found = load, found
        self.started = self.synced = load.clock()
        before = self._earlier_try()
        self.ledger = RowCounts(before)
        self.survey = RemoteSampler(load.client, load.mapper, found.work, self.ledger.done, load.interrupt)
        self.reading_stopped = before is not None and bool(before.notes.get(READING_STOPPED))
        """Whether a try was stopped while it read all contacts: the next one must not begin with that again."""
        self.is_resumed = before is not None
        notes = before.notes if before is not None else {}
        self.began = utc_time(notes.get(BEGAN))
        made = notes.get(MADE)
        self.made_before = frozenset(made if isinstance(made, list) else [])
        self.plan = plans.Plan("nothing", 0, "")
        self.order = LearnedOrder()
        self.endings = RowResultHandler(
            ledger=self.ledger,
            options=load.options,
            policy=load.policy,
            mapper=load.mapper,
            rejects=load.rejects,
            fingerprints=load.fingerprints,
        )
        self.saver = CheckpointTimer(self._save, every=self._save_interval, clock=load.clock)
        self.progress = ProgressLog(load.rate, load.clock)
        self.saved_calls = 0
        """Calls of this try that a checkpoint has."""

    # -- the whole -------------------------------------------------------------------------------------------

    def run(self) -> Summary:
        try:
            return self._run()
        except CannotWrite as unwritten:
            if self.endings.stop is None:
                raise LoadUnsaved(unwritten, self.summary()) from unwritten
            log.warning("%s. The last rows were not saved and will be sent again.", unwritten)
            return self._ended()  # by the error that came first

    def _run(self) -> Summary:
        try:
            self._say_what_was_found()
            if not self.load.options.dry_run:
                stop_if_invalid(self.found, self.load.options)
            self._make_plan()
            if not self.load.options.dry_run:
                self._refuse_if_too_long()
                self._write()
        except e.CrmError as error:  # of a call that is no row's: looking at the CRM before the first write
            self.endings.stop = (error, decide_run(error, self.load.policy))
        except Cancelled:
            log.info("Cancelled while the contacts of the CRM were read.")
        finally:
            self.survey.known.close()
            self._save_calls()
        return self._ended()

    def _save_calls(self) -> None:
        """Calls of a try that ended before its last row count, also those that were made while it planned."""
        if not self.load.options.dry_run and self.load.pulse.calls > self.saved_calls:
            self._save_if_possible()

    def _write(self) -> None:
        if self.load.rejects is not None:
            self.load.rejects.resume(self.ledger.done.__contains__) if self.ledger.rows else self.load.rejects.start()
        self._save()  # a file that cannot be written is found out before the first call
        self._note_start()
        try:
            if self.plan.compares:
                self.reading_stopped = True
                self.survey.read_all(self._tick_reading)
                self.reading_stopped = False
            self._send_all()
        except BaseException:
            self._save_if_possible()
            raise
        self._save()

    def _note_start(self) -> None:
        """Write down when the load began, where a later try must know which contacts are older."""
        load = self.load
        is_needed = load.options.mode == "create" and load.options.list_ids and self.survey.rows
        if self.began is not None or not is_needed:
            return
        self.began = load.client.start_of_writes()
        self._save()

    def _ended(self) -> Summary:
        summary = self.summary()
        if self.endings.stop is not None:
            raise LoadStopped(*self.endings.stop, summary)
        if self.load.interrupt.is_set and (summary.left or self.load.options.dry_run):
            raise LoadInterrupted(summary)
        if self.load.options.dry_run:
            return summary
        if summary.left:
            raise RuntimeError(f"the books do not add up: {summary.line()}")
        if self.load.rejects is not None:
            self._finish(self.load.rejects, summary[Outcome.REJECTED])
        if self.load.fingerprints is not None:
            self.load.fingerprints.finish()
        log.info("Done: %s", summary.line())
        return summary

    def _finish(self, rejects: RejectsFile, rejected: int) -> None:
        try:
            rejects.finish(rejected)
        except RowsLost:
            self.load.checkpoints.clear()  # it says that these rows are done; sent again, they are rejected again
            raise

    def _earlier_try(self) -> Checkpoint | None:
        load = self.load
        before = None if load.options.dry_run else load.checkpoints.load()
        if before is None:
            return None
        reason = resumable(before, load.epoch, self.found.fingerprint)
        if reason is not None:
            log.info("Starting from the first row: %s.", reason)
            return None
        log.info("Going on where the last try ended: %d rows are done.", before.rows)
        return before

    def _say_what_was_found(self) -> None:
        work = self.found.work
        log.info(
            "Checked %s: %d rows; %d to send, %d unchanged since the last load, %d left out for another row with the "
            "same email, %d suppressed, %d that cannot be sent.",
            self.load.source.name, self.found.rows, self.found.to_send, work.count(RowStatus.SAME),
            work.count(RowStatus.DUPLICATE), work.count(RowStatus.SUPPRESSED),
            self.found.invalid + work.count(RowStatus.AMBIGUOUS),
        )  # fmt: skip
        for text in self.found.problem_lines():
            log.warning("%s", text)

    def _make_plan(self) -> None:
        load, survey = self.load, self.survey
        self.plan, sample = plans.choose(
            mode=load.options.mode,
            wanted=load.options.plan,
            rows=survey.rows,
            lists=plans.Lists(bool(load.options.list_ids), guarded=not load.options.resubscribe),
            may_compare=not self.reading_stopped,
            total=survey.total,
            sample=survey.sample,
        )
        log.info(
            "Plan: %s, about %d calls, %s at %g calls per second. Because: %s.",
            self.plan.name, self.plan.calls, duration(self._plan_seconds()), load.rate * MARGIN, self.plan.why,
        )  # fmt: skip
        self.order = LearnedOrder(share=sample.share_existing, weight=sample.rows)

    def _plan_seconds(self) -> float:
        return self.plan.seconds(self.load.rate * MARGIN)

    def _refuse_if_too_long(self) -> None:
        limit = self.load.time_limit
        if limit is not None and self._plan_seconds() > limit:
            raise SourceError(
                f"the load would take about {duration(self._plan_seconds())} ({self.plan.calls:,} calls at "
                f"{self.load.rate * MARGIN:g} per second), but execution_timeout allows {duration(limit)} in all "
                "tries that are left; raise execution_timeout or retries, or load less"
            )

    def _send_all(self) -> None:
        load, options = self.load, self.load.options
        writer = ContactWriter(
            load.client,
            mode=options.mode,
            order=self.order,
            lists=options.checked_lists(),
            guard=not options.resubscribe,
        )
        sender = RowSender(writer, began=self.began)
        Dispatcher(
            items=(item for item in self.found.work.items() if item.row.number not in self.ledger.done),
            window=WorkerPool(sender.send, lambda: width_for(load.rate, load.pulse.latency)),
            flight_of=self._flight_of,
            endings=self.endings,
            done=self.ledger.done,
            interrupt=load.interrupt,
            ping=load.client.ping,
            tick=self._tick,
            clock=load.clock,
        ).run()

    def _flight_of(self, item: StagedRow) -> InFlightRow:
        contact = self.load.mapper(item.row)
        if self.load.fingerprints is not None:
            self.load.fingerprints.forget(contact)  # until the call has succeeded
        made = item.row.made
        if made is None and self.is_resumed:
            made = Made(self.began, certain=item.row.number in self.made_before)
        return InFlightRow(item.row, contact, self.survey.known.get(contact), made=made)

    def _tick_reading(self, contacts: int) -> None:
        self.progress.tick_reading(contacts, self.load.pulse.calls)

    def _tick(self) -> None:
        self.saver.tick(self.ledger)
        self.progress.tick(self._position)

    # -- the end ---------------------------------------------------------------------------------------------

    def _save_interval(self) -> float:
        rejects = self.load.rejects
        slow = rejects is not None and not rejects.is_local and rejects.has_unsynced
        return REMOTE_EVERY if slow or not self.load.checkpoints.is_local else EVERY

    def _save_if_possible(self) -> None:
        """For the next try, after something has gone wrong: that is what is to be told, not that this fails too."""
        try:
            self._save()
        except CannotWrite as unwritten:
            log.warning("%s. The last rows were not saved and will be sent again.", unwritten)

    def _save(self) -> None:
        load = self.load
        if load.rejects is not None:
            load.rejects.sync()  # before the checkpoint says that these rows are done
        if load.fingerprints is not None and load.clock() - self.synced >= REMOTE_EVERY:
            load.fingerprints.sync()
            self.synced = load.clock()
        if not self.ledger.is_whole:
            log.warning("Interrupted in the middle of an entry: the checkpoint before this one stays.")
            return
        saved = self.ledger.checkpoint(
            epoch=load.epoch, fingerprint=self.found.fingerprint, calls=load.pulse.calls, seconds=self._seconds()
        )
        load.checkpoints.save(replace(saved, notes=self._notes()))
        self.saved_calls = load.pulse.calls

    def _notes(self) -> dict[str, Any]:
        notes = noted(self._position())
        if self.reading_stopped:
            notes[READING_STOPPED] = True
        if self.began is not None:
            notes[BEGAN] = self.began.isoformat()
        made = [*self.endings.made, *(number for number in self.made_before if number not in self.ledger.done)]
        if made:
            notes[MADE] = sorted(set(made))
        return notes

    def _seconds(self) -> float:
        return self.load.clock() - self.started

    def _position(self) -> Position:
        calls = self.load.pulse.calls
        return Position(
            done=self.ledger.rows,
            rows=self.found.rows,
            counts=self.ledger.counts,
            calls=calls,
            calls_left=max(self.plan.calls - calls, self.found.rows - self.ledger.rows),
        )

    def summary(self) -> Summary:
        """The books as they are now."""
        load, ledger, seconds = self.load, self.ledger, self._seconds()
        calls = ledger.calls_before + load.pulse.calls
        counts = dict(ledger.counts)
        return Summary(
            rows=self.found.rows,
            counts=counts,
            errors=dict(ledger.errors),
            problems=self.found.problems,
            calls=calls,
            calls_saved=max(self._naive_calls() - calls, 0),
            throttled=load.pulse.throttled,
            seconds=ledger.seconds_before + seconds,
            left=self.found.rows - ledger.rows,
            budget_used=min(load.pulse.calls / (load.rate * seconds), 1.0) if seconds > 0 else 0.0,
            resumed_at=ledger.resumed_at,
            plan=self.plan.name,
            plan_why=self.plan.why,
            plan_calls=self.plan.calls,
            plan_seconds=self._plan_seconds(),
            dry_run=load.options.dry_run,
        )

    def _naive_calls(self) -> int:
        """What creating each row, and updating it on a conflict, would have cost."""
        counts = self.ledger.counts
        existing = counts[Outcome.UPDATED] + counts[Outcome.UNCHANGED]
        each = 2 if self.load.options.mode == "upsert" else 1
        sent = counts[Outcome.CREATED] + existing
        return counts[Outcome.CREATED] + existing * each + self.ledger.refused + sent * bool(self.load.options.list_ids)


@dataclass(frozen=True, kw_only=True)
class LoadJob:
    """Everything a load needs; it reads no settings of its own.

    :param client: its transport draws on the key's budget, sleeps with ``interrupt`` and tells ``pulse`` of its calls
    :param rate: calls per second that the key is allowed
    :param rejects: None to only count what is rejected
    :param fingerprints: of what was loaded before, None to send every row
    :param epoch: tells tries of one run apart from a run that was started anew
    :param time_limit: seconds that the load may take, with the retries that resume it; None for no limit
    """

    source: Source
    mapper: RowMapper
    client: CrmClient
    pulse: RequestStats
    options: LoadOptions = field(default_factory=LoadOptions)
    policy: ErrorPolicy = field(default_factory=ErrorPolicy)
    rate: float = 5.0
    rejects: RejectsFile | None = None
    fingerprints: Fingerprints | None = None
    full_refresh: bool = False
    checkpoints: Checkpoints = field(default_factory=NoCheckpoints)
    epoch: int = 0
    suppressed: Callable[[str], bool] = lambda email: False
    interrupt: CancelToken = field(default_factory=CancelToken)
    time_limit: float | None = None
    clock: Callable[[], float] = time.monotonic

    def run(self) -> Summary:
        """Load all rows.

        :return: the summary; whether there are too many rejects is for the caller to say (:func:`too_many_rejects`)
        :raises SourceError: before the first write: the source, the mapping or the plan will not do
        :raises LoadStopped: on an error of the run
        :raises LoadUnsaved: a file of the load cannot be written
        :raises LoadInterrupted: if ``interrupt`` was set
        """
        try:
            return self._checked_and_sent()
        except CannotWrite as unwritten:  # before the first call
            raise LoadUnsaved(unwritten, Summary(rows=0)) from unwritten
        finally:
            self._close_state()

    def _close_state(self) -> None:
        """How the load has ended is to be told, not that this fails."""
        if self.fingerprints is not None:
            try:
                self.fingerprints.close()
            except CannotWrite as unwritten:
                log.warning("%s. Rows of this try may be sent once more by the next load.", unwritten)

    def _checked_and_sent(self) -> Summary:
        remembers = self.fingerprints is not None and not self.full_refresh
        unchanged = self.fingerprints.unchanged if self.fingerprints is not None and remembers else _never
        try:
            found = check(
                self.source,
                self.mapper,
                self.options,
                suppressed=self.suppressed,
                unchanged=unchanged,
                interrupt=self.interrupt,
            )
        except Cancelled:
            raise LoadInterrupted(Summary(rows=0)) from None
        try:
            return LoadTry(self, found).run()
        finally:
            found.work.close()


def _never(_: object) -> bool:
    return False
