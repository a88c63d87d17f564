"""The schedule step by step, calculated by hand with one slot per second, so that every figure is easy to read."""

from __future__ import annotations

import math
import zlib
from dataclasses import replace

import pytest

from crm_provider.rate_limit import schedule
from crm_provider.rate_limit.limiter import MemoryStore
from crm_provider.rate_limit.schedule import (
    GRANT_AHEAD,
    LANES,
    LONGEST_PAUSE,
    LONGEST_RETRY_DELAY,
    MOST_WAITING,
    NO_SHOW_AFTER,
    SHORTEST_RETRY_DELAY,
    GrantStatus,
    Lane,
    Pace,
    Queue,
    Schedule,
    Ticket,
    number_for,
)

PACE = Pace(spacing=1.0, at_once=1)
FOR_EVER = 1e9
GO, DELAY, LEAVE = GrantStatus.GRANTED, GrantStatus.RETRY_AFTER, GrantStatus.REJECTED
SINGLE, WAITING, BULK = LANES

assert (GRANT_AHEAD, NO_SHOW_AFTER, LONGEST_RETRY_DELAY, SHORTEST_RETRY_DELAY) == (0.3, 0.1, 0.5, 0.002), (
    "the figures below depend on these"
)


def ask(
    it: Schedule,
    now: float,
    ticket: int | None = None,
    *,
    lane: Lane = BULK,
    pace: Pace = PACE,
    patience: float = FOR_EVER,
) -> tuple[GrantStatus, float, int]:
    grant = it.ask(now, lane, ticket, pace, patience)
    return grant.status, pytest.approx(grant.seconds, abs=1e-9), grant.ticket


def queue(it: Schedule, lane: Lane = BULK) -> tuple[int, int, float, float]:
    found = it.queues[LANES.index(lane)]
    return found.head, found.tail, pytest.approx(found.start, abs=1e-9), pytest.approx(found.alive, abs=1e-9)


# -- one caller after the other -----------------------------------------------------------------------------


def test_first_caller_goes_at_once_and_the_next_waits_until_its_slot_is_near() -> None:
    it = Schedule()
    assert ask(it, 100.0) == (GO, 0.0, 0)
    assert (it.next, it.moved, it.asked) == (101.0, 100.0, 100.0)
    assert queue(it) == (1, 1, 1.0, 0.0), "nobody is waiting"
    assert ask(it, 100.0) == (DELAY, 0.5, 1), "the slot opens at 100.7, but this is the longest nap"
    assert queue(it) == (1, 2, 1.0, 100.6)
    assert ask(it, 100.5, 1) == (DELAY, 0.2, 1)
    assert queue(it) == (1, 2, 1.0, 100.8)
    assert ask(it, 100.7, 1) == (GO, 0.3, 1), "early enough to send at 101"
    assert (it.next, it.moved) == (102.0, 100.7)
    assert queue(it) == (2, 2, 2.0, 0.0)


def test_caller_after_a_rest_does_not_get_past_slots() -> None:
    it = Schedule()
    ask(it, 100.0)
    assert ask(it, 150.0) == (GO, 0.0, 1)
    assert it.next == 151.0


def test_burst_is_used_up_and_refills_with_time() -> None:
    it, pace = Schedule(), Pace(1.0, 3)
    assert [ask(it, 100.0, pace=pace)[:2] for _ in range(4)] == [(GO, 0.0), (GO, 0.0), (GO, 0.0), (DELAY, 0.5)]
    assert it.next == 101.0
    assert ask(it, 101.0, 3, pace=pace) == (GO, 0.0, 3)
    assert [ask(it, 103.0, pace=pace)[:2] for _ in range(3)] == [(GO, 0.0), (GO, 0.0), (DELAY, 0.5)]


def test_slots_that_are_half_a_second_apart() -> None:
    it, pace = Schedule(), Pace(0.5, 3)
    granted = [ask(it, 100.0, pace=pace)[:2] for _ in range(4)]
    assert granted == [(GO, 0.0), (GO, 0.0), (GO, 0.0), (DELAY, 0.2)], "the slots are 99, 99.5, 100 and 100.5"
    assert ask(it, 100.0, pace=pace, patience=0.9) == (LEAVE, 1.0, 4), "one caller is before it, at 100.5"


