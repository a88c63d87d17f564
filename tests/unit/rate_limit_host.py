"""One of the hosts that share a rate through one text, with fake slots and a fake clock."""

from __future__ import annotations

import math
from datetime import datetime, timezone
from email.utils import format_datetime
from pathlib import Path
from typing import Any

from crm_provider.rate_limit.leases import Lease, LeaseStore
from crm_provider.rate_limit.schedule import Grant, GrantStatus, Lane, Pace
from crm_provider.values.server_clock import ServerClock

from .fakes import FakeClock
from .rate_limit_hosts import EPOCH, Text
from .rate_limit_scene import NEVER_MIND

REAL = Pace.of(5.0, 2)


class Slots:
    """The state shared by the processes of a host: records the requests, and grants slots or delays."""

    def __init__(self) -> None:
        self.paces: list[Pace] = []
        self.paused: list[Any] = []
        self.asked: list[Any] = []
        self.status = GrantStatus.GRANTED

    def ask(self, lane: Lane, ticket: Any, pace: Pace, patience: float) -> tuple[Grant, Any]:
        self.paces.append(pace)
        self.asked.append((lane, ticket, patience))
        return Grant(self.status, 0.0, 0), "ticket"

    def pause(self, seconds: float, phase: float, pace: Pace) -> None:
        self.paused.append((seconds, phase, pace))


class Host:
    """One host with a clock of its own. A response has shown it the CRM's, which is the same."""

    def __init__(self, folder: Path, *, known: bool = True) -> None:
        self.clock, self.slots, self.text, self.server = FakeClock(), Slots(), Text(), ServerClock()
        self.store = LeaseStore(
            self.slots, "key.lease", self.text, self.server, folder=folder,
            clock=self.clock, wall=lambda: EPOCH + self.clock(), jitter=lambda: 0.0,
        )  # fmt: skip
        if known:
            self.shows(0.0)

    def shows(self, ahead: float) -> None:
        """A response shows that the CRM's clock is ahead of the host's: up to a second from a whole one."""
        date = datetime.fromtimestamp(math.floor(EPOCH + self.clock() + ahead), timezone.utc)
        self.server.note(format_datetime(date, usegmt=True), sent=self.clock(), received=self.clock())

    def ask(self, lane: Lane = Lane.BULK, after: float = 0.0, status: GrantStatus = GrantStatus.GRANTED) -> Pace:
        self.clock.sleep(after)
        self.slots.status = status
        self.store.ask(lane, None, REAL, NEVER_MIND)
        return self.slots.paces[-1]

    def lease(self) -> Lease:
        with self.store._lease() as (lease, _):
            return lease
