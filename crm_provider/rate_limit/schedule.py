"""The schedule of a key: its lanes, and which caller gets the next slot. It has no clock, lock or I/O.

Callers of a lane queue up with tickets. A slot is given out when it is less than :data:`GRANT_AHEAD` away, to the first
ticket of the lane that has had least of its share (start-time fair queueing: each call costs its lane ``1 / weight`` of
virtual time). Until then nothing is reserved: a caller that comes late is not behind all the slots of a load's queue.
A caller that has to wait asks again later. If it does not, it counts as gone: after :data:`NO_SHOW_AFTER`
the slot is free for all. So nothing that a killed process held is lost.

``schedule.lua`` is the same rule for Redis; a test compares the two step by step.
"""

from __future__ import annotations

import math
import struct
import zlib
from dataclasses import dataclass, field
from enum import Enum, IntEnum
from typing import Protocol

MARGIN = 0.99
"""Share of the allowed rate that is used: pacing 1 % too fast is refused, 1 % too slow costs 1 %."""

LONGEST_PAUSE = 10.0
"""Seconds that a refusal may hold back the other callers of the key. A longer wait is no matter of pace: each caller
hears of it from the CRM and decides by itself (a task frees its slot, a sensor checks later)."""


class Lane(Enum):
    """A kind of caller: each lane gets its share of the budget, and what the others leave."""

    SINGLE = "single"
    """One call of a task, which a person or a pipeline waits for."""
    WAITING = "waiting"
    """Sensors and triggers that look again and again."""
    BULK = "bulk"
    """Loads and extracts of many rows."""


WEIGHTS: dict[Lane, float] = {Lane.SINGLE: 2.0, Lane.WAITING: 1.0, Lane.BULK: 1.0}
"""Shares of the lanes that have callers waiting; a load next to never-ending single calls keeps a third."""

GRANT_AHEAD = 0.3
"""Seconds before its time that a slot is given out: a caller that wakes late does not lose its slot.
Longer would make urgent calls wait longer, too."""

NO_SHOW_AFTER = 0.1
"""Seconds that the one whose turn it is has for coming; well below the horizon, so that a dead one wastes no slot."""

LONGEST_NAP = 0.5
"""Seconds until a waiting caller asks again at the latest."""

SHORTEST_NAP = 0.002

MOST_WAITING = 100_000
"""Callers of a lane; if there seem to be more, the state is wrong."""

LANES = tuple(Lane)


@dataclass(frozen=True)
class Pace:
    """What the CRM allows, as the schedule needs it.

    :param spacing: seconds between two slots
    :param at_once: slots that may be used at once after a rest
    """

    spacing: float
    at_once: int

    @classmethod
    def of(cls, rate: float, burst: int) -> Pace:
        """One call of the burst is kept in reserve: it absorbs the jitter of the way."""
        return cls(1.0 / (rate * MARGIN), max(burst - 1, 1))

    def first_slot(self, at: float) -> float:
        """The first slot at a time or later; here any time is one."""
        return at

    def after(self, slot: float) -> float:
        """The time from which on the slot after this one may be given out."""
        return slot + self.spacing


class GrantStatus(IntEnum):
    """What a caller is to do."""

    GRANTED = 0
    """Send after so many seconds: the slot is yours."""
    RETRY_AFTER = 1
    """Ask again after so many seconds, with the ticket."""
    REJECTED = 2
    """No slot in time: it is so many seconds away."""


@dataclass(frozen=True)
class Grant:
    """What the schedule says to one who asks."""

    verdict: GrantStatus
    seconds: float
    ticket: int


@dataclass
class Queue:
    """The callers of a lane.

    :param head: first ticket that has not been served
    :param tail: next ticket to be given out
    :param start: virtual time at which its next call starts
    :param alive: time until which somebody of it has promised to come back
    """

    head: int = 0
    tail: int = 0
    start: float = 0.0
    alive: float = 0.0


