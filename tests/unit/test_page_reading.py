"""The data of the sync page, read from rows of Airflow's database with any content."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import crm_provider.ui as app
from crm_provider.load.progress import Position, left_of, noted
from crm_provider.load.report import Summary
from crm_provider.load.rows import Outcome
from crm_provider.load.state.checkpoint import Checkpoint
from crm_provider.ui.charts import BAR_WIDTH, HEIGHT, LEAST_WIDTH, TrendPoint, segments_of, trend_of
from crm_provider.ui.endings import NOTHING_LEFT, Tone, ending_of
from crm_provider.ui.filters import Filters, Paging
from crm_provider.ui.results import LARGEST, MOST_FACTS, OUTCOMES
from crm_provider.ui.runs import SHOWN_KINDS, RunPage, folded, line_of, page_of
from crm_provider.ui.stored import Run, StoredTask, read
from crm_provider.ui.syncs import chosen, count_by_state, next_run, sync_line

pytestmark = pytest.mark.no_cover  # the page is not part of the core

NOW = datetime(2026, 5, 4, 12, 0, tzinfo=timezone.utc)
SUMMARY = Summary(
    rows=1000,
    counts={Outcome.CREATED: 200, Outcome.UPDATED: 780, Outcome.REJECTED: 20},
    errors={"INVALID_INPUT": 4, "INVALID_VALUE": 15, "SOMETHING_NEW": 1},
    problems={"phone: no phone number": 15},
    calls=1210,
    calls_saved=580,
    seconds=245.1,
    retryable=4,
    budget_used=0.987,
    plan="learned",
    plan_why="of 10 sampled rows, 8 exist",
    plan_calls=1230,
    plan_seconds=5000.0,
    paths={"rejects": "/data/rejects.jsonl", "report": None},
    samples=[
        {"row": 7, "place": "in.csv, line 8 (row 7)", "type": "INVALID_VALUE", "message": "phone: no phone number"}
    ],
    ending="Done. They are in the file.",
    resend="with DAG(...)",
)
POLICY = {"operator": "CrmLoadContactsOperator", "on_error": {"INVALID_INPUT": "skip"}, "site": {"FORBIDDEN": "retry"}}
FOUND = StoredTask(
    dag_id="leads", task_id="load", run_id="manual__2026-05-04T11:00:00+00:00", map_index=-1,
    operator="CrmLoadContactsOperator", state="success", start=NOW - timedelta(minutes=10),
    end=NOW - timedelta(minutes=5), rendered='{"crm_conn_id": "crm_default"}',
    result=json.dumps({**SUMMARY.as_dict(), "error_policy": POLICY}),
)  # fmt: skip
ERROR = {"type": "UNAUTHORIZED", "message": "Key refused.", "suggested_action": "set a valid key", "origin": "default"}


def run(*, brief: bool = False, **changes: Any) -> Run:
    """The run ``FOUND`` with changes. Values other than text become JSON text."""
    stored = {name: changes[name] for name in ("result", "failure", "checkpoint", "rendered") if name in changes}
    texts = {
        name: value if value is None or isinstance(value, str) else json.dumps(value) for name, value in stored.items()
    }
    return read(replace(FOUND, **{**changes, **texts}), brief=brief)


def page(**changes: Any) -> RunPage:
    return page_of(run(**changes), root="/airflow/crm", base="/airflow", now=NOW, link=lambda path: f"https://f{path}")


def result(**changes: Any) -> dict[str, Any]:
    return {**SUMMARY.as_dict(), "error_policy": POLICY, **changes}


def checkpoint(**changes: Any) -> dict[str, Any]:
    position = Position(done=300, rows=1000, counts={}, calls=300, calls_left=700.4)
    standard: dict[str, Any] = {
        "epoch": 0, "fingerprint": "x", "done_upto": 300, "counts": {"created": 290, "rejected": 10, "refused": 10},
        "errors": {"INVALID_INPUT": 10}, "calls": 300, "seconds": 60.0, "notes": noted(position),
    }  # fmt: skip
    return Checkpoint(**{**standard, **changes}).as_data()


# -- end of a run ---------------------------------------------------------------------------------------------

RUNNING: dict[str, Any] = {"state": "running", "end": None, "result": None}
FAILED: dict[str, Any] = {"state": "failed", "result": None}
CHECKED = "A dry run: every row was checked, nothing was written."
"""The page says so already."""


@pytest.mark.parametrize(
    ("changes", "tone", "label", "reason"),
    [
        ({}, "rejects", "success with rejects", "20 rows were rejected. They are in the file."),
        ({"result": {"rows": 1, "rejected": 1}}, "rejects", "success with rejects", "1 row was rejected."),
        ({"result": result(rejected=0, ending="Done.")}, "success", "success", ""),
        ({"result": result(dry_run=True, ending=CHECKED)}, "success", "dry run", ""),
        ({"result": result(dry_run=True, ending=f"{CHECKED} 2 rows.")}, "success", "dry run", "2 rows."),
        (
            {"result": result(dry_run=True, would_fail=True, ending=f"{CHECKED} A real run would fail.")},
            "rejects", "dry run: would fail", "A real run would fail.",
        ),
        ({"result": None}, "success", "success", ""),
        ({"result": '"s3://bucket/xcom/1"'}, "success", "success", "custom XCom backend"),
        ({"result": [1]}, "success", "success", "custom XCom backend"),
        ({"state": "skipped", "result": None}, "skipped", "skipped", ""),
        (
            {**FAILED, "state": "skipped", "failure": {"error": "AirflowSkipException", "message": "No rejects file."}},
            "skipped", "skipped", "No rejects file.",
        ),
        ({"state": "failed"}, "failed", "too many rejects", "Done. They are"),
        ({"state": "failed", "result": result(left=3, ending="Stopped: x.")}, "failed", "stopped", "Stopped: x."),
        ({**FAILED, "failure": ERROR}, "failed", "failed", "Key refused."),
        ({**FAILED, "failure": {"error": "SourceError", "message": "no file"}}, "failed", "failed", "no file"),
        ({**FAILED, "failure": "[]"}, "failed", "failed", "Its error cannot be read"),
        ({**FAILED, "result": "null"}, "failed", "failed", NOTHING_LEFT),
        ({**FAILED, "checkpoint": checkpoint()}, "failed", "failed", "ended from outside after 300 of 1,000 rows"),
        ({**FAILED, "checkpoint": checkpoint(notes={})}, "failed", "failed", "from outside after 300 rows"),
        ({"state": "upstream_failed", "result": None}, "failed", "upstream failed", NOTHING_LEFT),
        ({**RUNNING, "state": None}, "running", "queued", ""),
        ({**RUNNING, "state": "deferred"}, "running", "deferred", ""),
        (RUNNING, "running", "running", "No row is done yet."),
        (
            {**RUNNING, "checkpoint": checkpoint()}, "running", "running",
            "300 of 1,000 rows done; about 2 min left at the pace so far.",
        ),
        (
            {**RUNNING, "state": "up_for_retry", "checkpoint": checkpoint()}, "running", "waits for a retry",
            "300 of 1,000 rows done.",
        ),
        ({**RUNNING, "checkpoint": checkpoint(notes={})}, "running", "running", "300 rows done."),
        ({**RUNNING, "checkpoint": checkpoint(calls=0)}, "running", "running", "300 rows done."),
        ({**RUNNING, "checkpoint": checkpoint(done_upto=0)}, "running", "running", "No row is done yet"),
        ({**RUNNING, "checkpoint": {**checkpoint(), "version": 99}}, "running", "running", "No row is done yet"),
        ({**RUNNING, "checkpoint": checkpoint(epoch=1)}, "running", "running", "No row is done"),  # cleared
        ({**RUNNING, "checkpoint": '"nonsense"'}, "running", "running", "Its checkpoint cannot be read"),
        ({"state": "up_for_retry"}, "running", "waits for a retry", "The last try ended: Done. They are"),
        ({**RUNNING, "state": "up_for_retry", "failure": ERROR}, "running", "waits for a retry", "Key refused."),
        ({**RUNNING, "state": "up_for_reschedule", "failure": {}}, "running", "waits", ""),
    ],
)  # fmt: skip
def test_result_of_a_run(changes: dict[str, Any], tone: str, label: str, reason: str) -> None:
    ending = ending_of(run(**changes))
    assert (ending.tone.value, ending.label) == (tone, label)
    assert reason in ending.reason
    assert bool(reason) == bool(ending.reason)


def test_error_of_a_failed_run_says_what_to_do_and_who_decided() -> None:
    ending = ending_of(run(**FAILED, failure=ERROR))
    assert (ending.advice, ending.origin) == ("set a valid key", "default")


@pytest.mark.parametrize(
    ("error", "advice"),
    [
        ("CrmInvalidValueError", ""),
        ("CrmConfigurationError", ""),
        ("CrmUnauthorizedError", "set a valid key"),
        ("CrmLaterError", "set a valid key"),  # a class of a newer version
    ],
)
def test_advice_in_the_message_is_not_repeated(error: str, advice: str) -> None:
    assert ending_of(run(**FAILED, failure={**ERROR, "error": error})).advice == advice


def test_pace_covers_all_tries() -> None:
    assert left_of(Checkpoint.from_data(checkpoint())) == (1000, 140.0)


# -- a run in a list, and its page ----------------------------------------------------------------------------


def test_run_in_a_list() -> None:
    line = line_of(run(brief=True), root="/airflow/crm", now=NOW)
    assert line.name == "manual__2026-05-04T11:00:00+00:00"
    assert line.href == ("/airflow/crm/run?dag_id=leads&task_id=load&run_id=manual__2026-05-04T11%3A00%3A00%2B00%3A00")
    assert (line.when, line.rows, line.calls, line.is_idle) == ("took 5 min", 1000, 1210, False)
    assert line.words == "200 created, 780 updated, 20 rejected"


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        (RUNNING, ("running for 10 min", 0, "")),
        ({**RUNNING, "state": "queued"}, ("started 10 min ago", 0, "")),
        ({**RUNNING, "checkpoint": checkpoint()}, ("running for 10 min", 1000, "290 created, 10 rejected, 700 left")),
        ({**RUNNING, "checkpoint": checkpoint(notes={})}, ("running for 10 min", 0, "290 created, 10 rejected")),
        ({"result": result(dry_run=True, left=1000)}, ("took 5 min", 1000, "")),  # a dry run leaves nothing
        ({"result": {"records": 9, "path": "/x"}}, ("took 5 min", 9, "9 read")),
    ],
)
def test_progress_of_a_run(changes: dict[str, Any], expected: tuple[str, int, str]) -> None:
    line = line_of(run(**changes), root="", now=NOW)
    assert (line.when, line.rows, line.words) == expected


def test_runs_without_rows_are_folded() -> None:
    nothing = {"result": {"rows": 0, "rejected": 0}}
    runs = [run(**nothing), run(**FAILED), run(), run(**nothing), run(state="skipped", result=None), run(**nothing)]
    groups = folded(line_of(one, root="", now=NOW) for one in runs)
    assert [len(group) for group in groups] == [1, 1, 1, 3], "a failure is never folded"


def test_mapped_task_in_a_list() -> None:
    shown = page(map_index=3, task_id="a/b")
    assert shown.line.name.endswith(" [3]")
    assert shown.line.href.endswith("&map_index=3")
    assert shown.airflow.endswith("/tasks/a%2Fb/mapped/3")


def test_page_of_a_run() -> None:
    shown = page()
    assert shown.conn_id == "crm_default"
    assert shown.airflow == "/airflow/dags/leads/runs/manual__2026-05-04T11%3A00%3A00%2B00%3A00/tasks/load"
    assert shown.facts == [
        ("Calls", "1,210"), ("Calls saved by the plan", "580"), ("Rate used", "99% of the key's rate"),
        ("Time", "4 min"),
    ]  # fmt: skip
    assert shown.plan == [
        ("What it does", "Create or update each contact, beginning with the call that the rows so far suggest."),
        ("Because", "of 10 sampled rows, 8 exist"), ("Planned", "1,230 calls, about 83 min"),
    ]  # fmt: skip
    assert shown.problems == [("phone: no phone number", 15)]
    assert [(file.label, file.path, file.href) for file in shown.files] == [
        ("Rejected rows", "/data/rejects.jsonl", "https://f/data/rejects.jsonl")
    ]
    assert shown.samples == SUMMARY.samples
    assert (shown.resend, shown.rejects_path, shown.to_correct) == ("with DAG(...)", "/data/rejects.jsonl", 20 - 4)


def test_load_that_stopped_before_its_plan() -> None:
    stopped = Summary(rows=377, left=377, ending="Stopped: x.").as_dict()
    assert page(state="up_for_retry", result=stopped).plan == [
        ("What it does", "The load stopped before a plan was made.")
    ]


def test_reasons_come_with_catalogue_advice_and_the_policy_of_the_run() -> None:
    shown = page()
    assert [(reason.type, reason.rows, reason.action, reason.origin) for reason in shown.reasons] == [
        ("INVALID_VALUE", 15, "reject", "default[CrmDataError]"),
        ("INVALID_INPUT", 4, "skip", "on_error[INVALID_INPUT]"),
        ("SOMETHING_NEW", 1, "", ""),
    ]  # fmt: skip
    assert shown.reasons[0].advice == "correct the value"
    assert shown.reasons[2].advice == ""
    assert shown.lines == [("INVALID_INPUT", "skip", "the task"), ("FORBIDDEN", "retry", "the site")]
    actions = {line["type"]: line["action"] for line in shown.policy}
    assert (actions["INVALID_INPUT"], actions["FORBIDDEN"], actions["DEAL_NOT_FOUND"]) == ("skip", "retry", "reject")


@pytest.mark.parametrize(
    "policy", [{}, {"operator": "Other"}, {**POLICY, "on_error": {"NO_SUCH_ERROR": "skip"}}, {**POLICY, "site": None}]
)
def test_unknown_or_outdated_policy(policy: Any) -> None:
    shown = page(result=result(error_policy=policy))
    assert bool(shown.policy) == (policy.get("site", "") is None)
    assert [reason.type for reason in shown.reasons][:2] == ["INVALID_VALUE", "INVALID_INPUT"]


def test_unknown_kind_of_sync() -> None:
    shown = page(
        operator="CrmSomethingNew",
        result={"kind": "deals", "rows": 5, "moved_twice": 2, "created": 5, "index_path": "/i", "plan": {"name": "x"}},
    )
    assert (shown.kind, shown.line.words, shown.plan) == ("deals", "5 created", [("What it does", "x")])
    assert shown.facts == [("Moved twice", "2")]
    assert [(file.label, file.path) for file in shown.files] == [("index path", "/i")]


def test_extract_on_the_page() -> None:
    found = {"records": 12, "pages": 2, "calls": 3, "duplicates": 0, "changed_during_read": False, "path": "/c.jsonl"}
    shown = page(operator="CrmExtractContactsOperator", result=found)
    assert shown.facts == [("Calls", "3"), ("Pages", "2"), ("Duplicates", "0")]
    assert [(file.label, file.path) for file in shown.files] == [("File", "/c.jsonl")]


def test_table_on_the_page() -> None:
    shown = page(operator="CrmToSqlOperator", result={"records": 12, "rows": 11, "table": "crm.contacts", "calls": 3})
    assert shown.line.words == "11 read"
    assert shown.facts == [("Calls", "3"), ("Table", "crm.contacts")]


def test_run_without_a_result_shows_its_checkpoint() -> None:
    shown = page(**RUNNING, checkpoint=checkpoint())
    assert shown.facts == [("Calls so far", "300")]
    assert [(reason.type, reason.rows) for reason in shown.reasons] == [("INVALID_INPUT", 10)]
    assert page(**FAILED, failure=ERROR).line.ending.reason == "Key refused."


# -- the list -------------------------------------------------------------------------------------------------


class Plan:
    """A stand-in for a row of Airflow's table of DAGs."""

    def __init__(self, next_run: datetime | None, *, is_paused: bool = False, summary: str = "") -> None:
        self.next_run, self.is_paused, self.summary = next_run, is_paused, summary


