"""Loads of deals and deletions of contacts as tasks: one test per action."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta, timezone
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.sdk import DAG, task

from crm_provider._compat import HAS_RETRY_POLICY
from crm_provider.errors.policy import ErrorPolicy
from crm_provider.hooks.crm import CrmHook
from crm_provider.hooks.load_run import LoadRun
from crm_provider.load.kinds.deletions import DELETIONS
from crm_provider.load.report import LoadStopped
from crm_provider.load.rows import SourceError
from crm_provider.load.sources.source import open_source
from crm_provider.operators.load import (
    CrmDeleteContactsOperator,
    CrmLoadContactsOperator,
    CrmLoadDealsOperator,
    CrmRetryRejectsOperator,
)
from crm_provider.sandbox import Sandbox, SandboxSettings, ids
from crm_provider.tasks.state import checkpoints_for

RunTask = Callable[..., Any]
NEW, WON, LOST = (ids.stage_id("Sales", name) for name in ("New", "Won", "Lost"))
SALES = ids.pipeline_id("Sales")
NEWSLETTER = ids.list_id("Newsletter")
NO_STAGE = "99999999-0000-4000-8000-000000000001"
PEOPLE = [f"p{number}@example.com" for number in range(5)]
MOVE = {"deal_id": "deal", "stage_id": "stage"}
CREATE = {
    "contact_email": "mail", "pipeline_id": {"constant": SALES}, "stage_id": "stage", "pb_name": "name",
    "pb_amount": "worth",
}  # fmt: skip


@pytest.fixture
def crm(crm: Sandbox) -> Sandbox:
    """Five contacts. The first three have a deal: two in stage New, one in stage Lost."""
    crm.reset(SandboxSettings(seed="empty", rate=None))
    crm.store.add_pipeline("Sales", ["New", "Won", "Lost"])
    crm.store.add_list("Newsletter")
    for number, email in enumerate(PEOPLE):
        contact = crm.store.create_contact(email)
        if number < 3:
            crm.store.create_deal(contact_id=contact.id, pipeline_id=SALES, stage_id=LOST if number == 2 else NEW)
    return crm


def deal_of(crm: Sandbox, email: str) -> Any:
    return crm.store.deal_of(crm.store.contacts[email].id)


def stages(crm: Sandbox) -> list[str | None]:
    return [deal.stage_id if (deal := deal_of(crm, email)) else None for email in PEOPLE]


def counts(result: dict[str, Any]) -> dict[str, int]:
    names = ("created", "updated", "unchanged", "skipped", "rejected", "suppressed", "deleted", "left")
    assert sum(result.get(name, 0) for name in names) == result["rows"]
    return {name: result[name] for name in names if result.get(name)}


def calls(crm: Sandbox, seen: int = 0) -> Counter[str]:
    """The calls after the first ones."""
    return Counter(f"{entry.method} {entry.route}" for entry in crm.journal()[seen:])


def test_load_moves_deals(crm: Sandbox, run_task: RunTask, tmp_path: Path) -> None:
    outcomes = tmp_path / "outcomes.jsonl"
    rows = [{"deal": deal_of(crm, email).id, "stage": WON} for email in PEOPLE[:3]]
    done = run_task(
        CrmLoadDealsOperator, source=[*rows, {"deal": NO_STAGE, "stage": WON}], mapping=MOVE, mode="move",
        only_from_stages=[NEW], max_rejects=1, outcomes_path=str(outcomes), outcome_keys="deal",
    )  # fmt: skip
    assert counts(done.result) == {"updated": 2, "skipped": 1, "rejected": 1}
    assert stages(crm) == [WON, WON, LOST, None, None]
    lines = [json.loads(line) for line in outcomes.read_text().splitlines()]
    assert {line["deal_id"] for line in lines if line["outcome"] != "rejected"} == {row["deal"] for row in rows}


def test_load_of_deal_updates_keeps_all_digits(crm: Sandbox, run_task: RunTask) -> None:
    deal = deal_of(crm, PEOPLE[0]).id
    mapping = {"deal_id": "deal", "pb_amount": "worth", "custom_field": "note"}
    row = {"deal": deal, "worth": "12345678901234567890.10", "note": {"a": [1]}}
    arguments = {"source": [row], "mapping": mapping, "mode": "update"}
    assert counts(run_task(CrmLoadDealsOperator, **arguments).result) == {"updated": 1}
    expected = {"pb_amount": "12345678901234567890.10", "custom_field": {"a": [1]}}
    assert deal_of(crm, PEOPLE[0]).attributes == expected
    seen = len(crm.journal())
    assert counts(run_task(CrmLoadDealsOperator, **arguments, plan="compare").result) == {"unchanged": 1}
    assert calls(crm, seen) == {"GET /deals": 2}


def test_load_creates_deals_and_resends_rejects(crm: Sandbox, run_task: RunTask, tmp_path: Path) -> None:
    rows = [{"mail": email, "stage": NEW, "name": "N", "worth": "1.50"} for email in PEOPLE]
    rows[4]["stage"] = NO_STAGE
    rejects = tmp_path / "rejects.jsonl"
    done = run_task(
        CrmLoadDealsOperator, source=rows, mapping=CREATE, mode="create", rejects_path=str(rejects), max_rejects=1
    )
    assert counts(done.result) == {"created": 1, "unchanged": 3, "rejected": 1}
    assert done.result["errors"] == {"STAGE_NOT_FOUND": 1}
    rejects.write_text(rejects.read_text().replace(NO_STAGE, WON))
    again = run_task(
        CrmRetryRejectsOperator, rejects=str(rejects), only="all", kind="deals", mode="create", mapping=CREATE
    )
    assert counts(again.result) == {"created": 1}
    assert stages(crm) == [NEW, NEW, LOST, NEW, WON]
    assert deal_of(crm, PEOPLE[4]).attributes == {"pb_name": "N", "pb_amount": "1.50"}


def test_load_upserts_the_existing_deal_of_a_contact(crm: Sandbox, run_task: RunTask) -> None:
    rows = [{"mail": email, "stage": WON, "name": "N", "worth": "1"} for email in PEOPLE]
    assert counts(run_task(CrmLoadDealsOperator, source=rows, mapping=CREATE).result) == {"created": 2, "updated": 3}
    seen = len(crm.journal())
    assert counts(run_task(CrmLoadDealsOperator, source=rows, mapping=CREATE).result) == {"unchanged": 5}
    assert set(calls(crm, seen)) <= {"GET /deals", "GET /contacts/{email}", "GET /segments"}


@pytest.mark.parametrize("constant", [True, False])
def test_load_of_deals_rejects_unknown_stages(crm: Sandbox, run_task: RunTask, constant: bool) -> None:
    stage: Any = {"constant": NO_STAGE} if constant else "stage"
    rows = [{"deal": deal_of(crm, email).id, "stage": NO_STAGE} for email in PEOPLE[:3]]
    done = run_task(CrmLoadDealsOperator, source=rows, mapping={**MOVE, "stage_id": stage}, mode="move", max_rejects=3)
    assert done.state == ("failed" if constant else "success")
    assert (done.result["left"] > 0) is constant
    assert stages(crm)[:3] == [NEW, NEW, LOST]


def test_lost_response_to_a_creation_makes_one_deal(crm: Sandbox, run_task: RunTask, tmp_path: Path) -> None:
    crm.add_fault(effect="lost", method="POST", count=1)
    rows = [{"mail": email, "stage": NEW, "name": email, "worth": "1"} for email in PEOPLE[3:]]
    resuming = {} if HAS_RETRY_POLICY else {"checkpoint_path": str(tmp_path / "checkpoint")}
    done = run_task(
        CrmLoadDealsOperator, source=rows, mapping=CREATE, mode="create", errors_in_a_row=1, retries=2, **resuming
    )
    assert done.state == "success"
    assert counts(done.result) == {"created": 2}
    assert len(crm.store.deals) == 5


def test_load_deals_in_a_task_function(crm: Sandbox, run_dag: Callable[..., Any]) -> None:
    rows = [{"deal": deal_of(crm, email).id, "stage": WON} for email in PEOPLE[:2]]
    with DAG("crm_own_load_of_deals") as dag:

        @task
        def move() -> dict[str, Any]:
            return CrmHook().load_deals(rows, mapping=MOVE, mode="move")

        move()
    assert counts(run_dag(dag)["move"].result) == {"updated": 2}
    with pytest.raises(TypeError, match="only_from_stages"):
        CrmHook().load_deals(rows, only_from_stage=NEW)


def test_error_after_a_load_creates_no_deal_twice(crm: Sandbox, run_dag: Callable[..., Any], tmp_path: Path) -> None:
    """A checkpoint in a file outlives the load, as it does in Airflow's task state store."""
    rows = [{"mail": email, "stage": NEW, "name": email, "worth": "1"} for email in PEOPLE[3:]]
    path = tmp_path / "checkpoint"
    with DAG("crm_own_load_before_an_error", default_args={"retries": 1, "retry_delay": timedelta(0)}) as dag:

        @task
        def create() -> dict[str, Any]:
            is_first = not path.exists()
            result = CrmHook().load_deals(rows, mapping=CREATE, mode="create", checkpoint_path=path)
            if is_first:
                raise RuntimeError("the next step")
            return result

        create()
    done = run_dag(dag)["create"]
    assert done.states == ["up_for_retry", "success"]
    assert counts(done.result) == {"created": 2}
    assert calls(crm)["POST /deals"] == 2


