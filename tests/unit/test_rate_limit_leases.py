"""One of the hosts that share a rate through one text: its slots, its exchanges and what it knows."""

from __future__ import annotations

import fcntl
import json
import math
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from crm_provider.rate_limit.host_file import LOCK_RETRY
from crm_provider.rate_limit.leases import CHECK_BACK, EXCHANGE_TIME, FIRST_RESPONSE, STALE, HostPace, Lease, LeaseStore
from crm_provider.rate_limit.offset import Offset
from crm_provider.rate_limit.roster import CHANGE_DELAY, PERIOD, Roster
from crm_provider.rate_limit.roster import Host as RosterHost
from crm_provider.rate_limit.schedule import Grant, GrantStatus, Lane, Pace, StoreUnusable
from crm_provider.values.server_clock import ServerClock

from .rate_limit_host import REAL, Host, Slots
from .rate_limit_hosts import EPOCH, Text


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path / "state")


def test_load_makes_a_call_before_it_joins_if_the_crms_clock_is_unknown(tmp_path: Path) -> None:
    """Its slots begin by that clock, but without a response it joins, too."""
    host = Host(tmp_path, known=False)
    first = host.ask()
    assert (host.text.requests, round(first.spacing), first.first_slot(1.0)) == (0, 5, 1.0)
    assert host.ask(after=FIRST_RESPONSE - 0.1) == first
    assert host.text.requests == 0
    waiting = host.ask(after=0.2)
    assert (host.text.requests, type(waiting)) == (2, Pace)
    host.shows(0.0)
    assert isinstance(host.ask(after=0.1), HostPace)
    unknown = Host(tmp_path / "other", known=False)
    unknown.ask()
    unknown.ask(after=FIRST_RESPONSE + 0.1)
    assert unknown.ask(after=CHANGE_DELAY + 0.1) is REAL


def test_single_call_makes_no_request_to_airflow(host: Host) -> None:
    pace = host.ask(Lane.SINGLE)
    assert (host.text.requests, round(pace.spacing), pace.at_once) == (0, 5, 1)


def test_caller_is_forwarded_with_its_ticket_and_patience(host: Host) -> None:
    ticket: Any = object()
    assert host.store.ask(Lane.BULK, ticket, REAL, 7.0) == (Grant(GrantStatus.GRANTED, 0.0, 0), "ticket")
    assert host.slots.asked == [(Lane.BULK, ticket, 7.0)]
    assert host.store._length == pytest.approx(SHARED)


def test_host_has_a_name(tmp_path: Path) -> None:
    assert len(Host(tmp_path).lease().host) == 12
    named = LeaseStore(Slots(), "other", Text(), ServerClock(), folder=tmp_path, host="me")
    with named._lease() as (lease, _):
        assert lease == Lease("me")


def test_lease_of_another_process_is_waited_for(tmp_path: Path) -> None:
    Host(tmp_path / "state").lease()
    [path] = (tmp_path / "state").iterdir()
    held, slept = path.open("rb"), list[float]()
    fcntl.flock(held, fcntl.LOCK_EX)

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        held.close()

    store = LeaseStore(Slots(), "key.lease", Text(), ServerClock(), folder=tmp_path / "state", sleep=sleep)
    with store._lease():
        assert slept == [LOCK_RETRY]


def test_host_joins_when_a_caller_waits(host: Host) -> None:
    host.ask(Lane.SINGLE, status=GrantStatus.RETRY_AFTER)
    assert host.text.requests == 0
    host.ask(Lane.SINGLE, after=0.1)
    assert host.text.requests == 2
    assert [entry[-1][1] for entry in json.loads(host.text.content or "").values()] == [1]


def test_load_joins_at_once_reads_back_and_then_has_the_whole_rate(host: Host) -> None:
    first = host.ask()
    assert first.first_slot(host.clock()) >= host.clock() + CHANGE_DELAY - 0.3
    assert host.text.requests == 2
    assert [entry[-1][1] for entry in json.loads(host.text.content or "").values()] == [8], "with its whole weight"
    host.ask(after=CHECK_BACK + 0.1)
    assert host.text.requests == 3, "it checks that its entry is there"
    assert host.ask(after=CHANGE_DELAY) is REAL


def test_overwritten_entry_is_written_again(host: Host) -> None:
    host.ask()
    host.text.content = "{}"
    host.ask(after=CHECK_BACK + 0.1)
    assert list(json.loads(host.text.content)) == [host.lease().host]


