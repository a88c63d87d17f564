"""Mapped operators, and Airflow's argument ``email`` next to the contact's address."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from airflow.sdk import DAG, task

from crm_provider._compat import HAS_RETRY_POLICY
from crm_provider.errors import CrmInvalidInputError, CrmInvalidValueError
from crm_provider.operators.contacts import CrmUpsertContactOperator
from crm_provider.operators.lists import CrmAddContactToListsOperator
from crm_provider.sandbox import Sandbox, ids
from crm_provider.tasks import CrmRetryPolicy

# Airflow's own argument: deprecated, but still in the default_args of many DAGs
pytestmark = pytest.mark.filterwarnings("ignore:Setting email")

RunDag = Callable[..., Any]
Waits = dict[str, list[float]]

ALERTS = "alerts@example.org"
"""The address for Airflow's mails about failed tasks."""

ADA, ALAN, BARBARA = "ada@example.com", "alan@example.com", "barbara@example.com"
NAME = {"name": "New name"}
TRIAL_USERS_ID = ids.list_id("Trial users")


def dag_of(**default_args: Any) -> DAG:
    arguments = {"retries": 1, "retry_delay": timedelta(0), "email_on_failure": False, "email_on_retry": False}
    return DAG("mapped", schedule=None, default_args={**arguments, **default_args})


def renamed(crm: Sandbox) -> set[str]:
    """Contacts with the new name."""
    return {email for email, contact in crm.store.contacts.items() if contact.attributes.get("name") == NAME["name"]}


# -- mapping ------------------------------------------------------------------------------------------------


def test_mapped_tasks_keep_the_default_retry_policy(crm: Sandbox, run_dag: RunDag, waits: Waits) -> None:
    """The default policy fails the first index at once and retries the second. The third succeeds."""
    crm.add_fault(effect="error", error="INVALID_INPUT", email=ADA)
    crm.add_fault(effect="error", error="unavailable", email=ALAN, retry_after=20, count=1)
    with dag_of() as dag:
        CrmUpsertContactOperator.partial(task_id="task", attributes=NAME).expand(contact_email=[ADA, ALAN, BARBARA])
    run = run_dag(dag)
    assert {name: end.states for name, end in run.tasks.items()} == {
        "task[0]": ["failed"],
        "task[1]": ["up_for_retry", "success"],
        "task[2]": ["success"],
    }
    assert renamed(crm) == {ALAN, BARBARA}
    if HAS_RETRY_POLICY:
        assert isinstance(run["task[0]"].error, CrmInvalidInputError)
        assert waits == {"task[1]": [pytest.approx(20, abs=10)]}


@pytest.mark.skipif(not HAS_RETRY_POLICY, reason="retry policies came with Airflow 3.3")
@pytest.mark.parametrize("place", ["operator", "partial", "default_args, partial", "default_args of partial"])
def test_custom_retry_policy_replaces_the_default(place: str, crm: Sandbox, run_dag: RunDag) -> None:
    """A custom policy retries an error that the default policy fails."""
    crm.add_fault(effect="error", error="INVALID_INPUT")

    class Own(CrmRetryPolicy):
        def evaluate(self, *args: Any, **kwargs: Any) -> Any:
            from airflow.sdk.definitions.retry_policy import RetryDecision

            return RetryDecision.retry(timedelta(0), "its own")

    given = {"retry_policy": Own()}
    with dag_of(**(given if place.startswith("default_args") and "of" not in place else {})) as dag:
        if "partial" in place:
            own = {"partial": given, "default_args of partial": {"default_args": given}}.get(place, {})
            mapped = CrmUpsertContactOperator.partial(task_id="task", attributes=NAME, **own)
            mapped.expand(contact_email=[ADA])
        else:
            CrmUpsertContactOperator(
                task_id="task", contact_email=ADA, attributes=NAME, **(given if place == "operator" else {})
            )
    (end,) = run_dag(dag).tasks.values()
    assert end.states == ["up_for_retry", "failed"]