def test_delete_contacts_ignores_the_case_of_addresses(crm: Sandbox, run_task: RunTask, tmp_path: Path) -> None:
    crm.store.create_contact("P0@Example.com")
    report = tmp_path / "report.md"
    rows = [{"email": PEOPLE[0]}, {"email": "gone@example.com"}]
    too_many = run_task(CrmDeleteContactsOperator, source=rows, max_deletes=1, retries=0)
    assert (too_many.state, len(crm.store.contacts)) == ("failed", 6)
    done = run_task(CrmDeleteContactsOperator, source=rows, max_deletes=2, report_path=str(report))
    assert counts(done.result) == {"deleted": 1, "unchanged": 1}
    assert sorted(crm.store.contacts) == PEOPLE[1:]
    text = report.read_text()
    lines = re.findall(r"^\| (\w+) \|", text, re.MULTILINE)
    assert lines[:5] == ["Outcome", "unchanged", "skipped", "rejected", "deleted"]
    assert "@" not in text and "Sends:" not in done.log and "Read all contacts of the CRM: 6." in done.log
    again = run_task(CrmDeleteContactsOperator, source=rows, max_deletes=0, retries=0)
    assert counts(again.result) == {"unchanged": 2}


def deletion(
    people: Sequence[str] = PEOPLE[:1],
    *,
    retries: int = 0,
    rescheduled: bool = False,
    report: Path | None = None,
    **given: Any,
) -> LoadRun:
    """A deletion on Airflow 3.2, which has no task state store."""
    ti = SimpleNamespace(
        dag_id="d", run_id="r", task_id="t", map_index=-1, max_tries=retries, try_number=1, stats_tags={},
        get_first_reschedule_date=lambda context: datetime.now(timezone.utc) if rescheduled else None,
    )  # fmt: skip
    context: Any = {"ti": ti, "task": SimpleNamespace(retries=retries)}
    rows = [{"email": email} for email in people]
    return LoadRun(
        kind=DELETIONS, given={"max_deletes": 2, **given}, policy=ErrorPolicy(), crm_conn_id="", path=lambda name: None,
        bulk_client=CrmHook().bulk_client, open_source=lambda: open_source(rows), report_path=report,
        checkpoints=partial(checkpoints_for, context, path=None), context=context,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("task", "said"),
    [
        (
            {"retries": 1},
            r"a retry would not know the count; set checkpoint_path, rejects_path or report_path, or retries=0",
        ),
        ({"rescheduled": True}, r"a rescheduled task would not know the count; set [^=]*report_path"),
    ],
)
def test_deletion_with_retries_needs_a_file_for_its_count(
    task: dict[str, Any], said: str, crm: Sandbox, tmp_path: Path
) -> None:
    seen = len(crm.journal())
    with pytest.raises(SourceError, match=rf"^max_deletes applies to all tries together, but {said}$"):
        deletion(**task).run()
    assert len(crm.journal()) == seen
    assert counts(deletion(**task, dry_run=True).run()) == {"left": 1}
    assert sorted(crm.store.contacts) == PEOPLE
    deletion(**task, report=tmp_path / "report.md").run()
    assert sorted(crm.store.contacts) == PEOPLE[1:]
    assert [path.name for path in tmp_path.iterdir()] == ["report.md"]


