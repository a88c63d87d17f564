"""One budget for all hosts through a text that they can all read and write, such as an Airflow Variable.

Each host uses its own slots, by the plan of :mod:`crm_provider.rate_limit.roster`, and its processes share them
through the host's file. When an exchange is due, one process of a host makes it for all of them; the others use the
plan that it read. A host that is not in the plan yet delays its loads, and makes single calls and checks at a slow
pace.
"""

from __future__ import annotations

import json
import math
import os
import random
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

from crm_provider.rate_limit.host_file import HostFile
from crm_provider.rate_limit.offset import Offset
from crm_provider.rate_limit.roster import PERIOD, WEIGHTS, Roster
from crm_provider.rate_limit.schedule import Grant, GrantStatus, Lane, Pace, RateStore, StoreUnusable, Ticket
from crm_provider.values.server_clock import CACHED, HEADER_STEP, ServerClock

SHARED_MARGIN = 0.98
"""Share of the allowed rate for the slots of all hosts; the rest is for hosts without slots."""

GUEST_SLOTS = 25
"""Slots between two calls of a host that is not in the plan. It joins as soon as a caller has to wait: most tasks make
one call, and joining costs requests."""

CHECK_BACK = 1.0
"""Seconds after joining until a host checks that its entry exists: hosts that join at once overwrite each other."""

FIRST_RESPONSE = 1.0
"""Seconds from the first call of a host to its first exchange. The response shows the CRM's clock: with a clock that is
wrong by a second, the other hosts would take it for dead, and it them."""

EXCHANGE_TIME = 15.0
"""Seconds after which an unfinished exchange counts as interrupted."""

STALE = 2.5 * PERIOD
"""Seconds without an exchange after which the plan is not used: other hosts have taken over the slots."""

LARGEST_RECORD = 1 << 17


class SharedText(Protocol):
    """A text that all hosts can read and write."""

    def read(self) -> str | None:
        """The text, None if there is none.

        :raises StoreUnusable: naming the place and the reason
        """

    def write(self, text: str) -> None:
        """Replace the text.

        :raises StoreUnusable: naming the place and the reason
        """


