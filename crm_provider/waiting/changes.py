"""Changes: which records have joined a group (a list, a stage) since the last snapshot.

The API has neither a filter nor a change feed. So a watch reads the whole listing and compares it with the known
members.
"""

from __future__ import annotations

import base64
import logging
import struct
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Literal

from crm_provider import errors as e
from crm_provider.client.client import CrmClient
from crm_provider.client.pagination import LISTINGS, ListingProgress, Record, id_of
from crm_provider.client.remote_contact import list_ids_of
from crm_provider.errors.policy import server_delay
from crm_provider.values.backoff import delay
from crm_provider.waiting.backoff import MAX_ERRORS_IN_A_ROW

log = logging.getLogger(__name__)

WatchedListing = Literal["contacts", "deals"]
SeenIds = Mapping[int, None]
"""Fingerprints of the members, oldest first: a newcomer changes only the end of what is stored."""

Snapshot = Mapping[str, frozenset[str]]
"""A whole listing: the id of each record, and its groups."""

MARKS_IN_A_CHUNK = 6000
"""64,002 bytes as JSON: Airflow warns about stored values over 65,535."""

SLOW = 300.0
"""Minimum seconds between two snapshots after a permanent error. A replaced key is picked up without a restart."""

LONGEST_BACK_OFF = 900.0
"""Maximum seconds between two snapshots during an outage, unless the server or the interval asks for more."""

TRANSIENT = (e.CrmTransientError, e.CrmThrottledError)
"""Errors that may be gone at the next attempt."""

MOST_STALLED = 5
"""Attempts in a row that may fail at the same page before a listing is read from its start, because its first pages
are old by then. With an interval of a minute they take half an hour."""


# -- what is new


@dataclass(frozen=True)
class SnapshotChange:
    """The result of comparing a snapshot with the members seen so far.

    :param arrived: ids of the newcomers, in the order of the listing
    :param seen: the members after the snapshot
    """

    arrived: tuple[str, ...]
    seen: SeenIds


def compare(seen: SeenIds | None, snapshot: Snapshot, group: str, *, include_existing: bool = False) -> SnapshotChange:
    """Find the records that have joined the group.

    A record that is missing from the snapshot stays a member: pages shift when an earlier record is deleted, and the
    listing may then omit one. A member has left only if the snapshot shows it outside of the group. If it comes back,
    it is a newcomer.

    :param seen: the members so far; None for the first snapshot
    :param include_existing: in the first snapshot, treat all members as newcomers instead of as the baseline
    """
    marks = {record: fingerprint(record) for record, groups in snapshot.items() if group in groups}
    outside = {fingerprint(record) for record, groups in snapshot.items() if group not in groups}
    before = seen or {}
    stayed = {mark: None for mark in before if mark not in outside}
    arrived = tuple(record for record, mark in marks.items() if mark not in before)
    if seen is None and not include_existing:
        arrived = ()
    return SnapshotChange(arrived, {**stayed, **dict.fromkeys(marks.values())})


def fingerprint(record: str) -> int:
    """Hash an id to 8 bytes. With 100,000 members, a newcomer collides with one of them with probability 1 in 10^14."""
    return int.from_bytes(blake2b(record.encode(), digest_size=8).digest(), "big")


# -- what is kept


def pack(seen: SeenIds) -> list[str]:
    """Encode fingerprints as texts of less than 64 KB each, 10.7 characters per fingerprint."""
    marks = list(seen)
    parts = [marks[start : start + MARKS_IN_A_CHUNK] for start in range(0, len(marks), MARKS_IN_A_CHUNK)]
    return [base64.b64encode(struct.pack(f">{len(part)}Q", *part)).decode() for part in parts]


def unpack(chunks: Iterable[str]) -> SeenIds:
    """Decode the fingerprints that :func:`pack` encoded."""
    parts = map(base64.b64decode, chunks)
    return dict.fromkeys(mark for part in parts for (mark,) in struct.iter_unpack(">Q", part))


# -- reading a listing


