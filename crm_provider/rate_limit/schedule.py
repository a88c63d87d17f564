"""The schedule of a key: its lanes, and which caller gets the next slot. It has no clock, lock or I/O.

The callers of a lane queue up with tickets. A slot is granted when it is less than :data:`GRANT_AHEAD` away, to the
first ticket of the lane that has used the least of its share (start-time fair queueing: each call costs its lane
``1 / weight`` of virtual time). Nothing is reserved before that, so a late caller does not wait for all slots of a
load's queue. A caller that has to wait asks again later. If it does not, it counts as gone, and after
:data:`NO_SHOW_AFTER` the slot is free for all. Thus a killed process loses no slots.

``schedule.lua`` implements the same rule for Redis. A test compares the two step by step.
"""

from __future__ import annotations

import math
import struct
import zlib
from dataclasses import dataclass, field
from enum import Enum, IntEnum
from typing import Protocol

MARGIN = 0.99
"""Share of the allowed rate that is used. Calls that are 1 % too fast are refused; 1 % too slow costs 1 %."""

LONGEST_PAUSE = 10.0
"""Maximum seconds that a refusal holds back the other callers of the key. A longer wait is not about the rate: the CRM
reports it to each caller, which decides by itself (a task frees its worker slot, a sensor checks later)."""


class Lane(Enum):
    """A kind of caller. Each lane gets its share of the budget, and whatever the others leave."""

    SINGLE = "single"
    """Single calls of tasks, on which a person or a pipeline waits."""
    WAITING = "waiting"
    """Repeated checks of sensors and triggers."""
    BULK = "bulk"
    """Loads and extracts of many rows."""


WEIGHTS: dict[Lane, float] = {Lane.SINGLE: 2.0, Lane.WAITING: 1.0, Lane.BULK: 1.0}
"""Shares of the lanes with waiting callers. A load next to continuous single calls keeps a third."""

GRANT_AHEAD = 0.3
"""Seconds before its time that a slot is granted, so that a caller that wakes late does not lose it.
A larger value would make urgent calls wait longer, too."""

NO_SHOW_AFTER = 0.1
"""Seconds within which the next caller must ask; well below GRANT_AHEAD, so that a dead caller wastes no slot."""

LONGEST_RETRY_DELAY = 0.5
"""Maximum seconds until a waiting caller asks again."""

SHORTEST_RETRY_DELAY = 0.002

MOST_WAITING = 100_000
"""Maximum waiting callers of a lane. If there are more, the state is corrupt."""

LANES = tuple(Lane)


@dataclass(frozen=True)
class Pace:
    """The limits of the CRM in the terms of the schedule.

    :param spacing: seconds between two slots
    :param at_once: slots that may be used at once after a pause
    """

    spacing: float
    at_once: int

    @classmethod
    def of(cls, rate: float, burst: int) -> Pace:
        """One call of the burst stays in reserve and absorbs the jitter of the network."""
        return cls(1.0 / (rate * MARGIN), max(burst - 1, 1))

    def first_slot(self, at: float) -> float:
        """The first slot at a time or later; here every time is a slot."""
        return at

    def after(self, slot: float) -> float:
        """The earliest time of the slot after this one."""
        return slot + self.spacing


class GrantStatus(IntEnum):
    """The instruction to the caller."""

    GRANTED = 0
    """Send the call after these seconds: the slot is granted."""
    RETRY_AFTER = 1
    """Ask again after these seconds, with the ticket."""
    REJECTED = 2
    """There is no slot in time: the next one is these seconds away."""


@dataclass(frozen=True)
class Grant:
    """The response of the schedule to a caller.

    :param ticket: for the next request of this caller
    """

    status: GrantStatus
    seconds: float
    ticket: int


@dataclass
class Queue:
    """The callers of a lane.

    :param head: the first ticket that has not been served
    :param tail: the next ticket to issue
    :param start: virtual time at which its next call starts
    :param alive: time until which one of its callers is expected back
    """

    head: int = 0
    tail: int = 0
    start: float = 0.0
    alive: float = 0.0


