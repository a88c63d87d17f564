"""Arguments of operators and sensors that are misspelt: reported when the DAG is parsed, without their values."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from airflow.sdk import DAG

from crm_provider.operators.contacts import CrmUpsertContactOperator
from crm_provider.operators.deals import CrmMoveDealStageOperator
from crm_provider.operators.load import CrmLoadContactsOperator
from crm_provider.sensors.contacts import CrmContactSensor
from crm_provider.sensors.lists import CrmListSensor
from crm_provider.transfers.sql_to_crm import SqlToCrmContactsOperator

VALUE = "ada@example.com"


@pytest.fixture(autouse=True)
def dag() -> Iterator[DAG]:
    with DAG("misspelt") as dag:
        yield dag


@pytest.mark.parametrize(
    ("operator", "given", "wrong", "meant"),
    [
        (CrmUpsertContactOperator, {}, "contact_emial", "contact_email"),
        (CrmMoveDealStageOperator, {"deal_id": "d", "stage_id": "s"}, "on_eror", "on_error"),
        (CrmLoadContactsOperator, {"source": "x.csv"}, "reject_path", "rejects_path"),
        (SqlToCrmContactsOperator, {"sql": "SELECT 1", "sql_conn_id": "db"}, "mappping", "mapping"),
        (CrmContactSensor, {}, "contact_emial", "contact_email"),
        (CrmListSensor, {"list_id": "x"}, "poke_intervall", "poke_interval"),
    ],
)
def test_the_nearest_argument_is_named_and_no_value(operator: Any, given: Any, wrong: str, meant: str) -> None:
    with pytest.raises(TypeError) as refused:
        operator(task_id="task", **given, **{wrong: VALUE})
    assert str(refused.value) == f"{operator.__name__} has no argument {wrong!r} (did you mean {meant!r}?)"


@pytest.mark.parametrize("gone", ["compare", "changed_only", "check_timeout"])
def test_an_argument_that_is_gone_is_an_unknown_one(gone: str) -> None:
    with pytest.raises(TypeError, match=f"CrmLoadContactsOperator has no argument '{gone}'"):
        CrmLoadContactsOperator(task_id="task", source="x.csv", **{gone: VALUE})  # type: ignore[arg-type]


def test_so_it_is_where_tasks_are_mapped() -> None:
    with pytest.raises(TypeError, match=r"'attribute' \(did you mean 'attributes'\?\)") as refused:
        CrmUpsertContactOperator.partial(task_id="task", attribute={"name": VALUE})
    assert VALUE not in str(refused.value)


def test_what_an_operator_of_your_own_takes_for_itself_is_its_own(dag: DAG) -> None:
    class OwnOperator(CrmUpsertContactOperator):
        def __init__(self, **kwargs: Any) -> None:
            self.attribute = kwargs.pop("attribute")
            super().__init__(**kwargs)

    OwnOperator(task_id="task", contact_email=VALUE, attribute=1, retries=1)
    assert dag.task_ids == ["task"]


def test_an_operator_of_your_own_without_an_init_has_the_arguments_of_its_base() -> None:
    class OwnOperator(CrmUpsertContactOperator):
        """With the arguments of its base."""

    with pytest.raises(TypeError, match=r"OwnOperator has no argument 'contact_emial' \(did you mean 'contact_email'"):
        OwnOperator(task_id="task", contact_emial=VALUE)  # type: ignore[call-arg]


def test_what_an_operator_of_your_own_hands_on_is_checked() -> None:
    class OwnOperator(CrmUpsertContactOperator):
        def __init__(self, *, shop: str, **kwargs: Any) -> None:
            super().__init__(contact_email=f"{shop}@example.com", **kwargs)

    with pytest.raises(TypeError, match=r"OwnOperator has no argument 'attribute' \(did you mean 'attributes'\?\)"):
        OwnOperator(task_id="task", shop="north", attribute=1)