@dataclass
class SnapshotReading:
    """A snapshot that is being read. After an error, reading continues behind the last page.

    Otherwise one failed call would discard all pages: 10,000 calls for 100,000 records.

    :ivar found: the records read so far
    """

    kind: WatchedListing
    found: dict[str, frozenset[str]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._progress = ListingProgress(LISTINGS[self.kind])
        self._begun_at = self._stalled = 0
        self._is_intact = True

    @property
    def has_progressed(self) -> bool:
        """Whether the last attempt read a page, and another one can continue behind it."""
        return self._is_sound and self._progress.pages > self._begun_at

    def can_continue(self, error: e.CrmError) -> bool:
        """Whether another attempt can continue behind the pages read so far.

        An attempt that read no page says nothing against them if the CRM or the network failed. After any other error
        the listing is read from its start.

        :param error: the end of the last attempt
        """
        is_paused = isinstance(error, TRANSIENT) and self._progress.pages > 0 and self._stalled < MOST_STALLED
        return self.has_progressed or (self._is_sound and is_paused)

    @property
    def _is_sound(self) -> bool:
        return self._is_intact and not self._progress.is_broken

    def read(self, client: CrmClient, stopped: Callable[[], bool]) -> Snapshot:
        """Read the rest of the listing.

        :param stopped: called for each page; reading ends once it returns True
        :raises CrmError: if a page cannot be read
        :raises CrmProtocolError: if no deal has a stage; a single one may have none
        """
        self._stalled = 0 if self.has_progressed else self._stalled + 1
        groups, self._begun_at = _GROUPS[self.kind], self._progress.pages
        for listed in client.list_pages(self.kind, progress=self._progress, at_once=0, with_moved=True):
            if stopped():
                return self.found
            self._is_intact = False  # until all records of the page are known
            for record in listed.fresh:
                self.found[id_of(record.get("id"), LISTINGS[self.kind])] = frozenset(groups(record))
            self._is_intact = True
        if self.kind == "deals" and self.found and not any(self.found.values()):
            self._is_intact = False
            raise e.CrmProtocolError("no deal of the listing has a stageId", method="GET", path="/deals")
        return self.found


def _lists(contact: Record) -> Sequence[str]:
    return [found.lower() for found in list_ids_of(contact)]


def _stage(deal: Record) -> Sequence[str]:
    stage = deal.get("stageId")
    return [stage.lower()] if isinstance(stage, str) else []


_GROUPS: Mapping[WatchedListing, Callable[[Record], Sequence[str]]] = {"contacts": _lists, "deals": _stage}


# -- errors


@dataclass
class ErrorBackoff:
    """Back-off and logging for a watch. It has no task to fail, so it logs each kind of error once and tries again.

    :param watch: what is watched, for messages
    :param interval: seconds between two snapshots without errors
    """

    watch: str
    interval: float
    failed: int = 0
    reported: str = ""

    def record_error(self, error: e.CrmError, *, has_progressed: bool = False) -> float:
        """Record a failed snapshot.

        :param has_progressed: whether pages were read before the error, so that it is the first one in a row
        :return: seconds until the next one: doubled after each transient error, :data:`SLOW` after a permanent one
        """
        self.failed = 1 if has_progressed else self.failed + 1
        transient = isinstance(error, TRANSIENT)
        permanent = not transient or self.failed > MAX_ERRORS_IN_A_ROW
        self._report(error, logging.ERROR if permanent else logging.WARNING)
        seconds = SLOW
        if transient:  # without jitter: the watchers of a connection share their snapshots
            seconds = delay(self.failed, first=self.interval, longest=LONGEST_BACK_OFF, jitter=1.0)
        return max(seconds, self.interval, server_delay(error) or 0.0)

    def record_success(self) -> None:
        """Record a snapshot that was read."""
        if self.failed:
            log.info("%s: the CRM responds again. Failed snapshots before: %d.", self.watch, self.failed)
        self.failed, self.reported = 0, ""

    def _report(self, error: e.CrmError, level: int) -> None:
        what = f"{level} {error.type}"
        if what != self.reported:
            log.log(level, "%s: no snapshot could be read; it is tried again. %s", self.watch, error)
            self.reported = what