@pytest.mark.parametrize(
    ("plan", "words"),
    [
        (None, "not known"),
        (Plan(NOW + timedelta(hours=3)), "in 3 h 00 min"),
        (Plan(NOW - timedelta(seconds=1)), "now"),
        (Plan(NOW, is_paused=True), "paused"),
        (Plan(None), "when it is triggered"),
        (Plan(None, summary="Asset"), "on Asset"),
    ],
)
def test_next_run_of_a_dag(plan: Any, words: str) -> None:
    assert next_run(plan, NOW) == words


OTHER = {"dag_id": "deals", "task_id": "sync", "result": result(rejected=0, crm_conn_id="crm_other")}


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ({}, ["leads", "deals", "late"]),
        ({"q": "LEA"}, ["leads"]),
        ({"q": "crm_other"}, ["deals"]),
        ({"connection": "crm_other"}, ["deals"]),
        ({"dag": "late"}, ["late"]),
        ({"state": "rejects"}, ["leads"]),
        ({"state": "failed"}, ["late"]),
        ({"days": "1"}, ["leads", "deals"]),
        ({"state": "nonsense", "days": "-1", "page": "x"}, ["leads", "deals", "late"]),
    ],
)
def test_filters(query: dict[str, str], expected: list[str]) -> None:
    late = run(dag_id="late", state="failed", start=NOW - timedelta(days=2), end=NOW)
    runs = [run(), run(**OTHER), late]
    assert [one.found.dag_id for one in chosen(runs, Filters.of(query), now=NOW)] == expected
    assert count_by_state(runs) == [
        ("failed", "Failed", 1),
        ("rejects", "Success with rejects", 1),
        ("success", "Success", 1),
    ]


