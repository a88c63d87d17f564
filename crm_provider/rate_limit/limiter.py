"""The rate limiter of a key: callers ask it for a slot and report refusals.

The budget belongs to the connection's key. The connection configures where it is stored: in a file of this host, in
this process, in an Airflow variable or in Redis. If a store fails, the next smaller one replaces it until it works
again.
"""

from __future__ import annotations

import logging
import math
import os
import random
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Protocol, TypeVar
from weakref import WeakSet

from crm_provider.errors import CrmConfigurationError
from crm_provider.rate_limit.host_file import HostFileStore, file_name
from crm_provider.rate_limit.leases import LeaseStore, SharedText
from crm_provider.rate_limit.redis import RedisStore
from crm_provider.rate_limit.schedule import (
    LONGEST_PAUSE,
    MARGIN,
    Grant,
    GrantStatus,
    Lane,
    Pace,
    RateStore,
    Schedule,
    StoreUnusable,
    Ticket,
    number_for,
)
from crm_provider.values.server_clock import ServerClock

log = logging.getLogger(__name__)


class BudgetBusy(Exception):
    """There is no slot within the time that the caller can wait.

    :param seconds: time until the next free slot
    """

    def __init__(self, seconds: float) -> None:
        super().__init__(f"the next free slot is {seconds:.1f} s away")
        self.seconds = seconds


class RateLimiter(Protocol):
    """A rate budget shared by all callers of one key."""

    def acquire(self, max_wait: float) -> float:
        """Wait for the next slot.

        :param max_wait: maximum seconds that the caller can wait
        :return: seconds waited
        :raises BudgetBusy: immediately, if the slot is further away; then nothing is reserved
        """

    def pause(self, seconds: float) -> None:
        """Give no slots for some seconds, because the CRM refused a call. Ignored if above :data:`LONGEST_PAUSE`."""


class UnlimitedRate:
    """No budget at all (``rate_store: off``)."""

    def acquire(self, max_wait: float) -> float:
        return 0.0

    def pause(self, seconds: float) -> None:
        """Does nothing: each caller backs off by itself."""