@dataclass
class Schedule:
    """A budget at one moment. Times are those of its store's clock.

    :param asked: time of the last request
    :param next: the next free slot
    :param moved: time of the last grant
    :param virtual: virtual time of the call that got the last slot
    """

    asked: float = 0.0
    next: float = 0.0
    moved: float = 0.0
    virtual: float = 0.0
    queues: tuple[Queue, ...] = field(default_factory=lambda: tuple(Queue() for _ in LANES))

    def ask(self, now: float, lane: Lane, ticket: int | None, pace: Pace, patience: float) -> Grant:
        """Ask for a slot.

        :param ticket: the ticket of the last grant; None or an unknown one joins the queue at its end
        :param patience: seconds that the caller can wait from now on
        """
        self._heal(now, pace)
        queue = self.queues[LANES.index(lane)]
        joins = ticket is None or ticket >= queue.tail
        if joins and queue.alive <= now:  # no caller is left
            queue.head, queue.start = queue.tail, max(queue.start, self.virtual)
        mine = queue.tail if ticket is None or joins else ticket
        earlier_calls = self._calls_before(lane, mine, now)
        before = max(mine - queue.head, 0) + sum(earlier_calls.values())
        slot = pace.first_slot(max(self.next, now - (pace.at_once - 1) * pace.spacing))
        wait = max(slot - now, 0.0)
        likely = wait + before * pace.spacing
        if (likely if joins else wait) > patience:
            return Grant(GrantStatus.REJECTED, likely, mine)
        if joins:
            queue.tail += 1
        opens = slot - GRANT_AHEAD
        given_up = max(opens, self.moved) + NO_SHOW_AFTER
        # more slots are open than there are callers before this one, so it takes no slot of theirs
        if now >= opens + before * pace.spacing or now >= given_up:
            self._give(queue, WEIGHTS[lane], mine, now, pace.after(slot))
            if before and now >= given_up:
                self._pass_over(earlier_calls)
            return Grant(GrantStatus.GRANTED, wait, mine)
        delay = max(opens - now, 0.0) + before * pace.spacing
        if before == 1:
            delay = min(delay, given_up - now)
        delay = min(max(delay, SHORTEST_RETRY_DELAY), LONGEST_RETRY_DELAY)
        queue.alive = max(queue.alive, now + delay + NO_SHOW_AFTER)
        return Grant(GrantStatus.RETRY_AFTER, delay, mine)

    def pause(self, now: float, seconds: float, phase: float, pace: Pace) -> None:
        """Grant no slot for some seconds, and move all later slots to another phase.

        :param phase: random seconds, so that our calls do not coincide forever with those of other users of the key
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

    def _calls_before(self, lane: Lane, ticket: int, now: float) -> dict[int, int]:
        """For each other lane, how many of its calls start at an earlier virtual time than this ticket."""
        own = LANES.index(lane)
        queue = self.queues[own]
        starts = queue.start + max(ticket - queue.head, 0) / WEIGHTS[lane]
        found = {}
        for i, other in enumerate(self.queues):
            if i != own and other.alive > now:
                lead = (starts - other.start) * WEIGHTS[LANES[i]]
                calls = math.floor(lead) + 1 if i < own else math.ceil(lead)  # the first lane wins a tie
                found[i] = min(max(calls, 0), max(other.tail - other.head, 1))
        return found

    def _pass_over(self, earlier_calls: dict[int, int]) -> None:
        """Callers that missed their turn count as gone until they ask again."""
        for i, calls in earlier_calls.items():
            if calls:
                self.queues[i].alive = 0.0

    def _heal(self, now: float, pace: Pace) -> None:
        """Bound all times, so that no wait is too long after a clock that was set back, a reboot or a defect."""
        back = max(self.asked - now, 0.0)
        self.asked = now
        self.next = min(self.next - back, now + LONGEST_PAUSE + GRANT_AHEAD + 2 * pace.spacing)
        self.moved = min(self.moved - back, now)
        for queue in self.queues:
            queue.alive = min(queue.alive - back, now + LONGEST_RETRY_DELAY + NO_SHOW_AFTER)
            queue.head = queue.tail if queue.tail - queue.head > MOST_WAITING else min(queue.head, queue.tail)

    # -- as bytes --------------------------------------------------------------------------------------------

    def to_bytes(self) -> bytes:
        """The record of a state file, with a checksum at its end."""
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
    """The store cannot be used at the moment. The text names it and the reason, and shows no password."""


@dataclass(frozen=True)
class Ticket:
    """A position in the queue of one store. Other stores ignore it."""

    store: int
    number: int


class RateStore(Protocol):
    """Keeps one schedule with its lock and its clock."""

    def ask(self, lane: Lane, ticket: Ticket | None, pace: Pace, patience: float) -> tuple[Grant, Ticket]:
        """Ask for a slot; see :meth:`Schedule.ask`.

        :raises StoreUnusable: then nothing was reserved
        """

    def pause(self, seconds: float, phase: float, pace: Pace) -> None:
        """Hold back all callers; see :meth:`Schedule.pause`.

        :raises StoreUnusable: then nothing was changed
        """


def number_for(store: RateStore, ticket: Ticket | None) -> int | None:
    """The number of a ticket in this store, None if it is from another one."""
    return ticket.number if ticket and ticket.store == id(store) else None