def test_filters_in_urls() -> None:
    filters = Filters.of({"q": "a&b " + "x" * 300, "state": "failed", "page": "3"})
    assert filters.query(page=1) == f"q=a%26b+{'x' * 246}&state=failed"
    assert filters.query(state="") == f"q=a%26b+{'x' * 246}&page=3"
    assert [Filters.of({"page": page}).page for page in ("0", "99999999", "²", "7")] == [1, 1, 1, 7]
    assert (filters.is_set, Filters().is_set) == (True, False)


def test_pages() -> None:
    assert [(p.pages, p.first, p.last) for p in (Paging(page=n, total=45, size=20) for n in (1, 3))] == [
        (3, 1, 20), (3, 41, 45),
    ]  # fmt: skip
    assert Paging(page=1, total=0, size=20).pages == 1


def test_sync_in_the_list() -> None:
    runs = [run(brief=True), run(brief=True, **FAILED), run(brief=True, **RUNNING)]
    line = sync_line(runs[0], runs, None, root="/crm", now=NOW)
    assert line.href == "/crm/sync?dag_id=leads&task_id=load"
    assert [column.tone for column in line.trend.columns] == ["running", "failed", "rejects"], "newest on the right"
    assert line.trend.text == "The last 3 runs: 1 running, 1 failed, 1 rejects; they took 5 min to 5 min"