def test_ticket_counts_only_in_its_own_store() -> None:
    store, other = MemoryStore(), MemoryStore()
    ticket = Ticket(id(store), 0)
    assert (number_for(store, ticket), number_for(other, ticket), number_for(store, None)) == (0, None, None)


def test_shortest_delay() -> None:
    it = Schedule()
    ask(it, 100.0)
    ask(it, 100.0)
    assert ask(it, 100.6995, 1) == (DELAY, SHORTEST_RETRY_DELAY, 1)


@pytest.mark.parametrize(
    ("rate", "burst", "spacing", "at_once"), [(5.0, 2, 1 / 4.95, 1), (50.0, 20, 1 / 49.5, 19), (1.0, 1, 1 / 0.99, 1)]
)
def test_one_burst_token_and_one_percent_of_the_rate_are_reserved(
    rate: float, burst: int, spacing: float, at_once: int
) -> None:
    assert Pace.of(rate, burst) == Pace(pytest.approx(spacing), at_once)


# -- patience -----------------------------------------------------------------------------------------------


def test_caller_without_patience_for_a_new_place_learns_the_wait() -> None:
    it = Schedule()
    ask(it, 100.0)
    ask(it, 100.0)
    before = queue(it)
    assert ask(it, 100.0, patience=1.9) == (LEAVE, 2.0, 2)
    assert queue(it) == before, "it takes no place"
    assert ask(it, 100.0, patience=2.0) == (DELAY, 0.5, 2)


def test_queued_caller_leaves_only_if_the_next_slot_of_its_lane_is_too_late() -> None:
    it = Schedule()
    for _ in range(3):
        ask(it, 100.0)
    assert ask(it, 100.2, 2, patience=0.8) == (DELAY, 0.5, 2)
    assert ask(it, 100.2, 2, patience=0.79) == (LEAVE, 1.8, 2)


# -- a queue ------------------------------------------------------------------------------------------------


def test_queued_caller_takes_the_slot_only_after_the_one_before_had_its_time() -> None:
    it = Schedule()
    for _ in range(3):
        ask(it, 100.0)
    assert ask(it, 100.5, 2) == (DELAY, 0.3, 2), "the slot opens at 100.7 and expires at 100.8"
    assert ask(it, 100.79, 2) == (DELAY, pytest.approx(0.01), 2)
    assert ask(it, 100.8, 2) == (GO, 0.2, 2)
    assert queue(it)[:2] == (3, 3)
    assert ask(it, 100.9, 1) == (DELAY, 0.5, 1), "it came too late, but keeps asking and is served"
    assert ask(it, 101.7, 1) == (GO, 0.3, 1)
    assert queue(it)[:2] == (3, 3)


def test_third_caller_waits_for_its_own_slot_if_the_others_return() -> None:
    it = Schedule()
    for _ in range(4):
        ask(it, 100.0)
    assert ask(it, 100.4, 3) == (DELAY, 0.5, 3), "two callers before it: it would open at 102.7"
    assert ask(it, 100.7, 1) == (GO, 0.3, 1)
    assert ask(it, 101.7, 2) == (GO, 0.3, 2)
    assert ask(it, 102.7, 3) == (GO, 0.3, 3)


def test_slot_open_for_long_expires_a_while_after_the_last_was_taken() -> None:
    it = Schedule()
    for _ in range(3):
        ask(it, 100.0)
    it.next, it.moved = 90.0, 100.05  # a past slot, and the last one was taken just now
    assert ask(it, 100.1, 2) == (DELAY, pytest.approx(0.05), 2)
    assert ask(it, 100.15, 2) == (GO, 0.0, 2)


def test_all_open_slots_are_granted_at_once() -> None:
    it, pace = Schedule(), Pace(1.0, 3)
    it.queues[2].tail, it.queues[2].alive = 3, 1000.0
    it.next, it.moved = 0.0, 99.99
    assert ask(it, 100.0, 2, pace=pace) == (GO, 0.0, 2), "three slots at once, and two callers before it"
    it = Schedule()
    it.queues[2].tail, it.queues[2].alive = 4, 1000.0
    it.moved = 99.99
    assert ask(it, 100.0, 3, pace=pace)[0] is DELAY