def test_deletion_without_retries_needs_no_file(crm: Sandbox) -> None:
    assert counts(deletion().run()) == {"deleted": 1}
    assert sorted(crm.store.contacts) == PEOPLE[1:]


def test_deletion_count_is_kept_between_tries(crm: Sandbox, tmp_path: Path) -> None:
    crm.add_fault(effect="error", error="UNAUTHORIZED", method="DELETE", after=2)
    with pytest.raises(LoadStopped):
        deletion(PEOPLE[:3], retries=1, max_deletes=3, report=tmp_path / "try-1.md").run()
    assert len(crm.store.contacts) == 3
    crm.clear_faults()
    with pytest.raises(SourceError, match=r"^2 contacts would be deleted, but max_deletes=3 allows 3"):
        deletion(PEOPLE[3:], retries=1, max_deletes=3, report=tmp_path / "try-2.md").run()
    assert len(crm.store.contacts) == 3


@pytest.mark.parametrize(("resubscribe", "each"), [(True, 1), (False, 2)])
def test_audience_sync_makes_no_call_per_member(crm: Sandbox, run_task: RunTask, resubscribe: bool, each: int) -> None:
    for email in PEOPLE[:3]:
        crm.store.add_to_lists(email, [NEWSLETTER])
    seen = len(crm.journal())
    done = run_task(
        CrmLoadContactsOperator, source=[{"email": email} for email in PEOPLE], mapping={"email": "email"},
        mode="update", list_ids=[NEWSLETTER], plan="compare", resubscribe=resubscribe,
    )  # fmt: skip
    assert counts(done.result) == {"unchanged": 3, "updated": 2}
    found = calls(crm, seen)
    assert found.pop("GET /contacts") == 2  # the number of contacts, and their one page
    assert sum(found.values()) == 2 * each