# -- charts ---------------------------------------------------------------------------------------------------


@given(st.dictionaries(st.sampled_from(OUTCOMES), st.integers(min_value=0, max_value=10**7)))
def test_bar_is_full_and_shows_every_part(counts: dict[str, int]) -> None:
    parts = segments_of(counts)
    assert {part.name: part.rows for part in parts} == {name: rows for name, rows in counts.items() if rows}
    if parts:
        assert sum(part.size for part in parts) == pytest.approx(BAR_WIDTH, abs=0.1)
        assert min(part.size for part in parts) >= LEAST_WIDTH * 0.95
        assert [part.at for part in parts] == sorted(part.at for part in parts)


POINTS = st.builds(
    TrendPoint,
    tone=st.sampled_from([tone.value for tone in Tone]),
    counts=st.dictionaries(st.sampled_from(OUTCOMES), st.integers(min_value=0, max_value=10**9)),
    seconds=st.none() | st.floats(min_value=0, max_value=1e9),
)


@given(st.lists(POINTS, max_size=14))
def test_trend_stays_inside_its_frame(points: list[TrendPoint]) -> None:
    trend = trend_of(points)
    assert len(trend.columns) == len(points)
    for column in trend.columns:
        assert 0 <= column.x < trend.width
        for part in column.parts:
            assert part.at >= -0.05 and part.at + part.size <= HEIGHT + 0.05
    for pair in trend.line.split():
        x, y = map(float, pair.split(","))
        assert 0 <= x <= trend.width and 0 <= y <= HEIGHT


