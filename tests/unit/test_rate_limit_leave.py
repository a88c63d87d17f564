"""A host gives its slots back when its last load ends."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from crm_provider.rate_limit.leases import CHECK_BACK, STALE, Lease
from crm_provider.rate_limit.roster import Roster
from crm_provider.rate_limit.schedule import Lane, Pace, StoreUnusable

from .rate_limit_host import Host
from .rate_limit_hosts import EPOCH


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path / "state")


def joined(host: Host) -> Roster:
    """The plan after this host has joined, and slept until another host would read it."""
    host.ask()
    host.ask(after=CHECK_BACK + 0.1)
    return Roster.parse(host.text.content, EPOCH + host.clock())


def test_slots_are_given_back_after_the_last_load(host: Host) -> None:
    assert not joined(host).dead("other")
    before = host.lease()
    host.store.leave()
    roster = Roster.parse(host.text.content, EPOCH + host.clock())
    assert roster.dead("other") == {before.host}
    assert host.lease().offset == before.offset
    assert host.text.requests == 5, "one exchange"
    assert round(host.ask(Lane.SINGLE).spacing) == 5, "without slots of its own"
    assert not host.lease().is_member()
    host.store.leave()
    assert host.text.requests == 5, "it is no member any more"
    assert isinstance(host.ask(), Pace)
    assert host.text.requests == 7, "the next load joins at once"
    back = Roster.parse(host.text.content, EPOCH + host.clock())
    assert len(back.hosts) == 2
    assert set(back.hosts) == {before.host, host.lease().host}, "with new slots, as another host uses the old ones"


@pytest.mark.parametrize(
    ("known", "after", "requests"),
    [
        ({}, 0.0, 5),
        ({"process": 1}, 0.0, 3),  # another process asked last
        ({"process": 1}, 10.0, 5),
        ({"other": 0.0}, 0.0, 3),
        ({"other": -9.9}, 0.0, 3),
        ({"other": -10.0}, 0.0, 5),
        ({"waited": 0.0}, 0.0, 3),
        ({"waited": -10.0}, 0.0, 5),
        ({"exchanging": -1.0}, 0.0, 3),
        ({"exchanging": -15.0}, 0.0, 5),
        ({"left": -24.9}, 0.0, 3),  # it would ask Airflow too often
        ({"left": -25.0}, 0.0, 5),
        ({"text": "{}"}, 0.0, 3),
    ],
)
def test_slots_are_kept_for_other_callers(known: dict[str, Any], after: float, requests: int, host: Host) -> None:
    joined(host)
    with host.store._lease() as (lease, save):
        times = {name: host.clock() + value if isinstance(value, float) else value for name, value in known.items()}
        save(replace(lease, **times))
    host.clock.sleep(after)
    host.store.leave()
    assert host.text.requests == requests


def test_failed_leave_does_not_stop_the_next_exchange(host: Host) -> None:
    joined(host)
    host.text.down = True
    with pytest.raises(StoreUnusable):
        host.store.leave()
    assert (host.lease().exchanging, host.lease().is_member()) == (0.0, False)
    host.text.down, host.text.content = False, "{}"
    host.ask(after=STALE)
    host.ask(after=CHECK_BACK + 0.1)
    host.text.content = "{}"
    host.store.leave()
    assert host.text.content == "{}", "its entry was lost"


def test_loads_of_two_processes_are_told_apart() -> None:
    lease = Lease("a").with_load(1, 100.0)
    assert lease == Lease("a", process=1, bulk=100.0)
    assert lease.with_load(1, 100.5) == lease
    assert lease.with_load(1, 100.6) == replace(lease, bulk=100.6)
    both = lease.with_load(2, 100.3)
    assert both == replace(lease, process=2, bulk=100.3, other=100.0)
    assert both.with_load(1, 100.5) == both
    assert both.with_load(1, 100.6) == replace(both, process=1, bulk=100.6, other=100.3)
    assert both.without_load(1) == replace(both, other=-math.inf)
    assert both.without_load(2) == replace(both, process=0, bulk=100.0, other=-math.inf)
