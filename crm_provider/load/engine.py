"""The load: check all rows, choose the cheapest plan, send, and end with books that add up.

One thread decides and keeps the books; the others only make calls. After any end (the last row, an error of the run, a
signal, a kill) the next try knows which rows are done.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from crm_provider.client.client import CrmClient
from crm_provider.errors.policy import ErrorPolicy
from crm_provider.files.paths import CannotWrite
from crm_provider.load.checkpoint import Checkpoints, NoCheckpoints
from crm_provider.load.fingerprints import Fingerprints
from crm_provider.load.options import LoadOptions, rejects_allowed
from crm_provider.load.preflight import RowMapper, check
from crm_provider.load.rejects import RejectsFile
from crm_provider.load.report import advice_of, commonest
from crm_provider.load.rows import Outcome
from crm_provider.load.run import Run
from crm_provider.load.sources import Source
from crm_provider.load.stops import LoadInterrupted, LoadStopped, LoadUnsaved
from crm_provider.load.summary import Summary
from crm_provider.load.window import Interrupt, Interrupted, Pulse

__all__ = ["Load", "LoadInterrupted", "LoadStopped", "LoadUnsaved", "too_many_rejects"]

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Load:
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
    pulse: Pulse
    options: LoadOptions = field(default_factory=LoadOptions)
    policy: ErrorPolicy = field(default_factory=ErrorPolicy)
    rate: float = 5.0
    rejects: RejectsFile | None = None
    fingerprints: Fingerprints | None = None
    full_refresh: bool = False
    checkpoints: Checkpoints = field(default_factory=NoCheckpoints)
    epoch: int = 0
    suppressed: Callable[[str], bool] = lambda email: False
    interrupt: Interrupt = field(default_factory=Interrupt)
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
        except Interrupted:
            raise LoadInterrupted(Summary(rows=0)) from None
        try:
            return Run(self, found).run()
        finally:
            found.work.close()


def _never(_: object) -> bool:
    return False


def too_many_rejects(summary: Summary, options: LoadOptions) -> str | None:
    """Why a load counts as failed, None if it does not."""
    rejected, allowed = summary[Outcome.REJECTED], rejects_allowed(options.max_rejects, summary.rows)
    if rejected <= allowed:
        return None
    return (
        f"{rejected:,} of {_rows(summary.rows)} {'was' if rejected == 1 else 'were'} rejected, "
        f"{f'at most {allowed:,}' if allowed else 'none'} allowed (max_rejects={options.max_rejects!r}). "
        f"{_most_often(summary, rejected)}"
    )


def _most_often(summary: Summary, rejected: int) -> str:
    """The commonest reasons; no text of them holds a value."""
    errors = {type_: count for type_, count in summary.errors.items() if count <= rejected}  # else: skipped by on_error
    if sum(errors.values()) != rejected:  # which of them were skipped is not told apart
        return f"The errors of all rows: {_counted(commonest(summary.errors))}"
    (top, count), *others = commonest(errors)
    problems = commonest(summary.problems) if top == "INVALID_VALUE" else []
    also = _counted(others)
    what = problems[0][0] if problems else advice_of(top)
    return f"Most often {top} ({_rows(count)}): {what}{also and f'. Also {also}'}"


def _counted(types: Sequence[tuple[str, int]]) -> str:
    return ", ".join(f"{number:,} {type_}" for type_, number in types[:5])


def _rows(number: int) -> str:
    return f"{number:,} row{'s' * (number != 1)}"
