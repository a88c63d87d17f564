"""Template rendering of fields, for each kind of value, natively and not."""

from __future__ import annotations

import json
from datetime import date
from typing import Any

import pytest
from airflow.sdk import DAG, task

from crm_provider.errors import CrmInvalidValueError
from crm_provider.operators.contacts import CrmUpsertContactOperator
from crm_provider.operators.load import CrmLoadContactsOperator
from crm_provider.sensors.lists import CrmListSensor
from crm_provider.tasks.templates import MissingValue, check_rendered

CONTEXT: dict[str, Any] = {
    "year": 2024,
    "year_text": "2024",
    "phone": "+5531999999999",
    "flag": True,
    "word": "None",
    "nothing": None,
    "names": ["a", "b"],
    "person": {"name": "Ada"},
    "person_text": "{'name': 'Ada'}",
    "names_text": "['a', 'b']",
    "day": date(2024, 1, 31),
}

NATIVE, TEXT = True, False


def rendered(value: Any, *, native: bool, **dag_arguments: Any) -> Any:
    """The field of an operator after rendering."""
    with DAG("templates", schedule=None, render_template_as_native_obj=native, **dag_arguments):
        operator = CrmUpsertContactOperator(task_id="task", contact_email="a@ex.co", attributes=value)
    operator.render_template_fields(dict(CONTEXT))
    return operator.attributes


@pytest.mark.parametrize(
    "literal",
    [
        "2024",
        "007",
        "+5531999999999",
        "1_000",
        "1e5",
        "True",
        "None",
        "[1, 2]",
        "{'a': 1}",
        "a\n",
        "}} %}",
        " 5 ",
        "'a'",
    ],
)
@pytest.mark.parametrize("native", [NATIVE, TEXT])
def test_text_without_a_marker_is_unchanged(literal: str, native: bool) -> None:
    assert rendered(literal, native=native) == literal
    nested = {"phone": literal, "more": [literal, (literal,)]}
    assert rendered(nested, native=native) == nested
    assert type(rendered(literal, native=native)) is str


@pytest.mark.parametrize(
    ("template", "as_native", "as_text"),
    [
        ("{{ phone }}", "+5531999999999", "+5531999999999"),
        ("{{ year_text }}", "2024", "2024"),
        ("{{ year }}", 2024, "2024"),
        ("{{ year }}{{ year }}", "20242024", "20242024"),
        ("+{{ year }}", "+2024", "+2024"),
        ("-{{ year }}", "-2024", "-2024"),
        ("{% if flag %}{{ year_text }}{% endif %}", "2024", "2024"),
        ("{% if not flag %}x{% endif %}", "", ""),
        ("{{ flag }}", True, "True"),
        ("{{ 'True' }}", "True", "True"),
        ("{{ word }}", "None", "None"),
        ("{{ names }}", ["a", "b"], "['a', 'b']"),
        ("{{ names_text }}", ["a", "b"], "['a', 'b']"),
        ("{{ person }}", {"name": "Ada"}, "{'name': 'Ada'}"),
        ("{{ person_text }}", {"name": "Ada"}, "{'name': 'Ada'}"),
        ("{{ day }}", date(2024, 1, 31), "2024-01-31"),
        ("{{ 1.5 }}", 1.5, "1.5"),
        ("{{ '1.50' }}", "1.50", "1.50"),
        ("{# a note #}2024", "2024", "2024"),
        ("Ada {{ word }}", "Ada None", "Ada None"),
        ("{{ '1234,50' }}", "1234,50", "1234,50"),
        ("{{ (1, 'a') }}", (1, "a"), "(1, 'a')"),
        ("{{ '...' }}", "...", "..."),
        ("{{ '{1}' }}", "{1}", "{1}"),
        ("""{{ '"Ada"' }}""", '"Ada"', '"Ada"'),
        ("""{{ "'a' 'b'" }}!""", "'a' 'b'!", "'a' 'b'!"),
        ("""{{ '"Ada"' }}\n""", '"Ada"', '"Ada"'),
        ("{{ 5 }}\n", 5, "5"),
    ],
)
def test_rendered_template(template: str, as_native: Any, as_text: str) -> None:
    for native, expected in ((NATIVE, as_native), (TEXT, as_text)):
        for found in (rendered(template, native=native), rendered({"a": [template]}, native=native)["a"][0]):
            assert (type(found), found) == (type(expected), expected)