@dataclass(frozen=True)
class Lease:
    """The plan as the processes of a host know it; times are those of the host's monotonic clock, except in the text.

    :param host: this host's name in the plan
    :param text: the plan as it was read last, with this host's own entry
    :param read_at: when it was read, by the CRM's clock
    :param exchanged: when this host wrote its entry last
    :param next: when the next exchange is due
    :param check: when it must check that its entry was not overwritten, 0 if it has checked
    :param exchanging: when a process began to exchange, 0 if none does
    :param offset: what is known of the CRM's clock
    :param calls: calls since the last exchange
    :param bulk: when a load or an extract last asked for a slot
    :param process: the process that then asked
    :param other: when another process last asked for one
    :param waited: when another caller last had to wait
    :param left: when this host last gave its slots back
    """

    host: str
    text: str = "{}"
    read_at: float = -1e10
    exchanged: float = -math.inf
    next: float = -math.inf
    check: float = 0.0
    exchanging: float = 0.0
    offset: Offset = field(default_factory=Offset)
    calls: int = 0
    bulk: float = -math.inf
    process: int = 0
    other: float = -math.inf
    waited: float = -math.inf
    left: float = -math.inf

    @classmethod
    def parse(cls, record: bytes, name: str) -> Lease:
        """The lease in a record. Fields of another version are ignored, so that two versions can run at once.

        :param name: the host's name in a new lease, if the record is damaged
        """
        try:
            found = _known(cls, json.loads(record))
            offset = _known(Offset, found.pop("offset", {}))
            lease = cls(**found, offset=Offset(**offset))
        except (ValueError, TypeError, AttributeError, RecursionError):
            return cls(name)
        numbers = [*offset.values(), *(value for key, value in found.items() if key not in ("host", "text"))]
        texts = (lease.host, lease.text)
        return lease if all(map(_is_number, numbers)) and all(isinstance(text, str) for text in texts) else cls(name)

    def to_bytes(self) -> bytes:
        """The record."""
        return json.dumps({**vars(self), "offset": vars(self.offset)}).encode()

    def roster(self) -> Roster:
        """The plan."""
        return Roster.parse(self.text, self.read_at)

    def weight(self, now: float, length: float) -> int:
        """The weight that this host needs: the maximum for a load, double if it used most of its slots, half if few.

        :param length: seconds of a slot
        :return: 0 if the pace without slots is enough
        """
        if now - self.bulk < PERIOD:
            return WEIGHTS[-1]
        if not self.is_member():
            return WEIGHTS[0]
        roster = self.roster()
        place = WEIGHTS.index(roster.hosts[self.host].final_weight)
        passed = min(now - self.exchanged, 2 * PERIOD) / length
        had = roster.share(self.host, now + self.offset.ahead) * passed
        if self.calls > 0.9 * had:
            return WEIGHTS[min(place + 1, len(WEIGHTS) - 1)]
        if self.calls < 0.6 * had:
            return WEIGHTS[place - 1] if place else 0 if self.calls * GUEST_SLOTS < passed else WEIGHTS[0]
        return WEIGHTS[place]

    def with_load(self, process: int, now: float) -> Lease:
        """The lease after a load has asked for a slot; of each of two processes it notes twice a second at most."""
        if self.process != process:
            is_noted = now - self.other <= PERIOD / 20
            return self if is_noted else replace(self, process=process, bulk=now, other=self.bulk)
        return replace(self, bulk=now) if now - self.bulk > PERIOD / 20 else self

    def is_from_before_boot(self, now: float) -> bool:
        """Whether its times are in the future, so that the host's clock began again. Threads may be a bit late."""
        return max(self.exchanged, self.exchanging, self.bulk, self.other, self.waited, self.left) > now + EXCHANGE_TIME

    def without_load(self, process: int) -> Lease:
        """The lease after the last load of a process has ended."""
        if self.process != process:
            return replace(self, other=-math.inf)
        return replace(self, process=0, bulk=self.other, other=-math.inf)

    def may_leave(self, now: float) -> bool:
        """Whether no process needs the slots of this host. Not after each short load: joining costs requests."""
        is_used = now - max(self.bulk, self.waited) < PERIOD or _is_recent(self.exchanging, now)
        return self.is_member() and not is_used and not now - self.left < STALE

    @property
    def is_new(self) -> bool:
        """Whether this host has neither joined nor seen the CRM's clock."""
        return self.exchanged == -math.inf and not self.offset.is_known

    def is_member(self) -> bool:
        """Whether this host has slots, now or later."""
        host = self.roster().hosts.get(self.host)
        return host is not None and host.final_weight > 0


@dataclass(frozen=True)
class HostPace(Pace):
    """The slots of one host.

    :param roster: the plan of the slots
    :param host: this host's name in it
    :param length: seconds of a slot
    :param ahead: seconds that the CRM's clock is ahead of the clock of the schedule
    """

    roster: Roster = field(default_factory=Roster)
    host: str = ""
    length: float = 1.0
    ahead: float = 0.0

    def first_slot(self, at: float) -> float:
        return max(self.roster.next_slot(self.host, at + self.ahead, self.length) - self.ahead, at)

    def after(self, slot: float) -> float:
        return slot + self.length / 2