@pytest.mark.parametrize("alive", [99.9, 100.0])
def test_queue_without_live_callers_starts_anew(alive: float) -> None:
    it = Schedule(asked=99.9, next=101.0, moved=99.0, virtual=7.0)
    it.queues[2].head, it.queues[2].tail, it.queues[2].start, it.queues[2].alive = 3, 9, 5.0, alive
    ask(it, 100.0)
    assert queue(it) == (9, 10, 7.0, 100.6)


def test_queue_with_a_live_caller_does_not_start_anew() -> None:
    it = Schedule(asked=99.9, next=101.0, moved=99.0, virtual=7.0)
    it.queues[2].head, it.queues[2].tail, it.queues[2].start, it.queues[2].alive = 3, 9, 5.0, 100.1
    assert ask(it, 100.0)[2] == 9
    assert queue(it) == (3, 10, 5.0, 100.6)


@pytest.mark.parametrize(("ticket", "mine"), [(None, 4), (4, 4), (99, 4), (3, 3)])
def test_unknown_ticket_queues_up(ticket: int | None, mine: int) -> None:
    it = Schedule(asked=99.9, next=101.0, moved=99.0)
    it.queues[2].tail, it.queues[2].alive = 4, 100.4
    assert ask(it, 100.0, ticket)[2] == mine
    assert it.queues[2].tail == max(mine + 1, 4)


# -- slots that are closer than the horizon ------------------------------------------------------------------


def test_delay_covers_the_slots_of_the_callers_before() -> None:
    it, pace = Schedule(), Pace(spacing=0.1, at_once=1)
    assert [ask(it, 100.0, pace=pace)[:2] for _ in range(3)] == [(GO, 0.0), (GO, 0.1), (GO, 0.2)]
    it.next = 100.4
    assert [ask(it, 100.0, pace=pace)[:2] for _ in range(3)] == [(DELAY, 0.1), (DELAY, 0.2), (DELAY, 0.3)]


@pytest.mark.parametrize(("now", "status"), [(100.09, DELAY), (100.11, GO)])
def test_second_open_slot_is_not_taken_from_the_caller_before(now: float, status: GrantStatus) -> None:
    it, pace = Schedule(asked=100.0, next=100.35, moved=100.0), Pace(spacing=0.05, at_once=1)
    it.queues[0].tail, it.queues[0].alive = 1, 100.5
    it.queues[2].tail, it.queues[2].alive = 1, 100.5
    assert ask(it, now, 0, pace=pace)[0] is status  # opens at 100.05 for the single call, at 100.1 for the next
    assert queue(it, SINGLE)[3] == 100.5, "it is not passed over"


# -- lanes --------------------------------------------------------------------------------------------------


def lanes(single: Queue, waiting: Queue, bulk: Queue) -> Schedule:
    return Schedule(queues=(single, waiting, bulk))


