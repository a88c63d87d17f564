"""The plan of the hosts: one owner per slot, changes wait for all, dead hosts have heirs, and any text is read."""

from __future__ import annotations

import json
import math
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crm_provider.rate_limit.roster import (
    CHANGE_DELAY,
    FORGOTTEN,
    LONGEST_ID,
    MOST_HOSTS,
    PERIOD,
    WEIGHTS,
    Host,
    Roster,
    _pattern,
    next_exchange,
)

NOW = 1.7e9
LENGTH = 0.2
LOAD = WEIGHTS[-1]


def stable_roster(read_at: float = NOW, **weights: int) -> Roster:
    """Hosts with long-standing weights that return in time."""
    return Roster({name: Host(NOW + 5, ((NOW - 100, weight),)) for name, weight in weights.items()}, read_at)


def owned(roster: Roster, name: str, count: int, at: float = NOW) -> list[int]:
    """The numbers of the next slots of a host."""
    found = []
    for _ in range(count):
        at = roster.next_slot(name, at, LENGTH)
        found.append(round(at / LENGTH))
        at += LENGTH / 2
    return found


@given(st.dictionaries(st.sampled_from("abcdefgh"), st.sampled_from(WEIGHTS), min_size=1), st.floats(0, 1000))
def test_each_slot_has_one_owner_and_each_host_its_share(weights: dict[str, int], later: float) -> None:
    roster, total = stable_roster(**weights), sum(weights.values())
    slots = {name: owned(roster, name, 3 * weight, NOW + later) for name, weight in weights.items()}
    together = [slot for of_host in slots.values() for slot in of_host]
    assert len(together) == len(set(together))
    assert max(together) - min(together) < 3 * total + total, "no slot is unused for long"
    assert [roster.share(name, NOW) for name in weights] == pytest.approx([w / total for w in weights.values()])


def test_slots_are_spread_evenly() -> None:
    slots = owned(stable_roster(a=8, b=8, c=1), "a", 8)
    assert {later - earlier for earlier, later in pairwise(slots)} <= {2, 3}


def test_single_host_has_every_slot() -> None:
    assert owned(stable_roster(a=1), "a", 3) == [round(NOW / LENGTH) + n for n in range(3)]
    assert stable_roster(a=1).active(NOW) == 1


def test_host_joins_when_all_others_have_read_it() -> None:
    before = stable_roster(a=LOAD, b=LOAD)
    after = before.exchanged("c", LOAD)
    change = NOW + 5 + CHANGE_DELAY
    assert after.hosts["c"].shares == ((NOW, 0), (change, LOAD))
    assert after.starts("c", NOW) == change
    assert after.next_slot("c", NOW, LENGTH) >= change
    assert after.starts("a", NOW) == NOW
    assert after.share("a", change - 1) == 0.5
    assert after.share("a", change) == pytest.approx(1 / 3)
    assert before.starts("c", NOW) is None
    assert before.next_slot("c", NOW, LENGTH) == NOW + PERIOD


def test_stretch_may_end_before_the_turn_of_a_host() -> None:
    hosts = {"a": Host(NOW + 5, ((NOW - 9, LOAD),)), "b": Host(NOW + 5, ((NOW - 9, LOAD), (NOW + 0.1, 0)))}
    first = min("ab", key=lambda name: Roster(hosts, NOW).next_slot(name, NOW, LENGTH))
    assert owned(Roster(hosts, NOW), "a", 3)[-1] - round(NOW / LENGTH) == (2 if first == "a" else 3)


def test_first_host_waits_for_others_that_join_at_the_same_time() -> None:
    assert Roster({}, NOW).exchanged("a", LOAD).starts("a", NOW) == NOW + CHANGE_DELAY


@pytest.mark.parametrize("weight", [1, 0])
def test_weight_changes_when_all_others_have_read_it(weight: int) -> None:
    after = stable_roster(a=LOAD, b=LOAD).exchanged("a", weight)
    assert after.hosts["a"].shares == ((NOW, LOAD), (NOW + 5 + CHANGE_DELAY, weight))
    assert after.starts("a", NOW) == (NOW if weight else None)
    again = Roster(after.hosts, NOW + 1).exchanged("a", weight)
    assert again.hosts["a"].shares == after.hosts["a"].shares


def test_slots_of_a_dead_host_belong_to_the_next_one_until_all_know() -> None:
    roster = Roster({**stable_roster(a=LOAD, c=LOAD).hosts, "b": Host(NOW - 3, ((NOW - 100, LOAD),))}, NOW)
    assert (roster.dead("a"), roster.dead("b")) == ({"b"}, set())
    assert [roster.share(name, NOW) for name in "abc"] == pytest.approx([1 / 3, 1 / 3, 2 / 3])
    after = roster.exchanged("c", LOAD)
    change = NOW + 5 + CHANGE_DELAY
    assert after.hosts["b"].shares == ((NOW, LOAD), (change, 0))
    assert after.share("a", change) == 0.5
    assert after.hosts["b"] == Roster(after.hosts, NOW + 1).exchanged("a", LOAD).hosts["b"], "it is removed once"


