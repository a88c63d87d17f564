"""Values that Airflow must neither store nor show."""

from __future__ import annotations

import pathlib
from typing import Any

import pyarrow
import pytest
from airflow.sdk import DAG, ObjectStoragePath, task

from crm_provider.tasks.templates import Hidden, comes_later, hide_list, hide_rows, unmask

ROWS = [{"email": "ada@example.com"}, {"email": "grace@example.com"}]


@pytest.mark.parametrize(
    ("given", "text"),
    [
        (ROWS, "2 rows"),
        (tuple(ROWS), "2 rows"),
        ([ROWS, ROWS, []], "3 pages of rows"),
        (["a.csv", {"email": "ada@example.com"}], "2 rows"),
        (str(ROWS), "text of rows"),
        ("[('ada@example.com', 's3://x/y.csv')]\n", "text of rows"),
        ("email\nada@example.com\n", "text of rows"),
        (pyarrow.Table.from_pylist(ROWS), "2 rows"),
        (pyarrow.Table.from_pylist(ROWS).to_reader(), "rows"),
    ],
)
def test_rows_are_hidden(given: Any, text: str) -> None:
    hidden = hide_rows(given)
    assert isinstance(hidden, Hidden)
    assert str(hidden) == repr(hidden) == text
    assert unmask(hidden) is given
    assert hide_rows(hidden) is hidden


@pytest.mark.parametrize(
    "given",
    [
        "in/*.csv",
        "in/[ab].csv",
        "{{ rows }}",
        "/data/a.csv\n",
        ["a.csv", "b.csv"],
        [ObjectStoragePath("file:///a")],
        [],
        None,
    ],
)
def test_paths_are_shown(given: Any) -> None:
    assert hide_rows(given) == given
    assert unmask(given) is given


@pytest.mark.parametrize(
    ("given", "text"), [(pathlib.Path("a.csv"), "a.csv"), ([pathlib.Path("a.csv"), "b.csv"], ["a.csv", "b.csv"])]
)
def test_local_paths_are_shown_as_text(given: Any, text: object) -> None:
    """Airflow 3.1 would call ``resolve`` on each, and fail for a file that does not exist yet."""
    assert hide_rows(given) == text


def test_every_list_of_addresses_is_hidden() -> None:
    nouns = ("address", "addresses")
    assert str(hide_list(["ada@example.com"], *nouns)) == "1 address"
    assert str(hide_list({"ada@example.com", "bob@example.com"}, *nouns)) == "2 addresses"
    assert str(hide_list("['ada@example.com']", *nouns)) == "text of addresses"
    assert hide_list("no.txt", *nouns) == "no.txt"


@pytest.mark.parametrize(
    ("given", "later"),
    [
        ("in.csv", False),
        ("{{ ds }}.csv", True),
        ("{% if x %}a{% endif %}", True),
        ({"email": {"column": "{{ params.column }}"}}, True),
        ({"email": {"column": "mail"}}, False),
        (["a", "{{ b }}"], True),
        (pathlib.Path("{{ ds }}.csv"), True),
        (ObjectStoragePath("file:///{{ ds }}.csv"), True),
        (ObjectStoragePath("file:///a.csv"), False),
        (hide_rows(ROWS), False),
        (hide_rows([{"email": "{{ params.email }}"}]), True),
        (7, False),
        (None, False),
    ],
)
def test_values_known_only_at_run_time(given: Any, later: bool) -> None:
    assert comes_later(given) is later


def test_result_of_another_task_is_not_wrapped() -> None:
    with DAG("hidden", schedule=None):

        @task
        def extract() -> list[dict[str, str]]:
            return ROWS

        found = extract()
    assert comes_later(found)
    assert hide_rows(found) is found
    parts = [{"email": found}]
    assert hide_rows(parts) is parts, "Airflow finds results of other tasks only in plain lists"