@pytest.mark.parametrize(
    ("lane", "ticket", "queues", "before"),
    [
        # all have the same virtual time: the first lane goes first
        (SINGLE, 0, [(0, 1, 0.0), (0, 1, 0.0), (0, 1, 0.0)], {1: 0, 2: 0}),
        (WAITING, 0, [(0, 1, 0.0), (0, 1, 0.0), (0, 1, 0.0)], {0: 1, 2: 0}),
        (BULK, 0, [(0, 1, 0.0), (0, 1, 0.0), (0, 1, 0.0)], {0: 1, 1: 1}),
        # no more than exist
        (BULK, 0, [(0, 2, 0.0), (0, 1, 0.0), (0, 1, 9.0)], {0: 2, 1: 1}),
        (BULK, 0, [(0, 99, 0.0), (0, 99, 0.0), (0, 1, 9.0)], {0: 19, 1: 10}),  # 9 * 2 + 1 and 9 * 1 + 1
        # a live caller may have been skipped in its lane's queue, so it counts as one
        (BULK, 0, [(5, 5, 0.0), (5, 5, 0.0), (0, 1, 9.0)], {0: 1, 1: 1}),
        # later callers of the same lane start later: each call of bulk costs 1, of single a half
        (BULK, 7, [(0, 99, 0.0), (0, 99, 0.0), (5, 9, 1.0)], {0: 7, 1: 4}),  # starts at 3
        (SINGLE, 7, [(5, 9, 1.0), (0, 99, 0.0), (0, 99, 0.0)], {1: 2, 2: 2}),  # starts at 2
        (SINGLE, 8, [(5, 9, 1.0), (0, 99, 0.0), (0, 99, 0.0)], {1: 3, 2: 3}),  # at 2.5
        (BULK, 3, [(0, 99, 0.0), (0, 99, 0.0), (5, 9, 1.0)], {0: 3, 1: 2}),  # was skipped: starts at 1
        # lanes that have had more than this one come later
        (BULK, 0, [(0, 9, 5.0), (0, 9, 2.5), (0, 1, 2.0)], {0: 0, 1: 0}),
        (WAITING, 0, [(0, 9, 9.0), (0, 1, 2.0), (0, 9, 0.5)], {0: 0, 2: 2}),
    ],
)
def test_number_of_calls_in_other_lanes_before_this_one(
    lane: Lane, ticket: int, queues: list[tuple[int, int, float]], before: dict[int, int]
) -> None:
    it = lanes(*(Queue(head, tail, start, alive=100.1) for head, tail, start in queues))
    assert it._calls_before(lane, ticket, 100.0) == before


@pytest.mark.parametrize(("alive", "there"), [(100.0, False), (100.001, True)])
def test_lane_without_live_callers_is_no_rival(alive: float, there: bool) -> None:
    it = lanes(Queue(0, 5, 0.0, alive), Queue(0, 1, 0.0, 100.1), Queue())
    assert it._calls_before(WAITING, 0, 100.0) == ({0: 1} if there else {})


def test_single_call_goes_before_the_load_that_was_there_first() -> None:
    it = Schedule()
    ask(it, 100.0)
    assert ask(it, 100.0) == (DELAY, 0.5, 1)
    assert ask(it, 100.1, lane=SINGLE) == (DELAY, 0.5, 0)
    assert ask(it, 100.5, 1) == (DELAY, 0.3, 1), "until it expires for the single call"
    assert ask(it, 100.6, 0, lane=SINGLE) == (DELAY, 0.1, 0)
    assert ask(it, 100.7, 0, lane=SINGLE) == (GO, 0.3, 0)
    assert (queue(it, SINGLE), it.virtual) == ((1, 1, 0.5, 0.0), 0.0)
    assert ask(it, 101.7, 1) == (GO, 0.3, 1)
    assert (queue(it)[2], it.virtual) == (2.0, 1.0)


def test_lane_that_misses_its_turn_is_skipped() -> None:
    it = Schedule()
    ask(it, 100.0)
    ask(it, 100.0)
    ask(it, 100.2, lane=SINGLE)
    ask(it, 100.4, lane=SINGLE)
    assert queue(it, SINGLE)[3] == 100.9, "both are killed during their nap"
    assert ask(it, 100.79, 1)[0] is DELAY
    assert ask(it, 100.8, 1) == (GO, 0.2, 1)
    assert queue(it, SINGLE)[3] == 0.0
    assert queue(it)[2:] == (2.0, 0.0)


def test_only_earlier_lanes_are_skipped() -> None:
    it = Schedule()
    it._pass_over({})
    for each in it.queues:
        each.alive = 100.0
    it._pass_over({0: 2, 1: 0})
    assert [each.alive for each in it.queues] == [0.0, 100.0, 100.0]


def test_virtual_time_does_not_go_back() -> None:
    it = Schedule(virtual=5.0)
    it._give(it.queues[0], 2.0, 0, 100.0, 101.0)
    assert (it.virtual, it.queues[0].start, it.queues[0].head) == (5.0, 0.5, 1)
    it.queues[1].head, it.queues[1].tail, it.queues[1].start, it.queues[1].alive = 4, 9, 6.0, 100.5
    it._give(it.queues[1], 1.0, 2, 100.0, 102.0)
    assert (it.virtual, it.queues[1].start, it.queues[1].head, it.queues[1].alive) == (6.0, 7.0, 4, 100.5)