# -- colours --------------------------------------------------------------------------------------------------

TEXTS = [
    ("text", "page"), ("soft", "page"), ("soft", "shade"), ("link", "page"), ("bad", "page"), ("amber", "page"),
    ("good", "good-back"), ("amber", "amber-back"), ("bad", "bad-back"), ("busy", "busy-back"),
]  # fmt: skip
SHAPES = ["created", "updated", "unchanged", "skipped", "suppressed", "rejected", "read", "time"]
MARKS = ["good-mark", "bad-mark", "busy-mark"]


@pytest.mark.parametrize("begin", [":root {", "@media", ':root[data-theme="dark"]'], ids=["light", "system", "dark"])
def test_contrast(begin: str) -> None:
    """Text needs 4.5 to 1 and shapes 3 to 1, as WCAG requires."""
    style = (Path(app.__file__).parent / "pages" / "page.css").read_text()
    block = style[style.index(begin) :].split("}", 1)[0]
    colours = dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6})", block))
    pairs = [(4.5, *pair) for pair in TEXTS] + [(3.0, shape, "page") for shape in SHAPES + MARKS]
    for least, one, other in pairs:
        light, dark = sorted((luminance(colours[one]), luminance(colours[other])), reverse=True)
        assert (light + 0.05) / (dark + 0.05) >= least, (one, other)


