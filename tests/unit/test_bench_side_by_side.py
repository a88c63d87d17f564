"""The calculations of ``tests/benchmarks/bench_side_by_side.py``, so that its figures can be believed."""

from __future__ import annotations

import ast
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from side_by_side import tables
from side_by_side.faults import ONE_FAULT, Case, Wrong, held, judge, lead, proxy_script, script
from side_by_side.figures import RATE, Load, bars, seen, share_of_limit
from side_by_side.leads import COLUMNS, Fewest, fill, leads, not_loaded, write_file
from side_by_side.overhead import Cost
from side_by_side.waiting import Waited
from side_by_side.ways import RIVALS, WAYS, Ran, Said, said_by_load, said_by_loop, said_by_tasks

from crm_provider.sandbox import Sandbox
from crm_provider.sandbox.faults import Fault
from crm_provider.sandbox.journal import JournalEntry

# -- the rows ------------------------------------------------------------------------------------------------


def test_the_rows_are_as_the_task_says() -> None:
    rows, later = leads(2_000), leads(2_000, later=True)
    existing = [row for row in rows if row.before is not None]
    assert len({row.email for row in rows}) == 2_000
    assert (len(existing), sum(row.before != row.name for row in existing)) == (1_600, 80)
    assert all(row.before is not None for row in later)
    assert sum(row.before != row.name for row in later) == 40
    assert [row.before for row in later] == [row.name for row in rows]  # what was loaded the day before


@pytest.mark.parametrize(
    ("fewest", "calls"),
    [
        (Fewest.of(leads(2_000)), 160 + 400 + 80),  # all pages, the new ones and those that differ
        (Fewest(rows=100, existing=0, writes=100, contacts=0), 100),  # a call each
        (Fewest(rows=100, existing=0, writes=100, contacts=9_000), 100),
        (Fewest(rows=100, existing=90, writes=100, contacts=9_000), 110),  # ten guesses are wrong
        (Fewest(rows=100, existing=90, writes=20, contacts=91), 30),
    ],
)
def test_the_fewest_calls(fewest: Fewest, calls: int) -> None:
    assert fewest.calls == calls


def test_what_is_loaded_is_what_the_crm_holds_value_by_value(tmp_path: Path) -> None:
    rows, crm = leads(40), Sandbox(seed="empty")
    fill(crm, rows)
    assert not_loaded(crm, rows) == 8 + 2  # new, and different
    for row in rows:
        if row.email in crm.store.contacts:
            crm.store.update_contact(row.email, row.attributes)
    assert not_loaded(crm, rows) == 8
    assert held(crm)[rows[1].email] == rows[1].attributes
    head, first, *_ = write_file(tmp_path / "leads.csv", rows).read_text("utf-8").splitlines()
    assert tuple(head.split(",")) == COLUMNS
    assert first == ",".join([rows[0].email, *rows[0].attributes.values()])


# -- what the CRM saw ----------------------------------------------------------------------------------------


def entry(at: float, status: int = 200) -> JournalEntry:
    return JournalEntry(
        seq=1, at=at, time="", method="GET", route="/contacts/{email}", request_id="", status=status, error=None
    )


def calls(count: int, *, rate: float, start: float = 100.0) -> list[JournalEntry]:
    return [entry(start + n / rate) for n in range(count)]


@pytest.mark.parametrize("rate", [5.0, 4.9, 2.5])
def test_share_of_the_limit(rate: float) -> None:
    assert share_of_limit(calls(500, rate=rate)) == pytest.approx(rate / RATE)


def test_the_burst_of_the_beginning_is_no_merit() -> None:
    burst = [entry(100.0)] * 50
    assert share_of_limit([*burst, *calls(100, rate=2.5)]) == pytest.approx(0.5)


def test_refused_calls_use_nothing() -> None:
    refused = [replace(one, at=one.at + 0.1, status=429) for one in calls(200, rate=2.5)]
    journal = sorted([*calls(200, rate=2.5), *refused], key=lambda one: one.at)
    assert share_of_limit(journal) == pytest.approx(0.5)
    assert seen(journal) == {
        "calls": 400,
        "refused": 200,
        "span": pytest.approx(199 / 2.5 + 0.1),
        "share": pytest.approx(0.5),
    }


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
def test_bars(first: dict[str, Any], again: dict[str, Any], wrong: int, verdicts: list[bool | None]) -> None:
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
HONEST = Said(green=False, created=1, failed=frozenset({"bad"}))


