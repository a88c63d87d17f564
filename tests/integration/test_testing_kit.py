"""``assert_dag_ends`` and its helpers fail with a clear message."""

from __future__ import annotations

import json
import re
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

import docs_text
import pytest
from airflow.sdk import DAG
from docs_text import DOCS, ROOT

from crm_provider._compat import AirflowSkipException, BaseOperator
from crm_provider.operators.contacts import CrmUpsertContactOperator
from crm_provider.operators.load import CrmDeleteContactsOperator, CrmLoadDealsOperator
from crm_provider.sandbox import Fault, Sandbox, ids
from crm_provider.sensors.contacts import CrmContactSensor
from crm_provider.sensors.lists import CrmListSensor
from crm_provider.testing import (
    assert_contacts_deleted,
    assert_dag_ends,
    assert_deal_stages,
    fresh_airflow_home,
    load_dag,
)


class Ends(BaseOperator):
    """Raises the given exception in its first try."""

    def __init__(self, *, error: Any = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.error = error

    def execute(self, context: Any) -> None:
        if self.error is not None and context["ti"].try_number == 1:
            raise self.error


@pytest.fixture
def dag() -> DAG:
    """Tasks that succeed, skip and fail, and two mapped ones, of which one fails."""
    with DAG("testing_kit", schedule=None) as dag:
        Ends(task_id="well")
        Ends(task_id="nothing_to_do", error=AirflowSkipException("nothing to do"))
        Ends(task_id="wrong", error=ValueError("a wrong value"))
        Ends.partial(task_id="mapped").expand(error=[None, ValueError("the second")])
    return dag


ENDS = {"nothing_to_do": "skipped", "wrong": "failed", "mapped[1]": "failed"}


@pytest.mark.parametrize(
    ("states", "others"),
    [
        (ENDS, "success"),
        ({**ENDS, "mapped[0]": "success", "well": "success"}, "removed"),
        ({"well": "success"}, None),
        ({}, None),
    ],
)
def test_run_with_the_expected_states_passes(states: dict[str, str], others: str | None, dag: DAG) -> None:
    run = assert_dag_ends(dag, states, others=others)
    assert run.states() == {
        "well": "success", "nothing_to_do": "skipped", "wrong": "failed", "mapped[0]": "success", "mapped[1]": "failed",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("states", "line"),
    [
        ({**ENDS, "well": "skipped"}, "  well: success, expected skipped. 1 attempt"),
        ({**ENDS, "wrong": "success"}, "  wrong: failed, expected success. 1 attempt, ValueError: a wrong value"),
        ({**ENDS, "nothing_to_do": "failed"}, "  nothing_to_do: skipped, expected failed. 1 attempt"),
        ({"nothing_to_do": "skipped", "wrong": "failed", "mapped": "failed"}, "  mapped[0]: success, expected failed."),
        ({"nothing_to_do": "skipped", "wrong": "failed"}, "  mapped[1]: failed, expected success. 1 attempt, ValueErr"),
        ({**ENDS, "mapped[7]": "success"}, "  mapped[7]: there was none"),
    ],
)
def test_unexpected_states_are_reported(states: dict[str, str], line: str, dag: DAG) -> None:
    with pytest.raises(AssertionError) as raised:
        assert_dag_ends(dag, states)
    head, *lines = str(raised.value).splitlines()
    assert head == "testing_kit did not end as expected:"
    assert [one for one in lines if one.startswith(line)] == lines


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"states": {"wel": "success"}}, "testing_kit has no task wel; it has mapped, nothing_to_do, well, wrong"),
        ({"states": {"well": "succeeded"}}, "a task does not end with 'succeeded'; use one of success, failed"),
        ({"others": "up_for_retry"}, "a task does not end with 'up_for_retry'"),
        ({"fault": {"effect": "drop"}}, "a fault needs the sandbox that it is for: sandbox=crm_sandbox"),
    ],
)
def test_invalid_expectations_are_rejected(arguments: dict[str, Any], message: str, dag: DAG) -> None:
    with pytest.raises(ValueError, match=message):
        assert_dag_ends(dag, **arguments)


# -- with a CRM ---------------------------------------------------------------------------------------------


