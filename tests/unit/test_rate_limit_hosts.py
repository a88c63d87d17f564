"""Hosts that share a rate through one text: the limit is used and kept while hosts join, grow, die or are wrong."""

from __future__ import annotations

import json

import pytest

from crm_provider.rate_limit.schedule import Lane

from .rate_limit_hosts import Hosts, Machine
from .rate_limit_scene import NEVER_MIND, jain

CHECKS = Machine(lane=Lane.WAITING, workers=1, rest=10.0)

pytestmark = pytest.mark.no_cover
"""Minutes of several hosts: the tests of one host are those that cover the code."""


@pytest.mark.parametrize(("count", "start"), [(1, 30), (2, 40), (8, 45)])
def test_the_limit_is_used_kept_and_fairly_shared(count: int, start: int) -> None:
    """With clocks up to 2 seconds apart, once the hosts have seen the CRM's clock well enough."""
    end = start + 60
    hosts = Hosts([Machine(begins=0.3 * n, skew=n % 3 - 1) for n in range(count)], until=end).run()
    assert hosts.used(start, end) >= 0.97
    assert hosts.refusals(start, end) <= 0.01
    assert jain(hosts.by_host(start, end)) >= 0.98
    assert hosts.text.requests <= count * (end / 5 + 4), "one request in 5 s for each host, and few to join"


def test_wrong_clocks_are_noticed_though_each_response_takes_a_second() -> None:
    """The clocks are up to 1.6 seconds apart, which a header that was made at any time of a round trip allows."""
    machines = [Machine(begins=0.3 * n, skew=n * 0.45 % 1.6 - 0.8, rest=1.0) for n in range(8)]
    hosts = Hosts(machines, until=105).run()
    assert hosts.used(45, 105) >= 0.97
    assert hosts.refusals(45, 105) <= 0.01
    assert jain(hosts.by_host(45, 105)) >= 0.98


@pytest.mark.parametrize("rest", [0.05, 1.0])
def test_right_clocks_are_used_though_headers_contradict_each_other(rest: float) -> None:
    """The CRM makes the header every 1.01 seconds, as uvicorn does. The last host joins when the others know it."""
    machines = [Machine(begins=0.3 * n, rest=rest) for n in range(7)]
    hosts = Hosts([*machines, Machine(begins=50, rest=rest)], until=120, cached=1.01).run()
    assert hosts.used(60, 120) >= 0.97
    assert hosts.refusals(60, 120) <= 0.01
    assert jain(hosts.by_host(70, 120)) >= 0.98


@pytest.mark.parametrize("skew", [-1.0, 1.0])
def test_joining_loads_begin_at_once_and_get_their_part_soon(skew: float) -> None:
    stay = [Machine(begins=0.3 * n, skew=n % 3 - 1) for n in range(6)]
    join = [Machine(begins=80 + n, skew=skew) for n in range(2)]
    hosts = Hosts([*stay, *join], until=150).run()
    assert min(at for at, number in hosts.sent if number == 6) < 80.2
    assert sum(hosts.by_host(80, 110)[6:]) >= 0.6 * 30 * 5 / 8 * 2, "of their fair part in the first 30 seconds"
    assert hosts.used(80, 110) >= 0.97
    assert hosts.refusals(80, 110) <= 0.04
    assert hosts.refusals(110, 150) <= 0.01
    assert jain(hosts.by_host(110, 150)) >= 0.98


def test_dead_host_is_forgotten_within_15_seconds() -> None:
    hosts = Hosts([Machine(), Machine(begins=1), Machine(begins=2, dies=61)], until=120).run()
    assert hosts.used(61 + 15, 120) >= 0.97
    assert hosts.refusals(40, 120) <= 0.01


def test_joining_and_leaving_hosts_cost_few_calls() -> None:
    ends = [NEVER_MIND, NEVER_MIND, NEVER_MIND, 90, 150, 200]
    hosts = Hosts([Machine(begins=n * 11, dies=dies) for n, dies in enumerate(ends)], until=260).run()
    assert hosts.used(20, 260) >= 0.95
    assert hosts.refusals(20, 260) <= 0.01


def test_unused_rate_is_left_to_the_other_hosts() -> None:
    """A host that checks every 2 seconds takes a small part. One that checks every 10 seconds takes none."""
    machines = [Machine(), Machine(begins=1), Machine(lane=Lane.WAITING, workers=1, rest=2.0), CHECKS]
    hosts = Hosts(machines, until=160).run()
    assert hosts.used(60, 160) >= 0.93
    assert hosts.by_host(60, 160)[2] >= 20
    assert hosts.by_host(60, 160)[3] >= 9
    assert len([1 for entry in json.loads(hosts.text.content or "").values() if entry[-1][1]]) == 3


def test_clock_of_the_host_is_used_without_the_crms_clock() -> None:
    hosts = Hosts([Machine(), Machine(begins=1, skew=0.05)], until=80, dated=False).run()
    assert hosts.used(30, 80) >= 0.97
    assert hosts.refusals(30, 80) <= 0.01