class LeaseStore:
    """A host's part of a budget that all hosts share.

    :param slots: where the processes of this host share the host's slots
    :param name: name of the file in which they share the plan
    :param text: the plan that all hosts share
    :param server_clock: the CRM's clock as this process knows it
    :param clock: the clock of ``slots``
    :param wall: this host's own clock, used until a response has shown the CRM's
    :param host: this host's name in the plan, if its file has none yet; by default a random name
    """

    def __init__(
        self,
        slots: RateStore,
        name: str,
        text: SharedText,
        server_clock: ServerClock,
        *,
        folder: Path | None = None,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
        sleep: Callable[[float], None] = time.sleep,
        jitter: Callable[[], float] = random.random,
        host: str | None = None,
    ) -> None:
        self._host, self._process = host or _new_name(), uuid.uuid4().int >> 96
        self._slots, self._text, self._server_clock = slots, text, server_clock
        self._file = HostFile(name, folder=folder, sleep=sleep)
        self._clock, self._wall, self._jitter = clock, wall, jitter
        self._length = 1.0

    def ask(self, lane: Lane, ticket: Ticket | None, pace: Pace, patience: float) -> tuple[Grant, Ticket]:
        now = self._clock()
        self._length = pace.spacing * _MARGINS
        lease = self._current(lane, now)
        grant, ticket = self._slots.ask(lane, ticket, self._pace(lease, lane, pace, now), patience)
        if self._noted(lease, lane, grant, now) is not lease:
            with self._lease() as (kept, save):
                save(self._noted(kept, lane, grant, now))
        return grant, ticket

    def pause(self, seconds: float, phase: float, pace: Pace) -> None:
        self._slots.pause(seconds, phase, pace)
        own = self._wall() - self._clock()
        with self._lease() as (lease, save):
            save(replace(lease, offset=lease.offset.refused(own, self._jitter())))

    def leave(self) -> None:
        """Give the slots of this host back, unless another process needs them: the last load of this one has ended.

        :raises StoreUnusable: then the other hosts take the slots over when an exchange of this one is missed
        """
        now = self._clock()
        with self._lease() as (kept, save):
            lease = kept.without_load(self._process)
            leaves = lease.may_leave(now)
            if leaves:  # first of all here, because the next host may use the slots at once
                # it returns as another host
                lease = Lease(_new_name(), next=now, exchanging=now, left=now, offset=kept.offset)
            save(lease)
        if not leaves:
            return
        try:
            found = Roster.parse(self._text.read(), self._clock() + lease.offset.ahead)
            if kept.host in found.hosts:
                self._text.write(found.left(kept.host).text())
        finally:
            with self._lease() as (current, save):
                save(replace(current, exchanging=0.0))

    def _pace(self, lease: Lease, lane: Lane, pace: Pace, now: float) -> Pace:
        """The slots that this host may use."""
        shared = pace.spacing * _MARGINS
        roster, at = lease.roster(), now + lease.offset.ahead
        starts = roster.starts(lease.host, at)
        if (lane is not Lane.BULK or not lease.offset.is_known) and (starts is None or starts > at):
            return Pace(GUEST_SLOTS * shared, 1)
        if roster.active(at) == 1 and starts is not None and starts <= at:
            return pace  # no other host: the whole rate, including the burst
        part = roster.share(lease.host, at) or 1 / GUEST_SLOTS
        return HostPace(shared / part, 1, roster, lease.host, shared, lease.offset.ahead)

    # -- the exchange --------------------------------------------------------------------------------------------

    def _current(self, lane: Lane, now: float) -> Lease:
        """The plan as this host knows it, after an exchange if one is due.

        :raises StoreUnusable: if the plan is unknown or too old
        """
        with self._lease() as (kept, save):
            lease = self._timed(Lease(self._host) if kept.is_from_before_boot(now) else kept, now)
            if lane is Lane.BULK:  # before the exchange, so that a load joins with its whole weight
                lease = lease.with_load(self._process, now)
            exchange = self._is_due(lease, lane, now)
            save(replace(lease, exchanging=now) if exchange else lease)
        if not exchange:
            return lease
        try:
            return self._exchanged(lease, now)
        except StoreUnusable:
            with self._lease() as (kept, save):
                save(replace(kept, exchanging=0.0, next=now + PERIOD / 2))
            if now - lease.exchanged > STALE:
                raise
            return lease

    def _is_due(self, lease: Lease, lane: Lane, now: float) -> bool:
        if _is_recent(lease.exchanging, now):
            return False
        if lane is Lane.BULK and lease.is_new and not lease.calls:
            return False
        if lease.check and now >= lease.check:
            return True
        is_guest = now - lease.exchanged > 2 * PERIOD or not lease.is_member()
        if is_guest and lane is not Lane.BULK and now - lease.waited > PERIOD / 10:
            return False
        return now >= lease.next

    def _exchanged(self, lease: Lease, now: float) -> Lease:
        """Read the plan, and add this host to it."""
        text = self._text.read()
        found = self._with_findings(Roster.parse(text, self._clock() + lease.offset.ahead))
        mine = found.hosts.get(lease.host)
        joins = mine is None or not mine.final_weight
        written, check = found, 0.0
        if joins or not lease.check:
            weight = lease.weight(now, self._length)
            written = found.exchanged(lease.host, weight)
            self._text.write(written.text())
            check = self._clock() + CHECK_BACK * (1 + self._jitter() / 2) if joins and weight else 0.0
        due = written.hosts[lease.host].due - lease.offset.ahead
        with self._lease() as (kept, save):
            done = replace(kept, text=written.text(), read_at=written.read_at, exchanged=now, next=due, check=check)
            done = replace(done, exchanging=0.0, calls=0)
            save(done)
        return done

    def _timed(self, lease: Lease, now: float) -> Lease:
        """The lease with the CRM's clock as this process knows it."""
        span, own = self._server_clock.ahead(), self._wall() - now
        if span is None:
            return replace(lease, offset=replace(lease.offset, ahead=own)) if lease.is_new else lease
        low, high, step = span
        behind = HEADER_STEP + CACHED - step if lease.roster().is_behind else 0.0
        seen = lease.offset.seen(low, high + behind, self._server_clock.round_trip, own, step + behind)
        return replace(lease, offset=seen)

    def _with_findings(self, roster: Roster) -> Roster:
        """The plan with what the responses of this process show: later hosts could not notice it in time."""
        span = self._server_clock.ahead()
        seen = span and Offset(0.0, span[0], span[1], self._server_clock.round_trip, span[2])
        return replace(roster, behind=roster.read_at) if seen and seen.is_behind else roster

    def _noted(self, lease: Lease, lane: Lane, grant: Grant, now: float) -> Lease:
        """The lease, updated by a caller's need for slots."""
        if grant.status is GrantStatus.GRANTED:
            first = lease.is_new and not lease.calls
            lease = replace(lease, calls=lease.calls + 1, next=now + FIRST_RESPONSE if first else lease.next)
        elif lane is not Lane.BULK and now - lease.waited > PERIOD / 20:
            lease = replace(lease, waited=now)
        return lease

    @contextmanager
    def _lease(self) -> Iterator[tuple[Lease, Callable[[Lease], None]]]:
        """The locked lease, and a function that replaces it."""
        with self._file.open() as file:
            record = os.pread(file, LARGEST_RECORD, 0)

            def save(lease: Lease) -> None:
                body = lease.to_bytes()
                if body != record:
                    os.pwrite(file, body, 0)
                    os.ftruncate(file, len(body))

            yield Lease.parse(record, self._host), save


_MARGINS = 0.99 / SHARED_MARGIN
"""Factor from the spacing of a single host to that of all hosts together."""


def _new_name() -> str:
    return uuid.uuid4().hex[:12]


def _is_recent(exchanging: float, now: float) -> bool:
    """Whether a process of this host is exchanging."""
    return exchanging != 0 and abs(now - exchanging) < EXCHANGE_TIME


def _known(kind: type[Lease | Offset], found: Any) -> dict[str, Any]:
    """The fields of a record that a class has."""
    return {name: value for name, value in found.items() if name in kind.__dataclass_fields__}


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and not math.isnan(value)