@pytest.fixture
def upsert() -> DAG:
    with DAG("testing_kit_crm", schedule=None, default_args={"retries": 1, "retry_delay": timedelta(hours=1)}) as dag:
        CrmUpsertContactOperator(task_id="upsert", contact_email="new@example.com", attributes={"name": "New"})
    return dag


def test_faults_are_removed_after_the_run(upsert: DAG, crm_quick: Sandbox) -> None:
    crm_quick.add_fault(effect="drop", path="/nowhere", name="mine")
    faults = [Fault(effect="error", error="INTERNAL_SERVER_ERROR", count=6), {"effect": "lost", "count": 1}]
    run = assert_dag_ends(upsert, sandbox=crm_quick, fault=faults)
    assert run["upsert"].states == ["up_for_retry", "success"]
    assert run["upsert"].waits == (pytest.approx(3600, abs=60),)
    assert [status.fault.name for status in crm_quick.faults()] == ["mine"]
    crm_quick.reset()
    assert (crm_quick.faults(), crm_quick.settings.rate) == ([], None)  # calls are not paced, with no limit


@pytest.mark.parametrize(
    "fault", [{"effect": "drop", "path": "/contact"}, Fault(effect="drop", path="/contact")], ids=["fields", "Fault"]
)
def test_fault_without_a_matching_call_is_reported(fault: Any, upsert: DAG, crm_quick: Sandbox) -> None:
    with pytest.raises(AssertionError) as raised:
        assert_dag_ends(upsert, sandbox=crm_quick, fault=fault)
    assert str(raised.value).splitlines() == [
        "testing_kit_crm did not end as expected under {'effect': 'drop', 'path': '/contact'}:",
        "  the fault {'effect': 'drop', 'path': '/contact'} struck no call",
        "  the sandbox saw: 1 x POST /contacts -> 201",
    ]
    assert crm_quick.faults() == []


def test_error_responses_are_reported(upsert: DAG, crm_quick: Sandbox) -> None:
    upsert.get_task("upsert").set_error_policy({"CrmDataError": "skip"})
    refused = {"effect": "error", "error": "INVALID_INPUT", "method": "POST"}
    with pytest.raises(AssertionError) as raised:
        assert_dag_ends(upsert, {"upsert": "failed"}, sandbox=crm_quick, fault=refused)
    assert str(raised.value).splitlines()[1:] == [
        "  upsert: skipped, expected failed. 1 attempt, INVALID_INPUT -> skip, by on_error[CrmDataError]",
        "  the sandbox saw: 1 x POST /contacts -> 422",
    ]


@pytest.mark.parametrize("waiting", [{"mode": "poke"}, {"deferrable": True}, {"mode": "reschedule"}])
def test_sensor_waits_are_skipped(waiting: dict[str, Any], crm_quick: Sandbox) -> None:
    with DAG("testing_kit_sensor", schedule=None) as dag:
        CrmContactSensor(task_id="wait", contact_email="ada@example.com", poke_interval=3600, timeout=86400, **waiting)
    missing = {"effect": "error", "error": "CONTACT_NOT_FOUND", "count": 1}
    run = assert_dag_ends(dag, sandbox=crm_quick, fault=missing)
    assert len(crm_quick.journal()) == 2
    assert run["wait"].waits == ((pytest.approx(3600, abs=60),) if waiting.get("mode") == "reschedule" else ())
    assert dag.get_task("wait").poke_interval == 3600


def test_documented_fault_delays_a_list_until_the_third_check(crm_quick: Sandbox) -> None:
    (shown,) = re.findall(
        r'`({"effect": "error", "error": "SEGMENTATION_LIST[^`]+)`', (DOCS / "testing.md").read_text("utf-8")
    )
    with DAG("testing_kit_list", schedule=None) as dag:
        CrmListSensor(task_id="wait", list_name="Newsletter", mode="reschedule", poke_interval=60, timeout=3600)
    assert_dag_ends(dag, sandbox=crm_quick, fault=json.loads(shown))
    assert [entry.status for entry in crm_quick.journal()] == [404, 404, 200]


