"""Invalid arguments (misspelt names, unknown choices, switches given as text) are reported at DAG parse."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest
from airflow.sdk import DAG

from crm_provider.operators.contacts import CrmUpsertContactOperator
from crm_provider.operators.deals import CrmMoveDealStageOperator
from crm_provider.operators.extract import CrmExtractListsOperator
from crm_provider.operators.load import CrmDeleteContactsOperator, CrmLoadContactsOperator, CrmRetryRejectsOperator
from crm_provider.sensors.contacts import CrmContactSensor
from crm_provider.sensors.deals import CrmDealStageSensor
from crm_provider.sensors.lists import CrmListMembershipSensor, CrmListSensor
from crm_provider.transfers.crm_to_sql import CrmToSqlOperator
from crm_provider.transfers.sql_to_crm import SqlToCrmContactsOperator
from crm_provider.triggers.watch import CrmListJoinedTrigger

VALUE = "ada@example.com"
LIST_ID = "00000000-0000-4000-8000-000000000001"


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


@pytest.mark.parametrize(
    ("operator", "given", "switch"),
    [
        (CrmLoadContactsOperator, {"source": [], "list_ids": LIST_ID}, "resubscribe"),
        (CrmLoadContactsOperator, {"source": []}, "dry_run"),
        (CrmLoadContactsOperator, {"source": [], "state_path": "state"}, "full_refresh"),
        (CrmLoadContactsOperator, {"source": []}, "lowercase_email"),
        (CrmDeleteContactsOperator, {"source": [], "max_deletes": 1, "rejects_path": "r.jsonl"}, "every_spelling"),
        (CrmExtractListsOperator, {"target": "lists.csv"}, "formula_guard"),
        (CrmToSqlOperator, {"listing": "lists", "sql_conn_id": "db", "table": "t", "mode": "replace"}, "create_table"),
        (CrmListSensor, {"list_name": "Trial"}, "deferrable"),
        (CrmListSensor, {"list_name": "Trial"}, "share_poll"),
    ],
)
def test_switch_that_is_not_a_boolean_is_refused(operator: Any, given: Any, switch: str) -> None:
    operator(task_id="right", **given, **{switch: False})
    texts = {"false": "of type str", "{{ params.on }}": "of type str; templates are not", None: "None"}
    for number, (value, kind) in enumerate(texts.items()):
        named = f"{operator.__name__} 'wrong_{number}': {switch} must be True or False but is {kind}"
        with pytest.raises(ValueError, match=named):
            operator(task_id=f"wrong_{number}", **given, **{switch: value})


def test_switch_in_default_args_or_a_mapped_task_is_checked() -> None:
    with (
        DAG("switches", default_args={"dry_run": "{{ params.dry_run }}"}),
        pytest.raises(ValueError, match="dry_run must be True or False"),
    ):
        CrmLoadContactsOperator(task_id="task", source=[])
    with pytest.raises(ValueError, match=r"^CrmLoadContactsOperator 'mapped': resubscribe must be True or False"):
        CrmLoadContactsOperator.partial(task_id="mapped", resubscribe="no")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("operator", "given", "wrong"),
    [
        (CrmUpsertContactOperator, {"contact_email": VALUE, "mode": "upsrt"}, "mode='upsrt' is unknown; did you mean"),
        (CrmMoveDealStageOperator, {"deal_id": "d", "stage_id": "s", "on_error": {"X": "skip"}}, "on_error: unknown"),
        (CrmLoadContactsOperator, {"source": "a.csv", "source_format": "cvs"}, "source_format: 'cvs' is unknown"),
        (CrmRetryRejectsOperator, {"rejects": "r.jsonl", "only": "some"}, "only='some' is unknown; known: retryable"),
        (CrmRetryRejectsOperator, {"rejects": "r.jsonl", "kind": "deal"}, "kind='deal' is unknown; did you mean"),
        (CrmRetryRejectsOperator, {"rejects": "r.jsonl", "suppression": ...}, "suppression is ..., a placeholder"),
        (CrmExtractListsOperator, {"target": "a.csv", "fields": ["id", "id"]}, "fields names 'id' twice"),
        (SqlToCrmContactsOperator, {"sql": "s", "sql_conn_id": "db", "fetch_size": 0}, "fetch_size is 0"),
        (
            CrmToSqlOperator,
            {"listing": "people", "sql_conn_id": "db", "table": "t", "mode": "append"},
            "listing='people' is unknown",
        ),
        (CrmListSensor, {"list_name": "a", "list_id": LIST_ID}, "give either list_id or list_name"),
        (CrmListMembershipSensor, {"emails": VALUE, "list_id": LIST_ID, "match": "each"}, "match='each' is unknown"),
        (CrmDealStageSensor, {"deal_id": "d", "stage_ids": "s", "until": "out"}, "until='out' is unknown"),
    ],
)
def test_invalid_argument_is_reported_with_operator_and_task(operator: Any, given: Any, wrong: str) -> None:
    with pytest.raises(ValueError, match=re.escape(f"{operator.__name__} 'task': {wrong}")) as refused:
        operator(task_id="task", **given)
    assert VALUE not in str(refused.value)


def test_invalid_argument_of_a_mapped_task_is_reported_with_operator_and_task() -> None:
    with pytest.raises(ValueError, match=r"^CrmListSensor 'mapped': on_error: unknown error 'X'"):
        CrmListSensor.partial(task_id="mapped", on_error={"X": "skip"})  # type: ignore[dict-item]
    with pytest.raises(ValueError, match=r"^CrmRetryRejectsOperator 'mapped': kind='deal' is unknown"):
        CrmRetryRejectsOperator.partial(task_id="mapped", kind="deal")  # type: ignore[arg-type]


def test_include_existing_must_be_a_boolean() -> None:
    with pytest.raises(ValueError, match="include_existing must be True or False"):
        CrmListJoinedTrigger(
            list_id=LIST_ID,
            include_existing="false",  # type: ignore[arg-type]
        )


@pytest.mark.parametrize("value", ["10", "{{ params.n }}", None, 1.5, True])
@pytest.mark.parametrize(
    ("operator", "given", "number"),
    [
        (CrmLoadContactsOperator, {"source": []}, "errors_in_a_row"),
        (CrmDeleteContactsOperator, {"source": [], "rejects_path": "r.jsonl"}, "max_deletes"),
        (SqlToCrmContactsOperator, {"sql": "SELECT 1", "sql_conn_id": "db"}, "fetch_size"),
        (CrmListSensor, {"list_name": "Trial"}, "max_errors_in_a_row"),
    ],
)
def test_a_number_of_an_operator_is_no_text(operator: Any, given: Any, number: str, value: Any) -> None:
    with pytest.raises(ValueError, match=rf"{number} must be a whole number, at least [01], but is "):
        operator(task_id="task", **given, **{number: value})


def test_a_number_of_rejects_is_not_rendered() -> None:
    with pytest.raises(ValueError, match=r"max_rejects='\{\{ params.n \}\}' must be a number of rows"):
        CrmLoadContactsOperator(task_id="task", source=[], max_rejects="{{ params.n }}")


@pytest.mark.parametrize(
    ("number", "wrong"), [("max_per_event", "must be a whole number"), ("poke_interval", "is '60'; give at least")]
)
def test_a_number_of_a_watch_is_no_text(number: str, wrong: str) -> None:
    with pytest.raises(ValueError, match=f"{number} {wrong}"):
        CrmListJoinedTrigger(list_id=LIST_ID, **{number: "60"})  # type: ignore[arg-type]