def test_slots_of_a_host_that_leaves_belong_to_the_next_one_to_read_it() -> None:
    """Not to ``b`` after it in the ring, which exchanges later; ``d`` is dead, and ``e`` has no slots yet."""
    load = ((NOW - 100, LOAD),)
    dues = {"a": 9.0, "b": 8.0, "c": 3.0, "d": -9.0}
    hosts = {name: Host(NOW + due, load) for name, due in dues.items()} | {"e": Host(NOW + 1.0, ((NOW + 9, LOAD),))}
    roster = Roster(hosts, NOW).left("a")
    found = Roster.parse(roster.text(), NOW + 3)
    assert found.hosts["a"] == Host(NOW - PERIOD, load, "c")
    assert [found.share(name, NOW + 3) for name in "bc"] == [0.5, 0.5], "b uses those of the dead d"
    assert found.dead("b") >= {"a", "d"}
    gone = Roster({**found.hosts, "c": Host(NOW - 1.0, load)}, NOW + 3)
    assert gone.share("b", NOW + 3) == 1.0, "the heir has died"
    assert found.exchanged("a", LOAD).hosts["a"].heir == "", "it is back"
    alone = Roster({"a": hosts["a"]}, NOW).left("a")
    assert alone.hosts["a"].heir == ""


def test_all_others_may_be_dead() -> None:
    gone = Host(NOW - 4, ((NOW - 100, LOAD),))
    roster = Roster({"a": Host(NOW + 5, ((NOW - 100, LOAD),)), "b": gone, "c": gone}, NOW)
    assert roster.share("a", NOW) == 1.0
    nobody = Roster({"b": gone, "c": gone}, NOW)
    assert (nobody.dead("a"), nobody.share("a", NOW)) == ({"b", "c"}, 0.0)


def test_host_wrongly_removed_keeps_its_slots() -> None:
    buried = Roster({"a": Host(NOW - 1, ((NOW - 2, LOAD), (NOW + 4, 0)))}, NOW)
    assert buried.exchanged("a", LOAD).hosts["a"].shares == ((NOW, LOAD), (NOW + CHANGE_DELAY, LOAD))


def test_host_absent_for_long_is_left_out() -> None:
    old = Roster({"b": Host(NOW - FORGOTTEN, ((NOW - 100, 0),))}, NOW)
    assert set(old.exchanged("a", 1).hosts) == {"a"}


def test_hosts_exchange_one_after_the_other() -> None:
    due = {name: next_exchange(NOW, name, "abcd") for name in "abcd"}
    phases = sorted(time % PERIOD for time in due.values())
    assert [later - earlier for earlier, later in pairwise(phases)] == pytest.approx([2.5] * 3)
    assert all(NOW + PERIOD / 4 <= time < NOW + PERIOD * 5 / 4 for time in due.values())


@pytest.mark.parametrize(
    ("now", "name", "others", "due"),
    [
        (0.0, "a", "ab", 10.0),
        (0.0, "b", "ab", 5.0),
        (0.0, "b", "a", 5.0),
        (2.5, "b", "ab", 5.0),
        (2.6, "b", "ab", 15.0),
    ],
)
def test_time_of_a_hosts_next_exchange(now: float, name: str, others: str, due: float) -> None:
    assert next_exchange(now, name, others) == pytest.approx(due)


@pytest.mark.parametrize(
    ("weights", "owners"),
    [
        ({}, ""),
        ({"a": 8}, "a"),
        ({"a": 8, "b": 8}, "ab"),
        ({"a": 2, "b": 1}, "aba"),
        ({"a": 4, "b": 2, "c": 1}, "abacaba"),
    ],
)
def test_owners_of_the_slots(weights: dict[str, int], owners: str) -> None:
    assert "".join(_pattern(tuple(weights.items()))) == owners


@pytest.mark.parametrize(("due", "others", "is_dead"), [(-3.0, "ab", False), (-3.1, "ab", True), (-5.9, "b", False)])
def test_host_may_be_late_by_a_part_of_the_time_to_the_next_one(due: float, others: str, is_dead: bool) -> None:
    hosts = {name: Host(NOW + (due if name == "b" else 5)) for name in others}
    assert Roster(hosts, NOW).dead("a") == ({"b"} if is_dead else set())