def test_documented_message_is_real(crm_quick: Sandbox) -> None:
    dag = load_dag(ROOT / "example_dags" / "crm_quickstart.py")
    gone = {"effect": "error", "error": "DEAL_NOT_FOUND", "method": "PUT", "path": "/deals/*"}
    with pytest.raises(AssertionError) as raised:
        assert_dag_ends(dag, sandbox=crm_quick, fault=gone)
    (shown,) = docs_text.fences(DOCS / "testing.md", "text")
    assert str(raised.value) == shown.code.rstrip("\n")


# -- DAG files, homes ---------------------------------------------------------------------------------------


def test_dag_is_loaded_from_a_file(tmp_path: Path) -> None:
    file = tmp_path / "some_dags.py"
    file.write_text("from airflow.sdk import DAG\none = DAG('one', schedule=None)\ntwo = DAG('two', schedule=None)\n")
    with pytest.raises(ValueError, match=r"some_dags\.py has the DAGs one, two; say which with dag_id"):
        load_dag(file)
    with pytest.raises(ValueError, match=r"has the DAGs one, two; say which"):
        load_dag(file, "three")
    assert load_dag(file, "two").dag_id == "two"


def test_import_error_of_a_dag_file_is_reported(tmp_path: Path) -> None:
    file = tmp_path / "broken_dag.py"
    file.write_text("from airflow.sdk import DAG\nDAG(1 / 0)\n")
    with pytest.raises(ValueError, match=r"(?s)broken_dag\.py cannot be imported: .*ZeroDivisionError"):
        load_dag(file)


def test_fresh_airflow_home_after_airflow_is_an_error() -> None:
    assert "airflow" in sys.modules
    with pytest.raises(RuntimeError, match=r"airflow was imported before fresh_airflow_home\(\)"):
        fresh_airflow_home()


# -- records ------------------------------------------------------------------------------------------------


@pytest.mark.crm_sandbox(seed="deals:20", rate=None)
def test_assertions_for_deals_and_deleted_contacts_pass(crm_quick: Sandbox) -> None:
    first, third = "contact-0000001@example.com", "Contact-0000003@Example.com"
    deal = crm_quick.store.deal_of(crm_quick.store.contacts[first].id)
    assert deal is not None
    rows = [{"deal": deal.id, "stage": ids.stage_id("Sales", "Won")}]
    with DAG("kit_of_deals", schedule=None) as dag:
        CrmLoadDealsOperator(
            task_id="move", source=rows, mapping={"deal_id": "deal", "stage_id": "stage"}, mode="move"
        ) >> CrmDeleteContactsOperator(task_id="erase", source=[{"email": third}], max_deletes=1)
    assert_dag_ends(dag, sandbox=crm_quick)
    assert_deal_stages(crm_quick, {first: "Won", "contact-0000002@example.com": "Qualified"})
    assert_deal_stages(crm_quick, {first: ids.stage_id("Sales", "Won")})
    assert_contacts_deleted(crm_quick, [third], left=19)


def test_deals_in_other_stages_are_reported(crm_sandbox: Sandbox) -> None:
    stages = {"ada@example.com": "Won", "alan@example.com": "New", "nobody@example.com": "New", "ken@example.com": None}
    with pytest.raises(AssertionError) as wrong:
        assert_deal_stages(crm_sandbox, stages)
    assert str(wrong.value).splitlines() == [
        "deals are not in the expected stages:",
        "  ada@example.com: New, expected Won",
        "  alan@example.com: no deal, expected New",
        "  nobody@example.com: the CRM has no such contact",
    ]
    with pytest.raises(AssertionError, match=r"ada@example\.com: New, expected no deal"):
        assert_deal_stages(crm_sandbox, {"ada@example.com": None})


def test_contacts_that_still_exist_are_reported(crm_sandbox: Sandbox) -> None:
    with pytest.raises(AssertionError, match=r"these contacts should have been deleted: ada@example\.com"):
        assert_contacts_deleted(crm_sandbox, ["ADA@example.com", "gone@example.com"])
    with pytest.raises(AssertionError, match="contacts in the CRM: 11, expected 10"):
        assert_contacts_deleted(crm_sandbox, ["gone@example.com"], left=10)