@pytest.mark.parametrize(
    ("crm", "said", "wrong"),
    [
        (RIGHT, HONEST, {}),
        (RIGHT, replace(HONEST, created=0), {"miscounted": 1}),
        (RIGHT, replace(HONEST, failed=HONEST.failed | {"new@x.org"}), {"false_alarms": 1}),
        (RIGHT, replace(HONEST, green=True), {"green": True}),
        (RIGHT, replace(HONEST, failed=frozenset()), {"lost": 1}),  # the bad row, unsaid
        (OLD, HONEST, {"lost": 1}),
        (WITHOUT_NEW, HONEST, {"lost": 1}),  # counted as created: that is the same mistake
        (WITHOUT_NEW, replace(HONEST, created=3), {"lost": 1, "miscounted": 2}),
    ],
)
def test_wrong_outcomes(crm: dict[str, Any], said: Said, wrong: dict[str, Any]) -> None:
    found = judge(CASES, crm, said)
    assert found == Wrong(**wrong)
    assert found.outcomes == sum(wrong.values())


@pytest.mark.parametrize(
    ("crm", "said", "expected"),
    [
        (WITHOUT_NEW, Said(green=False, created=0, failed=frozenset({"bad", "new@x.org"})), Wrong(given_up=1)),
        (WITHOUT_NEW, Said(green=False, created=0, failed=frozenset({"bad"}), left=1), Wrong(left=1)),
    ],
)
def test_what_is_said_is_not_wrong(crm: dict[str, Any], said: Said, expected: Wrong) -> None:
    found = judge(CASES, crm, said)
    assert found == expected
    assert found.outcomes == 0


@pytest.mark.parametrize("cases", [script(), proxy_script()])
def test_the_scripts_make_sense(cases: list[Case]) -> None:
    emails = [case.lead.email for case in cases]
    assert len(set(emails)) == len(emails)
    for case in cases:
        for rule in case.faults:
            Fault(**{**rule, "email": case.lead.email})  # the sandbox takes it
    assert sum(not case.faults and case.can_be_loaded for case in cases) > len(cases) / 2  # most rows are well


def test_each_fault_meets_a_new_and_a_known_contact() -> None:
    met = {(case.what, rule["method"]) for case in script() for rule in case.faults if case.can_be_loaded}
    assert met == {(what, method) for what in ONE_FAULT for method in ("POST", "PUT")}


# -- what each way says --------------------------------------------------------------------------------------


def ran(
    tmp_path: Path, state: str = "success", *, tasks: dict[tuple[str, int], str] | None = None, **xcoms: Any
) -> Ran:
    found = {("load", -1, key): value for key, value in xcoms.items()}
    return Ran(started=0.0, ended=2.0, cpu=1.0, state=state, tasks=dict(tasks or {}), xcoms=found,
               rejects=tmp_path / "rejects")  # fmt: skip


def test_what_mapped_tasks_say(tmp_path: Path) -> None:
    def known(email: str, *, existed: bool) -> dict[str, Any]:
        return {"email": email, "attributes": {}, "existed": existed}

    one = replace(
        ran(tmp_path, "failed", tasks={("create", 1): "failed", ("update", 0): "failed", ("update", 1): "success"}),
        xcoms={
            ("bodies", -1, "return_value"): [json.dumps({"email": email}) for email in "abcd"],
            ("create", 0, "return_value"): known("a", existed=True),
            ("create", 2, "return_value"): known("c", existed=False),
            ("create", 3, "return_value"): known("d", existed=True),
        },
    )
    assert said_by_tasks(one) == Said(green=False, created=1, failed=frozenset({"b", "a"}))


def test_what_the_loop_says(tmp_path: Path) -> None:
    one = ran(tmp_path, "failed", counts={"created": 3, "updated": 1})
    assert said_by_loop(one) == Said(green=False, created=3)
    one.rejects.write_text("email,error\na@x,404\n", encoding="utf-8")
    assert said_by_loop(one).failed == {"a@x"}
    assert said_by_loop(ran(tmp_path / "other")) == Said(green=True, created=0)


def test_what_the_load_says(tmp_path: Path) -> None:
    one = ran(tmp_path, return_value={"created": 2, "left": 1})
    assert said_by_load(one) == Said(green=True, created=2, left=1)
    one.rejects.write_text(json.dumps({"row": 1, "values": {"email": "a@x"}}) + "\n", encoding="utf-8")
    assert said_by_load(one).failed == {"a@x"}
    assert said_by_load(ran(tmp_path / "other", "failed")) == Said(green=False, created=0)


# -- the rivals and the tables -------------------------------------------------------------------------------


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.file)
def test_a_way_is_a_dag_named_after_its_file(way: Any) -> None:
    code = (RIVALS / way.file).read_text("utf-8")
    (dag_id,) = [
        node.args[0].value
        for node in ast.walk(ast.parse(code))
        if isinstance(node, ast.Call)
        and getattr(node.func, "id", "") == "DAG"
        and isinstance(node.args[0], ast.Constant)
    ]
    assert dag_id == Path(way.file).stem
    assert way.lines == len([line for line in code.split("\n") if line.strip()])


def test_the_tables_show_what_was_measured() -> None:
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