def test_bad_row_skips_only_its_index(crm: Sandbox, run_dag: RunDag) -> None:
    with dag_of() as dag:
        rows = [{"contact_email": ADA}, {"contact_email": "not-an-email"}, {"contact_email": ALAN, "attributes": NAME}]
        CrmUpsertContactOperator.partial(task_id="task", on_error={"CrmDataError": "skip"}).expand_kwargs(rows)
    run = run_dag(dag)
    assert run.states() == {"task[0]": "success", "task[1]": "skipped", "task[2]": "success"}
    assert run["task[1]"].xcoms["crm_error"]["type"] == "INVALID_VALUE"
    assert len(crm.journal()) == 4, "two updates, and no call for the bad row"


def test_mapped_rows_from_a_task(crm: Sandbox, run_dag: RunDag) -> None:
    with dag_of() as dag:

        @task
        def rows() -> list[dict[str, Any]]:
            return [{"contact_email": "new@example.org", "attributes": NAME}, {"contact_email": "new2@example.org"}]

        CrmUpsertContactOperator.partial(task_id="task").expand_kwargs(rows())
    assert run_dag(dag).states() == {"rows": "success", "task[0]": "success", "task[1]": "success"}
    assert renamed(crm) == {"new@example.org"}


def test_map_index_template_can_use_the_result(crm: Sandbox, run_dag: RunDag) -> None:
    template = "{{ crm_result.outcome if crm_result is defined else 'row ' ~ ti.map_index }}"
    with dag_of() as dag:
        CrmUpsertContactOperator.partial(
            task_id="task", on_error={"CrmDataError": "skip"}, map_index_template=template
        ).expand(contact_email=["new@example.org", ADA, "not-an-email"])
    run = run_dag(dag)
    named = {ti.map_index: ti.rendered_map_index for ti in run.dag_run.get_task_instances()}
    assert named == {0: "created", 1: "unchanged", 2: "row 2"}


# -- email: Airflow's own, and the contact's ----------------------------------------------------------------


def operator(**arguments: Any) -> Any:
    return CrmUpsertContactOperator(task_id="task", attributes=NAME, **arguments)


def partial(**arguments: Any) -> Any:
    return CrmUpsertContactOperator.partial(task_id="task", attributes=NAME, **arguments)


@pytest.mark.parametrize(
    ("make", "alerts"),
    [
        pytest.param(lambda: operator(contact_email=ADA, email=ALERTS), ALERTS, id="both"),
        pytest.param(
            lambda: CrmUpsertContactOperator.partial(task_id="task", email=ALERTS, contact_email=ADA).expand(
                attributes=[NAME]
            ),
            ALERTS,
            id="both in partial",
        ),
        pytest.param(
            lambda: partial(email=ALERTS).expand_kwargs([{"contact_email": ADA}]),
            ALERTS,
            id="email in partial, contact_email in mapped rows",
        ),
    ],
)
def test_contact_email_and_airflow_email_are_separate(
    make: Callable[[], Any], alerts: str | None, crm: Sandbox, run_dag: RunDag, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent_to: list[Any] = []
    note = CrmUpsertContactOperator.call
    monkeypatch.setattr(
        CrmUpsertContactOperator, "call", lambda self, context: (sent_to.append(self.email), note(self, context))[1]
    )
    with dag_of() as dag:
        make()
    (end,) = run_dag(dag).tasks.values()
    assert end.states == ["success"]
    assert renamed(crm) == {ADA}
    assert sent_to == [alerts]


def test_email_does_not_replace_contact_email() -> None:
    with dag_of(), pytest.raises(TypeError, match="missing keyword argument 'contact_email'"):
        operator(email=ADA)


@pytest.mark.parametrize("kind", [CrmUpsertContactOperator, CrmAddContactToListsOperator])
def test_email_in_default_args_is_accepted(kind: type) -> None:
    arguments = {"list_ids": [TRIAL_USERS_ID]} if kind is CrmAddContactToListsOperator else {"attributes": NAME}
    with dag_of(email=ALERTS), pytest.raises(TypeError, match="contact_email"):
        kind(task_id="task", **arguments)


def test_contact_email_rendered_to_empty_text_is_an_error(crm: Sandbox, run_dag: RunDag) -> None:
    with dag_of(email=ALERTS) as dag:
        operator(contact_email="{{ params.get('nobody', '') }}")
    end = run_dag(dag)["task"]
    assert end.states == ["failed"]
    cause = end.error if HAS_RETRY_POLICY else end.error.__cause__
    assert isinstance(cause, CrmInvalidValueError)
    assert crm.journal() == []