class ProcessRateLimiter:
    """Evenly spaced slots for the threads of one process, first come, first served. It limits a share of a budget.

    :param rate: calls per second that the CRM allows
    :param burst: calls that the CRM allows at once
    """

    def __init__(
        self,
        rate: float,
        burst: int,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._clock, self._sleep = clock, sleep
        self._next = -math.inf
        self._lock = threading.Lock()
        self.limit(rate, burst)

    def limit(self, rate: float, burst: int) -> None:
        """Set what the CRM allows."""
        with self._lock:
            self.spacing = 1.0 / (rate * MARGIN)
            self._at_once = max(burst - 1, 1)

    def acquire(self, max_wait: float) -> float:
        wait = self._reserve(max_wait)
        if wait > 0:
            self._sleep(wait)
        return wait

    def _reserve(self, max_wait: float) -> float:
        with self._lock:
            now = self._clock()
            slot = max(self._next, now - (self._at_once - 1) * self.spacing)
            wait = max(slot - now, 0.0)
            if wait > max_wait:
                raise BudgetBusy(wait)
            self._next = slot + self.spacing
            return wait

    def pause(self, seconds: float) -> None:
        if seconds > LONGEST_PAUSE:
            return
        with self._lock:
            self._next = max(self._next, self._clock() + seconds)


class ShareRateLimiter:
    """A share of a budget, for callers that must leave room for others: further apart, from the same budget.

    :param whole: the budget of all callers
    :param rate: calls per second of it that these callers may use
    """

    def __init__(self, whole: RateLimiter, rate: float) -> None:
        self.whole = whole
        self._own = ProcessRateLimiter(rate, 1)

    def acquire(self, max_wait: float) -> float:
        waited = self._own.acquire(max_wait)
        return waited + self.whole.acquire(max_wait - waited)

    def pause(self, seconds: float) -> None:
        self.whole.pause(seconds)


class BudgetSettings(Protocol):
    """The settings that a budget needs. A connection's settings have them."""

    @property
    def base_url(self) -> str: ...

    @property
    def key_fingerprint(self) -> str: ...

    @property
    def rate_store(self) -> str | None: ...

    @property
    def requests_per_second(self) -> float: ...

    @property
    def burst(self) -> int: ...


class Budget:
    """The budget of a key.

    :param store: keeps its schedule
    :param rate: calls per second that the CRM allows
    :param burst: calls that the CRM allows at once
    :param server_clock: the CRM's clock, for a store that uses it; the callers make it more exact
    """

    def __init__(
        self,
        store: RateStore,
        rate: float,
        burst: int,
        *,
        server_clock: ServerClock | None = None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self.store, self.clock, self.sleep, self.jitter = store, clock, sleep, jitter
        self.server_clock = server_clock
        self.limit(rate, burst)
        self._lanes = {lane: LaneRateLimiter(self, lane) for lane in Lane}
        self.loads: WeakSet[LaneRateLimiter] = WeakSet()
        """The loads and extracts of this process that have not ended."""

    def limit(self, rate: float, burst: int) -> None:
        """Set what the CRM allows."""
        self.pace = Pace.of(rate, burst)

    def lane(self, lane: Lane, *, sleep: Callable[[float], None] | None = None) -> LaneRateLimiter:
        """The limiter for the callers of a lane.

        :param sleep: how these callers sleep, for example interruptibly
        """
        return self._lanes[lane] if sleep is None else LaneRateLimiter(self, lane, sleep)

    def begin_load(self, *, sleep: Callable[[float], None] | None = None) -> LaneRateLimiter:
        """The limiter for the callers of one load or extract.

        :param sleep: how these callers sleep
        """
        load = LaneRateLimiter(self, Lane.BULK, sleep)
        self.loads.add(load)
        return load

    def end_load(self, load: LaneRateLimiter) -> None:
        """Give back what the last load of this process does not need any more, if the store shares slots with hosts."""
        if load in self.loads:
            self.loads.discard(load)
            if not self.loads and isinstance(self.store, FallbackStore):
                self.store.leave()


class LaneRateLimiter:
    """The budget as the callers of one lane see it."""

    def __init__(self, budget: Budget, lane: Lane, sleep: Callable[[float], None] | None = None) -> None:
        self.budget, self.lane = budget, lane
        self._sleep = sleep or budget.sleep

    def acquire(self, max_wait: float) -> float:
        budget, waited = self.budget, 0.0
        started, patience = budget.clock(), max_wait
        ticket: Ticket | None = None
        while True:
            grant, ticket = budget.store.ask(self.lane, ticket, budget.pace, patience)
            if grant.status is GrantStatus.REJECTED:
                raise BudgetBusy(grant.seconds)
            if grant.seconds > 0:
                self._sleep(grant.seconds)
                waited += grant.seconds
            if grant.status is GrantStatus.GRANTED:
                return waited
            patience = max_wait - (budget.clock() - started)

    def pause(self, seconds: float) -> None:
        """Hold back all callers of the key, in every lane. Afterwards the slots have a new phase.

        With the old phase, our calls would coincide again with those of other users of the key, such as another host.
        """
        if seconds <= LONGEST_PAUSE:
            pace = self.budget.pace
            self.budget.store.pause(seconds, self.budget.jitter() * pace.spacing, pace)


# -- stores -------------------------------------------------------------------------------------------------

T = TypeVar("T")

RECHECK = 5.0
"""Seconds until a store that failed is tried again."""


class MemoryStore:
    """One schedule for the threads of this process."""

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self.reset()
        _memory_stores.add(self)

    def reset(self) -> None:
        """Reset the state and the locks."""
        self._lock = threading.Lock()
        self._schedule = Schedule()

    def ask(self, lane: Lane, ticket: Ticket | None, pace: Pace, patience: float) -> tuple[Grant, Ticket]:
        with self._lock:
            grant = self._schedule.ask(self._clock(), lane, number_for(self, ticket), pace, patience)
        return grant, Ticket(id(self), grant.ticket)

    def pause(self, seconds: float, phase: float, pace: Pace) -> None:
        with self._lock:
            self._schedule.pause(self._clock(), seconds, phase, pace)


class FallbackStore:
    """A store with a fallback while it fails. It logs one warning, and one line when the first works again.

    :param first: the store to use
    :param second: the store to use while the first fails
    :param otherwise: the consequence of using the second store, for the warning
    """

    def __init__(
        self, first: RateStore, second: RateStore, *, otherwise: str, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._first, self._second, self._otherwise, self._clock = first, second, otherwise, clock
        self._failed_until: float | None = None
        self._warning_due = [True]
        """One item if the next failure must be logged. ``list.pop`` is atomic, so only one of many threads logs it."""

    def ask(self, lane: Lane, ticket: Ticket | None, pace: Pace, patience: float) -> tuple[Grant, Ticket]:
        return self._use(lambda store: store.ask(lane, ticket, pace, patience))

    def pause(self, seconds: float, phase: float, pace: Pace) -> None:
        self._use(lambda store: store.pause(seconds, phase, pace))

    def leave(self) -> None:
        """Give the slots of this host back after its last load. If that fails, the other hosts notice its absence."""
        if isinstance(self._first, LeaseStore) and self._failed_until is None:
            try:
                self._first.leave()
            except StoreUnusable as reason:
                log.debug("%s; the slots of this host were not given back", reason)

    def _use(self, do: Callable[[RateStore], T]) -> T:
        now = self._clock()
        failed_until = self._failed_until
        if failed_until is not None:
            if now < failed_until:
                return do(self._second)
            self._failed_until = now + RECHECK  # other threads do not wait for this attempt
        try:
            done = do(self._first)
        except StoreUnusable as reason:
            self._failed_until = self._clock() + RECHECK
            with suppress(IndexError):
                self._warning_due.pop()
                log.warning("%s; %s until it can be used again", reason, self._otherwise)
            return do(self._second)
        if failed_until is not None:
            self._failed_until = None
            self._warning_due[:] = [True]
            log.info("the rate budget is shared again as the connection configures it")
        return done


# -- one budget for each key ---------------------------------------------------------------------------------

_budgets: dict[tuple[str, str, str | None], Budget] = {}
_budgets_lock = threading.Lock()
_memory_stores: WeakSet[MemoryStore] = WeakSet()


def limiter_for(
    settings: BudgetSettings, *, lane: Lane = Lane.SINGLE, sleep: Callable[[float], None] | None = None
) -> RateLimiter:
    """The limiter of a connection's key. All limiters of a key share one budget, with the latest limits.

    :param lane: the kind of caller
    :param sleep: how these callers sleep until their slot; an exception that it raises ends the wait
    :raises CrmConfigurationError: if the store needs a package that is not installed
    """
    if settings.rate_store == "off":
        return UnlimitedRate()
    key = (settings.base_url, settings.key_fingerprint, settings.rate_store)
    limits = (settings.requests_per_second, settings.burst)
    with _budgets_lock:
        if key not in _budgets:
            server_clock = ServerClock() if settings.rate_store == AIRFLOW else None
            _budgets[key] = Budget(store_for(settings, server_clock), *limits, server_clock=server_clock)
        budget = _budgets[key]
    budget.limit(*limits)
    return budget.begin_load(sleep=sleep) if lane is Lane.BULK else budget.lane(lane, sleep=sleep)


def store_for(settings: BudgetSettings, server_clock: ServerClock | None = None) -> RateStore:
    """The store that the settings name, with its fallbacks.

    :param server_clock: the CRM's clock, for a store that uses it
    """
    if settings.rate_store == "process":
        return MemoryStore()
    name = file_name(settings.base_url, settings.key_fingerprint)
    slots = HostFileStore(name)
    on_host = FallbackStore(slots, MemoryStore(), otherwise="each process paces itself")
    if settings.rate_store is None:
        return on_host
    if settings.rate_store == AIRFLOW:
        if _shared_text is None:
            raise CrmConfigurationError(
                "Extra 'rate_store' is 'airflow', which only CrmHook can use; leave it out for a client without Airflow"
            )
        leases = LeaseStore(slots, f"{name}.lease", _shared_text(name), server_clock or ServerClock())
        return FallbackStore(leases, on_host, otherwise="each host paces itself")
    return FallbackStore(RedisStore(settings.rate_store, name), on_host, otherwise="each host paces itself")


AIRFLOW = "airflow"
"""The ``rate_store`` of a budget that all hosts share through Airflow."""

_shared_text: Callable[[str], SharedText] | None = None


def share_through(factory: Callable[[str], SharedText]) -> None:
    """Set the factory of texts that all hosts can read and write, because the core does not import Airflow.

    :param factory: from the name of a budget to its text
    """
    global _shared_text  # noqa: PLW0603 - set once, when the hook is imported
    _shared_text = factory


def shared_clock_of(limiter: RateLimiter) -> ServerClock | None:
    """The CRM's clock, shared by all callers of a budget; None if the budget does not use it."""
    while isinstance(limiter, ShareRateLimiter):
        limiter = limiter.whole
    return limiter.budget.server_clock if isinstance(limiter, LaneRateLimiter) else None


def end_calls(limiter: RateLimiter) -> None:
    """Report that a caller makes no more calls: the slots of this host's last load are given back to other hosts."""
    if isinstance(limiter, LaneRateLimiter):
        limiter.budget.end_load(limiter)


def _forget_in_child() -> None:
    """A fork may copy a lock that another thread holds, so the child gets its own locks."""
    global _budgets_lock  # noqa: PLW0603 - there is one registry in a process
    for store in list(_memory_stores):
        store.reset()
    _budgets_lock = threading.Lock()
    _budgets.clear()


os.register_at_fork(after_in_child=_forget_in_child)
