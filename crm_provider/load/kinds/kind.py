"""What the engine of a load must be given for a kind of record: its options, its mapping, and the CRM's side of a try.

A new kind is a :class:`Kind`, with a :class:`~crm_provider.load.rows.Record`, a subclass of
:class:`~crm_provider.load.options.LoadOptions` and one of :class:`RemoteRecords`.
"""

from __future__ import annotations

import abc
import itertools
import logging
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields
from datetime import datetime
from typing import Any

from crm_provider import errors as e
from crm_provider.client.client import CrmClient
from crm_provider.client.pagination import Listing
from crm_provider.client.pagination import Record as Listed
from crm_provider.files.paths import as_path
from crm_provider.load.options import LoadOptions
from crm_provider.load.outcomes.file import check_outcomes
from crm_provider.load.planner import Plan
from crm_provider.load.preflight import Preflight, RowMapper
from crm_provider.load.rejects.file import RejectsFile
from crm_provider.load.rows import Outcome, Record, SourceError
from crm_provider.load.state.checkpoint import DoneRows
from crm_provider.load.state.temp_tables import RowStatus
from crm_provider.load.workers import Cancelled, CancelToken, InFlightRow, SentRow

log = logging.getLogger(__name__)

READ_AHEAD = 4
"""Pages that are requested at once: enough for 5 calls per second if a call takes at most 600 ms."""


@dataclass(frozen=True, kw_only=True)
class TrySetup:
    """What one try of a load gives to the CRM's side of it.

    :param done: rows that are done
    :param is_resumed: whether an earlier try may have sent rows that are not done
    """

    client: CrmClient
    options: Any
    mapper: RowMapper
    preflight: Preflight
    done: DoneRows
    cancel_token: CancelToken
    is_resumed: bool = False


class RemoteRecords(abc.ABC):
    """The CRM's side of one try: what is known of its records, the plan, and the calls of a row.

    The engine calls :meth:`make_plan`, then :meth:`read_all` if the plan is ``compare``, then for each row :meth:`get`
    and in another thread :meth:`send`, and at last :meth:`close`.
    """

    needs_start = False
    """Whether the load must know when it began, by the CRM's clock: see ``began``."""

    began: datetime | None = None
    """Records that are younger may have been made by this load; None if that is not known."""

    def __init__(self, setup: TrySetup) -> None:
        self._client, self._cancel_token = setup.client, setup.cancel_token
        self._staged, self._seed = setup.preflight.staged, setup.preflight.rows
        self._after, self._without = setup.done.upto, frozenset(setup.done.above)
        some_are_done = self._after or self._without
        self.rows = self._count_left() if some_are_done else setup.preflight.counts[RowStatus.SEND]
        """Rows that are to be sent."""

    @abc.abstractmethod
    def make_plan(self, *, may_compare: bool) -> Plan:
        """Choose the plan; may make calls.

        :param may_compare: False if an earlier try was stopped while it read all records
        :raises Cancelled: if the load was cancelled
        """

    @abc.abstractmethod
    def read_all(self, tick: Callable[[int], None]) -> None:
        """Read all records, before the first write.

        :param tick: receives the number of records read, after each page
        :raises Cancelled: if the load was cancelled
        """

    @abc.abstractmethod
    def get(self, record: Record) -> Any:
        """What is known of a record in the CRM, None if nothing is."""

    @abc.abstractmethod
    def send(self, in_flight: InFlightRow) -> SentRow:
        """Send one row; in a thread of its own.

        :raises CrmError: the error that decides about the row
        """

    @abc.abstractmethod
    def naive_calls(self, counts: Mapping[Outcome, int], refused: int) -> int:
        """Calls that a load without a plan would have made.

        :param refused: rows that a call has ended without success
        """

    def of_the_run(self, error: e.CrmError) -> str | None:
        """Why an error of a row comes again with every row, None if it does not."""
        return None

    @abc.abstractmethod
    def close(self) -> None:
        """Drop what was read."""

    # -- for subclasses --------------------------------------------------------------------------------------

    def _count_left(self) -> int:
        return self._staged.count_to_send(after=self._after, without=self._without)

    def _mixed(self, most: int) -> Iterator[Record]:
        """Records to be sent in a pseudo-random order; an open query would keep a copy of all rows."""
        mixed = self._staged.mixed(self._seed, after=self._after, without=self._without)
        return iter([row.record for row in itertools.islice(mixed, most) if row.record is not None])

    def _read(
        self, listing: Listing, keep: Callable[[Listed], None], tick: Callable[[int], None], *, strict: bool = False
    ) -> bool:
        """Read a whole listing, ten with a call, several calls at once.

        If a listing contradicts itself, a record that is missing from it may exist. Those that it has count.

        :param keep: takes each record
        :param strict: raise the error of such a listing
        :return: whether it is complete
        """
        count = 0
        try:
            for listed in self._client.list_pages(listing, at_once=READ_AHEAD):
                self._check_cancelled()
                for record in listed.fresh:
                    keep(record)
                count += len(listed.fresh)
                tick(count)
        except e.CrmProtocolError as odd:
            if strict:
                raise
            log.warning("Read %d %s; the rest of the listing is not relied on: %s", count, listing, odd)
            return False
        log.info("Read all %d %s of the CRM.", count, listing)
        return True

    def _check_cancelled(self) -> None:
        if self._cancel_token.is_set:
            raise Cancelled


