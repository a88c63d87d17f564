"""Unknown operator arguments are refused by name, with the nearest known one."""

from __future__ import annotations

from typing import Any

import pytest

from crm_provider.tasks.arguments import check_names


class Base:
    def __init__(self, *, task_id: str, retries: int = 0, **kwargs: Any) -> None:
        """As Airflow's."""


class Plain(Base):
    """Without its own."""


class Loading(Base):
    def __init__(
        self, *, source: str, mode: str = "upsert", state_path: str | None = None, crm_conn_id: str = "", **kwargs: Any
    ) -> None:
        """As a load of files."""


class Extracting(Base):
    def __init__(self, *, target: str, fields: Any = None, column_types: str = "text", **kwargs: Any) -> None:
        """As an extract."""


class Querying(Base):
    def __init__(self, *, sql: str, **kwargs: Any) -> None:
        """As a load of a query."""


class Operator(Plain):
    def __init__(self, *, contact_email: str, rejects_path: str | None = None, **kwargs: Any) -> None:
        """As one of ours."""


@pytest.mark.parametrize("names", [[], ["contact_email", "task_id"], ["retries", "_airflow_from_mapped"]])
def test_arguments_of_any_base_are_known(names: list[str]) -> None:
    check_names(Operator, names)


@pytest.mark.parametrize(
    ("names", "reported"),
    [
        (["contact_emial"], "'contact_emial' (did you mean 'contact_email'?)"),
        (["retires", "task_id"], "'retires' (did you mean 'retries'?)"),
        (["reject_path", "zzz"], "'reject_path' (did you mean 'rejects_path'?), 'zzz'"),
        (["kwargs"], "'kwargs'"),
    ],
)
def test_unknown_argument_is_reported_with_the_nearest_name(names: list[str], reported: str) -> None:
    with pytest.raises(TypeError) as refused:
        check_names(Operator, names)
    assert str(refused.value) == f"Operator has no argument {reported}"


@pytest.mark.parametrize(
    ("operator", "name", "hint"),
    [
        (Operator, "mail", " (did you mean 'contact_email'?)"),
        (Operator, "rejects", " (did you mean 'rejects_path'?)"),
        (Loading, "file", " (did you mean 'source'?)"),
        (Loading, "path", " (did you mean 'source'?)"),
        (Loading, "emails", " (did you mean 'source'?)"),
        (Loading, "connection", " (did you mean 'crm_conn_id'?)"),
        (Loading, "upsert", " (did you mean 'mode'?)"),
        (Loading, "statepath", " (did you mean 'state_path'?)"),
        (Loading, "sql_query", " (the operators of crm_provider.transfers.sql_to_crm load the rows of a query)"),
        (Extracting, "columns", " (did you mean 'fields'?)"),
        (Querying, "sql_query", " (did you mean 'sql'?)"),
        (Querying, "table", " (did you mean 'sql'?)"),
        (Querying, "retry", " (did you mean 'retries'?)"),
        (Querying, "zzz", ""),
    ],
)
def test_hint_names_the_argument_that_the_author_means(operator: type, name: str, hint: str) -> None:
    with pytest.raises(TypeError) as refused:
        check_names(operator, [name])
    assert str(refused.value) == f"{operator.__name__} has no argument {name!r}{hint}"
