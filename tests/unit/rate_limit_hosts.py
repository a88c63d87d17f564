"""Hosts that share a rate through one text, in simulated time. Each has its own state, clocks, and workers."""

from __future__ import annotations

import heapq
import itertools
import os
import random
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime, timezone
from email.utils import format_datetime

from crm_provider.rate_limit.leases import LeaseStore
from crm_provider.rate_limit.limiter import MemoryStore
from crm_provider.rate_limit.schedule import GrantStatus, Lane, Pace, StoreUnusable, Ticket
from crm_provider.values.server_clock import ServerClock

from .rate_limit_scene import NEVER_MIND, TokenBucket

EPOCH = 1.7e9
"""The CRM's time at the start of a scene."""


def changing(life: float, until: float, seed: int, *, skew: float = 0.0, rest: float = 0.05) -> list[Machine]:
    """Eight hosts, each of which is replaced a second after its end. A random half of them is killed.

    :param life: mean seconds of a host
    :param skew: maximum error of a clock
    """
    rng, machines = random.Random(seed), []
    for number in range(8):
        begins = 0.3 * number
        while begins < until:
            machine = Machine(begins, begins + rng.expovariate(1 / life), workers=6, rest=rest)
            machines.append(replace(machine, skew=rng.uniform(-skew, skew), finishes=rng.random() < 0.5))
            begins = machine.dies + 1
    return machines


def fairness_by_time(machines: Sequence[Machine], calls: Sequence[int], begin: float, end: float) -> float:
    """Jain's index of the calls per second that each host made, weighted by its time."""
    times = [min(machine.dies, end) - max(machine.begins, begin) for machine in machines]
    found = [(count / time, time) for count, time in zip(calls, times, strict=True) if time > 0]
    squares = sum(rate**2 * time for rate, time in found)
    return sum(calls) ** 2 / (sum(time for _, time in found) * squares)


@dataclass
class Text:
    """The shared text. A write that began before another one ended may be lost, as in a database.

    :param down: while it is unavailable
    """

    content: str | None = None
    requests: int = 0
    down: bool = False

    def read(self) -> str | None:
        self.requests += 1
        if self.down:
            raise StoreUnusable("the text cannot be read")
        return self.content

    def write(self, text: str) -> None:
        self.requests += 1
        self.content = text


@dataclass(frozen=True)
class Machine:
    """A host: its working time, its workers, and the error of its clock.

    :param dies: when it ends
    :param finishes: whether it ends by itself; otherwise it is killed
    :param rest: seconds from a call to the next one; the response takes nearly all of them, but a second at most
    """

    begins: float = 0.0
    dies: float = NEVER_MIND
    workers: int = 2
    lane: Lane = Lane.BULK
    rest: float = 0.05
    skew: float = 0.0
    finishes: bool = False


class MemoryFile:
    """A host's file: real ones would take most of the time."""

    def __init__(self) -> None:
        self._file = os.memfd_create("lease")

    @contextmanager
    def open(self) -> Iterator[int]:
        yield self._file

    def __del__(self) -> None:
        os.close(self._file)


@dataclass
class Hosts:
    """Runs machines until a time.

    :param cached: seconds for which the CRM keeps the header ``Date`` of its responses
    """

    machines: Sequence[Machine]
    until: float
    rate: float = 5.0
    burst: int = 2
    seed: int = 0
    text: Text = field(default_factory=Text)
    dated: bool = True
    cached: float = 0.0
    now: float = 0.0
    sent: list[tuple[float, int]] = field(default_factory=list)
    refused: list[tuple[float, int]] = field(default_factory=list)

    def run(self) -> Hosts:
        rng, order, pace = random.Random(self.seed), itertools.count(), Pace.of(self.rate, self.burst)
        bucket = TokenBucket(self.rate, self.burst)
        self.stores = [self._store(number, machine, rng) for number, machine in enumerate(self.machines)]
        events: list[tuple[float, int, int, str, Ticket | None]] = []
        for number, machine in enumerate(self.machines):
            for _ in range(machine.workers):
                heapq.heappush(events, (machine.begins + rng.random() / 10, next(order), number, "ask", None))
            if machine.finishes:
                heapq.heappush(events, (machine.dies, next(order), number, "end", None))
        while events:
            self.now, _, number, what, ticket = heapq.heappop(events)
            machine, (store, clock) = self.machines[number], self.stores[number]
            if what == "end":
                store.leave()
            if self.now >= min(self.until, machine.dies):
                continue
            if what == "call":
                if bucket.takes(self.now):
                    self.sent.append((self.now, number))
                    self._date(clock, number)
                    then = self.now + machine.rest
                else:
                    self.refused.append((self.now, number))
                    store.pause(0.0, rng.random() * pace.spacing, pace)
                    then = self.now + 0.5 + rng.random()
                heapq.heappush(events, (then, next(order), number, "ask", None))
                continue
            grant, ticket = store.ask(machine.lane, ticket, pace, NEVER_MIND)
            granted = grant.status is GrantStatus.GRANTED
            late = rng.random() * 0.01
            event = (self.now + grant.seconds + late, next(order), number, "call" if granted else "ask")
            heapq.heappush(events, (*event, None if granted else ticket))
        return self

    def _store(self, number: int, machine: Machine, rng: random.Random) -> tuple[LeaseStore, ServerClock]:
        boot = rng.random() * 1e6

        def clock() -> float:
            return self.now + boot

        server = ServerClock()
        self.boots = [*getattr(self, "boots", []), boot]
        store = LeaseStore(
            MemoryStore(clock=clock), "key.lease", self.text, server, clock=clock,
            wall=lambda: EPOCH + self.now + machine.skew, jitter=rng.random, host=f"h{number}",
        )  # fmt: skip
        store._file = MemoryFile()  # type: ignore[assignment]
        return store, server

    def _date(self, clock: ServerClock, number: int) -> None:
        if self.dated:
            trip = min(self.machines[number].rest, 1.0) - 0.01
            made = EPOCH + self.now + trip - 0.02
            shown = made - made % self.cached if self.cached else made
            date = format_datetime(datetime.fromtimestamp(int(shown), timezone.utc), usegmt=True)
            local = self.now + self.boots[number]
            clock.note(date, sent=local, received=local + trip)

    def used(self, begin: float, end: float) -> float:
        """The share of the limit that was used."""
        return sum(begin <= at < end for at, _ in self.sent) / (self.rate * (end - begin))

    def refusals(self, begin: float, end: float) -> float:
        """The share of the calls that was refused."""
        bad = sum(begin <= at < end for at, _ in self.refused)
        return bad / max(bad + sum(begin <= at < end for at, _ in self.sent), 1)

    def fairness(self, begin: float, end: float) -> float:
        """By their time, see :func:`fairness_by_time`."""
        return fairness_by_time(self.machines, self.by_host(begin, end), begin, end)

    def by_host(self, begin: float, end: float) -> list[int]:
        found = Counter(number for at, number in self.sent if begin <= at < end)
        return [found[number] for number in range(len(self.machines))]
