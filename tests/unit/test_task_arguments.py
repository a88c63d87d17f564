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
