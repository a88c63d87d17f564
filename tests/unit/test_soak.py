"""The checks of the soak (``tests/benchmarks/bench_soak.py``): they find errors, and nothing else."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

import pytest
from soak.leaks import Sample, growths
from soak.model import Ended
from soak.processes import DEAD, Remote
from soak.weather import KINDS, Weather

from crm_provider.sandbox.faults import Fault

ADA, BOB, ROW = "ada@x.org", "bob@x.org", {"email": "ada@x.org", "name": "Ada", "city": "Recife"}


def contact(*, lists: tuple[str, ...] = (), **attributes: str) -> dict[str, Any]:
    return {"id": "1", "attributes": attributes, "lists": list(lists)}


WRITTEN = {ADA: contact(name="Ada", city="Recife")}
OTHER = {ADA: contact(name="Ada", city="Bergen")}
MORE = {ADA: contact(name="Ada", city="Recife", score="7")}


def wrong(
    kind: str, rows: list[dict[str, Any]], outcomes: list[str], before: Any, after: Any, **more: Any
) -> list[str]:
    return list(Ended(kind, rows, dict(enumerate(outcomes, 1)), before, after, **more).wrong())


@pytest.mark.parametrize(
    ("outcome", "before", "after"),
    [
        ("created", {}, WRITTEN),
        ("updated", OTHER, WRITTEN),
        ("updated", WRITTEN, WRITTEN),  # sent without a read
        ("unchanged", WRITTEN, WRITTEN),
        ("unchanged", MORE, MORE),
        ("rejected", {}, {}),
        ("rejected", {}, WRITTEN),  # the response was lost
        ("rejected", OTHER, OTHER),
    ],
)
def test_correct_outcome_of_a_contact(outcome: str, before: Any, after: Any) -> None:
    assert wrong("contacts", [ROW], [outcome], before, after) == []


@pytest.mark.parametrize(
    ("outcome", "before", "after", "said"),
    [
        ("created", OTHER, WRITTEN, "a contact that was there ended as created"),
        ("created", {}, {}, "ada@x.org is missing in the CRM"),
        ("created", {}, OTHER, "ada@x.org has other values of attributes in the CRM than its outcome says"),
        ("updated", {}, WRITTEN, "a contact that was not there ended as updated"),
        ("unchanged", OTHER, WRITTEN, "a contact with other values ended as unchanged"),
        ("updated", MORE, WRITTEN, "ada@x.org has other values of attributes in the CRM than its outcome says"),
        ("rejected", {}, OTHER, "ada@x.org is in the CRM"),
        ("skipped", {}, {}, "a contact ended as skipped"),
        ("created", {}, {**WRITTEN, BOB: contact()}, "bob@x.org is in the CRM"),
    ],
)
def test_wrong_outcome_of_a_contact(outcome: str, before: Any, after: Any, said: str) -> None:
    assert said in wrong("contacts", [ROW], [outcome], before, after)


def test_lists_are_compared_too() -> None:
    assert wrong("contacts", [ROW], ["created"], {}, WRITTEN, list_id="l") == [
        "ada@x.org has other values of lists in the CRM than its outcome says"
    ]
    listed = {ADA: contact(lists=("l",), name="Ada", city="Recife")}
    assert wrong("contacts", [ROW], ["created"], {}, listed, list_id="l") == []


@pytest.mark.parametrize(
    ("before", "after", "is_right"),
    [
        ({}, WRITTEN, True),  # created, and the list failed
        (OTHER, WRITTEN, True),
        (OTHER, {ADA: contact(lists=("l",), name="Ada", city="Recife")}, True),  # the response was lost
        (OTHER, {ADA: contact(lists=("m",), name="Ada", city="Recife")}, False),
        (MORE, OTHER, False),
    ],
)
def test_rejected_row_may_be_partly_written(before: Any, after: Any, is_right: bool) -> None:
    assert (wrong("contacts", [ROW], ["rejected"], before, after, list_id="l") == []) is is_right


def test_unchanged_contact_may_be_created_by_an_earlier_try() -> None:
    assert wrong("contacts", [ROW], ["unchanged"], {}, WRITTEN, is_clear=False) == []
    assert wrong("contacts", [ROW], ["created"], OTHER, WRITTEN, is_clear=False) != []


def test_last_of_two_rows_for_one_contact_counts() -> None:
    rows = [{**ROW, "city": "Bergen"}, ROW, {"email": "nobody"}]
    assert wrong("contacts", rows, ["skipped", "created", "rejected"], {}, WRITTEN) == []
    found = wrong("contacts", rows, ["created", "skipped", "created"], {}, OTHER)
    assert "the first of two rows for one contact ended as created" in found
    assert "a row without an address ended as created" in found


def deal(stage: str = "new", name: str = "D") -> dict[str, Any]:
    return {"id": "d", "stage": stage, "attributes": {"pb_name": name}}


DEAL_ROW = {"email": ADA, "stage": "new", "pb_name": "D"}


@pytest.mark.parametrize(
    ("kind", "outcome", "before", "after", "said"),
    [
        ("create", "created", {}, {ADA: deal()}, None),
        ("create", "rejected", {}, {ADA: deal()}, None),
        ("create", "created", {}, {}, "ada@x.org is missing in the CRM"),
        ("create", "created", {}, {ADA: deal("won")},
         "ada@x.org has other values of stage in the CRM than its outcome says"),
        ("create", "unchanged", {}, {ADA: deal()}, "the creation of a deal ended as unchanged"),
        ("move", "updated", {ADA: deal("won")}, {ADA: deal()}, None),
        ("move", "unchanged", {ADA: deal()}, {ADA: deal()}, None),
        ("move", "rejected", {ADA: deal("won")}, {ADA: deal("won")}, None),
        ("move", "unchanged", {ADA: deal("won")}, {ADA: deal()}, "a deal in another stage ended as unchanged"),
        ("move", "updated", {ADA: deal("won")}, {ADA: deal("won")},
         "ada@x.org has other values of stage in the CRM than its outcome says"),
        ("move", "created", {ADA: deal()}, {ADA: deal()}, "the move of a deal ended as created"),
        ("delete", "deleted", WRITTEN, {}, None),
        ("delete", "unchanged", {}, {}, None),
        ("delete", "rejected", WRITTEN, WRITTEN, None),
        ("delete", "deleted", WRITTEN, WRITTEN, "ada@x.org is in the CRM"),
        ("delete", "deleted", {}, {}, "a contact that was not there ended as deleted"),
        ("delete", "unchanged", WRITTEN, {}, "the deletion of a contact that was there ended as unchanged"),
        ("delete", "updated", WRITTEN, {}, "a deletion ended as updated"),
    ],
)  # fmt: skip
def test_outcomes_of_deals_and_deletions(kind: str, outcome: str, before: Any, after: Any, said: str | None) -> None:
    found = wrong(kind, [DEAL_ROW], [outcome], before, after)
    assert found == [] if said is None else said in found


def samples(held: Mapping[str, Any]) -> list[Sample]:
    """An hour of samples, one each minute. ``held`` maps a resource to a function of the minute."""
    return [Sample(60.0 * minute, {what: float(of(minute)) for what, of in held.items()}) for minute in range(60)]


@pytest.mark.parametrize(
    ("megabytes", "leaks"),
    [
        (lambda minute: 150, False),
        (lambda minute: 150 + min(minute, 15), False),  # the warm-up
        (lambda minute: 150 + minute % 7, False),
        (lambda minute: 150 + 30 * (minute == 58), False),  # one busy moment
        (lambda minute: 150 + minute / 2, True),
    ],
)
def test_leak_detection(megabytes: Any, leaks: bool) -> None:
    (growth,) = growths(samples({"megabytes": megabytes}))
    assert growth.leaks is leaks


def test_growth_is_reported_in_figures() -> None:
    (growth,) = growths(samples({"files": lambda minute: 10 + minute}))
    assert (growth.what, growth.first, growth.last, growth.most) == ("files", 34.5, 64.5, 69)
    assert growth.slope == pytest.approx(60.0)


def test_few_samples_prove_nothing() -> None:
    assert growths(samples({"files": lambda minute: minute})[:6]) == []


def test_same_seed_draws_the_same_faults_which_the_sandbox_supports() -> None:
    def drawn(seed: int, *, spare_waiting: bool = False) -> list[dict[str, Any]]:
        weather = Weather(None, 0, seed, calm=(0, 0), spare_waiting=spare_waiting)
        return [weather.fault(number) for number in range(200)]

    assert drawn(1) == drawn(1) != drawn(2)
    assert {Fault(**fault).name.rpartition("-")[0] for fault in drawn(1)} == set(KINDS)
    assert all(
        fault["method"] != "GET" for fault in drawn(1, spare_waiting=True) if fault["effect"] in ("html", "redirect")
    )


def test_killed_object_starts_anew() -> None:
    remote = Remote(Counter)  # any class that a new process can import
    try:
        remote("update", ["up", "up"])
        assert remote("get", "up") == 2
        old, pid = remote._proxy, remote.pid
        remote.kill()
        with pytest.raises(DEAD):
            old.get("up")
        assert (remote("get", "up"), remote.kills, remote.pid != pid) == (None, 1, True)
    finally:
        remote.stop()