def test_change_holds_from_its_own_slot_on() -> None:
    joins = Roster({"a": Host(99.0, ((0.0, 0), (6.375, LOAD)))}, 0.0)
    assert (joins.next_slot("a", 0.0, 0.25), joins.next_slot("a", 6.3, 0.25)) == (6.5, 6.5)
    leaves = Roster({"a": Host(99.0, ((-9.0, LOAD), (0.25, 0)))}, 0.0)
    assert (leaves.next_slot("a", 0.0, 0.25), leaves.next_slot("a", 0.125, 0.25)) == (0.0, 0.125 + PERIOD)
    one_of_two = Roster({**leaves.hosts, "b": Host(99.0, ((-9.0, LOAD),))}, 0.0)
    assert one_of_two.next_slot("a", 0.125, 0.125) == 0.125 + PERIOD


def test_early_host_waits_for_the_others_and_not_for_itself() -> None:
    hosts = {name: Host(NOW + due, ((NOW - 100, LOAD),)) for name, due in {"a": 9, "b": 5}.items()}
    assert Roster(hosts, NOW).exchanged("a", 1).hosts["a"].shares == ((NOW, LOAD), (NOW + 5 + CHANGE_DELAY, 1))


def test_host_keeps_its_own_slots_however_late_it_is() -> None:
    late = Roster({"a": Host(NOW - 2 * FORGOTTEN, ((NOW - 100, LOAD),))}, NOW)
    assert late.exchanged("a", LOAD).hosts["a"].shares == ((NOW - 100, LOAD),)


@pytest.mark.parametrize(("late", "slot"), [(0.0, 0.0), (1e-8, 0.0), (1e-3, LENGTH), (LENGTH, LENGTH)])
def test_slot_that_has_just_begun_can_still_be_used(late: float, slot: float) -> None:
    assert stable_roster(a=1).next_slot("a", NOW + late, LENGTH) - NOW == pytest.approx(slot, abs=1e-6)


def test_text_is_sorted_and_in_milliseconds() -> None:
    roster = Roster({"b": Host(12.34567, ((1.00049, 1), (2.0, 8))), "a": Host(5.0)})
    assert roster.text() == '{"a": [5.0], "b": [12.346, [1.0, 1], [2.0, 8]]}'


def test_text_survives_a_round_trip() -> None:
    roster = stable_roster(a=LOAD, b=1).exchanged("c", 2)
    assert Roster.parse(roster.text(), NOW).text() == roster.text()
    assert Roster.parse(roster.text(), NOW).hosts["b"] == roster.hosts["b"]


SHARE = st.tuples(st.floats() | st.integers(), st.integers(-2, 9) | st.text()).map(list)
ANY = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=5), st.lists, max_leaves=8
)


@given(st.dictionaries(st.text(max_size=70), ANY | st.lists(st.floats() | SHARE, max_size=4), max_size=4) | ANY)
def test_any_json_is_a_plan(found: Any) -> None:
    roster = Roster.parse(json.dumps(found), NOW)
    assert math.isfinite(roster.next_slot("a", NOW, LENGTH))
    assert Roster.parse(roster.exchanged("a", 1).text(), NOW).starts("a", NOW) is not None


@pytest.mark.parametrize("text", [None, "", "{", "[" * 100_000, "[]", "null"])
def test_invalid_plan_is_an_empty_one(text: str | None) -> None:
    assert Roster.parse(text, NOW).hosts == {}


def test_text_with_too_many_hosts_is_truncated() -> None:
    many = {f"h{number}": [NOW, [NOW, 1]] for number in range(MOST_HOSTS + 1)}
    assert len(Roster.parse(json.dumps(many), NOW).hosts) == MOST_HOSTS


@pytest.mark.parametrize(
    "entry",
    [
        {}, [], [NOW + 3 * PERIOD], [True], ["x"], [-1e11], [NOW, [NOW]], [NOW, [NOW, 1, 1]], [NOW, 1],
        [NOW, [True, 1]], [NOW, ["x", 1]], [NOW, [1e11, 1]], [NOW, [NOW, 3]], [NOW, [NOW, 1], [NOW - 1, 2]],
        [NOW, [1, 1], [2, 1], [3, 1]],
    ],
)  # fmt: skip
def test_invalid_entry_is_left_out(entry: Any) -> None:
    assert set(Roster.parse(json.dumps({"a": entry, "b": [NOW]}), NOW).hosts) == {"b"}


def test_valid_entries() -> None:
    longest = "a" * LONGEST_ID
    text = json.dumps({longest: [NOW + 29, [-5, 0], [5, 8]], longest + "a": [NOW], "c": [7]})
    assert Roster.parse(text, NOW) == Roster({longest: Host(NOW + 29, ((-5.0, 0), (5.0, 8))), "c": Host(7.0)}, NOW)
