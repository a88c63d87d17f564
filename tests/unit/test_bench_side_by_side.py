"""The calculations of ``tests/benchmarks/bench_side_by_side.py``, which its figures depend on."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from side_by_side import tables
from side_by_side.faults import Case, Wrong, judge, lead
from side_by_side.figures import RATE, Load, bars, share_of_limit
from side_by_side.leads import Fewest, leads
from side_by_side.overhead import Cost
from side_by_side.waiting import Waited
from side_by_side.ways import WAYS, Claims

from crm_provider.sandbox.journal import JournalEntry

# -- the rows ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fewest", "calls"),
    [
        (Fewest.of(leads(2_000)), 160 + 400 + 80),  # all pages, the new rows, and those that differ
        (Fewest(rows=100, existing=0, writes=100, contacts=0), 100),  # one call each
        (Fewest(rows=100, existing=0, writes=100, contacts=9_000), 100),
        (Fewest(rows=100, existing=90, writes=100, contacts=9_000), 110),  # ten guesses are wrong
        (Fewest(rows=100, existing=90, writes=20, contacts=91), 30),
    ],
)
def test_fewest_possible_calls(fewest: Fewest, calls: int) -> None:
    assert fewest.calls == calls


# -- the CRM's journal ---------------------------------------------------------------------------------------


def entry(at: float, status: int = 200) -> JournalEntry:
    return JournalEntry(
        seq=1, at=at, time="", method="GET", route="/contacts/{email}", request_id="", status=status, error=None
    )


def calls(count: int, *, rate: float, start: float = 100.0) -> list[JournalEntry]:
    return [entry(start + n / rate) for n in range(count)]


@pytest.mark.parametrize("rate", [5.0, 4.9, 2.5])
def test_share_of_the_limit(rate: float) -> None:
    assert share_of_limit(calls(500, rate=rate)) == pytest.approx(rate / RATE)


def load(**changed: Any) -> Load:
    usual: dict[str, Any] = {
        "rows": 2_000, "calls": 650, "refused": 0, "span": 131.0, "share": 0.99, "seconds": 144.0, "cpu": 12.0,
        "peak_mb": 250.0, "base_mb": 230.0, "not_loaded": 0, "state": "success",
    }  # fmt: skip
    return Load(**{**usual, **changed})


@pytest.mark.parametrize(
    ("first", "again", "wrong", "verdicts"),
    [
        ({}, {}, 0, [True, True, True, True]),
        ({"share": 0.979}, {}, 0, [False, True, True, True]),
        ({"share": None}, {}, 0, [False, True, True, True]),
        ({"calls": 653}, {}, 0, [True, False, True, True]),
        ({}, {"calls": 201}, 0, [True, True, False, True]),
        ({}, {}, 1, [True, True, True, False]),
        ({"rows": 200, "share": 0.5, "calls": 900}, {}, 0, [None, None, True, True]),
    ],
)
def test_acceptance_bars(first: dict[str, Any], again: dict[str, Any], wrong: int, verdicts: list[bool | None]) -> None:
    found = bars(
        first=load(**first),
        again=load(**{"calls": 45, **again}),
        rival_again=load(calls=4_000),
        fewest=640,
        wrong=wrong,
    )
    assert [bar.met for bar in found] == verdicts


# -- the judge -----------------------------------------------------------------------------------------------

NEW = Case(lead=lead("new@x.org", exists=False))
KNOWN = Case(lead=lead("known@x.org", exists=True))
BAD = Case(lead=lead("bad", exists=False), can_be_loaded=False)
CASES = (NEW, KNOWN, BAD)
RIGHT = {case.lead.email: case.lead.attributes for case in (NEW, KNOWN)}
OLD = {**RIGHT, "known@x.org": {**KNOWN.lead.attributes, "name": "Old"}}
WITHOUT_NEW = {"known@x.org": RIGHT["known@x.org"]}
HONEST = Claims(green=False, created=1, failed=frozenset({"bad"}))


@pytest.mark.parametrize(
    ("crm", "claims", "wrong"),
    [
        (RIGHT, HONEST, {}),
        (RIGHT, replace(HONEST, created=0), {"miscounted": 1}),
        (RIGHT, replace(HONEST, failed=HONEST.failed | {"new@x.org"}), {"false_alarms": 1}),
        (RIGHT, replace(HONEST, green=True), {"green": True}),
        (RIGHT, replace(HONEST, failed=frozenset()), {"lost": 1}),  # the bad row, not reported
        (OLD, HONEST, {"lost": 1}),
        (WITHOUT_NEW, HONEST, {"lost": 1}),  # counted as created: the same mistake
        (WITHOUT_NEW, replace(HONEST, created=3), {"lost": 1, "miscounted": 2}),
    ],
)
def test_judge_counts_wrong_outcomes(crm: dict[str, Any], claims: Claims, wrong: dict[str, Any]) -> None:
    found = judge(CASES, crm, claims)
    assert found == Wrong(**wrong)
    assert found.outcomes == sum(wrong.values())


# -- the rivals and the tables -------------------------------------------------------------------------------


def test_tables_show_the_measurements() -> None:
    task, loop, ours = load(rows=80, calls=144, share=None), load(calls=3_600, seconds=720.0), load()
    again = [load(rows=80, calls=160), load(calls=4_000, seconds=800.0), load(calls=40, seconds=8.0)]
    text = "\n".join(tables.loads(WAYS, [task, loop, ours], again, 640))
    assert "| Calls per row | 1.80 | 1.80 | 0.33 |" in text
    assert "| Share of the limit used | - | 99.0% | 99.0% |" in text
    assert (
        "1/5.5 of the calls per row and takes 1/5.0 of the time, and a day later 1/100 of the calls and 1/100" in text
    )

    wrong = [
        Wrong(lost=1, green=True, state="success"),
        Wrong(miscounted=2, state="failed"),
        Wrong(left=1, state="failed"),
    ]
    text = "\n".join(tables.faults(WAYS, wrong, wrong))
    assert "| Wrong outcomes in total | 4 | 4 | 0 |" in text
    assert "| success | failed | failed, and reports that 1 row is left |" in text

    text = "\n".join(
        tables.overhead([Cost(way="bare", wall_ms=2, cpu_ms=1), Cost(way="ours", wall_ms=2.5, cpu_ms=1.1)])
    )
    assert "| ours | 2.50 ms | 1.10 ms | +0.10 ms |" in text
    waited = Waited(way="w", waiters=1_000, calls_per_minute=6, refused_per_minute=0, cpu_percent=0.1, noticed=500)
    assert "| 1,000 | w | 6 | 0 | 0.1 % | 50% |" in "\n".join(tables.waiting([waited]))