def test_markers_are_those_of_the_dag() -> None:
    own = {"jinja_environment_kwargs": {"variable_start_string": "<<", "variable_end_string": ">>"}}
    assert rendered("<< year_text >>", native=NATIVE, **own) == "2024"
    assert rendered("{{ year }}", native=NATIVE, **own) == "{{ year }}"


def test_finalize_function_of_the_dag_is_kept() -> None:
    own = {"jinja_environment_kwargs": {"finalize": lambda value: f"<{value}>"}}
    assert rendered("{{ year }}", native=TEXT, **own) == "<2024>"


# -- missing values ------------------------------------------------------------------------------------------


def refusal(value: Any, *, native: bool) -> str | None:
    """The error about a field after rendering, or None."""
    with DAG("templates", schedule=None, render_template_as_native_obj=native):
        operator = CrmUpsertContactOperator(task_id="task", contact_email="a@ex.co", attributes=value)
    operator.render_template_fields(dict(CONTEXT))
    try:
        check_rendered(operator)
    except CrmInvalidValueError as wrong:
        return wrong.message
    return None


@pytest.mark.parametrize("native", [NATIVE, TEXT])
def test_field_without_a_value_is_named(native: bool) -> None:
    assert str(refusal("{{ nothing }}", native=native)).startswith("attributes was rendered to None: the variable, ")


@pytest.mark.parametrize("value", [float("nan"), float("-inf")])
@pytest.mark.parametrize("native", [NATIVE, TEXT])
def test_number_without_a_json_form_is_named_and_can_be_stored(value: float, native: bool) -> None:
    given = {"ok": 1.5, "scores": [1, (value,)]}
    assert refusal(given, native=native) == (
        "attributes['scores'][1][0] is not a finite number; correct it, or leave it empty"
    )
    stored = rendered(given, native=native)
    assert json.dumps(stored, allow_nan=False) == f'{{"ok": 1.5, "scores": [1, ["{value}"]]}}'


def test_text_none_is_never_a_missing_value() -> None:
    nested = {"name": "{{ nothing }}", "tags": ["a", "{{ nothing }}"]}
    assert str(refusal(nested, native=TEXT)).startswith("attributes['name'] was rendered to None")
    assert str(refusal({"tags": ["a", "{{ nothing }}"]}, native=TEXT)).startswith("attributes['tags'][1] was rendered")
    assert refusal(nested, native=NATIVE) is None, "JSON has null"
    assert rendered(nested, native=NATIVE) == {"name": None, "tags": ["a", None]}


@pytest.mark.parametrize("native", [NATIVE, TEXT])
@pytest.mark.parametrize(
    "value", ["None", {"name": "None"}, "{{ word }}", {"name": "{{ word }}"}, {"name": None}, None]
)
def test_value_called_none_is_not_missing(value: Any, native: bool) -> None:
    assert refusal(value, native=native) is None


def test_result_of_a_task_that_returned_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    with DAG("templates", schedule=None):

        @task
        def before() -> None:
            """Return nothing."""

        output = before()
        operator = CrmLoadContactsOperator(task_id="task", source="x.csv", suppression=output)
    monkeypatch.setattr(type(output), "resolve", lambda self, context: None)
    operator.render_template_fields({})
    with pytest.raises(CrmInvalidValueError, match=r"^INVALID_VALUE: suppression was rendered to None"):
        check_rendered(operator)


def test_sensors_render_templates_alike() -> None:
    with DAG("templates", schedule=None, render_template_as_native_obj=True):
        literal = CrmListSensor(task_id="literal", list_name="2024")
        template = CrmListSensor(task_id="template", list_name="{{ nothing }}", crm_conn_id="{{ year_text }}")
    for sensor in (literal, template):
        sensor.render_template_fields(dict(CONTEXT))
    assert (literal.list_name, template.crm_conn_id) == ("2024", "2024")
    assert isinstance(template.list_name, MissingValue)