@pytest.mark.parametrize(
    ("after", "lane", "noted"), [(0.5, Lane.BULK, 0.0), (0.6, Lane.BULK, 0.6), (0.6, Lane.SINGLE, 0.0)]
)
def test_load_is_noted_twice_a_second_at_most(after: float, lane: Lane, noted: float, host: Host) -> None:
    host.ask()
    began = host.lease().bulk
    host.ask(lane, after=after)
    assert host.lease().bulk - began == pytest.approx(noted)


def test_host_exchanges_once_per_period(host: Host) -> None:
    for _ in range(600):
        host.ask(after=0.1)
    assert host.text.requests <= 60 / PERIOD * 2 + 3


def test_caller_that_waits_behind_another_changes_nothing(host: Host) -> None:
    host.ask()
    before = host.lease()
    host.ask(status=GrantStatus.RETRY_AFTER)
    assert host.lease() == before


def test_two_processes_do_not_exchange_at_once(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    read, nested = host.text.read, []

    def read_slowly() -> str | None:
        if not nested:
            nested.append(host.ask())  # another process, meanwhile
        return read()

    monkeypatch.setattr(host.text, "read", read_slowly)
    host.ask()
    assert host.text.requests == 2


def test_interrupted_exchange_is_started_again(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(host.text, "read", lambda: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            host.ask()
    host.ask(after=EXCHANGE_TIME / 2)
    assert host.text.requests == 0
    host.ask(after=EXCHANGE_TIME)
    assert host.text.requests == 2


def test_unusable_text_is_tried_again_while_the_plan_holds(host: Host) -> None:
    host.ask()
    host.ask(after=CHECK_BACK + 0.1)
    host.text.down = True
    assert host.ask(after=PERIOD + 1) is REAL, "the plan is still valid"
    with pytest.raises(StoreUnusable):
        host.ask(after=STALE)
    host.text.down = False
    host.ask(after=PERIOD)
    host.ask(after=0.1)


def test_plan_holds_until_others_may_have_taken_over(host: Host) -> None:
    host.ask()
    host.text.down = True
    assert isinstance(host.ask(after=STALE), Pace)
    with pytest.raises(StoreUnusable):
        host.ask(after=PERIOD)


def test_missing_text_is_an_unusable_store(host: Host) -> None:
    host.text.down = True
    with pytest.raises(StoreUnusable):
        host.ask()


def test_refusal_pauses_the_host(host: Host) -> None:
    host.store.pause(3.0, 0.1, REAL)
    assert host.slots.paused == [(3.0, 0.1, REAL)]


def test_refusal_moves_the_slots_of_a_host_whose_clock_is_wrong(host: Host) -> None:
    """The CRM's clock is a day ahead of the host's, up to a second that one response leaves in doubt."""
    host.store._jitter = lambda: 0.75
    host.shows(86400.0)
    host.ask()
    assert host.lease().offset.ahead == EPOCH + 86400.5
    host.store.pause(0.0, 0.1, REAL)
    assert host.lease().offset.ahead == EPOCH + 86400.75
    host.ask(after=0.1)
    assert host.lease().offset.ahead == EPOCH + 86400.75


def test_refusal_keeps_the_slots_of_a_host_whose_clock_may_be_right(host: Host) -> None:
    host.store._jitter = lambda: 0.75
    host.ask()
    host.store.pause(0.0, 0.1, REAL)
    assert host.lease().offset.ahead == EPOCH


@pytest.mark.parametrize(
    ("weight", "calls", "needs"),
    [
        (1, 0, 0), (1, 2, 1), (1, 5, 1), (1, 6, 2), (2, 5, 1), (2, 9, 2), (2, 11, 4), (4, 9, 2), (4, 19, 8), (8, 27, 8),
        (0, 0, 1), (2, 6, 2), (1, 1, 0),
    ],
)  # fmt: skip
def test_weight_of_a_host_follows_its_use(weight: int, calls: int, needs: int) -> None:
    """Beside a load of weight 8, ten seconds after its last exchange: it had weight / (weight + 8) of 50 slots."""
    hosts = {"a": RosterHost(5.0, ((-9.0, weight),)), "load": RosterHost(5.0, ((-9.0, 8),))}
    lease = Lease(host="a", text=Roster(hosts).text(), read_at=0.0, exchanged=-10.0, calls=calls)
    assert lease.weight(0.0, 0.2) == needs
    assert replace(lease, bulk=-1.0).weight(0.0, 0.2) == 8


def test_calls_of_more_than_two_periods_count_as_those_of_two() -> None:
    """It had a third of the 100 slots in 20 seconds, and used nearly all."""
    hosts = {"a": RosterHost(5.0, ((-99.0, 4),)), "load": RosterHost(5.0, ((-99.0, 8),))}
    lease = Lease(host="a", text=Roster(hosts).text(), read_at=0.0, exchanged=-40.0, calls=31)
    assert lease.weight(0.0, 0.2) == 8
    assert replace(lease, calls=10, bulk=-PERIOD).weight(0.0, 0.2) == 2


def test_weight_of_a_host_is_measured_by_the_crms_clock() -> None:
    """The load has left by then, so all 50 slots belonged to this host."""
    hosts = {"a": RosterHost(105.0, ((-9.0, 1),)), "load": RosterHost(105.0, ((-9.0, 8), (50.0, 0)))}
    lease = Lease(host="a", text=Roster(hosts).text(), read_at=100.0, exchanged=-10.0, offset=Offset(100.0), calls=20)
    assert lease.weight(0.0, 0.2) == 1


def test_slots_of_a_host_are_those_of_the_plan() -> None:
    roster = Roster({name: RosterHost(5.0, ((-99.0, 1),)) for name in "ab"}, 0.0)
    pace = HostPace(0.4, 1, roster, "b", 0.2, ahead=100.0)
    assert pace.first_slot(0.05) == pytest.approx(0.2)
    assert pace.first_slot(0.25) == pytest.approx(0.6)
    assert pace.after(0.6) == pytest.approx(0.7)


SPAN = {"low": 10.0, "high": 11.0, "trip": 0.05}
UNKNOWN = {"low": -math.inf, "high": math.inf, "trip": math.inf}
ALONE, BOTH = ({name: RosterHost(5.0, ((-99.0, 1),)) for name in names} for names in ("a", "ab"))
LATER = {**ALONE, "a": RosterHost(5.0, ((-99.0, 0), (1000.0, 1)))}
SHARED = REAL.spacing * 0.99 / 0.98
GUEST = Pace(25 * SHARED, 1)


def member(hosts: dict[str, RosterHost] = ALONE, **known: Any) -> Lease:
    """The lease of host ``a``, which has seen the CRM's clock."""
    return changed(Lease(host="a", text=Roster(hosts).text(), read_at=0.0), **{**SPAN, **known})


def changed(lease: Lease, **known: Any) -> Lease:
    """The lease with other values for its fields, and for those of its offset."""
    own = {name: value for name, value in known.items() if name not in vars(lease.offset)}
    offset = replace(lease.offset, **{name: value for name, value in known.items() if name not in own})
    return replace(lease, offset=offset, **own)


@pytest.mark.parametrize(
    ("hosts", "lane", "pace"),
    [
        ({}, Lane.SINGLE, GUEST),
        ({}, Lane.BULK, HostPace(25 * SHARED, 1, Roster({}, 0.0), "a", SHARED, 100.0)),
        (ALONE, Lane.SINGLE, REAL),
        (ALONE, Lane.BULK, REAL),
        (BOTH, Lane.SINGLE, HostPace(2 * SHARED, 1, Roster(BOTH, 0.0), "a", SHARED, 100.0)),
        (LATER, Lane.WAITING, GUEST),
        (LATER, Lane.BULK, HostPace(25 * SHARED, 1, Roster(LATER, 0.0), "a", SHARED, 100.0)),
        ({"b": BOTH["b"]}, Lane.BULK, HostPace(25 * SHARED, 1, Roster({"b": BOTH["b"]}, 0.0), "a", SHARED, 100.0)),
    ],
    ids=["no plan", "no plan, load", "alone", "alone, load", "two", "joins", "joins, load", "others, load"],
)
def test_pace_of_a_host(hosts: dict[str, RosterHost], lane: Lane, pace: Pace, host: Host) -> None:
    found = host.store._pace(member(hosts, ahead=100.0), lane, REAL, 0.0)
    assert (type(found), found.at_once, found.spacing) == (type(pace), pace.at_once, pytest.approx(pace.spacing))
    if isinstance(found, HostPace) and isinstance(pace, HostPace):
        assert replace(found, spacing=0, length=0) == replace(pace, spacing=0, length=0)
        assert found.length == pytest.approx(pace.length)


@pytest.mark.parametrize(
    ("lane", "known", "is_due"),
    [
        (Lane.BULK, {}, True),
        (Lane.BULK, {"next": 1000.0}, True),
        (Lane.BULK, {"next": 1000.1}, False),
        (Lane.BULK, {"next": 1000.1, "exchanged": 1000.0}, False),
        (Lane.BULK, {"exchanging": 985.1}, False),  # done by another process
        (Lane.BULK, {"exchanging": 985.0}, True),  # it was interrupted
        (Lane.BULK, {"exchanging": 1014.9}, False),
        (Lane.BULK, {"next": 1001.0, "check": 1000.0}, True),
        (Lane.BULK, {"next": 1001.0, "check": 1000.1}, False),
        (Lane.SINGLE, {"exchanged": 980.0}, True),
        (Lane.SINGLE, {"exchanged": 979.9}, False),  # its slots are no longer its own, and nobody needs to wait
        (Lane.SINGLE, {"exchanged": 979.9, "waited": 999.0}, True),
        (Lane.SINGLE, {"exchanged": 979.9, "waited": 998.9}, False),
        (Lane.SINGLE, {"exchanged": 999.0, "text": "{}"}, False),
        (Lane.BULK, {"exchanged": 979.9}, True),
        (Lane.BULK, UNKNOWN, False),  # its first call shows it the CRM's clock
        (Lane.BULK, {**UNKNOWN, "calls": 1, "next": 1000.1}, False),
        (Lane.BULK, {**UNKNOWN, "calls": 1, "next": 1000.0}, True),
        (Lane.BULK, {**UNKNOWN, "exchanged": 979.9}, True),
    ],
)
def test_time_of_the_next_exchange(lane: Lane, known: dict[str, Any], is_due: bool, host: Host) -> None:
    assert host.store._is_due(member(**known), lane, 1000.0) is is_due


@pytest.mark.parametrize(
    ("lane", "status", "before", "after"),
    [
        (Lane.SINGLE, GrantStatus.GRANTED, {"calls": 3}, {"calls": 4}),
        (Lane.SINGLE, GrantStatus.RETRY_AFTER, {"waited": 999.5}, {}),
        (Lane.SINGLE, GrantStatus.RETRY_AFTER, {"waited": 999.4}, {"waited": 1000.0}),
        (Lane.BULK, GrantStatus.RETRY_AFTER, {"waited": 0.0}, {}),
        (Lane.BULK, GrantStatus.GRANTED, {"calls": 3}, {"calls": 4}),
        (Lane.BULK, GrantStatus.GRANTED, {**UNKNOWN, "calls": 0}, {"calls": 1, "next": 1000.0 + FIRST_RESPONSE}),
        (Lane.BULK, GrantStatus.GRANTED, {**UNKNOWN, "calls": 1}, {"calls": 2}),
        (Lane.BULK, GrantStatus.GRANTED, {**UNKNOWN, "exchanged": 5.0}, {"calls": 1}),
        (Lane.BULK, GrantStatus.GRANTED, {"calls": 0}, {"calls": 1}),
    ],
)
def test_lease_notes_the_use_of_a_caller(
    lane: Lane, status: GrantStatus, before: dict[str, Any], after: dict[str, Any], host: Host
) -> None:
    lease = member(**before)
    assert host.store._noted(lease, lane, Grant(status, 0.0, 0), 1000.0) == replace(lease, **after)


CLOCK = {"ahead": 10.5, **SPAN}


@pytest.mark.parametrize(
    ("span", "own", "before", "after"),
    [
        (None, 7.0, UNKNOWN, {"ahead": 7.0}),
        (None, 7.0, {"exchanged": 5.0, "ahead": 3.0}, {}),
        (None, 7.0, CLOCK, {}),  # another process of this host has seen it, and the host has not joined
        ((10.0, 11.0, 1.0), 11.5, CLOCK, {}),
        ((10.0, 11.0, 1.0), 11.5, UNKNOWN, {**CLOCK, "ahead": 10.45, "trip": 0.2}),
        ((9.5, 10.5, 1.0), 10.25, CLOCK, {"ahead": 10.25, "high": 10.5}),
        ((9.5, 11.5, 2.0), 11.25, CLOCK, {"ahead": 11.25, "high": 11.5, "step": 2.0}),
    ],
)
def test_offset_of_the_crms_clock(
    span: Any, own: float, before: dict[str, Any], after: dict[str, Any], host: Host
) -> None:
    store = host.store
    store._server_clock = SimpleNamespace(ahead=lambda: span, round_trip=0.2)  # type: ignore[assignment]
    store._wall = lambda: 1000.0 + own
    assert store._timed(member(**before), 1000.0) == changed(member(**before), **after)


@pytest.mark.parametrize(("late", "step"), [(3599.0, 2.1), (3600.0, 1.0)])
def test_host_learns_from_the_plan_that_headers_are_behind(late: float, step: float, host: Host) -> None:
    """Its own clock is right, and a second ahead of the only header that it has seen."""
    host.store._server_clock = SimpleNamespace(ahead=lambda: (10.0, 11.0, 1.0), round_trip=0.05)  # type: ignore[assignment]
    host.store._wall = lambda: 1011.5
    text = json.dumps({"date_is_behind": -late})
    found = host.store._timed(Lease("a", text=text, read_at=0.0), 1000.0).offset
    assert (found.step, found.high, found.ahead) == pytest.approx((step, 10 + step, 11.5 if step > 2 else 10.5))


def test_host_tells_the_others_that_headers_are_behind(host: Host) -> None:
    host.ask()
    assert "date_is_behind" not in json.loads(host.text.content or "")
    host.ask(after=CHECK_BACK + 0.1)
    host.shows(-2.0)
    host.ask(after=PERIOD + 2)
    found = json.loads(host.text.content or "")
    assert found["date_is_behind"] == pytest.approx(host.lease().read_at)
    assert Roster.parse(host.text.content, found["date_is_behind"]).is_behind


def test_state_of_a_host_after_it_has_joined(host: Host) -> None:
    now, at = host.clock.now, EPOCH + host.clock.now
    host.store._jitter = lambda: 0.5
    host.ask()
    name = host.lease().host
    [due, *shares] = json.loads(host.text.content or "")[name]
    assert [begin for begin, _ in shares] == [at, at + 1.5]
    assert at + 2.5 <= due <= at + 12.5
    joined = Lease(
        name, text=host.text.content or "", read_at=at, exchanged=now, next=due - EPOCH, check=now + 1.25,
        offset=Offset(EPOCH, EPOCH, EPOCH + 1, 0.0), calls=1, bulk=now,
        process=host.store._process,
    )  # fmt: skip
    assert host.lease() == replace(joined, next=pytest.approx(due - EPOCH, abs=0.001))  # type: ignore[arg-type]
    host.ask(after=1.25)
    looked = host.lease()
    assert (looked.check, looked.calls, looked.exchanged, looked.read_at) == (0.0, 1, now + 1.25, at + 1.25)
    host.text.down = True
    host.ask(after=PERIOD + 2)
    assert (host.lease().exchanging, host.lease().next) == (0.0, host.clock.now + 5.0)


def test_changed_clock_is_noticed(host: Host) -> None:
    host.ask()
    host.server.note("Mon, 30 Nov 2026 09:00:00 GMT", sent=host.clock(), received=host.clock())
    host.ask(after=0.1)
    assert host.lease().offset.ahead + host.clock() == pytest.approx(1796029200.6, abs=0.6)
    before = host.lease().offset.ahead
    host.ask(after=0.1)
    assert host.lease().offset.ahead == before


@pytest.mark.parametrize(
    "record",
    [
        b"", b"{", b"[]", b"[" * 99999, b'{"calls": 1}', b'{"host": 1}',
        b'{"host": "a", "text": 1}', b'{"host": "a", "next": "x"}', b'{"host": "a", "next": null}',
        b'{"host": "a", "next": true}', b'{"host": "a", "offset": {"low": NaN}}',
        b'{"host": "a", "offset": 1}',
    ],
)  # fmt: skip
def test_damaged_record_is_a_new_lease(record: bytes) -> None:
    assert Lease.parse(record, "b") == Lease("b")


def test_record_survives_a_round_trip() -> None:
    lease = Lease(host="a", calls=3, offset=Offset(1.0, 0.5))
    assert Lease.parse(lease.to_bytes(), "b") == lease
    other = b'{"host": "a", "calls": 3, "x": 1, "offset": {"ahead": 1.0, "low": 0.5, "x": 1}}'
    assert Lease.parse(other, "b") == lease, "another version wrote it"


@pytest.mark.parametrize("time", ["exchanged", "exchanging", "bulk", "other", "waited", "left"])
@pytest.mark.parametrize(("later", "is_new"), [(EXCHANGE_TIME, False), (EXCHANGE_TIME + 0.1, True)])
def test_lease_from_before_a_boot_is_replaced(time: str, later: float, is_new: bool, host: Host) -> None:
    """Otherwise the host would count as one with a load until its clock is past that time."""
    host.ask()
    with host.store._lease() as (lease, save):
        save(replace(lease, **{time: host.clock() + later}))
    host.ask(Lane.SINGLE)
    assert (host.lease().bulk == -math.inf) is is_new