def luminance(colour: str) -> float:
    parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


# -- attacks: any task may store anything under these names ---------------------------------------------------

MANY = {f"TYPE_{number}": 1 for number in range(300_000)}
SAMPLE = {"row": 1, "place": "", "type": "T", "message": ""}
ATTACKS: dict[str, Any] = {
    "huge seconds": result(seconds=10**400),
    "seconds beyond float": json.dumps(result()).replace("245.1", "1e999"),
    "seconds not a number": json.dumps(result()).replace("245.1", "NaN"),
    "negative seconds": result(seconds=-1),
    "seconds as text": result(seconds="5"),
    "seconds as bool": result(seconds=True),
    "a share beyond any number": result(budget_used=10**400),
    "a count of many digits": json.dumps(result()).replace("1210", "9" * 4300),
    "a count of too many digits": json.dumps(result()).replace("1210", "9" * 5000),
    "a count that others cannot keep": result(created=2**53),
    "a negative count": result(rejected=-1),
    "a count as bool": result(rows=True),
    "no rows": {"rejected": 1},
    "records as text": {"records": "many"},
    "rows as text": {"rows": "many"},
    "lone surrogate in a type": result(errors={"\ud800": 1}),
    "lone surrogate in a problem": result(problems={"\udfff": 1}),
    "lone surrogate in a path": result(rejects_path="/data/\ud800"),
    "lone surrogate in the plan": result(plan={"name": "\ud800"}),
    "lone surrogate in the connection": result(crm_conn_id="\ud800"),
    "a connection that is an object": result(crm_conn_id={"a": 1}),
    "a connection that is long": result(crm_conn_id="c" * 251),
    "many types": result(errors=MANY),
    "a type that is long": result(errors={"T" * 251: 1}),
    "types that are a list": result(errors=["INVALID_INPUT"]),
    "a count of a type that is a text": result(errors={"INVALID_INPUT": "4"}),
    "a path of 10 MB": result(rejects_path="/" * 10_000_000),
    "a path that is long": result(report_path="/" * 4097),
    "an ending that is long": result(ending="x" * 4097),
    "a kind that is an object": result(kind={}),
    "many samples": result(samples=[SAMPLE] * 21),
    "a sample that is a text": result(samples=["x"]),
    "a sample with a negative row": result(samples=[{**SAMPLE, "row": -1}]),
    "a sample with a lone surrogate": result(samples=[{**SAMPLE, "message": "\ud800"}]),
    "a policy that is a list": result(error_policy=[]),
    "a policy of many lines": result(error_policy={"on_error": {str(n): "skip" for n in range(101)}}),
    "an action that is an object": result(error_policy={"site": {"FORBIDDEN": {}}}),
    "a path that is an object": result(state_path={"__classname__": "os.system"}),
    "a plan that is a text": result(plan="learned"),
    "a plan that takes forever": result(plan={"seconds": 1e300}),
    "a dry run that is a text": result(dry_run="yes"),
    "a predicted failure that is text": result(would_fail="yes"),
    "an object to build": {"__classname__": "airflow.sdk.definitions.asset.Asset", "__version__": 1, "__data__": {}},
    "deep nesting": "[" * 100_000,
    "no JSON": "{",
}  # fmt: skip