# -- a pause ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("due", "seconds", "following"),
    [(0.0, 2.0, 102.25), (101.0, 0.0, 101.25), (101.0, 5.0, 105.25), (99.0, 0.0, 100.25)],
)
def test_pause_moves_the_next_slot(due: float, seconds: float, following: float) -> None:
    it = Schedule(asked=99.0, next=due)
    it.pause(100.0, seconds, 0.25, PACE)
    assert (it.next, it.asked) == (following, 100.0)


# -- healing ------------------------------------------------------------------------------------------------


def test_clock_set_back_moves_every_time() -> None:
    it = Schedule(asked=1000.0, next=1001.0, moved=999.5)
    it.queues[0].alive = 1000.25
    it._heal(400.0, PACE)
    assert (it.asked, it.next, it.moved, it.queues[0].alive) == (400.0, 401.0, 399.5, 400.25)


def test_clock_that_advances_changes_nothing() -> None:
    it = Schedule(asked=1000.0, next=1001.0, moved=999.5)
    it.queues[0].alive = 1000.25
    it._heal(1000.1, PACE)
    assert (it.asked, it.next, it.moved, it.queues[0].alive) == (1000.1, 1001.0, 999.5, 1000.25)


def test_times_are_limited_to_possible_values() -> None:
    it = Schedule(asked=100.0, next=1e9, moved=1e9)
    it.queues[1].alive = 1e9
    it._heal(100.0, PACE)
    assert it.next == pytest.approx(100.0 + LONGEST_PAUSE + 0.3 + 2.0)
    assert (it.moved, it.queues[1].alive) == (100.0, pytest.approx(100.6))


def test_longest_wait_follows_the_pace() -> None:
    it = Schedule(asked=100.0, next=1e9)
    it._heal(100.0, Pace(spacing=0.25, at_once=1))
    assert it.next == pytest.approx(100.0 + LONGEST_PAUSE + 0.3 + 0.5)


@pytest.mark.parametrize(
    ("head", "tail", "healed"),
    [
        (60_000, 70_000, 60_000),
        (3, 9, 3),
        (9, 9, 9),
        (10, 9, 9),
        (0, MOST_WAITING, 0),
        (0, MOST_WAITING + 1, MOST_WAITING + 1),
    ],
)
def test_queue_length_is_limited_to_possible_values(head: int, tail: int, healed: int) -> None:
    it = Schedule(queues=(Queue(), Queue(), Queue(head, tail)))
    it._heal(100.0, PACE)
    assert (it.queues[2].head, it.queues[2].tail) == (healed, tail)


# -- records ------------------------------------------------------------------------------------------------


def resealed(body: bytes) -> bytes:
    return body + zlib.crc32(body).to_bytes(4, "big")


def test_valid_record_of_another_version_is_reported() -> None:
    body = Schedule().to_bytes()[:-4]
    assert Schedule.from_bytes(resealed(body)) == Schedule()
    assert Schedule.from_bytes(resealed(b"crm-pac0" + body[8:])) is None
    assert Schedule.from_bytes(resealed(body + b"\0")) is None


@pytest.mark.parametrize("odd", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("name", ["asked", "next", "moved", "virtual"])
def test_invalid_time_is_reported(name: str, odd: float) -> None:
    assert Schedule.from_bytes(replace(Schedule(), **{name: odd}).to_bytes()) is None
    assert Schedule.from_bytes(Schedule(queues=(Queue(), Queue(), Queue(start=odd))).to_bytes()) is None
    assert Schedule.from_bytes(Schedule(queues=(Queue(alive=odd), Queue(), Queue())).to_bytes()) is None


def test_record_is_the_same_on_every_machine() -> None:
    assert len(Schedule().to_bytes()) == schedule.RECORD_SIZE == 140
    assert Schedule(asked=1.0).to_bytes()[:16] == b"crm-pac1\x3f\xf0\0\0\0\0\0\0"