@dataclass(frozen=True, kw_only=True)
class Kind:
    """A kind of record that a load can write.

    :param name: of the kind, as the rejects operator takes it
    :param arguments: of the options and the mapping that other kinds need not have
    :param mapper: makes the mapping of it; called with the mapping and those of ``mapper_options`` that are given
    :param remote: the CRM's side of one try
    :param keeps_state: whether a state file may say that a row was loaded before
    """

    name: str
    options: type[LoadOptions]
    arguments: tuple[str, ...]
    mapper: Callable[..., RowMapper]
    mapper_options: tuple[str, ...]
    remote: Callable[[TrySetup], RemoteRecords]
    keeps_state: bool = True

    def options_of(self, given: Mapping[str, Any]) -> Any:
        """The options among the arguments.

        :raises SourceError: if one is not valid, or two contradict each other
        """
        names = {field.name for field in fields(self.options)}
        return self.options(**{name: value for name, value in given.items() if name in names})

    def mapper_of(self, given: Mapping[str, Any]) -> RowMapper:
        """The mapping among the arguments, ready for use.

        :raises SourceError: if a line of it is not valid
        """
        return self.mapper(given.get("mapping"), **{n: given[n] for n in self.mapper_options if n in given})

    def check_arguments(self, given: Mapping[str, Any], *, later: Callable[[Any], bool], complete: bool = True) -> None:
        """Check what can be checked.

        :param given: the arguments by name
        :param later: whether a value is known only when the task runs
        :param complete: whether an argument that is not given has its default; not so in a mapped task
        :raises SourceError: naming the argument, the problem and the fix
        """
        known = {name: value for name, value in given.items() if not later(value)}
        self.options_of(known).check()
        if "mapping" not in given or "mapping" in known:
            self.mapper_of(known)
        if not self.keeps_state and given.get("state_path") is not None:
            raise SourceError(f"state_path has no meaning for {self.name}: leave it out")
        _check_rejects_path(known.get("rejects_path"))
        if known.get("outcomes_path") is not None or known.get("outcome_keys"):
            check_outcomes(given, known)
        _check_paths_differ(known)
        if complete:
            _check_full_refresh(given)


FILES = ("source", "rejects", "rejects_path", "outcomes_path", "state_path", "report_path", "checkpoint_path")
"""Arguments that name files of a load, each for itself."""


def _check_paths_differ(known: Mapping[str, Any]) -> None:
    named: dict[str, str] = {}
    for argument in FILES:
        path = known.get(argument)
        if isinstance(path, (str, os.PathLike)):
            other = named.setdefault(str(path), argument)
            if other != argument:
                raise SourceError(f"{argument} is the file of {other}, which would be overwritten; give each its own")


def _check_full_refresh(given: Mapping[str, Any]) -> None:
    if given.get("full_refresh") and given.get("state_path") is None:
        raise SourceError("full_refresh=True needs state_path: the file from which the next run knows what was loaded")


def _check_rejects_path(path: Any) -> None:
    if path is None or (isinstance(path, str) and "://" in path):
        return
    try:
        RejectsFile(as_path(path))
    except ValueError as wrong:
        raise SourceError(f"rejects_path: {wrong}") from None