@pytest.mark.parametrize("attack", ATTACKS.values(), ids=ATTACKS.keys())
def test_foreign_result_is_not_read(attack: Any) -> None:
    shown = page(result=attack)
    assert shown.line.ending.reason.startswith("Its result cannot be read")
    assert (shown.conn_id, shown.line.parts, shown.reasons) == ("crm_default", [], [])


@pytest.mark.parametrize(
    "text", ["{", "[]", "7", '{"crm_conn_id": {}}', '{"crm_conn_id": "\\ud800"}', " " * (LARGEST + 1)]
)
def test_rendered_fields_without_a_connection(text: str) -> None:
    assert run(rendered=text).conn_id is None


@pytest.mark.parametrize("failure", ["{", "[]", '{"message": 7}', {"message": "x" * 4097}, {"type": "\ud800"}])
def test_foreign_error_is_not_read(failure: Any) -> None:
    assert ending_of(run(**FAILED, failure=failure)).reason.startswith("Its error cannot be read")


@pytest.mark.parametrize(
    "changes",
    [
        {"seconds": 10**400}, {"calls": 10**400}, {"done_upto": 2**53}, {"errors": {"\ud800": 1}},
        {"errors": MANY}, {"notes": {"rows": 10**400, "calls_left": 1}}, {"notes": {"rows": 9, "calls_left": -1}},
        {"notes": {"rows": True, "calls_left": 1}}, {"counts": {"<b>": 1}}, {"version": "1"},
    ],
)  # fmt: skip
def test_foreign_checkpoint_is_not_read(changes: dict[str, Any]) -> None:
    shown = page(**RUNNING, checkpoint={**checkpoint(), **changes})
    assert shown.line.ending.reason.startswith("Its checkpoint cannot be read")
    assert shown.line.parts == []


def test_page_of_one_run_is_bounded() -> None:
    errors = {f"TYPE_{number:03}": 1000 - number for number in range(SHOWN_KINDS + 5)}
    problems = {f"{number:03} {'x' * 1000}": 1 for number in range(SHOWN_KINDS + 2)}
    figures = {f"figure_{number}": number for number in range(50)}
    paths = {f"{number}_path": "/x" for number in range(50)}
    shown = page(result=result(errors=errors, problems=problems, **figures, **paths))
    assert [reason.type for reason in shown.reasons[:2]] == ["TYPE_000", "TYPE_001"]
    assert (len(shown.reasons), shown.reasons[-1].type, shown.reasons[-1].rows) == (21, "5 more types", 4890)
    assert (len(shown.problems), shown.problems[-1]) == (21, ("2 more kinds", 2))
    assert {len(text) for text, _ in shown.problems[:-1]} == {301}
    assert len(shown.facts) <= MOST_FACTS + 5
    assert len(shown.files) <= MOST_FACTS


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(), max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
KEYS = (*SUMMARY.as_dict(), "error_policy", "kind", "records", "path")


@given(st.fixed_dictionaries({}, optional=dict.fromkeys(KEYS, ANYTHING)), ANYTHING, st.booleans(), st.booleans())
def test_any_content_gives_a_page(changes: dict[str, Any], failure: Any, whole: bool, ok: bool) -> None:
    shown = page(
        result=result(**changes) if whole else changes, failure=json.dumps(failure), state="success" if ok else "failed"
    )
    assert shown.operator == "CrmLoadContactsOperator"
    assert repr(shown).encode()