@dataclass
class Schedule:
    """A budget at one moment; times are those of the clock of its place.

    :param asked: when somebody asked last
    :param next: the next free slot
    :param moved: when a slot was given out last
    :param virtual: virtual time of the call that was given the last slot
    """

    asked: float = 0.0
    next: float = 0.0
    moved: float = 0.0
    virtual: float = 0.0
    queues: tuple[Queue, ...] = field(default_factory=lambda: tuple(Queue() for _ in LANES))

    def ask(self, now: float, lane: Lane, ticket: int | None, pace: Pace, patience: float) -> Grant:
        """Ask for a slot.

        :param ticket: of the last answer; None or an unknown one queues up anew
        :param patience: seconds that the caller can wait from now on
        """
        self._heal(now, pace)
        queue = self.queues[LANES.index(lane)]
        joins = ticket is None or ticket >= queue.tail
        if joins and queue.alive <= now:  # no caller is left
            queue.head, queue.start = queue.tail, max(queue.start, self.virtual)
        mine = queue.tail if ticket is None or joins else ticket
        rivals = self._before(lane, mine, now)
        before = max(mine - queue.head, 0) + sum(rivals.values())
        slot = pace.first_slot(max(self.next, now - (pace.at_once - 1) * pace.spacing))
        wait = max(slot - now, 0.0)
        likely = wait + before * pace.spacing
        if (likely if joins else wait) > patience:
            return Grant(GrantStatus.REJECTED, likely, mine)
        if joins:
            queue.tail += 1
        opens = slot - GRANT_AHEAD
        given_up = max(opens, self.moved) + NO_SHOW_AFTER
        # as many slots are open as there are callers before this one: it takes no slot of theirs
        if now >= opens + before * pace.spacing or now >= given_up:
            self._give(queue, WEIGHTS[lane], mine, now, pace.after(slot))
            if before and now >= given_up:
                self._pass_over(rivals)
            return Grant(GrantStatus.GRANTED, wait, mine)
        nap = max(opens - now, 0.0) + before * pace.spacing
        if before == 1:
            nap = min(nap, given_up - now)
        nap = min(max(nap, SHORTEST_NAP), LONGEST_NAP)
        queue.alive = max(queue.alive, now + nap + NO_SHOW_AFTER)
        return Grant(GrantStatus.RETRY_AFTER, nap, mine)

    def pause(self, now: float, seconds: float, phase: float, pace: Pace) -> None:
        """No slot before this, and all later slots at another phase than before.

        :param phase: seconds; random, so that others who use the same key do not meet us in lockstep for ever
        """
        self._heal(now, pace)
        self.next = max(self.next, now + seconds) + phase

    def _give(self, queue: Queue, weight: float, ticket: int, now: float, following: float) -> None:
        self.next, self.moved = following, now
        self.virtual = max(self.virtual, queue.start)
        queue.start += 1.0 / weight
        queue.head = max(queue.head, ticket + 1)
        if queue.head == queue.tail:
            queue.alive = 0.0

    def _before(self, lane: Lane, ticket: int, now: float) -> dict[int, int]:
        """How many calls of each other lane start at an earlier virtual time than that of this ticket."""
        own = LANES.index(lane)
        queue = self.queues[own]
        starts = queue.start + max(ticket - queue.head, 0) / WEIGHTS[lane]
        found = {}
        for i, other in enumerate(self.queues):
            if i != own and other.alive > now:
                lead = (starts - other.start) * WEIGHTS[LANES[i]]
                calls = math.floor(lead) + 1 if i < own else math.ceil(lead)  # the first lane goes first at a tie
                found[i] = min(max(calls, 0), max(other.tail - other.head, 1))
        return found

    def _pass_over(self, rivals: dict[int, int]) -> None:
        """Whoever did not come for its turn is gone, until it comes after all."""
        for i, calls in rivals.items():
            if calls:
                self.queues[i].alive = 0.0

    def _heal(self, now: float, pace: Pace) -> None:
        """Whatever a clock that was set back, another boot or a defect has left: no wait is longer than it can be."""
        back = max(self.asked - now, 0.0)
        self.asked = now
        self.next = min(self.next - back, now + LONGEST_PAUSE + GRANT_AHEAD + 2 * pace.spacing)
        self.moved = min(self.moved - back, now)
        for queue in self.queues:
            queue.alive = min(queue.alive - back, now + LONGEST_NAP + NO_SHOW_AFTER)
            queue.head = queue.tail if queue.tail - queue.head > MOST_WAITING else min(queue.head, queue.tail)

    # -- as bytes --------------------------------------------------------------------------------------------

    def to_bytes(self) -> bytes:
        """The record of a state file, with a check value at its end."""
        lanes = [value for queue in self.queues for value in (queue.head, queue.tail, queue.start, queue.alive)]
        body = _RECORD.pack(_MAGIC, self.asked, self.next, self.moved, self.virtual, *lanes)
        return body + zlib.crc32(body).to_bytes(4, "big")

    @classmethod
    def from_bytes(cls, record: bytes) -> Schedule | None:
        """The state in a record; None if it is damaged, or of another version."""
        body, check = record[:-4], record[-4:]
        if len(record) != RECORD_SIZE or zlib.crc32(body).to_bytes(4, "big") != check:
            return None
        magic, asked, following, moved, virtual, *lanes = _RECORD.unpack(body)
        if magic != _MAGIC or not all(map(math.isfinite, (asked, following, moved, virtual, *lanes))):
            return None
        queues = tuple(Queue(*lanes[i : i + 4]) for i in range(0, len(lanes), 4))
        return cls(asked, following, moved, virtual, queues)


_MAGIC = b"crm-pac1"
_RECORD = struct.Struct(">8s4d" + "QQdd" * len(LANES))
RECORD_SIZE = _RECORD.size + 4


# -- where a schedule is kept --------------------------------------------------------------------------------


class StoreUnusable(Exception):
    """The store cannot be used now; the text says which and why, and shows no password."""


@dataclass(frozen=True)
class Ticket:
    """A place in a store's queue, worth nothing in another store."""

    store: int
    number: int


class RateStore(Protocol):
    """Keeps one schedule, asks it under a lock, and has the clock that it goes by."""

    def ask(self, lane: Lane, ticket: Ticket | None, pace: Pace, patience: float) -> tuple[Grant, Ticket]:
        """Ask for a slot; see :meth:`Schedule.ask`.

        :raises StoreUnusable: nothing was reserved
        """

    def pause(self, seconds: float, phase: float, pace: Pace) -> None:
        """Hold back all callers; see :meth:`Schedule.pause`.

        :raises StoreUnusable: nothing was changed
        """


def number_for(store: RateStore, ticket: Ticket | None) -> int | None:
    """The number of a ticket in this store, None if it is from another one."""
    return ticket.number if ticket and ticket.store == id(store) else None
