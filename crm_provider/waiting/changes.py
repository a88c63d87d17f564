"""Watching: which records have come into a group (a list, a stage) since the last look, and what is kept of it.

The API has no filter and no feed of changes: a watch reads the whole listing, and compares it with the members it knew.
"""

from __future__ import annotations

import base64
import logging
import struct
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Literal

from crm_provider import errors as e
from crm_provider.client.client import CrmClient
from crm_provider.client.pagination import Record, id_of
from crm_provider.client.remote_contact import list_ids_of
from crm_provider.errors.policy import server_delay
from crm_provider.waiting.backoff import MAX_ERRORS_IN_A_ROW

log = logging.getLogger(__name__)

Kind = Literal["contacts", "deals"]
Known = Mapping[int, None]
"""Fingerprints of the members, in the order in which they came: a newcomer changes only the end of what is stored."""

Sweep = Mapping[str, frozenset[str]]
"""A whole listing: the id of each record, and the groups that it is in."""

MARKS_IN_A_CHUNK = 6000
"""64,002 bytes as JSON: Airflow warns of stored values over 65,535."""

SLOW = 300.0
"""Seconds between two sweeps, at least, after an error that does not mend itself: a new key is found by itself."""

LONGEST_BACK_OFF = 900.0
"""Seconds between two sweeps while the CRM is out of order, unless the server or the interval says more."""


# -- what is new


@dataclass(frozen=True)
class Change:
    """What a sweep has shown.

    :param arrived: ids of the newcomers, in the order of the listing
    :param known: the members after it
    """

    arrived: tuple[str, ...]
    known: Known


def compare(known: Known | None, sweep: Sweep, group: str, *, include_existing: bool = False) -> Change:
    """Who has come into the group.

    A record that the sweep did not show stays known: a page moves when a record before it is deleted, and a listing
    may then leave one out. Only who was seen outside of the group has left it, and is a newcomer when back.

    :param known: the members so far; None at the first look
    :param include_existing: at the first look all members count as newcomers, not as the baseline
    """
    marks = {record: fingerprint(record) for record, groups in sweep.items() if group in groups}
    outside = {fingerprint(record) for record, groups in sweep.items() if group not in groups}
    before = known or {}
    stayed = {mark: None for mark in before if mark not in outside}
    arrived = tuple(record for record, mark in marks.items() if mark not in before)
    if known is None and not include_existing:
        arrived = ()
    return Change(arrived, {**stayed, **dict.fromkeys(marks.values())})


def fingerprint(record: str) -> int:
    """An id as 8 bytes. That a newcomer is mistaken for one of 100,000 members has a chance of 1 in 10^14."""
    return int.from_bytes(blake2b(record.encode(), digest_size=8).digest(), "big")


# -- what is kept


def pack(known: Known) -> list[str]:
    """Fingerprints as texts under 64 KB, 10.7 characters for each."""
    marks = list(known)
    parts = [marks[start : start + MARKS_IN_A_CHUNK] for start in range(0, len(marks), MARKS_IN_A_CHUNK)]
    return [base64.b64encode(struct.pack(f">{len(part)}Q", *part)).decode() for part in parts]


def unpack(chunks: Iterable[str]) -> Known:
    """The fingerprints that :func:`pack` was given."""
    parts = map(base64.b64decode, chunks)
    return dict.fromkeys(mark for part in parts for (mark,) in struct.iter_unpack(">Q", part))


# -- reading a listing


def read(kind: Kind, client: CrmClient, stopped: Callable[[], bool]) -> Sweep:
    """The whole listing.

    :param stopped: asked before each record; once it says so, reading ends
    :raises CrmError: what a page was answered with
    """
    listing, path, groups = _READERS[kind]
    found: dict[str, frozenset[str]] = {}
    for record in _until(stopped, listing(client)):
        found[id_of(record.get("id"), path)] = frozenset(groups(record))
    return found


def _until(stopped: Callable[[], bool], records: Iterator[Record]) -> Iterator[Record]:
    for record in records:
        if stopped():
            return
        yield record


def _lists(contact: Record) -> Sequence[str]:
    return [found.lower() for found in list_ids_of(contact)]


def _stage(deal: Record) -> Sequence[str]:
    stage = deal.get("stageId")
    if not isinstance(stage, str):
        raise e.CrmProtocolError("a deal of the listing has no stageId", method="GET", path="/deals")
    return [stage.lower()]


_READERS: Mapping[
    Kind, tuple[Callable[[CrmClient], Iterator[Record]], str, Callable[[Record], Sequence[str]]]
] = {
    "contacts": (CrmClient.list_contacts, "/contacts", _lists),
    "deals": (CrmClient.list_deals, "/deals", _stage),
}  # fmt: skip


# -- when it does not work


@dataclass
class ErrorBackoff:
    """What a watch does about errors: it has no task to fail, so it says it once, and goes on, ever more slowly.

    :param watch: what is watched, for messages
    :param interval: seconds between two sweeps when all is well
    """

    watch: str
    interval: float
    failed: int = 0
    reported: str = ""

    def met(self, error: e.CrmError) -> float:
        """Note a failed sweep.

        :return: seconds until the next one: doubled each time for what mends itself, :data:`SLOW` for what does not
        """
        self.failed += 1
        passing = isinstance(error, (e.CrmTransientError, e.CrmThrottledError))
        lasting = not passing or self.failed > MAX_ERRORS_IN_A_ROW
        self._report(error, logging.ERROR if lasting else logging.WARNING)
        doubled = self.interval * 2.0 ** min(self.failed - 1, 16)
        delay = max(min(doubled, LONGEST_BACK_OFF), self.interval) if passing else max(self.interval, SLOW)
        return max(delay, server_delay(error) or 0.0)

    def over(self) -> None:
        """Note a sweep that went well."""
        if self.failed:
            log.info("%s: the CRM answers again, after %d failed sweep(s).", self.watch, self.failed)
        self.failed, self.reported = 0, ""

    def _report(self, error: e.CrmError, level: int) -> None:
        what = f"{level} {error.type}"
        if what != self.reported:
            log.log(level, "%s: no sweep. It is tried again until it works. %s", self.watch, error)
            self.reported = what
