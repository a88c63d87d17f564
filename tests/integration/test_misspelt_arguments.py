"""Misspelt arguments of operators and sensors are reported at DAG parse, without their values."""

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
def test_misspelt_argument_is_reported_with_the_nearest_name(operator: Any, given: Any, wrong: str, meant: str) -> None:
    with pytest.raises(TypeError) as refused:
        operator(task_id="task", **given, **{wrong: VALUE})
    assert str(refused.value) == f"{operator.__name__} has no argument {wrong!r} (did you mean {meant!r}?)"


@pytest.mark.parametrize("gone", ["compare", "changed_only", "check_timeout"])
def test_removed_argument_is_reported_as_unknown(gone: str) -> None:
    with pytest.raises(TypeError, match=f"CrmLoadContactsOperator has no argument '{gone}'"):
        CrmLoadContactsOperator(task_id="task", source="x.csv", **{gone: VALUE})  # type: ignore[arg-type]


def test_misspelt_argument_of_a_mapped_task_is_reported() -> None:
    with pytest.raises(TypeError, match=r"'attribute' \(did you mean 'attributes'\?\)") as refused:
        CrmUpsertContactOperator.partial(task_id="task", attribute={"name": VALUE})
    assert VALUE not in str(refused.value)


def test_subclass_may_have_its_own_arguments(dag: DAG) -> None:
    class OwnOperator(CrmUpsertContactOperator):
        def __init__(self, **kwargs: Any) -> None:
            self.attribute = kwargs.pop("attribute")
            super().__init__(**kwargs)

    OwnOperator(task_id="task", contact_email=VALUE, attribute=1, retries=1)
    assert dag.task_ids == ["task"]


def test_subclass_without_init_has_the_arguments_of_its_base() -> None:
    class OwnOperator(CrmUpsertContactOperator):
        """An operator with the arguments of its base class."""

    with pytest.raises(TypeError, match=r"OwnOperator has no argument 'contact_emial' \(did you mean 'contact_email'"):
        OwnOperator(task_id="task", contact_emial=VALUE)  # type: ignore[call-arg]


def test_arguments_that_a_subclass_passes_on_are_checked() -> None:
    class OwnOperator(CrmUpsertContactOperator):
        def __init__(self, *, shop: str, **kwargs: Any) -> None:
            super().__init__(contact_email=f"{shop}@example.com", **kwargs)

    with pytest.raises(TypeError, match=r"OwnOperator has no argument 'attribute' \(did you mean 'attributes'\?\)"):
        OwnOperator(task_id="task", shop="north", attribute=1)
