"""What the page shows of a load: from rows of Airflow's database, whatever is in them."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crm_provider.load.progress import Position, left_of, noted
from crm_provider.load.report import Summary
from crm_provider.load.rows import Outcome
from crm_provider.load.state.checkpoint import Checkpoint
from crm_provider.ui.reading import (
    BAR_WIDTH,
    LEAST_WIDTH,
    OUTCOMES,
    Found,
    by_connection,
    parts_of,
    reasons_of,
    view_of,
)

NOW = datetime(2026, 5, 4, 12, 0, tzinfo=timezone.utc)
SUMMARY = Summary(
    rows=1000,
    counts={Outcome.CREATED: 200, Outcome.UPDATED: 780, Outcome.REJECTED: 19},
    left=1,
    errors={"INVALID_INPUT": 4, "INVALID_VALUE": 15, "SOMETHING_NEW": 4},
    problems={"phone: no phone number": 15},
    calls=1210,
    calls_saved=580,
    seconds=245.1,
    budget_used=0.987,
    plan="learned",
    paths={"rejects": "/data/rejects.jsonl", "report": None},
)
FOUND = Found(
    dag_id="leads", task_id="load", run_id="manual__2026-05-04T11:00:00+00:00", map_index=-1,
    operator="CrmLoadContactsOperator", state="success", start=NOW - timedelta(minutes=10),
    end=NOW - timedelta(minutes=5), conn_id="crm_default", result=SUMMARY.as_dict(),
)  # fmt: skip


def view(**changes: Any) -> Any:
    return view_of(replace(FOUND, **changes), base="/airflow", now=NOW)


def test_a_load_that_is_done() -> None:
    load = view()
    assert (load.conn_id, load.name, load.state, load.rows) == ("crm_default", "leads / load", "success", 1000)
    assert load.href == "/airflow/dags/leads/runs/manual__2026-05-04T11%3A00%3A00%2B00%3A00/tasks/load"
    assert load.when == "took 5 min"
    assert load.bar_text == "200 created, 780 updated, 19 rejected, 1 left"
    assert load.facts == [
        ("Calls", "1,210"), ("Calls saved", "580"), ("Rate used", "99%"), ("Time", "4 min"), ("Plan", "learned"),
    ]  # fmt: skip
    assert load.problems == [("phone: no phone number", 15)]
    assert load.paths == [("Rejected rows", "/data/rejects.jsonl")]
    assert load.note == ""


@pytest.mark.parametrize("odd", [float("nan"), float("inf"), True, "5", None])
def test_figures_that_are_none(odd: Any) -> None:
    result = {**SUMMARY.as_dict(), "seconds": odd, "budget_used": odd, "calls": odd}
    assert [label for label, _ in view(result=result).facts] == ["Calls saved", "Plan"]


def test_reasons_come_with_the_catalogues_advice() -> None:
    reasons = view().reasons
    assert [(reason.type, reason.rows) for reason in reasons] == [
        ("INVALID_VALUE", 15), ("INVALID_INPUT", 4), ("SOMETHING_NEW", 4),
    ]  # fmt: skip
    assert reasons[0].advice == "correct the value"
    assert reasons[2].advice == ""


def test_a_mapped_task() -> None:
    load = view(map_index=3, task_id="a/b")
    assert load.name == "leads / a/b [3]"
    assert load.href.endswith("/tasks/a%2Fb/mapped/3")


@pytest.mark.parametrize(
    ("changes", "note", "when"),
    [
        ({"state": "running", "end": None}, "when it ends", "running for 10 min"),
        ({"state": "queued", "end": None}, "when it ends", "started 10 min ago"),
        ({"state": "failed"}, "before its first row", "took 5 min"),
        ({"state": "success", "result": "s3://bucket/xcom/1"}, "custom XCom backend", "took 5 min"),
        ({"state": "success", "result": {"rows": "many"}}, "custom XCom backend", "took 5 min"),
    ],
)
def test_no_counts(changes: dict[str, Any], note: str, when: str) -> None:
    load = view(**{"result": None, **changes})
    assert note in load.note
    assert load.when == when
    assert not load.parts


def test_between_two_tries() -> None:
    load = view(state="up_for_retry")
    assert "next try goes on" in load.note
    assert load.bar_text.endswith("1 left")


def checkpoint(**changes: Any) -> dict[str, Any]:
    position = Position(done=300, rows=1000, counts={}, calls=300, calls_left=700.4)
    standard: dict[str, Any] = {
        "epoch": 0, "fingerprint": "x", "done_upto": 300, "counts": {"created": 290, "rejected": 10, "refused": 10},
        "errors": {"INVALID_INPUT": 10}, "calls": 300, "seconds": 60.0, "notes": noted(position),
    }  # fmt: skip
    return Checkpoint(**{**standard, **changes}).as_data()


def test_how_long_it_still_takes() -> None:
    load = view(state="running", end=None, result=None, checkpoint=checkpoint())
    assert load.note == "300 of 1,000 rows done; about 2 min left at the pace so far."
    assert load.bar_text == "290 created, 10 rejected, 700 left"
    assert [reason.type for reason in load.reasons] == ["INVALID_INPUT"]


@pytest.mark.parametrize(
    ("data", "note"),
    [
        (checkpoint(notes={}), "300 rows done."),
        (checkpoint(calls=0), "300 rows done."),
        (checkpoint(done_upto=0), "no row yet"),
        ({**checkpoint(), "version": 99}, "no row yet"),
        (checkpoint(epoch=1), "no row yet"),  # of a run before the task was cleared
        ({"version": 1}, "when it ends"),
        ("nonsense", "when it ends"),
        (None, "when it ends"),
    ],
)
def test_a_checkpoint_that_says_less(data: Any, note: str) -> None:
    load = view(state="running", end=None, result=None, checkpoint=data)
    assert note in load.note
    assert "left at the pace" not in load.note


def test_the_pace_is_that_of_all_tries() -> None:
    assert left_of(Checkpoint.from_data(checkpoint())) == (1000, 140.0)


def test_the_newest_load_is_first_and_names_its_connection() -> None:
    newest = replace(FOUND, dag_id="new", result={**SUMMARY.as_dict(), "crm_conn_id": "crm_other"})
    unknown = replace(FOUND, dag_id="old", conn_id=None)
    dry = replace(FOUND, result=replace(SUMMARY, dry_run=True).as_dict())
    found = by_connection([newest, FOUND, dry, unknown], base="", now=NOW)
    assert [(group.conn_id, len(group.loads)) for group in found] == [("crm_other", 1), ("crm_default", 2), (None, 1)]
    assert found[0].total == "1 load · 200 created · 780 updated · 19 rejected"
    assert found[1].total.startswith("2 loads · 200 created"), "a dry run has created nothing"


@given(st.dictionaries(st.sampled_from(OUTCOMES), st.integers(min_value=0, max_value=10**7)))
def test_the_bar_is_full_and_no_part_is_hidden(counts: dict[str, int]) -> None:
    parts = parts_of(counts)
    assert {part.name: part.rows for part in parts} == {name: rows for name, rows in counts.items() if rows}
    if parts:
        assert sum(part.width for part in parts) == pytest.approx(BAR_WIDTH, abs=0.1)
        assert min(part.width for part in parts) >= LEAST_WIDTH * 0.95
        assert [part.x for part in parts] == sorted(part.x for part in parts)


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@given(st.fixed_dictionaries({}, optional=dict.fromkeys(SUMMARY.as_dict(), ANYTHING)), st.booleans())
def test_whatever_is_in_the_xcom(changes: dict[str, Any], whole: bool) -> None:
    result = {**SUMMARY.as_dict(), **changes} if whole else changes
    load = view(result=result)
    assert load.name == "leads / load"
    assert reasons_of(result.get("errors")) is not None
