"""Values from templates, mapped tasks and files: one DAG per kind of value. Unit tests have the tables."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from airflow.sdk import DAG

from crm_provider.errors import CrmConfigurationError, CrmInvalidValueError
from crm_provider.operators.contacts import CrmDeleteContactOperator, CrmUpsertContactOperator
from crm_provider.operators.load import CrmLoadContactsOperator
from crm_provider.sandbox import Sandbox, ids
from crm_provider.sensors.contacts import CrmContactSensor
from crm_provider.sensors.lists import CrmListMembershipSensor

RunDag = Callable[..., Any]
RunTask = Callable[..., Any]

DATA = Path(__file__).parents[1] / "data"
ADA, ALAN = "ada@example.com", "alan@example.com"
NEWSLETTER = ids.list_id("Newsletter")


def typed(error: BaseException | None) -> BaseException | None:
    """The typed error, which Airflow's exception wraps below 3.3."""
    return error.__cause__ if error is not None and error.__cause__ is not None else error


# -- templates -----------------------------------------------------------------------------------------------


def test_native_rendering_keeps_text_values(crm: Sandbox, run_dag: RunDag) -> None:
    with DAG("native", schedule=None, render_template_as_native_obj=True, params={"phone": "+5531999999999"}) as dag:
        CrmUpsertContactOperator(
            task_id="task",
            contact_email="new@example.com",
            attributes={"phone": "{{ params.phone }}", "code": "007", "year": "2024", "score": "{{ 2 + 3 }}"},
        )
    assert run_dag(dag)["task"].states == ["success"]
    assert crm.store.contacts["new@example.com"].attributes == {
        "phone": "+5531999999999",
        "code": "007",
        "year": "2024",
        "score": 5,
    }


@pytest.mark.parametrize("conn_id", [None, "{{ params.get('x') }}"])
def test_connection_id_rendered_to_none_is_an_error(conn_id: Any, crm: Sandbox, run_task: RunTask) -> None:
    task = run_task(CrmDeleteContactOperator, contact_email=ADA, crm_conn_id=conn_id)
    assert task.states == ["failed"]
    error = typed(task.error)
    assert isinstance(error, (CrmConfigurationError, CrmInvalidValueError)) and "crm_conn_id" in error.message
    assert crm.journal() == []


def test_sensor_compares_numbers_with_their_text(crm: Sandbox, run_task: RunTask) -> None:
    crm.store.contacts[ADA].attributes["score"] = "5"
    task = run_task(CrmContactSensor, contact_email=f"Ada <{ADA}>;", attributes={"score": 5}, timeout=1)
    assert task.states == ["success"]


def test_sensor_logs_why_the_condition_does_not_hold(crm: Sandbox, run_task: RunTask) -> None:
    crm.store.contacts[ADA].attributes["score"] = [5]
    task = run_task(
        CrmContactSensor, contact_email=ADA, attributes={"score": "secret"}, timeout=0.1, poke_interval=0.05, retries=0
    )
    assert task.states == ["failed"]
    why = "attribute 'score' has another value (a list; wanted is a text)"
    assert f"Not yet: {why}." in " ".join(task.log.split())
    assert f"The last result was: not yet: {why}." in str(task.error)


# -- mapped tasks --------------------------------------------------------------------------------------------

MAPPED: dict[str, Callable[[dict[str, str] | None], Any]] = {
    "address": lambda policy: CrmUpsertContactOperator.partial(
        task_id="task", attributes={"name": "New"}, on_error=policy, retries=2
    ).expand(contact_email=[ADA, None]),
    "sensor": lambda policy: CrmListMembershipSensor.partial(
        task_id="task", list_id=NEWSLETTER, on_error=policy, retries=2, timeout=1
    ).expand(emails=[ADA, None]),
}


@pytest.mark.parametrize(("policy", "state"), [(None, "failed"), ({"INVALID_VALUE": "skip"}, "skipped")])
@pytest.mark.parametrize("case", MAPPED)
def test_invalid_value_of_a_mapped_task_follows_the_policy(
    case: str, policy: dict[str, str] | None, state: str, crm: Sandbox, run_dag: RunDag
) -> None:
    with DAG("mapped", schedule=None) as dag:
        MAPPED[case](policy)
    run = run_dag(dag)
    assert [run[f"task[{n}]"].states for n in (0, 1)] == [["success"], [state]]


def test_mapped_load_checks_its_values_at_run_time(crm: Sandbox, run_dag: RunDag) -> None:
    with DAG("mapped", schedule=None) as dag:
        CrmLoadContactsOperator.partial(task_id="task", source=[{"email": ADA}], retries=2).expand(
            list_ids=[[NEWSLETTER], ["Newsletter"]]
        )
    run = run_dag(dag)
    assert [run[f"task[{n}]"].states for n in (0, 1)] == [["success"], ["failed"]]


# -- files ---------------------------------------------------------------------------------------------------


def test_load_accepts_exported_address_formats(crm: Sandbox, run_task: RunTask) -> None:
    task = run_task(
        CrmLoadContactsOperator,
        source=str(DATA / "addresses.csv"),
        mapping={"email": "email", "attributes.n": "n"},
        suppression=["DOT@ex.co", "<nbsp@ex.co>"],
        max_rejects=4,
    )
    assert task.states == ["success"]
    expected = {
        "angle@ex.co", "named@ex.co", "mt@ex.co", "quoted@ex.co", "trailing@ex.co", "comma@ex.co", "zerowidth@ex.co",
        "o'hara@ex.co", "a+b@ex.co", "per%cent@ex.co", "same@EX.co",
    }  # fmt: skip
    assert {email for email in crm.store.contacts if email.lower().endswith("@ex.co")} == expected
    counts = {
        name: task.xcoms["return_value"][name] for name in ("rows", "created", "rejected", "suppressed", "skipped")
    }
    assert counts == {"rows": 18, "created": 11, "rejected": 4, "suppressed": 2, "skipped": 1}
    problems = sorted(problem.partition(";")[0] for problem in task.xcoms["return_value"]["problems"])
    assert problems == [
        "email: has more than one address",
        "email: is not a valid email address (it has more than one @)",
        "email: is not a valid email address (the part after the @ has no dot)",
    ]


def test_ambiguous_suppression_list_fails_the_load(crm: Sandbox, run_task: RunTask, tmp_path: Path) -> None:
    (tmp_path / "no.txt").write_text("a@ex.co\nsecret@ex.co # left in May\n")
    task = run_task(CrmLoadContactsOperator, source=[{"email": ADA}], suppression=str(tmp_path / "no.txt"))
    assert task.states == ["failed"]
    assert "no.txt, line 2 of the suppression list" in str(task.error)
    assert "secret" not in str(task.error)
    assert crm.journal() == []


# -- XComs ---------------------------------------------------------------------------------------------------


def test_do_xcom_push_false_pushes_no_xcom(crm: Sandbox, run_task: RunTask) -> None:
    wrong = run_task(CrmUpsertContactOperator, contact_email="ada", do_xcom_push=False)
    rejects = run_task(CrmLoadContactsOperator, source=[{"email": "ada"}], do_xcom_push=False)
    for task in (wrong, rejects):
        assert task.states == ["failed"]
        assert {"return_value", "crm_error"} & set(task.xcoms) == set()
