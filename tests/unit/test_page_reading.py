"""What the page shows of a load: from rows of Airflow's database, whatever is in them."""

from __future__ import annotations

import json
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
from crm_provider.ui.reading import BAR_WIDTH, LEAST_WIDTH, SHOWN_KINDS, Found, by_connection, parts_of, view_of
from crm_provider.ui.results import LARGEST, OUTCOMES

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
    end=NOW - timedelta(minutes=5), rendered='{"crm_conn_id": "crm_default"}', result=json.dumps(SUMMARY.as_dict()),
)  # fmt: skip


def view(**changes: Any) -> Any:
    """The view of ``FOUND`` with changes; values other than texts become JSON texts."""
    stored = {name: changes[name] for name in ("result", "checkpoint", "rendered") if name in changes}
    texts = {
        name: value if value is None or isinstance(value, str) else json.dumps(value) for name, value in stored.items()
    }
    return view_of(replace(FOUND, **{**changes, **texts}), base="/airflow", now=NOW)


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
        ({"state": "success", "result": '"s3://bucket/xcom/1"'}, "custom XCom backend", "took 5 min"),
        ({"state": "failed", "result": "null"}, "before its first row", "took 5 min"),
        ({"state": "success", "result": [1]}, "custom XCom backend", "took 5 min"),
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
        ({"version": 1}, "cannot be read"),
        ("nonsense", "cannot be read"),
        ('"nonsense"', "cannot be read"),
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
    newest = replace(FOUND, dag_id="new", result=json.dumps({**SUMMARY.as_dict(), "crm_conn_id": "crm_other"}))
    unknown = replace(FOUND, dag_id="old", rendered=None)
    dry = replace(FOUND, result=json.dumps(replace(SUMMARY, dry_run=True).as_dict()))
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


# -- attacks: any task may leave anything under these names ---------------------------------------------------


def result(**changes: Any) -> dict[str, Any]:
    return {**SUMMARY.as_dict(), **changes}


MANY = {f"TYPE_{number}": 1 for number in range(300_000)}
ATTACKS: dict[str, Any] = {
    "huge seconds": result(seconds=10**400),
    "seconds beyond float": json.dumps(result()).replace("245.1", "1e999"),
    "seconds not a number": json.dumps(result()).replace("245.1", "NaN"),
    "negative seconds": result(seconds=-1),
    "seconds as text": result(seconds="5"),
    "seconds as bool": result(seconds=True),
    "a share beyond all": result(budget_used=10**400),
    "a count of many digits": json.dumps(result()).replace("1210", "9" * 4300),
    "a count of too many digits": json.dumps(result()).replace("1210", "9" * 5000),
    "a count that others cannot keep": result(created=2**53),
    "a negative count": result(rejected=-1),
    "a count as bool": result(rows=True),
    "no rows": {"rejected": 1},
    "rows as text": {"rows": "many"},
    "half a character in a type": result(errors={"\ud800": 1}),
    "half a character in a problem": result(problems={"\udfff": 1}),
    "half a character in a path": result(rejects_path="/data/\ud800"),
    "half a character in the plan": result(plan={"name": "\ud800"}),
    "half a character in the connection": result(crm_conn_id="\ud800"),
    "a connection that is an object": result(crm_conn_id={"a": 1}),
    "a connection that is long": result(crm_conn_id="c" * 251),
    "many types": result(errors=MANY),
    "a type that is long": result(errors={"T" * 251: 1}),
    "types that are a list": result(errors=["INVALID_INPUT"]),
    "a count of a type that is a text": result(errors={"INVALID_INPUT": "4"}),
    "a path of 10 MB": result(rejects_path="/" * 10_000_000),
    "a path that is long": result(report_path="/" * 4097),
    "a path that is an object": result(state_path={"__classname__": "os.system"}),
    "a plan that is a text": result(plan="learned"),
    "a dry run that is a text": result(dry_run="yes"),
    "an object to build": {"__classname__": "airflow.sdk.definitions.asset.Asset", "__version__": 1, "__data__": {}},
    "deep nesting": "[" * 100_000,
    "no JSON": "{",
}  # fmt: skip


@pytest.mark.parametrize("attack", ATTACKS.values(), ids=ATTACKS.keys())
def test_a_result_that_no_load_writes_is_not_read(attack: Any) -> None:
    load = view(result=attack)
    assert load.note.startswith("Its result cannot be read")
    assert (load.name, load.conn_id, load.parts, load.reasons) == ("leads / load", "crm_default", (), ())


@pytest.mark.parametrize(
    "text", ["{", "[]", "7", '{"crm_conn_id": {}}', '{"crm_conn_id": "\\ud800"}', " " * (LARGEST + 1)]
)
def test_rendered_fields_that_name_no_connection(text: str) -> None:
    (group,) = by_connection([replace(FOUND, rendered=text)], base="", now=NOW)
    assert group.conn_id is None


@pytest.mark.parametrize(
    "changes",
    [
        {"seconds": 10**400}, {"calls": 10**400}, {"done_upto": 2**53}, {"errors": {"\ud800": 1}},
        {"errors": MANY}, {"notes": {"rows": 10**400, "calls_left": 1}}, {"notes": {"rows": 9, "calls_left": -1}},
        {"notes": {"rows": True, "calls_left": 1}}, {"counts": {"<b>": 1}}, {"version": "1"},
    ],
)  # fmt: skip
def test_a_checkpoint_that_no_load_writes_is_not_read(changes: dict[str, Any]) -> None:
    load = view(state="running", end=None, result=None, checkpoint={**checkpoint(), **changes})
    assert load.note.startswith("Its checkpoint cannot be read")
    assert load.parts == ()


def test_what_is_shown_of_one_load_is_bounded() -> None:
    errors = {f"TYPE_{number:03}": 1000 - number for number in range(SHOWN_KINDS + 5)}
    problems = {f"{number:03} {'x' * 1000}": 1 for number in range(SHOWN_KINDS + 2)}
    load = view(result=result(errors=errors, problems=problems))
    assert [reason.type for reason in load.reasons[:2]] == ["TYPE_000", "TYPE_001"]
    assert (len(load.reasons), load.reasons[-1].type, load.reasons[-1].rows) == (21, "5 more types", 4890)
    assert (len(load.problems), load.problems[-1]) == (21, ("2 more kinds", 2))
    assert {len(text) for text, _ in load.problems[:-1]} == {301}


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(), max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@given(st.fixed_dictionaries({}, optional=dict.fromkeys(SUMMARY.as_dict(), ANYTHING)), st.booleans())
def test_any_result_gives_a_view(changes: dict[str, Any], whole: bool) -> None:
    load = view(result=result(**changes) if whole else changes)
    assert load.name == "leads / load"
    assert repr(load).encode()
